"""On a GPU: each script for a couple of steps, compiled by XLA, in both precisions."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import GPUS_GIVEN, ROOT, SCRIPTS

# On Windows itself TensorFlow uses none.
NO_GPU = os.name == "nt" or not shutil.which("nvidia-smi")
RUN = """
import importlib, sys, utils
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
print(utils.tf.config.experimental.get_memory_info("GPU:0")["peak"])
"""


def python(*arguments):
    """Run Python with the GPUs that the tests themselves hide."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    if GPUS_GIVEN is not None:
        environment["CUDA_VISIBLE_DEVICES"] = GPUS_GIVEN
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU, reason="no GPU")
@pytest.mark.xdist_group("gpu")
@pytest.mark.parametrize("precision", [[], ["--bfloat16"]])
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_gpu_is_used(name, precision, tmp_path):
    options = ["--steps", 2, "--batch-size", 4, "--out", tmp_path, *precision]
    run = python(RUN, name, *options)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[-1]) > 2**20, "bytes of the GPU's memory"
    assert (tmp_path / "generator.keras").exists()
