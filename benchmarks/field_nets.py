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


class Inception(nn.Module):
    """GoogLeNet's module (arXiv 1409.4842): four branches side by side."""

    def __init__(self, i: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int) -> None:
        super().__init__()
        self.one = conv(i, one, 1)
        self.three = nn.Sequential(conv(i, three[0], 1), conv(*three, 3))
        self.five = nn.Sequential(conv(i, five[0], 1), conv(*five, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(i, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pooled(x)), 1)


def googlenet() -> nn.Module:
    """The first modules of GoogLeNet, half as wide."""
    layers = [conv(3, 32, 7, 2), nn.MaxPool2d(3, 2, 1), conv(32, 32, 1), conv(32, 96), nn.MaxPool2d(3, 2, 1)]
    layers += [Inception(96, 32, (48, 64), (8, 16), 16), Inception(128, 64, (64, 96), (16, 48), 32)]
    layers += [nn.MaxPool2d(3, 2, 1), Inception(240, 96, (48, 104), (8, 24), 32)]
    return nn.Sequential(*layers, Flat(256))


def regnet() -> nn.Module:
    """RegNetX (arXiv 2003.13678): bottlenecks whose 3x3 convolutions have groups of 16 channels."""
    layers, width = [conv(3, 32, 3, 2)], 32
    for o, n in ((48, 1), (96, 2), (192, 3)):
        for block in range(n):
            s = 1 if block else 2
            short = conv(width, o, 1, s, act=None) if s > 1 else None
            body = nn.Sequential(conv(width, o, 1), conv(o, o, 3, s, o // 16), conv(o, o, 1, act=None))
            layers.append(Residual(body, short, nn.ReLU()))
            width = o
    return nn.Sequential(*layers, Flat(width))


class Ghost(nn.Module):
    """GhostNet's module (arXiv 1911.11907): half of the channels come from a depthwise convolution of the others."""

    def __init__(self, i: int, o: int, act: Act | None = nn.ReLU) -> None:
        super().__init__()
        self.first, self.cheap = conv(i, o // 2, 1, act=act), conv(o // 2, o // 2, 3, 1, o // 2, act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.cat((x, self.cheap(x)), 1)


def ghostnet() -> nn.Module:
    """Bottlenecks of ghost modules."""
    layers, width = [conv(3, 16, 3, 2)], 16
    for hidden, o, s in ((48, 24, 2), (72, 24, 1), (120, 40, 2), (120, 40, 1), (240, 80, 2), (200, 80, 1)):
        down = [conv(hidden, hidden, 3, s, hidden, None)] if s > 1 else []
        body = nn.Sequential(Ghost(width, hidden), *down, Ghost(hidden, o, None))
        layers.append(body if s > 1 else Residual(body))
        width = o
    return nn.Sequential(*layers, conv(width, 240, 1), Flat(240))


class Mixed(nn.Module):
    """MobileViT's block (arXiv 2110.02178) with every pixel as a token."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.before = nn.Sequential(conv(channels, channels, act=nn.SiLU), nn.Conv2d(channels, width, 1))
        mlp = (nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        bodies = [(nn.LayerNorm(width), Attention(width, 4)), (nn.LayerNorm(width), *mlp)] * depth
        self.blocks = nn.Sequential(*(Residual(nn.Sequential(*body)) for body in bodies))
        self.after = conv(width, channels, 1, act=nn.SiLU)
        self.join = conv(2 * channels, channels, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        _, _, height, width = y.shape
        y = self.blocks(y.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (height, width))
        return self.join(torch.cat((x, self.after(y)), 1))


def mobilevit() -> nn.Module:
    """Inverted bottlenecks, then convolution and attention together."""
    layers = [conv(3, 16, 3, 2, act=nn.SiLU), inverted(16, 32, 24, 3, 2, nn.SiLU), inverted(24, 48, 24, 3, 1, nn.SiLU)]
    layers += [inverted(24, 48, 48, 3, 2, nn.SiLU), Mixed(48, 64, 2)]
    layers += [inverted(48, 96, 64, 3, 2, nn.SiLU), Mixed(64, 80, 2), conv(64, 256, 1, act=nn.SiLU)]
    return nn.Sequential(*layers, Flat(256))


class Pyramid(nn.Module):
    """Features of three scales, added from coarse to fine (arXiv 1612.03144), and two small heads at the finest."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2))
        self.down = nn.ModuleList([conv(32, 64, 3, 2), conv(64, 128, 3, 2)])
        self.side = nn.ModuleList([nn.Conv2d(c, 48, 1) for c in (32, 64, 128)])
        self.smooth, self.boxes = conv(48, 48), nn.Sequential(conv(48, 48), nn.Conv2d(48, 12, 1))

    def forward(self, x: Tensor) -> Tensor:
        scales = [self.stem(x)]
        for layer in self.down:
            scales.append(layer(scales[-1]))
        y = self.side[2](scales[2])
        for k in (1, 0):
            y = self.side[k](scales[k]) + nn.functional.interpolate(y, scale_factor=2.0)
        return self.boxes(self.smooth(y)).mean((2, 3))


def pyramid() -> nn.Module:
    """A small detector without its last step."""
    return Pyramid()


def m5() -> nn.Module:
    """A convolutional net on raw audio (arXiv 1610.00087)."""
    layers: list[nn.Module] = []
    for i, o, k, s in ((1, 32, 80, 4), (32, 32, 3, 1), (32, 64, 3, 1), (64, 128, 3, 1)):
        layers += [nn.Conv1d(i, o, k, s), nn.BatchNorm1d(o), nn.ReLU(), nn.MaxPool1d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 12))


def alexnet() -> nn.Module:
    """AlexNet, a quarter as wide, for small images."""
    layers = [conv(3, 16, 11, 4), nn.MaxPool2d(3, 2, 1), conv(16, 48, 5), nn.MaxPool2d(3, 2, 1), conv(48, 96)]
    layers += [conv(96, 64), conv(64, 64), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(576, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 100))


def mnasnet() -> nn.Module:
    """MNASNet (arXiv 1807.11626), half as wide."""
    layers, width = [conv(3, 16, 3, 2), conv(16, 16, groups=16), conv(16, 8, 1, act=None)], 8
    for expand, k, o, n, s in (
        (3, 3, 16, 3, 2),
        (3, 5, 24, 3, 2),
        (6, 5, 40, 3, 2),
        (6, 3, 48, 2, 1),
        (6, 5, 96, 2, 2),
    ):
        for block in range(n):
            layers.append(inverted(width, width * expand, o, k, 1 if block else s, nn.ReLU))
            width = o
    return nn.Sequential(*layers, conv(width, 320, 1), Flat(320))


def xception() -> nn.Module:
    """Xception (arXiv 1610.02357), an eighth as wide: separable convolutions around pooled shortcuts."""
    layers, width = [conv(3, 16, 3, 2), conv(16, 24)], 24
    for o in (32, 64, 96):
        body = [nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False), conv(width, o, 1)]
        body += [nn.Conv2d(o, o, 3, 1, 1, groups=o, bias=False), conv(o, o, 1, act=None), nn.MaxPool2d(3, 2, 1)]
        layers.append(Residual(nn.Sequential(*body), conv(width, o, 1, 2, act=None), nn.ReLU()))
        width = o
    return nn.Sequential(*layers, Flat(width))


def repvgg() -> nn.Module:
    """RepVGG (arXiv 2101.03697) as deployed: nothing but 3x3 convolutions."""
    layers, width = [], 3
    for o, n in ((24, 1), (24, 2), (48, 3), (96, 4), (256, 1)):
        layers += [conv(width if block == 0 else o, o, 3, 1 if block else 2) for block in range(n)]
        width = o
    return nn.Sequential(*layers, Flat(width))


def ecg() -> nn.Module:
    """A residual net on two leads of an electrocardiogram, after Hannun et al. (2019): windows of 15 samples."""
    layers: list[nn.Module] = [nn.Conv1d(2, 32, 15, 2, 7), nn.BatchNorm1d(32), nn.ReLU()]
    for o in (32, 48, 64):
        width = 32 if o == 32 else o - 16
        body = [nn.Conv1d(width, o, 15, 2, 7), nn.BatchNorm1d(o), nn.ReLU(), nn.Conv1d(o, o, 15, 1, 7)]
        layers += [Residual(nn.Sequential(*body), nn.Conv1d(width, o, 1, 2)), nn.BatchNorm1d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 5))


def poolformer() -> nn.Module:
    """PoolFormer (arXiv 2111.11418), a quarter as wide: pooling in place of attention."""
    layers, width = [nn.Conv2d(3, 16, 7, 4, 3)], 16
    for o, n in ((16, 2), (32, 2), (80, 3)):
        layers += [nn.Conv2d(width, o, 3, 2, 1)] if o != width else []
        for _ in range(n):
            mlp = nn.Sequential(nn.BatchNorm2d(o), nn.Conv2d(o, 4 * o, 1), nn.GELU(), nn.Conv2d(4 * o, o, 1))
            layers += [Residual(nn.Sequential(nn.BatchNorm2d(o), nn.AvgPool2d(3, 1, 1))), Residual(mlp)]
        width = o
    return nn.Sequential(*layers, Flat(width))


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
    googlenet: (3, 96, 96),
    regnet: (3, 96, 96),
    ghostnet: (3, 96, 96),
    mobilevit: (3, 96, 96),
    pyramid: (3, 96, 96),
    m5: (1, 4000),
    alexnet: (3, 96, 96),
    mnasnet: (3, 96, 96),
    xception: (3, 96, 96),
    repvgg: (3, 64, 64),
    ecg: (2, 1000),
    poolformer: (3, 96, 96),
}

DEVELOPMENT = ("convnext", "ds_cnn", "mixer", "mobilenet_v3", "resnet50", "squeezenet", "unet", "vit")
"""Nets whose kernels and errors were looked at while the latency model was made."""
NEW = ("alexnet", "ecg", "mnasnet", "poolformer", "repvgg", "xception")
"""Nets that were written and first timed after the model was finished."""


def _made(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return make().eval(), torch.randn(1, *shape)


FIELD: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    make.__name__: (lambda make=make, shape=shape: _made(make, shape)) for make, shape in _SHAPES.items()
}
