"""What the scripts share: options, reading pictures, running fit(), keeping results.

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
import json
import math
import os
import platform
import shutil
import signal
import sys
import threading
import time
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


with quiet():
    import keras
    import tensorflow as tf

    GPUS = tf.config.list_physical_devices("GPU")

if not GPUS:  # determinism is free on a CPU, slow on a GPU, and not all there
    tf.config.experimental.enable_op_determinism()

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TOY_PICTURES = 2000
MANY_SHEETS = 1000  # after so many only every 2nd is drawn, after 2000 every 4th ...
MAX_FRAMES = 60  # of training.gif
KEEP_SECONDS = 600  # from one keeping of results to the next, at most


# ---------------------------------------------------------------------- command line


class InputError(ValueError):
    """Something the user gave cannot be used; one line says what to do."""


def plain_errors(main):
    """Decorator: what a user can mend ends in one line on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapper(argv=None):
        try:
            return main(argv)
        except (InputError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
        raise SystemExit(2)

    return wrapper


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    return "ipykernel" in sys.modules


def number(kind=int, low=1, high=math.inf):
    """An argparse type: an int or float from low to high, both included."""

    def convert(text):
        if not low <= (value := kind(text)) <= high:
            limit = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text} is not {limit}")
        return value

    convert.__name__ = kind.__name__  # argparse shows it: "invalid int value"
    return convert


def color(text):
    """An argparse type: a colour as Pillow names it, to (red, green, blue), 0-255."""
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        hint = f"{text!r} is no colour: try white, black or '#ffcc00'"
        raise argparse.ArgumentTypeError(hint) from None


