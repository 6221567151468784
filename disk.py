"""Pictures from any folder, file or array; and files that are written whole.

Pictures are uint8 arrays (N, height, width, channels), 0-255, channels 3 (RGB) or 1
(gray). What cannot be used raises InputError with one line that says what to do.
"""

import colorsys
import concurrent.futures
import contextlib
import functools
import gzip
import hashlib
import io
import json
import math
import mmap
import os
import re
import shutil
import stat
import sys
import time
import warnings
import zlib
from pathlib import Path
from zipfile import BadZipFile

import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageDraw, ImageFont, ImageOps

warnings.filterwarnings("ignore", module="PIL")  # a line for each odd picture

CACHE_NAME = re.compile(r"pictures-[0-9a-f]{16}\.(bin|json)")
EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif",
              ".tiff")  # fmt: skip


class InputError(ValueError):
    """Something the user gave cannot be used; one line says what to do."""


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def on_terminal() -> bool:
    """Whether what is printed appears on a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def say(text):
    """Print a line. If nobody listens any more, that is no reason to stop training."""
    with contextlib.suppress(OSError, RuntimeError):  # a closed pipe; within a print
        print(text, flush=True)


# --------------------------------------------------------------------------- reading


def load_images(source, shape, fit="pad", background="white", cache=None):
    """Read pictures from a folder and its subfolders, from a file, or from an array.

    Args:
        source: path of a folder, of an .npy or .npz file (its largest array), of an IDX
            file (as MNIST has them, gzipped or not), or an array. Arrays: (N, H, W) or
            (N, H, W, 1 or 3), uint8, or numbers in [0, 1], [-1, 1] or [0, 255].
        shape: (height, width, channels), channels 3 (RGB) or 1 (gray).
        fit: "pad" scales the whole picture into the shape and fills up with the
            background; "crop" cuts out the middle. Neither distorts.
        background: colour name or (red, green, blue); also behind transparent pixels.
        cache: folder for a file of the decoded pixels, if source is a folder. As long
            as no file in source changes, it is used in place of decoding them again.

    Returns:
        (images, skipped): uint8 array (N, *shape), N at least 1, in the order of the
        sorted paths, memory-mapped if there is a cache; a list of "path: reason" for
        files that could not be read.

    Raises:
        InputError: nothing is there, nothing that can be read, no room for the cache.
    """
    shape = tuple(shape)
    if isinstance(background, str):
        background = ImageColor.getrgb(background)[:3]
    if not isinstance(source, np.ndarray) and Path(source).is_dir():
        items = find_pictures(source)
        if not items:
            raise InputError(f"no pictures ({' '.join(EXTENSIONS)}) in {source}")
    else:
        items, cache = read_array(source), None
        if items.shape[1:] == shape:
            return items, []
    if cache is None:
        memory = mmap.mmap(-1, len(items) * math.prod(shape))
        skipped = decode(items, memory, shape, fit, background)
        count = len(items) - len(skipped)
        images = np.frombuffer(memory, np.uint8, count * math.prod(shape))
        return images.reshape(count, *shape), skipped

    path = Path(cache, cache_name(items, source, shape, fit, background))
    listing = path.with_suffix(".json")

    def cached():
        skipped = json.loads(listing.read_text("utf-8"))
        file, count = open(path, "rb"), len(items) - len(skipped)
        images = np.memmap(file, np.uint8, "r", shape=(count, *shape))
        images.file = file  # for batches()
        return images, skipped

    with contextlib.suppress(OSError, ValueError, TypeError):  # missing, or damaged
        return cached()
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        skipped = decode(items, file, shape, fit, background)
    with replacing(listing) as temporary:
        temporary.write_text(json.dumps(skipped), "utf-8")
    return cached()


def decode(items, file, shape, fit, background) -> list[str]:
    """Write the pixels of paths or arrays to a file; give "path: reason" of the others.

    Raises:
        InputError: none of them can be read.
    """
    from keras.utils import Progbar  # here: reading alone does without TensorFlow

    skipped, bar = [], Progbar(len(items), unit_name="picture")
    show, threads = on_terminal() or in_notebook(), os.cpu_count() or 1
    read = functools.partial(try_fit, shape=shape, fit=fit, background=background)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for i in range(0, len(items), 16 * threads):  # so few at a time in memory
            some = items[i : i + 16 * threads]
            for item, result in zip(some, pool.map(read, some)):
                if isinstance(result, str):
                    skipped.append(" ".join(f"{item}: {result}".splitlines()))
                else:
                    file.write(result)
            if show:
                bar.update(i + len(some))
    if len(skipped) == len(items):
        raise InputError(
            f"none of {len(items):,} files can be read, first {skipped[0]}"
        )
    return skipped


def find_pictures(folder) -> list[Path]:
    """Sorted paths of all files named like pictures, and of folders without access.

    Links are followed, each folder is entered once. Hidden files and folders, and
    results of earlier runs, are left out.
    """
    found, seen = [], set()
    for root, folders, names in os.walk(
        folder, followlinks=True, onerror=lambda error: found.append(error.filename)
    ):
        here = os.path.realpath(root)
        done = here in seen  # by a link, maybe a loop of them
        seen.add(here)
        results = "settings.json" in names and "samples" in folders
        if done or (results and root != str(folder)):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(root, name)
            for name in names
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    return sorted(map(Path, found))


def cache_name(paths, folder, *recipe):
    """A file name that changes with the recipe and with any file's path, size, times.

    The time of change of a file's entry counts too: a new permission may make it
    readable.
    """
    digest = hashlib.sha256(repr(recipe).encode())
    start = len(os.path.join(folder, ""))
    for path in map(str, paths):
        digest.update(os.fsencode(path[start:]))
        with contextlib.suppress(OSError):
            file = os.stat(path)
            times = file.st_mtime_ns, file.st_ctime_ns
            digest.update(f"\0{file.st_size} {times}\0".encode())
    return f"pictures-{digest.hexdigest()[:16]}.bin"


def read_array(source) -> np.ndarray:
    """An array, or an .npy, .npz or IDX file, as uint8 (N, H, W, 1 or 3).

    Raises:
        InputError: no such file, not of these kinds, or of other shapes or values.
    """
    array = source
    if not isinstance(source, np.ndarray):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"{source}: no such file or folder")
        try:
            if path.suffix in (".npy", ".npz"):
                array = np.load(path, allow_pickle=False)
                if not isinstance(array, np.ndarray):  # .npz: several, by name
                    arrays = [array[name] for name in array.files]
                    array = max(arrays, key=lambda array: np.asarray(array).size)
            else:
                array = read_idx(path.read_bytes())
        except (ValueError, EOFError, OSError, BadZipFile, zlib.error, IndexError) as e:
            hint = f"{source} is no folder and no .npy, .npz or IDX file ({e})"
            raise InputError(hint) from None
    array = np.asarray(array)
    array = array[..., np.newaxis] if array.ndim == 3 else array
    if array.ndim != 4 or not array.size or array.shape[3] not in (1, 3):
        wanted = "(N, height, width) or (N, height, width, 1 or 3)"
        raise InputError(f"the array has shape {array.shape}, not {wanted}")
    if array.dtype.kind not in "biuf":
        raise InputError(f"the array is of {array.dtype}, not of numbers")
    if array.dtype == np.uint8 and array.max() > 1:
        return array
    low, high = float(array.min()), float(array.max())
    if not (-1 <= low <= high <= 1 or 0 <= low <= high <= 255):
        wanted = "[0, 1], [-1, 1] or [0, 255]"
        raise InputError(f"the array has values from {low:g} to {high:g}, not {wanted}")
    return to_uint8(array, (-1, 1) if low < 0 else (0, 1) if high <= 1 else (0, 255))


def read_idx(data) -> np.ndarray:
    """IDX, MNIST's format: 0, 0, type, number of dimensions, each of them, values."""
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    if data[:3] != b"\0\0\x08":  # 8 is uint8
        raise ValueError("unknown beginning")
    shape = np.frombuffer(data, ">i4", data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def try_fit(item, shape, fit, background):
    """fit_picture() of a path or an array, or as str the reason why it cannot be."""
    try:
        if isinstance(item, np.ndarray):
            picture = Image.fromarray(item.squeeze(-1) if item.shape[-1] == 1 else item)
            return fit_picture(picture, shape, fit, background)
        if not stat.S_ISREG(os.stat(item).st_mode):  # a pipe would wait for ever
            return "no file, or a folder that cannot be listed"
        with Image.open(item) as picture:
            # JPEG decodes faster to 1/2, 1/4 or 1/8: the smallest that is large enough.
            picture.draft(None, (max(shape[:2]), max(shape[:2])))
            return fit_picture(picture, shape, fit, background)
    except Exception as error:  # Pillow raises of every kind on broken files
        return f"{type(error).__name__}: {error}".splitlines()[0]


def fit_picture(picture, shape, fit, background) -> np.ndarray:
    """A Pillow picture of any mode to a uint8 array of shape, upright, undistorted."""
    height, width, channels = shape
    picture = to_rgb(ImageOps.exif_transpose(picture), background)
    # Bilinear, as in torchvision; Pillow averages where it shrinks: no aliasing.
    method = Image.Resampling.BILINEAR
    if fit == "crop":
        canvas = ImageOps.fit(picture, (width, height), method)
    else:
        scale = min(width / picture.width, height / picture.height)
        size = [max(1, round(side * scale)) for side in picture.size]
        canvas = Image.new("RGB", (width, height), background)
        place = (width - size[0]) // 2, (height - size[1]) // 2
        canvas.paste(picture.resize(size, method), place)
    return np.asarray(canvas if channels == 3 else canvas.convert("L")).reshape(shape)


def to_rgb(picture, background) -> Image.Image:
    """A Pillow picture of any mode as RGB, its transparent pixels on the background."""
    if picture.mode[0] in "IF":  # deep grays: scale them, convert() would clip
        values = np.asarray(picture, np.float32)
        guesses = [] if "16" in picture.mode else [1, 255]  # the mode leaves it open
        full = next((f for f in guesses if values.max() <= f), 65535)
        opaque = values != picture.info.get("transparency")
        layers = [to_uint8(values, (0, full)), np.uint8(255 * opaque)]
        picture = Image.merge("LA", [Image.fromarray(layer) for layer in layers])
    elif picture.mode == "LAB":
        profiles = [ImageCms.createProfile(name) for name in ("LAB", "sRGB")]
        picture = ImageCms.profileToProfile(picture, *profiles, outputMode="RGB")
    elif picture.mode in ("RGB", "RGBA", "CMYK") and picture.info.get("icc_profile"):
        if picture.has_transparency_data:  # which the transform would forget
            picture = picture.convert("RGBA")
        with contextlib.suppress(ImageCms.PyCMSError, OSError):  # broken: do without
            if transform := to_srgb(picture.info["icc_profile"], picture.mode):
                picture = ImageCms.applyTransform(picture, transform)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    canvas = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(canvas, picture.convert("RGBA")).convert("RGB")


@functools.lru_cache(32)
def to_srgb(profile, mode):
    """The transform of an ICC profile (bytes) to sRGB, None if that is what it is."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "sRGB" in ImageCms.getProfileDescription(profile):
        return None
    srgb, new_mode = ImageCms.createProfile("sRGB"), mode.replace("CMYK", "RGB")
    return ImageCms.buildTransform(profile, srgb, mode, new_mode)


def toy_images(count, shape, seed=0) -> np.ndarray:
    """Draw toy pictures, all different: coloured shapes, or white digits on black.

    Returns:
        uint8 array (count, *shape); digits where shape has one channel.
    """
    rng, images = np.random.default_rng(seed), np.empty((count, *shape), np.uint8)
    side = 2 * min(shape[:2])  # drawn at twice the size and shrunk: smooth edges

    def paint(saturation, value):
        parts = colorsys.hsv_to_rgb(rng.random(), saturation, value)
        return tuple(int(255 * part) for part in parts)

    for i in range(count):
        background = (0, 0, 0) if shape[2] == 1 else paint(0.15, 0.9)
        picture = Image.new("RGB", (side, side), background)
        draw = ImageDraw.Draw(picture)
        if shape[2] == 1:
            digit, middle = str(rng.integers(10)), (side / 2, side / 2)
            font = ImageFont.load_default(side * rng.uniform(0.75, 0.95))
            draw.text(middle, digit, "white", font, anchor="mm")
            picture = picture.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
        else:
            # A circle, a triangle, a square, or a star with its odd corners drawn in.
            corners, odd = [(60, 1), (3, 1), (4, 1), (10, 0.45)][rng.integers(4)]
            turn, (x, y) = rng.uniform(-0.25, 0.25), side * rng.uniform(0.45, 0.55, 2)
            angles = turn - math.pi / 2 + math.tau * np.arange(corners) / corners
            radii = np.where(np.arange(corners) % 2, odd, 1)
            radii = radii * side * rng.uniform(0.3, 0.42)
            points = np.stack(
                [x + radii * np.cos(angles), y + radii * np.sin(angles)], 1
            )
            draw.polygon(points.ravel().tolist(), paint(0.7, 0.8))
        images[i] = fit_picture(picture, shape, "pad", background)
        if shape[2] == 3:  # film grain: flat colours make it too easy for D
            grain = rng.normal(0, 12, shape)
            images[i] = np.clip(images[i] + grain, 0, 255)
    return images


def to_uint8(values, value_range=(-1, 1)) -> np.ndarray:
    """Numbers in value_range, clipped to it, to uint8 0-255."""
    low, high = value_range
    share = (np.asarray(values, np.float32) - low) / (high - low)
    return np.uint8(np.rint(255 * np.clip(share, 0, 1)))


def sheet(images, columns) -> np.ndarray:
    """Lay uint8 pictures (N, H, W, C) out in rows: (rows * H, columns * W, C)."""
    rows, (height, width, channels) = -(-len(images) // columns), images.shape[1:]
    grid = np.full((rows * columns, height, width, channels), 255, np.uint8)
    grid[: len(images)] = images
    grid = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def fingerprint(images) -> dict:
    """Number of pictures, and a checksum of 64 of them, to know them again."""
    some = images[np.linspace(0, len(images) - 1, 64).astype(int)]
    return {"pictures": len(images), "pixels": zlib.crc32(some.tobytes())}


# --------------------------------------------------------------------------- writing


@contextlib.contextmanager
def replacing(path):
    """A temporary path to write to; it takes the place of path once it is whole.

    Yields:
        path of a file, or a folder of files, to make. It is on the disk itself, in case
        of a power cut, before it takes the place.

    Raises:
        InputError: it cannot be written. What was there before is as it was.
    """
    temporary = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    try:
        yield temporary
        for part in [*temporary.glob("*"), temporary]:
            sync(part)
        for patience in [0.1] * 20 * (os.name == "nt") + [0]:  # for virus scanners
            try:
                os.replace(temporary, path)
                break
            except PermissionError:
                if not patience:
                    raise
                time.sleep(patience)
        sync(path.parent)
    except OSError as error:
        shown = isinstance(error, PermissionError) and path.exists()
        if os.name == "nt" and shown:  # by another program, which locks it
            say(f"warning     {path} cannot be renewed: is it open elsewhere?")
            return
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}): mend that, and "
            "give the same command again"
        ) from None
    finally:
        remove(temporary)


def sync(path):
    """Wait until a file, or the list of names in a folder, is on the disk itself."""
    # Windows and some network disks cannot do it for folders.
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path):
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep(folder):
    """Delete what killed processes left unfinished; a cache, when it is an hour old.

    A process that decodes for the cache may be one of another run.
    """
    for path in folder.glob(".unfinished-*"):
        age = 3600 if "-pictures-" in path.name else 0
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= age:
                remove(path)


def save_picture(path, array):
    """Write uint8 (H, W, 3 or 1) as PNG."""
    with replacing(path) as temporary:
        imageio.imwrite(temporary, array[..., 0] if array.shape[2] == 1 else array)
