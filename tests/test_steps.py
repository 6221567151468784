"""One step of each game, against the same step written in plain numpy.

Linear networks and gradient descent stand in for the real ones, and z and labels come
from the same random state. A missing update, swapped labels or another order show.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_gan, pictures_for
from keras import layers

import dcgan256
import shoe_gan

SHAPE, SIZE = (2, 2, 3), 12
REAL = np.random.default_rng(1).integers(0, 256, size=(3, 6, *SHAPE), dtype=np.uint8)
G_RATE, D_RATE = 1.0, 0.5  # so large that another order of updates shows
MEANS = "d_loss", "g_loss", "d_real", "d_fake", "g_real"


class Game:
    """D(x) = x·d and G(z) = z·g, trained by plain gradient descent."""

    def __init__(self, gan):
        self.sample_z, self.seed = gan.sample_z, keras.random.SeedGenerator(0)
        self.g, self.d = weights(gan)

    def draw(self, n):
        return np.asarray(self.sample_z(n, self.seed), float)

    def judge(self, x, label):
        """Mean cross-entropy, its gradients for d and for x, D's mean probability."""
        p = 1 / (1 + np.exp(-x @ self.d))
        loss = -label * np.log(p) - (1 - label) * np.log(1 - p)
        slope = (p - label) / len(x)
        return loss.mean(), x.T @ slope, slope @ self.d.T, p.mean()

    def train_d(self, x, label):
        loss, gradient, _, p = self.judge(x, label)
        self.d = self.d - D_RATE * gradient
        return loss, p

    def train_g(self, z, label):
        loss, _, gradient, _ = self.judge(z @ self.g, label)
        self.g = self.g - G_RATE * z.T @ gradient
        return loss


def pokemon_step(game, x):
    z = game.draw(64)
    real_loss, real_gradient, _, d_real = game.judge(x, 1)
    fake_loss, fake_gradient, _, d_fake = game.judge(z @ game.g, 0)
    g_loss, _, gradient, _ = game.judge(z @ game.g, 1)
    game.g = game.g - G_RATE * z.T @ gradient
    game.d = game.d - D_RATE * (real_gradient + fake_gradient)
    return real_loss + fake_loss, g_loss, d_real, d_fake


def shoe_step(game, x, label=0.9, decay=1e-4):
    z = game.draw(len(x))
    fake = z @ game.g
    real_loss, real_gradient, _, d_real = game.judge(x, label)
    fake_loss, fake_gradient, _, d_fake = game.judge(fake, 0)
    game.d = game.d - D_RATE * (real_gradient + fake_gradient + decay * game.d)
    g_loss, _, gradient, g_real = game.judge(fake, label)
    game.g = game.g - G_RATE * (z.T @ gradient + decay * game.g)
    return real_loss + fake_loss, g_loss, d_real, d_fake, g_real


def grayscale_step(game, x):
    real_loss, d_real = game.train_d(x, 0.95)
    fake_loss, d_fake = game.train_d(game.draw(len(x)) @ game.g, 0.05)
    g_loss = game.train_g(game.draw(len(x)), 0.95)
    return real_loss + fake_loss, g_loss, d_real, d_fake


def general_step(game, x):
    z = game.draw(len(x))
    real_loss, d_real = game.train_d(x, 1)
    fake_loss, d_fake = game.train_d(z @ game.g, 0)
    g_loss = game.train_g(z, 1)
    return real_loss + fake_loss, g_loss, d_real, d_fake


def dcgan256_step(game, x):
    """Flipped labels: real about 0, generated about 1; G wants "real", about 0."""
    mirrored = x.reshape(-1, *SHAPE)[:, :, ::-1].reshape(len(x), -1)
    x, n = np.concatenate([x, mirrored]), 2 * len(x)

    def labels(n, low, high):
        return np.asarray(keras.random.uniform((n, 1), low, high, seed=game.seed))

    real_loss, real = game.train_d(x, labels(n, 0, 0.01))
    fake = game.draw(n) @ game.g
    fake_loss, generated = game.train_d(fake, labels(n, 0.99, 1))
    g_loss = game.train_g(game.draw(2 * n), labels(2 * n, 0, 0.01))
    return real_loss + fake_loss, g_loss, 1 - real, 1 - generated


def weights(gan):
    return gan.generator.get_weights()[0], gan.discriminator.get_weights()[0]


def make_linear(gan):
    """Put linear networks and gradient descent in place of the real ones."""
    z, x = keras.Input((gan.latent_dim,)), keras.Input(SHAPE)
    to_x, to_logit = (layers.Dense(n, use_bias=False) for n in (SIZE, 1))
    gan.generator = keras.Sequential([z, to_x, layers.Reshape(SHAPE)])
    gan.discriminator = keras.Sequential([x, layers.Flatten(), to_logit])
    gan.g_optimizer = keras.optimizers.SGD(G_RATE)
    gan.d_optimizer = keras.optimizers.SGD(D_RATE)


def assert_plays(gan, step, **options):
    """Three steps in Keras and in numpy end with the same weights and means."""
    make_linear(gan)
    before, game, rows = weights(gan), Game(gan), []
    train_step = tf.function(gan.train_step)
    for images in REAL:
        means = train_step(tf.constant(images))
        x = np.interp(images.reshape(len(images), -1), (0, 255), gan.value_range)
        rows.append(step(game, x, **options))
    means = [float(means[name]) for name in MEANS[: len(rows[0])]]
    np.testing.assert_allclose(means, np.mean(rows, axis=0), rtol=1e-4)
    for ours, theirs, start in zip(weights(gan), (game.g, game.d), before, strict=True):
        moved = np.abs(theirs - start).max()  # the way agrees, not only the place
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * moved)


