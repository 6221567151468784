# %% [markdown]
"""General DCGAN: any picture size, depth, kernel and stride.

Source: github.com/Slimco86/DCGAN (standalone Keras 2.2.4, 2019).
Paper: Radford et al. 2015, arxiv.org/abs/1511.06434.
Data: a folder of pictures; the source used the sea pictures of the Intel image set at
150×150, depth 4, for "8k epochs", and faces at 200×180, depth 5, for 3k to 8k.

    python dcgan_general.py --images ./sea --depth 4
    python dcgan_general.py --images ./faces --img-size 200 180 3 --depth 5

or, with the source's constructor parameters, by name:

    gan = DCGAN(save_path="runs/faces", img_size=(200, 180, 3), depth=5)
    gan.train("./faces", epochs=3000)

Its pictures show a grid, as the source's do: at stride 2, kernels of 3 overlap
unevenly. Where the source's code and README disagree, this follows the code. [D1] ...
are deviations and [K1] ... oddities that were kept; they are listed at the end.
"""

# %% Imports and settings
try:  # before keras, which utils sets up
    from utils import InputError, Parser, load_images, number, plain_errors, train
except ImportError as error:
    hint = "put this collection's utils.py beside the script; install requirements.txt"
    raise SystemExit(f"{error}: {hint}") from None

import keras
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
SAMPLE_EVERY = "10 epochs"  # [D4]
SHEET = (5, 5)  # rows, columns


