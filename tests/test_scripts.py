"""Each script as its users run it: as a process, from the command line."""

import contextlib
import csv
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import ROOT, SCRIPTS
from PIL import Image

import disk
import utils

SHAPES = {  # script: size of a picture, rows and columns of a sheet, quick options
    "dcgan256": ((256, 256), (6, 8), ["--batch-size", "4"]),
    "dcgan_general": (
        (50, 37),
        (5, 5),
        ["--img-size", "37", "50", "3", "--depth", "2"],
    ),
    "dcgan_grayscale": ((16, 12), (8, 8), ["--img-size", "12", "16"]),
    "dcgan_pokemon": ((64, 64), (4, 4), ["--batch-size", "4"]),
    "shoe_gan": ((64, 64), (8, 8), ["--batch-size", "4"]),
}
SMALL = ["--img-size", "8", "8", "--batch-size", "4"]  # for dcgan_grayscale


def start(name, *options, **keywords):
    command = [sys.executable, str(ROOT / f"{name}.py"), *map(str, options)]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords
    )


def run(name, *options, status=0):
    """Output and errors of a script that must end with the status."""
    process = start(name, *options)
    try:
        out, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == status, out + errors
    return out, errors


def call(name, *options, status=0):
    """The same within this process, which saves the start of another."""
    out, errors, found = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            importlib.import_module(name).main([str(option) for option in options])
        except SystemExit as end:
            found = end.code
    assert found == status, out.getvalue() + errors.getvalue()
    return out.getvalue(), errors.getvalue()


