"""Pictures in, sheets out: the loader, the toys, the batches, the small savers."""

import argparse
import gzip
import io
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

import disk
import results
import utils

WHITE, RED = (255, 255, 255), (255, 0, 0)


def save(path, color, size=(30, 20), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)


def load_one(path, shape=(16, 16, 3), **options):
    images, skipped = disk.load_images(path.parent, shape, **options)
    assert not skipped
    return images[0]


def close(pixel, color):
    return np.abs(np.subtract(pixel, color, dtype=int)).max() <= 3


def test_folder_is_read_in_order_with_subfolders_and_any_names(folder):
    (folder / "notes.txt").write_text("no picture")
    images, skipped = disk.load_images(folder, (24, 32, 3))
    assert images.shape == (11, 24, 32, 3) and images.dtype == np.uint8
    assert skipped == []
    again, _ = disk.load_images(folder, (24, 32, 3))
    assert np.array_equal(images, again)
    paths = disk.find_pictures(folder)
    assert paths == sorted(paths) and len(paths) == 11


@pytest.mark.parametrize("kind", ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif"])
def test_kinds(tmp_path, kind):
    save(tmp_path / "in" / f"x.{kind.upper()}", RED, (16, 16))
    assert close(load_one(tmp_path / "in" / "x"), RED)


def test_pad_keeps_the_whole_picture_and_its_proportions(tmp_path):
    save(tmp_path / "in" / "x.png", RED, (40, 20))
    image = load_one(tmp_path / "in" / "x.png")
    assert (
        close(image[4:12], RED) and close(image[:4], WHITE) and close(image[12:], WHITE)
    )
    image = load_one(tmp_path / "in" / "x.png", background="#0000ff")
    assert close(image[:4], (0, 0, 255))
    image = load_one(tmp_path / "in" / "x.png", shape=(10, 40, 3))
    assert close(image[:, 10:30], RED) and close(image[:, :10], WHITE)


def test_crop_cuts_out_the_middle(tmp_path):
    picture = Image.new("RGB", (40, 20), WHITE)
    picture.paste(RED, (10, 0, 30, 20))
    (tmp_path / "in").mkdir()
    picture.save(tmp_path / "in" / "x.png")
    image = load_one(tmp_path / "in" / "x.png", fit="crop")
    assert close(image[:, 1:-1], RED)


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000)])
@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_extreme_sizes(tmp_path, size, fit):
    save(tmp_path / "in" / "x.png", RED, size)
    image = load_one(tmp_path / "in" / "x.png", fit=fit)
    assert close(image[8, 8], RED) or close(image[7, 7], RED)


def test_transparency_lies_on_the_background(tmp_path):
    clear_black = (0, 0, 0, 0)
    save(tmp_path / "a" / "x.png", clear_black, (16, 16), "RGBA")
    save(tmp_path / "b" / "x.png", (0, 0), (16, 16), "LA")
    save(tmp_path / "c" / "x.png", 0, (16, 16), "L", transparency=0)
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0])
    (tmp_path / "d").mkdir()
    palette.save(tmp_path / "d" / "x.png", transparency=0)
    save(tmp_path / "e" / "x.webp", clear_black, (16, 16), "RGBA", lossless=True)
    for name in "abcde":
        path = next((tmp_path / name).iterdir())
        assert close(load_one(path), WHITE), name
        assert close(load_one(path, background="red"), RED), name
    half = (255, 0, 0, 128)
    save(tmp_path / "f" / "x.png", half, (16, 16), "RGBA")
    assert close(load_one(tmp_path / "f" / "x.png"), (255, 127, 127))


def test_deep_gray_is_scaled_not_clipped(tmp_path):
    (tmp_path / "in").mkdir()
    values = np.full((16, 16), 32768, np.uint16)
    values[0, 0] = 65535
    Image.fromarray(values).save(tmp_path / "in" / "x.png")
    assert close(load_one(tmp_path / "in" / "x.png")[8, 8], (128, 128, 128))


