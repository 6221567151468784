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
from keras import layers
from test_networks import make_gan

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

    def __init__(self, rate, beta_1, beta_2=0.999, epsilon=1e-7):
        self.rate, self.beta_1, self.beta_2, self.epsilon = (
            rate,
            beta_1,
            beta_2,
            epsilon,
        )
        self.t, self.m, self.v = 0, 0.0, 0.0

    def __call__(self, weights, gradient):
        self.t += 1
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * gradient
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * gradient**2
        correction = np.sqrt(1 - self.beta_2**self.t) / (1 - self.beta_1**self.t)
        step = self.rate * correction * self.m / (np.sqrt(self.v) + self.epsilon)
        return weights - step


class Linear:
    """The numpy game: D(x) = x·d and G(z) = z·g, each with an Adam of its own."""

    def __init__(self, g, d, g_optimizer, d_optimizer):
        self.g, self.d, self.g_optimizer, self.d_optimizer = (
            g,
            d,
            g_optimizer,
            d_optimizer,
        )
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


def pokemon_step(game, x, gan, draw, double=False):
    z = draw(gan.sample_z, len(x))
    fake = z @ game.g
    if double:  # the loss sees sigmoid(logit) as if it were a logit
        inner = sigmoid(x @ game.d), sigmoid(fake @ game.d)
        (real_loss, a), (fake_loss, b) = bce(ones(len(x)), inner[0]), bce(0, inner[1])
        g_loss, c = bce(ones(len(x)), inner[1])
        slopes = [
            s * p * (1 - p) for s, p in ((a, inner[0]), (b, inner[1]), (c, inner[1]))
        ]
        d_gradient = x.T @ slopes[0] + fake.T @ slopes[1]
        g_gradient = z.T @ (slopes[2] @ game.d.T)
        logits = inner
    else:
        real_loss, real_gradient, real_logits = game.d_gradient(x, ones(len(x)))
        fake_loss, fake_gradient, fake_logits = game.d_gradient(fake, 0)
        g_loss, g_gradient = game.g_gradient(z, ones(len(x)))
        d_gradient, logits = real_gradient + fake_gradient, (real_logits, fake_logits)
    game.update_d(d_gradient)
    game.update_g(g_gradient)
    return [real_loss + fake_loss, g_loss, *(sigmoid(t).mean() for t in logits)]


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
        return draw(
            lambda n, seed: keras.random.uniform((n, 1), low, high, seed=seed), n
        )

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


GAMES = {  # script: step, rates of G and D, beta_1, range of the pictures
    "dcgan_pokemon": (pokemon_step, 2e-4, 2e-4, 0.5, (-1, 1)),
    "shoe_gan": (shoe_step, 2e-4, 2e-4, 0.5, (-1, 1)),
    "dcgan_grayscale": (grayscale_step, 1e-5, 1e-5, 0.9, (-1, 1)),
    "dcgan_general": (general_step, 2e-4, 5e-5, 0.5, (-1, 1)),
    "dcgan256": (dcgan256_step, 1e-4, 1e-4, 0.9, (0, 1)),
}


def linear_gan(gan):
    """Put linear networks in the place of the real ones; gives their weights."""
    latent_dim = gan.sample_z(1, 0).shape[1]
    rng = np.random.default_rng(2)
    g = 0.3 * rng.normal(size=(latent_dim, SIZE)) / np.sqrt(latent_dim)
    d = 0.3 * rng.normal(size=(SIZE, 1))
    gan.generator = keras.Sequential(
        [
            keras.Input((latent_dim,)),
            layers.Dense(SIZE, use_bias=False),
            layers.Reshape(SHAPE),
        ]
    )
    gan.discriminator = keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(1, use_bias=False)]
    )
    gan.generator.set_weights([g])
    gan.discriminator.set_weights([d])
    gan.g_optimizer.build(gan.generator.trainable_variables)
    gan.d_optimizer.build(gan.discriminator.trainable_variables)
    return g.astype("float32").astype(float), d.astype("float32").astype(float)


def play(gan, step, g_rate, d_rate, beta_1, value_range, **options):
    """Three steps in Keras and in numpy; gives both sets of weights and means."""
    game = Linear(*linear_gan(gan), Adam(g_rate, beta_1), Adam(d_rate, beta_1))
    seeds = keras.random.SeedGenerator(int(gan.seed_generator.state[0]))

    def draw(sample, n):
        return np.asarray(sample(n, seeds), float)

    low, high = value_range
    train_step = tf.function(gan.train_step)  # as fit() runs it
    rows = []
    for images in REAL:
        means = train_step(tf.constant(images))
        x = images.reshape(len(images), -1) / 255 * (high - low) + low
        rows.append(step(game, x, gan, draw, **options))
        game.log.append(rows[-1][:2])
    means = [float(means[mean.name]) for mean in gan.means]
    return game, means, np.mean(rows, axis=0)


