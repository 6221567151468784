"""What the scripts share: options, pictures in, and training with what it keeps.

Nothing in here is needed to understand a GAN: networks, labels and updates are in the
scripts. Each of them needs this file beside it, and no other.
"""

import argparse
import collections
import contextlib
import gzip
import itertools
import json
import math
import os
import shutil
import signal
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageOps

os.environ["KERAS_BACKEND"] = "tensorflow"
# TensorFlow leaves oneDNN, its faster kernels, off on many x86 CPUs: docs/speed.md.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# On a GPU, take memory as needed: sample.py may draw while a script trains.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
with contextlib.suppress(ImportError):  # photos of phones
    __import__("pillow_heif").register_heif_opener()


@contextlib.contextmanager
def quiet():
    """Keep C libraries off file descriptor 2, unless TF_CPP_MIN_LOG_LEVEL is set."""
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or sys.__stderr__ is None:  # closed
        yield
        return
    with open(os.dup(2), "w") as stderr, open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr.fileno(), 2)


with quiet():
    import keras
    import tensorflow as tf

    GPUS = tf.config.list_physical_devices("GPU")
if keras.backend.backend() != "tensorflow":
    raise SystemExit(f"Keras runs on {keras.backend.backend()} here: restart Python")
NOTEBOOK = "ipykernel" in sys.modules
SAVE_SECONDS = 600  # at most, from one checkpoint and film to the next
BAR_SECONDS = 1 if NOTEBOOK or sys.stdout.isatty() else 10  # 10 in a log file


class InputError(Exception):
    """Something the user gave cannot be used; one line says what to do."""


@contextlib.contextmanager
def plain_errors():
    """As a decorator: what a user can fix ends in one line and exit status 2."""
    try:
        yield
        return
    except InputError as error:
        message = f"error: {error}"
    except (MemoryError, tf.errors.ResourceExhaustedError):
        message = "error: out of memory: lower --batch-size (score.py: --pictures)"
    except KeyboardInterrupt:
        message = "stopped"
    print(*message.split(), file=sys.stderr)  # in one line
    if not NOTEBOOK:  # where IPython would make a warning of it
        raise SystemExit(2)


def number(low=1, high=2**31 - 1, kind=int):
    """An argparse type: a number from low to high, both included."""

    def convert(text):
        if not low <= (value := kind(text)) <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    convert.__name__ = kind.__name__  # argparse shows it: "invalid int value"
    return convert


def path(text):
    """An argparse type: a path, but not the empty one, which is the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(os.path.expanduser(text))


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a mistake is an InputError, and values may be numbers and Paths."""

    def error(self, message):
        raise InputError(f"{message} (--help lists all options)")

    def parse_args(self, argv=None):
        if argv is None:  # in a notebook sys.argv belongs to the kernel
            argv = [] if "kernel_launcher" in sys.argv[0] else sys.argv[1:]
        return super().parse_args([*map(str, argv)])


class Parser(OneLineParser):
    """The options that all scripts share; --help shows length as --epochs' default."""

    def __init__(self, name, description, *, batch_size, length):
        super().__init__(f"{name}.py", description=description, allow_abbrev=False)
        add, either = self.add_argument, self.add_mutually_exclusive_group()
        shown = "default: %(default)s"
        add("--images", type=path, help="folder, .npy, .npz or IDX (default: toys)")
        add("--fit", choices=["pad", "crop"], default="pad", help=f"to size; {shown}")
        add("--background", type=ImageColor.getrgb, default="white", help=shown)
        add("--out", type=path, default=f"runs/{name}", help=f"results; {shown}")
        either.add_argument("--epochs", type=number(), help=f"default: {length}")
        either.add_argument("--steps", type=number(), help="in place of --epochs")
        add("--batch-size", type=number(), default=batch_size, help=shown)
        add("--seed", type=number(0), default=0, help=shown)
        add("--bfloat16", action="store_true", help="mixed precision")
        add("--fast", action="store_true", help="faster kernels for CPUs, from fast.py")
        add("--fresh", action="store_true", help="start over, deleting an earlier run")
        self.set_defaults(script=self.prog)

    def parse_args(self, argv=None):
        """Parse argv, set the precision, and seed all that is random."""
        args = super().parse_args(argv)
        keras.config.set_floatx("float32")  # whatever ~/.keras/keras.json says
        keras.config.set_image_data_format("channels_last")
        keras.config.set_dtype_policy("mixed_bfloat16" if args.bfloat16 else "float32")
        keras.utils.set_random_seed(args.seed)
        return args