def test_cmyk_and_gray_and_orientation(tmp_path):
    save(tmp_path / "a" / "x.jpg", (0, 255, 255, 0), (16, 16), "CMYK")
    image = load_one(tmp_path / "a" / "x.jpg")
    assert image[8, 8, 0] > 200 and image[8, 8, 1] < 60
    save(tmp_path / "b" / "x.png", 100, (16, 16), "L")
    assert close(load_one(tmp_path / "b" / "x.png"), (100, 100, 100))
    gray = load_one(tmp_path / "b" / "x.png", shape=(16, 16, 1))
    assert gray.shape == (16, 16, 1) and (gray == 100).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: shown as 20 wide, 40 high
    save(tmp_path / "c" / "x.jpg", RED, (40, 20), exif=exif)
    image = load_one(tmp_path / "c" / "x.jpg")
    assert close(image[:, 8], RED) and close(image[:, 0], WHITE)


def test_first_frame_of_an_animation(tmp_path):
    (tmp_path / "in").mkdir()
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, "blue", "lime")]
    frames[0].save(tmp_path / "in" / "x.gif", save_all=True, append_images=frames[1:])
    assert close(load_one(tmp_path / "in" / "x.gif"), RED)


def test_unreadable_files_are_skipped_and_named(folder):
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    whole = (folder / "Picture 0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    if hasattr(os, "symlink"):
        (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    images, skipped = disk.load_images(folder, (8, 8, 3))
    assert len(images) == 11
    names = sorted(Path(line.split(": ")[0]).name for line in skipped)
    assert names == ["cut.jpg", "empty.jpg", "gone.jpg", "text.png"]
    assert not any("\n" in line for line in skipped)


def test_results_among_the_pictures_are_left_out(folder):
    save(folder / "runs" / "shoes" / "samples" / "step.png", RED)
    assert len(disk.find_pictures(folder)) == 12
    (folder / "runs" / "shoes" / "settings.json").write_text("{}")
    assert len(disk.find_pictures(folder)) == 11


def test_hidden_files_and_folders_are_left_out(folder):
    save(folder / "._Picture 0.jpg", RED)
    save(folder / ".trash" / "x.png", RED)
    assert len(disk.find_pictures(folder)) == 11


def test_strange_names(tmp_path):
    names = ["ピカチュウ", "Покемон", "a b", "x" * 200, "-rf", "'\"$(", "é", "e\u0301"]
    names += ["two\nlines", os.fsdecode(b"\xff\xfe")] if os.name == "posix" else []
    for name in names:
        try:
            save(tmp_path / "in" / f"{name}.PNG", RED)
        except OSError:  # not on this disk
            continue
        (tmp_path / "in" / f"bad {name[:150]}.png").write_bytes(b"")
    images, skipped = disk.load_images(tmp_path / "in", (4, 4, 3), cache=tmp_path)
    assert len(images) == len(skipped) > 5 and not any("\n" in s for s in skipped)
    assert disk.load_images(tmp_path / "in", (4, 4, 3), cache=tmp_path)[1] == skipped


needs_links = pytest.mark.skipif(os.name == "nt", reason="no such files on Windows")


@needs_links
def test_links_are_followed_and_loops_end(folder, tmp_path):
    other = tmp_path / "other"
    save(other / "x.png", RED)
    (folder / "linked").symlink_to(other)
    (folder / "a" / "up").symlink_to(folder)
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    (other / "twin").symlink_to(folder / "b")
    images, skipped = disk.load_images(folder, (8, 8, 3))
    assert len(images) == 12
    assert [Path(line.split(": ")[0]).name for line in skipped] == ["self.jpg"]


@needs_links
def test_pipes_devices_and_folders_named_like_pictures(folder):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "folder.gif").mkdir()
    images, skipped = disk.load_images(folder, (8, 8, 3))
    assert len(images) == 11 and len(skipped) == 2 and "no file" in skipped[0]


@needs_links
def test_what_one_may_not_read_is_skipped_and_named(folder):
    save(folder / "locked" / "x.png", RED)
    disk.load_images(folder, (8, 8, 3))  # whatever is imported for it, is
    with tempfile.TemporaryDirectory() as place:  # one that all may enter
        os.chmod(place, 0o755)
        shutil.move(folder, place)
        pictures = Path(place, "pictures")
        (pictures / "Picture 0.jpg").chmod(0)
        (pictures / "locked").chmod(0)
        root = os.geteuid() == 0  # who may read all
        try:
            if root:
                os.seteuid(65534)
            images, skipped = disk.load_images(pictures, (8, 8, 3))
        finally:
            if root:
                os.seteuid(0)
            (pictures / "locked").chmod(0o755)
    assert len(images) == 10 and len(skipped) == 2
    assert "Picture 0.jpg: PermissionError" in skipped[0] and "locked: " in skipped[1]


@pytest.mark.parametrize("how", ["vanishes", "is cut", "grows"])
def test_a_file_that_changes_while_the_folder_is_read(how, folder, monkeypatch):
    victim, read = folder / "a" / "Picture 4.jpg", disk.try_fit

    def read_later(item, **options):
        if item == victim and how == "vanishes":
            victim.unlink()
        elif item == victim:
            data = victim.read_bytes()
            victim.write_bytes(data[:200] if how == "is cut" else data + data)
        return read(item, **options)

    monkeypatch.setattr(disk, "try_fit", read_later)
    images, skipped = disk.load_images(folder, (8, 8, 3))
    assert (len(images), len(skipped)) == ((11, 0) if how == "grows" else (10, 1))


def test_embedded_colour_profiles_are_heeded(tmp_path):
    """In this one, sRGB with red and blue exchanged, red means blue."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = srgb.replace(b"rXYZ", b"####").replace(b"bXYZ", b"rXYZ")
    profile = profile.replace(b"####", b"bXYZ")
    profile = profile.replace("sRGB".encode("utf-16-be"), "Test".encode("utf-16-be"))
    save(tmp_path / "a" / "x.png", RED, (16, 16), icc_profile=profile)
    assert close(load_one(tmp_path / "a" / "x.png"), (0, 0, 255))
    save(tmp_path / "b" / "x.png", RED, (16, 16), icc_profile=srgb)
    assert (load_one(tmp_path / "b" / "x.png") == RED).all()
    save(tmp_path / "d" / "x.png", RED, transparency=RED, icc_profile=profile)
    assert (load_one(tmp_path / "d" / "x.png") == WHITE).all()
    save(tmp_path / "c" / "x.png", RED, (16, 16), icc_profile=b"nonsense")
    assert (load_one(tmp_path / "c" / "x.png") == RED).all()


def test_an_extreme_crop_takes_no_memory(tmp_path):
    save(tmp_path / "in" / "x.png", RED, (200_000, 1))
    assert close(load_one(tmp_path / "in" / "x.png", (256, 256, 3), fit="crop"), RED)


def forbid_decoding(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr(disk, "decode", fail)


def test_the_cache_is_used_as_long_as_nothing_changes(folder, tmp_path, monkeypatch):
    (folder / "broken.jpg").write_text("no picture")
    plain, skipped = disk.load_images(folder, (8, 9, 3))
    cache = tmp_path / "cache"
    for _ in range(2):  # the second time without decoding
        images, again = disk.load_images(folder, (8, 9, 3), cache=cache)
        assert isinstance(images, np.memmap) and images.dtype == np.uint8
        assert np.array_equal(images, plain) and again == skipped
        forbid_decoding(monkeypatch)


def changed(folder, how):
    file = folder / "Picture 0.jpg"
    if how == "another file":
        save(folder / "z.png", RED)
    elif how == "one less":
        file.unlink()
    elif how == "another name":
        file.rename(folder / "Picture 0b.jpg")
    elif how == "touched":
        os.utime(file, (1, 1))
    elif how == "other pixels":
        before = file.stat()
        file.write_bytes(file.read_bytes()[:-2] + b"  ")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "how", ["another file", "one less", "another name", "touched", "other pixels",
            "shape", "fit", "background", "cut", "no list"],
)  # fmt: skip
def test_the_cache_is_made_anew_when_something_changes(how, folder, tmp_path):
    shape, options, cache = (8, 9, 3), {}, tmp_path / "cache"
    disk.load_images(folder, shape, cache=cache)
    if how in ("cut", "no list"):
        files = list(cache.glob("*.bin" if how == "cut" else "*.json"))
        files[0].write_bytes(files[0].read_bytes()[:-1])
    elif how == "shape":
        shape = (9, 8, 3)
    elif how in ("fit", "background"):
        options = {how: {"fit": "crop", "background": "red"}[how]}
    else:
        time.sleep(0.01)
        changed(folder, how)
    plain, _ = disk.load_images(folder, shape, **options)
    decoded, decode = [], disk.decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "decode", lambda *a: decoded.append(1) or decode(*a))
        images, _ = disk.load_images(folder, shape, **options, cache=cache)
    assert decoded and np.array_equal(images, plain)


def test_one_run_keeps_one_cache_and_shares_none(folder, tmp_path):
    parser = utils.Parser("shoe_gan", "", batch_size=4, length="")
    out, shared = tmp_path / "run", tmp_path / "shared"
    for where, left in ((["--out", out], 1), (["--out", out, "--cache", shared], 2)):
        for fit in ("pad", "crop"):
            options = ["--images", folder, "--fit", fit, *where]
            utils.training_images(parser.parse_args(map(str, options)), (8, 8, 3))
        place = shared if left == 2 else out
        assert len(list(place.glob("pictures-*.bin"))) == left


def test_batches_of_cached_pictures_are_the_same_and_outlive_the_file(folder, tmp_path):
    plain, _ = disk.load_images(folder, (8, 8, 3))
    images, _ = disk.load_images(folder, (8, 8, 3), cache=tmp_path)
    stream = utils.batches(images, 4, seed=3)
    first = next(stream)
    if os.name == "posix":
        Path(images.filename).unlink()
    rest = [first, *(next(stream) for _ in range(6))]
    assert all(map(np.array_equal, rest, take(7, plain, 4, seed=3)))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells")
def test_reading_a_large_cache_takes_no_memory(tmp_path):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    with open(tmp_path / "pictures.bin", "wb") as file:
        file.truncate(600 * 256 * 256 * 3)  # 118 MB
    with open(tmp_path / "pictures.bin", "rb") as file:
        images = np.memmap(file, np.uint8, "r", shape=(600, 256, 256, 3))
        images.file = file
        stream, before = utils.batches(images, 16, seed=0), resident()
        for _ in range(38):  # all of them
            next(stream)
        assert resident() - before < 40


MODES = ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV",
         "I", "I;16", "F", "La", "RGBa", "RGBX"]  # fmt: skip


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_right_array_or_a_right_error(data):
    """Random pictures of every mode and format, some with bytes changed or cut off."""
    draw = data.draw
    shape = draw(st.tuples(*[st.integers(1, 20)] * 2, st.sampled_from([1, 3])))
    fit, kinds = draw(st.sampled_from(["pad", "crop"])), ["png", "jpeg", "gif", "tiff"]
    count = draw(st.integers(0, 4))
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            size = draw(st.tuples(*[st.integers(1, 300)] * 2))
            noise = np.random.default_rng(i).integers(0, 256, (*size, 4), np.uint8)
            picture = Image.fromarray(noise, "RGBA")
            mode, file = draw(st.sampled_from(MODES)), io.BytesIO()
            kind = draw(st.sampled_from([*kinds, "webp", "bmp"]))
            try:
                picture.convert(mode).save(file, kind)
            except (OSError, ValueError, KeyError):  # no such conversion, no such file
                picture.convert("RGB").save(file, kind)
            content = bytearray(file.getvalue())
            for _ in range(draw(st.sampled_from([0, 0, 1, 20]))):
                content[draw(st.integers(0, len(content) - 1))] = draw(
                    st.integers(0, 255)
                )
            if draw(st.booleans()):
                del content[draw(st.integers(0, len(content))) :]
            kind = draw(st.sampled_from([kind, "png"]))
            Path(folder, f"{i}.{kind}").write_bytes(content)
        cache = Path(folder, "cache") if draw(st.booleans()) else None
        try:
            images, skipped = disk.load_images(folder, shape, fit, cache=cache)
        except disk.InputError as error:
            assert "\n" not in str(error)
            assert count == 0 or f"none of {count} files" in str(error)
        else:
            assert images.shape == (count - len(skipped), *shape) and len(images)
            assert images.dtype == np.uint8
            assert all(line.count(": ") for line in skipped)
            del images  # Windows deletes no file that is mapped


def test_large_jpegs_look_as_if_decoded_in_full(tmp_path):
    """The short cut through JPEG's own scaling changes next to nothing."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (25, 37, 3), dtype=np.uint8))
    picture = coarse.resize((296, 200), Image.Resampling.BICUBIC)
    (tmp_path / "in").mkdir()
    picture.save(tmp_path / "in" / "x.jpg", quality=95)
    picture.save(tmp_path / "x.png")
    fast = load_one(tmp_path / "in" / "x.jpg", shape=(64, 64, 3)).astype(int)
    with Image.open(tmp_path / "x.png") as full:
        exact = disk.fit_picture(full, (64, 64, 3), "pad", WHITE).astype(int)
    assert np.abs(fast - exact).mean() < 2


@pytest.mark.parametrize("dtype", ["uint8", "float01", "float11", "float255"])
@pytest.mark.parametrize("kind", ["npy", "npz", "array"])
def test_arrays(tmp_path, kind, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
    pixels[0, 0, 0, :2] = 0, 255
    array = {"uint8": pixels, "float01": pixels / 255, "float255": pixels.astype(float),
             "float11": pixels / 127.5 - 1}[dtype]  # fmt: skip
    source = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(source, array)
    elif kind == "npz":
        np.savez(source, labels=np.arange(5), images=array)
    else:
        source = array
    images, skipped = disk.load_images(source, (8, 6, 3))
    assert skipped == [] and np.array_equal(images, pixels)
    gray, _ = disk.load_images(source, (4, 4, 1))
    assert gray.shape == (5, 4, 4, 1)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx(tmp_path, zipped):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    data = (
        bytes([0, 0, 8, 3]) + np.array(pixels.shape, ">i4").tobytes() + pixels.tobytes()
    )
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(data) if zipped else data)
    images, _ = disk.load_images(path, (28, 28, 1))
    assert np.array_equal(images[..., 0], pixels)
    assert disk.load_images(path, (32, 32, 3))[0].shape == (7, 32, 32, 3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: path.mkdir(), "no pictures"),
        (lambda path: path.write_text("hello"), "no folder and no .npy, .npz or IDX"),
        (lambda path: path.write_bytes(b""), "no folder and no .npy"),
        (lambda path: path.write_bytes(b"\0\0\x08\x03\0\0\0\x09"), "no folder and no"),
        (lambda path: path.write_bytes(gzip.compress(b"0" * 99)[:-9]), "no folder"),
        (lambda path: save(path / "x.png", RED) or (path / "x.png").write_bytes(b"x"),
         "none of 1 files can be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_line(tmp_path, make, says):
    make(tmp_path / "in")
    with pytest.raises(disk.InputError, match=says) as error:
        disk.load_images(tmp_path / "in", (8, 8, 3))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((0, 8, 8), np.uint8), "shape"),
        (np.zeros((8, 8), np.uint8), "shape"),
        (np.zeros((2, 8, 8, 2), np.uint8), "shape"),
        (np.full((2, 8, 8), 300.0), "values from 300 to 300"),
        (np.full((2, 8, 8), np.nan), "values from nan"),
        (np.array([[[-2.0, 2.0]]]), "values from -2 to 2"),
    ],
)
def test_arrays_that_cannot_be_pictures(array, says):
    with pytest.raises(disk.InputError, match=says):
        disk.load_images(array, (8, 8, 3))


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (20, 30, 3)])
def test_toy_pictures(shape):
    toys = disk.toy_images(60, shape, seed=1)
    assert toys.shape == (60, *shape) and toys.dtype == np.uint8
    assert np.array_equal(toys, disk.toy_images(60, shape, seed=1))
    assert not np.array_equal(toys, disk.toy_images(60, shape, seed=2))
    assert len({toy.tobytes() for toy in toys}) == 60
    if shape[2] == 1:
        assert (toys[:, 0, 0] == 0).all() and (toys > 0).mean() > 0.05
    else:
        y, x = shape[0] // 2, shape[1] // 2
        shapes = toys[:, y - 1 : y + 2, x - 1 : x + 2].mean((1, 2))
        papers = toys[:, :3, :3].mean((1, 2))
        assert (np.ptp(shapes, axis=1) > 60).all(), "each is colourful"
        assert (np.abs(shapes - papers).max(1) > 60).all(), "each stands out"