def assert_same(gan, game, means, expected, start):
    g, d = gan.generator.get_weights()[0], gan.discriminator.get_weights()[0]
    for ours, theirs, before in ((g, game.g, start[0]), (d, game.d, start[1])):
        moved = np.abs(theirs - before).max()
        assert moved > 0
        # The way travelled agrees, not only the place.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02 * moved)
    np.testing.assert_allclose(means, expected, rtol=1e-4)


@pytest.mark.parametrize("name", GAMES)
def test_three_steps_equal_numpy(name):
    step, *settings = GAMES[name]
    gan = make_gan(importlib.import_module(name))
    start = linear_gan(gan)
    gan = make_gan(importlib.import_module(name))
    assert_same(gan, *play(gan, step, *settings), start)


def test_double_sigmoid_equals_numpy():
    import dcgan_pokemon

    gan = dcgan_pokemon.PokemonGAN(double_sigmoid=True)
    start = linear_gan(gan)
    gan = dcgan_pokemon.PokemonGAN(double_sigmoid=True)
    step, *settings = GAMES["dcgan_pokemon"]
    game, means, expected = play(gan, step, *settings, double=True)
    assert_same(gan, game, means, expected, start)
    assert 0.5 <= means[2] <= 0.732 and 0.5 <= means[3] <= 0.732  # never sure


@pytest.mark.parametrize(
    ("experiment", "low", "decay", "label", "freezing", "epochs"),
    [(1, 0, 0, 1, False, 50), (2, -1, 1e-4, 1, False, 100),
     (3, -1, 1e-4, 0.9, False, 100), (4, -1, 1e-4, 0.9, True, 500)],
)  # fmt: skip
def test_the_four_experiments(experiment, low, decay, label, freezing, epochs):
    """With 1000 times their decay: three steps would hardly show the real one."""
    import shoe_gan

    gan = shoe_gan.ShoeGAN(experiment)
    assert gan.weight_decay == decay
    assert shoe_gan.EXPERIMENTS[experiment][0] == epochs
    start = linear_gan(gan)
    gan = shoe_gan.ShoeGAN(experiment)
    gan.weight_decay *= 1000
    result = play(gan, shoe_step, 2e-4, 2e-4, 0.5, (low, 1), label=label,
                  decay=1000 * decay, freezing=freezing)  # fmt: skip
    assert_same(gan, *result, start)


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
    import shoe_gan

    gan = shoe_gan.ShoeGAN(experiment)
    gan.g_optimizer.build(gan.generator.trainable_variables)
    gan.d_optimizer.build(gan.discriminator.trainable_variables)
    if g_mean:
        gan.means[0].update_state(d_mean)
        gan.means[1].update_state(g_mean)
    g, d = weights(gan.generator), weights(gan.discriminator)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    before = gan.means[0].count.numpy()
    tf.function(gan.train_step)(tf.constant(images))
    assert same(d, weights(gan.discriminator)) == frozen
    assert int(gan.d_optimizer.iterations) == (0 if frozen else 1)
    assert not same(g, weights(gan.generator))
    assert int(gan.g_optimizer.iterations) == 1
    assert gan.means[0].count.numpy() == before + 2  # counted all the same


def stand_still(gan):
    """Give both networks an optimizer that leaves them as they are."""
    gan.g_optimizer, gan.d_optimizer = (
        keras.optimizers.SGD(0.0),
        keras.optimizers.SGD(0.0),
    )
    gan.g_optimizer.build(gan.generator.trainable_variables)
    gan.d_optimizer.build(gan.discriminator.trainable_variables)


