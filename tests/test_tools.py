"""What else the GANs meet: Keras' own tools, fast.py, sample.py and score.py."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, TINY, call, make_gan, pictures_for
from keras import layers
from PIL import Image

import dcgan256
import dcgan_general
import fast
import sample
import score
import utils


def test_as_any_keras_model(script, tmp_path):
    gan = make_gan(script)
    images = pictures_for(gan)
    gan.compile("adam")
    with pytest.raises(ValueError, match=r"compile\(optimizer=None\)"):
        gan.train_on_batch(images)
    gan.compile(optimizer=None)
    before = [variable.numpy() for variable in gan.trainable_variables]

    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    callbacks = [utils.Run(gan, tmp_path / "run"), log]
    data = utils.batches(images, 2)
    history = gan.fit(data, steps_per_epoch=1, shuffle=False, callbacks=callbacks)
    assert "d_loss" in (tmp_path / "log.csv").read_text()
    assert set(history.history) == {tracker.name for tracker in gan.trackers}
    for old, variable in zip(before, gan.trainable_variables, strict=True):
        assert not np.array_equal(old, variable), variable.path
        assert np.isfinite(variable).all()
    gan.train_on_batch(np.float32(images), np.zeros(2))  # floats, with labels
    with pytest.raises(Exception, match="not from 0 to 255"):
        gan.train_on_batch(np.float32(images / 255))  # would be black

    # Weights come back with both optimizers' moments.
    gan.save_weights(tmp_path / "x.weights.h5")
    other = make_gan(script)
    other.load_weights(tmp_path / "x.weights.h5")
    for part in ("generator", "discriminator", "g_optimizer", "d_optimizer"):
        pairs = getattr(gan, part).variables, getattr(other, part).variables
        for one, two in zip(*pairs, strict=True):
            assert "seed" in one.path or np.array_equal(one, two), one.path


TWO_DEVICES = """
import sys, conftest, tensorflow as tf
(cpu,), device = tf.config.list_physical_devices(), tf.config.LogicalDeviceConfiguration
tf.config.set_logical_device_configuration(cpu, [device(), device()])
with (strategy := tf.distribute.MirroredStrategy()).scope():  # as in the README
    gan = conftest.make_gan(__import__(sys.argv[1]))
    gan.compile(optimizer=None)
for i, copy in enumerate(gan.seed_generator.state.value.values):
    copy.assign_add([i, 0])