def test_to_uint8_and_sheet():
    values = np.array([-2, -1, 0, 1, 2], np.float32)
    assert disk.to_uint8(values).tolist() == [0, 0, 128, 255, 255]
    assert disk.to_uint8(values, (0, 1)).tolist() == [0, 0, 0, 255, 255]
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones(
        (1, 2, 3, 1), np.uint8
    )
    grid = disk.sheet(images, columns=2)
    assert grid.shape == (6, 6, 1)
    assert grid[::2, ::3, 0].tolist() == [[0, 1], [2, 3], [4, 255]]


def take(n, *args, **options):
    stream = utils.batches(*args, **options)
    return [next(stream) for _ in range(n)]


def test_batches_show_every_picture_once_an_epoch():
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    run = take(9, images, 4, seed=0)
    assert [len(batch) for batch in run] == [4, 4, 2] * 3
    epochs = [np.concatenate(run[i : i + 3]).ravel().tolist() for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(10))


@pytest.mark.parametrize("uniform", [False, True])
def test_batches_go_on_from_any_step(uniform):
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    run = take(12, images, 4, seed=5, uniform=uniform)
    for start in (1, 3, 5, 11):
        rest = take(12 - start, images, 4, 5, start, uniform)
        assert all(np.array_equal(a, b) for a, b in zip(run[start:], rest, strict=True))
    other = take(12, images, 4, seed=6, uniform=uniform)
    assert not all(np.array_equal(a, b) for a, b in zip(run, other, strict=True))


