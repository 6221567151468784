"""The score: against the paper's definition in double precision."""

import re
import shutil
from unittest import mock

import keras
import numpy as np
import pytest
from conftest import call, refusal
from PIL import Image

import dcgan_general
import score
import utils

pytestmark = pytest.mark.xdist_group("trained")  # which is made once in a process


def toy_images(count, side, seed=0):
    toys = [Image.fromarray(utils.draw_toy((seed, i))) for i in range(count)]
    return np.stack([utils.fit_picture(toy, (side, side, 3)) for toy in toys])


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    monkeypatch.setattr(score, "DIRECTIONS", 128)
    monkeypatch.setattr(score, "PATCHES", 64)


def distance(first, second, seed=0):
    patches = [score.patches(images, seed) for images in (first, second)]
    return np.array(score.sliced_wasserstein(*patches, seed))


def smooth(image):
    """The binomial filter of 5×5 pixels, mirrored at the borders."""
    taps, padded = np.array([1, 4, 6, 4, 1]) / 16, np.pad(image, 2, "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    return (windows * np.outer(taps, taps)).sum((2, 3))


@pytest.mark.parametrize("size", [(32, 40), (57, 29), (28, 28)])
def test_the_pyramid_is_that_of_the_paper(size):
    images = np.random.default_rng(0).integers(0, 256, (1, *size, 2)).astype(np.uint8)
    levels = score.laplacian_pyramid(images)
    for channel in range(2):
        image, wanted = images[0, :, :, channel].astype(float), []
        while min(image.shape) >= 28:
            small, large = smooth(image)[::2, ::2], np.zeros(image.shape)
            large[::2, ::2] = small
            wanted.append(image - 4 * smooth(large))
            image = small
        for level, one in zip(levels, [*wanted, image], strict=True):
            assert np.abs(level[0, :, :, channel] - one).max() < 1e-3


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
        for channel in range(3):
            values = rows[:, channel]
            rows[:, channel] = (values - values.mean()) / values.std()
        projected.append(np.sort(rows.reshape(len(rows), -1) @ directions, axis=0))
    wanted = 1000 * np.abs(projected[0] - projected[1]).mean()
    assert distance(*sets, seed=7)[0] == pytest.approx(wanted, rel=1e-3)


def test_copies_and_collapse():
    real, new = toy_images(200, 64), toy_images(100, 64, seed=1)
    generated, floor, spread, real_spread = score.variety(new, real[:100], real)
    assert generated > 0.8 * floor and spread > 0.8 * real_spread
    generated, floor, *_ = score.variety(real[:50], real[:100], real)
    assert generated < 1e-3 < floor, "copies"
    *_, spread, real_spread = score.variety(new[:1].repeat(60, 0), real[:100], real)
    assert spread < 0.01 * real_spread, "collapse"
    twins = np.concatenate([real, real])
    assert score.variety(new, twins[:100], twins)[1] > 1, "neither itself nor its twin"


def test_from_the_command_line(trained, tmp_path, monkeypatch):
    """Before any training the generator is its own ceiling; real pictures are best."""
    text = call("score", trained, "--pictures", 64)
    assert "64 of each kind, 28x28x1; 2,000 real ones in all" in text
    rows = dict(re.findall(r"(?m)^([a-z][a-z, ]+?)  +([0-9. ]+)$", text))
    values = {name: [float(v) for v in row.split()] for name, row in rows.items()}
    assert all(len(row) == 3 for row in values.values()), "28, 14 and the mean"
    mean = {name: row[2] for name, row in values.items()}
    assert 0 < mean["real, other half"] < 0.5 * mean["generated"]
    assert mean["generated"] == pytest.approx(mean["before training"], rel=0.2)
    assert mean["generated"] != mean["before training"]
    generated, floor, start = mean.values()
    share = int(re.search(r"(-?\d+)% of the way", text)[1])
    assert share == pytest.approx(100 * (start - generated) / (start - floor), abs=1)
    assert "fewer than half are near copies" in text and "collapsed, or nearly" in text
    np.save(tmp_path / "floats.npy", np.load(trained / "images.npy") / 255)
    same = call("score", trained, "--pictures", 64, "--images", tmp_path / "floats.npy")
    assert same.endswith(text), "the same numbers"
    real = np.load(trained / "images.npy")
    draw = mock.Mock(side_effect=[real[:64], 255 - real[:64]])
    monkeypatch.setattr(utils, "draw", draw)
    text = call("score", trained, "--pictures", 64)
    assert "half or more are near copies" in text and ": no collapse seen" in text
    (_, z, value_range), _ = draw.call_args_list[0]
    assert z.shape == (64, 200) and np.abs(z).max() <= 1 and value_range == [-1, 1]


def test_mistakes_give_one_line(trained, tmp_path):
    np.save(tmp_path / "few.npy", np.full((31, 28, 28, 1), 200, np.uint8))
    other = shutil.copytree(trained, tmp_path / "other")
    np.save(other / "images.npy", np.load(trained / "images.npy")[::-1])
    for options, says in (
        ([tmp_path], "there is no generator"),
        ([other], "not this run's images.npy"),
        ([trained, "--images", tmp_path / "few.npy"], "name 32 or more of that shape"),
        ([trained, "--images", "nowhere"], "nowhere: No such file"),
        ([trained, "--images", tmp_path], f"error: {tmp_path}: "),
        ([trained, "--pictures", 0], "not from 16"),
    ):
        assert says in refusal("score", *options)


@pytest.mark.slow
def test_a_short_training_learns(tmp_path):
    """A missing update of either network, swapped labels, or a generator that trains in
    inference mode keep the score above 0.6 of that before the training."""
    toys = toy_images(600, 16)
    gan = dcgan_general.DCGAN(
        tmp_path / "run", img_size=(16, 16, 3), depth=2, increment=32, input_size=32,
        dropout=0.0, optimizer=keras.optimizers.Adam(2e-3, beta_1=0.5),
        d_learning_rate=5e-4,
    )  # fmt: skip
    z = gan.sample_z(256, seed=5)

    def found():
        return distance(toys[:256], utils.draw(gan.generator, z, (-1, 1)))[0]

    before = found()
    gan.train(toys, epochs=16)  # 304 steps
    assert found() < 0.35 * before
