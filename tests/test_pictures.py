"""Pictures in: folders, files and arrays as people have them, whole and broken."""

import gzip
import os
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

import utils

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of broken files
KINDS = Image.registered_extensions()
RED, WHITE, CYAN = (255, 0, 0), (255, 255, 255), (0, 255, 255)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)


def load(source, out, shape=(8, 6, 3), *options):
    """The pictures that a script finds in source, if its results go to out.

    They may be mapped to out/images.npy, which Windows then does not replace.
    """
    parser = utils.Parser("t", "", batch_size=4, length="")
    return utils.load_images(parser.parse_args(["--out", out, *options]), shape, source)


def save(file, color=RED, size=(8, 8), mode="RGB", **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(file, **options)
    return file.parent


def close(pixels, color, tolerance=3):
    return np.abs(np.subtract(pixels, color, dtype=int)).max() <= tolerance


def left_out(out):
    lines = (out / "left_out.txt").read_text("utf-8").splitlines()
    return sorted(os.path.basename(line.split(": ")[0]) for line in lines)


def test_a_folder_of_all_kinds_is_read_in_order_and_can_be_reused(tmp_path):
    kinds = "jpg JPEG jpe png webp bmp gif tif ppm pgm tga jp2 avif ico".split()
    kinds = ["", *(f".{kind}" for kind in kinds if f".{kind}".lower() in KINDS)]
    for i, kind in enumerate(kinds):
        name = f"{'a' if i < 6 else 'b/é'}/[x] {i:02}{kind}"
        save(tmp_path / "in" / name, (16 * i,) * 3, format=None if kind else "PNG")
    images = load(None, tmp_path / "run", (8, 8, 1), "--images", tmp_path / "in")
    assert images.shape == (len(kinds), 8, 8, 1) and images.dtype == np.uint8
    assert close(images, 16 * np.arange(len(kinds)).reshape(-1, 1, 1, 1))
    again = load(tmp_path / "run" / "images.npy", tmp_path / "next", (8, 8, 1))
    assert isinstance(again, np.memmap) and not (tmp_path / "next").exists()
    assert np.array_equal(again, images)


def test_pad_shows_all_and_crop_the_middle(tmp_path):
    for size in (40, 20), (20, 40), (1, 1), (2000, 3), (3, 2000):
        folder = save(tmp_path / "in" / "x.png", RED, size)
        images = load(folder, tmp_path, (16, 16, 3), "--background", "#0ff")
        image = np.array(images[0])
        red, behind = ((image == color).all(2) for color in (RED, CYAN))
        assert red.sum() == max(16, 256 * min(size) // max(size)) == 256 - behind.sum()
        assert red[7:9, 7:9].any()
    assert close(load(PIXELS, tmp_path, (6, 6, 3), "--fit", "crop"), PIXELS[:, 1:7], 0)
    board = np.uint8(255 * (np.indices((32, 32)).sum(0) % 2))
    for fit in ("pad", "crop"):
        smaller = load([board], tmp_path, (8, 8, 1), "--fit", fit)
        assert close(smaller, 128, 20), "gray, as seen from afar"


def test_modes_and_what_is_transparent_shows_the_background(tmp_path):
    frames = [Image.new("RGB", (16, 16), color) for color in (CYAN, RED, WHITE)]
    frames[0].save(tmp_path / "0.gif", save_all=True, append_images=frames[1:])
    for i, (kind, mode, color, options) in enumerate([
        ("png", "LA", (0, 0), {}), ("png", "RGBA", (0, 255, 255, 128), {}),
        ("png", "L", 0, {"transparency": 0}), ("gif", "P", 0, {"transparency": 0}),
        ("png", "RGB", RED, {"transparency": RED}), ("jpg", "CMYK", (255, 0, 0, 0), {}),
        ("png", "I;16", 0, {"transparency": 0}), ("tif", "CMYK", (255, 0, 0, 0), {}),
        ("webp", "RGBA", (0, 0, 0, 0), {"lossless": True}),
    ]):  # fmt: skip
        save(tmp_path / f"1{i}.{kind}", color, (16, 16), mode, **options)
    save(tmp_path / "2.tif", (137, 128, 128), (16, 16), "LAB")
    for kind in ("u2 65535", "i4 65535", "i4 255", "f4 1", "f4 255"):
        ramp = np.linspace(0, int(kind[3:]), 256).reshape(16, 16)
        ramp[0, 0] = np.nan if kind == "f4 1" else 0
        Image.fromarray(ramp.astype(kind[:2])).save(tmp_path / f"{kind}.tif")
    large = Image.fromarray(np.uint8(ramp).repeat(4, 0).repeat(4, 1))
    large.save(tmp_path / "z.jpg", quality=100)
    images = load(tmp_path, tmp_path / "run", (16, 16, 3), "--background", "#0ff")
    assert close(images[:10], CYAN) and close(images[10], 129) and len(images) == 17
    assert close(images[11:], np.arange(256).reshape(16, 16, 1), 2)


def test_orientations_also_where_exif_is_broken_elsewhere(tmp_path):
    p, exif = PIXELS[0], Image.Exif()
    upright = [p, p[:, ::-1], p[::-1, ::-1], p[::-1], p.swapaxes(0, 1), np.rot90(p, -1),
               np.rot90(p, 2).swapaxes(0, 1), np.rot90(p)]  # fmt: skip
    for exif[0x0112], image in enumerate(upright, 1):
        Image.fromarray(p).save(tmp_path / "x.png", exif=exif)
        assert (load(tmp_path, tmp_path / "run", image.shape) == image).all()
    (tmp_path / "x.png").unlink()
    for tag, kind, value in [(0x13B, 10, 38), (0x11A, 10, 38), (0x8769, 4, 9999),
                             (0x8825, 4, 8), (0x11A, 99, 38)]:  # fmt: skip
        tags = sum(sorted([(0x112, 3, 1, 6), (tag, kind, 1, value)]), ())
        exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHII", *tags)
        save(tmp_path / "y.jpg", RED, (20, 40), exif=exif[:20])
        exif += struct.pack("<iii", 0, -1, 0)
        save(tmp_path / "x.jpg", RED, (40, 20), exif=exif)
        save(tmp_path / "z.png", RED, (20, 40), exif=b"Exif\0\0none")
        images = np.array(load(tmp_path, tmp_path / "run", (16, 16, 3)))
        assert close(images[:, :, [0, 8]], [WHITE, RED]) and len(images) == 3


def test_what_is_left_out_is_counted_and_told(tmp_path, capsys):
    folder = save(tmp_path / "in" / "x.png")
    other = "é" if sys.platform == "darwin" else "\udcff"  # macOS takes Unicode only
    for name in "a.txt b.TXT c.mp4 README d.HEIC f.png".split() + [f"e.{other}"]:
        (folder / name).write_bytes(b"no picture")
    assert len(load(folder, tmp_path)) == 1 and len(left_out(tmp_path)) == 7
    *_, line, _ = capsys.readouterr().out.split("\n")
    assert all(part in line for part in ("left out ", "2 .txt", "1 .mp4", "1 .heic"))
    assert ("pillow-heif" in line) != (".heic" in KINDS)


@pytest.mark.parametrize("name", [".hidden.png", "a.txt", "empty.png", "a.HEIC"])
def test_a_folder_without_pictures_is_refused(name, tmp_path):
    (tmp_path / name).touch()
    hint = ".*pillow-heif" * (name == "a.HEIC" and ".heic" not in KINDS)
    with pytest.raises(utils.InputError, match="no pictures" + hint):
        load(tmp_path, tmp_path / "run")


def test_broken_files_among_many_are_left_out_with_the_reason(tmp_path, capfd):
    folder = save(tmp_path / "in" / "ok.gif")
    (folder / "bomb.ppm").write_bytes(b"P6 65535 65535 255 ")
    for kind in ("jpg", "png", "tif"):
        file, picture = folder / f"ok.{kind}", Image.fromarray(PIXELS[0])
        picture.resize((99, 99)).save(file, compression="tiff_lzw")
        data = file.read_bytes()
        file.with_stem("cut").write_bytes(data[: len(data) // 2])
        file.with_stem("bad").write_bytes(data[:300] + b"\xff" * 1700 + data[2000:])
    images, names = np.array(load(folder, tmp_path / "run")), left_out(tmp_path / "run")
    load(PIXELS, tmp_path / "run", (9, 9, 3))
    assert not (tmp_path / "run" / "left_out.txt").exists()
    assert {"bomb.ppm", "cut.jpg", "cut.png", "bad.png"} <= {*names}
    assert "ok" not in " ".join(names) and len(images) + len(names) == 11
    assert capfd.readouterr().err == ""


def test_hidden_files_nas_folders_and_results_are_left_out(tmp_path):
    for name in ("x.png", "._x.png", ".trash/x.png", "@eaDir/x.jpg/S.jpg", "#r/x.png",
                 "$RECYCLE.BIN/x.png", "run/samples/x.png"):  # fmt: skip
        save(tmp_path / "#in" / name)
    (tmp_path / "#in" / "run" / "settings.json").write_text("{}")
    (tmp_path / "#in" / "settings.json").write_text("of another program")
    assert len(load(tmp_path / "#in", tmp_path / "run")) == 1


def test_pictures_are_never_overwritten(tmp_path):
    save(tmp_path / "x.png")
    load(tmp_path, tmp_path / "run")
    for source in (tmp_path / "run", tmp_path / "run" / "images.npy"):
        with pytest.raises(utils.InputError, match="would write to .*run"):
            load(source, tmp_path / "run", (9, 9, 3))
    assert np.load(tmp_path / "run" / "images.npy").shape == (1, 8, 6, 3)


@pytest.mark.skipif(os.name == "nt", reason="no such files on Windows")
def test_links_loops_pipes_and_what_cannot_be_entered(tmp_path, monkeypatch):
    folder, other = save(tmp_path / "in" / "x.png"), save(tmp_path / "other" / "x.png")
    for name, target in {"linked": other, "up": folder, "a.jpg": folder / "a.jpg",
                         "b.jpg": "nowhere", "c.png": "/dev/zero"}.items():  # fmt: skip
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.jpg")
    assert len(load(folder, tmp_path / "run")) == 2
    assert left_out(tmp_path / "run") == ["a.jpg", "b.jpg", "c.png", "pipe.jpg"]
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda p: scan(str(p).replace("linked", "lost")))
    assert len(load(folder, tmp_path)) == 1 and "lost" in left_out(tmp_path)


def test_ranges_are_taken_with_some_slack_and_told(tmp_path, capsys):
    for array, taken, tolerance in [
        (PIXELS / 255, "0 to 1", 0), (PIXELS / 255 * 1.06, "0 to 1", 16),
        (np.where(PIXELS, PIXELS / 255, -1e-9), "0 to 1", 0),
        (PIXELS / 127.5 - 1, "-1 to 1", 0), (PIXELS / 120 - 1.06, "-1 to 1", 9),
        (PIXELS.astype(float), "0 to 255", 0), (PIXELS * 1.02, "0 to 255", 6),
        (PIXELS.astype(int), "0 to 255", 0), (PIXELS * np.uint16(257), "0 to 65535", 0),
    ]:  # fmt: skip
        assert close(load(array, tmp_path), PIXELS, tolerance)
        assert f"taken as {taken}\n" in capsys.readouterr().out
    gray = PIXELS[..., :1]
    assert close(load(gray / 255, tmp_path, gray.shape[1:]), gray, 0)
    for masks in (PIXELS > 99, np.uint8(PIXELS > 99)):
        assert np.array_equal(load(list(masks), tmp_path), 255 * masks)


@pytest.mark.parametrize(("array", "says"), [
    ((PIXELS / 255 - 0.5) / 0.25, "-2 to 2: scale"), (PIXELS / 1e-5, "scale"),
    (np.where(PIXELS > 9, np.nan, 0), "nan"), (PIXELS[0], r"\(8, 6, 3\)"),
    (PIXELS.transpose(0, 3, 1, 2), "moveaxis"), (PIXELS.reshape(5, -1), "reshape"),
    (np.tile(PIXELS[0], 9), "moveaxis"), (PIXELS[:0], "shape"),
    (np.array(None), "obj|readable"),
])  # fmt: skip
def test_what_are_no_pictures_is_refused_with_advice(array, says, tmp_path):
    np.save(tmp_path / "x.npy", array)
    for source in (array, tmp_path / "x.npy"):
        with pytest.raises(utils.InputError, match=says):
            load(source, tmp_path / "run")


@pytest.mark.parametrize("arrays", [
    {"labels": np.zeros(5), "images": PIXELS}, {"test": PIXELS[:2], "train": PIXELS},
    {f"arr_{i}": picture for i, picture in enumerate(PIXELS)},
    {"labels": np.zeros(9), **{f"{i}": picture for i, picture in enumerate(PIXELS)}},
    {"images": PIXELS, "x": np.zeros((5, 10, 300)), "y": np.zeros((9, 9, 8, 8))},
])  # fmt: skip
def test_npz_files(arrays, tmp_path):
    np.savez(tmp_path / "x.npz", meta=np.array([{"pickled": True}, None]), **arrays)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as file:
        file.writestr("README.txt", "no array")
    file = (tmp_path / "x.npz").rename(tmp_path / "X.NPZ")
    assert np.array_equal(load(file, tmp_path), PIXELS)
    assert np.array_equal(np.load(tmp_path / "images.npy"), PIXELS), "for score.py"
    np.savez(tmp_path / "y.npz", x=PIXELS.reshape(5, -1), y=np.zeros(5))
    with pytest.raises(utils.InputError, match=r"shape \(5, 144\): no pictures"):
        load(tmp_path / "y.npz", tmp_path)


def test_idx_files_and_what_is_none(tmp_path):
    gray, file = PIXELS[..., :1], tmp_path / "train-images-idx3-ubyte"
    idx = b"\0\0\x08\x03" + struct.pack(">iii", 5, 8, 6) + gray.tobytes()
    broken = [b"", b"text", b"PK\3\4", b"\x93NUMPY\1\0"]
    for content in (idx, gzip.compress(idx)):
        file.write_bytes(content)
        assert np.array_equal(load(file, tmp_path / "run", (8, 6, 1)), gray)
        broken += [content[:end] for end in (3, 4, 9, 30, len(content) - 9)]
    for content in broken:
        file.write_bytes(content)
        with pytest.raises(utils.InputError, match="nor a readable"):
            load(file, tmp_path / "run")


def test_floats_take_at_most_about_twice_their_size_in_memory(tmp_path):
    array = np.random.default_rng(0).random((100, 100, 100, 3), np.float32)
    np.savez(tmp_path / "x.npz", array)
    tracemalloc.start()
    load(tmp_path / "x.npz", tmp_path / "run")
    assert tracemalloc.get_traced_memory()[1] < 2.1 * array.nbytes
    tracemalloc.stop()
