"""A run resumes bit for bit, refuses what does not fit, and ends in one line."""

import os
import shutil
import signal
import time

import keras
import numpy as np
import pytest
from conftest import QUICK, ROOT, TINY, call, start

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


def refusal(name, *options):
    """The one line in which a script ends."""
    with pytest.raises(SystemExit) as end:
        call(name, *options)
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    return end.value.code


@pytest.mark.parametrize("name", QUICK)
def test_killed_at_any_moment_and_resumed(name, folder, tmp_path):
    """`KILLS=5 python -m pytest -k killed` kills each script five times, every second
    time in the middle of the writing of its files."""
    kills = int(os.environ.get("KILLS", 1))
    options = ["--images", folder, *QUICK[name], "--epochs", kills + 2]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    call(name, *options, "--out", whole)
    for i in range(kills):
        process = start(ROOT / f"{name}.py", *options, "--out", out)
        wait_for(f"samples/step_{2 * (i + 1):07}.png", out, process)
        if (list(QUICK).index(name) + i) % 2:
            wait_for(".*/checkpoint.npz", out, process)
        process.kill()
        process.communicate()
    call(name, *options, "--out", out)
    assert_same_run(whole, out)


@pytest.mark.skipif(os.name == "nt", reason="there Ctrl-C goes to whole groups")
def test_ctrl_c_ends_in_one_line(tmp_path):
    options = [*TINY, "--out", tmp_path, "--epochs", 999]
    process = start(ROOT / "dcgan_general.py", *options)
    wait_for("checkpoint.npz", tmp_path, process)
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    epoch = len((tmp_path / "losses.csv").read_text().split()) - 1
    assert text.endswith(f"\nStopped: rerun it to go on after epoch {epoch}.\n")


def test_longer_runs_fresh_ones_and_other_settings(folder, tmp_path, capsys):
    run, copy = tmp_path / "run", tmp_path / "copy"
    general = ["dcgan_general", "--images", folder, *TINY, "--out", run]
    call(*general)
    (folder / "Picture 0.jpg").unlink()
    call(*general, "--epochs", 2)
    assert "after epoch 1: 11 pictures before, 10 now" in capsys.readouterr().out
    shutil.copytree(run, copy)
    call(*general, "--epochs", 2)  # is finished
    assert_same_run(copy, run)

    for name, was, now in (("seed", 0, 7), ("depth", 1, 2), ("batch_size", 4, 8)):
        line = refusal(*general, "--" + name.replace("_", "-"), now)
        assert f"{name} was {was}, is {now}" in line and "--fresh" in line
    assert "latent was uniform, is normal" in refusal("dcgan_pokemon", "--out", run)
    with pytest.raises(SystemExit, match="--fresh"):
        utils.Run(dcgan_general.DCGAN(), copy)  # other weights

    gan = call(*general, "--seed", 7, "--bfloat16", "--fresh")
    assert gan.generator.dtype_policy.name == "mixed_bfloat16"
    assert len(list((run / "samples").iterdir())) == 3
    checkpoint = run / "checkpoint.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    assert "--fresh" in refusal(*general, "--seed", 7, "--bfloat16")


def test_what_is_not_finite_never_replaces_a_checkpoint(folder, tmp_path):
    general = ["dcgan_general", "--images", folder, *TINY, "--out", tmp_path]
    call(*general)
    before = (tmp_path / "checkpoint.npz").read_bytes()
    assert "not finite" in refusal(*general, "--learning-rate", "nan", "--fresh")
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


def test_mistakes_give_one_line(tmp_path, monkeypatch, capsys):
    for name, options, says in (
        ("dcgan_pokemon", ["--epochs", 0], "invalid positive value: '0'"),
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