def test_uniform_batches_are_full_and_draw_from_all():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    run = take(200, images, 8, seed=0, uniform=True)
    assert all(len(batch) == 8 for batch in run)
    counts = np.bincount(np.concatenate(run).ravel(), minlength=5)
    assert counts.min() > 0.8 * counts.mean()


@pytest.mark.parametrize("every", [7, 13, 1000])
def test_sheets_come_early_then_in_rhythm_and_never_too_many(every):
    recorder = results.Recorder.__new__(results.Recorder)
    recorder.sample_every = every
    steps = [step for step in range(20 * every) if recorder.wants_sheet(step)]
    early = [0] + [m * 10**k for k in range(4) for m in (1, 2, 5)]
    assert steps == [s for s in early if s < every] + list(
        range(every, 20 * every, every)
    )
    many = range(0, 5000 * every, every)
    assert sum(map(recorder.wants_sheet, many)) == 1000 + 500 + 500 + 125


def recorder_at(steps_per_epoch):
    recorder = results.Recorder.__new__(results.Recorder)
    recorder.steps_per_epoch, recorder.step = steps_per_epoch, 1000
    recorder.epochs_won = recorder.sheets_alike = 0
    return recorder


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(1000, 3), (50, 10)])
def test_a_lost_game_is_told_once_and_again_after_a_recovery(
    steps_per_epoch, epochs, capsys
):
    recorder, told = recorder_at(steps_per_epoch), []
    lost, even = {"d_real": 0.99, "d_fake": 0.01}, {"d_real": 0.6, "d_fake": 0.4}
    for values in [lost] * (epochs - 1) + [even] + [lost] * 20 + [even] + [lost] * 20:
        recorder.warn_if_d_has_won(values)
        told.append(capsys.readouterr().out.count("D has won"))
    assert [i for i, count in enumerate(told) if count] == [
        2 * epochs - 1,
        epochs + 20 + epochs,
    ]


