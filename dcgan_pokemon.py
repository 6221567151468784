# %% [markdown]
"""DCGAN on Pokémon, 64×64: the plainest of the five, with simultaneous updates.

Source: github.com/Rajjeshwar/DCGAN.
Paper: Radford et al. 2015, arxiv.org/abs/1511.06434.
Data: a folder of pictures; the source used the 819 Pokémon of a Kaggle set.

    python dcgan_pokemon.py --images ./pokemon --epochs 100
    python dcgan_pokemon.py --images ./pokemon    # goes on to 10,000 epochs
    python dcgan_pokemon.py --images ./pokemon --real-batch-size 1 --out runs/one_real

Where the source's code and README disagree, this follows the code. [D1] ... are
deviations and [K1] ... oddities that were kept; they are listed at the end.
"""

# %% Imports and settings
try:  # before keras, which utils sets up
    from utils import Parser, load_images, number, plain_errors, train
except ImportError as error:
    hint = "put this collection's utils.py beside the script; install requirements.txt"
    raise SystemExit(f"{error}: {hint}") from None

import keras
import tensorflow as tf
from keras import layers

IMAGE_SHAPE = (64, 64, 3)
LATENT_DIM = 100  # z is standard normal
BATCH_SIZE = 64  # latent vectors per step
REAL_BATCH_SIZE = 64  # real pictures per step [D2]
EPOCHS = 10_000  # passes over the pictures
LEARNING_RATE = 2e-4  # DCGAN sec. 4
BETA_1 = 0.5  # DCGAN sec. 4: with Adam's usual 0.9 training oscillates
LEAKY_SLOPE = 0.3  # [K1]
DROPOUT = 0.3  # in D only
SAMPLE_EVERY = "100 epochs"
SHEET = (4, 4)  # rows, columns


# %% Generator
def build_generator():
    """z of shape (B, 100) to pictures (B, 64, 64, 3) in [-1, 1]; Glorot init."""
    network = [
        keras.Input((LATENT_DIM,)),
        layers.Dense(8 * 8 * 256, use_bias=False),
        layers.Reshape((8, 8, 256)),  # (B, 8, 8, 256)
        layers.BatchNormalization(),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2DTranspose(128, 5, 2, "same", use_bias=False),  # (B, 16, 16, 128)
        layers.BatchNormalization(),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2DTranspose(64, 5, 2, "same", use_bias=False),  # (B, 32, 32, 64)
        layers.BatchNormalization(),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2DTranspose(3, 5, 2, "same", use_bias=False),  # (B, 64, 64, 3)
        layers.Activation("tanh", dtype="float32"),  # also under --bfloat16
    ]
    return keras.Sequential(network, name="generator")


# %% Discriminator
def build_discriminator():
    """Pictures (B, 64, 64, 3) in [-1, 1] to logits (B, 1), real if > 0."""
    network = [
        keras.Input(IMAGE_SHAPE),
        layers.Conv2D(64, 5, 1, "same"),  # (B, 64, 64, 64)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Dropout(DROPOUT),
        layers.Conv2D(128, 5, 2, "same"),  # (B, 32, 32, 128) [K2]
        layers.Flatten(),  # (B, 131072)
        layers.Dense(1, dtype="float32"),  # (B, 1)
    ]
    return keras.Sequential(network, name="discriminator")


