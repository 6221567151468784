"""One step of each game, against the same step written in plain numpy.

Linear networks stand in for the real ones, so that every gradient can be written down;
z and labels come from the same random state. What is compared after three steps is all
there is: both networks' weights, losses and mean probabilities. A missing or additional
update, swapped labels, another order, other z, or another optimizer would show.
"""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SCRIPTS, build_optimizers, make_gan
from keras import layers

import dcgan256
import shoe_gan

SHAPE, SIZE = (2, 2, 3), 12
REAL = np.random.default_rng(1).integers(0, 256, size=(3, 6, *SHAPE), dtype=np.uint8)
REAL[:, :, :, 1] = REAL[:, :, :, 0]  # symmetric: a mirrored picture is the same


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bce(labels, logits):
    """Mean binary cross-entropy and its gradient with respect to the logits."""
    p = sigmoid(logits)
    loss = -labels * np.log(p) - (1 - labels) * np.log(1 - p)
    return loss.mean(), (p - labels) / logits.size


class Adam:
    """Kingma & Ba 2015, algorithm 1, with Keras' place for epsilon."""

    def __init__(self, rate, beta_1, epsilon=1e-7):
        self.rate, self.beta_1, self.epsilon = rate, beta_1, epsilon
        self.t, self.m, self.v = 0, 0.0, 0.0

    def __call__(self, weights, gradient):
        self.t += 1
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        correction = np.sqrt(1 - 0.999**self.t) / (1 - self.beta_1**self.t)
        step = self.rate * correction * self.m / (np.sqrt(self.v) + self.epsilon)
        return weights - step


class Linear:
    """The numpy game: D(x) = x·d and G(z) = z·g, each with an Adam of its own."""

    def __init__(self, g, d, g_optimizer, d_optimizer):
        self.g, self.g_optimizer = g, g_optimizer
        self.d, self.d_optimizer = d, d_optimizer
        self.log = []

    def d_gradient(self, x, labels):
        loss, slope = bce(labels, x @ self.d)
        return loss, x.T @ slope, x @ self.d

    def g_gradient(self, z, labels):
        loss, slope = bce(labels, z @ self.g @ self.d)
        return loss, z.T @ (slope @ self.d.T)

    def update_d(self, gradient):
        self.d = self.d_optimizer(self.d, gradient)

    def update_g(self, gradient):
        self.g = self.g_optimizer(self.g, gradient)


def ones(n):
    return np.ones((n, 1))


def pokemon_step(game, x, gan, draw):
    z = draw(gan.sample_z, gan.batch_size)
    fake = z @ game.g
    real_loss, real_gradient, real_logits = game.d_gradient(x, ones(len(x)))
    fake_loss, fake_gradient, fake_logits = game.d_gradient(fake, 0)
    g_loss, g_gradient = game.g_gradient(z, ones(len(z)))
    game.update_d(real_gradient + fake_gradient)
    game.update_g(g_gradient)
    probabilities = sigmoid(real_logits).mean(), sigmoid(fake_logits).mean()
    return [real_loss + fake_loss, g_loss, *probabilities]


def shoe_step(game, x, gan, draw, label=0.9, decay=1e-4, freezing=True):
    z = draw(gan.sample_z, len(x))
    fake = z @ game.g
    real_loss, real_gradient, real_logits = game.d_gradient(x, label * ones(len(x)))
    fake_loss, fake_gradient, fake_logits = game.d_gradient(fake, 0)
    means = np.mean(game.log, axis=0) if game.log else np.zeros(2)
    if not (freezing and means[0] < 0.7 * means[1]):
        game.update_d(real_gradient + fake_gradient + decay * game.d)
    g_loss, g_gradient = game.g_gradient(z, label * ones(len(x)))
    g_prob = sigmoid(fake @ game.d).mean()
    game.update_g(g_gradient + decay * game.g)
    probabilities = sigmoid(real_logits).mean(), sigmoid(fake_logits).mean(), g_prob
    return [real_loss + fake_loss, g_loss, *probabilities]


def grayscale_step(game, x, gan, draw):
    fake = draw(gan.sample_z, len(x)) @ game.g
    real_loss, real_gradient, real_logits = game.d_gradient(x, 0.95 * ones(len(x)))
    fake_loss, fake_gradient, fake_logits = game.d_gradient(fake, 0.05 * ones(len(x)))
    game.update_d((real_gradient + fake_gradient) / 2)
    z = draw(gan.sample_z, len(x))
    g_loss, g_gradient = game.g_gradient(z, 0.95 * ones(len(x)))
    game.update_g(g_gradient)
    probabilities = sigmoid(real_logits).mean(), sigmoid(fake_logits).mean()
    return [(real_loss + fake_loss) / 2, g_loss, *probabilities]


