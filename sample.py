"""Draw pictures with a trained generator, and a walk through its latent space.

    python sample.py runs/shoe_gan                            # 64 pictures and a grid
    python sample.py runs/shoe_gan --count 500 --seed 3 --walk       # and a GIF

Results, with the z of all pictures in z.npy, go to generated/seed_N in the run's
folder. With the training's seed, the default, the first pictures are those of its grid.
"""

import argparse
import json
import math
from pathlib import Path

from utils import grid, positive, save_gif, to_uint8

import keras  # after utils, which sets it up
import numpy as np


def load_run(folder):
    """The generator in the folder of a run, and the run's settings; or SystemExit."""
    try:
        with np.load(Path(folder, "checkpoint.npz")) as saved:
            settings = json.loads(str(saved["run"]))[0]
        return keras.models.load_model(Path(folder, "generator.keras")), settings
    except Exception as error:  # broken files make Keras raise all kinds
        raise SystemExit(f"error: no run in {folder} yet: train first ({error})")


def sample_z(latent, n, latent_dim, seed) -> np.ndarray:
    """z, float32 (n, latent_dim): standard "normal", or "uniform" in [-1, 1]."""
    if latent == "uniform":
        return np.asarray(keras.random.uniform((n, latent_dim), -1, 1, seed=seed))
    return np.asarray(keras.random.normal((n, latent_dim), seed=seed))


def walk(latent, frames, n, latent_dim, seed) -> np.ndarray:
    """n circles through latent space, (frames, n, latent_dim), distributed as z is."""
    start, quarter = np.random.default_rng(seed).normal(size=(2, n, latent_dim))
    angles = np.linspace(0, math.tau, frames, endpoint=False).reshape(-1, 1, 1)
    z = np.cos(angles) * start + np.sin(angles) * quarter  # normal at each angle
    return z if latent == "normal" else np.vectorize(math.erf)(z / math.sqrt(2))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("run", type=Path, help="folder of a run, such as runs/shoe_gan")
    add("--count", type=positive, default=64, help="pictures (default: 64)")
    add("--walk", action="store_true", help="also a GIF of a walk through z")
    add("--seed", type=int, help="default: that of the training")
    args = parser.parse_args(argv)
    generator, settings = load_run(args.run)
    latent, latent_dim = settings["latent"], generator.input_shape[1]
    seed = settings["seed"] if args.seed is None else args.seed
    folder = args.run / "generated" / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)

    def draw(z):
        numbers = generator.predict(z, batch_size=16, verbose=0)
        return to_uint8(numbers, settings["value_range"])

    for old in folder.glob("*.png"):
        old.unlink()
    z = sample_z(latent, args.count, latent_dim, seed)
    np.save(folder / "z.npy", z)
    pictures = draw(z)
    for i in range(args.count):
        grid(pictures[i : i + 1], 1).save(folder / f"{i:05}.png")
    grid(pictures[:100], min(10, math.ceil(args.count**0.5))).save(folder / "grid.png")
    if args.walk:  # 120 frames of some circles side by side
        side = max(1, 256 // generator.output_shape[1])
        ways = walk(latent, 120, side**2, latent_dim, seed)
        save_gif(folder / "walk.gif", [grid(draw(way), side) for way in ways], 50)
    print(f"{args.count:,} pictures are in {folder}")


if __name__ == "__main__":
    main()