@pytest.mark.parametrize(("script", "step"), [
    ("dcgan_pokemon", pokemon_step), ("shoe_gan", shoe_step),
    ("dcgan_grayscale", grayscale_step), ("dcgan_general", general_step),
    ("dcgan256", dcgan256_step),
], indirect=["script"])  # fmt: skip
def test_three_steps_equal_numpy(script, step):
    assert_plays(make_gan(script), step)


def test_the_four_experiments(monkeypatch):
    """With 1000 times their decay: three steps would hardly show the real one."""
    assert shoe_gan.WEIGHT_DECAY == 1e-4
    monkeypatch.setattr(shoe_gan, "WEIGHT_DECAY", 0.1)
    for number, low, label in ((1, 0, 1), (2, -1, 1), (3, -1, 0.9), (4, -1, 0.9)):
        gan = shoe_gan.ShoeGAN(number)
        assert gan.value_range == (low, 1)
        assert_plays(gan, shoe_step, label=label, decay=0.1)
    assert np.allclose(gan.decayed([tf.zeros(2)], [tf.ones(2)]), 0.1), "biases, too"


@pytest.mark.parametrize(("script", "g_rate", "d_rate", "beta_1", "epsilon", "n"), [
    ("dcgan_pokemon", 2e-4, 2e-4, 0.5, 1e-7, 2), ("dcgan256", 1e-4, 1e-4, 0.9, 1e-7, 2),
    ("dcgan_general", 2e-4, 5e-5, 0.5, 1e-7, 2), ("shoe_gan", 2e-4, 2e-4, 0.5, 1e-8, 1),
    ("dcgan_grayscale", 1e-5, 1e-5, 0.9, 1e-7, 2),
], indirect=["script"])  # fmt: skip
def test_optimizers(script, g_rate, d_rate, beta_1, epsilon, n):
    """Adam, with nothing else than Keras' defaults; n updates of D a step."""
    gan = make_gan(script)
    one = {"learning_rate": 0.0, "name": "one"}
    wanted = keras.optimizers.Adam(beta_1=beta_1, epsilon=epsilon).get_config() | one
    for optimizer, rate in ((gan.g_optimizer, g_rate), (gan.d_optimizer, d_rate)):
        assert type(optimizer) is keras.optimizers.Adam
        assert float(optimizer.learning_rate) == pytest.approx(rate)
        assert optimizer.get_config() | one == wanted
    shared = gan.g_optimizer is gan.d_optimizer
    assert shared == (script.__name__ == "dcgan_pokemon")
    gan.train_step(tf.constant(pictures_for(gan)))
    assert int(gan.d_optimizer.iterations) == n
    assert shared or int(gan.g_optimizer.iterations) == 1


@pytest.mark.parametrize(("experiment", "d_mean", "g_mean", "frozen"), [
    (4, 0.69, 1, True), (4, 0.71, 1, False), (4, 0, 0, False),
    (3, 0.1, 1, False), (2, 0.1, 1, False), (1, 0.1, 1, False),
])  # fmt: skip
def test_freezing_skips_the_update_of_d_alone(experiment, d_mean, g_mean, frozen):
    gan = shoe_gan.ShoeGAN(experiment)
    make_linear(gan)
    gan.trackers[0].update_state(d_mean)
    gan.trackers[1].update_state(g_mean)
    g, d = weights(gan)
    tf.function(gan.train_step)(tf.constant(REAL[0]))
    g_after, d_after = weights(gan)
    assert np.array_equal(d, d_after) == frozen
    assert int(gan.d_optimizer.iterations) == (0 if frozen else 1)
    assert not np.array_equal(g, g_after)
    assert int(gan.g_optimizer.iterations) == 1
    assert gan.trackers[0].count == 2  # counted all the same


def test_modes(script, monkeypatch):
    """In D's step G runs in its source's mode, in G's both are in training mode."""
    gan, modes, plain = make_gan(script), {}, keras.Sequential.call
    make_linear(gan)

    def call(network, x, training=None, mask=None):
        modes.setdefault(network, []).append(training)
        return plain(network, x, training=training)

    monkeypatch.setattr(keras.Sequential, "call", call)
    gan.train_step(tf.constant(REAL[0]))
    once = script.__name__ in ("dcgan_pokemon", "shoe_gan")  # the same fakes for both
    assert modes[gan.generator] == ([True] if once else [False, True])
    passes = 2 if script.__name__ == "dcgan_pokemon" else 3  # through D
    assert modes[gan.discriminator] == [True] * passes


def test_learning_rate_of_dcgan256_falls_in_steps():
    gan = dcgan256.DCGAN256()
    for optimizer, updates in ((gan.g_optimizer, 1), (gan.d_optimizer, 2)):
        for step, falls in ((0, 0), (9_999, 0), (10_000, 1), (300_000, 30)):
            optimizer.iterations.assign(step * updates)
            rate = float(optimizer.learning_rate)
            assert rate == pytest.approx(1e-4 * 0.85**falls, rel=1e-4)
