"""What the scripts share: options, reading pictures, running fit(), keeping results,
and drawing pictures with a finished generator.

Nothing in here is needed to understand a GAN: every network, label and update stands in
the scripts. Pictures are uint8 arrays (N, height, width, channels), 0-255, channels 3
(RGB) or 1 (gray). Wrong input raises InputError with one line that says what to do.
"""

import argparse
import colorsys
import concurrent.futures
import contextlib
import csv
import functools
import gzip
import hashlib
import io
import json
import math
import mmap
import os
import platform
import re
import shutil
import signal
import stat
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path
from zipfile import BadZipFile

import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageDraw, ImageFont, ImageOps

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


@contextlib.contextmanager
def quiet():
    """Silence file descriptor 2, on which TensorFlow's C++ code chats at its start."""
    try:
        stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no such descriptor, as in IDLE on Windows: nothing to silence
        yield
        return
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


try:
    with quiet():
        import keras
        import tensorflow as tf

        GPUS = tf.config.list_physical_devices("GPU")
except KeyboardInterrupt:  # it takes some seconds
    raise SystemExit("stopped") from None

keras.config.set_floatx("float32")  # whatever ~/.keras/keras.json says
keras.config.set_image_data_format("channels_last")
if not GPUS:  # determinism is free on a CPU, slow on a GPU, and not all there
    tf.config.experimental.enable_op_determinism()

warnings.filterwarnings("ignore", module="PIL")  # a line for each odd picture

CACHE_NAME = re.compile(r"pictures-[0-9a-f]{16}\.(bin|json)")
SHEET_NAME = re.compile(r"step_([0-9]{6,})\.png")
CHECKPOINT_NAME = re.compile(r"step_[0-9]{10}")
EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif",
              ".tiff")  # fmt: skip
TOY_PICTURES = 2000
MANY_SHEETS = 1000  # after so many only every 2nd is drawn, after 2000 every 4th ...
MAX_FRAMES = 60  # of training.gif
WALK_FRAMES = 120  # of walk.gif, at 20 a second
KEEP_SECONDS = 600  # from one keeping of results to the next, at most


# ---------------------------------------------------------------------- command line


class InputError(ValueError):
    """Something the user gave cannot be used; one line says what to do."""


