"""The contenders of the benchmark compute the same as the scripts. (See check.py.)"""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, SCRIPTS

sys.path.append(str(ROOT / "benchmarks"))
import check  # noqa: E402
import classic  # noqa: E402
import speed  # noqa: E402


def alike(ours, theirs, before, tolerance=0.01):
    """Whether two lists of weights moved equally far, and in the same direction."""
    moves = [np.linalg.norm(a - b) for a, b in zip(ours, before)]
    for a, b, start, move in zip(ours, theirs, before, moves):
        assert a.shape == b.shape == start.shape
        # Biases before batch normalization have gradient 0, but for rounding.
        assert np.linalg.norm(a - b) <= tolerance * move + 1e-5 * max(moves)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_peer_in_pytorch_takes_the_same_step(name, lean):
    pytest.importorskip("torch")
    gan, images, z = check.stage(name)
    before = check.in_torch_order(name, gan)
    losses, after = check.ours(gan, images, z)
    options = {"lean": lean, "channels_last": lean}
    peer_losses, theirs = check.pytorch(name, gan, images, z, **options)
    assert peer_losses == pytest.approx(losses, rel=1e-4)
    for variable, value in zip(check.variables(gan), after):
        variable.assign(value)
    ours = check.in_torch_order(name, gan)
    # PyTorch's running variance is the unbiased one, which a batch of 4 shows.
    kept = [i for i, name in enumerate(check.names(gan)) if name != "moving_variance"]
    alike(*([some[i] for i in kept] for some in (ours, theirs, before)))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_peer_in_pytorch_has_as_many_parameters(name):
    pytest.importorskip("torch")
    import torch_peers

    gan, game = check.stage(name)[0], torch_peers.GAMES[name]()
    for ours, theirs in ((gan.generator, game.g), (gan.discriminator, game.d)):
        count = sum(
            tensor.numel() for tensor in theirs.state_dict().values() if tensor.ndim
        )
        assert count == ours.count_params()


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_classic_loop_takes_the_step_of_the_tutorials(name):
    """predict(), D on real and on fakes, G through a D that stays where it is."""
    game = classic.Classic(name)
    gan = game.gan
    check.calm(game.generator)
    check.calm(game.discriminator)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    game.discriminator.compile(
        keras.optimizers.SGD(check.RATE), loss, jit_compile=False
    )
    game.combined.compile(keras.optimizers.SGD(check.RATE), loss, jit_compile=False)
    rng = np.random.default_rng(0)
    shape, latent_dim = (
        game.discriminator.input_shape[1:],
        game.generator.input_shape[1],
    )
    images = rng.integers(0, 256, (4, *shape), dtype=np.uint8)
    z = [rng.uniform(-1, 1, (n, latent_dim)).astype("float32") for n in (4, 8)]
    z[1] = z[1] if name == "dcgan256" else z[1][:4]
    if name in ("shoe_gan", "dcgan_pokemon", "dcgan_general"):
        z[1] = z[0]  # G learns on the z of D's step
    numbers = iter([z[0], z[1]])
    game.sample_z = lambda n: next(numbers)
    game.labels = lambda n, label: np.full((n, 1), np.mean(label), np.float32)
    game.rng = type("Never", (), {"random": staticmethod(np.ones)})  # no mirroring

    before = check.weights(gan)
    losses = game.step(images)
    after = check.weights(gan)
    for variable, value in zip(check.variables(gan), before):
        variable.assign(value)
    expected = by_hand(name, gan, images, z)
    assert [float(loss) for loss in losses] == pytest.approx(expected, rel=1e-4)
    alike(check.weights(gan), after, before)


def by_hand(name, gan, images, z):
    low, high = (0, 1) if name == "dcgan256" else (-1, 1)
    real = tf.constant(images / np.float32(255) * (high - low) + low, tf.float32)
    label, fake_label = (float(np.mean(some)) for some in classic.LABELS[name])
    fake = gan.generator(z[0], training=False)

    def descend(network, parts):
        with tf.GradientTape() as tape:
            total = sum(
                tf.reduce_mean(
                    tf.nn.sigmoid_cross_entropy_with_logits(
                        tf.fill(logits.shape, target), logits
                    )
                )
                for logits, target in ((make(), target) for make, target in parts)
            ) / len(parts)
        variables = network.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(total, variables)):
            variable.assign_sub(check.RATE * gradient)
        return float(total)

    def judged(x):
        return lambda: gan.discriminator(x, training=True)

    if name == "dcgan_grayscale":  # D has no batch normalization: the parts are one
        d_loss = descend(
            gan.discriminator, [(judged(real), label), (judged(fake), fake_label)]
        )
    else:
        d_loss = descend(gan.discriminator, [(judged(real), label)])
        d_loss += descend(gan.discriminator, [(judged(fake), fake_label)])

    def through():
        return judged(gan.generator(z[1], training=True))()

    return d_loss, descend(gan.generator, [(through, label)])


def test_operations_are_those_counted_by_hand():
    """dcgan_pokemon, batch 1: G's and D's multiplications, layer by layer."""
    g = [100 * 16384, 64 * 25 * 256 * 128, 256 * 25 * 128 * 64, 1024 * 25 * 64 * 3]
    d = [4096 * 25 * 3 * 64, 1024 * 25 * 64 * 128, 131072]
    passes = 3 * sum(g) - g[0] + 7 * sum(d) - 2 * d[0]
    assert speed.operations("dcgan_pokemon", 1) == 2 * passes


@pytest.mark.parametrize("contender", ["ours", "classic"])
def test_a_worker_takes_steps_when_told_to(contender, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((8, 28, 28, 1), np.uint8))
    options = ["--images", tmp_path / "images.npy", "--batch-size", 2]
    if contender == "ours":
        options += ["--out", tmp_path / "out"]
    worker = speed.Worker(contender, "dcgan_grayscale", *options)
    first, then = worker.answer(), worker.steps(2)
    worker.end()
    assert 0 < then["seconds"] < first["seconds"]  # which traced
    assert 0 < then["memory"] <= then["peak"]


def test_results_are_written_as_table_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    rows = [
        {"script": name, "contender": label, "step_s": 1.5, "images_per_s": 3.25}
        for name in speed.SCRIPTS
        for label in speed.CONTENDERS
    ]
    speed.write("steps", rows, "a title")
    assert (tmp_path / "steps.csv").read_text().splitlines()[
        1
    ] == "shoe_gan,ours,1.5,3.25"
    assert "| shoe_gan | ours | 1.5 | 3.25 |" in (tmp_path / "steps.md").read_text(
        "utf-8"
    )
    assert (tmp_path / "steps.png").stat().st_size > 1000


def test_an_unknown_part_is_one_line():
    command = [sys.executable, ROOT / "benchmarks" / "speed.py", "stepz"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and "stepz: the parts are steps, growth" in run.stderr
