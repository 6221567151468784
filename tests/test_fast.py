"""fast.py computes what Keras does, by other kernels."""

import contextlib
import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SCRIPTS, build_optimizers, make_gan
from keras import layers

import fast


def without_noise(network):
    """The network without what is random, so that two passes can be compared."""
    for layer in network.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0
        if isinstance(layer, layers.GaussianNoise):
            layer.stddev = 0
    return network


def passes(call, network, x, training):
    """Output, gradients and moving averages of one pass, from the same state."""
    before = [variable.numpy() for variable in network.variables]
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = call(network, x, training=training)
        loss = tf.reduce_sum(
            y * np.linspace(0, 1, y[0].numpy().size).reshape(y[0].shape)
        )
    gradients = tape.gradient(loss, [x, *network.trainable_variables])
    after = [variable.numpy() for variable in network.non_trainable_variables]
    for variable, value in zip(network.variables, before):
        variable.assign(value)
    return [y, *gradients, *after]


def stock(network, x, training):
    return network(x, training=training)


def agree(network, x, training, tolerance):
    ours = passes(fast.call, network, x, training)
    keras_own = passes(stock, network, x, training)
    largest = max(np.linalg.norm(b) for b in keras_own)  # some gradients are truly 0
    for a, b in zip(ours, keras_own):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        error = np.linalg.norm(a - b)
        assert error <= tolerance * (np.linalg.norm(b) + 1e-3 * largest)


@pytest.mark.parametrize("name", SCRIPTS)
def test_three_steps_equal_plain_keras(name):
    """Losses and weights, without dropout and noise; everything is undone after it."""

    def weights(gan):
        both = gan.generator.get_weights() + gan.discriminator.get_weights()
        return np.concatenate([weight.ravel() for weight in both])

    found = []
    for accelerate in (contextlib.nullcontext, fast.accelerate):
        keras.utils.set_random_seed(0)
        gan = make_gan(importlib.import_module(name))
        without_noise(gan.generator)
        without_noise(gan.discriminator)
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


def test_one_pixel_is_spread_exactly():
    """In float64, where rounding hides nothing; with and without bias, activation."""
    x = np.random.default_rng(0).normal(size=(5, 1, 1, 7))
    for options in ({"use_bias": False}, {"activation": "relu", "strides": (2, 3)}):
        layer = layers.Conv2DTranspose(6, (4, 3), dtype="float64", **options)
        network = keras.Sequential([keras.Input((1, 1, 7), dtype="float64"), layer])
        for weight in layer.weights:
            weight.assign(np.random.default_rng(1).normal(size=weight.shape))
        agree(network, x, True, 1e-12)


def test_upsampling_is_joined_with_its_convolution_exactly():
    """In float64; where the two are not the usual ones, they are left to Keras."""
    x = np.random.default_rng(0).normal(size=(3, 5, 4, 2))
    plain, joined = {"padding": "same", "dtype": "float64"}, []
    before = fast.upsampled_convolution
    for up, convolution in (
        ({}, plain),
        ({}, plain | {"use_bias": False, "activation": "relu"}),
        ({"interpolation": "bilinear"}, plain),
        ({"size": (3, 2)}, plain),
        ({}, plain | {"padding": "valid"}),
        ({}, plain | {"strides": 2}),
        ({}, plain | {"dilation_rate": 2}),
        ({}, plain | {"kernel_size": 4}),
        ({}, plain | {"groups": 2}),
    ):
        options = {"kernel_size": 3} | convolution
        network = keras.Sequential(
            [keras.Input((5, 4, 2), dtype="float64"),
             layers.UpSampling2D(dtype="float64", **up), layers.Conv2D(6, **options)]
        )  # fmt: skip
        for weight in network.weights:
            weight.assign(np.random.default_rng(1).normal(size=weight.shape))
        fast.upsampled_convolution = lambda *a: joined.append(a) or before(*a)
        try:
            agree(network, x, True, 1e-12)
        finally:
            fast.upsampled_convolution = before
    assert len(joined) == 2


def test_noise_is_normal_and_fresh():
    layer = layers.GaussianNoise(0.2, seed=1)
    network = keras.Sequential([keras.Input((64, 64, 3)), layer])
    x = np.full((16, 64, 64, 3), 0.5, np.float32)
    state = layer.seed_generator.state.numpy()
    first, second = (
        (fast.call(network, x, training=True).numpy() - 0.5) / 0.2 for _ in range(2)
    )
    for noise in (first, second):  # moments of a standard normal, within 5 deviations
        n = noise.size
        for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            bound = 5 * np.sqrt(variance / n)
            assert np.mean(np.float64(noise) ** power) == pytest.approx(
                moment, abs=bound
            )
        assert 4 < np.abs(noise).max() < 6
    halves = np.reshape(first, (2, -1))  # the two of each pair
    for a, b in (halves, (first.ravel(), second.ravel())):
        assert np.corrcoef(a, b)[0, 1] == pytest.approx(0, abs=5 / np.sqrt(a.size))
        assert np.corrcoef(a**2, b**2)[0, 1] == pytest.approx(
            0, abs=5 / np.sqrt(a.size)
        )
    np.testing.assert_array_equal(fast.call(network, x, training=False), x)
    layer.seed_generator.state.assign(state)
    np.testing.assert_allclose(
        (fast.call(network, x, training=True).numpy() - 0.5) / 0.2, first
    )
    odd = keras.Sequential([keras.Input((3, 5)), layers.GaussianNoise(0.2)])
    assert fast.call(odd, np.zeros((2, 3, 5), np.float32), training=True).shape == (
        2,
        3,
        5,
    )


