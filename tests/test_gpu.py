"""On a GPU: each script for a couple of steps, compiled by XLA, in both precisions."""

import functools
import json
import os
import subprocess
import sys

import pytest
from conftest import GPUS_GIVEN, ROOT, SCRIPTS

RUN = """
import importlib, json, sys
import utils
name, *argv = sys.argv[1:]
facts, script = {}, importlib.import_module(name)
train = script.train
def watched(gan, *positional, **named):
    train(gan, *positional, **named)
    facts["devices"] = sorted({weight.value.device for weight in gan.weights})
    facts["peak"] = utils.tf.config.experimental.get_memory_info("GPU:0")["peak"]
script.train = watched
script.main(argv)
print(json.dumps(facts))
"""


def python(code, *arguments):
    """Run code with the GPUs that the tests themselves hide."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    if GPUS_GIVEN is not None:
        environment["CUDA_VISIBLE_DEVICES"] = GPUS_GIVEN
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@functools.cache
def gpus():
    return int(python("import utils; print(len(utils.GPUS))").stdout)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [[], ["--bfloat16"]])
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_gpu_is_used(name, options, tmp_path):
    if not gpus():
        pytest.skip("no GPU")
    run = python(
        RUN, name, "--steps", 2, "--batch-size", 4, "--out", tmp_path, *options
    )
    assert run.stdout, run.stderr
    facts = json.loads(run.stdout.splitlines()[-1])
    assert facts["peak"] > 2**20
    assert all("GPU" in device for device in facts["devices"])
    assert (tmp_path / "generator.keras").exists()
