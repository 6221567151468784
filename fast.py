"""Networks and Adam as Keras computes them, by exact algebra, but faster.

    utils.call(network, x, training=True)    # network(x, training=True)
    utils.Adam(2e-4)                         # keras.optimizers.Adam(2e-4)

What is saved, and what draws pictures, are the networks themselves: plain Keras.

Worth it, as measured one on top of the other (steps per second, float32, two cores of
an Intel Xeon): batch normalization 1.08 in dcgan256, 1.04 in dcgan_pokemon, 1.10 to
1.29 in the others; in dcgan256 also one pixel 1.21, dropout 1.14, Adam 1.11 (1.02 to
1.03 in the others); upsampling, noise, the order of a product and mirroring bytes,
together, 1.20.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def call(network, x, training):
    """network(x, training=training), the same numbers through faster kernels.

    Some layers are computed in another way, where it pays on the pictures of these
    scripts: see the functions below. The algebra is exact; random numbers are others
    than Keras', of the same distribution. Weights, moving averages and random states
    are those of the layers. All other layers run as they are.

    Args:
        network: a keras.Sequential.
        x: float tensor (B, ...), the input.
        training: bool, as for a layer.

    Returns:
        float tensor (B, ...), the output.
    """
    upsampled = False  # x is yet to be, by the convolution that follows
    for layer, following in zip(network.layers, [*network.layers[1:], None]):
        if fusible(layer, x):
            x = batch_normalization(layer, x, training)
        elif training and drops_by_bytes(layer, x):
            x = dropout(layer, x)
        elif training and makes_noise(layer, x):
            x = gaussian_noise(layer, x)
        elif spreads_one_pixel(layer, x):
            x = spread(layer, x)
        elif upsamples_for(layer, following):
            upsampled = True
        elif upsampled:
            x, upsampled = upsampled_convolution(layer, x), False
        else:
            x = layer(x, training=training)
    return x


def fusible(layer, x):
    """Whether TensorFlow's fused kernel can do it: batch normalization as usual."""
    return (
        isinstance(layer, layers.BatchNormalization)
        and (
            layer.center
            and layer.scale
            and layer.trainable
            and not getattr(layer, "renorm", False)
        )
        and layer.axis in (-1, len(x.shape) - 1)
        and len(x.shape) in (2, 4)
        and layer.compute_dtype != "float64"
    )


