"""DCGAN for gray pictures, 28×28 or any size divisible by 4: MNIST and the like.

Source: github.com/sliao-mi-luku/DCGAN-grayscale-MNIST-Fashion-MNIST-Food-101.
Papers: Radford et al. 2015, arxiv.org/abs/1511.06434 (DCGAN); Szegedy et al. 2015,
arxiv.org/abs/1512.00567 (label smoothing).
Data: MNIST, Fashion-MNIST or Kuzushiji-MNIST, downloaded once, or your own pictures,
made gray; the source also lists Food-101 and calligraphy.

    python dcgan_grayscale.py    # MNIST, 16,000 steps
    python dcgan_grayscale.py --dataset fashion_mnist --out runs/fashion  # 9,000 steps
    python dcgan_grayscale.py --images ./letters --img-size 64 64 --out runs/letters

The source is a README with the networks and settings, and shows no training loop. One
of its "episodes" is one step here: D on 32 real pictures, D on 32 fakes, then G on 32
new z. An epoch is 500 steps, not a pass. Whole grids brighten, darken or turn dotted
at times, and recover by the next: look at several. Deviations, or assumptions where
the source is silent, [D1] ... and oddities kept [K1] ... are listed at the end.
"""

# %% Imports and settings
from utils import Options, Run, batches, load_images, positive

import keras  # after utils, which selects TensorFlow
import numpy as np
import tensorflow as tf
from keras import layers

IMG_SIZE = (28, 28)  # height, width
LATENT_DIM = 100  # z is standard normal
BATCH_SIZE = 32  # real pictures; as many z for D, and new ones for G
STEPS_PER_EPOCH = 500
EPOCHS = {"mnist": 32, "fashion_mnist": 18, "kmnist": 32, "toys": 32}
LEARNING_RATE = 1e-5  # for both, a twentieth of DCGAN's
LABEL_SMOOTHING = 0.1  # two-sided: 1 becomes 0.95, 0 becomes 0.05
LEAKY_SLOPE = 0.2  # DCGAN sec. 4
GRID = (8, 8)  # rows, columns
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
        layers.LeakyReLU(LEAKY_SLOPE),  # [K1] not ReLU; no batch normalization
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
    """Pictures (B, height, width, 1) to logits (B, 1): D(x) = sigmoid(logit)."""
    network = [
        keras.Input((height, width, 1)),
        layers.Conv2D(
            256, 4, 2, "same", kernel_initializer=normal()
        ),  # (B, 14, 14, 256)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2D(256, 4, 2, "same", kernel_initializer=normal()),  # (B, 7, 7, 256)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2D(256, 4, 2, "same", kernel_initializer=normal()),  # (B, 4, 4, 256)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Flatten(),  # (B, 4096), as 7 / 2 is rounded up
        layers.Dense(1, dtype="float32"),  # (B, 1) Keras' initializer, as in the source
    ]
    return keras.Sequential(network, name="discriminator")


