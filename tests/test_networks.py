"""The networks are those of the sources: sizes, shapes, ranges, settings, comments."""

import ast
import inspect
import re
from unittest import mock

import keras
import numpy as np
import pytest
from conftest import make_gan

import dcgan256
import dcgan_general
import dcgan_grayscale
import dcgan_pokemon
import shoe_gan
import sample

MAINS = {  # what main() asks of load_images() and train() if no option is given
    dcgan256: {"shape": (256, 256, 3), "steps": 500_000, "batch_size": 8,
               "sheet_size": (6, 8), "sample_every": 1000, "latent": "uniform",
               "value_range": (0, 1), "with_replacement": True},
    shoe_gan: {"shape": (64, 64, 3), "epochs": 500, "batch_size": 64,
               "sheet_size": (8, 8), "sample_every": "1 epoch", "value_range": (-1, 1)},
    dcgan_pokemon: {"shape": (64, 64, 3), "epochs": 10_000, "batch_size": 64,
                    "sheet_size": (4, 4), "sample_every": "100 epochs"},
    dcgan_grayscale: {"shape": (28, 28, 1), "steps": 16_000, "batch_size": 32,
                      "sheet_size": (8, 8), "sample_every": 500},
    dcgan_general: {"shape": (150, 150, 3), "epochs": 8000, "batch_size": 32,
                    "sheet_size": (5, 5), "sample_every": "10 epochs",
                    "latent": "uniform"},
}  # fmt: skip


def networks(script, **options):
    gan = make_gan(script, **options)
    return gan.generator, gan.discriminator


@pytest.mark.parametrize(("script", "options", "g_count", "d_count"), [
    (dcgan256, {}, 18_450_963, 920_081),
    (shoe_gan, {}, 3_578_624, 2_767_360),
    (dcgan_pokemon, {}, 2_668_992, 340_865),
    (dcgan_grayscale, {}, 2_212_993, 2_106_113),
    (dcgan_general, {}, 7_245_251, 110_209),
    (dcgan_general, {"depth": 4}, 2_940_515, 199_585),
    (dcgan_general, {"depth": 5}, 1_404_579, 375_905),
    (dcgan_general, {"depth": 6}, 1_317_635, 651_073),
    (dcgan_general, {"depth": 8}, 2_336_931, 1_555_169),  # from 2×2, cropped from 512
])  # fmt: skip
def test_parameter_counts(script, options, g_count, d_count):
    """Those of the sources, not read off our own networks."""
    generator, discriminator = networks(script, **options)
    assert generator.count_params() == g_count
    assert discriminator.count_params() == d_count
    assert generator.output_shape == discriminator.input_shape


def test_mixed_precision_keeps_logits_and_pictures_in_float32(script):
    keras.config.set_dtype_policy("mixed_bfloat16")
    generator, discriminator = networks(script)
    assert {layer.compute_dtype for layer in generator.layers[:-1]} == {"bfloat16"}
    last = max(i for i, layer in enumerate(discriminator.layers) if layer.weights)
    for layer in (generator.layers[-1], *discriminator.layers[last:]):
        assert layer.compute_dtype == "float32"


def test_latent_vectors(script):
    """Standard normal or uniform in [-1, 1], as sample.py draws them."""
    latent = MAINS[script].get("latent", "normal")
    z = np.asarray(make_gan(script).sample_z(200, seed=3))
    if script in (dcgan256, dcgan_general):
        wanted = keras.random.uniform(z.shape, -1, 1, seed=3)
    else:
        wanted = keras.random.normal(z.shape, seed=3)
    for drawn in (z, sample.sample_z(latent, *z.shape, seed=3)):
        assert np.array_equal(drawn, wanted)


