"""Does it learn? How far the pictures of a generator are from real ones, in numbers.

    python score.py runs/shoe_gan             # against the pictures of its training
    python score.py runs/shoe_gan --images ./other

The losses of a GAN do not tell: they say who is ahead in the game, not how well it is
played. This compares pictures, without any pretrained network:

Sliced Wasserstein distance (Karras et al. 2018, arxiv.org/abs/1710.10196, sec. 5): each
picture is taken apart into a Laplacian pyramid; from each of its levels come patches of
7×7 pixels at random places, each color normalized over the whole set. The distance
between two sets of patches is the mean over random directions of the distance along
each, found by sorting. The finest level shows sharp detail and noise, the coarsest
large shapes. Shown times 1000, as in the paper; smaller is better.

Two others stand beside it: between two sets of real pictures (no generator can be
expected to do better), and from a generator of the same architecture before training.
Values depend on the number of pictures: compare only those of equally many.

Copies and collapse: a generator may repeat its training pictures, or one picture. So
it also shows how far pictures are from the nearest real one, and from each other.

Differences from the paper: it takes 16,384 pictures, here --pictures, or half of the
real ones if those are fewer; its pyramid ends at 16×16, here at the last level that
measures at least 14, for MNIST's sake; and the patches of all sets come from the same
random places, so that equal sets are at distance 0.
"""

import argparse
import sys

from sample import load_run, sample_z
from utils import load_images, positive, to_uint8

import keras  # after utils, which sets it up
import numpy as np

PATCH = 7  # pixels
PATCHES = 128  # of each picture and level
DIRECTIONS = 512
SMALLEST = 14  # pixels, a side of the coarsest level
BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16


def blur(images, step=1):
    """Smooth (N, H, W, C) with the binomial filter of 5×5; keep every step-th pixel."""
    for axis in (1, 2):
        pad = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        padded, size = np.pad(images, pad, "reflect"), images.shape[axis]
        images = sum(
            weight * np.take(padded, range(i, i + size, step), axis)
            for i, weight in enumerate(BINOMIAL)
        )
    return images


def laplacian_pyramid(images) -> list[np.ndarray]:
    """Split pictures (N, H, W, C) into float32 levels, from the finest to the coarsest.

    Each level has half the size of the one before, and holds what is lost on the way
    to the next one; the last holds the rest.
    """
    levels, images = [], images.astype(np.float32)
    while min(images.shape[1:3]) >= 2 * SMALLEST:
        smaller = blur(images, 2)
        enlarged = np.zeros_like(images)
        enlarged[:, ::2, ::2] = 4 * smaller  # 4, as three of four stay 0
        levels.append(images - blur(enlarged))
        images = smaller
    return [*levels, images]


def cut(level, rng) -> np.ndarray:
    """Patches (N, PATCHES, C, PATCH, PATCH) from random places of (N, H, W, C)."""
    n, height, width, _ = level.shape
    windows = np.lib.stride_tricks.sliding_window_view(level, (PATCH, PATCH), (1, 2))
    y = rng.integers(height - PATCH + 1, size=(n, PATCHES))
    x = rng.integers(width - PATCH + 1, size=(n, PATCHES))
    return windows[np.arange(n)[:, None], y, x]


def patches(images, seed) -> list[np.ndarray]:
    """Patches of each level of pictures (N, H, W, C): (N * PATCHES, C * PATCH * PATCH).

    Each color has mean 0 and standard deviation 1 over all of them.
    """
    parts = []
    for start in range(0, len(images), 64):  # whole pyramids take much memory
        levels = laplacian_pyramid(images[start : start + 64])
        rngs = [np.random.default_rng((seed, i, start)) for i in range(len(levels))]
        parts.append([cut(level, rng) for level, rng in zip(levels, rngs)])
    result = []
    for level in map(np.concatenate, zip(*parts)):
        # float64, as such sums are too long for float32.
        mean = level.mean((0, 1, 3, 4), np.float64, keepdims=True)
        deviation = level.std((0, 1, 3, 4), np.float64, keepdims=True)
        level -= np.float32(mean)
        level /= np.float32(np.maximum(deviation, 1e-8))
        result.append(level.reshape(-1, level[0, 0].size))
    return result


def sliced_wasserstein(first, second, seed) -> list[float]:
    """Distance × 1000 at each level, from the patches of two sets of equal size."""
    result = []
    for i, (some, others) in enumerate(zip(first, second)):
        rng = np.random.default_rng((seed, i))
        directions = rng.normal(size=(some.shape[1], DIRECTIONS))
        directions = np.float32(directions / np.linalg.norm(directions, axis=0))
        gaps = np.sort(directions.T @ some.T) - np.sort(directions.T @ others.T)
        result.append(1000 * float(np.abs(gaps).mean(dtype=np.float64)))
    return result