# -------------------------------------------------------------------------- pictures


def load_images(args, shape, source=None) -> np.ndarray:
    """The training pictures, brought to a shape and kept in args.out as images.npy.

    An .npy file that fits stays where it is.

    Args:
        args: parsed options (images, fit, background, out, seed).
        shape: (height, width, channels), channels 3 (RGB) or 1 (gray).
        source: a folder, a file or an array, in place of args.images.

    Returns:
        uint8 array (N, *shape), N at least 1; a folder's in the order of its paths.

    Raises:
        InputError: there are no pictures, or they cannot be used.
    """
    source = args.images if source is None else source
    target, left_out = args.out / "images.npy", {}
    if source is None:
        print("pictures  toys; for your own: --images FOLDER")
        source = np.stack([draw_toy((args.seed, i)) for i in range(2000)])
    named = isinstance(source, (str, Path))
    if named and os.path.isdir(source):
        items, value_range = find_files(source), None
    else:
        items, value_range = read_array(source)
        if (items.dtype, items.shape[1:], value_range) == (np.uint8, shape, (0, 255)):
            if not isinstance(items, np.memmap):  # an .npy file stays where it is
                refuse_others(args, items)
                write(target, lambda file: np.save(file, items))
            return items
    if named and os.path.realpath(source) in map(os.path.realpath, (args.out, target)):
        raise InputError(f"this run would write to {source}: choose another --out")
    readable = Image.registered_extensions()

    def read(item):
        try:
            if value_range:  # then item is an array
                picture = sheet(to_uint8(item[np.newaxis], value_range), 1)
            elif item.suffix and item.suffix.lower() not in readable:
                raise ValueError(f"Pillow does not read {kind_of(item)}")
            elif not item.is_file():  # a pipe would wait for ever
                raise ValueError("not a file, or no access")
            else:
                picture = Image.open(item)
                picture.draft(None, [max(shape[:2])] * 2)  # JPEGs at 1/2, 1/4 or 1/8
            return fit_picture(picture, shape, args.fit, args.background)
        except Exception as error:  # broken files make Pillow raise all kinds
            left_out[item] = str(error) or type(error).__name__
            return b""  # of which decode() writes nothing

    def decode(file):
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(items), *shape)}
        bar = keras.utils.Progbar(len(items), interval=BAR_SECONDS, unit_name="picture")
        with open(file, "wb") as npy, quiet(), ThreadPoolExecutor() as pool:
            np.lib.format.write_array_header_1_0(npy, header)
            for i, pixels in enumerate(pool.map(read, items), 1):
                npy.write(pixels)
                bar.update(i)
            npy.seek(0)  # a header has the same length for any count
            header["shape"] = (len(items) - len(left_out), *shape)
            np.lib.format.write_array_header_1_0(npy, header)
        if len(items) == len(left_out):
            reason = "{}: {}".format(*min(left_out.items())) if left_out else "no files"
            raise InputError(f"no pictures in {source}: {reason}")
        refuse_others(args, np.load(file, mmap_mode="r"))

    write(target, decode)
    listed = args.out / "left_out.txt"
    listed.unlink(missing_ok=True)
    if left_out:
        lines = "".join(f"{file}: {why}\n" for file, why in sorted(left_out.items()))
        options = "utf-8", "backslashreplace"  # names need not be Unicode
        write(listed, lambda file: file.write_text(lines, *options))
        kinds = collections.Counter(map(kind_of, sorted(left_out))).most_common(9)
        counts = ", ".join(f"{n:,} {kind}" for kind, n in kinds)
        print(f"left out  {counts}: see {listed}")
    return np.load(target, mmap_mode="r")


def find_files(folder) -> list[Path]:
    """Sorted paths of the files in a folder and below, except hidden ones and runs.

    Links are followed, each folder is entered once. Folders named @, # or $ something
    hold thumbnails and recycle bins. One that cannot be entered is listed as a file.
    """
    found, seen, errors = [], set(), []
    for root, dirs, names in os.walk(folder, onerror=errors.append, followlinks=True):
        here = os.path.realpath(root)
        is_run = {"settings.json", "samples"} <= {*names, *dirs}
        if here in seen or is_run:
            names, dirs[:] = [], []  # nothing of it, and nothing below
        seen.add(here)
        dirs[:] = [name for name in sorted(dirs) if name[0] not in ".@#$"]
        found += [Path(root, name) for name in names if name[0] != "."]
    return sorted(found + [Path(error.filename) for error in errors])