def wait_for(path, process):
    """Until the running script has written the file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(path)
        time.sleep(0.02)


def rows_of(out):
    with open(out / "losses.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", SCRIPTS)
def test_two_steps_from_the_command_line(name, folder, tmp_path):
    (folder / "broken.jpg").write_text("no picture")
    (width, height), (rows, columns), options = SHAPES[name]
    out = tmp_path / "run"
    text, errors = run(name, "--images", folder, "--steps", 2, "--out", out, *options)
    assert errors == "", "no start-up noise, no warnings"
    assert "pictures    11 of" in text and "skipped     1 unreadable" in text
    assert "2 steps" in text and text.splitlines()[-1].startswith("done at step 2")
    assert ("want a GPU" in text) == (name == "dcgan256")
    assert (out / "skipped.txt").read_text().count("\n") == 1

    settings = json.loads((out / "settings.json").read_text())
    assert (
        settings["pictures"] == 11 and settings["seed"] == 0 and settings["steps"] == 2
    )
    sheets = sorted(path.name for path in (out / "samples").iterdir())
    assert sheets == ["step_000000.png", "step_000001.png", "step_000002.png"]
    for sheet in sheets:
        with Image.open(out / "samples" / sheet) as picture:
            assert picture.size == (columns * width, rows * height)
            assert np.asarray(picture).std() > 0
    with Image.open(out / "real.png") as picture:
        assert picture.size == (8 * width, 2 * height)
    with Image.open(out / "training.gif") as gif:
        assert gif.n_frames == 3 and max(gif.size) <= 512
    with Image.open(out / "losses.png") as plot:
        plot.load()
    row = rows_of(out)[-1]
    assert row["step"] == "2"
    values = {key: float(row[key]) for key in row}
    assert 0 < values["d_loss"] < 10 and 0 < values["g_loss"] < 10
    assert 0 < values["d_real"] < 1 and 0 < values["d_fake"] < 1

    # The generator loads with nothing but Keras, and draws the very sheet of step 2.
    generator = keras.models.load_model(out / "generator.keras")
    shape = (rows * columns, *generator.input_shape[1:])
    if name in ("dcgan256", "dcgan_general"):
        z = keras.random.uniform(shape, -1, 1, seed=0)
    else:
        z = keras.random.normal(shape, seed=0)
    low = 0 if name == "dcgan256" else -1
    drawn = disk.to_uint8(generator.predict(z, verbose=0, batch_size=8), (low, 1))
    with Image.open(out / "samples" / sheets[-1]) as picture:
        shown = np.asarray(picture).reshape(rows * height, columns * width, -1)
    assert np.abs(shown - disk.sheet(drawn, columns).astype(int)).max() <= 1

    # And the script draws single pictures with it, without any training pictures.
    __import__(name).main(["--generate", "3", "--walk", "--out", str(out)])
    folder = out / "generated" / "seed_0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "0000.png", "0001.png", "0002.png", "sheet.png", "walk.gif"
    ]  # fmt: skip
    for i in range(3):
        with Image.open(folder / f"000{i}.png") as picture:
            assert picture.size == (width, height)
            single = np.asarray(picture).reshape(height, width, -1)
        first = shown[:height, i * width : (i + 1) * width]
        assert np.abs(single - first.astype(int)).max() <= 1
    with Image.open(folder / "walk.gif") as gif:
        assert gif.n_frames > 100


def test_the_generator_loads_without_our_code(folder, tmp_path):
    out = tmp_path / "run"
    call("dcgan_grayscale", "--images", folder, "--steps", 1, "--out", out, *SMALL)
    code = (
        "import keras; print(keras.models.load_model('generator.keras').output_shape)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert "(None, 8, 8, 1)" in result.stdout, result.stderr


def checkpoint(out):
    """All variables of the newest checkpoint."""
    return checkpoint_at(max((out / "checkpoints").iterdir()))


def checkpoint_at(path):
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path / "variables"))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}


def assert_same_run(first, second):
    """Weights, moments, random state, losses and sheets are equal bit for bit."""
    one, other = checkpoint(first), checkpoint(second)
    ours = {key for key in one if "variables" in key}
    assert len(ours) > 20 and one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in ours)
    names = [
        "losses.csv",
        *(f"samples/{p.name}" for p in (first / "samples").iterdir()),
    ]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert len(list((second / "samples").iterdir())) == len(names) - 1


def test_same_seed_same_run_and_another_seed_another(folder, tmp_path):
    options = ["--images", folder, "--steps", 4, *SMALL]
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        call("dcgan_grayscale", *options, "--seed", seed, "--out", tmp_path / out)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    one, other = rows_of(tmp_path / "a"), rows_of(tmp_path / "c")
    assert one[-1]["d_loss"] != other[-1]["d_loss"]


@pytest.mark.skipif(os.name == "nt", reason="there Ctrl-C goes to whole groups")
@pytest.mark.parametrize("name", ["dcgan_grayscale", "shoe_gan"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(name, folder, tmp_path):
    """Ctrl-C in the middle of an epoch ends in order; the same command goes on."""
    for i in range(3):  # so many that it surely stops within the first epoch
        shutil.copy(folder / "Picture 0.jpg", folder / f"x{i}.jpg")
        shutil.copytree(folder / "a", folder / f"a{i}")
    pictures = len(disk.find_pictures(folder))
    options = ["--images", folder, "--batch-size", 1, "--steps", pictures + 6]
    options += ["--img-size", 32, 32] if name == "dcgan_grayscale" else []
    run(name, *options, "--out", tmp_path / "whole")

    out = tmp_path / "interrupted"
    process = start(name, *options, "--out", out)
    wait_for(out / "samples" / "step_000005.png", process)
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and errors == ""
    stopped = re.search(r"stopped at step (\d+)", text)
    assert stopped and 5 <= int(stopped[1]) < pictures, "in the middle of an epoch"
    assert (out / "generator.keras").exists() and rows_of(out)

    text, _ = run(name, *options, "--out", out)
    assert f"resuming at step {stopped[1]} of {pictures + 6}" in text
    assert_same_run(tmp_path / "whole", out)


def test_a_killed_run_goes_on_as_if_it_had_not_been(folder, tmp_path):
    options = ["--images", folder, "--img-size", 32, 32, "--batch-size", 2]
    options += ["--steps", 40]
    run("dcgan_grayscale", *options, "--out", tmp_path / "whole")
    out = tmp_path / "killed"
    for sheet in ("step_000005.png", "step_000020.png"):
        process = start("dcgan_grayscale", *options, "--out", out)
        wait_for(out / "samples" / sheet, process)
        process.kill()
        process.communicate()
    text, _ = run("dcgan_grayscale", *options, "--out", out)
    assert "resuming at step" in text
    assert_same_run(tmp_path / "whole", out)


def test_longer_fresh_and_other_settings(folder, tmp_path):
    options = ["--images", folder, *SMALL, "--out", tmp_path / "run"]
    call("dcgan_grayscale", *options, "--epochs", 1)
    text, _ = call("dcgan_grayscale", *options, "--epochs", 2)
    assert "resuming at step 3 of 6" in text
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == ["1", "2"]
    _, errors = call("dcgan_grayscale", *options, "--seed", 7, "--epochs", 2, status=2)
    assert "seed 0, not 7" in errors and errors.count("\n") == 1
    text, _ = call("dcgan_grayscale", *options, "--seed", 7, "--steps", 2, "--fresh")
    assert "deleting" in text and "resuming" not in text
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 3


def test_a_finished_run_stays_as_it_is(folder, tmp_path):
    options = ["--images", folder, *SMALL, "--steps", 4]
    call("dcgan_grayscale", *options, "--out", tmp_path / "once")
    call("dcgan_grayscale", *options, "--out", tmp_path / "twice")
    call("dcgan_grayscale", *options, "--out", tmp_path / "twice")
    assert_same_run(tmp_path / "once", tmp_path / "twice")


def test_a_checkpoint_of_other_networks_or_a_damaged_one_is_refused(tmp_path):
    import dcgan_general

    pictures = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    options = {"save_path": tmp_path / "run", "img_size": (8, 8, 3), "increment": 2}
    dcgan_general.DCGAN(depth=1, **options).train(pictures, epochs=1)
    with pytest.raises(disk.InputError, match="has depth 1, not 2"):
        dcgan_general.DCGAN(depth=2, **options).train(pictures, epochs=1)
    damage(tmp_path / "run" / "checkpoints")
    with pytest.raises(disk.InputError, match="damaged"):
        dcgan_general.DCGAN(depth=1, **options).train(pictures, epochs=2)


def damage(folder):
    """Change one byte in the middle of every file of weights."""
    for file in folder.rglob("*data*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 255
        file.write_bytes(data)


def test_behind_a_damaged_checkpoint_there_is_another(folder, tmp_path):
    options = ["--images", folder, *SMALL, "--steps", 7]
    call("dcgan_grayscale", *options, "--out", tmp_path / "whole")
    out = tmp_path / "run"
    call("dcgan_grayscale", *options, "--out", out)
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["step_0000000005", "step_0000000007"]
    damage(out / "checkpoints" / names[1])
    (out / "settings.json").write_text("{")
    text, errors = call("dcgan_grayscale", *options, "--out", out)
    assert "step_0000000007 was damaged" in text and "resuming at step 5" in text
    assert errors == ""
    assert_same_run(tmp_path / "whole", out)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot limit the size of files")
def test_a_full_disk_gives_one_line_and_leaves_the_last_checkpoint(folder, tmp_path):
    import resource

    options = ["--images", folder, *SMALL]
    whole, out = tmp_path / "whole", tmp_path / "run"
    call("dcgan_grayscale", *options, "--steps", 9, "--out", whole)
    call("dcgan_grayscale", *options, "--steps", 2, "--out", out)
    size = max(p.stat().st_size for p in whole.rglob("*") if p.is_file())
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (size - 1, 100_000, 100):  # a checkpoint, a generator, nothing fits
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        try:
            command = [*options, "--steps", 9, "--out", out]
            _, errors = call("dcgan_grayscale", *command, status=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
        assert errors.count("\n") == 1
        assert "cannot be written (File too large)" in errors
        assert not list(out.rglob(".unfinished-*"))
    text, _ = call("dcgan_grayscale", *options, "--steps", 9, "--out", out)
    assert "resuming at step 2 of 9" in text
    assert_same_run(whole, out)


def test_an_output_folder_that_vanishes_gives_one_line(folder, tmp_path):
    out = tmp_path / "run"
    options = ["--images", folder, *SMALL, "--steps", 2000, "--out", out]
    process = start("dcgan_grayscale", *options)
    wait_for(out / "samples" / "step_000002.png", process)
    while out.exists():
        shutil.rmtree(out, ignore_errors=True)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and errors.count("\n") == 1
    assert "cannot be written" in errors and str(out) in errors


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_in_the_place_of_the_output_folder(inside, tmp_path):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "run" if inside else tmp_path / "file"
    _, errors = call("dcgan_grayscale", *SMALL, "--out", out, status=2)
    assert errors.count("\n") == 1 and "cannot use" in errors
    assert (tmp_path / "file").read_text() == "mine"


def test_out_of_memory_gives_one_line(capsys):
    import tensorflow as tf

    full = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\n...")
    for error in (MemoryError(), full):

        @utils.plain_errors
        def main(argv=None):
            raise error

        with pytest.raises(SystemExit) as stop:
            main()
        errors = capsys.readouterr().err
        assert stop.value.code == 2 and errors.count("\n") == 1
        assert "out of memory: try a smaller --batch-size" in errors


def test_without_images_it_trains_on_toy_pictures_and_says_so(tmp_path):
    text, _ = call("dcgan_grayscale", "--steps", 1, *SMALL, "--out", tmp_path / "run")
    assert "toy pictures" in text


def test_mixed_precision_keeps_losses_and_outputs_in_float32(folder, tmp_path):
    out = tmp_path / "run"
    options = ["--images", folder, "--steps", 2, "--bfloat16", "--out", out]
    call("shoe_gan", *options, "--batch-size", 4)
    generator = keras.models.load_model(out / "generator.keras")
    assert generator.layers[1].compute_dtype == "bfloat16"
    assert generator.layers[1].variable_dtype == "float32"
    assert generator(np.zeros((1, 100))).dtype == "float32"


MISTAKES = [
    ("dcgan_pokemon", ["--epoch", "3"], "unrecognized arguments: --epoch"),
    ("dcgan_pokemon", ["--steps", "0"], "0 is not from 1 to"),
    ("dcgan_pokemon", ["--steps", "many"], "invalid int value: 'many'"),
    ("dcgan_pokemon", ["--steps", "2", "--epochs", "2"], "not allowed with"),
    ("dcgan_pokemon", ["--batch-size", "-4"], "-4 is not from 1 to"),
    ("dcgan_pokemon", ["--background", "whitish"], "no colour"),
    ("dcgan_pokemon", ["--seed", "-1"], "-1 is not from 0"),
    ("dcgan_pokemon", ["--fit", "stretch"], "invalid choice"),
    ("dcgan_pokemon", ["--walk", "--epochs", "3"], "--walk is for after"),
    ("dcgan_pokemon", ["--generate", "3", "--epochs", "3"], "not allowed with"),
    ("dcgan_pokemon", ["--images", "nowhere"], "no such file or folder"),
    ("shoe_gan", ["--experiment", "5"], "invalid choice"),
    ("dcgan256", ["--batch-size", "7"], "must be even"),
    ("dcgan_grayscale", ["--img-size", "30", "28"], "divisible by 4"),
    ("dcgan_grayscale", ["--dataset", "mnist", "--images", "."], "exclude"),
    ("dcgan_general", ["--depth", "8"], "smaller depth"),
    ("dcgan_general", ["--img-size", "64", "64", "2"], "1 or 3 channels"),
    ("dcgan_general", ["--dropout", "1.5"], "1.5 is not from 0"),
]


@pytest.mark.parametrize(("name", "options", "says"), MISTAKES)
def test_a_mistake_gives_one_line_and_status_2(name, options, says, capsys):
    main = __import__(name).main
    with pytest.raises(SystemExit) as stop:
        main(options)
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in errors and errors.count("\n") == 1 and "Traceback" not in errors


WRONG = {  # by what the option takes; a path is whatever one says it is
    int: ["-1", "0", "1.5", "text", "", "nan", "9" * 30],
    float: ["-1", "text", "", "nan", "inf", "9" * 30],
    str: ["no such thing", ""],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_wrong_value_of_any_option_gives_one_line_and_status_2(
    name, monkeypatch, capsys
):
    module, parsers, parse = __import__(name), [], utils.Parser.parse_args

    def remember(parser, argv):
        parsers.append(parser)
        return parse(parser, argv)

    def accepted(*_):
        raise AssertionError("the value was accepted")

    monkeypatch.setattr(utils.Parser, "parse_args", remember)
    monkeypatch.setattr(utils, "training_images", accepted)
    monkeypatch.setattr(utils, "train", accepted)
    with pytest.raises(SystemExit):
        module.main(["--help"])
    capsys.readouterr()
    tried = set()
    for option in parsers[0]._actions:
        if option.nargs == 0:
            continue
        kind = getattr(option.type, "__name__", "str")
        values = WRONG[{"int": int, "float": float}.get(kind, str)]
        if kind == "some_path":
            values = [""]
        for value in values:
            flag = option.option_strings[0]
            if value == "0" and flag == "--seed":
                continue
            tried.add(flag)
            with pytest.raises(SystemExit) as stop:
                module.main([flag, *[value] * (option.nargs or 1)])
            errors = capsys.readouterr().err
            assert stop.value.code == 2, (flag, value)
            assert errors.count("\n") == 1 and "Traceback" not in errors, errors
            assert flag in errors, errors
    assert len(tried) >= 9


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_the_same_options_and_defaults_everywhere(name, capsys):
    with pytest.raises(SystemExit) as stop:
        __import__(name).main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for option in "images fit background out epochs steps batch-size seed".split():
        assert f"--{option} " in text
    assert "--bfloat16" in text and "--fresh" in text
    default = {"dcgan256": "500,000", "shoe_gan": "500", "dcgan_pokemon": "10,000",
               "dcgan_general": "8,000", "dcgan_grayscale": "16,000"}[name]  # fmt: skip
    assert default in text and f"runs/{name}" in text.replace("\\", "/")


def test_a_failed_download_says_what_to_do(monkeypatch, capsys):
    import dcgan_grayscale

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    monkeypatch.setattr(keras.utils, "get_file", fail)
    for dataset in ("mnist", "kmnist"):
        with pytest.raises(SystemExit) as stop:
            dcgan_grayscale.main(["--dataset", dataset])
        errors = capsys.readouterr().err
        assert stop.value.code == 2 and errors.count("\n") == 1
        assert "--images" in errors and dataset in errors


def test_the_general_class_trains_from_python(tmp_path):
    import dcgan_general

    gan = dcgan_general.DCGAN(
        save_path=tmp_path / "run", kernel_size=(3, 3), stride=(2, 2), input_size=8,
        img_size=(9, 14, 3), dropout=0.1, depth=1, increment=4, batch_size=2,
        optimizer=keras.optimizers.Adam(1e-3),
    )  # fmt: skip
    pictures = np.random.default_rng(0).integers(0, 256, (5, 9, 14, 3), dtype=np.uint8)
    gan.train(pictures, epochs=1)
    assert rows_of(tmp_path / "run")[-1]["step"] == "3"


@pytest.mark.parametrize("rate", [1e38, np.nan])
@pytest.mark.parametrize("which", ["optimizer", "d_optimizer"])
def test_what_is_not_finite_stops_the_training_and_is_not_kept(which, rate, tmp_path):
    import dcgan_general

    gan = dcgan_general.DCGAN(
        save_path=tmp_path / "run", img_size=(8, 8, 3), depth=1, increment=2,
        batch_size=2, **{which: keras.optimizers.SGD(rate)},
    )  # fmt: skip
    pictures = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(disk.InputError, match=r"not finite at step \d+"):
        gan.train(pictures, epochs=9)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        values = map(np.asarray, checkpoint_at(path).values())
        values = [value for value in values if value.dtype == np.float32]
        assert len(values) > 10 and all(np.isfinite(value).all() for value in values)
    with Image.open(max((tmp_path / "run" / "samples").iterdir())) as sheet:
        assert np.asarray(sheet).std() > 0
    if (file := tmp_path / "run" / "generator.keras").exists():
        weights = keras.models.load_model(file).get_weights()
        assert all(np.isfinite(value).all() for value in weights)
