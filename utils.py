"""What the scripts share: options, faster layers, and running fit().

Nothing in here is needed to understand a GAN: every network, label and update stands in
the scripts. Reading pictures is in disk.py; what a run keeps, in results.py.
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


class Adam(keras.optimizers.Adam):
    """keras.optimizers.Adam, in one kernel for each variable in place of a dozen."""

    def update_step(self, gradient, variable, learning_rate):
        i, dtype = self._get_variable_index(variable), variable.dtype
        moments = self._momentums[i].value, self._velocities[i].value
        if not isinstance(variable, tf.Variable):
            variable = variable.value
        step = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=moments[0].handle,
            v=moments[1].handle,
            beta1_power=tf.constant(self.beta_1, dtype) ** step,
            beta2_power=tf.constant(self.beta_2, dtype) ** step,
            lr=tf.cast(learning_rate, dtype),
            beta1=tf.constant(self.beta_1, dtype),
            beta2=tf.constant(self.beta_2, dtype),
            epsilon=tf.constant(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )


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