# %% The adversarial game
class PokemonGAN(keras.Model):
    """G and D and one step of their game: both updated simultaneously."""

    def __init__(self, batch_size=BATCH_SIZE, seed=0):
        super().__init__()
        self.batch_size = batch_size  # of latent vectors
        self.generator = build_generator()
        self.discriminator = build_discriminator()
        self.g_optimizer = keras.optimizers.Adam(LEARNING_RATE, beta_1=BETA_1)  # [D1]
        self.d_optimizer = keras.optimizers.Adam(LEARNING_RATE, beta_1=BETA_1)
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)  # [D5]
        self.seed_generator = keras.random.SeedGenerator(seed)
        names = "d_loss", "g_loss", "d_real", "d_fake"  # means over the epoch so far
        self.means = [keras.metrics.Mean(name=name) for name in names]
        self.built = True  # both networks are; else fit() would call the model

    def sample_z(self, n, seed):
        return keras.random.normal((n, LATENT_DIM), seed=seed)

    def train_step(self, images):
        real = tf.cast(images, tf.float32) / 127.5 - 1
        z = self.sample_z(self.batch_size, self.seed_generator)

        # Both losses come from one forward pass, and both gradients from the weights
        # before either update.
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fake = self.generator(z, training=True)
            real_logits = self.discriminator(real, training=True)
            fake_logits = self.discriminator(fake, training=True)
            # 1. D: maximize log D(x) + log(1 - D(G(z))).
            d_loss = self.bce(tf.ones_like(real_logits), real_logits) + self.bce(
                tf.zeros_like(fake_logits), fake_logits
            )
            # 2. G: maximize log D(G(z)).
            g_loss = self.bce(tf.ones_like(fake_logits), fake_logits)
        d_variables = self.discriminator.trainable_variables
        g_variables = self.generator.trainable_variables
        d_gradients = d_tape.gradient(d_loss, d_variables)
        g_gradients = g_tape.gradient(g_loss, g_variables)
        self.g_optimizer.apply(g_gradients, g_variables)
        self.d_optimizer.apply(d_gradients, d_variables)

        # 3. Bookkeeping.
        values = d_loss, g_loss, tf.sigmoid(real_logits), tf.sigmoid(fake_logits)
        for mean, value in zip(self.means, values):
            mean.update_state(value)
        return {mean.name: mean.result() for mean in self.means}


# %% Command line
@plain_errors()
def main(argv=None):
    about, length = "DCGAN on Pokemon, or any pictures, at 64x64.", f"{EPOCHS:,}"
    parser = Parser("dcgan_pokemon", about, batch_size=BATCH_SIZE, length=length)
    parser.add_argument(
        "--real-batch-size",
        type=number(),
        default=REAL_BATCH_SIZE,
        help="real pictures per step, --batch-size being that of generated ones; 1 in "
        "the source (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if not (args.epochs or args.steps):
        args.epochs = EPOCHS
    train(
        PokemonGAN(args.batch_size, args.seed),
        load_images(args, IMAGE_SHAPE),  # [D3] [D4]
        args,
        batch_size=args.real_batch_size,
        sheet_size=SHEET,
        sample_every=SAMPLE_EVERY,
    )


# %%
if __name__ == "__main__":
    main()

# %% [markdown]
# Deviations from the source (README.md names those that all scripts share):
#
# - [D1] Two equal Adam optimizers, so that each counts its own steps. The source
#   shares one, which counts two a step. As Adam's bias correction depends on this
#   count, its rate is up to 1.41 times ours (near step 10), 1.13 times at step 1,300.
# - [D2] A step shows D 64 shuffled real pictures, an epoch's last the rest; the source
#   shows it one, in file order, against 64 fakes. So an epoch of 819 pictures has 13
#   updates here and 819 there, 10,000 epochs 130,000 and 8.19 million: compare runs by
#   updates, or use `--real-batch-size 1` for 819 an epoch, with sheets every 5,000.
# - [D3] Pictures stay RGB. The source reads BGR and shows it as RGB: its early
#   samples are "primarily of blue color".
# - [D4] Pictures are shrunk with antialiasing (on the Pokémon a mean difference of 4 to
#   6 of 255, and softer edges), and padded to a square, not stretched.
# - [D5] One sigmoid. The source asks for a loss from logits but passes D's sigmoid
#   output; Keras of the day very likely used the logits behind it, so the sigmoid was
#   applied once, as here.
#
# Oddities kept:
#
# - [K1] LeakyReLU slope 0.3, Keras' default; the source's README says 0.01.
# - [K2] No activation after D's second convolution.
