"""General DCGAN: any picture size, depth, kernel and stride.

Source: github.com/Slimco86/DCGAN (standalone Keras 2.2.4, 2019).
Paper: Radford et al. 2015, arxiv.org/abs/1511.06434.
Data: a folder of pictures; the source used the sea pictures of the Intel image set at
150×150, depth 4, for "8k epochs", and faces at 200×180, depth 5, for 3k to 8k, or
depth 6, for 1k. By its README these runs had one rate for both networks:

    python dcgan_general.py --images ./sea --depth 4 --d-learning-rate 2e-4
    python dcgan_general.py --images ./faces --img-size 200 180 3 --depth 5 \
        --d-learning-rate 2e-4 --out runs/faces
    python dcgan_general.py --images ./faces --img-size 200 180 3 --depth 6 \
        --learning-rate 8e-4 --d-learning-rate 8e-4 --out runs/faces_6

An epoch is 300 steps; 1,600 of them are 8,000 passes over 1,900 pictures. What those
"8k" counted is unknown; in the source's code an epoch is one pass. This follows that
code. The published pictures come from other versions: that one cannot build 200×180,
and its labels of 1 and 0 set no floor for D's loss, published as never below 0.19 (soft
ones do). Its main.py names forests, depth 4, batches of 64 and 500 epochs. At stride 2
kernels of 3 overlap unevenly: pictures show a grid, as do the source's. Deviations [D1]
... and oddities kept [K1] ... are at the end.
"""

# %% Imports and settings
from utils import Options, Run, batches, load_images, positive

import keras  # after utils, which selects TensorFlow
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
STEPS_PER_EPOCH = 300
EPOCHS = 1_600  # 480,000 steps
LEARNING_RATE = 2e-4  # of G; DCGAN sec. 4
D_LEARNING_RATE = 5e-5  # [K2] G's in the published runs
BETA_1 = 0.5  # DCGAN sec. 4: with Adam's usual 0.9 training oscillates
LEAKY_SLOPE = 0.2  # DCGAN sec. 4
BN_MOMENTUM = 0.9
GRID = (5, 5)  # rows, columns


