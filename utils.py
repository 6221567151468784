"""What the five scripts share: the command line, reading pictures, running ``fit()`` and keeping its results.

Nothing in here is needed to understand a GAN; every network, label and update stands in
the script itself.

Picture arrays are uint8, 0-255, of shape (N, height, width, channels), channels 3 (RGB)
or 1 (gray), throughout. Wrong input raises ``InputError`` with one line that says what to do.
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
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageDraw, ImageFile, ImageFont, ImageOps

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


@contextlib.contextmanager
def quiet():
    """Silence file descriptor 2, where TensorFlow's C++ code chats when it starts."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
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

if not GPUS:  # On CPU exact repetition is free; on a GPU it is slow and not always there.
    tf.config.experimental.enable_op_determinism()

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
TOY_PICTURES = 2000
MAX_SHEETS = 500  # From here on a run keeps every 2nd sheet, from twice that every 4th ...
MAX_FRAMES = 60  # of training.gif


# ------------------------------------------------------------------- command line


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what to do."""


def plain_errors(main):
    """Decorate ``main``: an InputError becomes one line on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\nstopped before training began", file=sys.stderr)
        raise SystemExit(2)

    return wrapper


def in_notebook() -> bool:
    """Whether this code runs inside a Jupyter kernel."""
    return "ipykernel" in sys.modules


def number(kind=int, low=1, high=math.inf):
    """An argparse type: an int or float between low and high, both included."""

    def convert(text):
        value = kind(text)
        if not low <= value <= high:
            limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text} is not {limits}")
        return value

    convert.__name__ = kind.__name__  # argparse names it in "invalid int value"
    return convert


def color(text):
    """An argparse type: a colour as Pillow names it, to (red, green, blue), each 0-255."""
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no colour: try white, black or '#ffcc00'"
        ) from None


class Parser(argparse.ArgumentParser):
    """The options that all scripts have; mistakes end in one line and exit status 2.

    Args:
        name: the script's name without ``.py``, also of its folder in ``runs/``.
        description: one line for ``--help``.
        batch_size: default of ``--batch-size``.
        length: what ``--help`` says of the default length; the script sets it.
    """

    def __init__(self, name, description, *, batch_size, length):
        super().__init__(
            prog=f"{name}.py", description=description, allow_abbrev=False
        )
        option = self.add_argument
        option("--images", metavar="PATH", help="a folder of pictures, searched with "
               "all its subfolders, or an .npy, .npz or IDX file; without it the script "
               "trains on toy pictures that it draws itself")  # fmt: skip
        option("--fit", choices=["pad", "crop"], default="pad", help="how pictures get "
               "the right shape without distortion: pad fills up with --background, crop "
               "cuts the middle out (default: %(default)s)")  # fmt: skip
        option("--background", type=color, default="white", metavar="COLOR", help="the "
               "colour behind transparent and padded pictures (default: %(default)s)")  # fmt: skip
        option("--out", type=Path, default=Path("runs", name), metavar="FOLDER",
               help="where the results go (default: %(default)s)")  # fmt: skip
        either = self.add_mutually_exclusive_group()
        either.add_argument("--epochs", type=number(), metavar="N", help="length of the "
                            f"training in passes over the pictures (default: {length})")  # fmt: skip
        either.add_argument("--steps", type=number(), metavar="N", help="length of the "
                            "training in updates of each network")  # fmt: skip
        option("--batch-size", type=number(), default=batch_size, metavar="N",
               help="default: %(default)s")  # fmt: skip
        option("--seed", type=number(low=0, high=2**31 - 1), default=0, metavar="N",
               help="the same seed gives the same run (default: %(default)s)")  # fmt: skip
        option("--bfloat16", action="store_true", help="calculate in mixed precision: faster "
               "where the processor or GPU has it")  # fmt: skip
        option("--fresh", action="store_true",
               help="start over: delete what an earlier run left in --out")  # fmt: skip

    def parse_args(self, argv=None):
        if argv is None and in_notebook():
            argv = []  # sys.argv belongs to the kernel
        return super().parse_args(argv)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists all options)\n")


