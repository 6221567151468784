"""Each script as its users run it, from the command line; first that it works."""

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import time
from unittest import mock

import keras
import numpy as np
import pytest
from conftest import (
    QUICK, ROOT, SCRIPTS, assert_same_run, call, refusal, run, start, wait_for
)  # fmt: skip
from PIL import Image, ImageSequence

import dcgan_general
import sample
import utils

TINY = ["--img-size", 8, 8, 3, "--depth", 1, "--increment", 2, "--batch-size", 4]


@pytest.mark.parametrize("name", SCRIPTS)
def test_two_steps_in_an_empty_folder(name, folder, tmp_path):
    """The script and utils.py alone: no noise, and all that a run leaves."""
    for file in (f"{name}.py", "utils.py"):
        shutil.copy(ROOT / file, tmp_path)
    (folder / "broken.jpg").write_text("no picture")
    options = ["--images", "pictures", "--steps", 2, *QUICK[name]]
    text, errors = run(name, *options, cwd=tmp_path)
    assert errors == "" and text.endswith("done\n") and "1 .jpg" in text
    out = tmp_path / "runs" / name
    assert "broken.jpg" in (out / "left_out.txt").read_text()
    generator, settings = sample.load_generator(out)
    (rows, columns), (height, width, _) = settings["sheet"], generator.output_shape[1:]
    assert settings["pictures"] == 11
    sheets = sorted((out / "samples").iterdir())
    assert [path.name for path in sheets] == [f"step_000000{i}.png" for i in range(3)]
    with Image.open(sheets[-1]) as sheet, Image.open(out / "real.png") as real:
        assert sheet.size == (columns * width, rows * height)
        assert real.size == (8 * width, 2 * height)
        shown = np.asarray(sheet)
    with Image.open(out / "training.gif") as gif:
        assert gif.n_frames == 3 and max(gif.size) <= 512 and gif.info["loop"] == 0
    row = np.genfromtxt(out / "losses.csv", delimiter=",", names=True, ndmin=1)[-1]
    assert row["step"] == 2
    assert 0 < row["d_loss"] < 10 and 0 < row["g_loss"] < 10
    assert 0 < row["d_real"] < 1 and 0 < row["d_fake"] < 1

    # The generator draws the very sheet of step 2.
    latent_dim = generator.input_shape[1]
    z = sample.sample_z(settings["latent"], rows * columns, latent_dim, seed=0)
    pictures = utils.draw(generator, z, settings["value_range"])
    drawn = np.int32(utils.sheet(pictures, columns))
    assert np.abs(shown - drawn).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_killed_at_any_moment_and_resumed(name, folder, tmp_path):
    """Bit for bit the uninterrupted run.

    `KILLS=5 python -m pytest -k killed` kills each script five times, every second time
    in the middle of the writing of a checkpoint.
    """
    kills, killed, rng = int(os.environ.get("KILLS", 1)), 0, random.Random(name)
    length = {"dcgan_general": 10, "dcgan_grayscale": 10, "dcgan256": 2}.get(name, 4)
    options = ["--images", folder, *QUICK[name], "--steps", length * (kills + 1)]
    whole, out, began = tmp_path / "whole", tmp_path / "killed", time.monotonic()
    call(name, *options, "--out", whole)
    duration = time.monotonic() - began
    for i in range(kills):
        (out / "settings.json").unlink(missing_ok=True)  # comes anew with the training
        process = start(name, *options, "--out", out)
        for file in ("settings.json", "checkpoint.npz"):
            wait_for(out / file, process)
        if (SCRIPTS.index(name) + i) % 2:
            while not (out / ".unfinished-checkpoint.npz").exists():
                if process.poll() is not None:
                    break
        else:
            time.sleep(0.1 * rng.random() * duration)
        killed += process.poll() is None
        process.kill()
        assert process.communicate()[1] == ""
    text = call(name, *options, "--out", out)
    assert killed > kills // 2 and re.search(r"steps [1-9]\d* to", text)
    assert_same_run(whole, out)