def start_size(size, kernel, stride, depth):
    """The side from which G, times stride in each layer, reaches size or more."""
    start = size
    for _ in range(depth):
        start = int((start - kernel) / stride + 1)  # toward 0, as in the source
    # The source adds 2. [D1] Where that is too small: size / stride**depth, rounded up.
    start = max(start + 2, -(-size // stride**depth))
    if start * stride**depth > 8 * size:
        hint = "try a smaller --depth, --kernel-size or --stride"
        raise SystemExit(f"error: depth {depth} is too deep for {size} pixels: {hint}")
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
    crop = (rows // 2, -(-rows // 2)), (columns // 2, -(-columns // 2))
    network += [
        layers.Conv2DTranspose(img_size[2], kernel_size, stride, "same"),
        # (B, 152, 152, 3)
        layers.Cropping2D(crop),  # (B, 150, 150, 3)
        layers.Activation("tanh", dtype="float32"),  # also under --bfloat16
    ]
    return keras.Sequential(network, name="generator")


# %% Discriminator
def build_discriminator(img_size, kernel_size, stride, dropout, depth, increment):
    """Pictures (B, *img_size) in [-1, 1] to logits (B, 1): D(x) = sigmoid(logit)."""
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
    """Generator G, discriminator D; a step: D on real, D on fakes, G on the same z.

    It takes the source's parameters, but no save_path and batch_size; optimizer is G's.
    """

    latent = "uniform"
    value_range = (-1, 1)  # of the generator's pictures
    grid = GRID

    def __init__(
        self,
        kernel_size=KERNEL_SIZE,
        stride=STRIDE,
        input_size=INPUT_SIZE,
        img_size=IMG_SIZE,
        dropout=DROPOUT,
        depth=DEPTH,
        increment=INCREMENT,
        optimizer=None,
        d_learning_rate=D_LEARNING_RATE,
        seed=0,
    ):
        super().__init__()
        self.latent_dim = input_size
        architecture = img_size, kernel_size, stride, dropout, depth, increment
        self.generator = build_generator(input_size, *architecture)
        self.discriminator = build_discriminator(*architecture)
        adam = keras.optimizers.Adam(LEARNING_RATE, beta_1=BETA_1)
        self.g_optimizer = keras.optimizers.get(optimizer or adam)
        self.d_optimizer = keras.optimizers.Adam(d_learning_rate, beta_1=BETA_1)
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
        real = tf.cast(images, tf.float32) / 127.5 - 1  # [D3] the source: 0 to 255
        z = self.sample_z(tf.shape(real)[0], self.seed_generator)

        # 1. D: maximize log D(x), one update, then log(1 - D(G(z))), another.
        fake = self.generator(z, training=False)  # [K1] as in predict()
        d_loss_real, real_logits = self.update_d(real, 1.0)
        d_loss_fake, fake_logits = self.update_d(fake, 0.0)

        # 2. G: maximize log D(G(z)), for the same z and the updated D.
        g_variables = self.generator.trainable_variables
        with tf.GradientTape() as tape:
            fake = self.generator(z, training=True)
            g_logits = self.discriminator(fake, training=True)  # [K3] though frozen
            g_loss = self.bce(tf.ones_like(g_logits), g_logits)
        self.g_optimizer.apply(tape.gradient(g_loss, g_variables), g_variables)

        # 3. Bookkeeping.
        d_loss = d_loss_real + d_loss_fake  # [D5] the source shows half of it
        values = d_loss, g_loss, tf.sigmoid(real_logits), tf.sigmoid(fake_logits)
        for tracker, value in zip(self.trackers, values):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


# %% Command line
def main(argv=None):
    parser = Options(__doc__, "runs/dcgan_general", BATCH_SIZE, STEPS_PER_EPOCH, EPOCHS)

    def add(name, default, kind=positive, nargs=None, text="as in the source"):
        parser.add_argument(name, default=default, type=kind, nargs=nargs, help=text)

    add("--img-size", IMG_SIZE, nargs=3, text="height, width, channels (1 or 3)")
    add("--input-size", INPUT_SIZE, text="length of z")
    add("--kernel-size", KERNEL_SIZE, nargs=2, text="of all convolutions")
    add("--stride", STRIDE, nargs=2, text="of all convolutions")
    add("--depth", DEPTH, text="convolutions in each network")
    add("--increment", INCREMENT, text="filters added per convolution")
    add("--dropout", DROPOUT, float, text="rate")
    add("--learning-rate", LEARNING_RATE, float, text="of G")
    add("--d-learning-rate", D_LEARNING_RATE, float, text="of D")
    parser.add_argument("--fast", action="store_true", help="fast.py, for CPUs")
    args = parser.parse_args(argv)
    if args.img_size[2] not in (1, 3):
        parser.error("argument --img-size: pictures have 1 or 3 channels")
    images = load_images(args.images, tuple(args.img_size), args.fit, args.background)

    adam = keras.optimizers.Adam(args.learning_rate, beta_1=BETA_1)
    names = "kernel_size stride input_size img_size dropout depth increment seed"
    settings = {name: getattr(args, name) for name in names.split()}
    gan = DCGAN(optimizer=adam, d_learning_rate=args.d_learning_rate, **settings)
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
# - [D1] Any height and width: where the source's start is too small, G starts larger;
#   it then crops its picture, unevenly if need be. The source uses the height for both,
#   crops evenly, and draws 3 channels, not 1 or 3. It also builds what is refused here:
#   a G whose picture before cropping is more than 8 times as high or wide.
# - [D2] z is uniform in [-1, 1] for grids too, and the same every time; the source
#   draws new ones for each, from a normal distribution.
# - [D3] Pictures are scaled to [-1, 1]; the source's are 0 to 255, so its G draws
#   pale ones. Those of another shape are resized and padded; the source skips them.
# - [D4] Batches come from shuffled passes; each of the source's is drawn from all
#   pictures. It saves a grid whenever save_interval divides the step in the epoch.
# - [D5] Losses are means over an epoch, D's the sum of its two terms; the source shows
#   the last ones of each epoch, and half of D's.
# - [D6] Keras 2.2 corrects batch normalization's moving averages for their initial
#   values (zero debias); Keras 3 does not. After 60 steps they weigh 0.2 %.
#
# Oddities kept:
#
# - [K1] In D's step G runs in inference mode (moving averages, no dropout).
# - [K2] D's learning rate is a quarter of G's, 5e-5, as in the code. The source's
#   README names one rate for both, and says that some other ratio is often used.
# - [K3] In G's step D, though frozen, uses batch statistics and dropout.