def prepare(args):
    """Seed everything that is random and set the precision; call it before building networks."""
    keras.utils.set_random_seed(args.seed)
    keras.config.set_dtype_policy("mixed_bfloat16" if args.bfloat16 else "float32")


# ------------------------------------------------------------------------ pictures


def training_images(args, shape, source=None) -> np.ndarray:
    """The pictures to train on: ``source``, ``args.images``, or toy pictures without both.

    Prints the first lines of a run, writes ``skipped.txt`` into ``args.out`` if files could not
    be read. Raises InputError.

    Args:
        args: parsed options (``images``, ``fit``, ``background``, ``out``, ``seed``).
        shape: (height, width, channels) to bring them to.
        source: a path or an array, in place of ``args.images``.

    Returns:
        uint8 array (N, height, width, channels), N at least 1.
    """
    device = ", ".join(
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in GPUS
    )
    print(
        f"{args.out.name}: Keras {keras.__version__}, TensorFlow {tf.__version__}, "
        f"Python {platform.python_version()}, {device or f'CPU, {os.cpu_count()} cores'}"
    )
    size = "×".join(map(str, shape))
    source = args.images if source is None else source
    if source is None:
        print(f"pictures    {TOY_PICTURES:,} toy pictures of {size}, drawn by utils.py; "
              "train on your own with --images FOLDER")  # fmt: skip
        return toy_images(TOY_PICTURES, shape, args.seed)
    images, skipped = load_images(
        source, shape, args.fit, args.background, exclude=args.out
    )
    print(f"pictures    {len(images):,} of {size} from {args.images or args.dataset}")
    if skipped:
        args.out.mkdir(parents=True, exist_ok=True)
        listing = args.out / "skipped.txt"
        listing.write_text("".join(f"{line}\n" for line in skipped), "utf-8")
        print(f"skipped     {len(skipped):,} files that are no readable pictures, "
              f"listed in {listing}")  # fmt: skip
    return images


def load_images(source, shape, fit="pad", background="white", exclude=None):
    """Read pictures from a folder (with subfolders), an .npy/.npz array or an IDX file.

    Args:
        source: path of a folder or file, or an array. Arrays: (N, H, W) or (N, H, W, 1 | 3),
            uint8, or floats in [0, 1], [-1, 1] or [0, 255]. IDX: as MNIST has it, gzipped or not.
        shape: (height, width, channels), channels 1 (gray) or 3 (RGB).
        fit: "pad" keeps the whole picture and fills up with ``background``, "crop" cuts
            out the middle. Neither distorts.
        background: colour name or (red, green, blue); transparency is composited on it.
        exclude: a folder to leave out, such as the one the results go to.

    Returns:
        (images, skipped): uint8 array (N, *shape) in the order of the sorted paths, N at
        least 1, and one "path: reason" for each file that could not be read.

    Raises:
        InputError: nothing there, or nothing in it that can be read.
    """
    if not isinstance(source, np.ndarray) and Path(source).is_dir():
        sources = find_pictures(source, exclude)
        if not sources:
            kinds = ", ".join(sorted(EXTENSIONS))
            raise InputError(f"no pictures ({kinds}) in {source}")
    else:
        sources = read_array(source)
        if sources.shape[1:] == tuple(shape):
            return sources, []

    if isinstance(background, str):
        background = ImageColor.getrgb(background)[:3]
    images, skipped = np.empty((len(sources), *shape), np.uint8), []
    count, bar = 0, keras.utils.Progbar(len(sources), unit_name="picture")
    show = sys.stdout.isatty() or in_notebook()
    fitted = functools.partial(try_fit, shape=shape, fit=fit, background=background)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for item, result in zip(sources, pool.map(fitted, sources)):
            if isinstance(result, str):
                skipped.append(f"{item}: {result}")
            else:
                images[count] = result
                count += 1
            if show:
                bar.update(count + len(skipped))
    if not count:
        raise InputError(
            f"none of the {len(sources):,} files in {source} can be read as a picture; "
            f"the first: {skipped[0]}"
        )
    return images[:count], skipped


