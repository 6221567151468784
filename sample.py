"""Draw pictures with a trained generator, and a walk through its latent space.

    python sample.py runs/shoe_gan                           # 64 pictures and a sheet
    python sample.py runs/shoe_gan --count 500 --seed 3 --walk      # and a GIF

It needs no script and no training pictures. Results go to generated/seed_N in the
folder of the run. With the seed of the training, the default, the first pictures are
those of its sheets.
"""

import utils  # first: it quiets TensorFlow's start

import json
import math
import os

import keras
import numpy as np
import tensorflow as tf

WALK_FRAMES = 120  # at 20 a second


def load_generator(folder):
    """The generator of the run in a folder, and what settings.json says of the run.

    Raises:
        utils.InputError: there is none yet, or it cannot be read.
    """
    file = folder / "generator.keras"
    if not os.path.exists(file):
        raise utils.InputError(f"there is no generator in {folder} (yet): train first")
    try:
        settings = json.loads((folder / "settings.json").read_text("utf-8"))
        return keras.models.load_model(file, compile=False), settings
    except Exception as error:  # broken files make Keras raise all kinds
        hint = "train on, with more --steps if it is finished, to write both anew"
        raise utils.InputError(
            f"{file}, or settings.json beside it, cannot be read ({error}): {hint}"
        ) from None


def sample_z(latent, n, latent_dim, seed):
    """z, float32 (n, latent_dim): standard "normal", or "uniform" in [-1, 1]."""
    if latent == "uniform":
        return keras.random.uniform((n, latent_dim), -1, 1, seed=seed)
    return keras.random.normal((n, latent_dim), seed=seed)


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


@utils.plain_errors()
def main(argv=None):
    parser = utils.OneLineParser("sample.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("run", type=utils.path, help="folder of a run, such as runs/shoe_gan")
    add("--count", type=utils.number(), default=64, help="pictures (default: 64)")
    add("--walk", action="store_true", help="also a GIF of a walk through z")
    add("--seed", type=utils.number(0), help="default: that of the training")
    args = parser.parse_args(argv)

    generator, settings = load_generator(args.run)
    latent, latent_dim = settings["latent"], generator.input_shape[1]
    seed = settings["seed"] if args.seed is None else args.seed
    folder, size = args.run / "generated" / f"seed_{seed}", math.prod(settings["sheet"])
    for old in folder.glob("*.png"):
        if old.stem.isdecimal():  # of a larger count
            old.unlink()

    def draw(z):
        return utils.draw(generator, z, settings["value_range"])

    def save(name, pictures, columns):
        picture = utils.sheet(np.stack(pictures), columns)
        utils.write(folder / name, picture.save)

    options = {"interval": utils.BAR_SECONDS, "unit_name": "picture"}
    bar, first = keras.utils.Progbar(args.count, **options), []
    for start in range(0, args.count, size):  # the first size z are the sheet's
        z = sample_z(latent, size, latent_dim, (seed + start * 1_000_003) % 2**31)
        pictures = draw(z[: args.count - start])
        for i, picture in enumerate(pictures, start):
            save(f"{i:05}.png", [picture], 1)
        first = [*first, *pictures][:100]
        bar.update(start + len(pictures))
    save("sheet.png", first, math.ceil(math.sqrt(len(first))))
    if args.walk:
        side = min(4, max(1, 256 // max(generator.output_shape[1:3])))
        z = walk(latent, side**2, WALK_FRAMES, latent_dim, seed)
        frames = [utils.sheet(draw(one), side) for one in z]
        film = folder / "walk.gif"
        utils.write(film, lambda file: utils.save_gif(file, frames, 50))
    print(f"done: {args.count:,} pictures{' and walk.gif' * args.walk} in {folder}")


if __name__ == "__main__":
    main()
