"""The classes are Keras models: data sets, callbacks, weights, several devices."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, make_gan, pictures_for

import dcgan_pokemon
import utils


def test_as_any_keras_model(script, tmp_path):
    gan = make_gan(script)
    images, z = pictures_for(gan), np.asarray(gan.sample_z(2, seed=0))
    gan.compile("adam")
    with pytest.raises(ValueError, match=r"compile\(optimizer=None\)"):
        gan.train_on_batch(images)
    gan.compile(optimizer=None)
    before = [np.array(variable) for variable in gan.trainable_variables]

    # Without Run; with labels; floats from 0 to 255. All weights of both networks move.
    history = gan.fit(utils.batches(images, 2), steps_per_epoch=1, shuffle=False)
    assert set(history.history) == {tracker.name for tracker in gan.trackers}
    for old, variable in zip(before, gan.trainable_variables, strict=True):
        assert not np.array_equal(old, variable), variable.path
        assert np.isfinite(variable).all()
    gan.fit(tf.data.Dataset.from_tensors((np.float32(images), np.zeros(2))), verbose=0)
    for scaled in (images / 127.5 - 1, images / 255):  # would be black
        with pytest.raises(Exception, match="uint8, 0 to 255"):
            gan.train_on_batch(np.float32(scaled))

    # Weights come back with both optimizers' moments.
    gan.save_weights(tmp_path / "x.weights.h5")
    other = make_gan(script)
    other.load_weights(tmp_path / "x.weights.h5")
    for part in ("generator", "discriminator", "g_optimizer", "d_optimizer"):
        pairs = getattr(gan, part).variables, getattr(other, part).variables
        for one, two in zip(*pairs, strict=True):
            assert "seed" in one.path or np.array_equal(one, two), one.path
    assert np.allclose(gan.predict(z, verbose=0), other(z), atol=1e-5)


def test_run_beside_other_callbacks(tmp_path):
    gan = make_gan(dcgan_pokemon)
    gan.compile(optimizer=None)
    images, log = pictures_for(gan, 3), keras.callbacks.CSVLogger(tmp_path / "log.csv")
    weights = keras.callbacks.ModelCheckpoint(tmp_path / "x.weights.h5", verbose=1)
    weights.save_weights_only = True
    for epochs in (1, 2):  # resumes
        run = utils.Run(gan, tmp_path / "run", {"seed": 1}, images)
        assert (run.epoch, run.step) == (epochs - 1, 2 * (epochs - 1))
        gan.fit(utils.batches(images, 2, start=run.step), steps_per_epoch=2, verbose=0,
                initial_epoch=run.epoch, epochs=epochs, shuffle=False,
                callbacks=[run, log, weights])  # fmt: skip
    for name in ("log.csv", "x.weights.h5", "run/training.gif"):
        assert (tmp_path / name).exists()


TWO_DEVICES = """
import importlib, sys
import conftest, tensorflow as tf
(cpu,), device = tf.config.list_physical_devices(), tf.config.LogicalDeviceConfiguration
tf.config.set_logical_device_configuration(cpu, [device(), device()])
strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    gan = conftest.make_gan(importlib.import_module(sys.argv[1]))
    gan.compile(optimizer=None)
for i, copy in enumerate(gan.seed_generator.state.value.values):
    copy.assign_add([i, 0])  # as in the README
data = tf.data.Dataset.from_tensors(conftest.pictures_for(gan, 4))
z = strategy.run(lambda: gan.sample_z(1, gan.seed_generator)).values
print("differ", bool(tf.reduce_all(z[0] != z[1])))
print(gan.fit(data, shuffle=False, verbose=0).history["d_loss"][0])
"""


@pytest.mark.parametrize("name", ["dcgan_grayscale", "shoe_gan"])
def test_several_devices(name):
    """Each sees half of a batch and draws z of its own; losses are halved."""
    command, options = (
        [sys.executable, "-c", TWO_DEVICES, name],
        {"cwd": ROOT / "tests"},
    )
    ended = subprocess.run(command, capture_output=True, text=True, **options)
    if name == "shoe_gan":
        assert "freezing runs on one device only" in ended.stderr
    else:
        assert "differ True" in ended.stdout, ended.stderr
        assert 2 * float(ended.stdout.split()[-1]) == pytest.approx(1.386, rel=0.05)