def find_pictures(folder, exclude=None) -> list[Path]:
    """Sorted paths of all files in folder that are named like pictures."""
    exclude = exclude and Path(exclude).resolve()
    found = []
    for root, folders, names in os.walk(folder):
        if exclude and Path(root).resolve() == exclude:
            folders.clear()
            continue
        found += [Path(root, n) for n in names if Path(n).suffix.lower() in EXTENSIONS]
    return sorted(found)


def read_array(source) -> np.ndarray:
    """An array, or an .npy, .npz or IDX file, as uint8 (N, H, W, 1 | 3); raises InputError."""
    if isinstance(source, np.ndarray):
        array, source = source, "the array"
    else:
        source = Path(source)
        if not source.is_file():
            raise InputError(f"{source}: no such file or folder")
        try:
            if source.suffix in (".npy", ".npz"):
                array = np.load(source, allow_pickle=False)
                if source.suffix == ".npz":  # several arrays: the largest
                    with array as arrays:
                        array = max((arrays[name] for name in arrays.files), key=np.size)
            else:
                array = read_idx(source.read_bytes())
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{source} is no .npy, .npz or IDX file: {error}") from None
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if array.ndim != 4 or not array.size or array.shape[3] not in (1, 3):
        raise InputError(
            f"{source} holds an array of shape {array.shape}, not (N, height, width) or "
            "(N, height, width, 1 or 3)"
        )
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        if not -1 <= low <= high <= 255 or (low < 0 and high > 1):
            raise InputError(
                f"{source} has values from {low:g} to {high:g}, not in [0, 1], [-1, 1] or "
                "[0, 255]"
            )
        scale, shift = (127.5, 1) if low < 0 else (255, 0) if high <= 1 else (1, 0)
        array = np.uint8(np.rint((array.astype(np.float32) + shift) * scale))
    return array


def read_idx(data) -> np.ndarray:
    """Decode IDX, MNIST's format: 0, 0, type, number of dimensions, each of them, values."""
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    if data[:3] != b"\0\0\x08":  # type 8 is uint8
        raise ValueError("it does not begin like one")
    dimensions = np.frombuffer(data, ">i4", data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(dimensions)


def try_fit(source, shape, fit, background):
    """``fit_picture`` of a file or an array; what cannot be read comes back as its reason."""
    try:
        if isinstance(source, np.ndarray):
            picture = Image.fromarray(source.squeeze(-1) if source.shape[-1] == 1 else source)
            return fit_picture(picture, shape, fit, background)
        with Image.open(source) as picture:
            # Let JPEG decode straight to 1/2, 1/4 or 1/8, still at least as large as needed.
            picture.draft(None, (max(shape[:2]), max(shape[:2])))
            return fit_picture(picture, shape, fit, background)
    except Exception as error:  # Pillow raises about every kind on broken files
        return f"{type(error).__name__}: {error}".splitlines()[0]


def fit_picture(picture, shape, fit, background) -> np.ndarray:
    """One Pillow picture of any mode to a uint8 array of ``shape``, upright and undistorted."""
    height, width, channels = shape
    picture = to_rgb(ImageOps.exif_transpose(picture), background)
    smaller_or_larger = min if fit == "pad" else max
    scale = smaller_or_larger(width / picture.width, height / picture.height)
    size = [max(1, round(side * scale)) for side in picture.size]
    # Bilinear as torchvision's Resize; Pillow averages when it shrinks, so no aliasing.
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (width, height), background)
    canvas.paste(picture, ((width - size[0]) // 2, (height - size[1]) // 2))
    array = np.asarray(canvas if channels == 3 else canvas.convert("L"))
    return array.reshape(shape)


def to_rgb(picture, background) -> Image.Image:
    """A Pillow picture of any mode as RGB, transparency composited on ``background``."""
    if picture.mode.startswith(("I", "F")):  # deep grays: scale, where convert() would clip
        values = np.asarray(picture, np.float32)
        transparent = picture.info.get("transparency")
        deepest = 65535 if values.max() > 255 else 255 if values.max() > 1 else 1
        alpha = np.uint8(255 * (values != transparent))
        gray = np.uint8(np.clip(values / deepest, 0, 1) * 255 + 0.5)
        picture = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])
    elif picture.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        picture = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    canvas = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(canvas, picture).convert("RGB")


