"""Smoke tests: each script for two steps on a folder, as its users run it."""

import shutil
import subprocess

import keras
import numpy as np
import pytest
from conftest import QUICK, ROOT, start
from PIL import Image

import sample


@pytest.mark.parametrize("name", QUICK)
def test_two_steps_in_an_empty_folder(name, folder, tmp_path):
    """The script and utils.py alone, one broken picture: all that a run leaves."""
    shutil.copy(ROOT / f"{name}.py", tmp_path)
    shutil.copy(ROOT / "utils.py", tmp_path)
    (folder / "broken.jpg").write_text("no picture")
    process = start(f"{name}.py", "--images", "pictures", *QUICK[name], cwd=tmp_path)
    text, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Left out: {'.jpg': 1}" in text and "broken.jpg" in text

    out = tmp_path / "runs" / name
    generator, settings = sample.load_run(out)
    discriminator = keras.models.load_model(out / "discriminator.keras")
    assert discriminator.input_shape == generator.output_shape
    row = np.genfromtxt(out / "losses.csv", delimiter=",", names=True)
    assert (row["epoch"], row["step"], settings["pictures"]) == (1, 2, 11)
    assert 0 < row["d_loss"] < 10 and 0 < row["g_loss"] < 10
    assert 0 < row["d_real"] < 1 and 0 < row["d_fake"] < 1
    with Image.open(out / "training.gif") as gif, Image.open(out / "real.png") as real:
        assert gif.n_frames == 3 and max(gif.size) <= 512 and gif.info["loop"] == 0
        assert real.size[0] == 8 * generator.output_shape[2]

    # sample.py draws the first picture of the grid of step 2.
    sample.main([str(out), "--count", "1"])
    picture = Image.open(out / "generated" / "seed_0" / "00000.png")
    grid = Image.open(out / "samples" / "step_0000002.png")
    corner = grid.crop((0, 0, *picture.size))
    assert np.abs(np.int16(corner) - np.int16(picture)).max() <= 1


def test_pasted_whole_as_into_a_notebook(folder, tmp_path):
    shutil.copy(ROOT / "utils.py", tmp_path)
    process = start("-", "--images", "pictures", cwd=tmp_path, stdin=subprocess.PIPE)
    _, errors = process.communicate((ROOT / "shoe_gan.py").read_text("utf-8"))
    assert process.returncode == 0, errors
    assert (tmp_path / "runs" / "shoe_gan" / "generator.keras").exists()
