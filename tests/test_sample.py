"""Pictures from a finished generator: single ones, and walks through latent space."""

import re
import shutil
from unittest import mock

import numpy as np
import pytest
from conftest import call, refusal
from PIL import Image

import sample

pytestmark = pytest.mark.xdist_group("trained")  # which is made once in a process


def pictures(out, *options):
    call("sample", out, *options)
    seed = options[options.index("--seed") + 1] if "--seed" in options else 3
    paths = sorted((out / "generated" / f"seed_{seed}").glob("[0-9]*.png"))
    return [np.asarray(Image.open(path)) for path in paths]


def test_first_come_the_pictures_of_the_sheets(trained, tmp_path):
    found = pictures(trained, "--count", 70)
    assert len({picture.tobytes() for picture in found}) == 70
    with Image.open(trained / "samples" / "step_0000002.png") as sheet:
        rows = np.asarray(sheet).reshape(5, 28, 5, 28)
    sheet = np.int16(rows).swapaxes(1, 2).reshape(25, 28, 28)
    assert np.abs(sheet - found[:25]).max() <= 1
    with Image.open(trained / "generated" / "seed_3" / "sheet.png") as shown:
        assert shown.size == (9 * 28, 8 * 28)
    other = shutil.copytree(trained, tmp_path / "other")
    text = (other / "settings.json").read_text()
    (other / "settings.json").write_text(re.sub(r"-1,\s+1", "0, 1", text))
    black = np.maximum(2 * np.int16(found[:9]) - 255, 0)  # of a range from 0 to 1
    assert np.abs(pictures(other, "--count", 9) - black).max() <= 2


def test_the_seed_decides_and_the_count_does_not(trained, monkeypatch):
    monkeypatch.setattr(sample, "WALK_FRAMES", 12)
    walk = mock.Mock(wraps=sample.walk)
    monkeypatch.setattr(sample, "walk", walk)
    more = pictures(trained, "--count", 66, "--seed", 0)
    mine = trained / "generated" / "seed_0" / "00001 the best.png"
    shutil.copy(mine.with_name("00001.png"), mine)
    call("sample", trained, "--count", 3, "--seed", 0, "--walk")
    assert mine.exists()
    mine.unlink()
    some = pictures(trained, "--count", 3, "--seed", 0)
    assert len(some) == 3 and np.array_equal(some, more[:3])
    assert not np.array_equal(some, pictures(trained, "--count", 3, "--seed", 6))
    assert walk.call_args.args == ("uniform", 16, 12, 200, 0)
    with Image.open(trained / "generated" / "seed_0" / "walk.gif") as gif:
        assert gif.size == (112, 112) and gif.n_frames == 12 and gif.info["loop"] == 0


def test_no_generator_or_a_damaged_one_gives_one_line(tmp_path):
    for says in ("there is no generator", "cannot be read"):
        assert says in refusal("sample", tmp_path)
        (tmp_path / "generator.keras").write_bytes(b"no")


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_walks_are_smooth_closed_and_where_z_are(latent):
    z = sample.walk(latent, walks=3, frames=120, latent_dim=100, seed=0)
    assert z.shape == (120, 3, 100) and z.dtype == np.float32
    steps = np.linalg.norm(np.roll(z, -1, axis=0) - z, axis=2)  # last to first, too
    assert steps.max() < 2.5 * steps.mean()
    turns = np.linalg.norm(np.roll(z, -2, 0) - 2 * np.roll(z, -1, 0) + z, axis=2)
    assert turns.max() < 0.3 * steps.mean()
    assert steps.sum(0).min() > 4 * np.linalg.norm(z, axis=2).mean(), "it goes far"
    if latent == "normal":
        assert np.allclose(np.linalg.norm(z, axis=2), 10, rtol=1e-4)
    else:
        assert np.abs(z).max() < 1 and abs(z.std() - 3**-0.5) < 0.05
