"""The five games in plain PyTorch, eager, as its users write them: what speed.py
compares with.

Layers, labels, schedules and optimizers are those of the scripts, one for one, with
PyTorch's own padding. Where that is shifted by a pixel against Keras' "same" (stride 2
and an odd kernel), the network is the mirror image of ours, see copy_weights().
Gradients are taken of the network that is updated alone, which is faster than the usual
backward() through both. check.py shows that all this computes the same.
"""

import math

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

ADAM = {"lr": 2e-4, "betas": (0.5, 0.999), "eps": 1e-7}  # eps: Keras'


def conv(inputs, outputs, kernel, stride=1, padding="same", bias=True):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias)


def deconv(inputs, outputs, kernel, padding=1, extra=0, bias=True, stride=2):
    return nn.ConvTranspose2d(
        inputs, outputs, kernel, stride, padding, extra, bias=bias
    )


class Noise(nn.Module):
    """Gaussian noise on the input, while training."""

    def __init__(self, deviation):
        super().__init__()
        self.p = deviation

    def forward(self, x):
        return x + self.p * torch.randn_like(x) if self.training else x


class Crop(nn.Module):
    def __init__(self, height, width):
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x):
        top = (x.shape[2] - self.height) // 2
        left = (x.shape[3] - self.width) // 2
        return x[:, :, top : top + self.height, left : left + self.width]


class Game:
    """Two networks, their optimizers and the step of the game.

    step() takes a uint8 tensor (B, C, H, W) and returns the losses of D and of G.
    """

    latent_dim = 100
    mirrored = False  # the networks are mirror images of ours
    weight_decay = 0.0
    adam_g = adam_d = ADAM

    def __init__(self, bfloat16=False, channels_last=False, lean=False):
        self.lean = lean
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.g, self.d = self.generator(), self.discriminator()
        for net in (self.g, self.d):
            net.to(memory_format=self.layout).train()
        self.optimizer_g = torch.optim.Adam(
            self.g.parameters(), weight_decay=self.weight_decay, **self.adam_g
        )
        self.optimizer_d = torch.optim.Adam(
            self.d.parameters(), weight_decay=self.weight_decay, **self.adam_d
        )
        self.bfloat16 = bfloat16

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16)

    def sample_z(self, n):
        return torch.randn(n, self.latent_dim)

    def real(self, images):
        return (images.float() / 127.5 - 1).contiguous(memory_format=self.layout)

    def draw(self, z):
        with self.autocast():
            return self.g(z).float()

    def judge(self, x):
        with self.autocast():
            return self.d(x).float()

    def loss(self, logits, label):
        return bce(logits, torch.full_like(logits, label))

    def update(self, net, optimizer, loss):
        optimizer.zero_grad()
        loss.backward(inputs=list(net.parameters()) if self.lean else None)
        optimizer.step()


class Pokemon(Game):
    mirrored = True

    def generator(self):
        def block(inputs, outputs):
            return [nn.BatchNorm2d(inputs, 1e-3, 0.01), nn.LeakyReLU(0.3),
                    deconv(inputs, outputs, 5, 2, 1, bias=False)]  # fmt: skip

        return nn.Sequential(
            nn.Linear(100, 256 * 8 * 8, bias=False),
            nn.Unflatten(1, (256, 8, 8)),
            *block(256, 128),
            *block(128, 64),
            *block(64, 3),
            nn.Tanh(),
        )

    def discriminator(self):
        return nn.Sequential(
            conv(3, 64, 5),
            nn.LeakyReLU(0.3),
            nn.Dropout(0.3),
            conv(64, 128, 5, 2, 2),
            nn.Flatten(),
            nn.Linear(128 * 32 * 32, 1),
        )

    def step(self, images):
        """Both losses from one pass, both gradients before either update."""
        real, z = self.real(images), self.sample_z(len(images))
        fake = self.draw(z)
        real_logits, fake_logits = self.judge(real), self.judge(fake)
        d_loss = self.loss(real_logits, 1.0) + self.loss(fake_logits, 0.0)
        g_loss = self.loss(fake_logits, 1.0)
        for net, optimizer, loss in (
            (self.d, self.optimizer_d, d_loss),
            (self.g, self.optimizer_g, g_loss),
        ):
            optimizer.zero_grad()
            loss.backward(inputs=list(net.parameters()), retain_graph=net is self.d)
        self.optimizer_d.step()
        self.optimizer_g.step()
        return d_loss, g_loss


