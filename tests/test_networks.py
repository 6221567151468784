"""The networks are those of the sources: sizes, shapes, ranges, settings, comments."""

import ast
import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import make_gan

import dcgan256
import dcgan_general
import dcgan_grayscale
import dcgan_pokemon
import shoe_gan
from utils import InputError

# Published parameter counts (generator, discriminator), not read off our own networks.
PARAMETERS = {
    dcgan256: (18_450_963, 920_081),
    shoe_gan: (3_578_624, 2_767_360),
    dcgan_pokemon: (2_668_992, 340_865),
    dcgan_grayscale: (2_212_993, 2_106_113),
    dcgan_general: (7_245_251, 110_209),
}
GENERAL_PARAMETERS = {
    3: (7_245_251, 110_209),
    4: (2_940_515, 199_585),
    5: (1_404_579, 375_905),
    6: (1_317_635, 651_073),
}
PICTURES = {
    dcgan256: ((256, 256, 3), 4096, (0, 1)),
    shoe_gan: ((64, 64, 3), 100, (-1, 1)),
    dcgan_pokemon: ((64, 64, 3), 100, (-1, 1)),
    dcgan_grayscale: ((28, 28, 1), 100, (-1, 1)),
    dcgan_general: ((150, 150, 3), 200, (-1, 1)),
}


def networks(script, **options):
    gan = make_gan(script, **options)
    return gan.generator, gan.discriminator


def test_parameter_counts(script):
    counts = tuple(network.count_params() for network in networks(script))
    assert counts == PARAMETERS[script]


@pytest.mark.parametrize("depth", GENERAL_PARAMETERS)
def test_parameter_counts_of_the_general_script(depth):
    counts = (net.count_params() for net in networks(dcgan_general, depth=depth))
    assert tuple(counts) == GENERAL_PARAMETERS[depth]


def test_shapes_and_ranges(script):
    shape, latent_dim, (low, high) = PICTURES[script]
    generator, discriminator = networks(script)
    assert generator.input_shape == (None, latent_dim)
    assert discriminator.input_shape == (None, *shape)
    z = 50 * np.random.default_rng(0).normal(size=(2, latent_dim)).astype("float32")
    pictures = np.asarray(generator(z, training=True))
    assert pictures.shape == (2, *shape)
    assert low <= pictures.min() < (low + high) / 2 < pictures.max() <= high
    logits = np.asarray(discriminator(100 * pictures, training=False))
    assert logits.shape == (2, 1)
    assert discriminator.layers[-1].get_config().get("activation", "linear") == "linear"


def test_latent_vectors(script):
    """Standard normal or uniform in [-1, 1], the same from the same seed."""
    gan = make_gan(script)
    z = np.asarray(gan.sample_z(200, seed=3))
    assert (z == np.asarray(gan.sample_z(200, seed=3))).all()
    assert (z != np.asarray(gan.sample_z(200, seed=4))).any()
    assert abs(z.mean()) < 0.02
    if script in (dcgan256, dcgan_general):
        assert -1 <= z.min() < -0.99 and 0.99 < z.max() <= 1
        assert abs(z.std() - 1 / np.sqrt(3)) < 0.01
    else:
        assert abs(z.std() - 1) < 0.02 and z.max() > 2.5


def layers_of(network, kind):
    return [layer for layer in network.layers if isinstance(layer, kind)]


def test_layer_settings(script):
    """Kernels, strides, slopes, rates, momenta: what parameter counts cannot tell."""
    generator, discriminator = networks(script)
    kernels = [
        [(layer.kernel_size[0], layer.strides[0], layer.filters)
         for layer in network.layers if hasattr(layer, "filters")]
        for network in (generator, discriminator)
    ]  # fmt: skip
    norm, leaky = keras.layers.BatchNormalization, keras.layers.LeakyReLU
    momenta = {layer.momentum for net in (generator, discriminator)
               for layer in layers_of(net, norm)}  # fmt: skip
    slopes = {round(layer.negative_slope, 6) for net in (generator, discriminator)
              for layer in layers_of(net, leaky)}  # fmt: skip
    dropout = [
        [layer.rate for layer in layers_of(network, keras.layers.Dropout)]
        for network in (generator, discriminator)
    ]
    expected = {
        dcgan256: (
            [(4, 1, 256), (4, 1, 256), (4, 1, 128), (3, 1, 64), (3, 1, 32), (3, 1, 16),
             (3, 1, 8), (3, 1, 3)],
            [(3, 1, 8 * 2**i) for i in range(6)],
            {0.7}, {0.2}, [[], [0.25] * 6],
        ),
        shoe_gan: (
            [(4, 1, 512), (4, 2, 256), (4, 2, 128), (4, 2, 64), (4, 2, 3)],
            [(4, 2, 64), (4, 2, 128), (4, 2, 256), (4, 2, 512), (4, 1, 1)],
            {0.9}, {0.2}, [[], []],
        ),
        dcgan_pokemon: (
            [(5, 2, 128), (5, 2, 64), (5, 2, 3)],
            [(5, 1, 64), (5, 2, 128)],
            {0.99}, {0.3}, [[], [0.3]],
        ),
        dcgan_grayscale: (
            [(4, 2, 256), (4, 2, 256), (4, 1, 1)],
            [(4, 2, 256)] * 3,
            {0.99}, {0.2}, [[], []],
        ),
        dcgan_general: (
            [(3, 2, 96), (3, 2, 64), (3, 2, 3)],
            [(3, 2, 32), (3, 2, 64), (3, 2, 96)],
            {0.9}, {0.2}, [[0.4], [0.4] * 3],
        ),
    }  # fmt: skip
    assert (*kernels, momenta, slopes, dropout) == expected[script]