z = strategy.run(lambda: gan.sample_z(1, gan.seed_generator)).values
print("differ", bool(tf.reduce_all(z[0] != z[1])))
data = tf.data.Dataset.from_tensors(conftest.pictures_for(gan, 4))
print(gan.fit(data, shuffle=False, verbose=0).history["d_loss"][0])
"""


def test_several_devices():
    """Each sees half of a batch and draws z of its own; losses are halved."""
    command = [sys.executable, "-c", TWO_DEVICES]
    options = {"cwd": ROOT / "tests", "capture_output": True, "text": True}
    ended = subprocess.run([*command, "shoe_gan"], **options)
    assert "shoe_gan runs on one device only" in ended.stderr
    ended = subprocess.run([*command, "dcgan_grayscale"], **options)
    assert "differ True" in ended.stdout, ended.stderr
    assert float(ended.stdout.split()[-1]) == pytest.approx(np.log(2), rel=0.05)


def passes(call, network, x):
    """Output, gradients and moving averages of one pass in training, then undone."""
    before = network.get_weights()
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = call(network, x, training=True)
        loss = tf.reduce_sum(tf.sin(y))
    gradients = tape.gradient(loss, [x, *network.trainable_variables])
    results = [x.numpy() for x in (y, *gradients, *network.non_trainable_variables)]
    network.set_weights(before)
    return results


def test_fast_passes_equal_plain_ones():
    """Without dropout and noise, which are random; and accelerate() is what does it."""
    gan = make_gan(dcgan256)
    flat = [keras.Input((40,)), layers.BatchNormalization(momentum=0.5)]
    plain = keras.Sequential.call
    fast.accelerate(gan)
    assert gan.generator.call.func is gan.discriminator.call.func is fast.call
    for network in (gan.generator, gan.discriminator, keras.Sequential(flat)):
        for layer in network.layers:
            layer.rate = layer.stddev = 0
        x = keras.random.normal((4, *network.input_shape[1:]))
        both = (passes(call, network, x) for call in (fast.call, plain))
        for ours, keras_own in zip(*both, strict=True):
            assert ours.dtype == keras_own.dtype and ours.shape == keras_own.shape
            difference = np.linalg.norm(ours - keras_own)  # biases: nothing but noise
            assert difference < 0.01 * np.linalg.norm(ours) + 0.02 * ours.size**0.5


def test_fast_dropout_and_noise():
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
    moments = [np.mean(noise**power) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.1)
    assert abs(np.corrcoef(*np.reshape(noise, (2, -1)))[0, 1]) < 0.02, "of a pair"


def distance(first, second, seed=0):
    patches = [score.patches(images, seed) for images in (first, second)]
    return score.sliced_wasserstein(*patches, seed)[0]


def test_the_distance_is_that_of_the_paper():
    """One level, the same places and directions, everything else written anew."""
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, high, (6, 16, 16, 3), dtype=np.uint8) for high in (256, 99)]
    directions = np.random.default_rng((7, 0)).normal(size=(147, score.DIRECTIONS))
    directions /= np.sqrt((directions**2).sum(0))
    y, x = np.random.default_rng((7, 0, 0)).integers(10, size=(2, 6 * score.PATCHES))
    projected = []
    for images in sets:
        places = zip(images.repeat(score.PATCHES, axis=0), y, x)
        rows = np.array([image[i : i + 7, j : j + 7] for image, i, j in places], float)
        rows = (rows - rows.mean((0, 1, 2))) / rows.std((0, 1, 2))  # of each color
        rows = rows.transpose(0, 3, 1, 2).reshape(len(rows), -1)
        projected.append(np.sort(rows @ directions, axis=0))
    wanted = 1000 * np.abs(projected[0] - projected[1]).mean()
    assert distance(*sets, seed=7) == pytest.approx(wanted, rel=1e-3)


def test_a_short_training_learns():
    """A missing update of either network, swapped labels, or a generator that trains in
    inference mode keep the score above 0.6 of that before the training."""
    toys = utils.load_images(None, (16, 16, 3))[:600]
    gan = dcgan_general.DCGAN(
        img_size=(16, 16, 3), depth=2, input_size=32, dropout=0.0,
        optimizer=keras.optimizers.Adam(2e-3, beta_1=0.5), d_learning_rate=5e-4,
    )  # fmt: skip
    z = gan.sample_z(128, seed=5)
    pictures = utils.to_uint8(gan.predict(z, verbose=0), (-1, 1))
    before = distance(toys[:128], pictures)
    gan.compile(optimizer=None)
    gan.fit(utils.batches(toys, 32), steps_per_epoch=304, shuffle=False, verbose=0)
    pictures = utils.to_uint8(gan.predict(z, verbose=0), (-1, 1))
    assert distance(toys[:128], pictures) < 0.35 * before


def test_score_and_sample_of_a_run(tmp_path, capsys):
    """A generator of two steps is no better than before."""
    gan = call(*TINY, "--img-size", 28, 28, 1, "--seed", 3, "--out", tmp_path)
    score.main([str(tmp_path), "--pictures", "64"])
    lines = capsys.readouterr().out.split("\n")
    rows = [line for line in lines if line.startswith(("gene", "real,", "before"))]
    generated, real, before = (float(row.split()[-1]) for row in rows)
    assert 0 < real < 0.5 * generated
    assert generated == pytest.approx(before, rel=0.2)
    assert "fewer than half are near copies" in lines[-3]
    for count in ("5", "4"):  # the fifth picture goes
        sample.main([str(tmp_path), "--count", count, "--walk"])
    folder = tmp_path / "generated" / "seed_3"
    found = [np.asarray(Image.open(file)) for file in sorted(folder.glob("0*.png"))]
    redrawn = gan.generator(np.load(folder / "z.npy"), training=False)
    assert np.abs(127.5 * (redrawn[..., 0] + 1) - found).max() <= 1
    assert Image.open(folder / "walk.gif").size == (9 * 28, 9 * 28)
    walk = sample.walk("uniform", 120, 9, 100, seed=0)
    steps = np.linalg.norm(np.roll(walk, -1, axis=0) - walk, axis=2)  # it is closed
    assert steps.max() < 1.5 * steps.mean() and abs(walk.std() - 3**-0.5) < 0.05