def test_the_same_seed_gives_the_same_run(folder, tmp_path):
    """Also with faster kernels and mixed precision, both of which change the run."""
    options = ["--images", folder, "--steps", 3, "--dropout", 0.25, *TINY]
    runs = [], ["--fast"], ["--bfloat16"], ["--fast", "--bfloat16"]
    outs = [tmp_path / str(i) for i in range(len(runs) + 1)]
    for more, out in zip((*runs, runs[-1]), outs):
        call("dcgan_general", *options, *more, "--out", out)
    assert_same_run(*outs[-2:])
    for one, other in itertools.combinations(outs[:-1], 2):
        with pytest.raises(AssertionError):
            assert_same_run(one, other)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there Ctrl-C goes to whole groups")
def test_ctrl_c_ends_in_order_and_the_same_command_goes_on(folder, tmp_path):
    """In the middle of an epoch; and the folder of pictures may move in between."""
    options = ["--images", folder, *QUICK["dcgan_grayscale"], "--steps", 30]
    call("dcgan_grayscale", *options, "--out", tmp_path / "whole")
    process = start("dcgan_grayscale", *options, "--out", tmp_path / "run")
    wait_for(tmp_path / "run" / "samples" / "step_0000005.png", process)
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and errors == "" and "stopped" in text
    assert "stopping" in text
    with utils.first_ctrl_c() as pressed, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        assert pressed
        signal.raise_signal(signal.SIGINT)  # somebody who cannot wait
    assert (tmp_path / "run" / "generator.keras").exists()
    options[1] = folder.rename(tmp_path / "moved")
    text = call("dcgan_grayscale", *options, "--out", tmp_path / "run")
    assert re.search(r"steps [1-9]\d* to 30", text)
    assert_same_run(tmp_path / "whole", tmp_path / "run", stops=1)


@pytest.mark.slow
def test_longer_runs_fresh_ones_and_other_settings(folder, tmp_path):
    options = ["--images", folder, *TINY, "--out", tmp_path / "run"]
    call("dcgan_general", *options, "--epochs", 1)
    copy = tmp_path / "run" / "samples" / "step_0000001 copy.png"
    shutil.copy(copy.with_name("step_0000001.png"), copy)
    text = call("dcgan_general", *options, "--epochs", 2)
    assert "steps 3 to 6" in text
    copy.unlink()
    call("dcgan_general", *options[:-1], tmp_path / "once", "--epochs", 2)
    assert_same_run(tmp_path / "once", tmp_path / "run", stops=1)
    text = call("dcgan_general", *options, "--epochs", 2)
    assert "finished already, at step 6" in text
    assert_same_run(tmp_path / "once", tmp_path / "run", stops=1)
    pictures = np.load(tmp_path / "run" / "images.npy")
    longer = [*options, "--epochs", 3]
    for other in (["--seed", 7], ["--depth", 2], ["--fit", "crop"], ["--fast"]):
        assert f"has {other[0][2:]}" in refusal("dcgan_general", *longer, *other)
    for path in sorted(folder.rglob("*.*")):
        Image.new("RGB", (9, 9), "red").save(path)
    assert "has checksum" in refusal("dcgan_general", *longer)
    assert "has pictures 11, not 2000" in refusal("dcgan_general", *longer[2:])
    assert (np.load(tmp_path / "run" / "images.npy") == pictures).all()
    text = call("dcgan_general", *options, "--seed", 7, "--steps", 2, "--fresh")
    assert "steps 0 to 2" in text
    samples = tmp_path / "run" / "samples"
    assert len(list(samples.iterdir())) == 3
    shutil.rmtree(samples)
    call("dcgan_general", *options, "--seed", 7, "--steps", 3)
    assert {path.name[5:12] for path in samples.iterdir()} == {"0000002", "0000003"}


