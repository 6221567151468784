"""The networks are those of the sources: sizes, shapes, ranges, settings, comments."""

import ast
import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import dcgan256
import dcgan_general
import dcgan_grayscale
import dcgan_pokemon
import disk
import shoe_gan

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


def test_parameter_counts(script):
    counts = (
        script.build_generator().count_params(),
        script.build_discriminator().count_params(),
    )
    assert counts == PARAMETERS[script]


@pytest.mark.parametrize("depth", GENERAL_PARAMETERS)
def test_parameter_counts_of_the_general_script(depth):
    generator = dcgan_general.build_generator(depth=depth)
    discriminator = dcgan_general.build_discriminator(depth=depth)
    counts = generator.count_params(), discriminator.count_params()
    assert counts == GENERAL_PARAMETERS[depth]


def test_shapes_and_ranges(script):
    shape, latent_dim, (low, high) = PICTURES[script]
    generator, discriminator = script.build_generator(), script.build_discriminator()
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


def make_gan(script):
    """The script's model, with its default settings."""
    models = [value for value in vars(script).values() if isinstance(value, type)]
    (model,) = [value for value in models if issubclass(value, keras.Model)]
    return model()


def layers_of(network, kind):
    return [layer for layer in network.layers if isinstance(layer, kind)]


def test_layer_settings(script):
    """Kernels, strides, slopes, rates, momenta: what parameter counts cannot tell."""
    generator, discriminator = script.build_generator(), script.build_discriminator()
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


def test_order_of_layers():
    """Normalization, activation and dropout stand where the sources have them."""

    def kinds(network):
        return [type(layer).__name__ for layer in network.layers]

    block = ["Conv2D", "BatchNormalization", "LeakyReLU", "Dropout", "AveragePooling2D"]
    assert kinds(dcgan256.build_discriminator()) == [
        "GaussianNoise", "Conv2D", *block[2:], *block * 5,
        "Flatten", "Dense", "LeakyReLU", "Dense",
    ]  # fmt: skip
    noise = dcgan256.build_discriminator().layers[0]
    assert noise.stddev == 0.2
    up = ["Conv2D", "BatchNormalization", "ReLU", "UpSampling2D"]
    assert kinds(dcgan256.build_generator()) == [
        "Reshape", "Conv2DTranspose", *up * 5, "Conv2D", "UpSampling2D", "Conv2D",
        "Activation",
    ]  # fmt: skip
    block = ["Conv2D", "BatchNormalization", "LeakyReLU"]
    assert kinds(shoe_gan.build_discriminator()) == [
        "Conv2D", "LeakyReLU", *block * 3, "Conv2D", "Flatten"
    ]  # fmt: skip
    up = ["Conv2DTranspose", "BatchNormalization", "ReLU"]
    assert kinds(shoe_gan.build_generator()) == [
        "Reshape", *up * 4, "Conv2DTranspose", "Activation"
    ]  # fmt: skip
    up = ["BatchNormalization", "LeakyReLU", "Conv2DTranspose"]
    assert kinds(dcgan_pokemon.build_generator()) == [
        "Dense", "Reshape", *up * 3, "Activation"
    ]  # fmt: skip
    assert kinds(dcgan_pokemon.build_discriminator()) == [
        "Conv2D", "LeakyReLU", "Dropout", "Conv2D", "Flatten", "Dense"
    ]  # fmt: skip
    block = ["Conv2D", "BatchNormalization", "Dropout", "LeakyReLU"]
    assert kinds(dcgan_general.build_discriminator()) == [
        *block * 3,
        "Flatten",
        "Dense",
    ]
    up = ["Conv2DTranspose", "BatchNormalization", "ReLU"]
    assert kinds(dcgan_general.build_generator()) == [
        "Dense", *up[1:], "Reshape", "Dropout", *up * 2,
        "Conv2DTranspose", "Cropping2D", "Activation",
    ]  # fmt: skip
    up = ["Conv2DTranspose", "BatchNormalization", "LeakyReLU"]
    assert kinds(dcgan_grayscale.build_generator()) == [
        "Dense", "LeakyReLU", "Reshape", *up * 2, "Conv2D", "Activation"
    ]  # fmt: skip
    assert kinds(dcgan_grayscale.build_discriminator()) == [
        *["Conv2D", "LeakyReLU"] * 3, "Flatten", "Dense"
    ]  # fmt: skip


def spread(network, kind, weight="kernel"):
    """Standard deviations of the initial weights of all layers of a kind."""
    return [np.std(getattr(layer, weight)) for layer in layers_of(network, kind)]