def test_order_of_layers(script):
    """Normalization, activation and dropout stand where the sources have them."""
    short = {
        "BatchNormalization": "BN",
        "Conv2DTranspose": "Deconv",
        "LeakyReLU": "LReLU",
    }
    short |= {"UpSampling2D": "Up", "AveragePooling2D": "Pool", "Cropping2D": "Crop"}
    down = "Conv2D BN LReLU "
    expected = {
        dcgan256: (
            "Reshape Deconv " + 5 * "Conv2D BN ReLU Up "
            + "Conv2D Up Conv2D Activation",
            "GaussianNoise Conv2D LReLU Dropout Pool "
            + 5 * (down + "Dropout Pool ") + "Flatten Dense LReLU Dense",
        ),
        shoe_gan: (
            "Reshape " + 4 * "Deconv BN ReLU " + "Deconv Activation",
            "Conv2D LReLU " + 3 * down + "Conv2D Flatten",
        ),
        dcgan_pokemon: (
            "Dense Reshape " + 3 * "BN LReLU Deconv " + "Activation",
            "Conv2D LReLU Dropout Conv2D Flatten Dense",
        ),
        dcgan_general: (
            "Dense BN ReLU Reshape Dropout " + 2 * "Deconv BN ReLU "
            + "Deconv Crop Activation",
            3 * "Conv2D BN Dropout LReLU " + "Flatten Dense",
        ),
        dcgan_grayscale: (
            "Dense LReLU Reshape " + 2 * "Deconv BN LReLU " + "Conv2D Activation",
            3 * "Conv2D LReLU " + "Flatten Dense",
        ),
    }  # fmt: skip
    for network, order in zip(networks(script), expected[script]):
        kinds = [type(layer).__name__ for layer in network.layers]
        assert " ".join(short.get(kind, kind) for kind in kinds) == order


def spread(network, kind, weight="kernel"):
    """Standard deviations of the initial weights of all layers of a kind."""
    return [np.std(getattr(layer, weight)) for layer in layers_of(network, kind)]


def test_initial_weights():
    conv, dense = (
        (keras.layers.Conv2D, keras.layers.Conv2DTranspose),
        keras.layers.Dense,
    )
    norm = keras.layers.BatchNormalization
    for network in networks(shoe_gan):
        assert spread(network, conv) == pytest.approx([0.02] * 5, rel=0.05)
        gammas = np.concatenate([layer.gamma for layer in layers_of(network, norm)])
        assert gammas.mean() == pytest.approx(1, abs=0.005)
        assert gammas.std() == pytest.approx(0.02, rel=0.15)
        assert all(layer.epsilon == 1e-5 for layer in layers_of(network, norm))
    generator, discriminator = networks(dcgan_grayscale)
    assert spread(generator, (*conv, dense)) == pytest.approx([0.02] * 4, rel=0.05)
    assert spread(discriminator, conv) == pytest.approx([0.02] * 3, rel=0.05)
    glorot = np.sqrt(2 / (4 * 4 * 256 + 1))
    assert spread(discriminator, dense) == pytest.approx([glorot], rel=0.1)
    glorot = np.sqrt(2 / (100 + 8 * 8 * 256))
    assert spread(networks(dcgan_pokemon)[0], dense) == pytest.approx(
        [glorot], rel=0.05
    )
    assert dcgan256.build_discriminator().layers[0].stddev == 0.2


