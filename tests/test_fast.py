"""fast.py computes what Keras does, by other kernels."""

import contextlib
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_optimizers, make_gan
from keras import layers

import fast


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


def assert_same_pass(network, x, tolerance):
    both = (passes(call, network, x) for call in (fast.call, type(network).call))
    for ours, keras_own in zip(*both, strict=True):
        assert ours.dtype == keras_own.dtype and ours.shape == keras_own.shape
        np.testing.assert_allclose(ours, keras_own, 0, tolerance * (30 + np.ptp(ours)))


@pytest.mark.slow
def test_a_pass_and_three_steps_equal_plain_keras(script):
    """Without dropout and noise; and afterwards everything is undone."""

    def weights(gan):
        both = gan.generator.get_weights() + gan.discriminator.get_weights()
        return np.concatenate([weight.ravel() for weight in both])

    found = []
    for accelerate in (contextlib.nullcontext, fast.accelerate):
        keras.utils.set_random_seed(0)
        gan = make_gan(script)
        for layer in gan.generator.layers + gan.discriminator.layers:
            layer.rate = layer.stddev = 0  # of dropout and noise
        build_optimizers(gan)
        start, rng = weights(gan), np.random.default_rng(0)
        shape = (3, 4, *gan.discriminator.input_shape[1:])
        with accelerate(gan):
            step = tf.function(gan.train_step)
            for images in rng.integers(0, 256, shape, dtype=np.uint8):
                logs = step(tf.constant(images))
        found.append(([float(value) for value in logs.values()], weights(gan)))
        assert "call" not in vars(gan.generator)
        assert "update_step" not in vars(gan.d_optimizer)
    (losses, keras_own), (fast_losses, ours) = found
    np.testing.assert_allclose(fast_losses, losses, 2e-3)
    moved = np.linalg.norm(keras_own - start)  # biases before a normalization: by noise
    assert np.linalg.norm(ours - keras_own) < 0.1 * moved
    for network in (gan.generator, gan.discriminator):
        x = rng.normal(size=(4, *network.input_shape[1:])).astype(np.float32)
        assert_same_pass(network, x, 1e-3)


def network_of(shape, *layers, dtype="float64"):
    """The layers as a network with weights that are all different."""
    network = keras.Sequential([keras.Input(shape, dtype=dtype), *layers])
    for weight in network.trainable_weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    return network


def test_other_layers_than_those_of_the_scripts_are_exact_too(monkeypatch):
    """In float64, where rounding hides nothing: two pairs are joined, most are left."""
    joined = mock.Mock(wraps=fast.upsampled_convolution)
    monkeypatch.setattr(fast, "upsampled_convolution", joined)
    keras.config.set_dtype_policy("float64")
    up, convolution = layers.UpSampling2D, layers.Conv2D
    stack = [
        layers.Conv2DTranspose(6, (4, 3), activation="relu", strides=(2, 3)),
        up(), convolution(4, 3, padding="same", activation="tanh", use_bias=False),
        up(), convolution(4, 3, padding="same"),
        up(interpolation="bilinear"), convolution(4, 3, padding="same"),
        up((3, 2)), convolution(4, 3, padding="same", dilation_rate=2),
        up(), convolution(4, 3), up(), convolution(4, 3, 2, padding="same"),
        up(), convolution(4, 4, padding="same"),
        up(), convolution(4, 3, padding="same", groups=2),
        layers.BatchNormalization(), layers.GaussianNoise(0), layers.Dropout(0),
    ]  # fmt: skip
    x = np.random.default_rng(0).normal(size=(2, 1, 1, 7))
    assert_same_pass(network_of((1, 1, 7), *stack), x, 1e-14)
    assert joined.call_count == 2


