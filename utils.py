"""What the scripts share: options, pictures in, grids and GIFs out, and one callback.

Nothing in here is needed to understand a GAN: networks, labels and updates are in the
scripts. Each of them needs this file beside it, and no other.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
# TensorFlow leaves oneDNN, its faster kernels, off on many x86 CPUs: docs/speed.md.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import imageio.v3 as imageio
import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageColor, ImageDraw, ImageOps

with contextlib.suppress(ImportError):  # photos of phones
    __import__("pillow_heif").register_heif_opener()
NOTEBOOK = "ipykernel" in sys.modules
MAY_CHANGE = {"images", "dataset", "out", "epochs", "fresh", "pictures"}


class InputError(SystemExit):
    """What the user can fix: it ends a script in one line, without a traceback."""


def positive(text) -> int:
    """An argparse type: a whole number from 1 up."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


class Options(argparse.ArgumentParser):
    """The options that all scripts share, with a script's own defaults."""

    def __init__(self, description, out, batch_size, steps, epochs=None):
        style = argparse.ArgumentDefaultsHelpFormatter
        super().__init__(description=description.split("\n")[0], formatter_class=style)
        add = self.add_argument
        add("--images", help="folder, .npy or .npz; without it, toys are drawn")
        add("--fit", choices=["pad", "crop"], default="pad", help="to size")
        add("--background", type=ImageColor.getrgb, default="white", help="of padding")
        add("--out", type=Path, default=out, help="folder for results")
        add("--epochs", type=positive, default=epochs, help="more extend a run")
        add("--steps-per-epoch", type=positive, default=steps, help="from grid to grid")
        add("--batch-size", type=positive, default=batch_size, help="real pictures")
        add("--seed", type=int, default=0, help="of all that is random")
        add("--bfloat16", action="store_true", help="mixed precision")
        add("--fresh", action="store_true", help="replace an earlier run")

    def parse_args(self, argv=None):
        """Parse argv, which may hold numbers and Paths, and make the run repeatable."""
        if argv is None:  # in a notebook sys.argv belongs to the kernel
            argv = [] if NOTEBOOK else sys.argv[1:]
        args = super().parse_args([str(argument) for argument in argv])
        keras.config.set_dtype_policy("mixed_bfloat16" if args.bfloat16 else "float32")
        keras.utils.set_random_seed(args.seed)  # Python's, numpy's and TensorFlow's
        if not tf.config.list_physical_devices("GPU"):  # where it may be slow
            tf.config.experimental.enable_op_determinism()
        return args


def load_images(source, shape, fit="pad", background="white") -> np.ndarray:
    """Load pictures as uint8 (N, *shape), N at least 1; InputError if there are none.

    source is a folder (subfolders, too), an .npy or .npz file, an array, or None for
    2,000 toys. shape is (height, width, 3 for RGB or 1 for gray), to which pictures are
    padded with the background, or cropped. An .npy of uint8 that has the shape stays on
    disk, so it may exceed the memory. What cannot be read is left out, and told.
    """
    if source is None:
        print("No --images: training on toys.")
        source = np.stack([draw_toy(seed) for seed in range(2000)])
    is_folder = isinstance(source, (str, Path)) and os.path.isdir(source)
    items = find_files(source) if is_folder else read_array(source)
    if not is_folder and items.shape[1:] == shape:
        return items
    images, left_out = np.empty((len(items), *shape), np.uint8), {}

    def read(item):
        try:
            if not is_folder:
                picture = grid(item[np.newaxis], 1)
            elif item.is_file():  # a pipe would wait for ever
                picture = Image.open(item)
                picture.draft(None, (max(shape[:2]),) * 2)  # JPEGs at 1/2, 1/4 or 1/8
            else:
                raise OSError("no file, or no access")
            return fit_picture(picture, shape, fit, background)
        except Exception as error:  # broken files make Pillow raise all kinds
            left_out[item] = error

    bar, count = keras.utils.Progbar(len(items), interval=1, unit_name="picture"), 0
    with ThreadPoolExecutor() as pool:
        for pixels in pool.map(read, items):
            if pixels is not None:
                images[count] = pixels
                count += 1
            bar.add(1)
    if left_out:
        kinds = Counter(item.suffix.lower() or "no suffix" for item in left_out)
        counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        hint = "; pip install pillow-heif" * (".heic" in kinds)
        told = f"Left out: {counts}{hint}. {min(left_out)}: {left_out[min(left_out)]}"
        print(ascii(told)[1:-1])
    if count == 0:
        raise InputError(f"error: no pictures in {source}")
    if count < 100:
        print(f"{count} pictures are few: expect copies of them.")
    return images[:count]