TOLD = {  # of a layer, by its kind
    "Conv2D": "Conv {0.filters} {0.kernel_size[0]}/{0.strides[0]}",
    "Conv2DTranspose": "Deconv {0.filters} {0.kernel_size[0]}/{0.strides[0]}",
    "BatchNormalization": "BN {0.momentum} {0.epsilon}",
    "LeakyReLU": "LReLU {0.negative_slope:g}", "Dropout": "Dropout {0.rate}",
    "GaussianNoise": "Noise {0.stddev}", "UpSampling2D": "Up {0.interpolation}",
    "Dense": "Dense {0.units}", "AveragePooling2D": "Pool", "Cropping2D": "Crop",
}  # fmt: skip


def told(layer):
    """The kind of a layer, with what parameter counts cannot tell of it."""
    kind = type(layer).__name__
    text = TOLD.get(kind, kind).format(layer)
    if (activation := getattr(layer, "activation", None)) is not None:
        text += f" {activation.__name__}".replace(" linear", "")
    for start in ("kernel_initializer", "gamma_initializer"):
        start = getattr(layer, start, None)
        if isinstance(start, keras.initializers.RandomNormal):
            text += f" ~{start.mean:g}±{start.stddev:g}"
        elif start and type(start).__name__ not in ("GlorotUniform", "Ones"):
            text += f" {type(start).__name__}"
    return text


def described(gan):
    """Both networks, layer by layer, as in NETWORKS."""
    networks = gan.generator, gan.discriminator
    return tuple(", ".join(map(told, network.layers)) for network in networks)


def blocks(pattern, *filters):
    return "".join(f"{pattern.format(n)}, " for n in filters)


UP_256 = "Conv {} 3/1, BN 0.7 0.001, ReLU, Up nearest"
DOWN_256 = "Conv {} 3/1, BN 0.7 0.001, LReLU 0.2, Dropout 0.25, Pool"
SHOE = "~0±0.02, BN 0.9 1e-05 ~1±0.02"
NETWORKS = {  # kernel/stride, momentum, epsilon, slope, rate, ~mean±deviation at start
    dcgan256: (
        "Reshape, Deconv 256 4/1 relu, "
        + blocks(UP_256.replace("3/1", "4/1"), 256, 128) + blocks(UP_256, 64, 32, 16)
        + "Conv 8 3/1 relu, Up nearest, Conv 3 3/1, Activation sigmoid",
        "Noise 0.2, Conv 8 3/1, LReLU 0.2, Dropout 0.25, Pool, "
        + blocks(DOWN_256, 16, 32, 64, 128, 256)
        + "Flatten, Dense 128, LReLU 0.2, Dense 1",
    ),
    shoe_gan: (
        f"Reshape, Deconv 512 4/1 {SHOE}, ReLU, "
        + blocks(f"Deconv {{}} 4/2 {SHOE}, ReLU", 256, 128, 64)
        + "Deconv 3 4/2 ~0±0.02, Activation tanh",
        "Conv 64 4/2 ~0±0.02, LReLU 0.2, "
        + blocks(f"Conv {{}} 4/2 {SHOE}, LReLU 0.2", 128, 256, 512)
        + "Conv 1 4/1 ~0±0.02, Flatten",
    ),
    dcgan_pokemon: (
        "Dense 16384, Reshape, "
        + blocks("BN 0.99 0.001, LReLU 0.3, Deconv {} 5/2", 128, 64, 3)
        + "Activation tanh",
        "Conv 64 5/1, LReLU 0.3, Dropout 0.3, Conv 128 5/2, Flatten, Dense 1",
    ),
    dcgan_grayscale: (
        "Dense 6272 ~0±0.02, LReLU 0.2, Reshape, "
        + blocks("Deconv {} 4/2 ~0±0.02, BN 0.99 0.001, LReLU 0.2", 256, 256)
        + "Conv 1 4/1 ~0±0.02, Activation tanh",
        blocks("Conv {} 4/2 ~0±0.02, LReLU 0.2", 256, 256, 256) + "Flatten, Dense 1",
    ),
    dcgan_general: (
        "Dense 34656, BN 0.9 0.001, ReLU, Reshape, Dropout 0.4, "
        + blocks("Deconv {} 3/2, BN 0.9 0.001, ReLU", 96, 64)
        + "Deconv 3 3/2, Crop, Activation tanh",
        blocks("Conv {} 3/2, BN 0.9 0.001, Dropout 0.4, LReLU 0.2", 32, 64, 96)
        + "Flatten, Dense 1",
    ),
}  # fmt: skip