def general_step(game, x, gan, draw):
    z = draw(gan.sample_z, len(x))
    fake = z @ game.g
    real_loss, gradient, real_logits = game.d_gradient(x, ones(len(x)))
    game.update_d(gradient)
    fake_loss, gradient, fake_logits = game.d_gradient(fake, 0)
    game.update_d(gradient)
    g_loss, gradient = game.g_gradient(z, ones(len(x)))
    game.update_g(gradient)
    probabilities = sigmoid(real_logits).mean(), sigmoid(fake_logits).mean()
    return [real_loss + fake_loss, g_loss, *probabilities]


def dcgan256_step(game, x, gan, draw):
    """Flipped labels: real about 0, generated about 1; G wants "real", about 0."""
    n = len(x)
    draw(lambda n, seed: keras.random.uniform((n, 1, 1, 1), seed=seed), n)  # mirrors

    def labels(low, high, n):
        return draw(lambda n, s: keras.random.uniform((n, 1), low, high, seed=s), n)

    real_loss, gradient, real_logits = game.d_gradient(x, labels(0, 0.01, n))
    game.update_d(gradient)
    fake = draw(gan.sample_z, n) @ game.g
    fake_loss, gradient, fake_logits = game.d_gradient(fake, labels(0.99, 1, n))
    game.update_d(gradient)
    z = draw(gan.sample_z, 2 * n)
    g_loss, gradient = game.g_gradient(z, labels(0, 0.01, 2 * n))
    game.update_g(gradient)
    probabilities = sigmoid(-real_logits).mean(), sigmoid(-fake_logits).mean()
    return [real_loss + fake_loss, g_loss, *probabilities]


GAMES = {  # script: step, Adam of G and of D, range of the pictures
    "dcgan_pokemon": (pokemon_step, (2e-4, 0.5), (2e-4, 0.5), (-1, 1)),
    "shoe_gan": (shoe_step, (2e-4, 0.5, 1e-8), (2e-4, 0.5, 1e-8), (-1, 1)),
    "dcgan_grayscale": (grayscale_step, (1e-5, 0.9), (1e-5, 0.9), (-1, 1)),
    "dcgan_general": (general_step, (2e-4, 0.5), (5e-5, 0.5), (-1, 1)),
    "dcgan256": (dcgan256_step, (1e-4, 0.9), (1e-4, 0.9), (0, 1)),
}


def linear_gan(gan):
    """Put linear networks in the place of the real ones; gives their weights."""
    latent_dim = gan.sample_z(1, 0).shape[1]
    rng = np.random.default_rng(2)
    g = 0.3 * rng.normal(size=(latent_dim, SIZE)) / np.sqrt(latent_dim)
    d = 0.3 * rng.normal(size=(SIZE, 1))
    dense = layers.Dense(SIZE, use_bias=False)
    gan.generator = keras.Sequential(
        [keras.Input((latent_dim,)), dense, layers.Reshape(SHAPE)]
    )
    dense = layers.Dense(1, use_bias=False)
    gan.discriminator = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), dense])
    gan.generator.set_weights([g])
    gan.discriminator.set_weights([d])
    build_optimizers(gan)
    return g.astype("float32").astype(float), d.astype("float32").astype(float)


def assert_plays(gan, step, g_adam, d_adam, value_range, **options):
    """Three steps in Keras and in numpy end with the same weights and means."""
    g_start, d_start = linear_gan(gan)
    game = Linear(g_start, d_start, Adam(*g_adam), Adam(*d_adam))
    seeds = keras.random.SeedGenerator(int(gan.seed_generator.state.numpy()[0]))

    def draw(sample, n):
        return np.asarray(sample(n, seeds), float)

    low, high = value_range
    train_step = tf.function(gan.train_step)
    rows = []
    for images in REAL:
        means = train_step(tf.constant(images))
        x = images.reshape(len(images), -1) / 255 * (high - low) + low
        rows.append(step(game, x, gan, draw, **options))
        game.log.append(rows[-1][:2])
    means = [float(means[mean.name]) for mean in gan.metrics]
    np.testing.assert_allclose(means, np.mean(rows, axis=0), rtol=1e-4)
    g, d = gan.generator.get_weights()[0], gan.discriminator.get_weights()[0]
    for ours, theirs, before in ((g, game.g, g_start), (d, game.d, d_start)):
        moved = np.abs(theirs - before).max()  # the way agrees, not only the place
        assert moved > 0
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02 * moved)


@pytest.mark.parametrize("name", GAMES)
def test_three_steps_equal_numpy(name):
    assert_plays(make_gan(importlib.import_module(name)), *GAMES[name])