def start_size(size, kernel, stride, depth):
    """The side from which G, times stride in each layer, reaches size or more."""
    start = size
    for _ in range(depth):
        start = int((start - kernel) / stride + 1)  # towards 0, as in the source
    # The source adds 2; where that is too small: size / stride**depth, rounded up. [D1]
    start = max(start + 2, -(-size // stride**depth))
    if start * stride**depth > 8 * size:
        raise InputError(
            f"depth {depth} is too deep for a side of {size} with kernel {kernel} and "
            f"stride {stride}: try a smaller depth, kernel or stride"
        )
    return start


# %% Generator
def build_generator(
    input_size, img_size, kernel_size, stride, dropout, depth, increment
):
    """z (B, input_size) to (B, *img_size) in [-1, 1]; comments show default shapes."""
    height = start_size(img_size[0], kernel_size[0], stride[0], depth)
    width = start_size(img_size[1], kernel_size[1], stride[1], depth)
    network = [
        keras.Input((input_size,)),
        layers.Dense(height * width * depth * increment),
        layers.BatchNormalization(momentum=BN_MOMENTUM),
        layers.ReLU(),
        layers.Reshape((height, width, depth * increment)),  # (B, 19, 19, 96)
        layers.Dropout(dropout),
    ]
    for i in range(depth - 1):  # (B, 38, 38, 96), (B, 76, 76, 64)
        filters = increment * (depth - i)
        network += [
            layers.Conv2DTranspose(filters, kernel_size, stride, "same"),
            layers.BatchNormalization(momentum=BN_MOMENTUM),
            layers.ReLU(),
        ]
    rows = height * stride[0] ** depth - img_size[0]  # too many of them
    columns = width * stride[1] ** depth - img_size[1]
    crop = (rows // 2, -(-rows // 2)), (columns // 2, -(-columns // 2))  # [D1]
    network += [
        layers.Conv2DTranspose(img_size[2], kernel_size, stride, "same"),
        # (B, 152, 152, 3)
        layers.Cropping2D(crop),  # (B, 150, 150, 3)
        layers.Activation("tanh", dtype="float32"),  # also under --bfloat16
    ]
    return keras.Sequential(network, name="generator")


# %% Discriminator
def build_discriminator(img_size, kernel_size, stride, dropout, depth, increment):
    """Pictures (B, *img_size) in [-1, 1] to logits (B, 1), real if > 0."""
    network = [keras.Input(img_size)]
    for i in range(depth):  # (B, 75, 75, 32), (B, 38, 38, 64), (B, 19, 19, 96)
        filters = increment * (i + 1)
        network += [
            layers.Conv2D(filters, kernel_size, stride, "same"),
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

    The source's parameters, plus d_learning_rate and seed; optimizer is G's, and a name
    gives one with Keras' defaults.
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
        d_learning_rate=D_LEARNING_RATE,
        seed=0,
    ):
        super().__init__()
        self.save_path, self.batch_size, self.seed = save_path, batch_size, seed
        self.input_size = input_size
        self.architecture = {
            "img_size": tuple(img_size),
            "kernel_size": tuple(kernel_size),
            "stride": tuple(stride),
            "dropout": dropout,
            "depth": depth,
            "increment": increment,
        }
        keras.utils.set_random_seed(seed)  # of the initial weights
        self.generator = build_generator(input_size, **self.architecture)
        self.discriminator = build_discriminator(**self.architecture)
        adam = keras.optimizers.Adam(LEARNING_RATE, beta_1=BETA_1)
        self.g_optimizer = keras.optimizers.get(optimizer or adam)
        self.d_optimizer = keras.optimizers.Adam(d_learning_rate, beta_1=BETA_1)
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
        self.seed_generator = keras.random.SeedGenerator(seed)
        names = "d_loss", "g_loss", "d_real", "d_fake"  # means over the epoch so far
        self.means = [keras.metrics.Mean(name=name) for name in names]
        self.built = True  # both networks are; else fit() would call the model

    def sample_z(self, n, seed):
        return keras.random.uniform((n, self.input_size), -1, 1, seed=seed)  # [D2]

    def update_d(self, images, label):
        """One update of D on one kind of pictures; returns loss and logits."""
        variables = self.discriminator.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.discriminator(images, training=True)
            loss = self.bce(tf.fill(tf.shape(logits), label), logits)
        self.d_optimizer.apply(tape.gradient(loss, variables), variables)
        return loss, logits

    def train_step(self, images):
        real = tf.cast(images, tf.float32) / 127.5 - 1  # [D3]
        z = self.sample_z(tf.shape(real)[0], self.seed_generator)

        # 1. D: maximize log D(x), one update, then log(1 - D(G(z))), another.
        fake = self.generator(z, training=False)  # [K1] [D7]
        d_loss_real, real_logits = self.update_d(real, 1.0)
        d_loss_fake, fake_logits = self.update_d(fake, 0.0)

        # 2. G: maximize log D(G(z)), for the same z [K2] and the updated D.
        g_variables = self.generator.trainable_variables
        with tf.GradientTape() as tape:
            fake = self.generator(z, training=True)
            g_logits = self.discriminator(fake, training=True)  # [K4]
            g_loss = self.bce(tf.ones_like(g_logits), g_logits)
        self.g_optimizer.apply(tape.gradient(g_loss, g_variables), g_variables)

        # 3. Bookkeeping.
        d_loss = d_loss_real + d_loss_fake  # [D5]
        values = d_loss, g_loss, tf.sigmoid(real_logits), tf.sigmoid(fake_logits)
        for mean, value in zip(self.means, values):
            mean.update_state(value)
        return {mean.name: mean.result() for mean in self.means}

    def train(self, images, epochs=EPOCHS, args=None):
        """Train on a folder, a file, an array or a list of arrays, into save_path."""
        if args is None:  # called from Python: the command line's other defaults
            argv = ["--out", self.save_path, "--seed", self.seed, "--epochs", epochs]
            parser = Parser("dcgan_general", "", batch_size=self.batch_size, length="")
            args = parser.parse_args(argv)
            vars(args).update(self.architecture, input_size=self.input_size)
        train(  # that of utils.py
            self,
            load_images(args, self.architecture["img_size"], images),  # [D6]
            args,
            batch_size=self.batch_size,  # [D4]
            sheet_size=SHEET,
            sample_every=SAMPLE_EVERY,
            latent="uniform",
        )


# %% Command line
@plain_errors()
def main(argv=None):
    about, length = "DCGAN of any size, depth, kernel and stride.", f"{EPOCHS:,}"
    parser = Parser("dcgan_general", about, batch_size=BATCH_SIZE, length=length)

    def add(name, default, kind, text, nargs=None):
        text += " (default: %(default)s)"
        parser.add_argument(name, type=kind, nargs=nargs, default=default, help=text)

    whole, rate = number(1, 4096), number(1e-9, 1, float)
    add("--img-size", IMG_SIZE, whole, "height, width, channels", nargs=3)
    add("--input-size", INPUT_SIZE, whole, "length of z")
    add("--kernel-size", KERNEL_SIZE, whole, "of all convolutions", nargs=2)
    add("--stride", STRIDE, whole, "of all convolutions", nargs=2)
    add("--depth", DEPTH, whole, "convolutions in each network")
    add("--increment", INCREMENT, whole, "filters added per convolution")
    add("--dropout", DROPOUT, number(0, 0.99, float), "rate")
    add("--learning-rate", LEARNING_RATE, rate, "of G")
    add("--d-learning-rate", D_LEARNING_RATE, rate, "of D")
    args = parser.parse_args(argv)
    if args.img_size[2] not in (1, 3):
        raise InputError("--img-size: pictures have 1 or 3 channels")
    if not (args.epochs or args.steps):
        args.epochs = EPOCHS
    adam = keras.optimizers.Adam(args.learning_rate, beta_1=BETA_1)
    names = "kernel_size", "stride", "input_size", "img_size", "dropout", "depth"
    names += "increment", "batch_size", "d_learning_rate", "seed"
    options = {name: getattr(args, name) for name in names}
    gan = DCGAN(args.out, optimizer=adam, **options)
    gan.train(args.images, args=args)


# %%
if __name__ == "__main__":
    main()

# %% [markdown]
# Deviations from the source (README.md names those that all scripts share):
#
# - [D1] Any height and width: where the source's start is too small, G starts larger;
#   it then crops its picture, unevenly if need be. The source uses the height for both,
#   crops evenly, and draws 3 channels, not 1 or 3. It also builds what is refused here:
#   a G whose picture before cropping is more than 8 times as high or wide.
# - [D2] z is uniform in [-1, 1] for sheets too, and the same every time; the source
#   draws new ones for each, from a normal distribution.
# - [D3] Pictures are scaled to [-1, 1]; the source's are 0 to 255, so its G draws
#   pale ones.
# - [D4] An epoch is one shuffled pass, its last batch smaller, with a sheet after every
#   10. The source's is ⌊N / batch⌋ batches, each drawn from all pictures, with a sheet
#   whenever save_interval divides the step in the epoch.
# - [D5] The source shows the last losses of each epoch, and half of D's.
# - [D6] Pictures of another shape are resized and padded; the source skips them.
# - [D7] Keras 2.2 corrects batch normalization's moving averages for their initial
#   values (zero debias); Keras 3 does not. After 60 steps they weigh 0.2 %.
#
# Oddities kept:
#
# - [K1] In D's step G runs in inference mode (moving averages, no dropout).
# - [K2] G is trained on the same z, from which D's fakes have just come.
# - [K3] D's learning rate is a quarter of G's, 5e-5, as in the code. The source's
#   README names 2e-4 for both, and says that some other ratio is often used.
# - [K4] In G's step D, though frozen, uses batch statistics and dropout.
