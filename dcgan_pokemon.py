# %% [markdown]
"""DCGAN on Pokémon, 64×64: the plainest of the five, both networks updated at once.

Source: github.com/Rajjeshwar/DCGAN.
Paper: Radford et al. 2015, arxiv.org/abs/1511.06434.
Data: a folder of pictures; the source used the 819 Pokémon of a Kaggle set.

    python dcgan_pokemon.py --images ./pokemon    # 10,000 epochs, as the source
    python dcgan_pokemon.py --images ./pokemon --epochs 100
    python dcgan_pokemon.py --images ./pokemon --double-sigmoid

Where the source's README and its code disagree, this follows the README in the loss,
and the code in the slope of LeakyReLU.

Deviations:
[D1] Two equal Adam optimizers; the source shares one, which Keras 3 does not allow.
[D2] 64 real pictures per step, as many as latent vectors; the source's loop shows D
     one. So an epoch of 819 pictures is 13 updates here (the last of 51), 819 there.
[D3] Pictures stay RGB. The source reads BGR and shows it as RGB: its early samples
     are "primarily blue".
[D4] D ends in a logit, and the loss is computed from it: the same number, but for
     the clipping of probabilities near 0 and 1.
[D5] One sigmoid, as the source's README says. Its code asks for a second one inside
     the loss, with which D can never be sure (0.5 to 0.73); --double-sigmoid has it.
[D6] Pictures that are not square are padded, not stretched.

Oddities kept:
[K1] LeakyReLU slope 0.3, Keras' default when the source ran; its README says 0.01.

Verdict: see the results in README.md.
"""

# %% Imports and settings
try:
    import utils  # first: keeps TensorFlow's start quiet
except ModuleNotFoundError as error:
    hint = "copy utils.py, disk.py, fast.py and results.py beside this script, and "
    raise SystemExit(f"{error}: {hint}install requirements.txt") from None

import keras
import tensorflow as tf
from keras import layers

IMAGE_SHAPE = (64, 64, 3)
LATENT_DIM = 100  # z is standard normal
BATCH_SIZE = 64  # real pictures, and latent vectors, per step [D2]
EPOCHS = 10_000  # passes over the data
LEARNING_RATE = 2e-4  # DCGAN sec. 4
BETA_1 = 0.5  # DCGAN sec. 4: with Adam's usual 0.9 training oscillates
LEAKY_SLOPE = 0.3  # [K1]
DROPOUT = 0.3  # in D only
SAMPLE_EVERY_EPOCHS = 100
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
        layers.Activation("tanh", dtype="float32"),  # with --bfloat16, too
    ]
    return keras.Sequential(network, name="generator")


# %% Discriminator
def build_discriminator():
    """Pictures (B, 64, 64, 3) in [-1, 1] to logits (B, 1), real if > 0. [D4]"""
    network = [
        keras.Input(IMAGE_SHAPE),
        layers.Conv2D(64, 5, 1, "same"),  # (B, 64, 64, 64)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Dropout(DROPOUT),
        layers.Conv2D(128, 5, 2, "same"),  # (B, 32, 32, 128)
        layers.Flatten(),  # (B, 131072)
        layers.Dense(1, dtype="float32"),  # (B, 1)
    ]
    return keras.Sequential(network, name="discriminator")


# %% The adversarial game
class PokemonGAN(keras.Model):
    """G and D and one step of their game: both updated at once.

    utils.call(network, x) is network(x), and utils.Adam is Keras' Adam, both faster.
    """

    def __init__(self, double_sigmoid=False, seed=0):
        super().__init__()
        self.double_sigmoid = double_sigmoid
        self.generator = build_generator()
        self.discriminator = build_discriminator()
        self.g_optimizer = utils.Adam(LEARNING_RATE, beta_1=BETA_1)  # [D1]
        self.d_optimizer = utils.Adam(LEARNING_RATE, beta_1=BETA_1)
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.means = [
            keras.metrics.Mean(name=name)
            for name in ("d_loss", "g_loss", "d_real", "d_fake")
        ]

    def sample_z(self, n, seed):
        return keras.random.normal((n, LATENT_DIM), seed=seed)

    def train_step(self, images):
        real = tf.cast(images, tf.float32) / 127.5 - 1
        n = tf.shape(real)[0]
        z = self.sample_z(n, self.seed_generator)

        # Both losses come from one forward pass, and both gradients from the weights
        # before either update.
        with tf.GradientTape(persistent=True) as tape:
            fake = utils.call(self.generator, z, training=True)
            real_logits = utils.call(self.discriminator, real, training=True)
            fake_logits = utils.call(self.discriminator, fake, training=True)
            if self.double_sigmoid:  # [D5]
                # Keras' loss undoes a sigmoid that it sees: identity() hides it.
                real_logits = tf.identity(tf.sigmoid(real_logits))
                fake_logits = tf.identity(tf.sigmoid(fake_logits))
            # 1. D: maximize log D(x) + log(1 - D(G(z))).
            d_loss = self.bce(tf.ones_like(real_logits), real_logits) + self.bce(
                tf.zeros_like(fake_logits), fake_logits
            )
            # 2. G: maximize log D(G(z)).
            g_loss = self.bce(tf.ones_like(fake_logits), fake_logits)
        d_variables = self.discriminator.trainable_variables
        g_variables = self.generator.trainable_variables
        d_gradients = tape.gradient(d_loss, d_variables)
        g_gradients = tape.gradient(g_loss, g_variables)
        self.d_optimizer.apply(d_gradients, d_variables)
        self.g_optimizer.apply(g_gradients, g_variables)

        # 3. Bookkeeping: means over the epoch so far.
        values = d_loss, g_loss, tf.sigmoid(real_logits), tf.sigmoid(fake_logits)
        for mean, value in zip(self.means, values):
            mean.update_state(value)
        return {mean.name: mean.result() for mean in self.means}


# %% Command line
@utils.plain_errors
def main(argv=None):
    parser = utils.Parser(
        "dcgan_pokemon",
        "DCGAN on Pokémon, or any pictures, at 64×64.",
        batch_size=BATCH_SIZE,
        length=f"{EPOCHS:,}",
    )
    parser.add_argument(
        "--double-sigmoid",
        action="store_true",
        help="apply the sigmoid twice in the loss, as the source's code does",
    )
    args = parser.parse_args(argv)
    if not (args.epochs or args.steps):
        args.epochs = EPOCHS
    utils.prepare(args)
    if args.generate or args.walk:
        return utils.generate(args)
    images = utils.training_images(args, IMAGE_SHAPE)  # [D3] [D6]
    utils.train(
        PokemonGAN(args.double_sigmoid, args.seed),
        images,
        args,
        sample_every_epochs=SAMPLE_EVERY_EPOCHS,
        sheet_size=SHEET,
    )


# %%
if __name__ == "__main__":
    main()