def test_a_damaged_checkpoint_gives_one_line(folder, tmp_path):
    options = ["--images", folder, *TINY, "--out", tmp_path / "run", "--steps"]
    call("dcgan_general", *options, 2)
    file = tmp_path / "run" / "checkpoint.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    for damaged in (data, data[: len(data) // 2], b""):
        file.write_bytes(damaged)
        errors = refusal("dcgan_general", *options, 3)
        assert "does not load" in errors and "--fresh" in errors


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows cannot limit the size of files")
def test_a_full_disk_gives_one_line_and_leaves_the_last_checkpoint(folder, tmp_path):
    import resource

    options = ["--images", folder, *TINY, "--out", tmp_path / "run", "--steps"]
    call("dcgan_general", *options, 9, "--out", tmp_path / "whole")
    call("dcgan_general", *options, 2)
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (5000, 100):  # no checkpoint, nothing at all
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        try:
            errors = refusal("dcgan_general", *options, 9)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
        assert "cannot be written: File too large" in errors
        assert not list((tmp_path / "run").rglob(".unfinished-*"))
    text = call("dcgan_general", *options, 9)
    assert "steps 2 to 9" in text, "the last checkpoint that fitted"
    assert_same_run(tmp_path / "whole", tmp_path / "run", stops=1)


def test_a_run_that_breaks_off_in_its_last_save_is_completed(folder, tmp_path):
    options = ["--images", folder, *TINY, "--out", tmp_path / "run", "--steps", 3]
    for name in ("losses.csv", "training.gif"):
        (tmp_path / "run" / name).mkdir(parents=True)
        assert f"{name} cannot be written" in refusal("dcgan_general", *options)
        assert np.load(tmp_path / "run" / "checkpoint.npz")["step"] == 2
        (tmp_path / "run" / name).rmdir()
    call("dcgan_general", *options)
    assert (tmp_path / "run" / "training.gif").is_file()


def test_paths_with_brackets_and_home_and_files_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    pictures = tmp_path / "a [b]\\c" / "x.npy"  # two folders on Windows
    pictures.parent.mkdir(parents=True)
    np.save(pictures, np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), np.uint8))
    options = ["--images=~/a [b]\\c/x.npy", "--out=~/r [1]\\d", *TINY, "--steps"]
    call("dcgan_general", *options, 2)
    assert "steps 2 to 3" in call("dcgan_general", *options, 3)
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/run"):
        errors = refusal("dcgan_general", *TINY, "--steps", 1, "--out", tmp_path / out)
        assert "cannot be written" in errors
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("name", "options", "says"), [
    ("dcgan_pokemon", ["--epoch", 3], "unrecognized arguments: --epoch"),
    ("dcgan_pokemon", ["--steps", 0], "0 is not from 1 to"),
    ("dcgan_pokemon", ["--steps", "many"], "invalid int value: 'many'"),
    ("dcgan_pokemon", ["--steps", 2, "--epochs", 2], "not allowed with"),
    ("dcgan_pokemon", ["--batch-size", -4], "-4 is not from 1 to"),
    ("dcgan_pokemon", ["--background", "whitish"], "invalid getrgb value"),
    ("dcgan_pokemon", ["--seed", -1], "-1 is not from 0"),
    ("dcgan_pokemon", ["--fit", "stretch"], "invalid choice"),
    ("dcgan_pokemon", ["--images", "nowhere"], "nowhere: No such file"),
    ("dcgan_pokemon", ["--images", ""], "the path is empty"),
    ("dcgan_pokemon", ["--out", ""], "the path is empty"),
    ("dcgan_pokemon", ["--out", 300 * "x"], "cannot be written: File name too long"),
    ("shoe_gan", ["--experiment", 5], "invalid choice"),
    ("dcgan256", ["--batch-size", 7], "must be even"),
    ("dcgan_grayscale", ["--img-size", 30, 28], "divisible by 4"),
    ("dcgan_grayscale", ["--dataset", "mnist", "--images", "."], "not both"),
    ("dcgan_general", ["--depth", 12], "smaller depth"),
    ("dcgan_general", ["--img-size", 64, 64, 2], "1 or 3 channels"),
    ("dcgan_general", ["--dropout", 1.5], "1.5 is not from 0"),
])  # fmt: skip
def test_a_mistake_gives_one_line_and_status_2(name, options, says, tmp_path):
    assert says in refusal(name, "--out", tmp_path / "run", *options)


