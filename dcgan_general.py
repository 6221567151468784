# %% [markdown]
"""General DCGAN: any picture size, depth, kernel and stride.

Source: "General DCGAN", a configurable class in Keras.
Paper: Radford et al. 2015, arxiv.org/abs/1511.06434.
Data: a folder of pictures; the source used the sea pictures of the Intel image set at
150×150, depth 4, for "8k epochs", and faces at 200×180, depth 5, for 3k to 8k.

    python dcgan_general.py --images ./sea --depth 4
    python dcgan_general.py --images ./faces --img-size 200 180 3 --depth 5

or, with the source's parameters, from Python:

    gan = DCGAN(save_path="runs/faces", img_size=(200, 180, 3), depth=5)
    gan.train("./faces", epochs=3000)

Where the source's README and its code disagree (D's learning rate [K3]), this follows
the code.

Deviations:
[D1] Any height and width, cropped unevenly where the difference is odd; where the
     source's start size is too small (large kernels, stride 1), the smallest that
     does. The source takes the height for both, and crops evenly.
[D2] z is uniform in [-1, 1] for sheets too; the source draws theirs from a normal.
[D3] In G's step D's batch normalization uses the batch. What the source's frozen D
     used depends on the version of Keras it ran on.
[D4] D ends in a logit, and the loss is computed from it: the same number, but for
     the clipping of probabilities near 0 and 1.
[D5] An epoch is one pass over the pictures; what the source counts is not known to
     us. Its last batch may be smaller. A sheet every 10 epochs is our choice.

Oddities kept:
[K1] In D's step G runs in inference mode (moving averages, no dropout).
[K2] G is trained on the very z whose pictures D has just learned to tell.
[K3] D's learning rate is a quarter of G's, 5e-5, as in the code. The README's runs
     had 2e-4 for both.

Verdict: see the results in README.md.
"""

# %% Imports and settings
from pathlib import Path

try:
    import utils  # before keras: keeps TensorFlow's start quiet
except ModuleNotFoundError as error:
    hint = "copy utils.py, disk.py, fast.py and results.py beside this script, and "
    raise SystemExit(f"{error}: {hint}install requirements.txt") from None

import keras
import numpy as np
import tensorflow as tf
from keras import layers

IMG_SIZE = (150, 150, 3)  # height, width, channels
INPUT_SIZE = 200  # length of z, which is uniform in [-1, 1]
KERNEL_SIZE = (3, 3)
STRIDE = (2, 2)
DEPTH = 3  # convolutions in each network
INCREMENT = 32  # filters: 32, 64, 96 ... in D; 96, 64 ... in G
DROPOUT = 0.4
BATCH_SIZE = 32
EPOCHS = 8_000
LEARNING_RATE = 2e-4  # of G; DCGAN sec. 4
D_LEARNING_RATE = 5e-5  # [K3]
BETA_1 = 0.5  # DCGAN sec. 4: with Adam's usual 0.9 training oscillates
LEAKY_SLOPE = 0.2  # DCGAN sec. 4
BN_MOMENTUM = 0.9
SAMPLE_EVERY_EPOCHS = 10  # [D5]
SHEET = (5, 5)  # rows, columns


