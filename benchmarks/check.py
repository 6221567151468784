"""Do the contenders of speed.py take the same step? A difference stops the benchmark.

    python benchmarks/check.py FOLDER shoe_gan ...    # leaves there what they work on

All start from the same weights, pictures and z, with nothing random (no dropout, no
noise, labels in the middle of their range). Adam has so large an epsilon that every
weight moves by about its gradient: what is compared is both losses and all gradients.
"""

import importlib
import sys
from pathlib import Path

import contender  # first: finds the scripts
import numpy as np
import torch
import torch_peers
import utils
from fast import accelerate

keras, tf = utils.keras, utils.tf
BATCH = 4
ADAM = {"learning_rate": 1e-3, "beta_1": 0.5, "beta_2": 0.0, "epsilon": 1.0}


def torch_twins(name, gan):
    """The arguments of a PyTorch game, the game, and the pairs of torch_peers.build."""
    kind, _, *labels = contender.SCRIPTS[name]
    game, pairs = getattr(torch_peers, kind), []
    args = {"latent_dim": gan.generator.input_shape[1], "labels": labels}
    decay = getattr(importlib.import_module(name), "WEIGHT_DECAY", 0)
    for key, network in ("g", gan.generator), ("d", gan.discriminator):
        args[key], more = torch_peers.build(network, game.mirrored)
        pairs, adam = pairs + more, getattr(gan, f"{key}_optimizer")
        rate, betas = float(adam.learning_rate), (adam.beta_1, adam.beta_2)
        settings = {"lr": rate, "betas": betas, "eps": adam.epsilon}
        args[f"{key}_adam"] = settings | {"weight_decay": decay}
    return args, game, pairs


def check(name, folder):
    keras.utils.set_random_seed(0)
    gan, rng = contender.make_gan(name), np.random.default_rng(1)
    torch.save(torch_twins(name, gan)[0], folder / f"{name}.pt")
    size = 4 * contender.SCRIPTS[name][1], *gan.discriminator.input_shape[1:]
    np.save(folder / f"{name}.npy", rng.integers(0, 256, size, np.uint8))

    images = np.load(folder / f"{name}.npy")[:BATCH]
    size = 2, 4 * BATCH, gan.generator.input_shape[1]  # all that a step can ask for
    all_z = rng.uniform(-1, 1, size).astype(np.float32)
    for layer in gan.generator.layers + gan.discriminator.layers:
        for attribute in {"rate", "stddev"} & set(vars(layer)):
            setattr(layer, attribute, 0.0)
        if hasattr(layer, "moving_variance"):  # as after some training, not 1
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
    gan.soft_labels = lambda n, label: tf.fill((n, 1), float(np.mean(label)))
    gan.fakes = BATCH  # of dcgan_pokemon
    if name == "shoe_gan":
        importlib.import_module(name).WEIGHT_DECAY = 1.0  # 1e-4 is too little to see
    variables = gan.generator.weights + gan.discriminator.weights
    before = [variable.numpy() for variable in variables]

    def sampler():
        numbers = iter(all_z)
        return lambda n, seed=None: next(numbers)[:n]

    def keras_step(step):
        """Losses and weights after step(images); the weights are put back."""
        adams = (keras.optimizers.Adam(**ADAM) for _ in "gd")
        gan.g_optimizer, gan.d_optimizer = adams
        gan.sample_z = sampler()
        for metric in gan.metrics:
            metric.reset_state()
        losses = step(images)
        after = [variable.numpy() for variable in variables]
        for variable, value in zip(variables, before):
            variable.assign(value)
        return [float(losses[key]) for key in ("d_loss", "g_loss")], after

    def pytorch(**options):
        """Losses and weights, and what brings ours into PyTorch's order of axes."""
        args, kind, pairs = torch_twins(name, gan)
        args["labels"] = [(np.mean(label), np.mean(label)) for label in args["labels"]]
        game, sample_z = kind(**args, **options), sampler()
        game.sample_z = lambda n: torch.from_numpy(sample_z(n))
        turned = images[:, ::-1, ::-1] if kind.mirrored else images
        losses = game.step(torch.from_numpy(turned.transpose(0, 3, 1, 2).copy()))
        after = [tensor.detach().numpy() for _, tensor in pairs]
        return [loss.item() for loss in losses], after, [pair[0] for pair in pairs]

    def compare(who, expected, found, arrange=None):
        """Stop unless the losses are equal, and all weights moved alike."""
        if not np.allclose(expected[0], found[0], 3e-4, 0):
            sys.exit(f"{name}: the losses of {who} are {found[0]}, not {expected[0]}")
        moves = [np.linalg.norm(a - b) for a, b in zip(expected[1], before)]
        most = max(m for m, variable in zip(moves, variables) if variable.trainable)
        for i, (a, b) in enumerate(zip(expected[1], found[1], strict=True)):
            # Biases before batch normalization have gradient 0, but for rounding;
            # PyTorch's running variance is the unbiased one, which a batch of 4 shows.
            if not (arrange and variables[i].name == "moving_variance"):
                difference = np.linalg.norm((arrange[i](a) if arrange else a) - b)
                if not difference < 0.05 * moves[i] + 1e-4 * most:
                    sys.exit(f"{name}: {who} moves {variables[i].path} otherwise")

    ours = keras_step(gan.train_step)
    accelerate(gan)
    compare("--fast", ours, keras_step(gan.train_step))
    for options in ({}, {"lean": True, "channels_last": True}):
        *found, arrange = pytorch(**options)
        compare(f"PyTorch {options}", ours, found, arrange)
    print(f"{name}: all contenders take the same step", flush=True)


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    for name in names:
        check(name, Path(folder))