def find_files(folder) -> list[Path]:
    """Sorted paths of files in a folder and below, without hidden ones and results.

    Folders named @, # or $ something hold thumbnails and recycle bins.
    """
    found = []
    for root, folders, names in os.walk(folder):
        if "checkpoint.npz" in names:  # results of an earlier run
            names, folders[:] = [], []
        folders[:] = [name for name in folders if name[0] not in ".@#$"]
        found += [Path(root, name) for name in names if name[0] != "."]
    return sorted(found)


def fit_picture(picture, shape, fit="pad", background="white") -> np.ndarray:
    """Bring a Pillow picture of 8 or 16 bits to uint8 of a shape, upright, undistorted.

    ValueError for 32 bits, and whatever Pillow raises for a broken file.
    """
    picture.load()
    with contextlib.suppress(Exception):  # of broken EXIF: what can be read is kept
        picture.getexif()
    picture.info.pop("exif", None)  # or exif_transpose() would read it again
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F"):
        raise ValueError("32 bits a pixel: save it with 8 or 16")
    if picture.mode.startswith("I;16"):  # convert() would clip it
        values = np.asarray(picture)
        opaque = Image.fromarray(values != picture.info.get("transparency"))
        picture = Image.fromarray(to_uint8(values, (0, 65535)))
        picture.putalpha(opaque)
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, background)
        picture = Image.alpha_composite(canvas, picture.convert("RGBA"))
    picture, size = picture.convert("RGB"), (shape[1], shape[0])
    bilinear = Image.Resampling.BILINEAR  # averages where it shrinks: no aliasing
    if fit == "pad":
        picture = ImageOps.pad(picture, size, bilinear, background)
    else:
        picture = ImageOps.fit(picture, size, bilinear)
    return np.asarray(picture.convert("L" if shape[2] == 1 else "RGB")).reshape(shape)


def read_array(source) -> np.ndarray:
    """Pictures in an array, an .npy or an .npz file, as uint8 (N, H, W, 1, 3 or 4).

    Of an .npz, the largest array that has the shape of pictures, or all arrays as one
    picture each. Numbers are taken as 0 to 1, -1 to 1 or 0 to 255, the first that fits
    but for a quarter: resizing may overshoot. InputError for all else.
    """
    try:
        array = np.load(source, "r") if isinstance(source, (str, Path)) else source
        if isinstance(array, np.lib.npyio.NpzFile):
            arrays = []
            for name in array.files:
                with contextlib.suppress(ValueError):  # what is pickled is not loaded
                    arrays.append(np.asarray(array[name]))
            array = max(filter(is_pictures, arrays), key=np.size, default=arrays)
        array = np.asanyarray(array)  # leaves an .npy on disk
    except Exception as error:  # numpy, too, raises all kinds
        hint = f"neither a folder nor a readable .npy or .npz file: {error}"
        raise InputError(f"error: {source} is {hint}") from None
    if not is_pictures(array):
        hint = "wanted is (N, height, width), or that with 1, 3 or 4 channels last"
        raise InputError(f"error: {array.dtype} of shape {array.shape}: {hint}")
    array = array.reshape(*array.shape[:3], -1)
    if array.dtype == np.uint8 and array[:100].max() > 1:  # no masks of 0 and 1
        return array
    least, most = array.min(), array.max()
    for low, high in ((0, 1), (-1, 1), (0, 255)):
        slack = (high - low) / 4
        if low - slack <= least and slack <= most <= high + slack:
            print(f"Values from {least:g} to {most:g}, taken as {low} to {high}.")
            return np.stack([to_uint8(image, (low, high)) for image in array])
    hint = "scale them to 0 to 1, -1 to 1 or 0 to 255"
    raise InputError(f"error: values from {least:g} to {most:g}: {hint}")


