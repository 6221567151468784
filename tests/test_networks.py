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


DOWN_256 = "Conv {} 3/1, BN 0.7 0.001, LReLU 0.2, Dropout 0.25, AveragePooling2D"
UP_256 = "BN 0.7 0.001, ReLU, Up nearest"
SHOE = "~0±0.02, BN 0.9 1e-05 ~1±0.02"
SOURCES = {
    # Batch, shape, steps per epoch, epochs; latent, value range, grid; parameters of
    # both; G's and D's layers: kernel/stride, momentum, epsilon, ~mean±deviation.
    "dcgan256": (
        (4, 256, 256, 3, 500, 1000), "uniform", (0, 1), (6, 8), (18_450_963, 920_081),
        "Reshape, Deconv 256 4/1 relu, " + blocks(f"Conv {{}} 4/1, {UP_256}", 256, 128)
        + blocks(f"Conv {{}} 3/1, {UP_256}", 64, 32, 16)
        + "Conv 8 3/1 relu, Up nearest, Conv 3 3/1, sigmoid",
        "Noise 0.2, Conv 8 3/1, LReLU 0.2, Dropout 0.25, AveragePooling2D, "
        + blocks(DOWN_256, 16, 32, 64, 128, 256)
        + "Flatten, Dense 128, LReLU 0.2, Dense 1",
    ),
    "shoe_gan": (
        (64, 64, 64, 3, 201, 500), "normal", (-1, 1), (8, 8), (3_578_624, 2_767_360),
        f"Reshape, Deconv 512 4/1 {SHOE}, ReLU, "
        + blocks(f"Deconv {{}} 4/2 {SHOE}, ReLU", 256, 128, 64)
        + "Deconv 3 4/2 ~0±0.02, tanh",
        "Conv 64 4/2 ~0±0.02, LReLU 0.2, "
        + blocks(f"Conv {{}} 4/2 {SHOE}, LReLU 0.2", 128, 256, 512)
        + "Conv 1 4/1 ~0±0.02, Flatten",
    ),
    "dcgan_pokemon": (
        (64, 64, 64, 3, 200, 650), "normal", (-1, 1), (4, 4), (2_668_992, 340_865),
        "Dense 16384, Reshape, "
        + blocks("BN 0.99 0.001, LReLU 0.3, Deconv {} 5/2", 128, 64, 3) + "tanh",
        "Conv 64 5/1, LReLU 0.3, Dropout 0.3, Conv 128 5/2, Flatten, Dense 1",
    ),
    "dcgan_grayscale": (
        (32, 28, 28, 1, 500, 32), "normal", (-1, 1), (8, 8), (2_212_993, 2_106_113),
        "Dense 6272 ~0±0.02, LReLU 0.2, Reshape, "
        + blocks("Deconv {} 4/2 ~0±0.02, BN 0.99 0.001, LReLU 0.2", 256, 256)
        + "Conv 1 4/1 ~0±0.02, tanh",
        blocks("Conv {} 4/2 ~0±0.02, LReLU 0.2", 256, 256, 256) + "Flatten, Dense 1",
    ),
    "dcgan_general": (
        (32, 150, 150, 3, 300, 1600), "uniform", (-1, 1), (5, 5), (7_245_251, 110_209),
        "Dense 34656, BN 0.9 0.001, ReLU, Reshape, Dropout 0.4, "
        + blocks("Deconv {} 3/2, BN 0.9 0.001, ReLU", 96, 64)
        + "Deconv 3 3/2, Cropping2D, tanh",
        blocks("Conv {} 3/2, BN 0.9 0.001, Dropout 0.4, LReLU 0.2", 32, 64, 96)
        + "Flatten, Dense 1",
    ),
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
    """Parameters of both networks, and their layers."""
    networks = gan.generator, gan.discriminator
    counts = tuple(network.count_params() for network in networks)
    return counts, *(", ".join(map(told, network.layers)) for network in networks)


def asked(script, tmp_path, *options):
    """The gan that main() trains; its batches, steps per epoch and epochs."""
    np.save(tmp_path / "x.npy", np.full((1, 9, 9, 3), 99, np.uint8))
    with mock.patch.object(keras.Model, "fit") as fit:
        options = options or ["--images", tmp_path / "x.npy"]
        gan = script.main(["--out", tmp_path / "run", *options])
    (dataset,), settings = fit.call_args
    lengths = settings["steps_per_epoch"], settings["epochs"]
    return gan, (*dataset.element_spec.shape, *lengths)


def test_what_main_asks_for(script, tmp_path):
    """The class as it is by default, for as long as its source."""
    gan, wanted = asked(script, tmp_path)
    lengths, latent, value_range, grid, *networks = SOURCES[script.__name__]
    assert wanted == lengths
    assert (gan.latent, gan.value_range, gan.grid) == (latent, value_range, grid)
    assert described(gan) == described(make_gan(script)) == tuple(networks)
    assert getattr(gan, "fakes", 64) == 64
    z = np.asarray(gan.sample_z(200, seed=3))  # as sample.py draws it
    assert z.shape == (200, gan.latent_dim) == (200, *gan.generator.input_shape[1:])
    assert np.array_equal(z, sample.sample_z(gan.latent, *z.shape, seed=3))
    assert abs(z.std() - (1 if gan.latent == "normal" else 3**-0.5)) < 0.02


def test_no_two_layers_start_from_the_same_numbers(script):
    """An initializer object that two layers share would draw the same numbers twice."""
    starts = [np.ravel(v)[:8] for v in make_gan(script).trainable_variables]
    starts = [tuple(x / np.std(x)) for x in starts if np.std(x) > 0]  # not constant
    assert len(set(starts)) == len(starts) >= 5


@pytest.mark.parametrize(("depth", "g_count", "d_count"), [
    (4, 2_940_515, 199_585), (5, 1_404_579, 375_905), (6, 1_317_635, 651_073),
    (8, 2_336_931, 1_555_169),  # from 2×2, cropped from 512
])  # fmt: skip
def test_depths_of_general(depth, g_count, d_count):
    """The source's counts, not read off our own networks."""
    assert described(dcgan_general.DCGAN(depth=depth))[0] == (g_count, d_count)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("img_size", [(7, 7, 1), (33, 50, 3), (200, 180, 3)])
def test_general_builds_any_size(img_size, stride):
    generator = dcgan_general.build_generator(2, img_size, (4, 3), stride, 0, 3, 2)
    assert generator.output_shape == (None, *img_size)
    crops = generator.layers[-2].cropping
    assert all(end - start in (0, 1) for start, end in crops)


def test_options_reach_the_training(tmp_path, monkeypatch):
    experiments = (1, 50, 0, 1), (2, 100, -1, 1), (3, 100, -1, 0.9)
    for number, epochs, low, label in experiments:
        gan, wanted = asked(shoe_gan, tmp_path, "--experiment", number)
        assert (wanted[4:], gan.value_range) == ((201, epochs), (low, 1))
        assert (gan.real_label, gan.freezing) == (label, False)
    parts = np.full((2, 2, 3, 28, 28), 99)  # training and test, pictures and labels
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: parts)
    _, wanted = asked(dcgan_grayscale, tmp_path, "--dataset", "fashion_mnist")
    assert wanted == (32, 28, 28, 1, 500, 18)
    options = "--depth 2 --increment 5 --learning-rate 0.003 --d-learning-rate 0.1"
    gan, _ = asked(dcgan_general, tmp_path, "--stride", 3, 2, *options.split())
    assert [layer.filters for layer in gan.discriminator.layers[:5:4]] == [5, 10]
    assert gan.discriminator.layers[0].strides == (3, 2)
    rates = [gan.g_optimizer.learning_rate, gan.d_optimizer.learning_rate]
    assert np.allclose(rates, [0.003, 0.1])
