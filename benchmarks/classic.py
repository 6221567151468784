"""The five games as most tutorials have them: two compiled Keras models, predict() and
train_on_batch(). What speed.py compares with.

The networks are those of the scripts, computed by Keras' own layers and Adam. The
combined model updates G's weights alone, and D stays in training mode in it. (To toggle
trainable, as tutorials do, silently stops D from learning in Keras 3, and would time
another game.) predict() runs G in inference mode, also where a script does not. D
learns from real pictures and from fakes in two updates, in grayscale in one, of both
together. There is no weight decay.
"""

import importlib

import keras
import numpy as np

LABELS = {  # of real pictures, and what G is trained towards; of fakes
    "dcgan256": ((0.0, 0.01), (0.99, 1.0)),
    "dcgan_general": (1.0, 0.0),
    "dcgan_grayscale": (0.95, 0.05),
    "dcgan_pokemon": (1.0, 0.0),
    "shoe_gan": (0.9, 0.0),
}


class Combined(keras.Sequential):
    """G, then D; G's weights are the only ones that are trained."""

    @property
    def trainable_variables(self):
        return self.layers[0].trainable_variables

    trainable_weights = trainable_variables


class Classic:
    """step() takes uint8 pictures (B, H, W, C) and returns the losses of D and of G."""

    def __init__(self, name):
        self.name, self.script = name, importlib.import_module(name)
        self.gan = make_gan(self.script)  # for its networks and settings
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        self.generator, self.discriminator = self.gan.generator, self.gan.discriminator
        g_adam, d_adam = (
            keras.optimizers.Adam.from_config(optimizer.get_config())
            for optimizer in (self.gan.g_optimizer, self.gan.d_optimizer)
        )
        self.discriminator.compile(d_adam, loss, jit_compile=False)
        self.combined = Combined([self.generator, self.discriminator])
        self.combined.compile(g_adam, loss, jit_compile=False)
        self.rng = np.random.default_rng(0)
        self.low, self.high = (0, 1) if name == "dcgan256" else (-1, 1)

    def sample_z(self, n):
        size = (n, self.generator.input_shape[1])
        if self.name in ("dcgan256", "dcgan_general"):
            return self.rng.uniform(-1, 1, size).astype(np.float32)
        return self.rng.normal(size=size).astype(np.float32)

    def labels(self, n, label):
        low, high = label if isinstance(label, tuple) else (label, label)
        return self.rng.uniform(low, high, (n, 1)).astype(np.float32)

    def step(self, images):
        n = len(images)
        real = images / np.float32(255) * (self.high - self.low) + self.low
        if self.name == "dcgan256":
            mirrored = self.rng.random((n, 1, 1, 1)) < 0.5
            real = np.where(mirrored, real[:, :, ::-1], real)
        z = self.sample_z(n)
        fake = self.generator.predict(z, verbose=0)
        real_label, fake_label = LABELS[self.name]
        real_labels = self.labels(n, real_label)
        fake_labels = self.labels(n, fake_label)
        if self.name == "dcgan_grayscale":
            both = np.concatenate([real_labels, fake_labels])
            d_loss = self.discriminator.train_on_batch(
                np.concatenate([real, fake]), both
            )
        else:
            d_loss = self.discriminator.train_on_batch(real, real_labels)
            d_loss += self.discriminator.train_on_batch(fake, fake_labels)
        if self.name == "dcgan256":
            z = self.sample_z(2 * n)
        elif self.name == "dcgan_grayscale":
            z = self.sample_z(n)
        g_loss = self.combined.train_on_batch(z, self.labels(len(z), real_label))
        return d_loss, g_loss


def make_gan(script):
    """The model of a script, with its defaults; of shoe_gan without freezing."""
    (kind,) = (
        value
        for value in vars(script).values()
        if isinstance(value, type) and issubclass(value, keras.Model)
    )
    return kind(3) if script.__name__ == "shoe_gan" else kind()