# %% The adversarial game
class GrayscaleGAN(keras.Model):
    """Generator G, discriminator D; a step: D on real, D on fakes, G on fresh z."""

    latent_dim, latent = LATENT_DIM, "normal"
    value_range = (-1, 1)  # of the generator's pictures
    grid = GRID

    def __init__(self, height=28, width=28, seed=0):
        super().__init__()
        self.generator = build_generator(height, width)
        self.discriminator = build_discriminator(height, width)
        self.g_optimizer = keras.optimizers.Adam(LEARNING_RATE)  # [K2] beta_1 is 0.9
        self.d_optimizer = keras.optimizers.Adam(LEARNING_RATE)
        self.g_optimizer.build(self.generator.trainable_variables)
        self.d_optimizer.build(self.discriminator.trainable_variables)
        self.bce = keras.losses.BinaryCrossentropy(
            from_logits=True, label_smoothing=LABEL_SMOOTHING
        )
        self.seed_generator = keras.random.SeedGenerator(seed)
        names = "d_loss", "g_loss", "d_real", "d_fake"  # means over the epoch so far
        self.trackers = [keras.metrics.Mean(name=name) for name in names]
        self.built = True  # or fit() would build it, on pictures in place of z

    def call(self, z, training=False):
        return self.generator(z, training=training)

    def sample_z(self, n, seed):
        return keras.random.normal((n, self.latent_dim), seed=seed)

    def update_d(self, images, label):
        """One update of D on one kind of pictures; returns loss and logits."""
        variables = self.discriminator.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.discriminator(images, training=True)
            loss = self.bce(tf.fill(tf.shape(logits), label), logits)
        self.d_optimizer.apply(tape.gradient(loss, variables), variables)
        return loss, logits

    def train_step(self, data):
        if getattr(self, "optimizer", None):
            raise ValueError("G and D have their own: compile(optimizer=None)")
        images, *_ = keras.utils.unpack_x_y_sample_weight(data)  # labels are ignored
        if images.dtype != tf.uint8:
            tf.debugging.Assert(tf.reduce_max(images) > 9, ["not from 0 to 255"])
        real = tf.cast(images, tf.float32) / 127.5 - 1
        n = tf.shape(real)[0]

        # 1. D: maximize log D(x) in one update, then log(1 - D(G(z))) in another: here,
        # minimize the cross-entropy to labels 1 and 0, smoothed to 0.95 and 0.05.
        d_loss_real, real_logits = self.update_d(real, 1.0)
        z = self.sample_z(n, self.seed_generator)
        fake = self.generator(z, training=False)  # [D1] as in predict()
        d_loss_fake, fake_logits = self.update_d(fake, 0.0)

        # 2. G: maximize log D(G(z)), label 0.95, for fresh z and the updated D.
        z = self.sample_z(n, self.seed_generator)
        g_variables = self.generator.trainable_variables
        with tf.GradientTape() as tape:
            fake = self.generator(z, training=True)
            g_logits = self.discriminator(fake, training=True)
            g_loss = self.bce(tf.ones_like(g_logits), g_logits)
        self.g_optimizer.apply(tape.gradient(g_loss, g_variables), g_variables)

        # 3. Bookkeeping.
        d_loss = d_loss_real + d_loss_fake
        values = d_loss, g_loss, tf.sigmoid(real_logits), tf.sigmoid(fake_logits)
        for tracker, value in zip(self.trackers, values):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


# %% Command line
def load_dataset(name):
    """The training pictures of a data set, uint8 (60000, 28, 28), downloaded once."""
    try:
        if name == "kmnist":
            return np.load(keras.utils.get_file(origin=KMNIST))["arr_0"]
        return getattr(keras.datasets, name).load_data()[0][0]
    except Exception as error:  # no network, or a broken download
        hint = "delete its file in ~/.keras/datasets and try again, or --dataset toys"
        raise SystemExit(f"error: no {name} ({error}): {hint}") from None


def main(argv=None):
    parser = Options(__doc__, "runs/dcgan_grayscale", BATCH_SIZE, STEPS_PER_EPOCH)
    add = parser.add_argument
    add("--dataset", choices=EPOCHS, default="mnist", help="without --images")
    add("--img-size", type=positive, nargs=2, default=IMG_SIZE, help="multiples of 4")
    args = parser.parse_args(argv)
    if any(side % 4 for side in args.img_size):
        parser.error("argument --img-size: height and width must be multiples of 4")
    source = args.images
    if source is None and args.dataset != "toys":
        source = load_dataset(args.dataset)
    args.epochs = args.epochs or EPOCHS[args.dataset]
    images = load_images(source, (*args.img_size, 1), args.fit, args.background)

    gan = GrayscaleGAN(*args.img_size, args.seed)
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
# Deviations, or assumptions where the source is silent (README.md names those that
# all scripts share):
#
# - [D1] In D's step G runs in inference mode, and D has two updates, on real pictures
#   and on fakes. The source's loop is not published; the notebook that its README cites
#   (reference 3) does it this way. On MNIST one update does as well (16,000 steps).
# - [D2] z is standard normal. Pictures are scaled to [-1, 1], the range of tanh. Those
#   of other proportions are padded, and height and width may differ.
# - [D3] Batches come from shuffled passes; the source says only "sampled".
#
# Oddities kept:
#
# - [K1] LeakyReLU in both networks, where the DCGAN paper has ReLU in G; no batch
#   normalization in G's first layer or anywhere in D.
# - [K2] Adam's beta_1 is Keras' 0.9, where the DCGAN paper has 0.5.
