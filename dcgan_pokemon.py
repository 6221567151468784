"""DCGAN on Pokémon, 64×64: the plainest of the five, with simultaneous updates.

Source: github.com/Rajjeshwar/DCGAN.
Paper: Radford et al. 2015, arxiv.org/abs/1511.06434.
Data: a folder of pictures; the source used the 819 Pokémon of a Kaggle set.

    python dcgan_pokemon.py --images ./pokemon --epochs 30    # 6,000 steps
    python dcgan_pokemon.py --images ./pokemon    # goes on to 650 epochs
    python dcgan_pokemon.py --images ./pokemon --batch-size 1 --out runs/one_real

An epoch is 200 steps and ends with a grid of samples. The source's epoch is one pass
over its pictures, 819 steps of one real picture each. Where its code and its README
disagree, this follows the code, except in [D1] and [D2]. Deviations [D1] ... and
oddities that were kept [K1] ... are listed at the end.
"""

# %% Imports and settings
from utils import Options, Run, batches, load_images, positive

import keras  # after utils, which selects TensorFlow
import tensorflow as tf
from keras import layers

IMAGE_SHAPE = (64, 64, 3)
LATENT_DIM = 100  # z is standard normal
BATCH_SIZE = 64  # real pictures a step [D1] the source: 1
FAKES = 64  # generated pictures a step
STEPS_PER_EPOCH = 200
EPOCHS = 650  # 130,000 steps, about 10,000 passes over 819 pictures
LEARNING_RATE = 2e-4  # DCGAN sec. 4
BETA_1 = 0.5  # DCGAN sec. 4: with Adam's usual 0.9 training oscillates
LEAKY_SLOPE = 0.3  # [K1] the source's README says 0.01
DROPOUT = 0.3  # in D only
GRID = (4, 4)  # rows, columns


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
    """Pictures (B, 64, 64, 3) in [-1, 1] to logits (B, 1): D(x) = sigmoid(logit)."""
    network = [
        keras.Input(IMAGE_SHAPE),
        layers.Conv2D(64, 5, 1, "same"),  # (B, 64, 64, 64)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Dropout(DROPOUT),
        layers.Conv2D(128, 5, 2, "same"),  # (B, 32, 32, 128) no activation
        layers.Flatten(),  # (B, 131072)
        layers.Dense(1, dtype="float32"),  # (B, 1)
    ]
    return keras.Sequential(network, name="discriminator")


# %% The adversarial game
class PokemonGAN(keras.Model):
    """Generator G, discriminator D; a step updates both simultaneously."""

    latent_dim, latent = LATENT_DIM, "normal"
    value_range = (-1, 1)  # of the generator's pictures
    grid = GRID

    def __init__(self, fakes=FAKES, seed=0):
        super().__init__()
        self.fakes = fakes
        self.generator = build_generator()
        self.discriminator = build_discriminator()
        # [K2] One Adam for both networks, so it counts two updates a step.
        adam = keras.optimizers.Adam(LEARNING_RATE, beta_1=BETA_1)
        networks = self.generator, self.discriminator
        adam.build([w for network in networks for w in network.trainable_variables])
        self.g_optimizer = self.d_optimizer = adam
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)  # [D4] one sigmoid
        self.seed_generator = keras.random.SeedGenerator(seed)
        names = "d_loss", "g_loss", "d_real", "d_fake"  # means over the epoch so far
        self.trackers = [keras.metrics.Mean(name=name) for name in names]
        self.built = True  # or fit() would build it, on pictures in place of z

    def call(self, z, training=False):
        return self.generator(z, training=training)

    def sample_z(self, n, seed):
        return keras.random.normal((n, self.latent_dim), seed=seed)

    def train_step(self, data):
        if getattr(self, "optimizer", None):
            raise ValueError("G and D have their own: compile(optimizer=None)")
        images, *_ = keras.utils.unpack_x_y_sample_weight(data)  # labels are ignored
        if images.dtype != tf.uint8:
            tf.debugging.Assert(tf.reduce_max(images) > 9, ["not from 0 to 255"])
        real = tf.cast(images, tf.float32) / 127.5 - 1
        z = self.sample_z(self.fakes, self.seed_generator)

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
        for tracker, value in zip(self.trackers, values):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


# %% Command line
def main(argv=None):
    parser = Options(__doc__, "runs/dcgan_pokemon", BATCH_SIZE, STEPS_PER_EPOCH, EPOCHS)
    parser.add_argument(
        "--fakes", type=positive, default=FAKES, help="generated pictures per step"
    )
    args = parser.parse_args(argv)
    images = load_images(args.images, IMAGE_SHAPE, args.fit, args.background)

    gan = PokemonGAN(args.fakes, args.seed)
    gan.compile(optimizer=None)  # not RMSprop: G and D have their own
    run = Run(gan, args.out, vars(args), images)  # resumes an earlier run
    gan.fit(
        batches(images, args.batch_size, args.seed, start=run.step),
        steps_per_epoch=args.steps_per_epoch,
        initial_epoch=run.epoch,
        epochs=args.epochs,
        shuffle=False,  # batches() does
        callbacks=[run],
    )
    return gan


# %%
if __name__ == "__main__":
    main()

# %% [markdown]
# Deviations from the source (README.md names those that all scripts share):
#
# - [D1] A step shows D 64 shuffled real pictures; the source shows it one, in file
#   order, against 64 fakes. So 10,000 passes are 130,000 steps here and 8.19 million
#   there: compare runs by steps, or give `--batch-size 1 --epochs 40950` for the
#   source's proportion and length. The source draws a grid every 100.
# - [D2] Pictures stay RGB. The source reads BGR and shows it as RGB: its early
#   samples are "primarily of blue color".
# - [D3] Pictures are shrunk with antialiasing (on the Pokémon a mean difference of 4 to
#   6 of 255, and softer edges), and padded to a square, not stretched.
# - [D4] One sigmoid. The source asks for a loss from logits but passes D's sigmoid
#   output; Keras of the day very likely used the logits behind it, so the sigmoid was
#   applied once, as here.
#
# Oddities kept:
#
# - [K1] LeakyReLU slope 0.3, Keras' default; the source's README says 0.01.
# - [K2] Both networks share one Adam, as in the source. As its bias correction depends
#   on the count of updates, the rate is up to 1.41 times two Adams' (near step 10).
