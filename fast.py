"""--fast: the same networks through faster kernels for CPUs.

    accelerate(gan)
    gan.fit(...)  # as before, but faster

The algebra is exact; random numbers are not Keras', but of the same distribution.
Layers, weights and random states stay those of the networks, and layers of other kinds
run as they are. docs/speed.md says what it brings.
"""

import math
from functools import partial

import tensorflow as tf
from keras import layers


def accelerate(gan):
    """Give both networks of a gan, which are keras.Sequential, a faster call()."""
    for network in (gan.generator, gan.discriminator):
        object.__setattr__(network, "call", partial(call, network))  # untracked


def call(network, x, training=None, mask=None):
    """What network(x, training=training) computes."""
    for layer in network.layers:
        for faster in (batch_normalization, dropout, gaussian_noise, one_pixel):
            y = faster(layer, x, training)  # or None, for a layer of another kind
            if y is not None:
                break
        x = layer(x, training=training) if y is None else y
    return x


def batch_normalization(layer, x, training):
    """By TensorFlow's fused kernel, which reads x less often."""
    if not (
        isinstance(layer, layers.BatchNormalization)
        and (layer.center and layer.scale and layer.trainable)
        and not getattr(layer, "renorm", False)
        and layer.axis in (-1, len(x.shape) - 1)
        and len(x.shape) in (2, 4)
        and layer.variable_dtype == "float32"  # the kernel has no other
    ):
        return None
    x, unknown = tf.cast(x, layer.compute_dtype), tf.zeros(0)
    mean, variance = layer.moving_mean, layer.moving_variance
    y, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x if len(x.shape) == 4 else x[:, None, None],
        scale=tf.convert_to_tensor(layer.gamma),
        offset=tf.convert_to_tensor(layer.beta),
        mean=unknown if training else tf.convert_to_tensor(mean),
        variance=unknown if training else tf.convert_to_tensor(variance),
        epsilon=layer.epsilon,
        is_training=bool(training),
    )
    if training:
        n = tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)
        biased = batch_variance * (n - 1) / n  # the kernel divides by n - 1
        for moving, new in ((mean, batch_mean), (variance, biased)):
            moving.assign(moving * layer.momentum + new * (1 - layer.momentum))
    return tf.reshape(y, tf.shape(x))


def dropout(layer, x, training):
    """With one random byte a number, for rates that are multiples of 1/256."""
    if not (
        training
        and isinstance(layer, layers.Dropout)
        and layer.noise_shape is None
        and 0 < layer.rate < 1
        and (256 * layer.rate).is_integer()
        and math.prod(x.shape[1:]) % 4 == 0  # a random word has four bytes
    ):
        return None
    x = tf.cast(x, layer.compute_dtype)
    seed = tf.cast(layer.seed_generator.next(), tf.int32)
    words = tf.random.stateless_uniform([tf.size(x) // 4], seed, None, None, tf.uint32)
    drawn = tf.reshape(tf.bitcast(words, tf.uint8), tf.shape(x))
    kept = tf.cast(drawn >= int(256 * layer.rate), x.dtype)
    return x * (kept * tf.cast(1 / (1 - layer.rate), x.dtype))


def gaussian_noise(layer, x, training):
    """From uniform numbers, in pairs (Box and Muller 1958)."""
    if not (
        training
        and isinstance(layer, layers.GaussianNoise)
        and layer.stddev > 0
        and math.prod(x.shape[1:]) % 2 == 0
    ):
        return None
    x, seed = tf.cast(x, layer.compute_dtype), layer.seed_generator.next()
    u = tf.random.stateless_uniform((2, tf.size(x) // 2), tf.cast(seed, tf.int32))
    radius = layer.stddev * tf.sqrt(-2 * tf.math.log1p(-u[0]))
    normal = tf.concat([radius * f(math.tau * u[1]) for f in (tf.cos, tf.sin)], 0)
    return x + tf.cast(tf.reshape(normal, tf.shape(x)), x.dtype)


def one_pixel(layer, x, training):
    """A transposed convolution of one pixel, which is a product with a matrix."""
    spreads = isinstance(layer, layers.Conv2DTranspose) and x.shape[1:3] == (1, 1)
    if not spreads or layer.output.shape[1:3] != layer.kernel_size:
        return None
    kernel = tf.cast(layer.kernel, layer.compute_dtype)  # height, width, out, in
    *shape, inputs = kernel.shape
    x = tf.cast(x[:, 0, 0], layer.compute_dtype)
    y = tf.matmul(tf.reshape(kernel, (-1, inputs)), x, transpose_b=True)
    y = tf.reshape(tf.transpose(y), (-1, *shape))
    if layer.use_bias:
        y = tf.nn.bias_add(y, tf.cast(layer.bias, y.dtype))
    return layer.activation(y)