def test_no_two_layers_start_from_the_same_numbers(script):
    """An initializer object that two layers share would draw the same numbers twice."""
    variables = [v for network in networks(script) for v in network.trainable_variables]
    starts = [np.ravel(variable)[:8] for variable in variables]
    starts = [tuple(x / np.std(x)) for x in starts if np.std(x) > 0]  # not constant
    assert len(set(starts)) == len(starts) >= 5


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("img_size", [(7, 7, 1), (33, 50, 3), (200, 180, 3)])
def test_general_builds_any_size(img_size, stride):
    for kernel, depth in (((4, 3), 1), ((3, 3), 3), ((5, 5), 3)):
        generator = dcgan_general.build_generator(
            2, img_size, kernel, stride, dropout=0, depth=depth, increment=2
        )
        assert generator.output_shape == (None, *img_size)
        crops = generator.layers[-2].cropping
        assert all(end - start in (0, 1) for start, end in crops)


def shapes_after(line):
    """(4, 4, 256) for each (B, 4, 4, 256) in the comment at the end of a line."""
    found = re.findall(r"\(B, ([\d, ]+)\)", line.partition("#")[2])
    return [tuple(map(int, shape.split(","))) for shape in found]


def test_shape_comments_are_true(script):
    """The comment at the end of a layer's line is the shape of that layer's output."""
    for network in networks(script):
        builder = getattr(script, f"build_{network.name}")
        lines = inspect.getsource(builder).splitlines()
        outputs = [layer.output.shape[1:] for layer in network.layers]
        shown = [shape for line in lines for shape in shapes_after(line)]
        if script is dcgan_general:  # loops: its comments come in the networks' order
            rest = iter(outputs)
            assert shown and all(any(shape == out for out in rest) for shape in shown)
        else:
            nodes = ast.walk(ast.parse("\n".join(lines)))
            built = next(node for node in nodes if isinstance(node, ast.List)).elts[1:]
            for layer, output in zip(built, outputs, strict=True):
                shapes = shapes_after(lines[layer.end_lineno - 1])
                assert shapes in ([], [output]), ast.unparse(layer)
        resolutions = {output[:2] for output in outputs if len(output) == 3}
        resolutions.discard(network.output_shape[1:3])
        assert resolutions <= {shape[:2] for shape in shown}


def test_deviations_and_oddities_are_tagged_at_their_lines(script):
    """Every [D1], [K1] ... of the list at the end stands in the code, and none else."""
    source = inspect.getsource(script)
    code, listing = source.replace(script.__doc__, "").rsplit("# %% [markdown]", 1)
    listed = re.findall(r"(?m)^# - (\[[DK]\d+\])", listing)
    assert listed and len(set(listed)) == len(listed)
    assert set(listed) == set(re.findall(r"\[[DK]\d+\]", code))


def asked(script, *options):
    """What main() gives to train() and load_images(), which do nothing."""
    with mock.patch.object(script, "train") as train:
        with mock.patch.object(script, "load_images") as load:
            script.main(options)
    (gan, _, args), wanted = train.call_args
    (_, shape, *source), _ = load.call_args
    lengths = {"epochs": args.epochs, "steps": args.steps}
    wanted |= {name: length for name, length in lengths.items() if length}
    return gan, source, shape, wanted