def kind_of(file) -> str:
    """The suffix of a file, for people."""
    suffix = ascii(file.suffix.lower())[1:-1] or "without suffix"
    missing = {".heic", ".heif"} - {*Image.registered_extensions()}
    return suffix + " (pip install pillow-heif)" * (suffix in missing)


def fit_picture(picture, shape, fit="pad", background="white") -> np.ndarray:
    """A Pillow picture of any mode to a uint8 array of shape, upright, undistorted."""
    picture.load()  # raises where the file is broken
    with contextlib.suppress(Exception):  # of broken EXIF: what can be read is kept
        picture.getexif()
    picture.info.pop("exif", None)  # or exif_transpose() would read it again
    picture = ImageOps.exif_transpose(picture)
    if picture.mode[0] in "IF":  # 16 or 32 bits a pixel: convert() would clip them
        values = np.nan_to_num(np.asarray(picture))
        guesses = () if "16" in picture.mode else (1, 255)  # 32 bits leave it open
        white = next((n for n in guesses if values.max() <= 1.25 * n), 65535)
        opaque = Image.fromarray(values != picture.info.get("transparency"))
        picture = Image.fromarray(to_uint8(values, (0, white)))
        picture.putalpha(opaque)
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, background)
        picture = Image.alpha_composite(canvas, picture.convert("RGBA"))
    picture, size = picture.convert("RGB"), (shape[1], shape[0])
    bilinear = Image.Resampling.BILINEAR  # averages where it shrinks: no aliasing
    if fit == "pad":
        scale = min(np.divide(size, picture.size))  # pad() alone may round to 0
        inner = [max(1, round(side * scale)) for side in picture.size]
        picture = ImageOps.pad(picture.resize(inner, bilinear), size, color=background)
    else:
        picture = ImageOps.fit(picture, size, bilinear)
    return np.asarray(picture.convert("L" if shape[2] == 1 else "RGB")).reshape(shape)


def read_array(source):
    """Pictures (N, H, W, 1, 3 or 4) from an array, a list or a file, and their range.

    It is (0, 255) for uint8, unless all are 0 or 1; else the first of (0, 1), (-1, 1),
    (0, 255) and (0, 65535) that fits: no value is beyond an end by more than a quarter
    of the range's width (resizing may overshoot), and the largest is at least that.
    """
    named = isinstance(source, (str, Path))
    try:
        array = np.asanyarray(load_file(source) if named else source)  # keeps a memmap
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputError(f"{source}: {error.strerror}") from None
    except Exception as error:  # numpy, too, raises all kinds
        hint = f"neither a folder nor a readable .npy, .npz or IDX file ({error})"
        raise InputError(f"{source if named else 'the list'} is {hint}") from None
    if not is_pictures(array):
        hint = "use reshape() or np.moveaxis() to get (N, height, width, 1, 3 or 4)"
        raise InputError(f"{array.dtype} of shape {array.shape}: no pictures; {hint}")
    array, high = array.reshape(*array.shape[:3], -1), array.max()  # (N, H, W, C)
    if array.dtype == np.uint8 and high > 1:  # no masks of 0 and 1
        return array, (0, 255)
    low = array.min()
    for start, end in ((0, 1), (-1, 1), (0, 255), (0, 65535)):
        slack = (end - start) / 4
        if low >= start - slack and slack <= high <= end + slack:
            print(f"values    {low:g} to {high:g}, taken as {start} to {end}")
            return array, (start, end)
    hint = "scale them to 0 to 1, -1 to 1 or 0 to 255"
    raise InputError(f"the values go from {low:g} to {high:g}: {hint}")


def is_pictures(array) -> bool:
    """Whether an array is of numbers, (N, H, W) or (N, H, W, 1, 3 or 4), N > 0."""
    if array.size == 0 or array.dtype.kind not in "biuf":
        return False
    if array.ndim == 3:
        n, height, width = array.shape
        square = n == height != width  # (H, W, N), where H is W
        return 4 < width <= 4 * height and not square  # nor one (H, W, 3)
    return array.ndim == 4 and array.shape[3] in (1, 3, 4)


