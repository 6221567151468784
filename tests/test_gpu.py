"""On a GPU: each script for a couple of steps, compiled by XLA, in both precisions."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPTS

# On Windows itself TensorFlow uses none.
NO_GPU = os.name == "nt" or not shutil.which("nvidia-smi")
RUN = """
import importlib, sys, utils
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
print(utils.tf.config.experimental.get_memory_info("GPU:0")["peak"])
"""


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU, reason="no GPU")
@pytest.mark.xdist_group("gpu")
@pytest.mark.parametrize("precision", [[], ["--bfloat16"]])
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_gpu_is_used(name, precision, tmp_path):
    options = ["--steps", "2", "--batch-size", "4", "--out", tmp_path, *precision]
    command = [sys.executable, "-c", RUN, name, *options]
    given = os.environ | {"CUDA_VISIBLE_DEVICES": os.environ["GPUS_GIVEN"]}
    run = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[-1]) > 2**20, "bytes of the GPU's memory"
    assert (tmp_path / "generator.keras").exists()
