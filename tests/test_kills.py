"""Killed at any moment, every script goes on as if nothing had happened, bit for bit.

One kill for each script here; `KILLS=6 python -m pytest tests/test_kills.py` does six.
Every second one comes in the middle of the writing of a checkpoint.
"""

import os
import random
import time
import zipfile

import pytest
from conftest import SCRIPTS
from PIL import Image
from test_scripts import SHAPES, assert_same_run, rows_of, run, start, wait_for

KILLS = int(os.environ.get("KILLS", 1))
STEPS = {"dcgan256": 6, "dcgan_general": 30, "dcgan_grayscale": 30, "dcgan_pokemon": 12,
         "shoe_gan": 12}  # from one kill to the next, or so  # fmt: skip


def wait_until_writing(out, process, times):
    """Until a checkpoint is being written the so manieth time, or the process ends."""
    before = {*(out / "checkpoints").glob(".unfinished-*")}  # of the last kill
    for wanted in [True, *[False, True] * (times - 1)]:
        while bool({*(out / "checkpoints").glob(".unfinished-*")} - before) != wanted:
            if process.poll() is not None:
                return
            time.sleep(0.001)


def assert_whole(out):
    """Nothing that stands in the folder under its own name is half a file."""
    for path in [*out.glob("*.png"), *out.glob("samples/*.png"), *out.glob("*.gif")]:
        if path.name.startswith("."):
            continue  # unfinished, under another name
        with Image.open(path) as picture:
            picture.load()
    if (out / "losses.csv").exists():
        assert all(len(row) == len(rows_of(out)[0]) for row in rows_of(out))
    if (out / "generator.keras").exists():
        with zipfile.ZipFile(out / "generator.keras") as file:
            assert file.testzip() is None
    assert len(list((out / "checkpoints").glob("step_*"))) <= 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_killed_at_any_moment_and_resumed(name, folder, tmp_path):
    options = ["--images", folder, "--batch-size", 4, *SHAPES[name][2]]
    options += ["--steps", STEPS[name] * (KILLS + 1)]
    began, whole = time.monotonic(), tmp_path / "whole"
    process = start(name, *options, "--out", whole)
    wait_for(whole / "samples" / "step_000001.png", process)
    startup = time.monotonic() - began
    assert process.communicate()[1] == ""
    duration = time.monotonic() - began - startup

    out, rng, lines, kills = tmp_path / "killed", random.Random(name), [], 0
    for i in range(KILLS):
        process = start(name, *options, "--out", out)
        if (SCRIPTS.index(name) + i) % 2:
            wait_until_writing(out, process, times=rng.choice([1, 2, 2, 3]))
        else:
            time.sleep(0.9 * startup + 0.7 * rng.random() * duration / KILLS)
        kills += process.poll() is None
        process.kill()
        text, errors = process.communicate()
        assert errors == "", "it was killed, or ended in order"
        lines += [line for line in text.splitlines() if "at step" in line]
        if out.exists():
            assert_whole(out)
    text, errors = run(name, *options, "--out", out)
    assert errors == "" and "damaged" not in text
    lines += [line for line in text.splitlines() if "at step" in line]
    print(name, f"{kills} kills", *lines, sep="\n")
    assert kills > KILLS // 2
    assert_whole(out)
    assert_same_run(whole, out)
    assert not list(out.rglob(".unfinished-*"))