@pytest.mark.parametrize(
    ("experiment", "low", "label", "freezing", "epochs"),
    [(1, 0, 1, False, 50), (2, -1, 1, False, 100), (3, -1, 0.9, False, 100),
     (4, -1, 0.9, True, 500)],
)  # fmt: skip
def test_the_four_experiments(experiment, low, label, freezing, epochs, monkeypatch):
    """With 1000 times their decay: three steps would hardly show the real one."""
    assert shoe_gan.EXPERIMENTS[experiment]["epochs"] == epochs
    assert shoe_gan.WEIGHT_DECAY == 1e-4
    monkeypatch.setattr(shoe_gan, "WEIGHT_DECAY", 0.1)
    options = {"label": label, "freezing": freezing, "decay": 0.1}
    adam = (2e-4, 0.5, 1e-8)
    gan = shoe_gan.ShoeGAN(experiment)
    assert_plays(gan, shoe_step, adam, adam, (low, 1), **options)


def weights(network):
    return [variable.numpy() for variable in network.trainable_variables]


def same(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("experiment", "d_mean", "g_mean", "frozen"),
    [(4, 0.69, 1, True), (4, 0.71, 1, False), (4, 0, 0, False), (3, 0.1, 1, False)],
)
def test_freezing_skips_the_update_of_d_and_nothing_else(
    experiment, d_mean, g_mean, frozen
):
    gan = shoe_gan.ShoeGAN(experiment)
    linear_gan(gan)
    if g_mean:
        gan.means[0].update_state(d_mean)
        gan.means[1].update_state(g_mean)
    g, d = weights(gan.generator), weights(gan.discriminator)
    before = float(gan.means[0].count.numpy())
    tf.function(gan.train_step)(tf.constant(REAL[0]))
    assert same(d, weights(gan.discriminator)) == frozen
    assert int(gan.d_optimizer.iterations.numpy()) == (0 if frozen else 1)
    assert not same(g, weights(gan.generator))
    assert int(gan.g_optimizer.iterations.numpy()) == 1
    assert gan.means[0].count.numpy() == before + 6  # counted all the same


@pytest.mark.parametrize("name", SCRIPTS)
def test_modes(name):
    """In D's step G runs in its source's mode, in G's both are in training mode."""
    gan, seen = make_gan(importlib.import_module(name)), {}
    linear_gan(gan)
    for network in (gan.generator, gan.discriminator):
        calls = seen[network.name] = []

        def call(x, training, mask=None, before=network.call, calls=calls):
            calls.append(training)
            return before(x, training=training)

        object.__setattr__(network, "call", call)
    gan.train_step(tf.constant(REAL[0]))
    g_calls, d_calls = seen.values()
    once = name in ("dcgan_pokemon", "shoe_gan")  # the same fakes for D and G
    assert g_calls == ([True] if once else [False, True])
    assert len(d_calls) >= 2 and all(d_calls)


def test_labels_of_dcgan256_are_fresh_flipped_and_soft():
    gan = dcgan256.DCGAN256()
    real = np.asarray(gan.soft_labels(500, dcgan256.REAL_LABEL))
    fake = np.asarray(gan.soft_labels(500, dcgan256.FAKE_LABEL))
    assert real.shape == (500, 1) and 0 <= real.min() < real.max() <= 0.01
    assert 0.99 <= fake.min() < fake.max() <= 1 and len(np.unique(real)) > 400
    assert not np.array_equal(real, gan.soft_labels(500, dcgan256.REAL_LABEL))


def test_about_half_of_the_pictures_are_mirrored():
    gan = dcgan256.DCGAN256()
    images = np.random.default_rng(0).random((400, 2, 3, 3)).astype("float32")
    turned = np.asarray(gan.mirror_some(tf.constant(images)))
    kept = (turned == images).all((1, 2, 3))
    flipped = (turned == images[:, :, ::-1]).all((1, 2, 3))
    assert (kept ^ flipped).all() and 150 < flipped.sum() < 250


def test_learning_rate_of_dcgan256_falls_in_steps():
    gan = dcgan256.DCGAN256()
    for optimizer, updates in ((gan.g_optimizer, 1), (gan.d_optimizer, 2)):
        for step, falls in ((0, 0), (9_999, 0), (10_000, 1), (300_000, 30)):
            optimizer.iterations.assign(step * updates)
            rate = float(optimizer.learning_rate)
            assert rate == pytest.approx(1e-4 * 0.85**falls, rel=1e-4)


@pytest.mark.slow
def test_keras_fit_trains_every_script(script):
    """compile() and fit() alone; all weights of both networks change."""
    gan = make_gan(script)
    shape = gan.discriminator.input_shape[1:]
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    g, d = weights(gan.generator), weights(gan.discriminator)
    gan.compile(optimizer=None)
    history = gan.fit(tf.data.Dataset.from_tensors(images), verbose=0).history
    assert set(history) == {metric.name for metric in gan.metrics}
    for before, network in ((g, gan.generator), (d, gan.discriminator)):
        for old, variable in zip(before, network.trainable_variables):
            assert not np.array_equal(old, variable), variable.path
            assert np.isfinite(variable).all()
    updates = {"dcgan256": 2, "dcgan_general": 2}.get(script.__name__, 1)
    assert int(gan.d_optimizer.iterations.numpy()) == updates
    assert int(gan.g_optimizer.iterations.numpy()) == 1