def start_size(size, kernel, stride, depth):
    """The side from which G, each layer times stride, reaches size or a little more."""
    start = size
    for _ in range(depth):
        start = (start - kernel) // stride + 1
    if start < 1 or stride > size:
        raise utils.InputError(
            f"depth {depth} is too deep for a side of {size} with kernel {kernel} and "
            f"stride {stride}: try a smaller depth, kernel or stride"
        )
    # start + 2 is the source's rule; size / stride**depth where it is too small. [D1]
    return max(start + 2, -(-size // stride**depth))


# %% Generator
def build_generator(
    input_size=INPUT_SIZE,
    img_size=IMG_SIZE,
    kernel_size=KERNEL_SIZE,
    stride=STRIDE,
    dropout=DROPOUT,
    depth=DEPTH,
    increment=INCREMENT,
):
    """z of shape (B, input_size) to pictures (B, *img_size) in [-1, 1]."""
    height, width = (
        start_size(*side, depth) for side in zip(img_size, kernel_size, stride)
    )
    # The shapes at the line ends are those of the defaults.
    network = [
        keras.Input((input_size,)),
        layers.Dense(height * width * depth * increment),
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.ReLU(),
        layers.Reshape((height, width, depth * increment)),  # (B, 19, 19, 96)
        layers.Dropout(dropout),
    ]
    for i in range(depth - 1):  # (B, 38, 38, 96), (B, 76, 76, 64)
        network += [
            layers.Conv2DTranspose(
                increment * (depth - i), kernel_size, stride, "same"
            ),
            layers.BatchNormalization(momentum=BN_MOMENTUM),
            layers.ReLU(),
        ]
    channels = img_size[2]
    crop = [  # [D1]
        (extra // 2, extra - extra // 2)
        for extra in (
            height * stride[0] ** depth - img_size[0],
            width * stride[1] ** depth - img_size[1],
        )
    ]
    network += [
        layers.Conv2DTranspose(
            channels, kernel_size, stride, "same"
        ),  # (B, 152, 152, 3)
        layers.Cropping2D(crop),  # (B, 150, 150, 3)
        layers.Activation("tanh", dtype="float32"),  # with --bfloat16, too
    ]
    return keras.Sequential(network, name="generator")


# %% Discriminator
def build_discriminator(
    img_size=IMG_SIZE,
    kernel_size=KERNEL_SIZE,
    stride=STRIDE,
    dropout=DROPOUT,
    depth=DEPTH,
    increment=INCREMENT,
):
    """Pictures (B, *img_size) in [-1, 1] to logits (B, 1), real if > 0. [D4]"""
    network = [keras.Input(img_size)]
    for i in range(depth):  # (B, 75, 75, 32), (B, 38, 38, 64), (B, 19, 19, 96)
        network += [
            layers.Conv2D(increment * (i + 1), kernel_size, stride, "same"),
            layers.BatchNormalization(momentum=BN_MOMENTUM),
            layers.Dropout(dropout),
            layers.LeakyReLU(LEAKY_SLOPE),
        ]
    network += [
        layers.Flatten(),  # (B, 34656)
        layers.Dense(1, dtype="float32"),  # (B, 1)
    ]
    return keras.Sequential(network, name="discriminator")


# %% The adversarial game
class DCGAN(keras.Model):
    """G and D and one step of their game: D on real, D on fakes, then G on the same z.

    The parameters are those of the source, and ``seed``; ``optimizer`` is G's,
    ``d_optimizer`` D's. utils.call(network, x) is network(x), and utils.Adam is Keras'
    Adam, both faster.
    """

    def __init__(
        self,
        save_path="runs/dcgan_general",
        kernel_size=KERNEL_SIZE,
        stride=STRIDE,
        input_size=INPUT_SIZE,
        img_size=IMG_SIZE,
        dropout=DROPOUT,
        depth=DEPTH,
        increment=INCREMENT,
        batch_size=BATCH_SIZE,
        optimizer=None,
        d_optimizer=None,
        seed=0,
    ):
        super().__init__()
        self.save_path, self.batch_size, self.seed = save_path, batch_size, seed
        self.input_size, self.img_size = input_size, tuple(img_size)
        keras.utils.set_random_seed(seed)  # of the initial weights
        self.parameters = {
            "img_size": self.img_size,
            "kernel_size": kernel_size,
            "stride": stride,
            "dropout": dropout,
            "depth": depth,
            "increment": increment,
        }
        self.generator = build_generator(input_size, **self.parameters)
        self.discriminator = build_discriminator(**self.parameters)
        self.g_optimizer = optimizer or utils.Adam(LEARNING_RATE, beta_1=BETA_1)
        self.d_optimizer = d_optimizer or utils.Adam(D_LEARNING_RATE, beta_1=BETA_1)
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.means = [
            keras.metrics.Mean(name=name)
            for name in ("d_loss", "g_loss", "d_real", "d_fake")
        ]

    def sample_z(self, n, seed):
        return keras.random.uniform((n, self.input_size), -1, 1, seed=seed)  # [D2]

    def update_d(self, images, label):
        """One update of D on one kind of pictures; gives loss and logits."""
        variables = self.discriminator.trainable_variables
        with tf.GradientTape() as tape:
            logits = utils.call(self.discriminator, images, training=True)
            loss = self.bce(tf.fill(tf.shape(logits), label), logits)
        self.d_optimizer.apply(tape.gradient(loss, variables), variables)
        return loss, logits

    def train_step(self, images):
        real = tf.cast(images, tf.float32) / 127.5 - 1
        z = self.sample_z(tf.shape(real)[0], self.seed_generator)

        # 1. D: maximize log D(x), one update, then log(1 - D(G(z))), another.
        fake = utils.call(self.generator, z, training=False)  # [K1]
        d_loss_real, real_logits = self.update_d(real, 1.0)
        d_loss_fake, fake_logits = self.update_d(fake, 0.0)

        # 2. G: maximize log D(G(z)), for the same z [K2] and the updated D.
        g_variables = self.generator.trainable_variables
        with tf.GradientTape() as tape:
            fake = utils.call(self.generator, z, training=True)
            g_logits = utils.call(self.discriminator, fake, training=True)  # [D3]
            g_loss = self.bce(tf.ones_like(g_logits), g_logits)
        self.g_optimizer.apply(tape.gradient(g_loss, g_variables), g_variables)

        # 3. Bookkeeping: means over the epoch so far.
        d_loss = d_loss_real + d_loss_fake
        values = d_loss, g_loss, tf.sigmoid(real_logits), tf.sigmoid(fake_logits)
        for mean, value in zip(self.means, values):
            mean.update_state(value)
        return {mean.name: mean.result() for mean in self.means}

    def train(self, images, epochs=EPOCHS, args=None):
        """Train on a folder, a file or a uint8 array (N, *img_size), into save_path."""
        if args is None:  # called from Python: the command line's defaults
            parser = utils.Parser(
                "dcgan_general", "", batch_size=self.batch_size, length=""
            )
            args = parser.parse_args([])
            args.out, args.epochs, args.seed = Path(self.save_path), epochs, self.seed
            args.images = None if isinstance(images, np.ndarray) else str(images)
            vars(args).update(self.parameters, input_size=self.input_size)
        utils.train(
            self,
            utils.training_images(args, self.img_size, images),
            args,
            sheet_size=SHEET,
            sample_every_epochs=SAMPLE_EVERY_EPOCHS,
            latent="uniform",
        )


# %% Command line
@utils.plain_errors
def main(argv=None):
    parser = utils.Parser(
        "dcgan_general",
        "DCGAN of any picture size, depth, kernel and stride.",
        batch_size=BATCH_SIZE,
        length=f"{EPOCHS:,}",
    )
    add, whole = parser.add_argument, utils.number(high=4096)
    share, rate = utils.number(float, 0, 0.99), utils.number(float, 1e-9, 1)
    size, layer = "height, width, channels (3 or 1)", "convolutions in each network"
    add("--img-size", type=whole, nargs=3, default=IMG_SIZE, metavar="N", help=size)
    add("--input-size", type=whole, default=INPUT_SIZE, help="length of z")
    add("--kernel-size", type=whole, nargs=2, default=KERNEL_SIZE, help="of all layers")
    add("--stride", type=whole, nargs=2, default=STRIDE, help="of all layers")
    add("--depth", type=whole, default=DEPTH, help=layer)
    add("--increment", type=whole, default=INCREMENT, help="filters per layer")
    add("--dropout", type=share, default=DROPOUT, help="share that is dropped")
    add("--learning-rate", type=rate, default=LEARNING_RATE, help="of G")
    add("--d-learning-rate", type=rate, default=D_LEARNING_RATE, help="of D")
    kinds = {
        "adam": lambda rate: utils.Adam(rate, beta_1=BETA_1),
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    }
    add("--optimizer", choices=kinds, default="adam", help="of both networks")
    args = parser.parse_args(argv)
    if args.img_size[2] not in (1, 3):
        parser.error("--img-size: pictures have 1 or 3 channels")
    if not (args.epochs or args.steps):
        args.epochs = EPOCHS
    utils.prepare(args)
    if args.generate or args.walk:
        return utils.generate(args)
    names = ["kernel_size", "stride", "input_size", "img_size", "dropout", "depth"]
    names += ["increment", "batch_size", "seed"]
    gan = DCGAN(
        args.out,
        optimizer=kinds[args.optimizer](args.learning_rate),
        d_optimizer=kinds[args.optimizer](args.d_learning_rate),
        **{name: getattr(args, name) for name in names},
    )
    gan.train(args.images, args=args)


# %%
if __name__ == "__main__":
    main()