@pytest.mark.parametrize("shape", [(1, 40), (6, 40), (1, 9, 9, 8), (6, 9, 9, 8)])
def test_batch_normalization_against_float64(shape):
    """The fused kernel is as near to the layer in float64 as float32 can be."""
    x, results = np.random.default_rng(0).normal(3, 2, shape), []
    for dtype, call in (("float64", keras.Sequential.call), ("float32", fast.call)):
        layer = layers.BatchNormalization(momentum=0.7, epsilon=1e-5, dtype=dtype)
        network = network_of(shape[1:], layer, dtype=dtype)
        results.append(passes(call, network, x.astype(dtype)))
    for exact, fused in zip(*results, strict=True):
        np.testing.assert_allclose(fused, exact, 0, 2e-5 * max(1, np.abs(exact).max()))


def drawn(layer, x):
    """Two passes in training; the state moves as Keras moves it, and decides."""
    network, state = network_of(x.shape[1:], layer), layer.seed_generator.state
    start = state.numpy()
    first = fast.call(network, x, training=True).numpy()
    after = state.numpy()
    second = fast.call(network, x, training=True).numpy()
    state.assign(start)
    assert np.array_equal(fast.call(network, x, training=True), first)
    state.assign(start)
    layer(x, training=True)
    assert np.array_equal(state, after)
    assert np.array_equal(fast.call(network, x, training=False), x)
    return first, second


def test_noise_is_normal_and_fresh():
    x = np.full((16, 64, 64, 3), 0.5, np.float32)
    layer = layers.GaussianNoise(0.2, seed=1, dtype="float32")
    first, second = ((noisy - x) / 0.2 for noisy in drawn(layer, x))
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        bound = 5 * np.sqrt(variance / first.size)  # of a standard normal
        assert np.mean(np.float64(first) ** power) == pytest.approx(moment, abs=bound)
    halves = np.reshape(first, (2, -1))  # the two of each pair
    for a, b in (halves, (first.ravel(), second.ravel())):
        for power in (1, 2):
            correlation = np.corrcoef(a**power, b**power)[0, 1]
            assert correlation == pytest.approx(0, abs=5 / np.sqrt(a.size))
    odd = network_of((3, 5), layers.GaussianNoise(0.2))
    assert fast.call(odd, np.zeros((2, 3, 5)), training=True).shape == (2, 3, 5)


def test_dropout_drops_the_right_share():
    x = np.random.default_rng(0).uniform(1, 2, (8, 64, 64, 8)).astype(np.float32)
    first, second = drawn(layers.Dropout(0.25, seed=1, dtype="float32"), x)
    kept = first != 0
    np.testing.assert_allclose(first, np.where(kept, x / 0.75, 0), 1e-6)
    assert kept.mean((1, 2, 3)) == pytest.approx(0.75, abs=0.015)
    assert kept.mean((0, 1, 2)) == pytest.approx(0.75, abs=0.015)
    for together in (kept & (second != 0), kept[..., 1:] & kept[..., :-1]):
        assert together.mean() == pytest.approx(0.75**2, abs=0.006), "independent"
    for rate in (0.4, 0.0):
        layer = layers.Dropout(rate)
        assert fast.dropout(layer, np.ones((8, 1000)), True) is None, "left to Keras"


def test_adam_is_that_of_keras(monkeypatch):
    """Five updates in float64, with a falling rate: weights and moments."""
    monkeypatch.setattr(fast, "LARGE", 6000)
    rng, found = np.random.default_rng(0), []
    start = [rng.normal(size=(3000, 2)), rng.normal(size=5)]
    gradients = [10.0 ** rng.integers(-6, 2) * rng.normal(size=6000) for _ in range(5)]
    for update in (None, fast.adam_update):
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5, staircase=True)
        optimizer = keras.optimizers.Adam(rate, beta_1=0.5)
        variables = [keras.Variable(value, dtype="float64") for value in start]
        optimizer.build(variables)
        if update:
            optimizer.update_step = lambda *args: update(optimizer, *args)
        for gradient in gradients:
            parts = tf.reshape(gradient, (-1, 2)), tf.constant(gradient[:5])
            optimizer.apply(parts)  # to the variables of build()
        found.append([v.numpy() for v in variables + optimizer.variables])
    for keras_own, ours in zip(*found):  # which rounds beta_2 to float32
        np.testing.assert_allclose(ours, keras_own, 2e-5, 5e-6)