class Parser(argparse.ArgumentParser):
    """The options that all scripts have; a mistake ends in one line and exit status 2.

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
        add("--images", metavar="PATH", help=images)
        add("--fit", choices=["pad", "crop"], default="pad", help=shape)
        behind = "behind transparent and padded pictures"
        add("--background", type=color, default="white", metavar="COLOR", help=behind)
        out = Path("runs", name)
        add("--out", type=Path, default=out, metavar="FOLDER", help="for the results")
        passes = f"length, in passes over the pictures (default: {length})"
        either.add_argument("--epochs", type=number(), metavar="N", help=passes)
        either.add_argument("--steps", type=number(), metavar="N", help="or in steps")
        size = "pictures per step"
        add("--batch-size", type=number(), default=batch_size, metavar="N", help=size)
        seed = number(low=0, high=2**31 - 1)
        add("--seed", type=seed, default=0, metavar="N", help="same seed, same run")
        add("--bfloat16", action="store_true", help="mixed precision, often faster")
        add("--fresh", action="store_true", help="start over, deleting an earlier run")

    def add_argument(self, *names, **options):
        """As argparse does it, with the default at the end of the help."""
        if options.get("default", argparse.SUPPRESS) != argparse.SUPPRESS:
            options["help"] += " (default: %(default)s)"
        return super().add_argument(*names, **options)

    def parse_args(self, argv=None):
        if argv is None and "kernel_launcher" in sys.argv[0]:
            argv = []  # in a notebook sys.argv belongs to the kernel
        return super().parse_args(argv)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists all options)\n")


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
    print(f"versions    {versions}, Python {platform.python_version()}, {device}")
    size = "x".join(map(str, shape))
    source = args.images if source is None else source
    if source is not None and args.images and args.out.exists():
        if os.path.exists(args.images) and os.path.samefile(args.images, args.out):
            raise InputError("--images and --out are the same folder: choose another")
    if source is None:
        print(f"pictures    {TOY_PICTURES:,} toy pictures of {size}, drawn by utils.py")
        print("            (your own: --images FOLDER)")
        return toy_images(TOY_PICTURES, shape, args.seed)
    images, skipped = load_images(source, shape, args.fit, args.background)
    print(f"pictures    {len(images):,} of {size}")
    if skipped:
        args.out.mkdir(parents=True, exist_ok=True)
        listing = args.out / "skipped.txt"
        text = "".join(f"{line}\n" for line in skipped)
        listing.write_text(text, encoding="utf-8", errors="backslashreplace")
        print(f"skipped     {len(skipped):,} unreadable files, listed in {listing}")
    return images


def load_images(source, shape, fit="pad", background="white"):
    """Read pictures from a folder and its subfolders, from a file, or from an array.

    Args:
        source: path of a folder, of an .npy or .npz file (its largest array), of an IDX
            file (as MNIST has them, gzipped or not), or an array. Arrays: (N, H, W) or
            (N, H, W, 1 or 3), uint8, or numbers in [0, 1], [-1, 1] or [0, 255].
        shape: (height, width, channels), channels 3 (RGB) or 1 (gray).
        fit: "pad" scales the whole picture into the shape and fills up with the
            background; "crop" cuts out the middle. Neither distorts.
        background: colour name or (red, green, blue); also behind transparent pixels.

    Returns:
        (images, skipped): uint8 array (N, *shape), N at least 1, in the order of the
        sorted paths; a list of "path: reason" for files that could not be read.

    Raises:
        InputError: nothing is there, or nothing that can be read.
    """
    if not isinstance(source, np.ndarray) and Path(source).is_dir():
        items = find_pictures(source)
        if not items:
            raise InputError(f"no pictures ({' '.join(EXTENSIONS)}) in {source}")
    else:
        items = read_array(source)
        if items.shape[1:] == tuple(shape):
            return items, []
    if isinstance(background, str):
        background = color(background)
    images, skipped, count = np.empty((len(items), *shape), np.uint8), [], 0
    bar = keras.utils.Progbar(len(items), unit_name="picture")
    show = sys.stdout.isatty() or in_notebook()
    read = functools.partial(try_fit, shape=shape, fit=fit, background=background)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for item, result in zip(items, pool.map(read, items)):
            if isinstance(result, str):
                skipped.append(f"{item}: {result}")
            else:
                images[count] = result
                count += 1
            if show:
                bar.update(count + len(skipped))
    if not count:
        raise InputError(
            f"none of {len(items):,} files can be read, first {skipped[0]}"
        )
    return images[:count], skipped


def find_pictures(folder) -> list[Path]:
    """Sorted paths of all files named like pictures, without those of earlier runs."""
    found = []
    for root, folders, names in os.walk(folder):
        if "settings.json" in names and root != str(folder):
            folders.clear()
        else:
            found += [Path(root, n) for n in names if n.lower().endswith(EXTENSIONS)]
    return sorted(found)


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
                if path.suffix == ".npz":
                    array = max((array[name] for name in array.files), key=np.size)
            else:
                array = read_idx(path.read_bytes())
        except (ValueError, EOFError, OSError, BadZipFile, zlib.error) as error:
            hint = f"{source} is no folder and no .npy, .npz or IDX file ({error})"
            raise InputError(hint) from None
    array = array[..., np.newaxis] if array.ndim == 3 else array
    if array.ndim != 4 or not array.size or array.shape[3] not in (1, 3):
        wanted = "(N, height, width) or (N, height, width, 1 or 3)"
        raise InputError(f"the array has shape {array.shape}, not {wanted}")
    if array.dtype == np.uint8:
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
    choose = min if fit == "pad" else max
    scale = choose(width / picture.width, height / picture.height)
    size = [max(1, round(side * scale)) for side in picture.size]
    # Bilinear, as in torchvision; Pillow averages where it shrinks: no aliasing.
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (width, height), background)
    canvas.paste(picture, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas if channels == 3 else canvas.convert("L")).reshape(shape)


def to_rgb(picture, background) -> Image.Image:
    """A Pillow picture of any mode as RGB, its transparent pixels on the background."""
    if picture.mode[0] in "IF":  # deep grays: scale them, convert() would clip
        values = np.asarray(picture, np.float32)
        full = next((f for f in (1, 255) if values.max() <= f), 65535)
        opaque = values != picture.info.get("transparency")
        layers = [to_uint8(values, (0, full)), np.uint8(255 * opaque)]
        picture = Image.merge("LA", [Image.fromarray(layer) for layer in layers])
    elif picture.mode == "LAB":
        profiles = [ImageCms.createProfile(name) for name in ("LAB", "sRGB")]
        picture = ImageCms.profileToProfile(picture, *profiles, outputMode="RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    canvas = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(canvas, picture.convert("RGBA")).convert("RGB")


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
    while True:
        rng = np.random.default_rng((seed, epoch))
        if uniform:
            order = rng.integers(len(images), size=steps_per_epoch * batch_size)
        else:
            order = rng.permutation(len(images))
        for i in range(first * batch_size, len(order), batch_size):
            yield images[order[i : i + batch_size]]
        epoch, first = epoch + 1, 0


def train(gan, images, args, *, sheet_size, sample_every=None, sample_every_epochs=None,
          value_range=(-1, 1), real_batch_size=None, uniform=False):  # fmt: skip
    """Run gan.fit() and keep what it gives in args.out; go on with what lies there.

    Args:
        gan: a keras.Model with train_step(), generator, discriminator, g_optimizer
            (applied once a step), d_optimizer, means (metrics) and sample_z(n, seed).
        images: uint8 array (N, height, width, channels).
        args: parsed options (out, epochs or steps, batch_size, seed, fresh).
        sheet_size: (rows, columns) of the sheets of samples.
        sample_every, sample_every_epochs: a sheet each so many steps or epochs.
        value_range: of the generator's output.
        real_batch_size: real pictures per step, if not args.batch_size.
        uniform: draw pictures with replacement, in place of shuffled epochs.

    Raises:
        InputError: the folder holds a run with other settings; the losses explode.
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
    print("networks    G {:,} parameters, D {:,}".format(*parameters))
    epochs = f"{total / steps_per_epoch:,.4g} epochs of {steps_per_epoch:,}"
    print(f"training    {total:,} steps of {batch_size} pictures: {epochs}")
    if not GPUS and images[0].size >= 256 * 256 * 3:
        print("warning     pictures of this size want a GPU; a CPU takes days")
    print(f"output      {args.out}{os.sep}", flush=True)
    recorder = Recorder(
        gan, images, args, total, steps_per_epoch,
        sample_every or sample_every_epochs * steps_per_epoch, sheet_size, value_range,
    )  # fmt: skip
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
                verbose=int(recorder.interactive),
            )
        recorder.keep()
    results = "samples, training.gif, losses and generator.keras"
    print(f"{recorder.stopped or 'done'} at step {recorder.step:,}: {results} are in "
          f"{args.out}{os.sep}")  # fmt: skip


