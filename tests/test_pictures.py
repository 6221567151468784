"""Pictures in: folders, files and arrays as people have them, whole and broken."""

import struct

import numpy as np
import pytest
from PIL import Image

from utils import batches, load_images

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of broken files
SHAPE, RED, WHITE, CYAN = (8, 6, 3), (255, 0, 0), (255, 255, 255), (0, 255, 255)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)


def save(file, color=RED, size=(8, 8), mode="RGB", **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(file, **options)
    return file.parent


def close(pixels, color, tolerance=3):
    return np.abs(np.subtract(pixels, color, dtype=int)).max() <= tolerance


def test_pad_shows_all_and_crop_the_middle(tmp_path):
    for size in (40, 20), (20, 40), (1, 1), (2000, 80), (80, 2000):
        folder = save(tmp_path / "x.png", RED, size)
        image = load_images(folder, (16, 16, 3), background="#0ff")[0]
        red, behind = ((image == color).all(2) for color in (RED, CYAN))
        assert red.sum() == max(16, 256 * min(size) // max(size)) == 256 - behind.sum()
        assert red[7:9, 7:9].any()
    assert close(load_images(PIXELS, (6, 6, 3), fit="crop"), PIXELS[:, 1:7], 0)
    board = np.uint8(255 * (np.indices((32, 32)).sum(0) % 2))[np.newaxis]
    assert close(load_images(board, (8, 8, 1)), 128, 20), "gray, as seen from afar"


def test_modes_and_what_is_transparent_shows_the_background(tmp_path):
    for i, (kind, mode, color, options) in enumerate([
        ("png", "LA", (0, 0), {}), ("png", "RGBA", (0, 255, 255, 128), {}),
        ("png", "L", 0, {"transparency": 0}), ("gif", "P", 0, {"transparency": 0}),
        ("png", "RGB", RED, {"transparency": RED}), ("jpg", "CMYK", (255, 0, 0, 0), {}),
        ("webp", "RGBA", (0, 0, 0, 0), {"lossless": True}),
    ]):  # fmt: skip
        save(tmp_path / f"{i}é.{kind}", color, (16, 16), mode, **options)
    ramp = np.linspace(0, 65535, 256).reshape(16, 16)
    Image.fromarray(ramp.astype("u2")).save(tmp_path / "u2.tif")
    large = Image.fromarray(np.uint8(ramp / 257).repeat(4, 0).repeat(4, 1))
    large.save(tmp_path / "z.jpg", quality=100)
    images = load_images(tmp_path, (16, 16, 3), background="#0ff")
    assert close(images[:7], CYAN) and len(images) == 9
    assert close(images[7:], np.arange(256).reshape(16, 16, 1), 2)


def test_orientations_also_where_exif_is_broken_elsewhere(tmp_path):
    p, exif = PIXELS[0], Image.Exif()
    for exif[0x0112], upright in ((1, p), (3, p[::-1, ::-1]), (6, np.rot90(p, -1))):
        Image.fromarray(p).save(tmp_path / "x.png", exif=exif)
        assert (load_images(tmp_path, upright.shape) == upright).all()
    (tmp_path / "x.png").unlink()
    for tag, kind, value in [(0x13B, 10, 38), (0x11A, 10, 38), (0x8825, 4, 8)]:
        tags = sum(sorted([(0x112, 3, 1, 6), (tag, kind, 1, value)]), ())
        exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHII", *tags)
        save(
            tmp_path / "x.jpg", RED, (40, 20), exif=exif + struct.pack("<iii", 0, -1, 0)
        )
        images = load_images(tmp_path, (16, 16, 3))
        assert close(images[:, :, [0, 8]], [WHITE, RED])


def test_what_is_broken_hidden_or_no_picture_is_left_out(tmp_path, capsys):
    for name in ("ok.gif", "._x.png", ".trash/x.png", "@eaDir/x.jpg/S.jpg", "#r/x.png",
                 "$RECYCLE.BIN/x.png", "run/samples/x.png"):  # fmt: skip
        save(tmp_path / "#in" / name)
    folder = tmp_path / "#in"
    for name in ("a.txt", "b.TXT", "c.mp4", "d.png", "e.\udcff", "run/checkpoint.npz"):
        (folder / name).touch()
    (folder / "bomb.ppm").write_bytes(b"P6 65535 65535 255 ")
    (folder / "e.jpg").symlink_to("nowhere")
    Image.new("I", (8, 8)).save(folder / "32_bits.tif")
    Image.fromarray(PIXELS[0]).resize((99, 99)).save(folder / "ok.png")
    (folder / "cut.png").write_bytes((folder / "ok.png").read_bytes()[:9000])
    assert len(load_images(str(folder), SHAPE)) == 2
    told = capsys.readouterr().out.split("\n")[1]
    for part in ("'.txt': 2", "'.mp4': 1", "'.tif': 1", "'.png': 2", "'.ppm': 1",
                 "'.jpg': 1", "32_bits.tif': ValueError"):  # fmt: skip
        assert part in told
    with pytest.raises(SystemExit, match="no pictures in"):
        load_images(folder / "run", SHAPE)


def test_arrays_ranges_and_files(tmp_path, capsys):
    for array, taken, tolerance in [
        (PIXELS / 255, "0 to 1", 0), (PIXELS / 255 * 1.06, "0 to 1", 16),
        (PIXELS / 127.5 - 1, "-1 to 1", 0), (PIXELS / 120 - 1.06, "-1 to 1", 9),
        (PIXELS.astype(float), "0 to 255", 0), (PIXELS * 1.02, "0 to 255", 6),
    ]:  # fmt: skip
        assert close(load_images(array, SHAPE), PIXELS, tolerance)
        assert f"taken as {taken}.\n" in capsys.readouterr().out
    masks = np.uint8(PIXELS > 99)
    assert np.array_equal(load_images(masks, SHAPE), 255 * masks)
    gray = PIXELS[..., 0]
    assert np.array_equal(load_images(gray, SHAPE), np.stack(3 * [gray], axis=-1))
    np.save(tmp_path / "x.npy", PIXELS)
    images = load_images(tmp_path / "x.npy", SHAPE)
    assert isinstance(images, np.memmap) and np.array_equal(images, PIXELS)
    pickled = np.array([{"pickled": True}, None])
    np.savez(tmp_path / "x.npz", meta=pickled, labels=np.zeros(5), images=PIXELS)
    assert np.array_equal(load_images(tmp_path / "x.npz", SHAPE), PIXELS)


@pytest.mark.parametrize(("array", "says"), [
    ((PIXELS / 255 - 0.5) / 0.25, "-2 to 2: scale"), (PIXELS * 257.0, "scale"),
    (np.where(PIXELS > 9, np.nan, 0), "nan"), (PIXELS[0], r"\(8, 6, 3\)"),
    (PIXELS.transpose(0, 3, 1, 2), "not"), (PIXELS.reshape(5, -1), "not"),
    (np.tile(PIXELS[0], 9), "not"), (PIXELS[:0], "not"), (np.array(None), "obj|pick"),
])  # fmt: skip
def test_what_are_no_pictures_is_refused_in_one_line(array, says, tmp_path):
    np.save(tmp_path / "x.npy", array)
    for source in (array, tmp_path / "x.npy"):
        with pytest.raises(SystemExit, match=says) as end:
            load_images(source, SHAPE)
        assert "\n" not in end.value.code
    (tmp_path / "x.npy").write_bytes(b"PK\3\4")
    with pytest.raises(SystemExit, match="neither a folder nor"):
        load_images(tmp_path / "x.npy", SHAPE)


def test_batches_are_shuffled_passes_from_any_step_on(capsys):
    images = np.arange(10, dtype=np.uint8)
    stream = [batch.numpy() for batch in batches(images, 4, seed=1).take(5)]
    passes = np.concatenate(stream).reshape(2, 10)
    assert (np.sort(passes) == images).all() and not np.array_equal(*passes)
    later = batches(images, 4, seed=1, start=3)
    assert np.array_equal(next(iter(later)), stream[3])
    assert next(iter(batches(images[:1], 64))).shape == (64,)
    assert "10 pictures are few" in capsys.readouterr().out
