"""A run resumes bit for bit, refuses what does not fit, and ends in one line."""

import os
import signal
import time

import keras
import numpy as np
import pytest
from conftest import QUICK, TINY, call, start

import dcgan_general
import utils


def assert_same_run(first, second):
    """Weights, moments, random state, losses and grids are equal bit for bit."""
    one, other = (dict(np.load(run / "checkpoint.npz")) for run in (first, second))
    assert len(one) > 15 and one.keys() == other.keys()
    for key in one.keys() - {"run"}:
        assert np.array_equal(one[key], other[key]), key
    for name in ("losses.csv", "training.gif"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def wait_for(pattern, out, process):
    """Until the running script has written such a file, or is done."""
    while not list(out.glob(pattern)) and process.poll() is None:
        time.sleep(0.001)
    assert not process.returncode, process.communicate()[1]


def refusal(*command):
    """The one line in which a script ends."""
    with pytest.raises(SystemExit) as end:
        call(*command)
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    return end.value.code


@pytest.mark.parametrize("name", QUICK)
def test_killed_at_any_moment_and_resumed(name, folder, tmp_path):
    """With KILLS=5 five times; every second time in the middle of writing its files."""
    kills = int(os.environ.get("KILLS", 1))
    options = ["--images", folder, *QUICK[name], "--epochs", kills + 2]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    call(name, *options, "--out", whole)
    for i in range(kills):
        process = start(f"{name}.py", *options, "--out", out)
        wait_for(f"samples/step_{2 * (i + 1):07}.png", out, process)
        if (list(QUICK).index(name) + i) % 2:
            wait_for(".*/checkpoint.npz", out, process)
        process.kill()
        process.communicate()
    call(name, *options, "--out", out)
    assert_same_run(whole, out)


@pytest.mark.skipif(os.name == "nt", reason="there Ctrl-C goes to whole groups")
def test_ctrl_c_ends_in_one_line(tmp_path):
    process = start("dcgan_general.py", *TINY[1:], "--out", tmp_path, "--epochs", 999)
    wait_for("checkpoint.npz", tmp_path, process)
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    epoch = len((tmp_path / "losses.csv").read_text().split()) - 1
    assert text.endswith(f"\nStopped: rerun it to go on after epoch {epoch}.\n")


def test_longer_runs_fresh_ones_and_what_does_not_fit(folder, tmp_path, capsys):
    tiny = [*TINY, "--images", folder, "--out", tmp_path]
    checkpoint = tmp_path / "checkpoint.npz"
    call(*tiny)
    (folder / "Picture 0.jpg").unlink()
    call(*tiny, "--epochs", 2)
    assert "after epoch 1 of 2: 11 pictures before, 10 now" in capsys.readouterr().out
    before = checkpoint.read_bytes()
    call(*tiny, "--epochs", 2)  # is finished
    for name, was, now in (("seed", 0, 7), ("depth", 1, 2), ("increment", 2, 3)):
        line = refusal(*tiny, f"--{name}", now)
        assert f"{name} was {was}, is {now}" in line and "--fresh" in line
    assert "is None; choose" in refusal(*TINY, "--out", tmp_path), "toys after pictures"
    assert "latent was" in refusal("dcgan_pokemon", *tiny[-4:])
    with pytest.raises(SystemExit, match="--fresh"):
        utils.Run(dcgan_general.DCGAN(), tmp_path)  # other weights
    assert "not finite" in refusal(*tiny, "--learning-rate", "nan", "--fresh")
    assert checkpoint.read_bytes() == before, "none of these replaces it"

    assert call(*tiny, "--bfloat16", "--fresh").generator.compute_dtype == "bfloat16"
    assert len(list((tmp_path / "samples").iterdir())) == 3
    checkpoint.write_bytes(before[:5000])
    assert "--fresh" in refusal(*tiny)


def test_mistakes_give_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        call("dcgan_grayscale", "--img-size", 30, 28)
    assert "multiples of 4" in capsys.readouterr().err.split("\n")[-2]
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(*TINY, "--out", tmp_path / "file")
    assert "nowhere" in refusal("dcgan_pokemon", "--images", "nowhere")
    assert "smaller --depth" in refusal("dcgan_general", "--depth", 12)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: 1 / 0)
    assert "delete its file in ~/.keras/datasets" in refusal("dcgan_grayscale")