def is_pictures(array) -> bool:
    """Whether an array is of numbers, (N, H, W) or (N, H, W, 1, 3 or 4), N > 0."""
    if array.size == 0 or array.dtype.kind not in "biuf":
        return False
    if array.ndim == 3:  # with a W much larger than H, rather (H, W, N)
        return 4 < array.shape[2] <= 4 * array.shape[1]
    return array.ndim == 4 and array.shape[3] in (1, 3, 4)


def draw_toy(seed) -> np.ndarray:
    """A triangle, square or circle, uint8 (64, 64, 3), of any color, with grain."""
    rng = np.random.default_rng(seed)
    back, fore = (f"hsl({rng.integers(360)}, {n}%)" for n in ("40%, 85", "70%, 50"))
    circle = tuple(rng.uniform((28, 28, 18), (36, 36, 27)))  # x, y, radius
    picture, corners = Image.new("RGB", (64, 64), back), int(rng.choice([3, 4, 60]))
    turn = rng.uniform(-15, 15)
    ImageDraw.Draw(picture).regular_polygon(circle, corners, turn, fore)
    grain = rng.normal(0, 12, (64, 64, 3))  # flat colors make it too easy for D
    return np.uint8(np.clip(np.asarray(picture) + grain, 0, 255))


def batches(images, batch_size, seed=0, start=0) -> tf.data.Dataset:
    """Endless shuffled passes over images (N, H, W, C), from any step on, for fit().

    Every batch is full: the last of a pass takes its rest from the next pass.
    """

    def stream():
        first, skip = divmod(start * batch_size, len(images))
        rngs = (np.random.default_rng((seed, i)) for i in itertools.count(first))
        order = next(rngs).permutation(len(images))[skip:]
        while True:
            while len(order) < batch_size:
                order = np.append(order, next(rngs).permutation(len(images)))
            yield images[order[:batch_size]]
            order = order[batch_size:]

    signature = tf.TensorSpec((batch_size, *images.shape[1:]), tf.uint8)
    return tf.data.Dataset.from_generator(stream, output_signature=signature)


def to_uint8(values, value_range) -> np.ndarray:
    """Turn numbers in value_range, clipped to it, into uint8 from 0 to 255."""
    low, high = value_range
    share = (np.asarray(values, np.float32) - low) / (high - low)
    return np.uint8(np.rint(255 * np.clip(share, 0, 1)))


def grid(images, columns) -> Image.Image:
    """Lay uint8 pictures (N, H, W, C) out in rows, white where there are none."""
    blank = np.full((-len(images) % columns, *images.shape[1:]), 255, np.uint8)
    rows = np.concatenate([images, blank]).reshape(-1, columns, *images.shape[1:])
    pixels = np.vstack([np.hstack(row) for row in rows])
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def save_gif(file, frames, milliseconds=150):
    """Write Pillow pictures of one size as a GIF that repeats, 512 pixels at most."""
    for frame in (frames := [frame.convert("RGB") for frame in frames]):
        frame.thumbnail((512, 512))
    frames = [np.asarray(frame) for frame in frames]
    imageio.imwrite(file, frames, extension=".gif", duration=milliseconds, loop=0)