def test_a_collapse_is_told_once(capsys):
    recorder, rng = recorder_at(10), np.random.default_rng(0)
    one = rng.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8).repeat(64, axis=0)
    many, told = rng.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8), []
    for pictures in [one, one, many, one, one, one, one, one]:
        recorder.warn_if_alike(pictures)
        told.append(capsys.readouterr().out.count("collapsed"))
    assert told == [0, 0, 0, 0, 0, 1, 0, 0]
    recorder = recorder_at(10)
    recorder.step = 20
    for _ in range(5):
        recorder.warn_if_alike(one)
    assert capsys.readouterr().out == "", "at the beginning all are alike"


def test_replacing_never_leaves_half_a_file(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("before")
    with pytest.raises(ZeroDivisionError), disk.replacing(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "before"
    with disk.replacing(file) as temporary:
        temporary.write_text("after")
    assert file.read_text() == "after"


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("flushed"))
    monkeypatch.setattr(os, "replace", lambda *paths: done.append(paths))
    for make in (Path.touch, Path.mkdir):
        with disk.replacing(tmp_path / "x") as temporary:
            make(temporary)
            if make is Path.mkdir:
                (temporary / "part").touch()
            done.clear()
        flushes, renaming = done[:-2], done[-2]
        assert renaming == (temporary, tmp_path / "x"), "then the folder's names"
        assert flushes == ["flushed"] * (1 if make is Path.touch else 2)
        assert list(tmp_path.iterdir()) == []


def test_number_and_color_types():
    convert = utils.number(int, 1, 10)
    assert convert("10") == 10
    for text in ("0", "11", "-3"):
        with pytest.raises(argparse.ArgumentTypeError, match="from 1 to 10"):
            convert(text)
    with pytest.raises(argparse.ArgumentTypeError):
        utils.number(float, 0, 1)("nan")
    assert utils.color("#fc0") == (255, 204, 0)
    with pytest.raises(argparse.ArgumentTypeError, match="no colour"):
        utils.color("whitish")


NASTY = Path(__file__).parents[2] / "shared" / "data" / "nasty"


@pytest.mark.skipif(not NASTY.is_dir(), reason="the broken pictures are not here")
def test_broken_pictures_from_the_wild():
    images, skipped = disk.load_images(NASTY, (32, 32, 3))
    files = disk.find_pictures(NASTY)
    assert len(images) + len(skipped) == len(files)
    names = {Path(line.split(": ")[0]).name for line in skipped}
    assert {"zero_byte.jpg", "truncated_image.png", "decompression_bomb.gif"} <= names
    assert len(images) > 25


def test_the_start_mentions_bfloat16_where_it_is_faster(monkeypatch, capsys, tmp_path):
    parser = utils.Parser("shoe_gan", "", batch_size=4, length="")
    for flags, options, said in (
        ("flags\t: avx2 avx512_bf16 amx_tile", [], True),
        ("Features\t: fp asimd bf16 i8mm", [], True),
        ("flags\t: avx2 avx512_bf16", ["--bfloat16"], False),
        ("flags\t: avx2 f16c avx512f", [], False),
        (None, [], False),  # no such file
    ):

        def read_text(path, flags=flags):
            if flags is None:
                raise FileNotFoundError
            return flags

        args = parser.parse_args(["--out", str(tmp_path), *options])
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", read_text)
            utils.training_images(args, (8, 8, 3))
        assert ("faster with --bfloat16" in capsys.readouterr().out) == said
