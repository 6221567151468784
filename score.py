"""Does it learn? How far the pictures of a generator are from real ones, in numbers.

    python score.py runs/shoe_gan                         # against its own pictures
    python score.py runs/shoe_gan --images ./images

The losses of a GAN do not tell: they say who is ahead in the game, not how well it is
played. This compares pictures, without any pretrained network:

Sliced Wasserstein distance (Karras et al. 2018, arxiv.org/abs/1710.10196, sec. 5): each
picture is taken apart into a Laplacian pyramid; from each of its levels come patches of
7×7 pixels at random places, normalized for each colour over the whole set. How far the
patches of two sets are apart is the mean of the distances along random directions,
where it is a matter of sorting. The finest level is about sharp detail and noise, the
coarsest about large shapes. Shown times 1000, as in the paper; smaller is better.

A distance means little alone, so two marks stand beside it: between two halves of the
real pictures (no generator can be expected to do better) and of the same generator
before any training. Values depend on the number of pictures: compare equal ones only.

Copies and collapse: a generator may repeat its training pictures, or one picture. So
also shown: how far from the nearest training picture the generated pictures are, and
the real ones (without themselves); and how far from each other each of the two are.

Differences to the paper: it takes 16,384 pictures, here --pictures of them or as many
as there are; its pyramid ends at 16×16, here at the last level that measures at least
14, for MNIST's sake; and patches are drawn once a set, not anew for each batch.
"""

import utils  # first: keeps TensorFlow's start quiet

import argparse
from pathlib import Path

import keras
import numpy as np

PATCH = 7  # pixels
PATCHES = 128  # of each picture and level
DIRECTIONS = 512
SMALLEST = 14  # pixels, a side of the coarsest level
BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16


def blur(images):
    """Smooth (N, H, W, C) with the binomial filter of 5×5, mirrored at the borders."""
    for axis in (1, 2):
        pad = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        padded, size = np.pad(images, pad, "reflect"), images.shape[axis]
        parts = [np.take(padded, range(i, i + size), axis) for i in range(5)]
        images = sum(weight * part for weight, part in zip(BINOMIAL, parts))
    return images


def laplacian_pyramid(images) -> list[np.ndarray]:
    """Split pictures (N, H, W, C) into float32 levels, from the finest to the coarsest.

    Each level has half the size of the one before, and holds what is lost on the way
    to the next one; the last holds the rest.
    """
    levels, images = [], images.astype(np.float32)
    while min(images.shape[1:3]) >= 2 * SMALLEST:
        smaller = blur(images)[:, ::2, ::2]
        enlarged = np.zeros_like(images)
        enlarged[:, ::2, ::2] = 4 * smaller  # 4, as three of four stay 0
        levels.append(images - blur(enlarged))
        images = smaller
    return [*levels, images]


def patches(level, rng) -> np.ndarray:
    """Random patches of a level (N, H, W, C): (N * PATCHES, PATCH * PATCH * C).

    Each colour has mean 0 and standard deviation 1 over all of them.
    """
    n, height, width, channels = level.shape
    windows = np.lib.stride_tricks.sliding_window_view(level, (PATCH, PATCH), (1, 2))
    y = rng.integers(height - PATCH + 1, size=(n, PATCHES))
    x = rng.integers(width - PATCH + 1, size=(n, PATCHES))
    found = windows[np.arange(n)[:, None], y, x]  # (n, PATCHES, C, PATCH, PATCH)
    mean = found.mean((0, 1, 3, 4), keepdims=True)
    deviation = found.std((0, 1, 3, 4), keepdims=True)
    found = (found - mean) / np.maximum(deviation, 1e-8)
    return found.reshape(n * PATCHES, channels * PATCH * PATCH)


def projections(images, seed) -> list[np.ndarray]:
    """What of a set of pictures is compared: of each level, sorted (N, DIRECTIONS)."""
    result = []
    for i, level in enumerate(laplacian_pyramid(images)):
        rng = np.random.default_rng((seed, i))  # the same directions for all sets
        directions = rng.normal(size=(PATCH * PATCH * level.shape[3], DIRECTIONS))
        directions = np.float32(directions / np.linalg.norm(directions, axis=0))
        found = patches(level, rng) @ directions
        found.sort(axis=0)
        result.append(found)
    return result


def sliced_wasserstein(first, second) -> list[float]:
    """Distance × 1000 at each level, from the projections of two sets of equal size."""
    return [1000 * float(np.abs(a - b).mean()) for a, b in zip(first, second)]


def thumbnails(images) -> np.ndarray:
    """Pictures (N, H, W, C), shrunk to at most 32 pixels and flattened: (N, pixels)."""
    parts = []
    for i in range(0, len(images), 256):
        part = images[i : i + 256].astype(np.float32)
        while max(part.shape[1:3]) > 32:
            part = blur(part)[:, ::2, ::2]
        parts.append(part.reshape(len(part), -1))
    return np.concatenate(parts)