def test_no_two_layers_start_from_the_same_numbers(script):
    """An initializer object that two layers share would draw the same numbers twice."""
    starts = set()
    for network in networks(script):
        for variable in network.trainable_variables:
            values = np.ravel(variable)[:8]
            if np.std(values) > 0:  # not biases, betas, and gammas of 1
                assert tuple(values / np.std(values)) not in starts, variable.path
                starts.add(tuple(values / np.std(values)))
    assert len(starts) >= 5


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("kernel", [(3, 3), (4, 3), (5, 5)])
@pytest.mark.parametrize("img_size", [(7, 7, 1), (33, 50, 3), (200, 180, 3)])
def test_general_builds_any_size(img_size, kernel, stride):
    options = {"img_size": img_size, "kernel_size": kernel, "stride": stride}
    for depth in (1, 3):
        generator, discriminator = networks(
            dcgan_general, depth=depth, increment=2, **options
        )
        assert generator.output_shape == (None, *img_size)
        assert discriminator.output_shape == (None, 1)


def test_general_is_as_deep_as_a_crop_allows():
    """At 150×150 and depth 7 the source builds 2 · 2⁷ = 256 pixels, and crops them."""
    generator, _ = networks(dcgan_general, depth=7, increment=2)
    assert generator.layers[0].units == 2 * 2 * 7 * 2
    assert generator.output_shape == (None, 150, 150, 3)
    with pytest.raises(InputError, match="smaller depth"):
        networks(dcgan_general, depth=12)


@pytest.mark.parametrize("size", [(4, 4), (28, 28), (32, 20)])
def test_grayscale_sizes(size):
    assert dcgan_grayscale.build_generator(*size).output_shape == (None, *size, 1)
    assert dcgan_grayscale.build_discriminator(*size).output_shape == (None, 1)


SHAPE = re.compile(r"\(B(?:, \d+)+\)")


def shapes_in(text):
    return [tuple(map(int, re.findall(r"\d+", shape))) for shape in SHAPE.findall(text)]


@pytest.mark.parametrize("which", [0, 1])
def test_shape_comments_are_true(script, which):
    """The comment at the end of a layer's line is the shape of that layer's output."""
    builder = ("build_generator", "build_discriminator")[which]
    lines = inspect.getsource(getattr(script, builder)).splitlines()
    network = networks(script)[which]
    outputs = [layer.output.shape[1:] for layer in network.layers]
    shown = [shape for line in lines for shape in shapes_in(line.partition("#")[2])]
    if script is dcgan_general:  # loops: its comments must come in the networks' order
        rest = iter(outputs)
        assert shown and all(any(shape == out for out in rest) for shape in shown)
    else:
        nodes = ast.walk(ast.parse("\n".join(lines)))
        built = next(node for node in nodes if isinstance(node, ast.List)).elts[1:]
        for layer, output in zip(built, outputs, strict=True):
            shapes = shapes_in(lines[layer.end_lineno - 1].partition("#")[2])
            assert shapes in ([], [output]), ast.unparse(layer)
    resolutions = {output[:2] for output in outputs if len(output) == 3}
    assert resolutions <= {shape[:2] for shape in shown} | {network.output_shape[1:3]}


def test_deviations_and_oddities_are_tagged_at_their_lines(script):
    """Every [D1], [K1] ... of the list at the end stands in the code, and none else."""
    source = Path(script.__file__).read_text("utf-8")
    code, listing = source.replace(script.__doc__, "").rsplit("# %% [markdown]", 1)
    listed = re.findall(r"(?m)^# - (\[[DK]\d+\])", listing)
    assert listed and len(set(listed)) == len(listed)
    assert set(listed) == set(re.findall(r"\[[DK]\d+\]", code))


def test_published_lengths_and_batches():
    assert dcgan256.STEPS == 500_000 and dcgan256.SAMPLE_EVERY == 1000
    assert dcgan256.BATCH_SIZE == 16 and dcgan256.SHEET == (6, 8)
    assert shoe_gan.BATCH_SIZE == 64 and shoe_gan.FREEZE_RATIO == 0.7
    assert dcgan_pokemon.EPOCHS == 10_000 and dcgan_pokemon.SAMPLE_EVERY == "100 epochs"
    assert dcgan_pokemon.BATCH_SIZE == 64 and dcgan_pokemon.SHEET == (4, 4)
    assert dcgan_general.EPOCHS == 8000 and dcgan_general.BATCH_SIZE == 32
    steps = {name: data["steps"] for name, data in dcgan_grayscale.DATASETS.items()}
    assert steps == {"mnist": 16_000, "fashion_mnist": 9_000, "kmnist": 16_000}
    assert dcgan_grayscale.BATCH_SIZE == 32
