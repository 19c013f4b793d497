"""Architectures from the field, small and with random weights: they serve to test predictions of latency, no more.

`FIELD[name]()` gives (model in eval mode, example input of batch size 1). None of them is in the calibration plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Act = Callable[[], nn.Module]


class Residual(nn.Module):
    """x, or a shortcut of it, plus `body(x)`, then an activation."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class Excite(nn.Module):
    """Squeeze and excitation (arXiv 1709.01507)."""

    def __init__(self, channels: int, hidden: int, gate: Act = nn.Sigmoid) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1), gate())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3), keepdim=True))


class Flat(nn.Module):
    """Mean over the pixels, then a linear classifier."""

    def __init__(self, channels: int, classes: int = 100) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


def conv(i: int, o: int, k: int = 3, s: int = 1, groups: int = 1, act: Act | None = nn.ReLU) -> nn.Sequential:
    """Convolution, batch normalisation, activation."""
    layers = [nn.Conv2d(i, o, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act()] if act else []))


def resnet18() -> nn.Module:
    """Basic blocks, 16 to 192 channels."""
    layers, width = [conv(3, 24, 7, 2), nn.MaxPool2d(3, 2, 1)], 24
    for stage, o in enumerate((24, 48, 96, 192)):
        for block in range(2):
            s = 2 if stage and not block else 1
            short = None if s == 1 and width == o else conv(width, o, 1, s, act=None)
            layers.append(Residual(nn.Sequential(conv(width, o, 3, s), conv(o, o, act=None)), short, nn.ReLU()))
            width = o
    return nn.Sequential(*layers, Flat(width))


def resnet50() -> nn.Module:
    """Bottleneck blocks, grouped as in ResNeXt in the last stage."""
    layers, width = [conv(3, 32, 3, 2)], 32
    for stage, (n, o) in enumerate(((2, 64), (3, 128), (2, 256))):
        for block in range(n):
            s, mid = (2 if stage and not block else 1), o // 4
            short = None if s == 1 and width == o else conv(width, o, 1, s, act=None)
            body = nn.Sequential(conv(width, mid, 1), conv(mid, mid, 3, s), conv(mid, o, 1, act=None))
            layers.append(Residual(body, short, nn.ReLU()))
            width = o
    return nn.Sequential(*layers, Flat(width))


def vgg() -> nn.Module:
    """VGG-11 with a quarter of the channels."""
    layers, width = [], 3
    for o in (16, 0, 32, 0, 64, 64, 0, 128, 128, 0, 128, 128):
        layers.append(conv(width, o) if o else nn.MaxPool2d(2))
        width = o or width
    head = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 100)]
    return nn.Sequential(*layers, *head)


def mobilenet_v1() -> nn.Module:
    """Depthwise separable convolutions, half width."""
    layers, width = [conv(3, 16, 3, 2)], 16
    for o, s in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1), (512, 2)):
        layers += [conv(width, width, 3, s, width), conv(width, o, 1)]
        width = o
    return nn.Sequential(*layers, Flat(width))


def inverted(i: int, hidden: int, o: int, k: int, s: int, act: Act, excite: nn.Module | None = None) -> nn.Module:
    """Inverted bottleneck of MobileNetV2 and its successors."""
    layers = [conv(i, hidden, 1, act=act)] if hidden != i else []
    layers += [conv(hidden, hidden, k, s, hidden, act), *([excite] if excite else []), conv(hidden, o, 1, act=None)]
    body = nn.Sequential(*layers)
    return Residual(body) if s == 1 and i == o else body


