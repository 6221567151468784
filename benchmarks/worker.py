"""One contender of speed.py in a process of its own, which takes steps when told to.

Reads numbers of steps from stdin, one to a line; when it has taken them, it writes a
line of JSON: the seconds they took, memory in use and at its peak, in bytes. A first
line comes by itself, after the first step. Ends with stdin.
"""

import argparse
import importlib
import itertools
import json
import os
import resource
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
CHANNEL = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the scripts' own lines


class Pace:
    """Called after every step; waits for orders after the last that was ordered."""

    def __init__(self):
        self.left, self.began = 1, time.perf_counter()

    def __call__(self):
        self.left -= 1
        if self.left:
            return
        seconds = time.perf_counter() - self.began
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        say(seconds=seconds, memory=pages * os.sysconf("SC_PAGE_SIZE"), peak=peak)
        order = sys.stdin.readline()
        if not order.strip():
            os._exit(0)
        self.left, self.began = int(order), time.perf_counter()


def say(**facts):
    CHANNEL.write(json.dumps(facts) + "\n")
    CHANNEL.flush()


def ours(name, argv, keep):
    """The script's own main(), as on the command line; paced by its own callback.

    With keep, it keeps sheets, checkpoints and the rest in its own rhythm.
    """
    import utils  # noqa: F401  (first: keeps TensorFlow's start quiet)

    import results

    script, pace = importlib.import_module(name), Pace()
    after_step = results.Recorder.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        if not keep:
            self.due_at = float("inf")
        after_step(self, batch, logs)
        pace()

    results.Recorder.on_train_batch_end = on_train_batch_end
    if not keep:
        results.Recorder.wants_sheet = lambda self, step: False
        results.Recorder.save_sheet = lambda self: None
    script.main([*argv, "--steps", "1000000"])


def classic(name, images, batch_size):
    import utils

    utils.keras.utils.set_random_seed(0)
    from classic import Classic

    game, pace = Classic(name), Pace()
    for batch in utils.batches(images, batch_size, seed=0):
        game.step(batch)
        pace()


def pytorch(name, images, batch_size, **options):
    import torch
    import torch_peers

    torch.manual_seed(0)
    game, pace = torch_peers.GAMES[name](**options), Pace()
    batches = [
        torch.from_numpy(images[i : i + batch_size].transpose(0, 3, 1, 2).copy())
        for i in range(0, len(images) - batch_size + 1, batch_size)
    ]
    for batch in itertools.cycle(batches):
        d_loss, g_loss = game.step(batch)
        d_loss.item(), g_loss.item()  # as ours, which logs every step
        pace()


def peak(library, bfloat16):
    """The fastest of a few large convolutions, in operations per second."""
    best = 0.0
    for batch, side, channels in ((16, 32, 256), (32, 16, 512), (64, 32, 128)):
        operations = 2 * batch * side**2 * channels**2 * 9
        if library == "torch":
            import torch

            x = torch.randn(batch, channels, side, side)
            kernel = torch.randn(channels, channels, 3, 3)
            kind = torch.bfloat16 if bfloat16 else torch.float32
            x, kernel = (
                t.to(kind, memory_format=torch.channels_last) for t in (x, kernel)
            )

            def convolve(x=x, kernel=kernel):
                with torch.no_grad():
                    torch.nn.functional.conv2d(x, kernel, padding=1)
        else:
            import utils

            tf = utils.tf
            kind = tf.bfloat16 if bfloat16 else tf.float32
            tf.random.set_seed(0)
            x = tf.cast(tf.random.normal((batch, side, side, channels)), kind)
            kernel = tf.cast(tf.random.normal((3, 3, channels, channels)), kind)
            function = tf.function(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"))

            def convolve(x=x, kernel=kernel, function=function):
                function(x, kernel).numpy()[0, 0, 0, 0]

        for _ in range(3):
            convolve()
        for _ in range(15):
            began = time.perf_counter()
            convolve()
            best = max(best, operations / (time.perf_counter() - began))
    say(peak=best)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contender")
    parser.add_argument("--script")
    parser.add_argument("--images", type=Path, help=".npy, uint8 (N, H, W, C)")
    parser.add_argument("--batch-size", type=int)
    args, argv = parser.parse_known_args()
    kind, *options = args.contender.split("-")
    if kind == "peak":
        return peak(options[0], "bfloat16" in options)
    if kind in ("ours", "kept"):
        argv += ["--images", str(args.images)] if args.images else []
        argv += ["--batch-size", str(args.batch_size)] if args.batch_size else []
        argv += ["--bfloat16"] if "bfloat16" in options else []
        return ours(args.script, argv, keep=kind == "kept")
    import numpy as np

    images = np.load(args.images)
    if kind == "classic":
        return classic(args.script, images, args.batch_size)
    return pytorch(args.script, images, args.batch_size,
                   bfloat16="bfloat16" in options, lean="lean" in options,
                   channels_last="last" in options)  # fmt: skip


if __name__ == "__main__":
    main()