@pytest.mark.parametrize(
    ("name", "inference"),
    [("dcgan256", True), ("dcgan_general", True), ("dcgan_grayscale", False),
     ("dcgan_pokemon", False), ("shoe_gan", False)],
)  # fmt: skip
def test_modes(name, inference):
    """In D's step G runs in the mode of the source, in G's both are in training mode.

    G and D each have one batch normalization of moving mean 0. In training mode it
    makes 0 of the constant 3 that goes in, in inference mode it lets it pass.
    """
    gan = make_gan(importlib.import_module(name))
    latent_dim = gan.sample_z(1, 0).shape[1]
    gan.generator = keras.Sequential(
        [keras.Input((latent_dim,)),
         layers.Dense(SIZE, "linear", True, "zeros", keras.initializers.Constant(3)),
         layers.BatchNormalization(epsilon=1e-6), layers.Reshape(SHAPE)]
    )  # fmt: skip
    gan.discriminator = keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(1, "linear", True, "ones")]
    )
    stand_still(gan)
    means = gan.train_step(tf.constant(REAL[0]))
    sure = 0 if name == "dcgan256" else 1  # its D says "generated"
    assert float(means["d_fake"]) == pytest.approx(sure if inference else 0.5, abs=1e-3)
    assert float(means["g_loss"]) == pytest.approx(np.log(2), abs=0.05)  # training mode

    gan = make_gan(importlib.import_module(name))
    gan.generator = keras.Sequential(
        [keras.Input((latent_dim,)), layers.Dense(SIZE), layers.Reshape(SHAPE)]
    )
    gan.discriminator = keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(),
         layers.Dense(1, "linear", True, "zeros", keras.initializers.Constant(3)),
         layers.BatchNormalization(epsilon=1e-6)]
    )  # fmt: skip
    stand_still(gan)
    means = gan.train_step(tf.constant(REAL[0]))
    assert float(means["d_real"]) == pytest.approx(0.5, abs=1e-3)
    assert float(means["d_fake"]) == pytest.approx(0.5, abs=1e-3)
    assert float(means["g_loss"]) == pytest.approx(np.log(2), abs=1e-3)


def test_labels_of_dcgan256_are_flipped_soft_and_fresh():
    import dcgan256

    gan = dcgan256.DCGAN256()
    real = np.asarray(gan.soft_labels(500, dcgan256.REAL_LABEL))
    fake = np.asarray(gan.soft_labels(500, dcgan256.FAKE_LABEL))
    assert real.shape == fake.shape == (500, 1)
    assert 0 <= real.min() < 0.0005 and 0.0095 < real.max() <= 0.01
    assert 0.99 <= fake.min() < 0.9905 and 0.9995 < fake.max() <= 1
    assert len(np.unique(real)) > 400
    assert not np.array_equal(real, gan.soft_labels(500, dcgan256.REAL_LABEL))


def test_about_half_of_the_pictures_are_mirrored():
    import dcgan256

    gan = dcgan256.DCGAN256()
    images = np.random.default_rng(0).random((400, 2, 3, 3)).astype("float32")
    turned = np.asarray(gan.mirror_some(tf.constant(images)))
    kept = (turned == images).all((1, 2, 3))
    flipped = (turned == images[:, :, ::-1]).all((1, 2, 3))
    assert (kept ^ flipped).all()
    assert 150 < flipped.sum() < 250


def test_learning_rate_of_dcgan256_falls_in_steps():
    import dcgan256

    gan = dcgan256.DCGAN256()
    for optimizer, updates in ((gan.g_optimizer, 1), (gan.d_optimizer, 2)):
        for step, falls in (
            (0, 0),
            (9_999, 0),
            (10_000, 1),
            (19_999, 1),
            (300_000, 30),
        ):
            optimizer.iterations.assign(step * updates)
            rate = float(optimizer.learning_rate)
            assert rate == pytest.approx(1e-4 * 0.85**falls, rel=1e-4)


def test_both_networks_move_under_fit(script):
    """All weights of the real networks, through fit() as in a run."""
    gan = make_gan(script)
    shape = gan.discriminator.input_shape[1:]
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    gan.g_optimizer.build(gan.generator.trainable_variables)
    gan.d_optimizer.build(gan.discriminator.trainable_variables)
    g, d = weights(gan.generator), weights(gan.discriminator)
    gan.built = True
    gan.compile(optimizer=None)
    gan.fit(tf.data.Dataset.from_tensors(images), verbose=0, shuffle=False)
    for before, network in ((g, gan.generator), (d, gan.discriminator)):
        for old, variable in zip(before, network.trainable_variables):
            assert not np.array_equal(old, variable), variable.path
            assert np.isfinite(variable).all()
    updates = {"dcgan256": 2, "dcgan_general": 2}.get(script.__name__, 1)
    assert int(gan.d_optimizer.iterations) == updates
    assert int(gan.g_optimizer.iterations) == 1
