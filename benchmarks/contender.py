"""One contender of speed.py, which takes steps when told to."""

import contextlib
import importlib
import itertools
import sys
import time
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
SCRIPTS = {  # class; real pictures per step; labels of real pictures, and of fakes
    "shoe_gan": ("ShoeGAN", 64, (0.9, 0.9), (0.0, 0.0)),
    "dcgan_grayscale": ("GrayscaleGAN", 32, (0.95, 0.95), (0.05, 0.05)),
    "dcgan_pokemon": ("PokemonGAN", 64, (1.0, 1.0), (0.0, 0.0)),
    "dcgan_general": ("DCGAN", 32, (1.0, 1.0), (0.0, 0.0)),
    "dcgan256": ("DCGAN256", 8, (0.0, 0.01), (0.99, 1.0)),
}
JPEGS = 2000


def main(pipe, contender, name, folder):
    """Send None after the first step. Then receive a number of steps, take them, and
    send the seconds that took: (wall time, CPU time). The folder is check.py's."""
    library, *options = contender.split("-")
    kinds = {"keras": keras_steps, "torch": torch_steps, "loading": loading_steps}
    steps = kinds[library](name, folder, options)
    next(steps)
    pipe.send(None)
    with contextlib.suppress(EOFError):
        while n := pipe.recv():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(n):
                next(steps)
            pipe.send((time.perf_counter() - wall, time.process_time() - cpu))


def make_gan(name):
    """A script's model; shoe_gan's D never rests, so that all steps are alike."""
    gan = getattr(importlib.import_module(name), SCRIPTS[name][0])()
    gan.freezing = False
    return gan


def keras_steps(name, folder, options):
    """Yield after every step of a Keras contender."""
    import utils

    utils.keras.utils.set_random_seed(0)
    if "bfloat16" in options:
        utils.keras.config.set_dtype_policy("mixed_bfloat16")
    gan, images = make_gan(name), np.load(folder / f"{name}.npy")
    if "classic" in options:
        step = Classic(name, gan).step
    else:  # as utils.train() does
        signature = [utils.tf.TensorSpec((None, *images.shape[1:]), utils.tf.uint8)]
        step = utils.tf.function(gan.train_step, signature, jit_compile=False)
    fast = "fast" in options and importlib.import_module("fast").accelerate
    with (fast or contextlib.nullcontext)(gan):
        for batch in utils.batches(images, SCRIPTS[name][1], seed=0):
            yield [float(loss) for loss in utils.quiet()(step)(batch).values()]


def torch_steps(name, folder, options):
    """Yield after every step of PyTorch."""
    import torch
    import torch_peers

    if "compiled" in options:  # which without this refuses retain_graph
        importlib.import_module("torch._functorch.config").donated_buffer = False
    torch.manual_seed(0)
    args = torch.load(folder / f"{name}.pt", weights_only=False)
    kind = getattr(torch_peers, SCRIPTS[name][0])
    game = kind(**args, **dict.fromkeys(options, True))
    images = np.load(folder / f"{name}.npy").transpose(0, 3, 1, 2)
    batches = torch.from_numpy(images.copy()).split(SCRIPTS[name][1])
    for batch in itertools.cycle(batches):
        yield [loss.item() for loss in game.step(batch)]


def loading_steps(name, folder, options):
    """Yield after every loading of JPEGs of 300×200 to 64×64."""
    import utils
    from PIL import Image

    jpegs, rng = folder / "jpegs", np.random.default_rng(0)
    jpegs.mkdir()
    for i in range(JPEGS):
        noise = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        noise.resize((300, 200)).save(jpegs / f"{i}.jpg", quality=85)
    args = {"out": folder / "loaded", "fit": "pad", "background": "white", "seed": 0}
    while True:
        yield utils.load_images(types.SimpleNamespace(**args), (64, 64, 3), jpegs)


class Classic:
    """The game of most tutorials: two compiled models, predict(), train_on_batch()."""

    def __init__(self, name, gan):
        import keras

        class Combined(keras.Sequential):  # toggling D's trainable, as tutorials do,
            @property  # stops D from learning in Keras 3
            def trainable_variables(self):
                return gan.generator.trainable_variables

            trainable_weights = trainable_variables

        self.name, self.rng = name, np.random.default_rng(0)
        self.generator, self.discriminator = gan.generator, gan.discriminator
        self.combined = Combined([gan.generator, gan.discriminator])
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        self.discriminator.compile(gan.d_optimizer, loss, jit_compile=False)
        self.combined.compile(gan.g_optimizer, loss, jit_compile=False)

    def sample_z(self, n):
        size = n, self.generator.input_shape[1]
        uniform = self.name in ("dcgan256", "dcgan_general")
        return self.rng.uniform(-1, 1, size) if uniform else self.rng.normal(size=size)

    def labels(self, n, label):
        return self.rng.uniform(*label, (n, 1))

    def mirror_some(self, real):
        mirrored = self.rng.random((len(real), 1, 1, 1)) < 0.5
        return np.where(mirrored, real[:, :, ::-1], real)

    def step(self, images):
        n, (*_, real_label, fake_label) = len(images), SCRIPTS[self.name]
        real, z = images / np.float32(127.5) - 1, self.sample_z(n)
        if self.name == "dcgan256":
            real = self.mirror_some(images / np.float32(255))
        fake = self.generator.predict(z, verbose=0)
        labels = self.labels(n, real_label), self.labels(n, fake_label)
        learn = self.discriminator.train_on_batch
        if self.name == "dcgan_grayscale":
            d_loss = learn(np.concatenate([real, fake]), np.concatenate(labels))
        else:
            d_loss = learn(real, labels[0]) + learn(fake, labels[1])
        if self.name in ("dcgan256", "dcgan_grayscale"):  # G on fresh z
            z = self.sample_z(2 * n if self.name == "dcgan256" else n)
        g_loss = self.combined.train_on_batch(z, self.labels(len(z), real_label))
        return {"d_loss": d_loss, "g_loss": g_loss}
