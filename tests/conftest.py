"""Make the scripts importable, and give the tests small pictures of their own."""

import importlib
import os
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

GPUS_GIVEN = os.environ.get("CUDA_VISIBLE_DEVICES")  # for the tests marked gpu
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # exact repetition is promised on the CPU

import utils  # noqa: E402, F401, I001  (first: keeps TensorFlow's start quiet)

import keras  # noqa: E402

SCRIPTS = ["dcgan256", "dcgan_general", "dcgan_grayscale", "dcgan_pokemon", "shoe_gan"]


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU, and is skipped without one")


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(params=SCRIPTS)
def script(request):
    """Each of the five scripts, imported."""
    return importlib.import_module(request.param)


@pytest.fixture
def folder(tmp_path):
    """A folder of eleven different pictures of several sizes, kinds and depths."""
    for i in range(11):
        size = (40 + 5 * i, 60 - 3 * i)
        picture = Image.new("RGB", size, (20 * i, 255 - 20 * i, 90))
        ImageDraw.Draw(picture).ellipse((4, 4, 30, 20), "white", "black")
        path = tmp_path / "pictures" / ["", "a", "a/b"][i % 3]
        path.mkdir(parents=True, exist_ok=True)
        picture.save(path / f"Picture {i}.{['jpg', 'PNG', 'webp', 'bmp'][i % 4]}")
    return tmp_path / "pictures"