def mobilenet_v3() -> nn.Module:
    """MobileNetV3-Small, nearly in full."""
    rows = ((3, 16, 16, True, nn.ReLU, 2), (3, 72, 24, False, nn.ReLU, 2), (3, 88, 24, False, nn.ReLU, 1))
    rows += (
        (5, 96, 40, True, nn.Hardswish, 2),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 120, 48, True, nn.Hardswish, 1),
    )
    layers, width = [conv(3, 16, 3, 2, act=nn.Hardswish)], 16
    for k, hidden, o, excite, act, s in rows:
        gate = Excite(hidden, max(8, hidden // 4), nn.Hardsigmoid) if excite else None
        layers.append(inverted(width, hidden, o, k, s, act, gate))
        width = o
    return nn.Sequential(*layers, conv(width, 288, 1, act=nn.Hardswish), Flat(288))


def efficientnet() -> nn.Module:
    """The first stages of EfficientNet-B0."""
    layers, width = [conv(3, 32, 3, 2, act=nn.SiLU)], 32
    for expand, o, n, s, k in ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 2, 2, 3)):
        for block in range(n):
            hidden = width * expand
            layers.append(inverted(width, hidden, o, k, 1 if block else s, nn.SiLU, Excite(hidden, width // 4)))
            width = o
    return nn.Sequential(*layers, conv(width, 320, 1, act=nn.SiLU), Flat(320))


class Fire(nn.Module):
    """SqueezeNet's module: two convolutions side by side, concatenated."""

    def __init__(self, i: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze, self.one, self.three = conv(i, squeeze, 1), conv(squeeze, expand, 1), conv(squeeze, expand)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat((self.one(x), self.three(x)), 1)


def squeezenet() -> nn.Module:
    """SqueezeNet 1.1, shortened."""
    layers = [conv(3, 32, 3, 2), nn.MaxPool2d(2), Fire(32, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(2)]
    layers += [Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(2), Fire(256, 48, 192), Fire(384, 64, 256)]
    return nn.Sequential(*layers, Flat(512))


class Shuffle(nn.Module):
    """ShuffleNetV2's unit (arXiv 1807.11164) with stride 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.half = half
        self.body = nn.Sequential(conv(half, half, 1), conv(half, half, 3, 1, half, None), conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x[:, : self.half], x[:, self.half :]
        x = torch.stack((left, self.body(right)), 2)
        return x.flatten(1, 2)


def shufflenet() -> nn.Module:
    """ShuffleNetV2 with strided convolutions between its stages."""
    layers, width = [conv(3, 24, 3, 2)], 24
    for o, n in ((48, 3), (96, 3), (192, 2)):
        layers += [conv(width, o, 3, 2), *(Shuffle(o) for _ in range(n))]
        width = o
    return nn.Sequential(*layers, conv(width, 384, 1), Flat(384))


class Dense(nn.Module):
    """DenseNet's layer: the input and 16 new channels."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(i), nn.ReLU(), conv(i, 4 * growth, 1), nn.Conv2d(4 * growth, growth, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.body(x)), 1)


def densenet() -> nn.Module:
    """Three dense blocks of four layers."""
    layers, width = [conv(3, 32, 3, 2)], 32
    for stage in range(3):
        for _ in range(4):
            layers.append(Dense(width, 16))
            width += 16
        if stage < 2:
            layers += [conv(width, width // 2, 1), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*layers, Flat(width))


class ChannelsLast(nn.Module):
    """Runs a body of linear layers over the channels of an image."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """ConvNeXt (arXiv 2201.03545), a quarter as wide."""
    layers, width = [nn.Conv2d(3, 32, 4, 4)], 32
    for o, n in ((32, 2), (64, 2), (128, 3)):
        layers += [nn.Conv2d(width, o, 2, 2)] if o != width else []
        width = o
        for _ in range(n):
            mlp = ChannelsLast(nn.LayerNorm(o), nn.Linear(o, 4 * o), nn.GELU(), nn.Linear(4 * o, o))
            layers.append(Residual(nn.Sequential(nn.Conv2d(o, o, 7, 1, 3, groups=o), mlp)))
    return nn.Sequential(*layers, Flat(width))


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(n, tokens, width))


class Tokens(nn.Module):
    """Patches of an image as tokens, through blocks, to their mean."""

    def __init__(self, blocks: Sequence[nn.Module], width: int, patch: int) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, width, patch, patch), nn.Sequential(*blocks)
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.fc(self.norm(self.blocks(x)).mean(1))


def vit() -> nn.Module:
    """ViT-Tiny, half as deep."""
    blocks: list[nn.Module] = []
    for _ in range(6):
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(192), Attention(192, 3))))
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(192), nn.Linear(192, 768), nn.GELU(), nn.Linear(768, 192))))
    return Tokens(blocks, 192, 8)


class Across(nn.Module):
    """Runs a body over the tokens instead of the features."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.transpose(1, 2)).transpose(1, 2)


def mixer() -> nn.Module:
    """MLP-Mixer (arXiv 2105.01601), 4 layers on 64 tokens."""
    blocks: list[nn.Module] = []
    for _ in range(4):
        blocks.append(
            Residual(nn.Sequential(nn.LayerNorm(128), Across(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))))
        )
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 128))))
    return Tokens(blocks, 128, 8)


def ds_cnn() -> nn.Module:
    """The keyword spotter of Zhang et al. (arXiv 1711.07128), medium."""
    layers = [nn.Sequential(nn.Conv2d(1, 64, (10, 4), (2, 2), (5, 1), bias=False), nn.BatchNorm2d(64), nn.ReLU())]
    layers += [layer for _ in range(4) for layer in (conv(64, 64, 3, 1, 64), conv(64, 64, 1))]
    return nn.Sequential(*layers, Flat(64, 12))


def tcn() -> nn.Module:
    """A temporal convolutional net: dilated 1-D convolutions with shortcuts."""
    layers: list[nn.Module] = [nn.Conv1d(16, 64, 1)]
    for power in range(5):
        d = 2**power
        body = nn.Sequential(nn.Conv1d(64, 64, 3, 1, d, d), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 64, 1))
        layers.append(Residual(body))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 12))


def unet() -> nn.Module:
    """Encoder and decoder, whose decoder enlarges by transposed convolutions."""
    down = [conv(3, 16), conv(16, 32, 3, 2), conv(32, 64, 3, 2)]
    up = [nn.ConvTranspose2d(64, 32, 2, 2), conv(32, 32), nn.ConvTranspose2d(32, 16, 2, 2), conv(16, 16)]
    return nn.Sequential(*down, *up, Flat(16, 8))


_SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    resnet18: (3, 96, 96),
    resnet50: (3, 64, 64),
    vgg: (3, 64, 64),
    mobilenet_v1: (3, 96, 96),
    mobilenet_v3: (3, 96, 96),
    efficientnet: (3, 96, 96),
    squeezenet: (3, 96, 96),
    shufflenet: (3, 96, 96),
    densenet: (3, 48, 48),
    convnext: (3, 96, 96),
    vit: (3, 64, 64),
    mixer: (3, 64, 64),
    ds_cnn: (1, 49, 10),
    tcn: (16, 128),
    unet: (3, 48, 48),
}


def _made(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return make().eval(), torch.randn(1, *shape)


FIELD: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    make.__name__: (lambda make=make, shape=shape: _made(make, shape)) for make, shape in _SHAPES.items()
}