class Grayscale(Game):
    adam_g = adam_d = {"lr": 1e-5, "eps": 1e-7}

    def generator(self):
        def block(inputs):
            return [deconv(inputs, 256, 4), nn.BatchNorm2d(256, 1e-3, 0.01),
                    nn.LeakyReLU(0.2)]  # fmt: skip

        return nn.Sequential(
            nn.Linear(100, 128 * 7 * 7),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, (128, 7, 7)),
            *block(128),
            *block(256),
            conv(256, 1, 4),
            nn.Tanh(),
        )

    def discriminator(self):
        return nn.Sequential(
            conv(1, 256, 4, 2, 1),
            nn.LeakyReLU(0.2),
            conv(256, 256, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.ZeroPad2d((1, 2, 1, 2)),  # 7 to 4, as Keras' "same" does
            conv(256, 256, 4, 2, 0),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(256 * 4 * 4, 1),
        )

    def step(self, images):
        """D on real pictures and fakes, then G on fresh z; labels 0.95 and 0.05."""
        real = self.real(images)
        with torch.no_grad():
            fake = self.draw(self.sample_z(len(images)))
        d_loss = (
            self.loss(self.judge(real), 0.95) + self.loss(self.judge(fake), 0.05)
        ) / 2
        self.update(self.d, self.optimizer_d, d_loss)
        fake = self.draw(self.sample_z(len(images)))
        g_loss = self.loss(self.judge(fake), 0.95)
        self.update(self.g, self.optimizer_g, g_loss)
        return d_loss, g_loss


class Shoe(Game):
    """Experiment 3: the final model without freezing, so that all steps are equal."""

    weight_decay = 1e-4

    def generator(self):
        def block(inputs, outputs):
            return [nn.BatchNorm2d(inputs, 1e-5, 0.1), nn.ReLU(),
                    deconv(inputs, outputs, 4, bias=False)]  # fmt: skip

        return nn.Sequential(
            nn.Unflatten(1, (100, 1, 1)),
            deconv(100, 512, 4, 0, bias=False, stride=1),
            *block(512, 256),
            *block(256, 128),
            *block(128, 64),
            *block(64, 3),
            nn.Tanh(),
        )

    def discriminator(self):
        def block(inputs, outputs):
            return [conv(inputs, outputs, 4, 2, 1, bias=False),
                    nn.BatchNorm2d(outputs, 1e-5, 0.1), nn.LeakyReLU(0.2)]  # fmt: skip

        return nn.Sequential(
            conv(3, 64, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            *block(64, 128),
            *block(128, 256),
            *block(256, 512),
            conv(512, 1, 4, 1, 0, bias=False),
            nn.Flatten(),
        )

    def step(self, images):
        """D on real pictures and fakes, then G on the same fakes through the new D."""
        real = self.real(images)
        fake = self.draw(self.sample_z(len(images)))
        d_loss = self.loss(self.judge(real), 0.9)
        d_loss = d_loss + self.loss(self.judge(fake.detach()), 0.0)
        self.update(self.d, self.optimizer_d, d_loss)
        g_loss = self.loss(self.judge(fake), 0.9)
        self.update(self.g, self.optimizer_g, g_loss)
        return d_loss, g_loss


class General(Game):
    """150×150, depth 3: the defaults."""

    latent_dim = 200
    mirrored = True
    adam_d = ADAM | {"lr": 5e-5}

    def generator(self):
        return nn.Sequential(
            nn.Linear(200, 96 * 19 * 19),
            nn.BatchNorm1d(96 * 19 * 19, 1e-3, 0.1),
            nn.ReLU(),
            nn.Unflatten(1, (96, 19, 19)),
            nn.Dropout(0.4),
            deconv(96, 96, 3, 1, 1),
            nn.BatchNorm2d(96, 1e-3, 0.1),
            nn.ReLU(),
            deconv(96, 64, 3, 1, 1),
            nn.BatchNorm2d(64, 1e-3, 0.1),
            nn.ReLU(),
            deconv(64, 3, 3, 1, 1),
            Crop(150, 150),
            nn.Tanh(),
        )

    def discriminator(self):
        def block(inputs, outputs):
            return [conv(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs, 1e-3, 0.1),
                    nn.Dropout(0.4), nn.LeakyReLU(0.2)]  # fmt: skip

        return nn.Sequential(
            *block(3, 32),
            *block(32, 64),
            *block(64, 96),
            nn.Flatten(),
            nn.Linear(96 * 19 * 19, 1),
        )

    def sample_z(self, n):
        return 2 * torch.rand(n, self.latent_dim) - 1

    def step(self, images):
        """D on real pictures, D on fakes (G in inference mode), G on the same z."""
        real, z = self.real(images), self.sample_z(len(images))
        fake = self.draw_in_inference_mode(z)
        d_loss = 0.0
        for x, label in ((real, 1.0), (fake, 0.0)):
            loss = self.loss(self.judge(x), label)
            self.update(self.d, self.optimizer_d, loss)
            d_loss += loss
        g_loss = self.loss(self.judge(self.draw(z)), 1.0)
        self.update(self.g, self.optimizer_g, g_loss)
        return d_loss, g_loss

    def draw_in_inference_mode(self, z):
        self.g.eval()
        with torch.no_grad():
            fake = self.draw(z)
        self.g.train()
        return fake


class DCGAN256(General):
    latent_dim = 4096
    mirrored = False
    adam_g = adam_d = {"lr": 1e-4, "eps": 1e-7}

    def generator(self):
        def block(inputs, outputs, kernel):
            return [conv(inputs, outputs, kernel), nn.BatchNorm2d(outputs, 1e-3, 0.3),
                    nn.ReLU(), nn.Upsample(scale_factor=2)]  # fmt: skip

        return nn.Sequential(
            nn.Unflatten(1, (4096, 1, 1)),
            deconv(4096, 256, 4, 0, stride=1),
            nn.ReLU(),
            *block(256, 256, 4),
            *block(256, 128, 4),
            *block(128, 64, 3),
            *block(64, 32, 3),
            *block(32, 16, 3),
            conv(16, 8, 3),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            conv(8, 3, 3),
            nn.Sigmoid(),
        )

    def discriminator(self):
        def block(inputs, outputs):
            return [conv(inputs, outputs, 3), nn.BatchNorm2d(outputs, 1e-3, 0.3),
                    nn.LeakyReLU(0.2), nn.Dropout(0.25), nn.AvgPool2d(2)]  # fmt: skip

        return nn.Sequential(
            Noise(0.2),
            conv(3, 8, 3),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.25),
            nn.AvgPool2d(2),
            *block(8, 16),
            *block(16, 32),
            *block(32, 64),
            *block(64, 128),
            *block(128, 256),
            nn.Flatten(),
            nn.Linear(4096, 128),
            nn.LeakyReLU(0.2),
            nn.Linear(128, 1),
        )

    def real(self, images):
        x = (images.float() / 255).contiguous(memory_format=self.layout)
        return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)

    def soft_labels(self, logits, low, high):
        return low + (high - low) * torch.rand_like(logits)

    def loss(self, logits, label):
        return bce(logits, self.soft_labels(logits, *label))

    def step(self, images):
        """D on real pictures, D on fakes (G in inference mode), G on twice as many."""
        n, real_label, fake_label = len(images), (0.0, 0.01), (0.99, 1.0)
        real, fake = self.real(images), self.draw_in_inference_mode(self.sample_z(n))
        d_loss = 0.0
        for x, label in ((real, real_label), (fake, fake_label)):
            loss = self.loss(self.judge(x), label)
            self.update(self.d, self.optimizer_d, loss)
            d_loss += loss
        g_loss = self.loss(self.judge(self.draw(self.sample_z(2 * n))), real_label)
        self.update(self.g, self.optimizer_g, g_loss)
        return d_loss, g_loss