@pytest.mark.parametrize("shape", [(40,), (9, 9, 8)])
@pytest.mark.parametrize("batch", [1, 6])
def test_batch_normalization_against_float64(shape, batch):
    """The fused kernel is as near to the layer in float64 as float32 can be."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(batch, *shape))
    results = []
    for dtype, call in (("float64", stock), ("float32", fast.call)):
        layer = layers.BatchNormalization(momentum=0.7, epsilon=1e-5, dtype=dtype)
        network = keras.Sequential([keras.Input(shape, dtype=dtype), layer])
        for weight in layer.weights:
            weight.assign(np.linspace(0.5, 1.5, weight.shape[0]))
        results.append(passes(call, network, x.astype(dtype), True))
    for exact, fused in zip(*results):
        exact = np.asarray(exact)
        tolerance = 2e-5 * max(1, np.abs(exact).max())
        np.testing.assert_allclose(fused, exact, 0, tolerance)


def test_dropout_drops_the_right_share():
    layer = layers.Dropout(0.25, seed=1)
    network = keras.Sequential([keras.Input((64, 64, 8)), layer])
    x = tf.constant(np.random.default_rng(0).uniform(1, 2, (8, 64, 64, 8)), tf.float32)
    drawn = []
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = fast.call(network, x, training=True)
        kept = y.numpy() != 0
        np.testing.assert_allclose(y, np.where(kept, x / 0.75, 0), 1e-6)
        slope = tape.gradient(y, x)
        np.testing.assert_allclose(slope, np.where(kept, 1 / 0.75, 0), 1e-6)
        assert kept.mean() == pytest.approx(0.75, abs=0.005)  # 6 standard deviations
        assert kept.mean((1, 2, 3)) == pytest.approx(0.75, abs=0.015)
        assert kept.mean((0, 1, 2)) == pytest.approx(0.75, abs=0.015)
        drawn.append(kept)
    together = (drawn[0] & drawn[1]).mean()  # independent: the product of both shares
    assert together == pytest.approx(0.75**2, abs=0.006)
    neighbours = (kept[..., 1:] & kept[..., :-1]).mean()  # bytes of one word
    assert neighbours == pytest.approx(0.75**2, abs=0.006)
    np.testing.assert_array_equal(fast.call(network, x, training=False), x)


def test_dropout_follows_the_random_state_of_the_layer():
    layer = layers.Dropout(0.5, seed=1)
    network = keras.Sequential([keras.Input((8,)), layer])
    x, state = np.ones((2, 8), np.float32), layer.seed_generator.state
    before = state.numpy()
    first = fast.call(network, x, training=True).numpy()
    after = state.numpy()
    assert (fast.call(network, x, training=True).numpy() != first).any()
    state.assign(before)
    np.testing.assert_array_equal(fast.call(network, x, training=True), first)
    state.assign(before)
    layer(x, training=True)
    np.testing.assert_array_equal(state.numpy(), after)  # moved on as Keras moves it


@pytest.mark.parametrize("rate", [0.4, 0.0])
def test_dropout_at_another_rate_is_left_to_keras(rate):
    layer = layers.Dropout(rate)
    assert fast.dropout(layer, np.ones((8, 1000), np.float32), True) is None


def test_adam_is_that_of_keras():
    """Five updates in float64, with a falling rate: weights and moments."""
    rng, found = np.random.default_rng(0), []
    start = [rng.normal(size=(4, 3)), rng.normal(size=5)]
    gradients = rng.normal(size=(5, 17)) * 10.0 ** rng.integers(-6, 2, (5, 17))
    for update in (None, fast.adam_update):
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5, staircase=True)
        optimizer = keras.optimizers.Adam(rate, beta_1=0.5)
        variables = [keras.Variable(value, dtype="float64") for value in start]
        optimizer.build(variables)
        if update:
            optimizer.update_step = lambda *args: update(optimizer, *args)
        for gradient in gradients:
            parts = tf.reshape(gradient[:12], (4, 3)), tf.constant(gradient[12:])
            optimizer.apply(parts)  # to the variables of build()
        found.append([v.numpy() for v in variables + optimizer.variables])
    for keras_own, ours in zip(*found):  # which rounds beta_2 to float32
        np.testing.assert_allclose(ours, keras_own, 2e-5, 2e-6)
