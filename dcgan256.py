"""DCGAN256, 256×256: flipped soft labels, instance noise and larger kernels.

Source: t0nberryking/DCGAN256, a modification of manicman1999/GAN256 (both on GitHub).
Papers: Radford et al. 2015, arxiv.org/abs/1511.06434 (DCGAN); Sønderby et al. 2016,
arxiv.org/abs/1610.04490 (instance noise).
Data: a folder of pictures; the source used 10,000 women's blouses, and 5,700 heels
(only the code for heels is published), padded to 256×256 with their background.

    python dcgan256.py --images ./images    # 500,000 steps, 3 to 7 days on two cores
    python dcgan256.py --images ./shoes --epochs 20 --fast    # shoes on white, 1 to 2 h

Four things set the source apart from GAN256: 4×4 kernels, not 3×3, in G's first two
Conv2D; 256 filters, not 512, in G's first layer; flipped labels (real is 0, generated
is 1); Gaussian noise on what D sees. An epoch is 500 steps. Deviations [D1] ... and
oddities that were kept [K1] ... are listed at the end.
"""

# %% Imports and settings
from utils import Options, Run, batches, load_images

import keras  # after utils, which selects TensorFlow
import tensorflow as tf
from keras import layers

IMAGE_SHAPE = (256, 256, 3)
LATENT_DIM = 4096  # z is uniform in [-1, 1]
BATCH_SIZE = 4  # pictures; with their mirror images 8, against 8 fakes; G gets 16 z
STEPS_PER_EPOCH = 500
EPOCHS = 1_000  # 500,000 steps
LEARNING_RATE = 1e-4
DECAY, DECAY_STEPS = 0.85, 10_000  # the rate falls by 15 % every 10,000 steps
BETA_1 = 0.9  # where the DCGAN paper has 0.5
BN_MOMENTUM = 0.7
LEAKY_SLOPE, DROPOUT = 0.2, 0.25
INSTANCE_NOISE = 0.2  # standard deviation, pictures being in [0, 1]
REAL_LABEL = (0.0, 0.01)  # [K1] flipped, and soft: uniform between the two
FAKE_LABEL = (0.99, 1.0)
GRID = (6, 8)  # rows, columns


# %% Generator
def build_generator():
    """z of shape (B, 4096) to pictures (B, 256, 256, 3) in [0, 1]."""
    network = [
        keras.Input((LATENT_DIM,)),
        layers.Reshape((1, 1, LATENT_DIM)),  # (B, 1, 1, 4096)
        layers.Conv2DTranspose(256, 4, activation="relu"),  # (B, 4, 4, 256)
        layers.Conv2D(256, 4, padding="same"),
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.ReLU(),
        layers.UpSampling2D(),  # (B, 8, 8, 256)
        layers.Conv2D(128, 4, padding="same"),  # (B, 8, 8, 128)
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.ReLU(),
        layers.UpSampling2D(),  # (B, 16, 16, 128)
        layers.Conv2D(64, 3, padding="same"),  # (B, 16, 16, 64)
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.ReLU(),
        layers.UpSampling2D(),  # (B, 32, 32, 64)
        layers.Conv2D(32, 3, padding="same"),  # (B, 32, 32, 32)
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.ReLU(),
        layers.UpSampling2D(),  # (B, 64, 64, 32)
        layers.Conv2D(16, 3, padding="same"),  # (B, 64, 64, 16)
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.ReLU(),
        layers.UpSampling2D(),  # (B, 128, 128, 16)
        layers.Conv2D(8, 3, padding="same", activation="relu"),  # (B, 128, 128, 8)
        layers.UpSampling2D(),  # (B, 256, 256, 8)
        layers.Conv2D(3, 3, padding="same"),  # (B, 256, 256, 3)
        layers.Activation("sigmoid", dtype="float32"),  # also under --bfloat16
    ]
    return keras.Sequential(network, name="generator")


# %% Discriminator
def build_discriminator():
    """Pictures (B, 256, 256, 3) to logits (B, 1): D(x) = sigmoid(logit)."""
    network = [
        keras.Input(IMAGE_SHAPE),
        layers.GaussianNoise(INSTANCE_NOISE),
        layers.Conv2D(8, 3, padding="same"),  # (B, 256, 256, 8)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Dropout(DROPOUT),
        layers.AveragePooling2D(2),  # (B, 128, 128, 8)
        layers.Conv2D(16, 3, padding="same"),  # (B, 128, 128, 16)
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Dropout(DROPOUT),
        layers.AveragePooling2D(2),  # (B, 64, 64, 16)
        layers.Conv2D(32, 3, padding="same"),  # (B, 64, 64, 32)
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Dropout(DROPOUT),
        layers.AveragePooling2D(2),  # (B, 32, 32, 32)
        layers.Conv2D(64, 3, padding="same"),  # (B, 32, 32, 64)
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Dropout(DROPOUT),
        layers.AveragePooling2D(2),  # (B, 16, 16, 64)
        layers.Conv2D(128, 3, padding="same"),  # (B, 16, 16, 128)
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Dropout(DROPOUT),
        layers.AveragePooling2D(2),  # (B, 8, 8, 128)
        layers.Conv2D(256, 3, padding="same"),  # (B, 8, 8, 256)
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Dropout(DROPOUT),
        layers.AveragePooling2D(2),  # (B, 4, 4, 256)
        layers.Flatten(),  # (B, 4096)
        layers.Dense(128),  # (B, 128)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Dense(1, dtype="float32"),  # (B, 1)
    ]
    return keras.Sequential(network, name="discriminator")


