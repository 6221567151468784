"""What the tests share: small pictures of their own, and ways to run a script."""

import importlib
import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # exact repetition is promised on the CPU

import utils  # noqa: E402, F401  (before Keras, which it sets up)
import keras  # noqa: E402

QUICK = {  # the scripts, with options for a step in less than a second
    "dcgan_pokemon": ["--fakes", 5], "dcgan_grayscale": ["--img-size", 12, 16],
    "shoe_gan": [], "dcgan_general": ["--img-size", 37, 50, 3, "--depth", 2],
    "dcgan256": ["--batch-size", 1],
}  # fmt: skip
TINY = ["dcgan_general", "--img-size", 8, 8, 3, "--depth", 1, "--increment", 2]
LENGTH = ["--epochs", 1, "--steps-per-epoch", 2, "--batch-size", 4]


@pytest.fixture(autouse=True)
def seed_and_precision():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")


@pytest.fixture(params=QUICK)
def script(request):
    return importlib.import_module(request.param)


@pytest.fixture
def folder(tmp_path):
    """A folder of eleven different pictures of several sizes and kinds."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(11):
        picture = Image.new("RGB", (40 + 5 * i, 60 - 3 * i), (20 * i, 255 - 20 * i, 90))
        picture.save(folder / f"Picture {i}.{['jpg', 'PNG', 'webp', 'bmp'][i % 4]}")
    return folder


def make_gan(script, **options):
    """The script's model, with its default settings."""
    models = keras.Model.__subclasses__()
    (model,) = [model for model in models if model.__module__ == script.__name__]
    return model(**options)


def call(name, *options):
    """A script's main() within this process, of LENGTH if nothing else is said."""
    return importlib.import_module(name).main([*LENGTH, *options])


def start(script, *options, cwd=ROOT, stdin=None):
    """The same as a process, as users start it."""
    command = [sys.executable, *map(str, [script, *LENGTH, *options])]
    return Popen(command, cwd=cwd, stdin=stdin, stdout=PIPE, stderr=PIPE, text=True)


def pictures_for(gan, n=2):
    """n random pictures, uint8, of the shape that a gan wants."""
    shape = (n, *gan.discriminator.input_shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