def plain_errors(main):
    """Decorator: what a user can mend ends in one line on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapper(argv=None):
        status = 2
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):  # not in notebooks
                stream.reconfigure(errors="backslashreplace")
        try:
            return main(argv)
        except SystemExit as end:  # argparse's, after its own line
            status = end.code
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
        except OSError as error:
            where = f"cannot use {error.filename}: " if error.filename else ""
            print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        except (MemoryError, tf.errors.ResourceExhaustedError):
            hint = "try a smaller --batch-size (score.py: --pictures) or networks"
            print(f"error: out of memory: {hint}", file=sys.stderr)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
        if not in_notebook():  # which would make a warning of it
            raise SystemExit(status)

    return wrapper


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


def number(kind=int, low=1, high=10**9):
    """An argparse type: an int or float from low to high, both included."""

    def convert(text):
        if not low <= (value := kind(text)) <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    convert.__name__ = kind.__name__  # argparse shows it: "invalid int value"
    return convert


def some_path(text):
    """An argparse type: a path. An empty one would mean the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def color(text):
    """An argparse type: a colour as Pillow names it, to (red, green, blue), 0-255."""
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        hint = f"{text!r} is no colour: try white, black or '#ffcc00'"
        raise argparse.ArgumentTypeError(hint) from None


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a mistake ends in one line, and help shows the defaults."""

    def add_argument(self, *names, **options):
        if options.get("default", argparse.SUPPRESS) != argparse.SUPPRESS:
            options["help"] += " (default: %(default)s)"
        return super().add_argument(*names, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists all options)\n")


class Parser(OneLineParser):
    """The options that all scripts have.

    Args:
        name: of the script, without ".py", and of its folder in runs/.
        description: one line for --help.
        batch_size: default of --batch-size.
        length: what --help says of the default length; the script itself sets it.
    """

    def __init__(self, name, description, *, batch_size, length):
        super().__init__(f"{name}.py", description=description, allow_abbrev=False)
        add, either = self.add_argument, self.add_mutually_exclusive_group()
        images = "folder (with subfolders), .npy, .npz or IDX file; if not given, toys"
        shape = "fill pictures up to the right shape, or cut out their middle"
        add("--images", type=some_path, metavar="PATH", help=images)
        add("--fit", choices=["pad", "crop"], default="pad", help=shape)
        behind = "behind transparent and padded pictures"
        add("--background", type=color, default="white", metavar="COLOR", help=behind)
        out = Path("runs", name)
        where = "for the results"
        add("--out", type=some_path, default=out, metavar="FOLDER", help=where)
        where = "for the decoded pictures (default: that of --out)"
        add("--cache", type=some_path, metavar="FOLDER", help=where)
        passes = f"length, in passes over the pictures (default: {length})"
        whole = {"type": number(), "metavar": "N"}
        either.add_argument("--epochs", **whole, help=passes)
        either.add_argument("--steps", **whole, help="or in steps")
        singles = "no training: draw N single pictures with the generator in --out"
        either.add_argument("--generate", **whole, help=singles)
        walk = "no training: a GIF of a walk through z, alone or with --generate"
        add("--walk", action="store_true", help=walk)
        some, size = number(high=2**16), "pictures per step"
        add("--batch-size", type=some, default=batch_size, metavar="N", help=size)
        seed = number(low=0, high=2**31 - 1)
        add("--seed", type=seed, default=0, metavar="N", help="same seed, same run")
        add("--bfloat16", action="store_true", help="mixed precision, often faster")
        add("--fresh", action="store_true", help="start over, deleting an earlier run")

    def parse_args(self, argv=None):
        if argv is None and in_notebook() and Path(sys.argv[0]).name != self.prog:
            argv = []  # in a notebook sys.argv belongs to the kernel
        args = super().parse_args(argv)
        if args.walk and (args.epochs or args.steps):
            self.error("--walk is for after the training: alone, or with --generate")
        args.script = self.prog
        return args


def prepare(args):
    """Seed all that is random and set the precision, before networks are built."""
    keras.utils.set_random_seed(args.seed)
    keras.config.set_dtype_policy("mixed_bfloat16" if args.bfloat16 else "float32")


# -------------------------------------------------------------------------- pictures


def training_images(args, shape, source=None) -> np.ndarray:
    """The pictures to train on: source, else args.images, else toy pictures.

    Prints the first lines of a run; lists unreadable files in skipped.txt in args.out.

    Args:
        args: parsed options (images, fit, background, out, seed).
        shape: (height, width, channels) to bring them to.
        source: a path or an array, in place of args.images.

    Returns:
        uint8 array (N, *shape), N at least 1.

    Raises:
        InputError: as load_images does.
    """
    device = f"{len(GPUS)} GPU" if GPUS else f"CPU ({os.cpu_count()} cores)"
    versions = f"Keras {keras.__version__}, TensorFlow {tf.__version__}"
    say(f"versions    {versions}, Python {platform.python_version()}, {device}")
    if not args.bfloat16 and has_bfloat16():
        say("precision   float32; this machine is faster with --bfloat16")
    size = "x".join(map(str, shape))
    source = args.images if source is None else source
    run_settings(args)  # an error for the wrong folder, before hours of reading
    if source is None:
        say(f"pictures    {TOY_PICTURES:,} toy pictures of {size}, drawn by utils.py")
        say("            (your own: --images FOLDER)")
        return toy_images(TOY_PICTURES, shape, args.seed)
    cache = args.cache or args.out
    images, skipped = load_images(source, shape, args.fit, args.background, cache)
    say(f"pictures    {len(images):,} of {size}")
    if isinstance(images, np.memmap):
        kept = Path(images.filename)
        say(f"cache       {cache / kept.name} ({images.nbytes / 1e6:,.0f} MB)")
        if cache == args.out:  # one run, one cache
            for old in args.out.glob("pictures-*"):
                if CACHE_NAME.fullmatch(old.name) and old.stem != kept.stem:
                    old.unlink()
    listing = args.out / "skipped.txt"
    listing.unlink(missing_ok=True)
    if skipped:
        args.out.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}\n" for line in skipped)
        listing.write_text(text, encoding="utf-8", errors="backslashreplace")
        say(f"skipped     {len(skipped):,} unreadable files, listed in {listing}")
    return images


def has_bfloat16() -> bool:
    """Whether the GPU, or under Linux the processor, computes in bfloat16 itself."""
    if GPUS:
        details = tf.config.experimental.get_device_details(GPUS[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    with contextlib.suppress(OSError):
        return bool(
            re.search(r"\b(avx512_|amx_)?bf16\b", Path("/proc/cpuinfo").read_text())
        )
    return False


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
        background = color(background)
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
    skipped, bar = [], keras.utils.Progbar(len(items), unit_name="picture")
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


# -------------------------------------------------------------------------- networks


def call(network, x, training):
    """network(x, training=training), the same numbers through faster kernels.

    Three kinds of layers are computed in another way: batch normalization, dropout at a
    rate that is a multiple of 1/256, and transposed convolution of a single pixel. The
    algebra is exact, and the weights, moving averages and random state are those of the
    layers. All others run as they are.

    Args:
        network: a keras.Sequential.
        x: float tensor (B, ...), the input.
        training: bool, as for a layer.

    Returns:
        float tensor (B, ...), the output.
    """
    for layer in network.layers:
        one_pixel = len(x.shape) == 4 and tuple(x.shape[1:3]) == (1, 1)
        if isinstance(layer, keras.layers.BatchNormalization) and fusible(layer, x):
            x = batch_normalization(layer, x, training)
        elif (
            isinstance(layer, keras.layers.Dropout)
            and (training and layer.rate and layer.noise_shape is None)
            and (256 * layer.rate).is_integer()
            and math.prod(x.shape[1:]) % 4 == 0
        ):
            x = dropout(layer, x)
        elif (
            isinstance(layer, keras.layers.Conv2DTranspose)
            and one_pixel
            and tuple(layer.output.shape[1:3]) == layer.kernel_size
        ):
            x = spread(layer, x)
        else:
            x = layer(x, training=training)
    return x


def fusible(layer, x):
    """Whether TensorFlow's fused kernel can do this batch normalization."""
    usual = layer.center and layer.scale and layer.trainable and not layer.renorm
    last = layer.axis in (-1, len(x.shape) - 1)
    return (
        usual and last and len(x.shape) in (2, 4) and layer.compute_dtype != "float64"
    )


