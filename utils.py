"""What the scripts share: options, and running fit().

Nothing in here is needed to understand a GAN: every network, label and update stands in
the scripts. Reading pictures is in disk.py; what a run keeps, in results.py; call() and
Adam, which compute what Keras does but faster, in fast.py.
"""

import argparse
import contextlib
import functools
import math
import os
import platform
import re
import sys
from pathlib import Path

import numpy as np
from PIL import ImageColor

from disk import (
    CACHE_NAME,
    InputError,
    fingerprint,
    in_notebook,
    load_images,
    on_terminal,
    say,
    toy_images,
)

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

        from fast import Adam, call  # noqa: F401
        from results import Recorder, alone_in, generate, run_settings  # noqa: F401

        GPUS = tf.config.list_physical_devices("GPU")
except KeyboardInterrupt:  # it takes some seconds
    raise SystemExit("stopped") from None

keras.config.set_floatx("float32")  # whatever ~/.keras/keras.json says
keras.config.set_image_data_format("channels_last")
if not GPUS:  # determinism is free on a CPU, slow on a GPU, and not all there
    tf.config.experimental.enable_op_determinism()

TOY_PICTURES = 2000


# ---------------------------------------------------------------------- command line


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
        say(f"pictures    {TOY_PICTURES:,} toy pictures of {size}, drawn by disk.py")
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