def test_initial_weights():
    conv, dense = (
        (keras.layers.Conv2D, keras.layers.Conv2DTranspose),
        keras.layers.Dense,
    )
    norm = keras.layers.BatchNormalization
    for network in (shoe_gan.build_generator(), shoe_gan.build_discriminator()):
        assert spread(network, conv) == pytest.approx([0.02] * 5, rel=0.05)
        gammas = np.concatenate([layer.gamma for layer in layers_of(network, norm)])
        assert gammas.mean() == pytest.approx(1, abs=0.005)
        assert gammas.std() == pytest.approx(0.02, rel=0.15)
        assert all(layer.epsilon == 1e-5 for layer in layers_of(network, norm))
    generator = dcgan_grayscale.build_generator()
    assert spread(generator, (*conv, dense)) == pytest.approx([0.02] * 4, rel=0.05)
    discriminator = dcgan_grayscale.build_discriminator()
    assert spread(discriminator, conv) == pytest.approx([0.02] * 3, rel=0.05)
    glorot = np.sqrt(2 / (4 * 4 * 256 + 1))
    assert spread(discriminator, dense) == pytest.approx([glorot], rel=0.1)
    # Glorot, Keras' default, elsewhere
    assert spread(dcgan_pokemon.build_generator(), dense) == pytest.approx(
        [np.sqrt(2 / (100 + 8 * 8 * 256))], rel=0.05
    )


def test_no_two_layers_start_from_the_same_numbers(script):
    """An initializer object that two layers share would draw the same numbers twice."""
    starts = set()
    for network in (script.build_generator(), script.build_discriminator()):
        for variable in network.trainable_variables:
            values = np.ravel(variable)[:8]
            if np.std(values) > 0:  # not biases, betas, and gammas of 1
                assert tuple(values / np.std(values)) not in starts, variable.path
                starts.add(tuple(values / np.std(values)))
    assert len(starts) >= 5


SIZES = [(7, 7, 1), (33, 50, 3), (64, 64, 4), (200, 180, 3)]


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("kernel", [(3, 3), (4, 3), (5, 5)])
@pytest.mark.parametrize("img_size", SIZES)
def test_general_builds_the_right_size_or_says_why_not(img_size, kernel, stride):
    built = 0
    for depth in (1, 3, 5):
        options = dict(img_size=img_size, kernel_size=kernel, stride=stride)
        options |= dict(depth=depth, increment=2)
        try:
            generator = dcgan_general.build_generator(**options)
        except disk.InputError as error:
            assert "depth" in str(error) and "\n" not in str(error)
            continue
        assert generator.output_shape == (None, *img_size)
        discriminator = dcgan_general.build_discriminator(**options)
        assert discriminator.output_shape == (None, 1)
        built += 1
    if kernel == (3, 3) and stride == (2, 2) and min(img_size[:2]) > 60:
        assert built == 3, "the source's kernel and stride fit nearly every depth"


def test_general_says_too_deep():
    with pytest.raises(disk.InputError, match="smaller depth"):
        dcgan_general.build_generator(img_size=(64, 64, 3), depth=7)


@pytest.mark.parametrize("size", [(4, 4), (28, 28), (32, 20)])
def test_grayscale_sizes(size):
    assert dcgan_grayscale.build_generator(*size).output_shape == (None, *size, 1)
    assert dcgan_grayscale.build_discriminator(*size).output_shape == (None, 1)


SHAPE = re.compile(r"\(B(?:, \d+)+\)")


def shapes_in(text):
    return [tuple(map(int, re.findall(r"\d+", shape))) for shape in SHAPE.findall(text)]


@pytest.mark.parametrize("builder", ["build_generator", "build_discriminator"])
def test_shape_comments_are_true(script, builder):
    """The comment at the end of a layer's line is the shape of that layer's output."""
    function = getattr(script, builder)
    lines = inspect.getsource(function).splitlines()
    network = function()
    outputs = [layer.output.shape[1:] for layer in network.layers]
    shown = [shape for line in lines for shape in shapes_in(line.partition("#")[2])]
    if script is dcgan_general:  # loops: its comments must come in the networks' order
        rest = iter(outputs)
        assert shown and all(any(shape == out for out in rest) for shape in shown)
    else:
        tree = ast.parse("\n".join(lines))
        layers = next(
            node for node in ast.walk(tree) if isinstance(node, ast.List)
        ).elts
        checked = 0
        for layer, output in zip(layers[1:], outputs, strict=True):
            shapes = shapes_in(lines[layer.end_lineno - 1].partition("#")[2])
            assert shapes in ([], [output]), ast.unparse(layer)
            checked += len(shapes)
        assert checked == len(shown)
    resolutions = {output[:2] for output in outputs if len(output) == 3}
    assert resolutions <= {shape[:2] for shape in shown} | {network.output_shape[1:3]}


def test_deviations_and_oddities_are_tagged_at_their_lines(script):
    """Every [D1], [K1] ... of the docstring stands again in the code, and none else."""
    source = Path(script.__file__).read_text("utf-8")
    tags = re.compile(r"\[[DK]\d+\]")
    listed = re.findall(r"^(\[[DK]\d+\])", script.__doc__, re.MULTILINE)
    assert listed and len(set(listed)) == len(listed)
    assert set(listed) == set(tags.findall(source.replace(script.__doc__, "")))
