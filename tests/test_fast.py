"""fast.py computes what Keras does, by other kernels."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_gan
from keras import layers

import dcgan256
import fast

PLAIN = keras.Sequential.call


def passes(call, network, x):
    """Output, gradients and moving averages of one pass in training, then undone."""
    before, x = [variable.numpy() for variable in network.variables], tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = call(network, x, training=True)
        loss = tf.reduce_sum(tf.sin(y))
    gradients = tape.gradient(loss, [x, *network.trainable_variables])
    after = [variable.numpy() for variable in network.non_trainable_variables]
    for variable, value in zip(network.variables, before):
        variable.assign(value)
    return [np.asarray(value) for value in (y, *gradients, *after)]


def test_a_pass_equals_plain_keras():
    """Without dropout and noise, which are random; and accelerate() is what does it."""
    gan, rng = make_gan(dcgan256), np.random.default_rng(0)
    fast.accelerate(gan)
    for network in (gan.generator, gan.discriminator):
        assert network.call.func is fast.call
        for layer in network.layers:
            layer.rate = layer.stddev = 0
        x = rng.normal(size=(4, *network.input_shape[1:])).astype(np.float32)
        both = (passes(call, network, x) for call in (fast.call, PLAIN))
        for ours, keras_own in zip(*both, strict=True):
            assert ours.dtype == keras_own.dtype and ours.shape == keras_own.shape
            difference = np.linalg.norm(ours - keras_own)  # biases: nothing but noise
            assert difference < 0.01 * np.linalg.norm(ours) + 0.02 * ours.size**0.5


@pytest.mark.parametrize("shape", [(1, 40), (6, 40), (6, 9, 9, 8)])
def test_batch_normalization_against_float64(shape):
    """The fused kernel is as near to the layer in float64 as float32 can be."""
    x, results = np.random.default_rng(0).normal(3, 2, shape), []
    for dtype, call in (("float64", PLAIN), ("float32", fast.call)):
        layer = layers.BatchNormalization(momentum=0.7, epsilon=1e-5, dtype=dtype)
        network = keras.Sequential([keras.Input(shape[1:], dtype=dtype), layer])
        results.append(passes(call, network, x.astype(dtype)))
    for exact, fused in zip(*results, strict=True):
        np.testing.assert_allclose(fused, exact, 0, 2e-5 * max(1, np.abs(exact).max()))


def test_dropout_and_noise():
    x, results = np.ones((8, 64, 64, 8), np.float32), []
    for layer in (layers.Dropout(0.25, seed=1), layers.GaussianNoise(0.2, seed=1)):
        network = keras.Sequential([keras.Input(x.shape[1:]), layer])
        first, second = (fast.call(network, x, training=True).numpy() for _ in range(2))
        assert not np.array_equal(first, second)
        assert np.array_equal(fast.call(network, x, training=False), x)
        results.append(first)
    kept, noise = results[0] != 0, np.float64(results[1] - x) / 0.2
    np.testing.assert_allclose(results[0], kept / 0.75, 1e-6)
    together = kept[..., 1:] & kept[..., :-1]
    assert together.mean() == pytest.approx(0.75**2, abs=0.006), "independent"
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert np.mean(noise**power) == pytest.approx(moment, abs=0.1)
    assert abs(np.corrcoef(*np.reshape(noise, (2, -1)))[0, 1]) < 0.02, "of a pair"
