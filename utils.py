"""What the scripts share besides the GANs: options, pictures, grids, GIFs, callback."""

import argparse
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster: see docs/speed.md

import imageio.v3 as imageio
import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageColor, ImageOps

with contextlib.suppress(ImportError):  # HEIC photos from phones
    __import__("pillow_heif").register_heif_opener()


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
        add("--images", help="folder, .npy or .npz; else a built-in set")
        add("--fit", choices=["pad", "crop"], default="pad", help="to the size")
        add("--background", type=ImageColor.getrgb, default="white", help="of padding")
        add("--out", type=Path, default=out, help="folder for results")
        add("--epochs", type=positive, default=epochs, help="more extend a run")
        add("--steps-per-epoch", type=positive, default=steps, help="between grids")
        add("--batch-size", type=positive, default=batch_size, help="pictures a step")
        add("--seed", type=int, default=0, help="of everything random")
        add("--bfloat16", action="store_true", help="mixed precision")
        add("--fresh", action="store_true", help="replace an earlier run")

    def parse_args(self, argv=None):
        """Parse argv, which may hold numbers and Paths, and make the run repeatable."""
        if argv is None:  # in a notebook sys.argv is the kernel's, with its .json
            argv = [] if sys.argv[-1].endswith(".json") else sys.argv[1:]
        args = super().parse_args([str(word) for word in argv])
        keras.config.set_dtype_policy("mixed_bfloat16" if args.bfloat16 else "float32")
        keras.utils.set_random_seed(args.seed)  # Python's, numpy's and TensorFlow's
        if not tf.config.list_physical_devices("GPU"):  # there it may be slow
            tf.config.experimental.enable_op_determinism()
        return args


def load_images(source, shape, fit="pad", background="white") -> np.ndarray:
    """Load pictures as uint8 (N, *shape); SystemExit if there are none.

    source is a folder (and below), an .npy, which stays on disk if uint8 of the shape,
    an .npz, an array, or None for toys; shape is (height, width, 3 or 1).
    """
    if source is None:
        print("No --images: drawing toys.")
        source = np.stack([draw_toy(seed) for seed in range(2000)])
    is_folder = isinstance(source, (str, Path)) and os.path.isdir(source)
    items = sorted(find_files(source)) if is_folder else read_array(source)
    if not is_folder and items.shape[1:] == shape:
        return items
    print(f"Reading {len(items):,} files or pictures.")
    left_out = {}

    def read(item):
        try:
            picture = Image.open(item) if is_folder else grid(item[np.newaxis], 1)
            picture.draft(None, (max(shape[:2]),) * 2)  # JPEGs at 1/2, 1/4 or 1/8
            return fit_picture(picture, shape, fit, background)
        except Exception as error:  # broken files make Pillow raise all kinds
            left_out[item] = ascii(error)  # itself, it would keep the picture

    with ThreadPoolExecutor() as pool:
        found = (pixels for pixels in pool.map(read, items) if pixels is not None)
        images = np.fromiter(found, np.dtype((np.uint8, shape)))
    if left_out:
        kinds, first = Counter(file.suffix.lower() for file in left_out), min(left_out)
        print(f"Left out: {dict(kinds)!a}; {str(first)!a}: {left_out[first]}")
    if len(images) == 0:
        sys.exit(f"error: no pictures in {source}")
    return images


