"""What the tests share: small pictures of their own, and ways to run a script."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
# For the tests marked gpu; set once, as xdist's workers inherit the -1 below.
os.environ.setdefault("GPUS_GIVEN", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # exact repetition is promised on the CPU

import utils  # noqa: E402, F401, I001  (before keras: chooses its backend)
import keras  # noqa: E402

SCRIPTS = ["dcgan_pokemon", "dcgan_grayscale", "shoe_gan", "dcgan_general", "dcgan256"]
QUICK = {  # options for a step in less than a second
    "dcgan_pokemon": ["--batch-size", 4],
    "dcgan_grayscale": ["--img-size", 12, 16, "--batch-size", 4],
    "shoe_gan": ["--batch-size", 4],
    "dcgan_general": ["--img-size", 37, 50, 3, "--depth", 2, "--batch-size", 4],
    "dcgan256": ["--batch-size", 2],
}


@pytest.fixture(autouse=True)
def seed_and_precision():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")


@pytest.fixture(params=SCRIPTS)
def script(request):
    """Each of the five scripts, imported."""
    return importlib.import_module(request.param)


@pytest.fixture
def folder(tmp_path):
    """A folder of eleven different pictures of several sizes and kinds."""
    for i in range(11):
        size = (40 + 5 * i, 60 - 3 * i)
        picture = Image.new("RGB", size, (20 * i, 255 - 20 * i, 90))
        ImageDraw.Draw(picture).ellipse((4, 4, 30, 20), "white", "black")
        path = tmp_path / "pictures" / ["", "a", "a/b"][i % 3]
        path.mkdir(parents=True, exist_ok=True)
        picture.save(path / f"Picture {i}.{['jpg', 'PNG', 'webp', 'bmp'][i % 4]}")
    return tmp_path / "pictures"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of two steps of dcgan_general on toys, from uniform z and seed 3."""
    out = tmp_path_factory.mktemp("trained") / "run"
    options = ["--img-size", 28, 28, 1, "--depth", 1, "--batch-size", 4, "--seed", 3]
    call("dcgan_general", *options, "--steps", 2, "--out", out)
    return out


def make_gan(script, **options):
    """The script's model, with its default settings."""
    models = [value for value in vars(script).values() if isinstance(value, type)]
    (model,) = [value for value in models if issubclass(value, keras.Model)]
    return model(**options)


def build_optimizers(gan):
    gan.g_optimizer.build(gan.generator.trainable_variables)
    gan.d_optimizer.build(gan.discriminator.trainable_variables)


def start(name, *options, cwd=ROOT):
    """A script as its users start it: a process."""
    command = [sys.executable, f"{name}.py", *map(str, options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, cwd=cwd, **pipes)


def run(name, *options, status=0, cwd=ROOT):
    """Output and errors of a script that must end with the status."""
    process = start(name, *options, cwd=cwd)
    try:
        out, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == status, out + errors
    return out, errors


def call(name, *options):
    """What a script prints, within this process, which saves the start of another."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        importlib.import_module(name).main(options)
    return out.getvalue()


def refusal(name, *options):
    """The one line that a script prints instead, before it ends with status 2."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        with pytest.raises(SystemExit, match="^2$"):
            call(name, *options)
    assert errors.getvalue().count("\n") == 1, errors.getvalue()
    return errors.getvalue()


def wait_for(path, process):
    """Until the running script has written the file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def assert_same_run(first, second, stops=0):
    """Weights, moments, random state, losses and sheets are equal bit for bit.

    Each stop of the second may have left a row of losses and a sheet more.
    """
    with np.load(first / "checkpoint.npz") as one:
        with np.load(second / "checkpoint.npz") as other:
            assert len(one.files) > 20 and one.files == other.files
            for key in set(one.files) - {"settings", "rows"}:
                assert np.array_equal(one[key], other[key]), key
            assert {*map(tuple, one["rows"])} <= {*map(tuple, other["rows"])}
    sheets = [path.name for path in (first / "samples").iterdir()]
    for name in sheets:
        drawn = [(out / "samples" / name).read_bytes() for out in (first, second)]
        assert drawn[0] == drawn[1], name
    assert len(list((second / "samples").iterdir())) <= len(sheets) + stops
    rows, others = ((out / "losses.csv").read_text().split() for out in (first, second))
    assert [row for row in others if row in rows] == rows
    assert len(others) <= len(rows) + stops
