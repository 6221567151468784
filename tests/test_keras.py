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
    gan, log = make_gan(dcgan_pokemon), keras.callbacks.CSVLogger(tmp_path / "log.csv")
    run = utils.Run(gan, tmp_path / "run")
    images = utils.batches(pictures_for(gan), 2)
    gan.compile(optimizer=None)
    gan.fit(images, steps_per_epoch=2, epochs=2, shuffle=False, callbacks=[run, log])
    assert len((tmp_path / "log.csv").read_text().split()) == 3
    again = utils.Run(gan, tmp_path / "run")
    assert (again.epoch, again.step) == (2, 4)


TWO_DEVICES = """
import sys, conftest, tensorflow as tf
(cpu,), device = tf.config.list_physical_devices(), tf.config.LogicalDeviceConfiguration
tf.config.set_logical_device_configuration(cpu, [device(), device()])
strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    gan = conftest.make_gan(__import__(sys.argv[1]))
    gan.compile(optimizer=None)
for i, copy in enumerate(gan.seed_generator.state.value.values):
    copy.assign_add([i, 0])  # as in the README
data = tf.data.Dataset.from_tensors(conftest.pictures_for(gan, 4))
z = strategy.run(lambda: gan.sample_z(1, gan.seed_generator)).values
print("differ", bool(tf.reduce_all(z[0] != z[1])))
print(gan.fit(data, shuffle=False, verbose=0).history["d_loss"][0])
"""


def test_several_devices():
    """Each sees half of a batch and draws z of its own; losses are halved."""
    for name in ("dcgan_grayscale", "shoe_gan"):
        command = [sys.executable, "-c", TWO_DEVICES, name]
        where = {"cwd": ROOT / "tests", "capture_output": True, "text": True}
        ended = subprocess.run(command, **where)
        if name == "shoe_gan":
            assert "freezing runs on one device only" in ended.stderr
        else:
            assert "differ True" in ended.stdout, ended.stderr
            loss = 2 * float(ended.stdout.split()[-1])
            assert loss == pytest.approx(2 * np.log(2), rel=0.05)