def write(file, save):
    """Call save(temporary), then rename that to file; InputError if it cannot be."""
    temporary = file.with_name(f".{os.getpid()}-{file.name}")  # of this process alone
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        os.replace(temporary, file)
    except OSError as error:
        raise InputError(f"error: {file} cannot be written: {error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


class Run(keras.callbacks.Callback):
    """Keeps a training in a folder, and resumes it: epoch and step are those before.

    After each epoch: a grid of samples, training.gif, losses.csv, both networks, and
    checkpoint.npz, written last. The optimizers of gan must be built. Among settings,
    those that are not in MAY_CHANGE must be as before; images are for real.png.
    InputError if an earlier run does not fit, a disk is full, or losses are not finite.
    """

    def __init__(self, gan, out, settings=(), images=()):
        super().__init__()
        self.gan, self.out, self.images = gan, Path(out), images
        self.epoch, self.step, self.rows = 0, 0, []  # rows of losses.csv
        settings = {"seed": 0, **dict(settings), "script": type(gan).__name__}
        settings |= {"latent": gan.latent, "value_range": gan.value_range}
        settings["pictures"] = len(images)
        self.settings = json.loads(json.dumps(settings, default=str))  # as read again
        self.z = gan.sample_z(gan.grid[0] * gan.grid[1], settings["seed"])
        optimizers = dict.fromkeys((gan.g_optimizer, gan.d_optimizer))  # may be one
        self.state = [v for part in (gan, *optimizers) for v in part.variables]
        if (self.out / "checkpoint.npz").exists() and not settings.get("fresh"):
            self.resume(self.out / "checkpoint.npz")

    def resume(self, file):
        new, hint = self.settings, "choose another --out, or --fresh to start over"
        try:
            with np.load(file) as saved:
                old = json.loads(str(saved["settings"]))
                for name in sorted(old.keys() & new.keys() - MAY_CHANGE):
                    if old[name] != new[name]:
                        raise ValueError(f"{name} was {old[name]}, is {new[name]}")
                for i, variable in enumerate(self.state):
                    variable.assign(saved[f"arr_{i}"])
                self.epoch, self.step = saved["epoch"].item(), saved["step"].item()
                self.rows = saved["rows"].tolist()
        except Exception as error:  # broken files make numpy raise all kinds
            raise InputError(f"error: {file}: {error}; {hint}") from None
        if old["pictures"] != new["pictures"]:
            print(f"{old['pictures']:,} pictures before, {new['pictures']:,} now.")

    def explain(self, kind, error, traceback):
        if kind is KeyboardInterrupt:
            error = kind(f"the same command goes on after epoch {self.epoch}")
            traceback = None
        sys.__excepthook__(kind, error, traceback)

    def on_train_begin(self, logs=None):
        sys.excepthook = self.explain  # Ctrl-C ends in one line
        if self.epoch >= self.params["epochs"]:
            return print(f"Finished after {self.epoch} epochs; --epochs extends it.")
        text = json.dumps(self.settings, indent=2)
        write(self.out / "settings.json", lambda file: file.write_text(text))
        if len(self.images):
            write(self.out / "real.png", grid(self.images[:64], 8).save)
        if self.step == 0:
            for old in self.out.glob("samples/step_*.png"):
                old.unlink()
            self.save_grid(0)

    def save_grid(self, step):
        file = self.out / "samples" / f"step_{step:07}.png"
        numbers = self.gan.generator.predict(self.z, batch_size=16, verbose=0)
        pictures = to_uint8(numbers, self.gan.value_range)
        write(file, grid(pictures, self.gan.grid[1]).save)
        if NOTEBOOK:
            from IPython.display import Image, display

            display(Image(filename=file), display_id="grid", update=step > 0)

    def on_train_batch_end(self, batch, logs=None):
        self.last = self.step + batch + 1
        if self.last in (1, 10, 100):
            self.save_grid(self.last)

    def on_epoch_end(self, epoch, logs=None):
        values = [variable.numpy() for variable in self.state]
        if not all(np.isfinite(x).all() for x in (*logs.values(), *values)):
            hint = "the last checkpoint stays; try --fresh and another --seed"
            raise InputError(f"error: losses or weights are not finite: {hint}")
        self.epoch, self.step = epoch + 1, self.last
        self.rows.append([self.epoch, self.step, *logs.values()])
        self.save_grid(self.step)
        write(self.out / "generator.keras", self.gan.generator.save)
        write(self.out / "discriminator.keras", self.gan.discriminator.save)
        head = ",".join(["epoch", "step", *logs])
        csv = {"fmt": "%.8g", "delimiter": ",", "header": head, "comments": ""}
        write(self.out / "losses.csv", lambda file: np.savetxt(file, self.rows, **csv))
        grids = sorted(self.out.glob("samples/step_*.png"))
        frames = map(Image.open, grids[:: -(len(grids) // 60 + 1)][::-1])
        write(self.out / "training.gif", lambda file: save_gif(file, frames))
        more = {"epoch": self.epoch, "step": self.step, "rows": self.rows}
        more["settings"] = json.dumps(self.settings)
        write(self.out / "checkpoint.npz", lambda file: np.savez(file, *values, **more))
