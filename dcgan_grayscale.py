# %% [markdown]
"""DCGAN for gray pictures, 28×28 or any size divisible by 4: MNIST and the like.

Source: github.com/sliao-mi-luku/DCGAN-grayscale-MNIST-Fashion-MNIST-Food-101.
Papers: Radford et al. 2015, arxiv.org/abs/1511.06434 (DCGAN); Szegedy et al. 2015,
arxiv.org/abs/1512.00567 (label smoothing).
Data: MNIST, Fashion-MNIST or Kuzushiji-MNIST, downloaded once, or your own pictures,
made gray; the source also used Food-101 and cursive calligraphy.

    python dcgan_grayscale.py --dataset mnist    # 16,000 steps: about half are clear
    python dcgan_grayscale.py --dataset fashion_mnist --out runs/fashion  # 9,000 steps
    python dcgan_grayscale.py --images ./letters --img-size 64 64 --out runs/letters

The source is a README with the networks and settings, and shows no training loop. One
of its "episodes" is one step here: D on 32 real and 32 fakes, then G on 32 new z.
[D1] ... are deviations, or assumptions where the source is silent, and [K1] ...
oddities that were kept; they are listed at the end.
"""

# %% Imports and settings
try:  # before keras, which utils sets up
    from utils import InputError, Parser, load_images, number, plain_errors, train
except ImportError as error:
    hint = "put this collection's utils.py beside the script; install requirements.txt"
    raise SystemExit(f"{error}: {hint}") from None

import keras
import numpy as np
import tensorflow as tf
from keras import layers

IMG_SIZE = (28, 28)  # height, width
LATENT_DIM = 100  # z is standard normal [D2]
BATCH_SIZE = 32  # real pictures; as many z for D, and new ones for G
DATASETS = {"mnist": 16_000, "fashion_mnist": 9_000, "kmnist": 16_000}  # steps
LEARNING_RATE = 1e-5  # for both, a twentieth of DCGAN's
LABEL_SMOOTHING = 0.1  # [K2]
LEAKY_SLOPE = 0.2  # DCGAN sec. 4
SAMPLE_EVERY = 500  # steps
SHEET = (8, 8)  # rows, columns

KMNIST = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/kmnist-train-imgs.npz"


def normal():
    """DCGAN sec. 4. One for each layer: used again, it would draw the same numbers."""
    return keras.initializers.RandomNormal(0, 0.02)


# %% Generator
def build_generator(height=28, width=28):
    """z of shape (B, 100) to pictures (B, height, width, 1) in [-1, 1]."""
    rows, columns = height // 4, width // 4
    network = [
        keras.Input((LATENT_DIM,)),
        layers.Dense(rows * columns * 128, kernel_initializer=normal()),
        layers.LeakyReLU(LEAKY_SLOPE),  # [K1] [K3]
        layers.Reshape((rows, columns, 128)),  # (B, 7, 7, 128)
        layers.Conv2DTranspose(
            256, 4, 2, "same", kernel_initializer=normal()
        ),  # (B, 14, 14, 256)
        layers.BatchNormalization(),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2DTranspose(
            256, 4, 2, "same", kernel_initializer=normal()
        ),  # (B, 28, 28, 256)
        layers.BatchNormalization(),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2D(1, 4, 1, "same", kernel_initializer=normal()),  # (B, 28, 28, 1)
        layers.Activation("tanh", dtype="float32"),  # also under --bfloat16
    ]
    return keras.Sequential(network, name="generator")


# %% Discriminator
def build_discriminator(height=28, width=28):
    """Pictures (B, height, width, 1) in [-1, 1] to logits (B, 1), real if > 0."""
    network = [
        keras.Input((height, width, 1)),
        layers.Conv2D(
            256, 4, 2, "same", kernel_initializer=normal()
        ),  # (B, 14, 14, 256)
        layers.LeakyReLU(LEAKY_SLOPE),  # [K3]
        layers.Conv2D(256, 4, 2, "same", kernel_initializer=normal()),  # (B, 7, 7, 256)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2D(256, 4, 2, "same", kernel_initializer=normal()),  # (B, 4, 4, 256)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Flatten(),  # (B, 4096)
        layers.Dense(1, dtype="float32"),  # (B, 1) [K4]
    ]
    return keras.Sequential(network, name="discriminator")