def test_downloads_that_fail_or_broke_off_say_what_to_do(monkeypatch):
    fail = mock.Mock(side_effect=EOFError("Compressed file ended"))
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", fail)
    monkeypatch.setattr(keras.utils, "get_file", fail)
    for dataset in ("fashion_mnist", "kmnist"):
        errors = refusal("dcgan_grayscale", "--dataset", dataset)
        assert "delete what ~/.keras/datasets has of it" in errors
        assert "--images" in errors


def test_another_utils_another_backend_and_no_utils_give_one_line(tmp_path):
    shutil.copy(ROOT / "shoe_gan.py", tmp_path)
    for _ in range(2):
        _, errors = run("shoe_gan", status=1, cwd=tmp_path)
        assert "utils.py beside the script" in errors and errors.count("\n") == 1
        (tmp_path / "utils.py").write_text("x = 1")
    shutil.copy(ROOT / "utils.py", tmp_path)
    (tmp_path / "keras.py").write_text("class backend:\n    backend = lambda: 'jax'\n")
    _, errors = run("shoe_gan", status=1, cwd=tmp_path)
    assert errors == "Keras runs on jax here: restart Python\n"


def test_out_of_memory_and_ctrl_c_before_the_training_give_one_line(capsys):
    full = utils.tf.errors.ResourceExhaustedError(None, None, "OOM when\n...")
    memory = "error: out of memory: lower --batch-size (score.py: --pictures)\n"
    ends = {MemoryError(): memory, full: memory, KeyboardInterrupt(): "stopped\n"}
    for error, says in ends.items():
        with pytest.raises(SystemExit, match="2"), utils.plain_errors():
            raise error
        assert capsys.readouterr().err == says


def test_the_general_class_trains_on_a_list_of_arrays(tmp_path):
    options = {"img_size": (9, 14, 3), "depth": 1, "increment": 4, "batch_size": 2}
    pictures = np.random.default_rng(0).integers(0, 256, (5, 9, 14, 3), dtype=np.uint8)
    broken = keras.optimizers.SGD(np.nan)
    gan = dcgan_general.DCGAN(tmp_path, optimizer=broken, **options)
    with pytest.raises(utils.InputError, match=r"not finite at step \d"):
        gan.train(list(pictures), epochs=1)
    assert not (tmp_path / "generator.keras").exists()
    assert not (tmp_path / "checkpoint.npz").exists()
    gan = dcgan_general.DCGAN(tmp_path, optimizer="adam", **options)
    gan.train(list(pictures), epochs=1)
    assert "\n1,3," in (tmp_path / "losses.csv").read_text()
    with pytest.raises(utils.InputError, match="has checksum"):
        gan.train(list(255 - pictures), epochs=2)
    assert np.array_equal(np.load(tmp_path / "images.npy"), pictures)
    gan.d_optimizer.learning_rate = 1e-4
    with pytest.raises(utils.InputError, match="has learning_rates"):
        gan.train(list(pictures), epochs=2)


