"""One contender of speed.py, which takes steps when told to."""

import contextlib
import importlib
import itertools
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
SCRIPTS = {  # class; real pictures per step; labels of real pictures, and of fakes
    "shoe_gan": ("ShoeGAN", 64, (0.9, 0.9), (0.0, 0.0)),
    "dcgan_grayscale": ("GrayscaleGAN", 32, (0.95, 0.95), (0.05, 0.05)),
    "dcgan_pokemon": ("PokemonGAN", 64, (1.0, 1.0), (0.0, 0.0)),
    "dcgan_general": ("DCGAN", 32, (1.0, 1.0), (0.0, 0.0)),
    "dcgan256": ("DCGAN256", 4, (0.0, 0.01), (0.99, 1.0)),
}
JPEGS = 2000


def main(pipe, contender, name, folder):
    """Send None after the first step. Then receive a number of steps, take them, and
    send the seconds that took: (wall time, CPU time). The folder is check.py's."""
    library, *options = contender.split("-")
    kinds = {"keras": keras_steps, "torch": torch_steps, "loading": loading_steps}
    steps = kinds[library](name, folder, options)
    next(steps)
    pipe.send(None)
    with contextlib.suppress(EOFError):
        while n := pipe.recv():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(n):
                next(steps)
            pipe.send((time.perf_counter() - wall, time.process_time() - cpu))


def make_gan(name):
    """A script's model; shoe_gan's D never rests, so that all steps are alike."""
    gan = getattr(importlib.import_module(name), SCRIPTS[name][0])()
    gan.freezing = False
    return gan


def keras_steps(name, folder, options):
    """Yield after every step of a Keras contender."""
    import utils

    utils.keras.utils.set_random_seed(0)
    if "bfloat16" in options:
        utils.keras.config.set_dtype_policy("mixed_bfloat16")
    gan, images = make_gan(name), np.load(folder / f"{name}.npy")
    if "fast" in options:
        importlib.import_module("fast").accelerate(gan)
    gan.compile(optimizer=None, jit_compile=False)
    gan.make_train_function()  # what fit() calls for each step
    batches = iter(utils.batches(images, SCRIPTS[name][1]))
    while True:
        yield [float(loss) for loss in gan.train_function(batches).values()]


def torch_steps(name, folder, options):
    """Yield after every step of PyTorch."""
    import torch
    import torch_peers

    if "compiled" in options:  # which without this refuses retain_graph
        importlib.import_module("torch._functorch.config").donated_buffer = False
    torch.manual_seed(0)
    args = torch.load(folder / f"{name}.pt", weights_only=False)
    kind = getattr(torch_peers, SCRIPTS[name][0])
    game = kind(**args, **dict.fromkeys(options, True))
    images = np.load(folder / f"{name}.npy").transpose(0, 3, 1, 2)
    batches = torch.from_numpy(images.copy()).split(SCRIPTS[name][1])
    for batch in itertools.cycle(batches):
        yield [loss.item() for loss in game.step(batch)]


def loading_steps(name, folder, options):
    """Yield after every loading of JPEGs of 300×200 to 64×64."""
    import utils
    from PIL import Image

    jpegs, rng = folder / "jpegs", np.random.default_rng(0)
    jpegs.mkdir()
    for i in range(JPEGS):
        noise = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        noise.resize((300, 200)).save(jpegs / f"{i}.jpg", quality=85)
    while True:
        yield utils.load_images(jpegs, (64, 64, 3))