def thumbnails(images) -> np.ndarray:
    """Pictures (N, H, W, C), shrunk to at most 32 pixels and flattened: (N, pixels)."""
    parts = []
    for i in range(0, len(images), 256):
        part = images[i : i + 256].astype(np.float32)
        while max(part.shape[1:3]) > 32:
            part = blur(part, 2)
        parts.append(part.reshape(len(part), -1))
    return np.concatenate(parts)


def distances(some, others) -> np.ndarray:
    """Root mean square difference of each (N, pixels) to each (M, pixels): (N, M)."""
    some, others = some.astype(np.float64), others.astype(np.float64)
    squares = (some**2).sum(1)[:, None] + (others**2).sum(1) - 2 * some @ others.T
    return np.sqrt(np.maximum(squares, 0) / some.shape[1])


def variety(generated, some_real, real):
    """Distances that show copies and collapse, for generated and for real pictures.

    First the medians to the nearest real picture (for real ones, the nearest that
    differs by half a level of 255 or more), then the means within each kind.
    """
    generated, some_real = thumbnails(generated), thumbnails(some_real)
    near, real_near = (np.full(len(some), np.inf) for some in (generated, some_real))
    for i in range(0, len(real), 4096):  # all of them may not fit in memory
        part = thumbnails(real[i : i + 4096])
        near = np.minimum(near, distances(generated, part).min(1))
        gaps = distances(some_real, part)
        real_near = np.minimum(real_near, np.where(gaps < 0.5, np.inf, gaps).min(1))
    return (
        np.median(near),
        np.median(real_near),
        distances(generated, generated).mean(),
        distances(some_real, some_real).mean(),
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("run", help="folder of a run, such as runs/shoe_gan")
    add("--images", help="real pictures (default: those of the training)")
    add("--pictures", type=positive, default=1024, help="of each set (default: 1024)")
    add("--seed", type=int, default=0, help="of all that is random (default: 0)")
    args = parser.parse_args(argv)

    generator, settings = load_run(args.run)
    shape = generator.output_shape[1:]
    settings = {"fit": "pad", "background": (255, 255, 255)} | settings
    if not args.images and "images" not in settings:
        sys.exit("error: this run did not note its pictures: name them with --images")
    source, dataset = args.images or settings["images"], settings.get("dataset", "toys")
    if source is None and dataset != "toys":
        from dcgan_grayscale import load_dataset

        source = load_dataset(dataset)
    real = load_images(source, shape, settings["fit"], tuple(settings["background"]))
    n = min(args.pictures, len(real) // 2)
    if n < 16 or min(shape[:2]) < PATCH:
        sys.exit(f"error: {n} pictures of {shape}; 16 of {PATCH} pixels a side needed")
    keras.utils.set_random_seed(args.seed)
    untrained = keras.models.clone_model(generator)
    z = sample_z(settings["latent"], n, generator.input_shape[1], args.seed)
    order = np.random.default_rng(args.seed).permutation(len(real))
    half = real[np.sort(order[:n])]

    def draw(generator):
        numbers = generator.predict(z, batch_size=16, verbose=0)
        return to_uint8(numbers, settings["value_range"])

    generated = draw(generator)
    sets = {
        "generated": generated,
        "real, another set": real[np.sort(order[n : 2 * n])],
        "before training": draw(untrained),
    }
    size = "x".join(map(str, shape))
    print(f"pictures    {n:,} of each kind, {size}; {len(real):,} real ones in all\n")
    heights = [level.shape[1] for level in laplacian_pyramid(half[:1])]
    print("sliced Wasserstein distance x 1000, by height of the level")
    print(f"{'':20}" + "".join(f"{height:>9}" for height in heights) + "     mean")
    goal, means = patches(half, args.seed), {}
    for name, images in sets.items():
        row = sliced_wasserstein(goal, patches(images, args.seed), args.seed)
        means[name] = np.mean(row)
        print(f"{name:20}" + "".join(f"{n:9.2f}" for n in (*row, means[name])))
    found, floor, ceiling = means.values()
    share = (ceiling - found) / (ceiling - floor)
    print(f"{'':20}{share:.0%} of the way from before training to real\n")

    near, real_near, spread, real_spread = variety(generated, half, real)
    part = "half or more" if near < real_near / 2 else "fewer than half"
    copies = f"{part} are near copies"
    if real_near == np.inf:
        copies = "cannot tell, as the real ones are all the same"
    print(f"distance to the nearest real picture (median, on 0-255): generated "
          f"{near:.1f}, real {real_near:.1f}: {copies}")  # fmt: skip
    alike = "collapsed, or nearly" if spread < real_spread / 2 else "no collapse seen"
    print(f"distance to each other (mean): generated {spread:.1f}, "
          f"real {real_spread:.1f}: {alike}")  # fmt: skip


if __name__ == "__main__":
    main()