# %% The adversarial game
def adam(updates_per_step):
    """Adam whose rate falls every 10,000 steps; it counts updates, D's two a step."""
    rate = keras.optimizers.schedules.ExponentialDecay(
        LEARNING_RATE, DECAY_STEPS * updates_per_step, DECAY, staircase=True
    )
    return keras.optimizers.Adam(rate, beta_1=BETA_1)  # [D2] it keeps its moments


class DCGAN256(keras.Model):
    """Generator G, discriminator D; a step: D on real, D on fakes, G on fresh z."""

    latent_dim, latent = LATENT_DIM, "uniform"
    value_range = (0, 1)  # of the generator's pictures
    grid = GRID

    def __init__(self, seed=0):
        super().__init__()
        self.generator = build_generator()
        self.discriminator = build_discriminator()
        self.g_optimizer = adam(updates_per_step=1)
        self.d_optimizer = adam(updates_per_step=2)
        self.g_optimizer.build(self.generator.trainable_variables)
        self.d_optimizer.build(self.discriminator.trainable_variables)
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
        self.seed_generator = keras.random.SeedGenerator(seed)
        names = "d_loss", "g_loss", "d_real", "d_fake"  # means over the epoch so far
        self.trackers = [keras.metrics.Mean(name=name) for name in names]
        self.built = True  # or fit() would build it, on pictures in place of z

    def call(self, z, training=False):
        return self.generator(z, training=training)

    def sample_z(self, n, seed):
        return keras.random.uniform((n, self.latent_dim), -1, 1, seed=seed)

    def soft_labels(self, n, label_range):
        return keras.random.uniform((n, 1), *label_range, seed=self.seed_generator)

    def update_d(self, images, label_range):
        """One update of D on one kind of pictures; returns loss and logits."""
        variables = self.discriminator.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.discriminator(images, training=True)
            labels = self.soft_labels(tf.shape(images)[0], label_range)
            loss = self.bce(labels, logits)
        self.d_optimizer.apply(tape.gradient(loss, variables), variables)
        return loss, logits

    def train_step(self, data):
        if getattr(self, "optimizer", None):
            raise ValueError("G and D have their own: compile(optimizer=None)")
        images, *_ = keras.utils.unpack_x_y_sample_weight(data)  # labels are ignored
        if images.dtype != tf.uint8:
            tf.debugging.Assert(tf.reduce_max(images) > 9, ["not from 0 to 255"])
        images = tf.concat([images, tf.reverse(images, [2])], 0)  # and mirror images
        real = tf.cast(images, tf.float32) / 255  # [D1] shuffled, not neighbors
        n = tf.shape(real)[0]

        # 1. D, where D(x) is the probability of "generated": maximize log(1 - D(x)) in
        # one update, then log D(G(z)) in another.
        d_loss_real, real_logits = self.update_d(real, REAL_LABEL)
        z = self.sample_z(n, self.seed_generator)
        fake = self.generator(z, training=False)  # [K2] as in predict()
        d_loss_fake, fake_logits = self.update_d(fake, FAKE_LABEL)

        # 2. G: maximize log(1 - D(G(z))), pass for real, on twice as many new z.
        z = self.sample_z(2 * n, self.seed_generator)
        g_variables = self.generator.trainable_variables
        with tf.GradientTape() as tape:
            fake = self.generator(z, training=True)
            g_logits = self.discriminator(fake, training=True)
            g_loss = self.bce(self.soft_labels(2 * n, REAL_LABEL), g_logits)
        # [D3] D's weights stay.
        self.g_optimizer.apply(tape.gradient(g_loss, g_variables), g_variables)

        # 3. Bookkeeping; d_real and d_fake are probabilities of "real": hence the minus
        d_loss = d_loss_real + d_loss_fake
        values = d_loss, g_loss, tf.sigmoid(-real_logits), tf.sigmoid(-fake_logits)
        for tracker, value in zip(self.trackers, values):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


# %% Command line
def main(argv=None):
    parser = Options(__doc__, "runs/dcgan256", BATCH_SIZE, STEPS_PER_EPOCH, EPOCHS)
    parser.add_argument("--fast", action="store_true", help="fast.py, for CPUs")
    args = parser.parse_args(argv)
    images = load_images(args.images, IMAGE_SHAPE, args.fit, args.background)

    gan = DCGAN256(args.seed)
    if args.fast:
        from fast import accelerate

        accelerate(gan)
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
# - [D1] A batch is 4 shuffled pictures, each with its mirror image. The source takes 8
#   neighbors from a list in which each picture's mirror image follows it.
# - [D2] Adam keeps its moments to the end; the source loses them every 5,000 steps.
# - [D3] In G's step only G's weights are updated. The source trains both, then
#   restores D, moving averages included; here they move on, but D never uses them.
# - [D4] Grids show the same z every time, every 500 steps; the source's show new ones,
#   every 1,000. Only the last checkpoint is kept; the source keeps many.
# - [D5] Padding is white; the source's has the color of the picture's background.
# - [D6] Keras 2.2 corrects batch normalization's moving averages for their initial
#   values (zero debias); Keras 3 does not. After 20 steps they weigh 0.1 %.
#
# Oddities kept:
#
# - [K1] Flipped labels: D gives the probability of "generated". It is the same game
#   with the sign of D's last layer turned. G's target is the soft label for real.
# - [K2] In D's step G runs in inference mode (moving averages).