def load_file(file) -> np.ndarray:
    """The pictures in an .npy or IDX file, or the largest set of them in an .npz."""
    with open(file, "rb") as raw:
        magic = raw.read(3)
    if magic in (b"\0\0\x08", b"\x1f\x8b\x08"):  # IDX of uint8, as it is or gzipped
        opener = gzip.open if magic[0] else open
        with opener(file, "rb") as raw:
            data = raw.read()  # 0, 0, 8, number of dimensions, their sizes, values
        shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    loaded, arrays = np.load(file, mmap_mode="r"), []
    if isinstance(loaded, np.ndarray):
        return loaded
    for name in loaded.files:
        with contextlib.suppress(ValueError):  # pickled objects are not loaded
            arrays.append(np.asarray(loaded[name]))  # bytes of what is no .npy
    if sets := [array for array in arrays if is_pictures(array)]:
        return max(sets, key=np.size)
    singles = [array for array in arrays if array.ndim > 1]  # not labels beside them
    # A lone one is of flattened pictures, say: read_array() refuses it by its shape.
    return singles[0] if len(singles) == 1 else np.stack(singles)


def draw_toy(seed) -> np.ndarray:
    """A triangle, square or circle, uint8 (64, 64, 3), of any colour, with grain."""
    rng = np.random.default_rng(seed)
    back, fore = (f"hsl({rng.integers(360)}, {n}%)" for n in ("40%, 85", "70%, 50"))
    circle = tuple(rng.uniform((28, 28, 18), (36, 36, 27)))  # x, y, radius
    corners, turn = int(rng.choice([3, 4, 60])), rng.uniform(-15, 15)
    picture = Image.new("RGB", (64, 64), back)
    ImageDraw.Draw(picture).regular_polygon(circle, corners, turn, fore)
    grain = rng.normal(0, 12, (64, 64, 3))  # flat colours make it too easy for D
    return np.uint8(np.clip(np.asarray(picture) + grain, 0, 255))


def draw(generator, z, value_range) -> np.ndarray:
    """uint8 pictures (N, H, W, C) from z (N, latent_dim), in inference mode."""
    parts = (generator(z[i : i + 16], training=False) for i in range(0, len(z), 16))
    return np.concatenate([to_uint8(part, value_range) for part in parts])


def to_uint8(values, value_range) -> np.ndarray:
    """Numbers in value_range, clipped to it, to uint8 0-255."""
    low, high = value_range
    share = (np.asarray(values, np.float32) - low) / (high - low)
    return np.uint8(np.rint(255 * np.clip(share, 0, 1)))


def sheet(images, columns) -> Image.Image:
    """Lay uint8 pictures (N, H, W, C) out in rows, white where there are none."""
    blank = np.full((-len(images) % columns, *images.shape[1:]), 255, np.uint8)
    rows = np.concatenate([images, blank]).reshape(-1, columns, *images.shape[1:])
    pixels = np.vstack([np.hstack(row) for row in rows])
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def save_gif(file, frames, milliseconds):
    """Write Pillow pictures as a film that repeats."""
    options = {"save_all": True, "duration": milliseconds, "loop": 0}
    frames[0].save(file, append_images=frames[1:], **options)


