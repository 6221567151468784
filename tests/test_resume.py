"""A run resumes bit for bit, refuses what does not fit, and ends in one line."""

import os
import shutil
import signal
import time

import keras
import numpy as np
import pytest
from conftest import QUICK, ROOT, SCRIPTS, TINY, call, start

import dcgan_general
import utils

LENGTH = ["--steps-per-epoch", 2, "--epochs"]


def assert_same_run(first, second):
    """Weights, moments, random state, losses and grids are equal bit for bit."""
    with np.load(first / "checkpoint.npz") as one:
        with np.load(second / "checkpoint.npz") as other:
            assert len(one.files) > 15 and one.files == other.files
            for key in set(one.files) - {"run"}:
                assert np.array_equal(one[key], other[key]), key
    files = sorted(path.name for path in (first / "samples").iterdir())
    assert files == sorted(path.name for path in (second / "samples").iterdir())
    for name in ["losses.csv", *(f"samples/{file}" for file in files)]:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def wait_for(path, process):
    """Until the running script has written the file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def refusal(name, *options):
    """The one line in which a script ends."""
    with pytest.raises(SystemExit) as end:
        call(name, *options)
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    return end.value.code


@pytest.mark.parametrize("name", SCRIPTS)
def test_killed_at_any_moment_and_resumed(name, folder, tmp_path):
    """`KILLS=5 python -m pytest -k killed` kills each script five times, every second
    time in the middle of the writing of its files."""
    kills = int(os.environ.get("KILLS", 1))
    options = ["--images", folder, *QUICK[name], *LENGTH, kills + 2]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    call(name, *options, "--out", whole)
    for i in range(kills):
        process = start(ROOT / f"{name}.py", *options, "--out", out)
        wait_for(out / "samples" / f"step_{2 * (i + 1):07}.png", process)
        if (SCRIPTS.index(name) + i) % 2:
            while process.poll() is None and not [*out.glob(".*/checkpoint.npz")]:
                time.sleep(0.001)
        process.kill()
        process.communicate()
    call(name, *options, "--out", out)
    assert_same_run(whole, out)


@pytest.mark.skipif(os.name == "nt", reason="there Ctrl-C goes to whole groups")
def test_ctrl_c_ends_in_one_line(tmp_path):
    process = start(ROOT / "dcgan_general.py", *TINY, "--out", tmp_path, *LENGTH, 9999)
    wait_for(tmp_path / "checkpoint.npz", process)
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    epoch = len((tmp_path / "losses.csv").read_text().split()) - 1
    assert text.endswith(f"\nStopped: rerun it to go on after epoch {epoch}.\n")


def test_longer_runs_fresh_ones_and_other_settings(folder, tmp_path, capsys):
    options = ["--images", folder, *TINY, "--out", tmp_path / "run", *LENGTH]
    call("dcgan_general", *options, 1)
    (folder / "Picture 0.jpg").unlink()
    call("dcgan_general", *options, 2)
    assert "after epoch 1: 11 pictures before, 10 now" in capsys.readouterr().out
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    call("dcgan_general", *options, 2)  # is finished
    assert_same_run(tmp_path / "copy", tmp_path / "run")
    for name, was, now in (("seed", 0, 7), ("depth", 1, 2), ("batch_size", 4, 8)):
        option = "--" + name.replace("_", "-")
        line = refusal("dcgan_general", *options, 3, option, now)
        assert f"{name} was {was}, is {now}" in line and "--fresh" in line
    line = refusal("dcgan_pokemon", "--out", tmp_path / "run", "--batch-size", 4)
    assert "latent was uniform, is normal" in line
    other = dcgan_general.DCGAN(img_size=(8, 8, 3), depth=1, increment=3)
    with pytest.raises(SystemExit, match="--fresh"):
        utils.Run(other, tmp_path / "copy")  # without settings
    for more in ([], ["--bfloat16"]):
        call("dcgan_general", *options, 1, "--seed", 7, "--fresh", *more)
        assert len(list((tmp_path / "run" / "samples").iterdir())) == 3
    call("dcgan_general", *options, 1, "--seed", 7, "--out", tmp_path / "float32")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "float32", tmp_path / "run")
    file = tmp_path / "run" / "checkpoint.npz"
    file.write_bytes(file.read_bytes()[:5000])
    assert "--fresh" in refusal("dcgan_general", *options, 3, "--seed", 7)


def test_what_is_not_finite_never_replaces_a_checkpoint(folder, tmp_path):
    gan = call("dcgan_general", "--images", folder, *TINY, "--out", tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint.npz").read_bytes()
    gan.g_optimizer = keras.optimizers.SGD(np.nan)
    gan.compile(optimizer=None)
    run = utils.Run(gan, tmp_path / "run", {"fresh": True})
    images = utils.batches(utils.load_images(folder, (8, 8, 3)), 4)
    with pytest.raises(SystemExit, match="not finite"):
        gan.fit(images, steps_per_epoch=2, shuffle=False, callbacks=[run])
    assert (tmp_path / "run" / "checkpoint.npz").read_bytes() == before


def test_mistakes_give_one_line(tmp_path, monkeypatch, capsys):
    for name, options, says in (
        ("dcgan_pokemon", ["--epochz", 3], "unrecognized arguments: --epochz"),
        ("dcgan_pokemon", ["--epochs", 0], "invalid positive value: '0'"),
        ("shoe_gan", ["--experiment", 5], "invalid choice"),
        ("dcgan_grayscale", ["--img-size", 30, 28], "multiples of 4"),
        ("dcgan_general", ["--img-size", 64, 64, 2], "1 or 3 channels"),
    ):
        with pytest.raises(SystemExit, match="2"):
            call(name, *options)
        assert says in capsys.readouterr().err.split("\n")[-2]
    (tmp_path / "file").write_text("mine")
    assert "written" in refusal("dcgan_general", *TINY, "--out", tmp_path / "file")
    assert "nowhere" in refusal("dcgan_pokemon", "--images", "nowhere")
    assert "smaller --depth" in refusal("dcgan_general", "--depth", 12)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: 1 / 0)
    line = refusal("dcgan_grayscale", "--out", tmp_path / "run")
    assert "delete mnist in ~/.keras/datasets" in line and "--dataset toys" in line