def find_files(folder):
    """Yield files below a folder, but no earlier runs, hidden files and thumbnails."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] not in ".@#$"]
        if "checkpoint.npz" in names:  # an earlier run
            names, folders[:] = [], []
        yield from (Path(root, name) for name in names if name[0] != ".")


def fit_picture(picture, shape, fit="pad", background="white") -> np.ndarray:
    """Bring a Pillow picture to uint8 of a shape; raises what Pillow does if broken."""
    picture.load()
    picture.getexif()  # keeps what can be read of broken EXIF
    picture.info.pop("exif", None)  # or exif_transpose() would read it again
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F"):
        raise ValueError("32 bits a pixel: save it with 8 or 16")
    if picture.mode.startswith("I;16"):  # convert() would clip it
        picture = Image.fromarray(to_uint8(picture, (0, 65535)))
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, background)
        picture = Image.alpha_composite(canvas, picture.convert("RGBA"))
    picture, size = picture.convert("RGB"), shape[1::-1]
    if fit == "crop":
        picture = ImageOps.fit(picture, size, Image.BILINEAR)
    picture = ImageOps.pad(picture, size, Image.BILINEAR, background)  # antialiased
    return np.asarray(picture.convert("L" if shape[2] == 1 else "RGB")).reshape(shape)


def read_array(source) -> np.ndarray:
    """Pictures in an array, an .npy or an .npz file, as uint8 (N, H, W, 1, 3 or 4).

    Of an .npz, the largest array, or all if they have one shape. Numbers are taken as 0
    to 1, -1 to 1 or 0 to 255, the first that fits but for a quarter; else SystemExit.
    """
    try:
        array = np.load(source, "r") if isinstance(source, (str, Path)) else source
        if isinstance(array, np.lib.npyio.NpzFile):
            arrays = []
            for name in array.files:
                with contextlib.suppress(ValueError):  # what is pickled is not loaded
                    arrays.append(np.asarray(array[name]))
            single = len({one.shape for one in arrays}) == 1 < len(arrays)
            array = np.stack(arrays) if single else max(arrays, key=np.size)
        array = np.asanyarray(array)  # leaves an .npy on disk
    except Exception as error:  # numpy, too, raises all kinds
        sys.exit(f"error: neither a folder nor a readable .npy or .npz: {error}")
    images = array[..., np.newaxis] if array.ndim == 3 else array
    n, height, width, channels = images.shape if images.ndim == 4 else (0, 0, 0, 0)
    shaped = n and min(height, width) > 4 and channels in (1, 3, 4)
    if not shaped or array.dtype.kind not in "biuf":
        sys.exit(f"error: {array.dtype}{array.shape}, not (N, H, W) or (N, H, W, C)")
    if images.dtype == np.uint8 and images[:100].max() > 1:  # no masks of 0 and 1
        return images
    least, most = images.min(), images.max()
    for low, high in ((0, 1), (-1, 1), (0, 255)):
        slack = (high - low) / 4
        if low - slack <= least and slack <= most <= high + slack:
            print(f"Values from {least:g} to {most:g}, taken as {low} to {high}.")
            return np.stack([to_uint8(image, (low, high)) for image in images])
    sys.exit(f"error: values from {least:g} to {most:g}: scale them to 0 to 255")


def draw_toy(seed) -> np.ndarray:
    """A disc or a square, uint8 (64, 64, 3), of any color, with grain."""
    rng = np.random.default_rng(seed)
    y, x = np.abs(np.indices((64, 64)) - rng.uniform(28, 36, (2, 1, 1)))
    inside = (np.hypot(x, y) if seed % 2 else np.maximum(x, y)) < rng.uniform(14, 26)
    colors = rng.uniform(0, 255, 3), rng.uniform(180, 255, 3)
    grain = rng.normal(0, 12, (64, 64, 3))  # flat colors make it too easy for D
    return np.uint8(np.clip(np.where(inside[..., None], *colors) + grain, 0, 255))


def batches(images, batch_size, seed=0, start=0) -> tf.data.Dataset:
    """Endless shuffled passes over images, in full batches, from step start on."""

    def stream():
        rngs = (np.random.default_rng((seed, i)) for i in itertools.count())
        passes = itertools.chain.from_iterable(r.permutation(len(images)) for r in rngs)
        order = itertools.islice(passes, start * batch_size, None)
        while True:
            yield images[list(itertools.islice(order, batch_size))]

    # Were the batch size fixed, TensorFlow would add up some gradients in any order.
    signature = tf.TensorSpec((None, *images.shape[1:]), tf.uint8)
    return tf.data.Dataset.from_generator(stream, output_signature=signature)


def to_uint8(values, value_range) -> np.ndarray:
    """Turn numbers in value_range, clipped to it, into uint8 from 0 to 255."""
    return np.uint8(np.rint(np.interp(values, value_range, (0, 255))))


def grid(images, columns) -> Image.Image:
    """Lay uint8 pictures (N, H, W, C) out in rows, white where there are none."""
    blank = np.full((-len(images) % columns, *images.shape[1:]), 255, np.uint8)
    rows = np.concatenate([images, blank]).reshape(-1, columns, *images.shape[1:])
    pixels = np.vstack([np.hstack(row) for row in rows])
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def save_gif(file, frames, milliseconds=150):
    """Write Pillow pictures of one size as a GIF that repeats, 512 pixels at most."""
    smaller = (frame.reduce(1 + frame.width // 513) for frame in frames)
    arrays = [np.asarray(frame.convert("RGB")) for frame in smaller]
    imageio.imwrite(file, arrays, extension=".gif", duration=milliseconds, loop=0)


class Run(keras.callbacks.Callback):
    """Saves a training in a folder; epoch and step say where it resumes an earlier one.

    SystemExit if that run had other settings, if a file cannot be written, for a NaN.
    """

    def __init__(self, gan, out, settings=(), images=()):
        super().__init__()
        self.gan, self.out, self.images = gan, Path(out), images
        self.epoch, self.step, self.table, self.stopped = 0, 0, [], False
        new = {"seed": 0, "script": type(gan).__name__, "pictures": len(images)}
        new |= {"latent": gan.latent, "value_range": gan.value_range, **dict(settings)}
        self.settings = new = json.loads(json.dumps(new, default=str))
        self.z = gan.sample_z(gan.grid[0] * gan.grid[1], new["seed"])
        optimizers = dict.fromkeys((gan.g_optimizer, gan.d_optimizer))  # may be one
        self.state = [v for part in (gan, *optimizers) for v in part.variables]
        if new.get("fresh") or not os.path.exists(self.out / "checkpoint.npz"):
            return
        may_change = {"out", "epochs", "fresh", "pictures"}
        try:
            saved = np.load(self.out / "checkpoint.npz")
            old, self.epoch, self.step, self.table = json.loads(str(saved["run"]))
            for name in sorted(old.keys() & new.keys() - may_change):
                was, now = old[name], new[name]
                if was != now and (name != "images" or None in (was, now)):
                    raise ValueError(f"{name} was {was}, is {now}")
            for i, variable in enumerate(self.state):
                variable.assign(saved[f"arr_{i}"])
        except Exception as error:  # broken files make numpy raise all kinds
            sys.exit(f"error: {self.out}: {error}; choose another --out, or --fresh")
        counts = f"{old['pictures']:,} pictures before, {new['pictures']:,} now"
        print(f"Resuming after epoch {self.epoch} of {new.get('epochs', '?')}:", counts)

    @contextlib.contextmanager
    def replacing(self, folder):
        """Yield a folder whose files then move into folder, the first by name last."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".") as new:
                yield Path(new)
                for name in sorted(os.listdir(new), reverse=True):
                    os.replace(Path(new, name), folder / name)
        except OSError as error:
            sys.exit(f"error: {folder} cannot be written: {error}")

    def on_train_begin(self, logs=None):
        if not hasattr(sys, "ps1"):  # no prompt, no notebook
            signal.signal(signal.SIGINT, self.stop)
        for old in self.out.glob("samples/step_*.png"):
            if old.stem > f"step_{self.step:07}":
                old.unlink()
        self.save_grid(self.step)

    def stop(self, *signal_and_frame):  # KeyboardInterrupt gets lost in h5py
        self.stopped = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends at once

    def save_grid(self, step):
        numbers = self.gan.generator.predict(self.z, batch_size=16, verbose=0)
        picture = grid(to_uint8(numbers, self.gan.value_range), self.gan.grid[1])
        with self.replacing(self.out / "samples") as new:
            picture.save(new / f"step_{step:07}.png")
        if notebook := sys.modules.get("IPython.display"):
            notebook.display(picture, display_id=str(id(self)), update=step > self.step)

    def on_train_batch_end(self, batch, logs=None):
        if self.stopped:
            print(f"\nStopped: rerun it to go on after epoch {self.epoch}.", flush=True)
            os._exit(130)  # before TensorFlow complains
        self.last = self.step + batch + 1
        if self.last in (1, 10, 100):
            self.save_grid(self.last)

    def on_epoch_end(self, epoch, logs=None):
        values = [variable.numpy() for variable in self.state]
        if not all(np.isfinite(x).all() for x in (*logs.values(), *values)):
            sys.exit("error: losses or weights not finite: the last checkpoint stays")
        self.save_grid(self.last)
        self.epoch, self.step = self.epoch + 1, self.last
        row = [self.epoch, self.step, *logs.values()]
        self.table = self.table or [",".join(["epoch", "step", *logs])]
        self.table.append(",".join(f"{number:.8g}" for number in row))
        grids = sorted(self.out.glob("samples/step_*.png"))
        grids = grids[:: -(len(grids) // 60 + 1)][::-1]  # at most 60, with the last
        run = json.dumps([self.settings, self.epoch, self.step, self.table])
        with self.replacing(self.out) as new:
            (new / "losses.csv").write_text("\n".join([*self.table, ""]))
            if len(self.images):
                grid(self.images[:64], 8).save(new / "real.png")
            self.gan.generator.save(new / "generator.keras")
            self.gan.discriminator.save(new / "discriminator.keras")
            save_gif(new / "training.gif", map(Image.open, grids))
            np.savez(new / "checkpoint.npz", *values, run=run)  # takes its place last
