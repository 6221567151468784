"""The five games in PyTorch: the peers that speed.py times.

build() turns a script's network into plain PyTorch modules, layer by layer; the steps
are written by hand. No Keras is imported: a process that times PyTorch holds no other.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce


class Noise(nn.Dropout):
    """While training, Gaussian noise on the input; p is its standard deviation."""

    def forward(self, x):
        return x + self.p * torch.randn_like(x) if self.training else x


ACTIVATIONS = {"relu": lambda: nn.ReLU(True), "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
WITHOUT_WEIGHTS = {
    "Activation": lambda layer: ACTIVATIONS[layer.activation.__name__](),
    "AveragePooling2D": lambda layer: nn.AvgPool2d(layer.pool_size),
    "Cropping2D": lambda layer: nn.ZeroPad2d([-n for n in np.ravel(layer.cropping)]),
    "Dropout": lambda layer: nn.Dropout(layer.rate),
    "Flatten": lambda layer: nn.Flatten(),
    "GaussianNoise": lambda layer: Noise(layer.stddev),
    "LeakyReLU": lambda layer: nn.LeakyReLU(layer.negative_slope, inplace=True),
    "ReLU": lambda layer: nn.ReLU(inplace=True),
    "Reshape": lambda layer: nn.Unflatten(1, np.roll(layer.target_shape, 1).tolist()),
    "UpSampling2D": lambda layer: nn.Upsample(scale_factor=layer.size),
}


def build(network, mirrored):
    """The PyTorch twin of a keras.Sequential of square pictures, with its weights.

    Where a stride and an odd kernel shift Keras' "same" padding by a pixel against
    PyTorch's, the twin is mirrored: its pictures are turned by 180°, at no cost.

    Returns:
        nn.Sequential, and [(arrange, tensor)] in the order of network.weights, where
        arrange(array) brings an array into the order of axes that the tensor has.
    """
    modules, pairs, order_in, as_is = [], [], slice(None), slice(None)
    for i, layer in enumerate(network.layers):
        kind, shape = type(layer).__name__, layer.input.shape[1:]
        if kind == "Flatten":
            order_in = channels_first(shape, mirrored)
        if kind in WITHOUT_WEIGHTS:
            modules.append(WITHOUT_WEIGHTS[kind](layer))
            continue
        to = [x.target_shape for x in network.layers[i:] if hasattr(x, "target_shape")]
        flat = to and len(layer.output.shape) == 2  # what a later Reshape gives shape
        order_out = channels_first(to[0], mirrored) if flat else as_is
        arrange = [lambda w, order=order_out: w[order]] * 4
        if kind == "BatchNormalization":
            flavour = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
            module = flavour(shape[-1], layer.epsilon, 1 - layer.momentum)
        elif kind == "Dense":
            module = nn.Linear(shape[0], layer.units, layer.use_bias)
            arrange[0] = lambda w, i=order_in, o=order_out: w[i][:, o].T
            order_in = as_is
        else:
            padding, module = convolution(layer, shape, mirrored)
            modules += padding
            flip = slice(None, None, -1 if mirrored else 1)
            arrange[0] = lambda w, flip=flip: w[flip, flip].transpose(3, 2, 0, 1)
        modules.append(module)
        if getattr(layer, "activation", None) and layer.activation.__name__ != "linear":
            modules.append(ACTIVATIONS[layer.activation.__name__]())
        names = "weight", "bias", "running_mean", "running_var"
        for variable, arranged, name in zip(layer.weights, arrange, names):
            tensor = getattr(module, name)
            tensor.data.copy_(torch.from_numpy(arranged(variable.numpy()).copy()))
            pairs.append((arranged, tensor))
    return nn.Sequential(*modules), pairs


def channels_first(shape, mirrored):
    """The order that makes (height, width, channels) (channels, height, width)."""
    places = np.arange(math.prod(shape)).reshape(shape)
    places = places[::-1, ::-1] if mirrored else places
    return places.transpose(2, 0, 1).ravel()


def convolution(layer, shape, mirrored):
    """A list of modules that pad, and the module of a convolution."""
    k, s, same = layer.kernel_size[0], layer.strides[0], layer.padding == "same"
    sizes, bias = (shape[-1], layer.filters, k, s), layer.use_bias
    if type(layer).__name__ == "Conv2DTranspose":
        half = math.ceil((k - s) * same / 2)
        return [], nn.ConvTranspose2d(
            *sizes, half, 2 * half - (k - s) * same, bias=bias
        )
    if same and s == 1:
        return [], nn.Conv2d(*sizes, "same", bias=bias)
    padded = ((math.ceil(shape[0] / s) - 1) * s + k - shape[0]) * same
    half = math.ceil(padded / 2)
    if padded % 2 and not mirrored:
        return [nn.ZeroPad2d((half - 1, half) * 2)], nn.Conv2d(*sizes, bias=bias)
    return [], nn.Conv2d(*sizes, half, bias=bias)


class Game:
    """Two networks and a step: uint8 (B, C, H, W) to the losses of D and of G.

    labels are ranges, of real pictures and of fakes; g_adam and d_adam are options of
    Adam. With lean, there are no gradients of weights that a loss does not update.
    """

    mirrored = uniform = False  # what build() makes; z in [-1, 1], not normal

    def __init__(self, g, d, latent_dim, labels, g_adam, d_adam, lean=False,
                 channels_last=False, bfloat16=False, compiled=False):  # fmt: skip
        self.real_label, self.fake_label = labels
        self.latent_dim, self.lean, self.bfloat16 = latent_dim, lean, bfloat16
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        for net in (g, d):
            net.to(memory_format=self.layout).train()
        if compiled:  # net.compile() would leave an nn.Sequential as it is
            g, d = (torch.compile(net, dynamic=False) for net in (g, d))
        self.g, self.d = g, d
        self.g_adam = torch.optim.Adam(g.parameters(), **g_adam)
        self.d_adam = torch.optim.Adam(d.parameters(), **d_adam)

    def sample_z(self, n):
        size = n, self.latent_dim
        return 2 * torch.rand(size) - 1 if self.uniform else torch.randn(size)

    def real(self, images):
        return (images.float() / 127.5 - 1).contiguous(memory_format=self.layout)

    def run(self, net, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return net(x).float()

    @torch.no_grad()
    def predict(self, z):
        """Pictures of G in inference mode."""
        self.g.eval()
        fake = self.run(self.g, z)
        self.g.train()
        return fake

    def bce(self, logits, label):
        return bce(logits, torch.empty_like(logits).uniform_(*label))

    def loss(self, x, label):
        return self.bce(self.run(self.d, x), label)

    def update(self, net, adam, loss):
        adam.zero_grad()
        loss.backward(inputs=list(net.parameters()) if self.lean else None)
        adam.step()
        return loss.detach()

    def update_g(self, fake):
        return self.update(self.g, self.g_adam, self.loss(fake, self.real_label))


class PokemonGAN(Game):
    mirrored = True

    def step(self, images):
        """Both losses from one pass, both gradients before either update."""
        real, fake = self.real(images), self.run(self.g, self.sample_z(len(images)))
        fake_logits, d_loss = self.run(self.d, fake), self.loss(real, self.real_label)
        d_loss = d_loss + self.bce(fake_logits, self.fake_label)
        g_loss = self.bce(fake_logits, self.real_label)
        self.d_adam.zero_grad()
        self.g_adam.zero_grad()
        d_loss.backward(inputs=list(self.d.parameters()), retain_graph=True)
        g_loss.backward(inputs=list(self.g.parameters()))
        self.d_adam.step()
        self.g_adam.step()
        return d_loss, g_loss


class ShoeGAN(Game):
    def step(self, images):
        """D on real pictures and fakes, then G on the same fakes through the new D."""
        real, fake = self.real(images), self.run(self.g, self.sample_z(len(images)))
        d_loss = self.loss(real, self.real_label)
        d_loss = d_loss + self.loss(fake.detach(), self.fake_label)
        return self.update(self.d, self.d_adam, d_loss), self.update_g(fake)


class DCGAN(Game):
    mirrored, uniform, fresh_z = True, True, 0

    def step(self, images):
        """D on real pictures, D on fakes of predict(), G on the same z or on others."""
        real = self.real(images)
        z = self.sample_z(len(real))
        fake = self.predict(z)
        d_loss = self.update(self.d, self.d_adam, self.loss(real, self.real_label))
        d_loss += self.update(self.d, self.d_adam, self.loss(fake, self.fake_label))
        z = self.sample_z(self.fresh_z * len(z)) if self.fresh_z else z
        return d_loss, self.update_g(self.run(self.g, z))


class GrayscaleGAN(DCGAN):
    mirrored, uniform, fresh_z = False, False, 1


class DCGAN256(DCGAN):
    mirrored, fresh_z = False, 2  # twice as many

    def real(self, images):
        x = (images.float() / 255).contiguous(memory_format=self.layout)
        return torch.cat([x, x.flip(3)])
