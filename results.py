"""What a run keeps in its folder, and what is drawn with its generator afterwards.

A run can be killed at any moment: everything is written whole (disk.replacing), and
the same command goes on from the last checkpoint.
"""

import contextlib
import csv
import json
import math
import os
import platform
import re
import signal
import threading
import time
from pathlib import Path

import imageio.v3 as imageio
import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from disk import (
    InputError,
    in_notebook,
    on_terminal,
    remove,
    replacing,
    save_picture,
    say,
    sheet,
    sweep,
    to_uint8,
)

SHEET_NAME = re.compile(r"step_([0-9]{6,})\.png")
CHECKPOINT_NAME = re.compile(r"step_[0-9]{10}")
MANY_SHEETS = 1000  # after so many only every 2nd is drawn, after 2000 every 4th ...
MAX_FRAMES = 60  # of training.gif
WALK_FRAMES = 120  # of walk.gif, at 20 a second
KEEP_SECONDS = 600  # from one keeping of results to the next, at most


# ------------------------------------------------------------------- settings of a run


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