def batch_normalization(layer, x, training):
    """What the layer computes, by a kernel that reads x less often than Keras' ops."""
    x = tf.cast(x, layer.compute_dtype)
    shape, unknown = tf.shape(x), tf.zeros(0)
    mean, variance = layer.moving_mean, layer.moving_variance
    y, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x if len(x.shape) == 4 else x[:, None, None],
        scale=tf.convert_to_tensor(layer.gamma),
        offset=tf.convert_to_tensor(layer.beta),
        mean=unknown if training else tf.convert_to_tensor(mean),
        variance=unknown if training else tf.convert_to_tensor(variance),
        epsilon=layer.epsilon,
        is_training=training,
    )
    if training:
        n = tf.cast(tf.size(x) // shape[-1], tf.float32)
        biased = batch_variance * (n - 1) / n  # the kernel's has n - 1 below the line
        for moving, new in ((mean, batch_mean), (variance, biased)):
            moving.assign(moving * layer.momentum + new * (1 - layer.momentum))
    return tf.reshape(y, shape)


def dropout(layer, x):
    """What the layer computes, with one random byte per number in place of a float."""
    x, seed = tf.cast(x, layer.compute_dtype), layer.seed_generator.next()
    words = tf.random.stateless_uniform(
        [tf.size(x) // 4], tf.cast(seed, tf.int32), None, None, tf.uint32
    )
    drawn = tf.reshape(tf.bitcast(words, tf.uint8), tf.shape(x))
    kept = tf.cast(drawn >= np.uint8(256 * layer.rate), x.dtype)
    return x * (kept * tf.cast(1 / (1 - layer.rate), x.dtype))


def spread(layer, x):
    """A transposed convolution of one pixel, which is a product with a matrix."""
    kernel = tf.cast(layer.kernel, layer.compute_dtype)  # height, width, out, in
    *shape, inputs = kernel.shape
    x = tf.cast(x[:, 0, 0], layer.compute_dtype)
    y = tf.matmul(x, tf.reshape(kernel, (-1, inputs)), transpose_b=True)
    y = tf.reshape(y, (-1, *shape))
    if layer.use_bias:
        y = tf.nn.bias_add(y, tf.cast(layer.bias, y.dtype))
    return layer.activation(y)


# -------------------------------------------------------------------------- training


def batches(images, batch_size, seed, start_step=0, uniform=False):
    """Yield batches for ever, the same for the same seed, from any step on.

    Every epoch is a new shuffle of all pictures, its last batch smaller where they do
    not divide. With uniform, every batch is drawn from all pictures, with replacement.

    Yields:
        uint8 array (at most batch_size, height, width, channels).
    """
    steps_per_epoch = math.ceil(len(images) / batch_size)
    epoch, first = divmod(start_step, steps_per_epoch)
    file = getattr(images, "file", None)
    while True:
        rng = np.random.default_rng((seed, epoch))
        if uniform:
            order = rng.integers(len(images), size=steps_per_epoch * batch_size)
        else:
            order = rng.permutation(len(images))
        for i in range(first * batch_size, len(order), batch_size):
            if file:  # a new map each time: an old one keeps in memory all it has read
                images = np.memmap(file, np.uint8, "r", shape=images.shape)
            yield images[order[i : i + batch_size]]
        epoch, first = epoch + 1, 0


def train(gan, images, args, *, sheet_size, sample_every=None, sample_every_epochs=None,
          latent="normal", value_range=(-1, 1), real_batch_size=None,
          uniform=False):  # fmt: skip
    """Run gan.fit() and keep what it gives in args.out; go on with what lies there.

    Args:
        gan: a keras.Model with train_step(), generator, discriminator, g_optimizer
            (applied once a step), d_optimizer, means (metrics) and sample_z(n, seed).
        images: uint8 array (N, height, width, channels).
        args: parsed options (out, epochs or steps, batch_size, seed, fresh).
        sheet_size: (rows, columns) of the sheets of samples.
        sample_every, sample_every_epochs: a sheet each so many steps or epochs.
        latent: kind of z, "normal" or "uniform".
        value_range: numbers of the generator that are shown as black and white.
        real_batch_size: real pictures per step, if not args.batch_size.
        uniform: draw pictures with replacement, in place of shuffled epochs.

    Raises:
        InputError: the folder holds a run with other settings, or cannot be written
            to; the losses explode.
    """
    batch_size = real_batch_size or args.batch_size
    if not uniform:
        batch_size = min(batch_size, len(images))
    steps_per_epoch = math.ceil(len(images) / batch_size)
    total = args.steps or args.epochs * steps_per_epoch
    gan.g_optimizer.build(gan.generator.trainable_variables)
    gan.d_optimizer.build(gan.discriminator.trainable_variables)
    gan.built = True  # both networks are, and there is no call() to build
    gan.compile(optimizer=None, jit_compile=bool(GPUS))  # XLA: slower on a CPU

    parameters = [net.count_params() for net in (gan.generator, gan.discriminator)]
    say("networks    G {:,} parameters, D {:,}".format(*parameters))
    epochs = f"{total / steps_per_epoch:,.4g} epochs of {steps_per_epoch:,}"
    say(f"training    {total:,} steps of {batch_size} pictures: {epochs}")
    if not GPUS and images[0].size >= 256 * 256 * 3:
        say("warning     pictures of this size want a GPU; a CPU takes days")
    say(f"output      {args.out}{os.sep}")
    every = sample_every or sample_every_epochs * steps_per_epoch
    facts = fingerprint(images) | {
        "sheet": sheet_size,
        "latent": latent,
        "value_range": value_range,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    with alone_in(args.out):
        recorder = Recorder(gan, images, args, total, steps_per_epoch, every, facts)
        run(gan, images, args, recorder, batch_size, uniform)
    results = "samples, training.gif, losses and generator.keras"
    say(f"{recorder.stopped or 'done'} at step {recorder.step:,}: {results} are in "
        f"{args.out}{os.sep}")  # fmt: skip


def fingerprint(images) -> dict:
    """Number of pictures, and a checksum of 64 of them, to know them again."""
    some = images[np.linspace(0, len(images) - 1, 64).astype(int)]
    return {"pictures": len(images), "pixels": zlib.crc32(some.tobytes())}


def run(gan, images, args, recorder, batch_size, uniform):
    """fit() to the end, or until it is stopped, and keep what comes out."""
    total, steps_per_epoch = recorder.total, recorder.steps_per_epoch
    signature = tf.TensorSpec((None, *images.shape[1:]), tf.uint8)
    options = tf.data.Options()
    options.autotune.enabled = False  # it delays the end of fit()
    with recorder.interruptible():
        while recorder.step < total and not recorder.stopped:
            # One fit() does it all, unless a run goes on in the middle of an epoch:
            # then a first one completes that epoch.
            start, (epoch, done) = recorder.step, divmod(recorder.step, steps_per_epoch)
            recorder.pause_at = start + steps_per_epoch - done if done else total
            stream = functools.partial(
                batches, images, batch_size, args.seed, start, uniform
            )
            dataset = tf.data.Dataset.from_generator(stream, output_signature=signature)
            gan.fit(
                dataset.prefetch(2).with_options(options),
                steps_per_epoch=min(steps_per_epoch - done, total - start),
                initial_epoch=epoch,
                epochs=math.ceil(total / steps_per_epoch),
                callbacks=[recorder],
                shuffle=False,
                verbose=int(on_terminal() and not recorder.live),
            )
        recorder.save_checkpoint()
        recorder.save_results()


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


@contextlib.contextmanager
def alone_in(folder):
    """Keep other processes from training in a folder at the same time.

    Raises:
        InputError: one does so. The system forgets a process that was killed.
    """
    with open(folder / ".lock", "a") as file:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, (BlockingIOError, PermissionError)):
                raise InputError(
                    f"another process trains in {folder}: wait, or take another --out"
                ) from None
            # A network disk, perhaps, that cannot lock.
        yield


def run_settings(args, **more):
    """The settings of a run, as settings.json has them: options, and more, once known.

    Raises:
        InputError: the output folder holds a run with other settings.
    """
    passing = {"fresh", "generate", "walk"}
    new = {name: value for name, value in vars(args).items() if name not in passing}
    new |= more
    if not str(args.out).isprintable():
        raise InputError(f"--out {args.out!r}: the name is not in UTF-8")
    if args.cache:
        new["cache"] = str(args.cache.resolve())
    if args.images:
        images, out = Path(args.images).resolve(), args.out.resolve()
        new["images"] = str(images)
        if images == out or out / "samples" in (images, *images.parents):
            raise InputError(f"--images {images} is where results go: move, or --out")
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
    new["versions"] = {"python": platform.python_version(), **versions}
    new = json.loads(json.dumps(new, default=str))  # as it will be read back
    old = read_settings(args.out)
    if args.fresh or not checkpoints(args.out):
        if not args.fresh and old and (args.out / "generator.keras").exists():
            raise InputError(
                f"{args.out} holds the results of a run, but no checkpoint to go on "
                "from: take another --out, or --fresh"
            )
        return new
    if more and not old:
        say(f"warning     {args.out} has no settings.json: is this the same run?")
    may_change = {"epochs", "steps", "out", "cache", "versions", "pixels"}
    for name in ["script", *sorted(new)]:
        if name in old and old[name] != new[name] and name not in may_change:
            raise InputError(
                f"the run in {args.out} has {name} {old[name]}, not {new[name]}: use "
                "the same, another --out, or --fresh"
            )
    if more and old.get("pixels", new["pixels"]) != new["pixels"]:
        say("warning     the pictures are not those with which the run began")
    return new


def read_settings(folder) -> dict:
    """What settings.json in a folder says; empty where there is none, or damaged."""
    with contextlib.suppress(OSError, ValueError):
        settings = json.loads(Path(folder, "settings.json").read_text("utf-8"))
        return settings if isinstance(settings, dict) else {}
    return {}


def checkpoints(folder) -> list[Path]:
    """The checkpoints in the folder of a run: folders named by step, in order."""
    paths = (folder / "checkpoints").glob("step_*")
    return sorted(path for path in paths if CHECKPOINT_NAME.fullmatch(path.name))


class Recorder(keras.callbacks.Callback):
    """Keeps sheets, losses, GIF, generator and checkpoints while fit() runs.

    A checkpoint holds all variables: weights, moving averages, optimizer moments,
    random state, means of the epoch. The rest follows from seed and step, so that a run
    that goes on from it is, on a CPU, the uninterrupted one bit for bit.
    """

    def __init__(self, gan, images, args, total, steps_per_epoch, sample_every, facts):
        super().__init__()
        self.gan, self.out, self.value_range = gan, args.out, facts["value_range"]
        self.total, self.steps_per_epoch = total, steps_per_epoch
        self.sample_every, (rows, self.columns) = sample_every, facts["sheet"]
        self.stopped, self.pause_at, self.due_at, self.rows = "", total, 0.0, []
        self.names = ["epoch", "step", *(mean.name for mean in gan.means)]
        self.epochs_won = self.sheets_alike = 0
        # A plain number as seed: sheets leave the random state of training alone.
        self.z = gan.sample_z(rows * self.columns, args.seed)

        settings = run_settings(args, **facts)
        self.prepare_folder(args.fresh)
        variables = gan.variables + gan.metrics_variables
        variables += gan.d_optimizer.variables + gan.g_optimizer.variables
        unique = {id(variable): variable.value for variable in variables}
        self.checkpoint = tf.train.Checkpoint(variables=list(unique.values()))
        self.restore_checkpoint()
        with replacing(self.out / "settings.json") as temporary:
            temporary.write_text(json.dumps(settings, indent=2), "utf-8")
        self.step = int(gan.g_optimizer.iterations)
        self.means = [variable.numpy() for variable in gan.metrics_variables]
        self.forget_later_results()
        if self.step:
            verb = "resuming" if self.step < total else "finished already"
            say(f"{verb} at step {self.step:,} of {total:,}")
        self.live = Live() if in_notebook() else None
        if not self.step:
            save_picture(self.out / "real.png", sheet(images[:64], columns=8))
        if not self.step or not self.sheets():
            self.save_sheet()
        elif self.live:
            self.live.show(self.sheets()[-1][1])

    def prepare_folder(self, fresh):
        """Make the folders; clear away what is no part of this run."""
        if fresh and (checkpoints(self.out) or self.sheets()):
            say(f"deleting the checkpoints and samples in {self.out}{os.sep}")
            for old in [*checkpoints(self.out), *(path for _, path in self.sheets())]:
                remove(old)
        sweep(self.out)
        for folder in (self.out / "checkpoints", self.out / "samples"):
            folder.mkdir(exist_ok=True)
            sweep(folder)

    def restore_checkpoint(self):
        """Go on from the newest checkpoint, or from the one before if it is damaged."""
        unreadable = []
        for path in reversed(checkpoints(self.out)):
            try:
                self.checkpoint.read(str(path / "variables")).assert_consumed()
            except Exception:  # TensorFlow raises of every kind on broken files
                unreadable.append(path)
                continue
            for damaged in unreadable:
                say(f"warning     {damaged} was damaged and is deleted")
                remove(damaged)
            return
        if unreadable:
            raise InputError(
                f"the checkpoint in {self.out} is damaged, or of networks other than "
                "these: take another --out, or --fresh"
            )

    def save_checkpoint(self):
        """Write losses.csv and, if there is none of this step, a checkpoint; keep two.

        Raises:
            InputError: there is no room, or no such folder any more.
        """
        with (
            replacing(self.out / "losses.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self.names)
            writer.writeheader()
            writer.writerows(self.rows)
        path = self.out / "checkpoints" / f"step_{self.step:010}"
        if path.exists():
            return
        with replacing(path) as temporary:
            temporary.mkdir()
            try:
                self.checkpoint.write(str(temporary / "variables"))
            except tf.errors.OpError as error:  # such as a full disk
                reason = error.message.split("; ")[-1].split(" [Op:")[0]
                raise OSError(reason) from None
        for old in checkpoints(self.out)[:-2]:
            remove(old)

    def forget_later_results(self):
        """Drop rows and sheets from after the checkpoint, and those of an early end."""
        final = self.step if self.step >= self.total else None  # all done already
        table = self.out / "losses.csv"
        if self.step and not table.exists():
            say(f"warning     {table} is gone: its rows begin anew")
        elif self.step:
            try:
                with open(table, newline="", encoding="utf-8") as file:
                    reader = csv.DictReader(file)
                    rows = [(int(row["step"]), row) for row in reader]
                    values = [float(v) for _, row in rows for v in row.values()]
                if reader.fieldnames != self.names or not np.isfinite(values).all():
                    raise ValueError
            except (KeyError, ValueError, TypeError, csv.Error):
                raise InputError(f"{table} was changed: mend or delete it") from None
            rows = [(n, row) for n, row in rows if self.wants_row(n) or n == final]
            self.rows = [row for n, row in rows if n <= self.step]
        for step, path in self.sheets():
            if step > self.step or not (self.wants_sheet(step) or step == final):
                path.unlink()

    def wants_row(self, step):
        """A row of losses.csv: each 100 steps of an epoch, and at its end."""
        return step % self.steps_per_epoch % 100 == 0

    def wants_sheet(self, step):
        """A sheet: at 0, 1, 2, 5, 10, 20, 50 ..., then in the rhythm of the source."""
        if step < self.sample_every:
            return str(step).rstrip("0") in ("", "1", "2", "5")
        halvings = (step // (self.sample_every * MANY_SHEETS)).bit_length()
        return step % (self.sample_every << halvings) == 0

    def on_epoch_begin(self, epoch, logs=None):
        if self.step % self.steps_per_epoch:  # in the middle of one: so were its means
            for variable, value in zip(self.gan.metrics_variables, self.means):
                variable.assign(value)
        self.began, self.began_at = time.monotonic(), self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        values = {mean.name: logs[mean.name] for mean in self.gan.means}
        ends = self.step == self.total or bool(self.stopped)
        draws, due = self.wants_sheet(self.step) or ends, time.monotonic() > self.due_at
        finite = all(map(math.isfinite, values.values()))
        if finite and (draws or due):  # before anything of it is kept
            finite = all(np.isfinite(w).all() for w in self.gan.get_weights())
        if not finite:
            raise InputError(
                f"losses or weights are not finite at step {self.step:,}; {self.out} "
                "keeps what was saved before. Try --fresh with another --seed"
            )
        if self.wants_row(self.step) or ends:
            row = {"epoch": math.ceil(self.step / self.steps_per_epoch)}
            row["step"] = self.step
            self.rows.append(row | {name: f"{v:.6g}" for name, v in values.items()})
        if draws:
            self.save_sheet()
        if (draws or due) and not ends:  # run() keeps the end
            self.save_checkpoint()
        if due and not ends:
            self.save_results()
        epoch_ends = self.step % self.steps_per_epoch == 0
        if epoch_ends:
            self.warn_if_d_has_won(values)
        if self.live:
            self.live.say(self.progress(values), self.step / self.total)
        elif (ends or epoch_ends) and not on_terminal():
            say(self.progress(values))
        self.model.stop_training = ends or self.step == self.pause_at

    def progress(self, values):
        """One line that says how far training is, where fit() shows no bar."""
        seconds = (time.monotonic() - self.began) / (self.step - self.began_at)
        minutes, _ = divmod(round(seconds * (self.total - self.step)), 60)
        means = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        return (f"epoch {math.ceil(self.step / self.steps_per_epoch):,}  "
                f"step {self.step:,}/{self.total:,}  {means}  {seconds:.3g} s/step  "
                f"{minutes // 60} h {minutes % 60:02} min left")  # fmt: skip

    def warn_if_d_has_won(self, values):
        """Once, after 3 epochs, and not less than 500 steps, of a D that is sure."""
        won = values["d_real"] > 0.95 and values["d_fake"] < 0.05
        self.epochs_won = (self.epochs_won + 1) * won
        enough = max(3, math.ceil(500 / self.steps_per_epoch))
        if self.epochs_won == enough:
            say(f"\nwarning     D has won for {enough} epochs: G may not catch up. "
                "If sheets stay bad, try --fresh with another --seed, or more "
                "pictures")  # fmt: skip

    def warn_if_alike(self, pictures):
        """Once, after 3 sheets that show the same picture everywhere."""
        alike = self.step >= 500 and pictures.std(axis=0).mean() < 3  # of 255
        self.sheets_alike = (self.sheets_alike + 1) * alike
        if self.sheets_alike == 3:
            say("\nwarning     the last 3 sheets show one picture all over: G has "
                "collapsed. Try --fresh with another --seed, or a larger "
                "--batch-size")  # fmt: skip

    def sheets(self):
        """(step, path) of all sheets, in order."""
        found = [(SHEET_NAME.fullmatch(path.name), path)
                 for path in (self.out / "samples").glob("step_*.png")]  # fmt: skip
        return sorted((int(match[1]), path) for match, path in found if match)

    def save_sheet(self):
        """Draw the fixed z and lay the pictures out."""
        name = f"samples/step_{self.step:0{max(6, len(str(self.total)))}}.png"
        pictures = draw(self.gan.generator, self.z, self.value_range)
        save_picture(self.out / name, sheet(pictures, self.columns))
        self.warn_if_alike(pictures)
        if self.live:
            self.live.show(self.out / name)

    def save_results(self):
        """Write losses.png, training.gif and generator.keras; set the next time."""
        began = time.monotonic()
        with replacing(self.out / "losses.png") as temporary:
            plot_losses(temporary, self.rows)
        if frames := read_frames([path for _, path in self.sheets()]):
            milliseconds = [150] * len(frames[1:]) + [1500]
            with replacing(self.out / "training.gif") as temporary:
                save_gif(temporary, frames, milliseconds)
        with replacing(self.out / "generator.keras") as temporary:
            self.gan.generator.save(temporary)
        # The next time comes after 100 times what this took: 1 % of the time, or less.
        now = time.monotonic()
        self.due_at = now + min(100 * (now - began), KEEP_SECONDS)

    @contextlib.contextmanager
    def interruptible(self):
        """The first Ctrl-C ends training after the step it is in, a second at once."""

        def on_interrupt(*_):
            self.stopped = "stopped"
            say("\nstopping after this step ...")
            signal.signal(signal.SIGINT, signal.default_int_handler)

        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return
        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class Live:
    """In a notebook: a bar and a line, below it the newest sheet, replaced in place."""

    def __init__(self):
        from IPython import display  # there where it is needed

        self.display, self.said_at = display, 0.0
        self.line = display.display(display.Pretty(""), display_id=True)
        self.picture = display.display(display.Pretty(""), display_id=True)

    def say(self, text, share):
        """Show a bar for the share done, 0 to 1, and a text; twice a second at most."""
        if share == 1 or time.monotonic() > self.said_at + 0.5:
            bar = "=" * round(40 * share)
            self.line.update(self.display.Pretty(f"[{bar:.<40}]\n{text}"))
            self.said_at = time.monotonic()

    def show(self, path):
        self.picture.update(self.display.Image(filename=path))


def save_picture(path, array):
    """Write uint8 (H, W, 3 or 1) as PNG."""
    with replacing(path) as temporary:
        imageio.imwrite(temporary, array[..., 0] if array.shape[2] == 1 else array)


def read_frames(sheets) -> list[np.ndarray]:
    """At most MAX_FRAMES of the sheets (paths), small; the last one is among them.

    Sheets that the user has deleted, damaged or cut are passed over.
    """
    frames = []
    for i in np.unique(np.linspace(0, len(sheets) - 1, MAX_FRAMES).round().astype(int)):
        with contextlib.suppress(OSError, IndexError), Image.open(sheets[i]) as picture:
            picture = picture.convert("RGB")
            picture.thumbnail((512, 512))
            frames.append(np.asarray(picture))
    return [frame for frame in frames if frame.shape == frames[-1].shape]


def save_gif(path, frames, milliseconds):
    """Write uint8 frames (H, W, 3), each with its duration, as a GIF that repeats."""
    if len(frames) == 1:  # of which Pillow wants a number
        (milliseconds,) = milliseconds
    imageio.imwrite(path, frames, extension=".gif", duration=milliseconds, loop=0)


def plot_losses(path, rows):
    """Plot the rows of losses.csv: losses above, mean probabilities below."""
    from matplotlib.figure import Figure  # here, as it takes long to import

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    steps = [int(row["step"]) for row in rows]
    for name in list(rows[0])[2:] if rows else []:
        axes = above if name.endswith("loss") else below
        axes.plot(steps, [float(row[name]) for row in rows], ".-", label=name)
        axes.legend()
    above.set(ylabel="loss")
    below.set(ylabel="mean probability of real", xlabel="step", ylim=(0, 1))
    figure.savefig(path)


# ------------------------------------------------------------- after the training


def generate(args):
    """Draw pictures with the generator of a run: no training, no training pictures.

    Writes args.generate single pictures 0000.png ..., a sheet of the first 100, and a
    GIF for args.walk, to generated/seed_N in args.out. A smaller number gives the first
    of a larger; the seed of the run gives first those of its sheets.

    Args:
        args: parsed options (out, seed, generate or None, walk).

    Raises:
        InputError: there is no generator yet, or no room for pictures.
    """
    generator, facts = load_generator(args.out)
    folder, count = args.out / "generated" / f"seed_{args.seed}", args.generate or 0
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    for old in folder.glob("[0-9]*.png") if count else []:  # of a larger number
        if old.stem.isdigit():
            old.unlink()
    chunk, first = math.prod(facts["sheet"]), []
    bar = keras.utils.Progbar(count or 1, unit_name="picture")
    for start in range(0, count, chunk):  # memory for one chunk, however many
        seed = (args.seed + start * 1_000_003) % 2**31
        z = sample_latent(facts["latent"], chunk, generator.input_shape[1], seed)
        pictures = draw(generator, z[: count - start], facts["value_range"])
        for i, picture in enumerate(pictures, start):
            name = f"{i:0{max(4, len(str(count - 1)))}}.png"
            save_picture(folder / name, picture)
        first += list(pictures[: max(0, 100 - start)])
        if on_terminal() or in_notebook():
            bar.update(start + len(pictures))
    if first:
        columns = math.ceil(math.sqrt(len(first)))
        save_picture(folder / "sheet.png", sheet(np.stack(first), columns))
    if args.walk:
        save_walk(folder / "walk.gif", generator, facts, args.seed)
    done = [f"{count:,} pictures"] * bool(count) + ["walk.gif"] * args.walk
    say(f"done: {' and '.join(done)} in {folder}{os.sep}")


def load_generator(folder):
    """The generator of the run in a folder, and the facts to use it with.

    Returns:
        (generator, facts): a keras.Model; a dict with latent ("normal" or "uniform"),
        value_range (low, high) and sheet (rows, columns).

    Raises:
        InputError: there is none yet, or it cannot be read.
    """
    path = Path(folder, "generator.keras")
    if not path.exists():
        raise InputError(
            f"there is no generator in {folder} yet: train first, or name the folder "
            "of another run"
        )
    try:
        settings = read_settings(folder)
        facts = {name: settings[name] for name in ("latent", "value_range", "sheet")}
        return keras.models.load_model(path, compile=False), facts
    except Exception:  # Keras raises of every kind on broken files
        raise InputError(
            f"{path}, or settings.json beside it, cannot be read: give the command of "
            "the training again, it writes them anew"
        ) from None


def sample_latent(latent, n, latent_dim, seed):
    """z, float32 (n, latent_dim): standard "normal", or "uniform" in [-1, 1]."""
    if latent == "uniform":
        return keras.random.uniform((n, latent_dim), -1, 1, seed=seed)
    return keras.random.normal((n, latent_dim), seed=seed)


def draw(generator, z, value_range) -> np.ndarray:
    """uint8 pictures (N, H, W, C) from z (N, latent_dim), in inference mode."""
    parts = (generator(z[i : i + 16], training=False) for i in range(0, len(z), 16))
    return np.concatenate([to_uint8(part, value_range) for part in parts])


def walk(latent, walks, frames, latent_dim, seed) -> np.ndarray:
    """Smooth closed ways through latent space, float32 (frames, walks, latent_dim).

    Each coordinate is a sum of waves with one and two periods, so that the last frame
    leads to the first as any to its next. Normal z stay on the sphere near which nearly
    all z lie, of radius sqrt(latent_dim); uniform z come from normal ones by their
    distribution function, and stay inside the cube.
    """
    angles = math.tau * np.arange(frames) / frames
    waves = [wave(k * angles) for k in (1, 2) for wave in (np.cos, np.sin)]
    amplitudes = np.random.default_rng(seed).normal(size=(4, walks, latent_dim))
    z = np.einsum("kf,kwd->fwd", waves, amplitudes) / math.sqrt(2)
    if latent == "uniform":
        return np.asarray(tf.math.erf(z / math.sqrt(2)), np.float32)
    radii = np.linalg.norm(z, axis=2, keepdims=True)
    return np.float32(z * math.sqrt(latent_dim) / radii)


def save_walk(path, generator, facts, seed):
    """A GIF of walks side by side, as many as fit in 256 pixels, at most 4 × 4."""
    side = min(4, max(1, 256 // max(generator.output_shape[1:3])))
    z = walk(facts["latent"], side**2, WALK_FRAMES, generator.input_shape[1], seed)
    frames = [sheet(draw(generator, one, facts["value_range"]), side) for one in z]
    frames = [np.repeat(f, 3, axis=2) if f.shape[2] == 1 else f for f in frames]
    with replacing(path) as temporary:
        save_gif(temporary, frames, [50] * len(frames))
