# %% [markdown]
"""Shoe design with a GAN, 64×64: DCGAN, one-sided label smoothing and a freezing D.

Source: github.com/hminle/shoe-design-using-generative-adversarial-networks (PyTorch).
Papers: Radford et al. 2015, arxiv.org/abs/1511.06434 (DCGAN); Salimans et al. 2016,
arxiv.org/abs/1606.03498 (one-sided label smoothing); Goodfellow et al. 2014,
arxiv.org/abs/1406.2661 (G maximizes log D).
Data: a folder of pictures; the source used the 12,856 sneakers of UT Zappos50K,
136×102 on white.

    python shoe_gan.py --images ./shoes          # experiment 4, the final model
    python shoe_gan.py --images ./shoes --epochs 30
    python shoe_gan.py --images ./shoes --experiment 2    # of the four published

This follows the source's code, and its README for the weight decay of experiment 1.

Deviations:
[D1] Experiment 1 has no weight decay, as the README says; in the code it is 1e-4.
[D2] D ends in a logit, and the loss is computed from it. Through a probability that
     is clipped, as Keras clips it, the gradient dies once D is sure, and training
     stands still.
[D3] The running variance of batch normalization, which only sheets and the saved
     generator use, is the biased one; PyTorch's is unbiased.
[D4] Sheets show the same z every time, in inference mode and at their true contrast.
     The source draws new z in training mode, and stretches the contrast.
[D5] Pictures are shrunk and then padded with white; the source pads first.
[D6] Adam's epsilon is Keras' 1e-7; PyTorch's is 1e-8.

Oddities kept:
[K1] The smoothed label 0.9 is also G's target.
[K2] Experiment 1 shows D pictures in [0, 1], while G's tanh reaches down to -1.
[K3] Weight decay is L2 on every parameter, batch normalization's included.

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
BATCH_SIZE = 64
LEARNING_RATE = 2e-4  # DCGAN sec. 4
BETA_1 = 0.5  # DCGAN sec. 4: with Adam's usual 0.9 training oscillates [D6]
LEAKY_SLOPE = 0.2  # DCGAN sec. 4
FREEZE_RATIO = 0.7  # D rests while its mean loss is below 0.7 × that of G
BN = {"momentum": 0.9, "epsilon": 1e-5}  # PyTorch's; its momentum 0.1 is 0.9 here [D3]
SAMPLE_EVERY_EPOCHS = 1
SHEET = (8, 8)  # rows, columns [D4]
EXPERIMENTS = {  # epochs, range of the pictures, weight decay, real label, freezing
    1: (50, (0, 1), 0.0, 1.0, False),  # [D1] [K2]
    2: (100, (-1, 1), 1e-4, 1.0, False),
    3: (100, (-1, 1), 1e-4, 0.9, False),
    4: (500, (-1, 1), 1e-4, 0.9, True),
}


def normal(mean=0.0):
    """DCGAN sec. 4. One for each layer: used again, it would draw the same numbers."""
    return keras.initializers.RandomNormal(mean, 0.02)


def conv():
    return {"use_bias": False, "kernel_initializer": normal()}


# %% Generator
def build_generator():
    """z of shape (B, 100) to pictures (B, 64, 64, 3) in [-1, 1]."""
    network = [
        keras.Input((LATENT_DIM,)),
        layers.Reshape((1, 1, LATENT_DIM)),  # (B, 1, 1, 100)
        layers.Conv2DTranspose(512, 4, 1, "valid", **conv()),  # (B, 4, 4, 512)
        layers.BatchNormalization(gamma_initializer=normal(1), **BN),
        layers.ReLU(),
        layers.Conv2DTranspose(256, 4, 2, "same", **conv()),  # (B, 8, 8, 256)
        layers.BatchNormalization(gamma_initializer=normal(1), **BN),
        layers.ReLU(),
        layers.Conv2DTranspose(128, 4, 2, "same", **conv()),  # (B, 16, 16, 128)
        layers.BatchNormalization(gamma_initializer=normal(1), **BN),
        layers.ReLU(),
        layers.Conv2DTranspose(64, 4, 2, "same", **conv()),  # (B, 32, 32, 64)
        layers.BatchNormalization(gamma_initializer=normal(1), **BN),
        layers.ReLU(),
        layers.Conv2DTranspose(3, 4, 2, "same", **conv()),  # (B, 64, 64, 3)
        layers.Activation("tanh", dtype="float32"),  # with --bfloat16, too
    ]
    return keras.Sequential(network, name="generator")


# %% Discriminator
def build_discriminator():
    """Pictures (B, 64, 64, 3) to logits (B, 1), real if > 0. [D2]"""
    network = [
        keras.Input(IMAGE_SHAPE),
        layers.Conv2D(64, 4, 2, "same", **conv()),  # (B, 32, 32, 64)
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2D(128, 4, 2, "same", **conv()),  # (B, 16, 16, 128)
        layers.BatchNormalization(gamma_initializer=normal(1), **BN),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2D(256, 4, 2, "same", **conv()),  # (B, 8, 8, 256)
        layers.BatchNormalization(gamma_initializer=normal(1), **BN),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2D(512, 4, 2, "same", **conv()),  # (B, 4, 4, 512)
        layers.BatchNormalization(gamma_initializer=normal(1), **BN),
        layers.LeakyReLU(LEAKY_SLOPE),
        layers.Conv2D(1, 4, 1, "valid", dtype="float32", **conv()),  # (B, 1, 1, 1)
        layers.Flatten(dtype="float32"),  # (B, 1)
    ]
    return keras.Sequential(network, name="discriminator")


# %% The adversarial game
class ShoeGAN(keras.Model):
    """G and D and one step of their game: D first, then G on the same fakes.

    utils.call(network, x) is network(x), and utils.Adam is Keras' Adam, both faster.
    """

    def __init__(self, experiment=4, seed=0):
        super().__init__()
        _, self.value_range, self.weight_decay, *rest = EXPERIMENTS[experiment]
        self.real_label, self.freezing = rest
        self.generator = build_generator()
        self.discriminator = build_discriminator()
        self.g_optimizer = utils.Adam(LEARNING_RATE, beta_1=BETA_1)
        self.d_optimizer = utils.Adam(LEARNING_RATE, beta_1=BETA_1)
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.means = [
            keras.metrics.Mean(name=name)
            for name in ("d_loss", "g_loss", "d_real", "d_fake", "g_real")
        ]

    def sample_z(self, n, seed):
        return keras.random.normal((n, LATENT_DIM), seed=seed)

    def decayed(self, gradients, variables):
        """Coupled L2: the decay joins the gradient before Adam sees it, not after."""
        return [g + self.weight_decay * w for g, w in zip(gradients, variables)]  # [K3]

    def update_d(self, tape, loss):
        variables = self.discriminator.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.d_optimizer.apply(self.decayed(gradients, variables), variables)

    def train_step(self, images):
        low, high = self.value_range
        real = tf.cast(images, tf.float32) / 255 * (high - low) + low  # [K2]
        n = tf.shape(real)[0]
        z = self.sample_z(n, self.seed_generator)
        real_target = tf.fill((n, 1), self.real_label)

        # "Stop updating D while loss D < 0.7 · loss G", both being means over the epoch
        # so far. At its first step they are 0, and D is updated.
        d_mean, g_mean = self.means[0].result(), self.means[1].result()
        frozen = tf.logical_and(self.freezing, d_mean < FREEZE_RATIO * g_mean)

        with tf.GradientTape() as fake_tape:
            fake = utils.call(self.generator, z, training=True)

        # 1. D: maximize log D(x) + log(1 - D(G(z))); experiments 3 and 4 soften the
        # first term to 0.9 log D(x) + 0.1 log(1 - D(x)).
        with tf.GradientTape() as d_tape:
            real_logits = utils.call(self.discriminator, real, training=True)
            fake_logits = utils.call(self.discriminator, fake, training=True)
            d_loss = self.bce(real_target, real_logits) + self.bce(
                tf.zeros_like(fake_logits), fake_logits
            )
        tf.cond(frozen, lambda: None, lambda: self.update_d(d_tape, d_loss))

        # 2. G: maximize log D(G(z)). The same fakes pass the updated D; the gradient
        # goes back through D to the fakes, and on through the pass of G that made them.
        with tf.GradientTape() as g_tape:
            g_tape.watch(fake)
            g_logits = utils.call(self.discriminator, fake, training=True)
            g_loss = self.bce(real_target, g_logits)  # [K1]
        g_variables = self.generator.trainable_variables
        g_gradients = fake_tape.gradient(
            fake, g_variables, output_gradients=g_tape.gradient(g_loss, fake)
        )
        self.g_optimizer.apply(self.decayed(g_gradients, g_variables), g_variables)

        # 3. Bookkeeping: means over the pictures of the epoch so far.
        probabilities = [
            tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits, g_logits)
        ]
        for mean, value in zip(self.means, [d_loss, g_loss, *probabilities]):
            mean.update_state(value, sample_weight=n)
        return {mean.name: mean.result() for mean in self.means}


# %% Command line
@utils.plain_errors
def main(argv=None):
    parser = utils.Parser(
        "shoe_gan",
        "DCGAN with label smoothing and a freezing discriminator, 64×64.",
        batch_size=BATCH_SIZE,
        length="that of the experiment",
    )
    parser.add_argument(
        "--experiment",
        type=int,
        choices=EXPERIMENTS,
        default=4,
        help="1: pure DCGAN, pictures in [0, 1]; 2: in [-1, 1], weight decay; 3: label "
        "smoothing, too; 4: freezing, too; 50, 100, 100, 500 epochs",
    )
    args = parser.parse_args(argv)
    if not (args.epochs or args.steps):
        args.epochs = EXPERIMENTS[args.experiment][0]
    utils.prepare(args)
    if args.generate or args.walk:
        return utils.generate(args)
    images = utils.training_images(args, IMAGE_SHAPE)  # [D5]
    gan = ShoeGAN(args.experiment, args.seed)
    utils.train(
        gan,
        images,
        args,
        sample_every_epochs=SAMPLE_EVERY_EPOCHS,
        sheet_size=SHEET,
        value_range=gan.value_range,
    )


# %%
if __name__ == "__main__":
    main()