@contextlib.contextmanager
def replacing(path):
    """A temporary path to write to; it takes the place of path once it is whole."""
    temporary = path.with_name(f".unfinished-{path.name}")
    yield temporary
    try:
        os.replace(temporary, path)
    except PermissionError:  # on Windows, while another program shows the old one
        print(f"warning     {path} cannot be renewed: is it open elsewhere?")


class Recorder(keras.callbacks.Callback):
    """Keeps sheets, losses, GIF, generator and checkpoints while fit() runs.

    A checkpoint holds all variables: weights, moving averages, optimizer moments,
    random state, means of the epoch. The rest follows from seed and step, so that a run
    that goes on from it is, on a CPU, the uninterrupted one bit for bit.
    """

    def __init__(self, gan, images, args, total, steps_per_epoch, sample_every,
                 sheet_size, value_range):  # fmt: skip
        super().__init__()
        self.gan, self.out, self.value_range = gan, args.out, value_range
        self.total, self.steps_per_epoch = total, steps_per_epoch
        self.sample_every, self.columns = sample_every, sheet_size[1]
        self.interactive = sys.stdout.isatty() or in_notebook()
        self.stopped, self.pause_at, self.keep_at, self.rows = "", total, 0.0, []
        # A plain number as seed: sheets leave the random state of training alone.
        self.z = gan.sample_z(math.prod(sheet_size), args.seed)

        self.prepare_folder(args, len(images))
        variables = gan.variables + gan.metrics_variables
        variables += gan.d_optimizer.variables + gan.g_optimizer.variables
        unique = {id(variable): variable.value for variable in variables}
        checkpoint = tf.train.Checkpoint(variables=list(unique.values()))
        self.manager = tf.train.CheckpointManager(
            checkpoint, str(self.out / "checkpoints"), max_to_keep=2
        )
        if self.manager.latest_checkpoint:
            try:
                checkpoint.restore(self.manager.latest_checkpoint).assert_consumed()
            except Exception:  # TensorFlow raises of every kind on broken files
                raise InputError(
                    f"the checkpoint in {self.out} is damaged, or of networks other "
                    "than these: take another --out, or --fresh"
                ) from None
        self.step = int(gan.g_optimizer.iterations)
        self.means = [variable.numpy() for variable in gan.metrics_variables]
        self.forget_later_results()
        if self.step:
            print(f"resuming at step {self.step:,} of {total:,}", flush=True)
        else:
            self.save_picture("real.png", images[:64], columns=8)
            self.save_sheet()

    def prepare_folder(self, args, count):
        """Make the folder and settings.json; refuse the folder of a different run."""
        new = {name: value for name, value in vars(args).items() if name != "fresh"}
        if args.images:
            new["images"] = os.path.abspath(args.images)
        new["pictures"] = count
        versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
        new["versions"] = {"python": platform.python_version(), **versions}
        new = json.loads(json.dumps(new, default=str))  # as it will be read back
        file, checkpoints = self.out / "settings.json", self.out / "checkpoints"
        if args.fresh and checkpoints.exists():
            print(f"deleting the checkpoints and samples in {self.out}{os.sep}")
            shutil.rmtree(checkpoints)
            shutil.rmtree(self.out / "samples", ignore_errors=True)
        if checkpoints.exists() and file.exists():
            old = json.loads(file.read_text("utf-8"))
            for name in sorted(new.keys() - {"epochs", "steps", "out", "versions"}):
                if old.get(name) != new[name]:
                    raise InputError(
                        f"the run in {self.out} has {name} {old.get(name)}, not "
                        f"{new[name]}: use the same, another --out, or --fresh"
                    )
        (self.out / "samples").mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(new, indent=2), "utf-8")

    def forget_later_results(self):
        """Drop rows and sheets from after the checkpoint, and those of an early end."""
        final = self.step if self.step >= self.total else None  # all done already
        if self.step:
            with open(self.out / "losses.csv", newline="", encoding="utf-8") as file:
                rows = [(int(row["step"]), row) for row in csv.DictReader(file)]
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
        if not all(map(math.isfinite, values.values())):
            raise InputError(
                f"the losses are not finite at step {self.step:,}; {self.out} keeps "
                "what was saved before. Try --fresh with another --seed"
            )
        if self.wants_row(self.step) or ends:
            row = {"epoch": math.ceil(self.step / self.steps_per_epoch)}
            row["step"] = self.step
            self.rows.append(row | {name: f"{v:.6g}" for name, v in values.items()})
        if self.wants_sheet(self.step) or ends:
            self.save_sheet()
        if time.monotonic() > self.keep_at and not ends:  # train() keeps the end
            self.keep()
        if not self.interactive and (ends or self.step % self.steps_per_epoch == 0):
            self.print_epoch(values)
        self.model.stop_training = ends or self.step == self.pause_at

    def print_epoch(self, values):
        """One line for an epoch, where no terminal shows a bar."""
        seconds = (time.monotonic() - self.began) / (self.step - self.began_at)
        minutes, _ = divmod(round(seconds * (self.total - self.step)), 60)
        means = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"epoch {math.ceil(self.step / self.steps_per_epoch):,}  "
              f"step {self.step:,}/{self.total:,}  {means}  {seconds:.3g} s/step  "
              f"{minutes // 60} h {minutes % 60:02} min left", flush=True)  # fmt: skip

    def sheets(self):
        """(step, path) of all sheets, in order."""
        paths = (self.out / "samples").glob("step_*.png")
        return sorted((int(p.stem[5:]), p) for p in paths if p.stem[5:].isdigit())

    def save_sheet(self):
        """Draw the fixed z in inference mode, 16 at a time, and lay them out."""
        parts = [self.gan.generator(self.z[i : i + 16], training=False)
                 for i in range(0, len(self.z), 16)]  # fmt: skip
        name = f"samples/step_{self.step:0{max(6, len(str(self.total)))}}.png"
        values = np.concatenate([np.asarray(part) for part in parts])
        self.save_picture(name, to_uint8(values, self.value_range), self.columns)

    def save_picture(self, name, images, columns):
        """Write pictures (N, H, W, C) as one PNG."""
        array = sheet(images, columns)
        with replacing(self.out / name) as temporary:
            imageio.imwrite(temporary, array[..., 0] if array.shape[2] == 1 else array)

    def keep(self):
        """Write losses.csv and .png, training.gif, generator.keras and a checkpoint."""
        began = time.monotonic()
        with (
            replacing(self.out / "losses.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            names = [mean.name for mean in self.gan.means]
            writer = csv.DictWriter(file, ["epoch", "step", *names])
            writer.writeheader()
            writer.writerows(self.rows)
        with replacing(self.out / "losses.png") as temporary:
            plot_losses(temporary, self.rows)
        with replacing(self.out / "training.gif") as temporary:
            save_gif(temporary, [path for _, path in self.sheets()])
        with replacing(self.out / "generator.keras") as temporary:
            self.gan.generator.save(temporary)
        try:
            self.manager.save(checkpoint_number=self.step)
        except tf.errors.OpError as error:  # such as a full disk
            raise OSError(f"cannot write to {self.out}: {error.message}") from None
        # The next time comes after 50 times what this took: 2 % of the time, or less.
        now = time.monotonic()
        self.keep_at = now + min(50 * (now - began), KEEP_SECONDS)

    @contextlib.contextmanager
    def interruptible(self):
        """The first Ctrl-C ends training after the step it is in, a second at once."""

        def on_interrupt(*_):
            self.stopped = "stopped"
            with contextlib.suppress(RuntimeError):  # interrupted while printing
                print("\nstopping after this step ...", flush=True)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return
        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def save_gif(path, sheets):
    """Make a GIF of at most MAX_FRAMES of the sheets (paths), the last one included."""
    frames = []
    for i in np.unique(np.linspace(0, len(sheets) - 1, MAX_FRAMES).round().astype(int)):
        with Image.open(sheets[i]) as picture:
            picture = picture.convert("RGB")
            picture.thumbnail((512, 512))
            frames.append(np.asarray(picture))
    milliseconds = [150] * (len(frames) - 1) + [1500]
    imageio.imwrite(path, frames, duration=milliseconds, loop=0)


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