def toy_images(count, shape, seed=0) -> np.ndarray:
    """Draw distinct toy pictures: coloured shapes on white, or digits on black for gray.

    Returns a uint8 array (count, *shape); the same seed draws the same pictures.
    """
    height, width, channels = shape
    rng, images = np.random.default_rng(seed), np.empty((count, *shape), np.uint8)
    side = 2 * min(height, width)  # drawn at twice the size, shrunk for smooth edges
    for i in range(count):
        if channels == 1:
            picture = Image.new("RGB", (side, side), "black")
            font = ImageFont.load_default(side * rng.uniform(0.75, 0.95))
            ImageDraw.Draw(picture).text((side / 2, side / 2), str(rng.integers(10)),
                                         "white", font, anchor="mm")  # fmt: skip
            picture = picture.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
        else:
            picture = Image.new("RGB", (side, side), "white")
            hue = rng.random()
            fill, edge = (tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.8, value))
                          for value in (0.95, 0.5))  # fmt: skip
            corners, dip = [(60, 1), (3, 1), (4, 1), (10, 0.45)][rng.integers(4)]
            radius, (x, y) = side * rng.uniform(0.3, 0.42), side * rng.uniform(0.46, 0.54, 2)
            turn = rng.uniform(-0.25, 0.25) - math.pi / 2
            points = [
                (x + r * math.cos(a), y + r * math.sin(a))
                for k in range(corners)
                for r, a in [(radius * (dip if k % 2 else 1), turn + k * math.tau / corners)]
            ]
            ImageDraw.Draw(picture).polygon(points, fill, edge, width=side // 32 + 1)
        images[i] = fit_picture(picture, shape, "pad", picture.getpixel((0, 0)))
    return images


def to_uint8(values, value_range=(-1, 1)) -> np.ndarray:
    """Floats in ``value_range``, clipped to it, to uint8 0-255."""
    low, high = value_range
    scaled = (np.asarray(values, np.float32) - low) / (high - low)
    return np.uint8(np.rint(255 * np.clip(scaled, 0, 1)))


def sheet(images, columns) -> np.ndarray:
    """Lay uint8 pictures (N, H, W, C) out in rows: (rows * H, columns * W, C), rest white."""
    rows = -(-len(images) // columns)
    height, width, channels = images.shape[1:]
    grid = np.full((rows * columns, height, width, channels), 255, np.uint8)
    grid[: len(images)] = images
    grid = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


# ------------------------------------------------------------------------- training


@contextlib.contextmanager
def replacing(path):
    """Give a temporary path to write to; it takes the place of ``path`` once it is whole."""
    temporary = path.with_name(f".unfinished-{path.name}")
    yield temporary
    os.replace(temporary, path)


def save_picture(path, array):
    """Write a uint8 array (H, W, C) as a PNG."""
    with replacing(path) as temporary:
        imageio.imwrite(temporary, array.squeeze(-1) if array.shape[-1] == 1 else array)


def batches(images, batch_size, seed, start_step=0, uniform=False):
    """Yield batches of pictures for ever, the same for the same seed, from any step on.

    Each epoch is a shuffle of its own of all pictures, its last batch smaller where they
    do not divide; with ``uniform`` each batch is drawn from all pictures, with replacement.

    Yields:
        uint8 array (up to batch_size, height, width, channels).
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
    """Run ``gan.fit()`` and keep everything it gives in ``args.out``; resume what lies there.

    Args:
        gan: a keras.Model with ``train_step``, ``generator``, ``discriminator``,
            ``g_optimizer`` (updated once a step), ``d_optimizer`` and ``sample_z(n, seed)``.
        images: uint8 array (N, height, width, channels).
        args: parsed options (``out``, ``epochs`` or ``steps``, ``batch_size``, ``seed``, ...).
        sheet_size: (rows, columns) of a sheet of samples.
        sample_every, sample_every_epochs: a sheet each so many steps, or so many epochs.
        value_range: of the generator's output.
        real_batch_size: real pictures per step, if not ``args.batch_size``.
        uniform: draw pictures at random in place of epochs without repetition.

    Raises:
        InputError: the folder holds a run with other settings, or losses are not finite.
    """
    batch_size = real_batch_size or args.batch_size
    if not uniform:
        batch_size = min(batch_size, len(images))
    steps_per_epoch = math.ceil(len(images) / batch_size)
    total = args.steps or args.epochs * steps_per_epoch
    sample_every = sample_every or sample_every_epochs * steps_per_epoch
    for model, optimizer in [(gan.generator, gan.g_optimizer), (gan.discriminator, gan.d_optimizer)]:
        optimizer.build(model.trainable_variables)
    gan.built = True  # both networks are; there is no call() to build
    gan.compile(optimizer=None, jit_compile=bool(GPUS))  # XLA: faster on GPU, not on CPU

    print(f"networks    G {gan.generator.count_params():,} parameters, "
          f"D {gan.discriminator.count_params():,}")  # fmt: skip
    print(f"training    {total:,} steps of {batch_size} pictures, {total / steps_per_epoch:,.4g} "
          f"epochs of {steps_per_epoch:,} steps")  # fmt: skip
    if not GPUS and images[0].size >= 256 * 256 * 3:
        print("warning     pictures of this size want a GPU; on a CPU this takes days")
    recorder = Recorder(gan, images, args, total, steps_per_epoch, sample_every,
                        sheet_size, value_range)  # fmt: skip
    print(f"output      {args.out}{os.sep}", flush=True)
    with recorder.interruptible():
        while recorder.step < total and not recorder.stopped:
            epoch, done = divmod(recorder.step, steps_per_epoch)
            dataset = tf.data.Dataset.from_generator(
                lambda start=recorder.step: batches(
                    images, batch_size, args.seed, start, uniform
                ),
                output_signature=tf.TensorSpec((None, *images.shape[1:]), tf.uint8),
            ).prefetch(2)
            options = tf.data.Options()
            options.autotune.enabled = False  # it would delay the end by up to a second
            # A run that was stopped within an epoch first completes it, then goes on by epochs.
            recorder.pause_at = recorder.step + steps_per_epoch - done if done else total
            gan.fit(
                dataset.with_options(options),
                initial_epoch=epoch,
                epochs=math.ceil(total / steps_per_epoch),
                steps_per_epoch=min(steps_per_epoch - done, total - recorder.step),
                callbacks=[recorder],
                shuffle=False,
                verbose=int(recorder.interactive),
            )
    recorder.keep()
    print(f"{recorder.stopped or 'done'} at step {recorder.step:,}: samples, training.gif, "
          f"losses and generator.keras are in {args.out}{os.sep}")  # fmt: skip


class Recorder(keras.callbacks.Callback):
    """Keeps samples, losses, GIF, generator and checkpoints while ``fit()`` runs.

    Everything a run is made of (weights, moving averages, optimizer moments, random state, epoch
    means) is saved as variables, and everything else follows from seed and step, so that a
    resumed run on a CPU is the uninterrupted one, bit for bit.
    """

    def __init__(self, gan, images, args, total, steps_per_epoch, sample_every, sheet_size,
                 value_range):  # fmt: skip
        super().__init__()
        self.out, self.total, self.steps_per_epoch = args.out, total, steps_per_epoch
        self.sample_every, self.columns = sample_every, sheet_size[1]
        self.value_range = value_range
        self.interactive = sys.stdout.isatty() or in_notebook()
        self.gan, self.stopped, self.pause_at = gan, "", total
        self.keep_next = 0.0  # time from which keep() is due again
        # int: a seed of its own, so that sheets do not disturb the training's random numbers
        self.z = gan.sample_z(math.prod(sheet_size), args.seed)

        self.prepare_folder(args, len(images))
        variables = [*gan.variables, *gan.metrics_variables,
                     *gan.g_optimizer.variables, *gan.d_optimizer.variables]  # fmt: skip
        variables = list({id(v): v for v in variables}.values())
        self.manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(variables=[v.value for v in variables]),
            str(self.out / "checkpoints"),
            max_to_keep=2,
        )
        self.rows = []
        self.resume()
        self.means = [v.numpy() for v in gan.metrics_variables]
        if self.step == 0:
            columns = max(1, min(8, len(images)))
            save_picture(self.out / "real.png", sheet(images[: columns * 8], columns))
            self.save_sheet()

    def prepare_folder(self, args, count):
        """Make the folder; refuse one that holds a run with other settings."""
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        del settings["fresh"]
        settings["pictures"] = count
        settings["versions"] = {"python": platform.python_version(), "keras": keras.__version__,
                                "tensorflow": tf.__version__, "numpy": np.__version__}  # fmt: skip
        settings = json.loads(json.dumps(settings))  # tuples to lists, as read back
        file = self.out / "settings.json"
        if args.fresh and file.exists():
            print(f"deleting the earlier run in {self.out}{os.sep}")
            for name in ("checkpoints", "samples"):
                shutil.rmtree(self.out / name, ignore_errors=True)
        if (self.out / "checkpoints" / "checkpoint").exists() and file.exists():
            for name, old in json.loads(file.read_text("utf-8")).items():
                if name not in ("epochs", "steps", "out", "versions") and old != settings.get(name):
                    raise InputError(
                        f"the run in {self.out} has {name.replace('_', '-')} {old}, this one "
                        f"{settings.get(name)}: use the same, another --out, or --fresh"
                    )
        (self.out / "samples").mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(settings, indent=2), "utf-8")

    def resume(self):
        """Restore the newest checkpoint, if there is one, and what was recorded up to it."""
        if self.manager.latest_checkpoint:
            self.manager.restore_or_initialize()
        self.step = int(self.gan.g_optimizer.iterations)
        if not self.step:
            return
        print(f"resuming at step {self.step:,} of {self.total:,}")
        with open(self.out / "losses.csv", newline="", encoding="utf-8") as file:
            self.rows = [
                row for row in csv.DictReader(file)
                if int(row["step"]) <= self.step and self.wants_row(int(row["step"]))
            ]  # fmt: skip
        for path in self.sheets():
            at = sheet_step(path)
            if at > self.step or not self.wants_sheet(at):
                path.unlink()

    def wants_row(self, step):
        """losses.csv: every 100 steps and at the end of each epoch."""
        return step % 100 == 0 or step % self.steps_per_epoch == 0

    def wants_sheet(self, step):
        """Sheets: at 0, 1, 2, 5, 10, 20, 50 ... up to the source's rhythm, then by that."""
        if step < self.sample_every:
            return str(step).rstrip("0") in ("", "1", "2", "5")
        thinned = max(1, step // (self.sample_every * MAX_SHEETS))
        return step % (self.sample_every << (thinned.bit_length() - 1)) == 0

    def on_epoch_begin(self, epoch, logs=None):
        if self.step % self.steps_per_epoch:  # resumed within an epoch: so are its means
            for variable, value in zip(self.gan.metrics_variables, self.means):
                variable.assign(value)
        self.started, self.started_step = time.monotonic(), self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        last = self.step == self.total
        if not all(math.isfinite(value) for value in logs.values()):
            raise InputError(
                f"the losses are no longer finite at step {self.step:,}; the last good "
                f"checkpoint and generator are in {self.out}. Try another --seed"
            )
        if self.wants_row(self.step) or last:
            epoch = math.ceil(self.step / self.steps_per_epoch)
            self.rows.append({"epoch": epoch, "step": self.step}
                             | {name: f"{value:.6g}" for name, value in logs.items()})  # fmt: skip
        if self.wants_sheet(self.step) or last or self.stopped:
            self.save_sheet()
        if time.monotonic() > self.keep_next and not last:
            self.keep()
        if self.stopped or last or self.step == self.pause_at:
            self.model.stop_training = True
        if not self.interactive and (last or self.step % self.steps_per_epoch == 0):
            self.print_epoch(logs)

    def print_epoch(self, logs):
        """One line for an epoch, where there is no terminal to draw a bar on."""
        seconds = (time.monotonic() - self.started) / (self.step - self.started_step)
        left = time.strftime("%H:%M:%S", time.gmtime(seconds * (self.total - self.step)))
        days = int(seconds * (self.total - self.step) // 86400)
        values = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
        print(f"epoch {math.ceil(self.step / self.steps_per_epoch):,}  step {self.step:,}/"
              f"{self.total:,}  {values}  {seconds:.3g} s/step  "
              f"{f'{days} d ' if days else ''}{left} left", flush=True)  # fmt: skip

    def sheets(self):
        """Paths of all sheets so far, in order."""
        return sorted((self.out / "samples").glob("step_*.png"), key=sheet_step)

    def save_sheet(self):
        """Draw the fixed z and lay the pictures out in one PNG."""
        values = np.concatenate(
            [self.gan.generator(z, training=False) for z in np.array_split(self.z, max(1, len(self.z) // 16))]
        )
        digits = max(6, len(str(self.total)))
        path = self.out / "samples" / f"step_{self.step:0{digits}}.png"
        save_picture(path, sheet(to_uint8(values, self.value_range), self.columns))

    def keep(self):
        """Write checkpoint, generator, losses and GIF; at most 2 % of the time goes there."""
        began = time.monotonic()
        with replacing(self.out / "losses.csv") as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.rows[0] if self.rows else ["epoch", "step"])
                writer.writeheader()
                writer.writerows(self.rows)
        self.manager.save(checkpoint_number=self.step)
        with replacing(self.out / "generator.keras") as temporary:
            self.gan.generator.save(temporary)
        save_losses(self.out / "losses.png", self.rows)
        save_gif(self.out / "training.gif", self.sheets())
        self.keep_next = time.monotonic() + min(600, 50 * (time.monotonic() - began))

    @contextlib.contextmanager
    def interruptible(self):
        """Let the first Ctrl-C end training after the step it is in, the second at once."""

        def on_interrupt(*_):
            self.stopped = "stopped"
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def sheet_step(path) -> int:
    """The step in the name of a sheet."""
    return int(re.sub(r"\D", "", path.stem))


def save_gif(path, sheets):
    """Make a GIF of sheets (paths), at most MAX_FRAMES of them, evenly chosen, the last included."""
    chosen = np.unique(np.linspace(0, len(sheets) - 1, MAX_FRAMES).round().astype(int))
    frames = []
    for i in chosen:
        with Image.open(sheets[i]) as picture:
            picture = picture.convert("RGB")
            picture.thumbnail((512, 512))
            frames.append(np.asarray(picture))
    with replacing(path) as temporary:
        # milliseconds; the last frame stays
        durations = [150] * (len(frames) - 1) + [1500]
        imageio.imwrite(temporary, frames, duration=durations, loop=0)


def save_losses(path, rows):
    """Draw the rows of losses.csv: losses above, mean probabilities below."""
    if len(rows) < 2:
        return
    from matplotlib.figure import Figure  # here, as it is slow to import

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(2, sharex=True)
    steps = [int(row["step"]) for row in rows]
    for name in list(rows[0])[2:]:
        is_loss = name.endswith("loss")
        axes[0 if is_loss else 1].plot(steps, [float(row[name]) for row in rows], label=name)
    for axis, label in zip(axes, ["loss", "mean probability of real"]):
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[1].set_xlabel("step")
    with replacing(path) as temporary:
        figure.savefig(temporary)
