"""Do the contenders of speed.py compute the same as the scripts?

For each script and each peer: equal weights, equal pictures and z, nothing random (no
dropout, no instance noise, fixed labels), and plain gradient descent in place of Adam.
Then a step moves each weight by its gradient, so that what is compared is both losses
and all gradients, in the order of the updates.
"""

import importlib

import classic
import keras
import numpy as np
import tensorflow as tf
from keras import layers

RATE = 1e-3
BATCH = 4


def calm(network):
    """Nothing random; statistics as after some training, not the 0 and 1 of a start."""
    rng = np.random.default_rng(1)
    for layer in network.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
        if isinstance(layer, layers.GaussianNoise):
            layer.stddev = 0.0
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))


def stage(name):
    """(gan, pictures, [z of D's step, z of G's step]): a script's model, made calm."""
    script = importlib.import_module(name)
    keras.utils.set_random_seed(0)
    gan = classic.make_gan(script)
    calm(gan.generator)
    calm(gan.discriminator)
    gan.g_optimizer = keras.optimizers.SGD(RATE)
    gan.d_optimizer = keras.optimizers.SGD(RATE)
    rng = np.random.default_rng(0)
    shape, latent_dim = gan.discriminator.input_shape[1:], gan.generator.input_shape[1]
    images = rng.integers(0, 256, (BATCH, *shape), dtype=np.uint8)
    second = 2 * BATCH if name == "dcgan256" else BATCH
    z = [rng.uniform(-1, 1, (n, latent_dim)).astype("float32") for n in (BATCH, second)]
    if name == "dcgan256":
        gan.mirror_some = lambda images: images
        gan.soft_labels = lambda n, label: tf.fill((n, 1), float(np.mean(label)))
    return gan, images, z


def variables(gan):
    return gan.generator.weights + gan.discriminator.weights


def names(gan):
    return [variable.name for variable in variables(gan)]


def weights(gan):
    return [variable.numpy() for variable in variables(gan)]


def ours(gan, images, z):
    """Losses and weights after one step of the script; the weights are put back."""
    before, numbers = weights(gan), iter(z)
    gan.sample_z = lambda n, seed: tf.constant(next(numbers))
    losses = {name: float(value) for name, value in gan.train_step(images).items()}
    after = weights(gan)
    for variable, value in zip(variables(gan), before):
        variable.assign(value)
    return (losses["d_loss"], losses["g_loss"]), after


def pytorch(name, gan, images, z, **options):
    """The same of the PyTorch peer, its weights in our order of axes."""
    import torch
    import torch_peers

    game, numbers = torch_peers.GAMES[name](**options), iter(z)
    pairs = [(gan.generator, game.g), (gan.discriminator, game.d)]
    for mine, theirs in pairs:
        torch_peers.copy_weights(mine, theirs, game.mirrored)
        for module in theirs.modules():
            if hasattr(module, "p"):
                module.p = 0.0
    game.optimizer_g = torch.optim.SGD(
        game.g.parameters(), RATE, weight_decay=game.weight_decay
    )
    game.optimizer_d = torch.optim.SGD(
        game.d.parameters(), RATE, weight_decay=game.weight_decay
    )
    game.sample_z = lambda n: torch.from_numpy(next(numbers))
    if name == "dcgan256":
        game.real = lambda images: images.float() / 255
        game.soft_labels = lambda logits, low, high: torch.full_like(
            logits, (low + high) / 2
        )
    if game.mirrored:
        images = images[:, ::-1, ::-1]
    losses = game.step(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    found = [
        tensor.detach().numpy()
        for mine, theirs in pairs
        for _, tensor in torch_peers.paired(mine, theirs, game.mirrored)
    ]
    return tuple(loss.item() for loss in losses), found


def in_torch_order(name, gan):
    """Our weights in PyTorch's order of axes."""
    import torch_peers

    kind = torch_peers.GAMES[name]
    game = kind()
    return [
        weight
        for mine, theirs in ((gan.generator, game.g), (gan.discriminator, game.d))
        for weight, _ in torch_peers.paired(mine, theirs, kind.mirrored)
    ]
