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
GENERAL_PARAMETERS = {  # by depth
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


def test_mixed_precision_keeps_logits_and_pictures_in_float32(script):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        generator, discriminator = networks(script)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in generator.layers[:-1]} == {"bfloat16"}
    last = max(i for i, layer in enumerate(discriminator.layers) if layer.weights)
    for layer in (generator.layers[-1], *discriminator.layers[last:]):
        assert layer.compute_dtype == "float32"
    assert {weight.dtype for weight in generator.trainable_weights} == {"float32"}


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


def described(network):
    """Kinds of layers, with what parameter counts cannot tell of them."""
    short = {"BatchNormalization": "BN", "Conv2DTranspose": "Deconv", "Conv2D": "Conv",
             "LeakyReLU": "LReLU", "UpSampling2D": "Up", "AveragePooling2D": "Pool",
             "Cropping2D": "Crop", "GaussianNoise": "Noise"}  # fmt: skip
    told = {
        "Conv": "{0.filters} {0.kernel_size[0]}/{0.strides[0]}",
        "BN": "{0.momentum}",
        "LReLU": "{0.negative_slope:.1f}",
        "Noise": "{0.stddev}",
        "Dropout": "{0.rate}",
        "Dense": "{0.units}",
    }
    told["Deconv"] = told["Conv"]  # fmt: skip
    for layer in network.layers:
        kind = type(layer).__name__
        kind = short.get(kind, kind)
        yield " ".join([kind, told.get(kind, "").format(layer)]).strip()


def blocks(pattern, *filters):
    return "".join(f"{pattern.format(n)}, " for n in filters)


UP_256 = "Conv {} 3/1, BN 0.7, ReLU, Up"
DOWN_256 = "Conv {} 3/1, BN 0.7, LReLU 0.2, Dropout 0.25, Pool"
NETWORKS = {  # kernel/stride, momentum, slope, rate
    dcgan256: (
        "Reshape, Deconv 256 4/1, "
        + blocks(UP_256.replace("3/1", "4/1"), 256, 128) + blocks(UP_256, 64, 32, 16)
        + "Conv 8 3/1, Up, Conv 3 3/1, Activation",
        "Noise 0.2, Conv 8 3/1, LReLU 0.2, Dropout 0.25, Pool, "
        + blocks(DOWN_256, 16, 32, 64, 128, 256)
        + "Flatten, Dense 128, LReLU 0.2, Dense 1",
    ),
    shoe_gan: (
        "Reshape, Deconv 512 4/1, BN 0.9, ReLU, "
        + blocks("Deconv {} 4/2, BN 0.9, ReLU", 256, 128, 64)
        + "Deconv 3 4/2, Activation",
        "Conv 64 4/2, LReLU 0.2, "
        + blocks("Conv {} 4/2, BN 0.9, LReLU 0.2", 128, 256, 512)
        + "Conv 1 4/1, Flatten",
    ),
    dcgan_pokemon: (
        "Dense 16384, Reshape, "
        + blocks("BN 0.99, LReLU 0.3, Deconv {} 5/2", 128, 64, 3) + "Activation",
        "Conv 64 5/1, LReLU 0.3, Dropout 0.3, Conv 128 5/2, Flatten, Dense 1",
    ),
    dcgan_grayscale: (
        "Dense 6272, LReLU 0.2, Reshape, "
        + blocks("Deconv {} 4/2, BN 0.99, LReLU 0.2", 256, 256)
        + "Conv 1 4/1, Activation",
        blocks("Conv {} 4/2, LReLU 0.2", 256, 256, 256) + "Flatten, Dense 1",
    ),
    dcgan_general: (
        "Dense 34656, BN 0.9, ReLU, Reshape, Dropout 0.4, "
        + blocks("Deconv {} 3/2, BN 0.9, ReLU", 96, 64)
        + "Deconv 3 3/2, Crop, Activation",
        blocks("Conv {} 3/2, BN 0.9, Dropout 0.4, LReLU 0.2", 32, 64, 96)
        + "Flatten, Dense 1",
    ),
}  # fmt: skip


def test_layers_and_their_settings_in_the_order_of_the_sources(script):
    for network, expected in zip(networks(script), NETWORKS[script]):
        assert ", ".join(described(network)) == expected


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
@pytest.mark.parametrize("img_size", [(7, 7, 1), (33, 50, 3), (200, 180, 3)])
def test_general_builds_any_size(img_size, stride):
    for kernel, depth in (((4, 3), 1), ((3, 3), 3), ((5, 5), 3)):
        options = {"img_size": img_size, "kernel_size": kernel, "stride": stride}
        generator, discriminator = networks(
            dcgan_general, depth=depth, increment=2, **options
        )
        assert generator.output_shape == (None, *img_size)
        assert discriminator.output_shape == (None, 1)


def test_general_is_as_deep_as_a_crop_allows():
    """At 150×150 and depth 7 the source builds 2 · 2⁷ = 256 pixels, and crops them."""
    generator, _ = networks(dcgan_general, depth=7)
    assert generator.layers[0].units == 2 * 2 * 7 * 32
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
    assert dcgan_pokemon.REAL_BATCH_SIZE == 64 and shoe_gan.SHEET == (8, 8)
    assert dcgan_general.EPOCHS == 8000 and dcgan_general.BATCH_SIZE == 32
    steps = {name: data["steps"] for name, data in dcgan_grayscale.DATASETS.items()}
    assert steps == {"mnist": 16_000, "fashion_mnist": 9_000, "kmnist": 16_000}
    assert dcgan_grayscale.BATCH_SIZE == 32 and dcgan_grayscale.SAMPLE_EVERY == 500