GAMES = {
    "dcgan256": DCGAN256,
    "dcgan_general": General,
    "dcgan_grayscale": Grayscale,
    "dcgan_pokemon": Pokemon,
    "shoe_gan": Shoe,
}


def copy_weights(keras_net, torch_net, mirrored):
    """Bring the weights of a Keras network into its PyTorch peer."""
    with torch.no_grad():
        for ours, theirs in paired(keras_net, torch_net, mirrored):
            theirs.copy_(torch.from_numpy(ours))


def paired(keras_net, torch_net, mirrored):
    """Yield (our weight, brought into PyTorch's order of axes; its tensor there)."""
    theirs = iter(m for m in torch_net if list(m.parameters()))
    for i, layer in enumerate(keras_net.layers):
        if not layer.weights:
            continue
        module, kind = next(theirs), type(layer).__name__
        before = keras_net.layers[i - 1].input.shape[1:] if i else ()
        weights = [variable.numpy() for variable in layer.weights]
        if kind in ("Conv2D", "Conv2DTranspose"):
            weights[0] = weights[0].transpose(3, 2, 0, 1)
            if mirrored:
                weights[0] = weights[0][:, :, ::-1, ::-1].copy()
        elif kind == "Dense":
            weights[0] = weights[0].T
            if i and type(keras_net.layers[i - 1]).__name__ == "Flatten":
                weights[0] = channels_first(weights[0], before, mirrored, axis=1)
        for reshape in keras_net.layers[i : i + 4]:  # of what comes out of a Dense
            if type(reshape).__name__ == "Reshape" and layer.output.shape[1:] == (
                math.prod(reshape.target_shape),
            ):
                weights = [
                    channels_first(w, reshape.target_shape, mirrored, axis=0)
                    for w in weights
                ]
        names = ["weight", "bias"]
        if kind == "BatchNormalization":
            names += ["running_mean", "running_var"]
        for name, weight in zip(names, weights, strict=False):
            yield weight, getattr(module, name)


def channels_first(weight, shape, mirrored, axis):
    """Reorder an axis that runs over (height, width, channels)."""
    rest = weight.shape[1 - axis :][:1] if weight.ndim == 2 else ()
    if axis == 0:
        weight = weight.reshape(*shape, *rest)
        if mirrored:
            weight = weight[::-1, ::-1]
        return weight.transpose(2, 0, 1, *range(3, weight.ndim)).reshape(-1, *rest)
    return channels_first(weight.T, shape, mirrored, axis=0).T.copy()