def test_what_main_asks_for(script):
    """The class as it is by default, and pictures of the shape of its networks."""
    (gan, _, shape, wanted), default = asked(script), make_gan(script)
    assert wanted | {"shape": shape} == MAINS[script]
    assert gan.generator.output_shape[1:] == gan.discriminator.input_shape[1:] == shape
    assert described(gan) == described(default) == NETWORKS[script]
    for which in ("g_optimizer", "d_optimizer"):
        one, other = (getattr(model, which).get_config() for model in (gan, default))
        assert one == other | {"name": one["name"]}
    if script is dcgan_pokemon:
        assert gan.batch_size == 64  # latent vectors
    gan, *_, wanted = asked(script, "--seed", 5, "--batch-size", 6)
    assert int(gan.seed_generator.state[0]) == 5
    assert wanted["batch_size"] == {dcgan_pokemon: 64, dcgan256: 3}.get(script, 6)


def test_options_reach_the_training():
    experiments = (1, 50, 0, 1), (2, 100, -1, 1), (3, 100, -1, 0.9)
    for number, epochs, low, label in experiments:
        gan, *_, wanted = asked(shoe_gan, "--experiment", number)
        assert (wanted["epochs"], wanted["value_range"]) == (epochs, (low, 1))
        assert (gan.real_label, gan.freezing) == (label, False)
    options = ["--real-batch-size", 1, "--batch-size", 9, "--bfloat16"]
    gan, *_, wanted = asked(dcgan_pokemon, *options)
    assert (wanted["batch_size"], gan.batch_size) == (1, 9)
    assert gan.generator.layers[0].compute_dtype == "bfloat16"
    gan, _, shape, _ = asked(dcgan_grayscale, "--img-size", 12, 16)
    assert gan.generator.output_shape[1:] == shape == (12, 16, 1)
    options = "--img-size 37 50 1 --kernel-size 4 3 --stride 3 2 --depth 2"
    options += " --increment 5 --dropout 0.1 --input-size 9 --batch-size 3"
    options += " --learning-rate 0.003 --d-learning-rate 0.1"
    gan, _, shape, wanted = asked(dcgan_general, *options.split())
    assert described(gan) == (
        "Dense 650, BN 0.9 0.001, ReLU, Reshape, Dropout 0.1, "
        "Deconv 10 4/3, BN 0.9 0.001, ReLU, Deconv 1 4/3, Crop, Activation tanh",
        blocks("Conv {} 4/3, BN 0.9 0.001, Dropout 0.1, LReLU 0.2", 5, 10)
        + "Flatten, Dense 1",
    )
    for layer in gan.generator.layers + gan.discriminator.layers:
        if hasattr(layer, "kernel_size"):
            assert (layer.kernel_size, layer.strides) == ((4, 3), (3, 2))
    assert gan.discriminator.input_shape[1:] == shape == (37, 50, 1)
    assert (wanted["batch_size"], gan.generator.input_shape[1]) == (3, 9)
    rates = [gan.g_optimizer.learning_rate, gan.d_optimizer.learning_rate]
    assert np.allclose(rates, [0.003, 0.1])


def test_data_sets_that_are_downloaded(monkeypatch, tmp_path):
    """Their training pictures, for as many steps as published."""
    parts = [np.full((3, 28, 28), i) for i in range(4)]
    for module in (keras.datasets.mnist, keras.datasets.fashion_mnist):
        monkeypatch.setattr(module, "load_data", lambda: (parts[:2], parts[2:]))
    np.savez(tmp_path / "kmnist.npz", parts[0])
    monkeypatch.setattr(keras.utils, "get_file", lambda origin: tmp_path / "kmnist.npz")
    for name, steps in (("mnist", 16), ("fashion_mnist", 9), ("kmnist", 16)):
        _, (source,), _, wanted = asked(dcgan_grayscale, "--dataset", name)
        assert wanted["steps"] == 1000 * steps and np.array_equal(source, parts[0])