def test_what_is_written_when(tmp_path, monkeypatch):
    """Five epochs of three steps, after the sixth of which there is a break of eleven
    minutes; each step's loss is its number."""

    class Counter(dcgan_general.DCGAN):
        def train_step(self, images):
            self.g_optimizer.iterations.assign_add(1)
            self.means[0].update_state(self.g_optimizer.iterations)
            return {"d_loss": self.means[0].result()}

    gan = Counter(img_size=(8, 8, 3), depth=1, increment=2)
    clock = mock.Mock(monotonic=lambda: 660 * (gan.g_optimizer.iterations.numpy() > 6))
    monkeypatch.setattr(utils, "time", clock)
    savez, stream = mock.Mock(wraps=np.savez), mock.Mock(wraps=utils.batches)
    monkeypatch.setattr(np, "savez", savez)
    monkeypatch.setattr(utils, "batches", stream)
    parser = utils.Parser("t", "", batch_size=4, length="")
    args = parser.parse_args(["--out", tmp_path, "--epochs", 5])
    options = {"batch_size": 4, "sheet_size": (2, 2), "sample_every": "2 epochs"}
    images = np.zeros((9, 8, 8, 3), np.uint8)
    utils.train(gan, images, args, **options, with_replacement=True)
    rows = [f"{epoch},{3 * epoch},{3 * epoch - 1}" for epoch in range(1, 6)]
    text = (tmp_path / "losses.csv").read_text()
    assert text.split() == ["epoch,step,d_loss", *rows]
    sheets = [0, 1, 2, 5, 10, 15]  # two epochs are taken as 10 steps
    names = [path.name for path in sorted((tmp_path / "samples").iterdir())]
    assert names == [f"step_{step:07}.png" for step in sheets]
    saved = [call.kwargs["step"] for call in savez.call_args_list]
    assert saved == [1, 2, 5, 7, 10, 15]
    assert stream.call_args.args[1:] == (4, 0, 0, True)  # with replacement


@pytest.mark.parametrize("columns, metrics", [(80, 2), (120, 4)])
def test_the_bar_fits_the_terminal(columns, metrics, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(utils, "BAR_SECONDS", 0)
    stopped = mock.MagicMock()  # asked twice a step: yes at step 3
    stopped.__bool__.side_effect = [False] * 4 + [True] * 2
    stopping = mock.Mock(return_value=contextlib.nullcontext(stopped))
    monkeypatch.setattr(utils, "first_ctrl_c", stopping)
    options = ["--images", folder, "--out", tmp_path / "run", "--steps", 500_000]
    text = call("dcgan_general", *TINY, *options)
    bars = re.findall(r"\d/500000[^\r\n]*", re.sub(r"\x1b\[\d+m|\x08", "", text))
    assert [len(re.findall(" - [dg]_", bar)) for bar in bars] == [metrics] * 3
    assert max(map(len, bars)) <= columns - len("     ")


def test_the_film_shows_sixty_sheets_in_their_order(tmp_path):
    for i in range(90):
        Image.new("L", (600, 9), 2 * i).save(tmp_path / f"step_{i:07}.png")
    utils.save_film(tmp_path / "x.gif", tmp_path)
    with Image.open(tmp_path / "x.gif") as film:
        frames = ImageSequence.Iterator(film)
        shades = [frame.convert("L").getpixel((0, 0)) for frame in frames]
    assert len(shades) == 60 and film.size[0] == 512
    assert shades == sorted(shades) and (shades[0], shades[-1]) == (0, 178)


def test_batches_are_shuffled_passes_from_any_step_on():
    images = np.arange(10)
    stream = utils.batches(images, 4, seed=1)
    epochs = [np.concatenate([next(stream) for _ in range(3)]) for _ in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    later = utils.batches(images, 4, seed=1, start=4)
    assert np.array_equal(next(later), epochs[1][4:8])
    drawn = utils.batches(images, 4, seed=1, with_replacement=True)
    counts = np.bincount(np.concatenate([next(drawn) for _ in range(500)]))
    assert counts.min() > 140 and counts.max() < 260, "each about 200 times"


def test_the_readme_and_ci_run_the_same_command():
    *_, command = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert command.endswith("-m pytest")
    assert f"\n{command}\n" in (ROOT / "README.md").read_text("utf-8")