# %% The adversarial game
class GrayscaleGAN(keras.Model):
    """G and D and one step of their game: D first, then G on fresh z."""

    def __init__(self, height=28, width=28, seed=0):
        super().__init__()
        self.generator = build_generator(height, width)
        self.discriminator = build_discriminator(height, width)
        self.g_optimizer = keras.optimizers.Adam(LEARNING_RATE)  # [K5]
        self.d_optimizer = keras.optimizers.Adam(LEARNING_RATE)
        self.bce = keras.losses.BinaryCrossentropy(
            from_logits=True, label_smoothing=LABEL_SMOOTHING
        )  # [K2]
        self.seed_generator = keras.random.SeedGenerator(seed)
        names = "d_loss", "g_loss", "d_real", "d_fake"  # means over the epoch so far
        self.means = [keras.metrics.Mean(name=name) for name in names]
        self.built = True  # both networks are; else fit() would call the model

    def sample_z(self, n, seed):
        return keras.random.normal((n, LATENT_DIM), seed=seed)

    def train_step(self, images):
        real = tf.cast(images, tf.float32) / 127.5 - 1  # [D2]
        n = tf.shape(real)[0]
        d_variables = self.discriminator.trainable_variables
        g_variables = self.generator.trainable_variables

        # 1. D: maximize log D(x) + log(1 - D(G(z))), with 0.95 for 1 and 0.05 for 0.
        z = self.sample_z(n, self.seed_generator)
        fake = self.generator(z, training=False)  # [D1]
        with tf.GradientTape() as tape:
            real_logits = self.discriminator(real, training=True)
            fake_logits = self.discriminator(fake, training=True)
            d_loss = (
                self.bce(tf.ones_like(real_logits), real_logits)
                + self.bce(tf.zeros_like(fake_logits), fake_logits)
            ) / 2  # [D3]
        self.d_optimizer.apply(tape.gradient(d_loss, d_variables), d_variables)

        # 2. G: maximize log D(G(z)), smoothed as well, for fresh z and the updated D.
        z = self.sample_z(n, self.seed_generator)
        with tf.GradientTape() as tape:
            fake = self.generator(z, training=True)
            g_logits = self.discriminator(fake, training=True)
            g_loss = self.bce(tf.ones_like(g_logits), g_logits)
        self.g_optimizer.apply(tape.gradient(g_loss, g_variables), g_variables)

        # 3. Bookkeeping.
        values = d_loss, g_loss, tf.sigmoid(real_logits), tf.sigmoid(fake_logits)
        for mean, value in zip(self.means, values):
            mean.update_state(value)
        return {mean.name: mean.result() for mean in self.means}


# %% Command line
def download(dataset):
    """The training pictures of a data set, uint8 (60000, 28, 28), downloaded once."""
    try:
        if dataset == "kmnist":
            return np.load(keras.utils.get_file(origin=KMNIST))["arr_0"]
        return getattr(keras.datasets, dataset).load_data()[0][0]
    except Exception as error:  # no network, or a file that broke off
        raise InputError(
            f"{dataset} cannot be downloaded or read ({error}): delete what "
            "~/.keras/datasets has of it and try again, or name a file of its pictures "
            "(.npz or IDX) with --images"
        ) from None


@plain_errors()
def main(argv=None):
    about = "DCGAN for MNIST and the like, or any pictures made gray."
    length = "16,000 steps, fashion_mnist 9,000"
    parser = Parser("dcgan_grayscale", about, batch_size=BATCH_SIZE, length=length)
    add = parser.add_argument
    add("--dataset", choices=DATASETS, help="to download, in place of --images")
    add("--img-size", type=number(4, 4096), nargs=2, default=IMG_SIZE, metavar="N",
        help="height and width, divisible by 4 (default: 28 28)")  # fmt: skip
    args = parser.parse_args(argv)
    if args.dataset and args.images:
        raise InputError("give --dataset or --images, not both")
    if any(side % 4 for side in args.img_size):
        raise InputError("--img-size: height and width must be divisible by 4")
    if not (args.epochs or args.steps):
        args.steps = DATASETS[args.dataset or "mnist"]
    source = download(args.dataset) if args.dataset else args.images
    train(
        GrayscaleGAN(*args.img_size, args.seed),
        load_images(args, (*args.img_size, 1), source),  # [D4]
        args,
        batch_size=args.batch_size,  # [D5]
        sheet_size=SHEET,
        sample_every=SAMPLE_EVERY,  # [D6]
    )


# %%
if __name__ == "__main__":
    main()

# %% [markdown]
# Deviations, or assumptions where the source is silent (README.md names those that
# all scripts share):
#
# - [D1] In D's step G runs in inference mode (moving averages). The source's loop is
#   not published; code of its kind makes D's fakes with predict().
# - [D2] z is standard normal, and pictures are scaled to [-1, 1], the range of tanh.
# - [D3] One update of D on both halves, losses averaged: an assumption, the same as
#   one batch of 64, as D has no batch normalization. Code of its kind often makes two.
# - [D4] Pictures of other proportions are padded. Height and width may differ.
# - [D5] Batches come from shuffled passes; the source says only "sampled".
# - [D6] A sheet every 500 steps; 16,000 steps for pictures of your own.
#
# Oddities kept:
#
# - [K1] LeakyReLU in both networks, where the DCGAN paper has ReLU in G.
# - [K2] Label smoothing is two-sided, for D and for G: 1 becomes 0.95, 0 becomes
#   0.05.
# - [K3] The first layer of G, and all of D, is without batch normalization.
# - [K4] D's last layer keeps Keras' default initializer.
# - [K5] Adam's beta_1 is Keras' 0.9, where the DCGAN paper has 0.5.