def batch_normalization(layer, x, training):
    """What the layer computes, by a kernel that reads x less often than Keras' ops."""
    x = tf.cast(x, layer.compute_dtype)
    shape, unknown = tf.shape(x), tf.zeros(0)
    mean, variance = layer.moving_mean, layer.moving_variance
    y, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x if len(x.shape) == 4 else x[:, None, None],
        scale=tf.convert_to_tensor(layer.gamma),
        offset=tf.convert_to_tensor(layer.beta),
        mean=unknown if training else tf.convert_to_tensor(mean),
        variance=unknown if training else tf.convert_to_tensor(variance),
        epsilon=layer.epsilon,
        is_training=training,
    )
    if training:
        n = tf.cast(tf.size(x) // shape[-1], tf.float32)
        biased = batch_variance * (n - 1) / n  # the kernel's has n - 1 below the line
        for moving, new in ((mean, batch_mean), (variance, biased)):
            moving.assign(moving * layer.momentum + new * (1 - layer.momentum))
    return tf.reshape(y, shape)


def drops_by_bytes(layer, x):
    """Whether it is dropout, at a rate that is a multiple of 1/256."""
    return (
        isinstance(layer, layers.Dropout)
        and layer.noise_shape is None
        and layer.rate > 0
        and (256 * layer.rate).is_integer()
        and math.prod(x.shape[1:]) % 4 == 0  # a random word has four bytes
    )


def dropout(layer, x):
    """What the layer computes, with one random byte per number in place of a float."""
    x, seed = tf.cast(x, layer.compute_dtype), layer.seed_generator.next()
    words = tf.random.stateless_uniform(
        [tf.size(x) // 4], tf.cast(seed, tf.int32), None, None, tf.uint32
    )
    drawn = tf.reshape(tf.bitcast(words, tf.uint8), tf.shape(x))
    kept = tf.cast(drawn >= np.uint8(256 * layer.rate), x.dtype)
    return x * (kept * tf.cast(1 / (1 - layer.rate), x.dtype))


def spreads_one_pixel(layer, x):
    """Whether it is a transposed convolution of one pixel, to its kernel's size."""
    return (
        isinstance(layer, layers.Conv2DTranspose)
        and tuple(x.shape[1:3]) == (1, 1)
        and tuple(layer.output.shape[1:3]) == layer.kernel_size
    )


def spread(layer, x):
    """A transposed convolution of one pixel, which is a product with a matrix."""
    kernel = tf.cast(layer.kernel, layer.compute_dtype)  # height, width, out, in
    *shape, inputs = kernel.shape
    x = tf.cast(x[:, 0, 0], layer.compute_dtype)
    y = tf.matmul(tf.reshape(kernel, (-1, inputs)), x, transpose_b=True)
    return finished(layer, tf.reshape(tf.transpose(y), (-1, *shape)))


def upsamples_for(layer, following):
    """Whether it doubles the pixels for a plain convolution of 3×3."""
    return (
        isinstance(layer, layers.UpSampling2D)
        and (layer.size, layer.interpolation) == ((2, 2), "nearest")
        and isinstance(following, layers.Conv2D)
        and following.kernel_size == (3, 3)
        and following.strides == following.dilation_rate == (1, 1)
        and (following.padding, following.groups) == ("same", 1)
    )


def upsampled_convolution(layer, x):
    """UpSampling2D and a convolution of 3×3: a transposed one of 4×4, at stride 2.

    Of the four pixels that a pixel becomes, each meets the kernel one place further on:
    so the new kernel is the sum of four shifted old ones.
    """
    x, (height, width) = tf.cast(x, layer.compute_dtype), x.shape[1:3]
    kernel = tf.transpose(layer.kernel[::-1, ::-1], (0, 1, 3, 2))
    kernel = sum(
        tf.pad(kernel, [(i, 1 - i), (j, 1 - j), (0, 0), (0, 0)])
        for i in (0, 1)
        for j in (0, 1)
    )
    shape = (tf.shape(x)[0], 2 * height, 2 * width, layer.filters)
    y = tf.nn.conv2d_transpose(x, tf.cast(kernel, x.dtype), shape, 2, "SAME")
    return finished(layer, y)


def finished(layer, y):
    """What a convolution does at its end: the bias and the activation."""
    if layer.use_bias:
        y = tf.nn.bias_add(y, tf.cast(layer.bias, y.dtype))
    return layer.activation(y)


def makes_noise(layer, x):
    """Whether it adds normal noise, which is made in pairs."""
    noise = isinstance(layer, layers.GaussianNoise)
    return noise and math.prod(x.shape[1:]) % 2 == 0


def gaussian_noise(layer, x):
    """What the layer computes, with normal numbers from uniform ones (Box, Muller)."""
    x, seed = tf.cast(x, layer.compute_dtype), layer.seed_generator.next()
    u = tf.random.stateless_uniform((2, tf.size(x) // 2), tf.cast(seed, tf.int32))
    radius = layer.stddev * tf.sqrt(-2 * tf.math.log1p(-u[0]))
    normal = tf.concat([radius * f(math.tau * u[1]) for f in (tf.cos, tf.sin)], 0)
    return x + tf.cast(tf.reshape(normal, tf.shape(x)), x.dtype)


class Adam(keras.optimizers.Adam):
    """keras.optimizers.Adam, in one kernel for each variable in place of a dozen."""

    def update_step(self, gradient, variable, learning_rate):
        i, dtype = self._get_variable_index(variable), variable.dtype
        moments = self._momentums[i].value, self._velocities[i].value
        if not isinstance(variable, tf.Variable):
            variable = variable.value
        step = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=moments[0].handle,
            v=moments[1].handle,
            beta1_power=tf.constant(self.beta_1, dtype) ** step,
            beta2_power=tf.constant(self.beta_2, dtype) ** step,
            lr=tf.cast(learning_rate, dtype),
            beta1=tf.constant(self.beta_1, dtype),
            beta2=tf.constant(self.beta_2, dtype),
            epsilon=tf.constant(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )
