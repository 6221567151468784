"""The networks are those of the sources: sizes, shapes, ranges, settings, lengths."""

from unittest import mock

import keras
import numpy as np
import pytest
from conftest import make_gan

import dcgan_general
import dcgan_grayscale
import sample
import shoe_gan


def blocks(pattern, *filters):
    return "".join(f"{pattern.format(n)}, " for n in filters)


UP_256 = "BN 0.7 0.001, ReLU, Up nearest"
DOWN_256 = "Conv {} 3/1, BN 0.7 0.001, LReLU 0.2, Dropout 0.25, AveragePooling2D"
SHOE = "~0±0.02, BN 0.9 1e-05 ~1±0.02"
SOURCES = {  # batch, shape, steps per epoch, epochs; latent, value range, grid
    # Of G, then of D: parameters, layers: kernel/stride, momentum, epsilon, ~mean±std.
    "dcgan256": ((4, 256, 256, 3, 500, 1000), "uniform", (0, 1), (6, 8),
        18_450_963, "Reshape, Deconv 256 4/1 relu, "
        + blocks(f"Conv {{}} 4/1, {UP_256}", 256, 128)
        + blocks(f"Conv {{}} 3/1, {UP_256}", 64, 32, 16)
        + "Conv 8 3/1 relu, Up nearest, Conv 3 3/1, sigmoid",
        920_081, "Noise 0.2, Conv 8 3/1, LReLU 0.2, Dropout 0.25, AveragePooling2D, "
        + blocks(DOWN_256, 16, 32, 64, 128, 256)
        + "Flatten, Dense 128, LReLU 0.2, Dense 1"),
    "shoe_gan": ((64, 64, 64, 3, 201, 500), "normal", (-1, 1), (8, 8),
        3_578_624, f"Reshape, Deconv 512 4/1 {SHOE}, ReLU, "
        + blocks(f"Deconv {{}} 4/2 {SHOE}, ReLU", 256, 128, 64)
        + "Deconv 3 4/2 ~0±0.02, tanh",
        2_767_360, "Conv 64 4/2 ~0±0.02, LReLU 0.2, "
        + blocks(f"Conv {{}} 4/2 {SHOE}, LReLU 0.2", 128, 256, 512)
        + "Conv 1 4/1 ~0±0.02, Flatten"),
    "dcgan_pokemon": ((64, 64, 64, 3, 200, 650), "normal", (-1, 1), (4, 4),
        2_668_992, "Dense 16384, Reshape, "
        + blocks("BN 0.99 0.001, LReLU 0.3, Deconv {} 5/2", 128, 64, 3) + "tanh",
        340_865, "Conv 64 5/1, LReLU 0.3, Dropout 0.3, Conv 128 5/2, Flatten, Dense 1"),
    "dcgan_grayscale": ((32, 28, 28, 1, 500, 32), "normal", (-1, 1), (8, 8),
        2_212_993, "Dense 6272 ~0±0.02, LReLU 0.2, Reshape, "
        + blocks("Deconv {} 4/2 ~0±0.02, BN 0.99 0.001, LReLU 0.2", 256, 256)
        + "Conv 1 4/1 ~0±0.02, tanh",
        2_106_113, blocks("Conv {} 4/2 ~0±0.02, LReLU 0.2", 256, 256, 256)
        + "Flatten, Dense 1"),
    "dcgan_general": ((32, 150, 150, 3, 300, 1600), "uniform", (-1, 1), (5, 5),
        7_245_251, "Dense 34656, BN 0.9 0.001, ReLU, Reshape, Dropout 0.4, "
        + blocks("Deconv {} 3/2, BN 0.9 0.001, ReLU", 96, 64)
        + "Deconv 3 3/2, Cropping2D, tanh",
        110_209, blocks("Conv {} 3/2, BN 0.9 0.001, Dropout 0.4, LReLU 0.2", 32, 64, 96)
        + "Flatten, Dense 1"),
}  # fmt: skip
CONV = "{0.filters} {0.kernel_size[0]}/{0.strides[0]} {0.activation.__name__}"
WORDS = {  # for a layer or an initializer, by its kind
    "Conv2D": f"Conv {CONV}", "Conv2DTranspose": f"Deconv {CONV}",
    "Dense": "Dense {0.units} {0.activation.__name__}", "Dropout": "Dropout {0.rate}",
    "Activation": "{0.activation.__name__}", "UpSampling2D": "Up {0.interpolation}",
    "BatchNormalization": "BN {0.momentum} {0.epsilon}",
    "LeakyReLU": "LReLU {0.negative_slope:g}", "GaussianNoise": "Noise {0.stddev}",
    "RandomNormal": " ~{0.mean:g}±{0.stddev:g}", "GlorotUniform": "", "Ones": "",
}  # fmt: skip


def told(thing):
    """A layer or an initializer, with what parameter counts cannot tell of it."""
    kind = type(thing).__name__
    text = WORDS.get(kind, kind).format(thing).replace(" linear", "")
    for name in ("kernel_initializer", "gamma_initializer"):
        if hasattr(thing, name):
            text += told(getattr(thing, name))
    return text


def described(gan):
    """Parameters and layers of G, then of D, as in SOURCES."""
    texts = []
    for network in (gan.generator, gan.discriminator):
        texts += [network.count_params(), ", ".join(map(told, network.layers))]
    return texts


def asked(script, tmp_path, *options):
    """The gan that main() trains; its batches, steps per epoch and epochs."""
    np.save(tmp_path / "x.npy", np.full((1, 9, 9, 3), 99, np.uint8))
    options = options or ["--images", tmp_path / "x.npy"]
    with mock.patch.object(keras.Model, "fit") as fit:
        gan = script.main(["--out", tmp_path / "run", *options])
    (data,), given = fit.call_args
    return gan, (*next(iter(data)).shape, given["steps_per_epoch"], given["epochs"])


def test_what_main_asks_for(script, tmp_path):
    """The class as it is by default, for as long as its source."""
    gan, wanted = asked(script, tmp_path)
    lengths, latent, value_range, grid, *networks = SOURCES[script.__name__]
    assert wanted == lengths and gan.generator.output_shape[1:] == wanted[1:4]
    assert (gan.latent, gan.value_range, gan.grid) == (latent, value_range, grid)
    assert described(gan) == described(make_gan(script)) == networks
    assert getattr(gan, "fakes", 64) == 64
    z = np.asarray(gan.sample_z(200, seed=3))  # as sample.py draws it
    assert z.shape == (200, gan.latent_dim) == (200, *gan.generator.input_shape[1:])
    assert np.array_equal(z, sample.sample_z(gan.latent, *z.shape, seed=3))
    assert abs(z.std() - (1 if gan.latent == "normal" else 3**-0.5)) < 0.02
    # An initializer object that two layers share would draw the same numbers twice.
    starts = [np.ravel(v)[:8] for v in gan.trainable_variables]
    starts = [tuple(x / np.std(x)) for x in starts if np.std(x) > 0]  # not constant
    assert len(set(starts)) == len(starts) >= 5


@pytest.mark.parametrize(("depth", "g_count", "d_count"), [
    (4, 2_940_515, 199_585), (5, 1_404_579, 375_905), (6, 1_317_635, 651_073),
    (8, 2_336_931, 1_555_169),  # from 2×2, cropped from 512
])  # fmt: skip
def test_depths_of_general(depth, g_count, d_count):
    """The source's counts, not read off our own networks."""
    assert described(dcgan_general.DCGAN(depth=depth))[::2] == [g_count, d_count]


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("img_size", [(7, 7, 1), (33, 50, 3), (200, 180, 3)])
def test_general_builds_any_size(img_size, stride):
    generator = dcgan_general.build_generator(2, img_size, (4, 3), stride, 0, 3, 2)
    assert generator.output_shape == (None, *img_size)
    assert all(end - start in (0, 1) for start, end in generator.layers[-2].cropping)


def test_options_reach_the_training(tmp_path, monkeypatch):
    for number, epochs in ((1, 50), (2, 100), (3, 100)):
        gan, wanted = asked(shoe_gan, tmp_path, "--experiment", number)
        assert wanted[4:] == (201, epochs) and not gan.freezing
    parts = np.full((2, 2, 3, 28, 28), 99)  # training and test, pictures and labels
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: parts)
    _, wanted = asked(dcgan_grayscale, tmp_path, "--dataset", "fashion_mnist")
    assert wanted == (32, 28, 28, 1, 500, 18)
    options = (
        "--kernel-size 4 3 --stride 3 2 --input-size 9 --img-size 37 50 1 --seed 7"
    )
    options += " --dropout 0.1 --depth 2 --increment 5"
    options += " --learning-rate 0.003 --d-learning-rate 0.1"
    gan, wanted = asked(dcgan_general, tmp_path, *options.split())
    same = dcgan_general.DCGAN((4, 3), (3, 2), 9, (37, 50, 1), 0.1, 2, 5)
    assert described(gan) == described(same) and wanted[1:4] == (37, 50, 1)
    rates = [gan.g_optimizer.learning_rate, gan.d_optimizer.learning_rate]
    assert np.allclose(rates, [0.003, 0.1]) and gan.seed_generator.state[0] == 7
