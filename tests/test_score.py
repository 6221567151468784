"""The score, against the paper's definition; and that a training improves it."""

import keras
import numpy as np
import pytest

import dcgan_general
import score
import utils


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    monkeypatch.setattr(score, "DIRECTIONS", 128)
    monkeypatch.setattr(score, "PATCHES", 64)


def distance(first, second, seed=0):
    patches = [score.patches(images, seed) for images in (first, second)]
    return np.array(score.sliced_wasserstein(*patches, seed))


def test_the_distance_is_that_of_the_paper():
    """One level, the same places and directions, everything else written anew."""
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, high, (6, 16, 16, 3), dtype=np.uint8) for high in (256, 99)]
    directions = np.random.default_rng((7, 0)).normal(size=(147, 128))
    directions /= np.sqrt((directions**2).sum(0))
    rng = np.random.default_rng((7, 0, 0))
    y, x = rng.integers(10, size=(6, 64)), rng.integers(10, size=(6, 64))
    projected = []
    for images in sets:
        rows = np.array([
            images[n, i : i + 7, j : j + 7].transpose(2, 0, 1).astype(float)
            for n in range(6) for i, j in zip(y[n], x[n])
        ])  # fmt: skip
        rows -= rows.mean((0, 2, 3), keepdims=True)
        rows /= rows.std((0, 2, 3), keepdims=True)
        projected.append(np.sort(rows.reshape(len(rows), -1) @ directions, axis=0))
    wanted = 1000 * np.abs(projected[0] - projected[1]).mean()
    assert distance(*sets, seed=7)[0] == pytest.approx(wanted, rel=1e-3)


def test_from_the_command_line(trained, capsys):
    """A generator of two steps is no better than before."""
    score.main([str(trained), "--pictures", "64"])
    lines = capsys.readouterr().out.split("\n")
    rows = [line for line in lines if line.startswith(("gene", "real,", "before"))]
    generated, real, before = (float(row.split()[-1]) for row in rows)
    assert 0 < real < 0.5 * generated
    assert generated == pytest.approx(before, rel=0.2)
    assert "fewer than half are near copies" in lines[-3]


def test_a_short_training_learns():
    """A missing update of either network, swapped labels, or a generator that trains in
    inference mode keep the score above 0.6 of that before the training."""
    toys = utils.load_images(None, (16, 16, 3))[:600]
    gan = dcgan_general.DCGAN(
        img_size=(16, 16, 3), depth=2, input_size=32, dropout=0.0,
        optimizer=keras.optimizers.Adam(2e-3, beta_1=0.5), d_learning_rate=5e-4,
    )  # fmt: skip
    z = gan.sample_z(256, seed=5)

    def found():
        pictures = utils.to_uint8(gan.predict(z, verbose=0), (-1, 1))
        return distance(toys[:256], pictures)[0]

    before = found()
    gan.compile(optimizer=None)
    gan.fit(utils.batches(toys, 32), steps_per_epoch=304, shuffle=False, verbose=0)
    assert found() < 0.35 * before
