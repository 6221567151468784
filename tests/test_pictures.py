"""Pictures in: folders, files and arrays as people have them, whole and broken."""

import struct

import numpy as np
import pytest
from PIL import Image

from utils import batches, load_images

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of broken files
SHAPE, RED, CYAN = (8, 6, 3), (255, 0, 0), (0, 255, 255)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)


def save(file, color=RED, size=(8, 8), mode="RGB", **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(file, **options)


def close(pixels, wanted, tolerance=0):
    return np.abs(np.subtract(pixels, wanted, dtype=float)).max() <= tolerance


def test_pad_shows_all_and_crop_the_middle(tmp_path):
    for size in (40, 20), (20, 40), (1, 1), (2000, 80):
        save(tmp_path / "x.png", RED, size)
        (image,) = load_images(tmp_path, (16, 16, 3), background="#0ff")
        red = (image == RED).all(2)
        assert red.sum() == max(16, 256 * min(size) // max(size))
        assert red[7:9, 7:9].any() and (image[~red] == CYAN).all()
    assert close(load_images(PIXELS, (6, 6, 3), fit="crop"), PIXELS[:, 1:7])
    board = np.uint8(255 * (np.indices((32, 32)).sum(0) % 2))[np.newaxis]
    assert close(load_images(board, (8, 8, 1)), 128, 20), "gray, as seen from afar"


def test_modes_and_what_is_transparent_shows_the_background(tmp_path):
    save(tmp_path / "1.png", (0, 255, 255, 128), mode="RGBA")
    save(tmp_path / "2.gif", 0, mode="P", transparency=0)
    save(tmp_path / "3é.png", RED, transparency=RED)
    save(tmp_path / "4.jpg", (255, 0, 0, 0), mode="CMYK")
    ramp = np.linspace(0, 65535, 64).reshape(8, 8)
    Image.fromarray(ramp.astype("u2")).save(tmp_path / "5.tif")
    *images, gray = load_images(tmp_path, (8, 8, 3), background="#0ff")
    assert len(images) == 4 and close(images, CYAN, 3)
    assert close(gray, ramp[..., np.newaxis] / 257, 1)


def test_orientation_also_where_exif_is_broken_elsewhere(tmp_path):
    for tag, kind, value in ((0x128, 3, 2), (0x11A, 10, 38), (0x8825, 4, 8)):
        tags = struct.pack("<HHIIHHII", 0x112, 3, 1, 6, tag, kind, 1, value)
        exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + tags + struct.pack("<iii", 0, -1, 0)
        colors = Image.fromarray(np.uint8([[RED, CYAN]]))
        colors.resize((400, 200), 0).save(tmp_path / "x.jpg", exif=exif)
        (image,) = load_images(tmp_path, (16, 16, 3))
        assert close(image[:7, 4:12], RED, 3) and close(image[9:, 4:12], CYAN, 3)
        assert close(image[:, [0, 15]], 255)


def test_what_is_broken_hidden_or_no_picture_is_left_out(tmp_path, capsys):
    folder = tmp_path / "#in"
    for name in ("ok.png", "._x.png", ".trash/x.png", "@eaDir/x.png", "#r/x.png",
                 "$RECYCLE.BIN/x.png", "run/samples/x.png"):  # fmt: skip
        save(folder / name)
    for name in ("a.txt", "b.TXT", "d.png", "e.\udcff", "run/checkpoint.npz"):
        (folder / name).touch()
    (folder / "bomb.ppm").write_bytes(b"P6 65535 65535 255 ")
    (folder / "cut.png").write_bytes((folder / "ok.png").read_bytes()[:45])
    (folder / "e.jpg").symlink_to("nowhere")
    Image.new("I", (8, 8)).save(folder / "32_bits.tif")
    assert len(load_images(str(folder), SHAPE)) == 1
    told = capsys.readouterr().out.split("\n")[1]
    for part in (".txt': 2", ".png': 2", ".ppm': 1", ".jpg': 1", "_bits.tif': Value"):
        assert part in told
    with pytest.raises(SystemExit, match="no pictures in"):
        load_images(folder / "run", SHAPE)
    (folder / "ok.png").unlink()
    with pytest.raises(SystemExit) as end:
        load_images(folder, SHAPE)
    reasons = end.traceback[-1].frame.f_locals["left_out"].values()
    assert set(map(type, reasons)) == {str}, "errors would keep their files open"


def test_arrays_ranges_and_files(tmp_path, capsys):
    for array, taken, tolerance in (
        (PIXELS / 255, "0 to 1", 0), (PIXELS / 255 * 1.06, "0 to 1", 16),
        (PIXELS / 127.5 - 1, "-1 to 1", 0), (PIXELS * 1.02, "0 to 255", 6),
    ):  # fmt: skip
        assert close(load_images(array, SHAPE), PIXELS, tolerance)
        assert f"taken as {taken}.\n" in capsys.readouterr().out
    assert close(load_images(np.uint8(PIXELS > 99), SHAPE), 255 * (PIXELS > 99))
    assert close(load_images(PIXELS[..., 0], SHAPE), PIXELS[..., :1]), "gray"
    assert len(load_images(PIXELS.reshape(1, 5, -1, 3), SHAPE)) == 1, "48 times 5"
    np.save(tmp_path / "x.npy", PIXELS)
    images = load_images(tmp_path / "x.npy", SHAPE)
    assert isinstance(images, np.memmap) and close(images, PIXELS)
    np.savez(tmp_path / "x.npz", pickled=[{}, None], labels=np.zeros(5), images=PIXELS)
    assert close(load_images(tmp_path / "x.npz", SHAPE), PIXELS)


def test_what_are_no_pictures_is_refused_in_one_line(tmp_path):
    file = tmp_path / "x.npy"
    for array, says in (
        (PIXELS / 64 - 2, "-2 to 1.98438: scale"), (PIXELS[0], r"\(8, 6, 3\)"),
        (np.where(PIXELS > 9, np.nan, 0), "nan"), (PIXELS[:0], "not"),
        (PIXELS.transpose(0, 3, 1, 2), "not"), (np.array(None), "neither a folder nor"),
        (PIXELS.reshape(5, 1, -1), "not"),
    ):  # fmt: skip
        np.save(file, array)
        with pytest.raises(SystemExit, match=says) as end:
            load_images(file, SHAPE)
        assert "\n" not in end.value.code


def test_batches_are_shuffled_passes_from_any_step_on():
    images = np.arange(10, dtype=np.uint8)
    stream = [batch.numpy() for batch in batches(images, 4, seed=1).take(5)]
    passes = np.concatenate(stream).reshape(2, 10)
    assert (np.sort(passes) == images).all() and not np.array_equal(*passes)
    assert np.array_equal(next(iter(batches(images, 4, seed=1, start=3))), stream[3])
    assert next(iter(batches(images[:1], 64))).shape == (64,)
    assert batches(images, 4).element_spec.shape == (None,), "else steps may not repeat"
