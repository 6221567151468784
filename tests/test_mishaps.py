"""What users do to the folder of a run between two starts, and at the same time."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_scripts import call, start, wait_for

import dcgan_general
import disk
import utils

SMALL = ["--img-size", "8", "8", "3", "--depth", "1", "--increment", "2"]
SMALL += ["--batch-size", "4"]


@pytest.fixture
def train(folder, tmp_path, capsys):
    """Train some steps in tmp_path/run; gives what is printed, or the line of error."""

    def train(steps, *options, main=dcgan_general.main):
        options = ["--images", folder, "--out", tmp_path / "run", *SMALL, *options]
        try:
            main([str(option) for option in [*options, "--steps", steps]])
        except SystemExit as stop:
            assert stop.code == 2
            errors = capsys.readouterr().err
            assert errors.count("\n") == 1, errors
            return errors
        text, errors = capsys.readouterr()
        assert errors == ""
        return text

    return train


def test_only_our_own_files_are_ever_deleted(train, folder, tmp_path):
    out = tmp_path / "run"
    train(2)
    mine = ["notes.txt", "samples/step_5.png", "samples/mine.png", "checkpoints/x",
            "checkpoints/step_backup", "pictures-2020.zip", "pictures-mine/x.png",
            "generated/mine.png"]  # fmt: skip
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    train(3)
    train(2, "--fresh", "--fit", "crop")
    assert "resuming at step 2" in train(3, "--fit", "crop")
    dcgan_general.main(["--generate", "1", "--out", str(out)])
    assert all((out / name).read_text() == "mine" for name in mine)


def test_pictures_among_the_results_are_refused(folder, tmp_path, train):
    shutil.move(folder, tmp_path / "run" / "samples")
    for place in ("samples", "samples/a", "."):
        options = ["--images", tmp_path / "run" / place]
        assert "where results go" in train(2, *options)


def test_without_its_checkpoints_a_run_is_not_overwritten(train, tmp_path):
    train(2)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "no checkpoint to go on from" in train(2)
    assert "done at step 2" in train(2, "--fresh")


def test_a_run_that_ended_before_its_first_checkpoint_starts_anew(train, tmp_path):
    train(2)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "generator.keras").unlink()
    assert "done at step 2" in train(2, "--seed", 3)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", ",\n"),
        lambda text: text.replace(",2,", ",two,"),
        lambda text: text.replace(",", ";"),
        lambda text: text + '"1,2,3',
        lambda text: "",
    ],
)
def test_an_edited_table_of_losses_is_not_lost(edit, train, tmp_path):
    train(2)
    table = tmp_path / "run" / "losses.csv"
    edited = edit(table.read_text("utf-8"))
    table.write_text(edited, "utf-8", newline="")
    assert "losses.csv was changed: mend or delete it" in train(4)
    assert table.read_text("utf-8") == edited
    table.unlink()
    assert "losses.csv is gone" in train(4)


def test_deleted_damaged_and_cut_sheets_do_not_stop_the_training(train, tmp_path):
    samples = tmp_path / "run" / "samples"
    train(2)
    shutil.rmtree(samples)
    assert "done at step 3" in train(3)
    (samples / "step_000002.png").write_bytes(b"")
    Image.new("RGB", (3, 3)).save(samples / "step_000001.png")
    assert "done at step 5" in train(5)
    with Image.open(tmp_path / "run" / "training.gif") as gif:
        assert gif.size == (40, 40)


@pytest.mark.parametrize("text", ["[]", "null", "{", ""])
def test_damaged_settings_are_told_and_written_anew(text, train, tmp_path):
    train(2)
    file = tmp_path / "run" / "settings.json"
    file.write_text(text)
    assert "no settings.json: is this the same run?" in train(3)
    assert json.loads(file.read_text())["seed"] == 0


def test_another_script_in_the_same_folder_is_refused(train, folder, tmp_path):
    train(2)
    before = (tmp_path / "run" / "settings.json").read_text()
    options = ["--images", folder, "--out", tmp_path / "run", "--steps", 2]
    _, errors = call("dcgan_pokemon", *options, "--batch-size", 4, status=2)
    assert "has script dcgan_general.py, not dcgan_pokemon.py" in errors
    assert (tmp_path / "run" / "settings.json").read_text() == before


def test_other_pictures_of_the_same_number_are_told(train, folder):
    train(2)
    for path in disk.find_pictures(folder):
        Image.new("RGB", (9, 9), "red").save(path)
    assert "not those with which the run began" in train(4)


def test_a_shorter_length_than_that_of_the_run_changes_nothing(train):
    train(4)
    assert "finished already at step 4 of 2" in train(2)


def test_two_processes_do_not_train_in_one_folder(folder, tmp_path, train):
    out = tmp_path / "run"
    process = start("dcgan_general", "--images", folder, "--out", out, *SMALL)
    try:
        wait_for(out / "samples" / "step_000005.png", process)
        assert "another process trains in" in train(9)
    finally:
        process.send_signal(signal.SIGINT)
        text, errors = process.communicate(timeout=60)
    assert "stopped at step" in text and errors == ""


def test_a_reader_that_goes_away_does_not_stop_the_training(folder, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, str(ROOT / "dcgan_general.py"), *SMALL, "--steps", "9"]
    process = subprocess.Popen(
        [*command, "--images", str(folder), "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    process.stdout.readline()
    process.stdout.close()
    process.wait(timeout=120)
    assert (out / "generator.keras").exists() and not (out / "skipped.txt").exists()
    assert (out / "samples" / "step_000009.png").exists()


def test_a_cache_that_is_deleted_does_not_stop_the_training(folder, tmp_path):
    images, _ = disk.load_images(folder, (8, 8, 3), cache=tmp_path)
    plain, _ = disk.load_images(folder, (8, 8, 3))
    for file in tmp_path.glob("pictures-*.*"):
        file.unlink()
    for start_step in (0, 2):  # as when a run goes on in the middle of an epoch
        found = utils.batches(images, 4, 1, start_step)
        wanted = utils.batches(plain, 4, 1, start_step)
        assert all(np.array_equal(next(found), next(wanted)) for _ in range(7))


@pytest.mark.parametrize(
    "array",
    [
        np.array([[["a", "b"]]]),
        np.array([[[b"a", b"b"]]]),
        np.zeros((2, 3, 4), "datetime64[s]"),
        np.zeros((2, 3, 4), complex),
        np.zeros((2, 3, 4), [("x", int)]),
        np.array(None),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz", "swapped", "array"])
def test_arrays_of_anything_but_numbers_give_one_line(array, kind, tmp_path):
    if kind == "array":
        source = array
    else:
        source = tmp_path / ("x.npz" if kind == "npz" else "x.npy")
        with open(source, "wb") as file:
            np.save(file, array) if kind == "npy" else np.savez(file, x=array)
    with pytest.raises(disk.InputError) as error:
        disk.load_images(source, (4, 4, 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data", [b"\0\0\x08", b"\0\0\x08\x03", b"\0\0\x08\x01\0\0\0\0"]
)
def test_short_idx_files_give_one_line(data, tmp_path):
    (tmp_path / "idx").write_bytes(data)
    with pytest.raises(disk.InputError):
        disk.load_images(tmp_path / "idx", (4, 4, 1))


def test_masks_of_zero_and_one_become_black_and_white():
    masks = np.random.default_rng(0).integers(0, 2, (5, 4, 4), dtype=np.uint8)
    for array in (masks, masks.astype(bool), masks.astype(float)):
        images, _ = disk.load_images(array, (4, 4, 1))
        assert np.array_equal(images[..., 0], 255 * masks)


@pytest.mark.parametrize("name", ["samples", "settings.json"])
def test_only_a_whole_run_is_left_out_of_the_pictures(name, folder):
    (folder / "a" / name).mkdir()
    assert len(disk.find_pictures(folder)) == 11