def distances(some, others) -> np.ndarray:
    """Root mean square difference of each (N, pixels) to each (M, pixels): (N, M)."""
    squares = (some**2).sum(1)[:, None] + (others**2).sum(1) - 2 * some @ others.T
    return np.sqrt(np.maximum(squares, 0) / some.shape[1])


def variety(generated, some_real, real):
    """Signs of copies and of collapse.

    Returns:
        median distances of generated and of real pictures from the nearest of all other
        real ones; mean distances of generated and of real pictures from each other.
    """
    generated, some_real, real = map(thumbnails, (generated, some_real, real))
    others = distances(some_real, real)
    others[np.arange(len(real)) == others.argmin(1)[:, None]] = np.inf  # but itself
    return (
        np.median(distances(generated, real).min(1)),
        np.median(others.min(1)),
        distances(generated, generated).mean(),
        distances(some_real, some_real).mean(),
    )


def real_pictures(folder, images, shape, seed):
    """The training pictures of a run, or those of another folder, prepared as there.

    Raises:
        utils.InputError: there are none.
    """
    settings = utils.read_settings(folder)
    images = images or settings["images"]
    if images is None and settings.get("dataset"):
        raise utils.InputError(
            f"the run in {folder} has downloaded its pictures: name them with --images"
        )
    if images is None:
        return utils.toy_images(utils.TOY_PICTURES, shape, settings["seed"])
    fit, background = settings["fit"], tuple(settings["background"])
    cache = settings["cache"] or folder
    return utils.load_images(images, shape, fit, background, cache)[0]


@utils.plain_errors
def main(argv=None):
    parser = argparse.ArgumentParser("score.py", description="Does a GAN learn?")
    folder, many = (
        "folder of a run, such as runs/shoe_gan",
        utils.number(low=16, high=2**16),
    )
    parser.add_argument("run", type=Path, help=folder)
    images = "real pictures, if not those of the run"
    parser.add_argument("--images", type=utils.some_path, metavar="PATH", help=images)
    most = "at most so many of each kind (default: %(default)s)"
    parser.add_argument("--pictures", type=many, default=1024, metavar="N", help=most)
    seed = utils.number(low=0, high=2**31 - 1)
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of all draws"
    )
    args = parser.parse_args(argv)

    generator, facts = utils.load_generator(args.run)
    if min(generator.output_shape[1:3]) < PATCH:
        raise utils.InputError(f"patches of {PATCH}x{PATCH} are larger than pictures")
    real = real_pictures(args.run, args.images, generator.output_shape[1:], args.seed)
    n = min(args.pictures, len(real) // 2)
    if n < 16:
        raise utils.InputError(
            f"{len(real)} real pictures are too few: take 32 or more"
        )
    keras.utils.set_random_seed(args.seed)
    untrained = keras.models.clone_model(generator)
    latent, latent_dim = facts["latent"], generator.input_shape[1]
    z = utils.sample_latent(latent, n, latent_dim, args.seed)
    order = np.random.default_rng(args.seed).permutation(len(real))
    generated = utils.draw(generator, z, facts["value_range"])
    sets = {
        "generated": generated,
        "real, other half": real[np.sort(order[n : 2 * n])],
        "before training": utils.draw(untrained, z, facts["value_range"]),
    }
    size = "x".join(map(str, generator.output_shape[1:]))
    print(f"pictures    {n:,} of each kind, {size}; {len(real):,} real ones in all\n")
    half = real[np.sort(order[:n])]
    heights = [level.shape[1] for level in laplacian_pyramid(half[:1])]
    print("sliced Wasserstein distance x 1000, by height of the level")
    print(f"{'':20}" + "".join(f"{height:>9}" for height in heights) + "     mean")
    goal, means = projections(half, args.seed), {}
    for name, images in sets.items():
        values = sliced_wasserstein(goal, projections(images, args.seed))
        means[name] = np.mean(values)
        numbers = "".join(f"{value:9.2f}" for value in [*values, means[name]])
        print(f"{name:20}{numbers}", flush=True)
    found, floor, ceiling = means.values()
    share = (ceiling - found) / (ceiling - floor)
    print(f"{'':20}{share:.0%} of the way from before training to real\n")

    nearest_generated, nearest_real, spread_generated, spread_real = variety(
        generated, half, real
    )
    print(f"nearest training picture, in levels of 255 (median): generated "
          f"{nearest_generated:.1f}, real {nearest_real:.1f}: "
          + ("many are near copies" if nearest_generated < nearest_real / 2 else
             "no sign of copies"))  # fmt: skip
    print(f"distance from each other (mean): generated {spread_generated:.1f}, real "
          f"{spread_real:.1f}: "
          + ("collapsed, or nearly" if spread_generated < spread_real / 2 else
             "no sign of collapse"))  # fmt: skip


if __name__ == "__main__":
    main()