def write(file, save):
    """Call save(temporary), then rename that to file; InputError if it cannot be."""
    temporary = file.with_name(f".unfinished-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        os.replace(temporary, file)
    except OSError as error:
        hint = f"{error.strerror or error}; fix this and rerun"
        raise InputError(f"{file} cannot be written: {hint}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


# -------------------------------------------------------------------------- training


def batches(images, batch_size, seed, start=0, with_replacement=False):
    """Yield uint8 batches for ever, from step start on, the same for the same seed.

    Every epoch is a new shuffle of all pictures, whose last batch may be smaller. With
    replacement, every batch is full, and drawn from all pictures.
    """
    n, per_epoch = len(images), math.ceil(len(images) / batch_size)
    for epoch in itertools.count(start // per_epoch):
        rng, size = np.random.default_rng((seed, epoch)), per_epoch * batch_size
        order = rng.integers(n, size=size) if with_replacement else rng.permutation(n)
        for step in range(max(start - epoch * per_epoch, 0), per_epoch):
            yield images[order[step * batch_size : (step + 1) * batch_size]]


def checksum(images) -> int:
    """A number that tells sets of pictures apart, from at most 1,000 of them."""
    value = 0
    for image in images[:: len(images) // 1000 + 1]:
        value = zlib.crc32(image.tobytes(), value)
    return value


def settings_of(args, images) -> dict:
    """What must be unchanged for a run to resume; train() adds to it."""
    free = {"images", "dataset", "out", "epochs", "steps", "fresh"}  # may change
    settings = {name: value for name, value in vars(args).items() if name not in free}
    return settings | {"pictures": len(images), "checksum": checksum(images)}


def refuse_others(args, images):
    """InputError where a run would not resume: before images.npy is replaced."""
    checkpoint = args.out / "checkpoint.npz"
    if os.path.exists(checkpoint) and not args.fresh:  # False, too, without access
        settings = settings_of(args, images)
        del images  # Windows does not delete a file that is mapped
        restore(checkpoint, settings, [])


def train(gan, images, args, *, batch_size, sheet_size, sample_every, latent="normal",
          value_range=(-1, 1), with_replacement=False):  # fmt: skip
    """Repeat gan.train_step(), keep the results in args.out, and resume from them.

    Args:
        gan: a keras.Model with train_step(), generator, discriminator, g_optimizer,
            d_optimizer, metrics and sample_z(n, seed).
        images: uint8 array (N, height, width, channels).
        args: parsed options (out, epochs or steps, seed, fast, fresh).
        batch_size: real pictures per step, from shuffled passes.
        sheet_size: (rows, columns) of the sheets of samples.
        sample_every: steps from one sheet to the next, or "N epochs", taken as 10 to
            5,000 steps.
        latent: kind of z, "normal" or "uniform", for sample.py.
        value_range: the generator's numbers that are shown as black and as white.
        with_replacement: draw each batch from all pictures, not from passes.
    """
    out, per_epoch = args.out, math.ceil(len(images) / batch_size)
    total = args.steps or args.epochs * per_epoch
    if isinstance(sample_every, str):
        epochs = int(sample_every.split()[0])
        sample_every = min(max(10, epochs * per_epoch), 5000)  # for tiny and huge sets
    accelerate = contextlib.nullcontext
    if args.fast:
        try:
            from fast import accelerate
        except ImportError:
            raise InputError("--fast needs fast.py beside utils.py") from None
    if not GPUS:  # on a CPU the same seed gives the same run
        tf.config.experimental.enable_op_determinism()
    gan.g_optimizer.build(gan.generator.trainable_variables)  # for restore()
    gan.d_optimizer.build(gan.discriminator.trainable_variables)
    parts = gan, gan.g_optimizer, gan.d_optimizer, *gan.metrics
    variables = [variable for part in parts for variable in part.variables]

    settings = settings_of(args, images)
    settings |= {"sheet": sheet_size, "latent": latent, "value_range": value_range}
    rates = gan.g_optimizer.learning_rate, gan.d_optimizer.learning_rate  # of a new gan
    settings["learning_rates"] = [round(float(rate), 9) for rate in rates]

    checkpoint, samples = out / "checkpoint.npz", out / "samples"
    start, rows = 0, []  # steps done, rows of losses.csv
    if os.path.exists(checkpoint) and not args.fresh:
        start, rows = restore(checkpoint, settings, variables)
        if start >= total:
            hint = "extend it with more --steps, or start over with --fresh"
            return print(f"finished already, at step {start:,}: {hint}")

    epoch = f"{per_epoch:,} per epoch of {len(images):,} pictures"
    print(f"training  steps {start:,} to {total:,} ({epoch}), into {out}")
    text = json.dumps(settings, indent=2)
    write(out / "settings.json", lambda file: file.write_text(text))
    z = gan.sample_z(math.prod(sheet_size), args.seed)
    if NOTEBOOK:
        from IPython import display

        newest = display.display(display.Pretty(""), display_id=True)

    def save_sheet(step):
        file = samples / f"step_{step:07}.png"
        pictures = draw(gan.generator, z, value_range)
        write(file, sheet(pictures, sheet_size[1]).save)
        if NOTEBOOK:
            newest.update(display.Image(filename=file))

    if start == 0:
        for old in samples.glob("step_*.png"):
            old.unlink()
    if not any(samples.glob("step_*.png")):
        save_sheet(start)
        write(out / "real.png", sheet(images[:64], 8).save)
    signature = [tf.TensorSpec((None, *images.shape[1:]), tf.uint8)]
    xla = bool(GPUS) and sys.platform != "darwin"  # Apple's GPUs have none
    train_step = tf.function(gan.train_step, signature, jit_compile=xla)
    options = {"interval": BAR_SECONDS, "stateful_metrics": gan.metrics_names}
    bar = keras.utils.Progbar(total - start, width=7, **options)
    columns = shutil.get_terminal_size((200, 0)).columns  # 200 in a notebook or log
    shown = max(0, columns - 44) // 17  # metrics: a bar of two lines would scroll
    stream = batches(images, batch_size, args.seed, start, with_replacement)
    due = time.monotonic() + SAVE_SECONDS
    with accelerate(gan), first_ctrl_c() as stopped:
        for step, batch in zip(range(start + 1, total + 1), stream):
            if (step - 1) % per_epoch == 0:
                gan.reset_metrics()
            first = step == start + 1  # compiles
            with quiet() if first else contextlib.nullcontext():
                logs = {k: float(v) for k, v in train_step(batch).items()}
            if stopped:
                print("\nstopping: saving first")
            ends = step == total or bool(stopped)
            # At steps 1, 2, 5, 10, 20, 50 ..., then at every sample_every.
            early = step < sample_every and str(step).rstrip("0") in ("1", "2", "5")
            film_due = ends or time.monotonic() > due
            moved = film_due and not any(samples.glob("step_*.png"))
            sheet_due = ends or early or moved or step % sample_every == 0
            save_due = film_due or sheet_due
            values = [variable.numpy() for variable in variables] if save_due else []
            if not all(np.isfinite(x).all() for x in (*logs.values(), *values)):
                hint = f"{out} keeps what was before; try --fresh and another --seed"
                raise InputError(f"losses or weights not finite at step {step}: {hint}")
            if ends or step % per_epoch % 100 == 0:  # 0 at the end of each epoch, too
                rows.append([math.ceil(step / per_epoch), step, *logs.values()])
            if sheet_due:
                save_sheet(step)
            if save_due:
                write(out / "generator.keras", gan.generator.save)
                head = ",".join(["epoch", "step", *logs])
                table = dict(fmt="%.8g", delimiter=",", header=head, comments="")
                # Open in Excel, on Windows, it waits for the next save.
                with contextlib.suppress(() if ends else InputError):
                    write(out / "losses.csv", lambda f: np.savetxt(f, rows, **table))
                if film_due:
                    write(out / "training.gif", lambda file: save_film(file, samples))
                    due = time.monotonic() + SAVE_SECONDS
                # Last, so that nothing beside a checkpoint is older.
                more = {"step": step, "rows": rows, "settings": text}
                write(checkpoint, lambda file: np.savez(file, *values, **more))
            bar.update(step - start, [*logs.items()][:shown], finalize=ends)
            if ends:
                break
    same = "the same command" + ", without --fresh," * args.fresh
    print("done" if step == total else f"stopped: {same} resumes here")


def restore(file, settings, variables):
    """Give the variables the values of a checkpoint; return its step and rows."""
    new = json.loads(json.dumps(settings))  # lists for tuples, as in old
    try:
        with np.load(file) as arrays:
            old, rows = json.loads(str(arrays["settings"])), arrays["rows"].tolist()
            other = [name for name in old if name in new and new[name] != old[name]]
            if not other:
                for i, variable in enumerate(variables):
                    variable.assign(arrays[f"arr_{i}"])
                return int(arrays["step"]), rows
            why = f"has {other[0]} {old[other[0]]}, not {new[other[0]]}"
    except Exception as error:  # broken files make numpy raise all kinds
        why = f"does not load ({error})"
    raise InputError(f"{file} {why}: choose another --out, or start over with --fresh")


@contextlib.contextmanager
def first_ctrl_c():
    """Yield a list that the first Ctrl-C fills; a second one interrupts at once."""
    pressed, before = [], signal.getsignal(signal.SIGINT)

    def install(handler):
        with contextlib.suppress(ValueError):  # only the main thread gets signals
            signal.signal(signal.SIGINT, handler)

    install(lambda *_: (pressed.append(True), install(before)))
    try:
        yield pressed
    finally:
        install(before)


def save_film(file, folder):
    """Write the sheets in a folder, at most 60, as a GIF of at most 512×512 pixels."""
    sheets, frames = sorted(folder.glob("step_*.png")), []
    for i in np.unique(np.linspace(0, len(sheets) - 1, 60).round().astype(int)):
        frames.append(Image.open(sheets[i]).convert("RGB"))
        frames[-1].thumbnail((512, 512))
    save_gif(file, frames, [150] * (len(frames) - 1) + [1500])
