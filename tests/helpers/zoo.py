"""Small networks of many kinds, each with an example input, and a synthetic task that they learn in seconds.

`ZOO[name]()` gives (model in eval mode, example input of batch size 1), always the same ones. The batch
normalisations have uneven statistics, so that an error in folding or slicing them shows in the outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_CLASSES = 4


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([act()] if act else []))


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity() if stride == 1 and inputs == outputs else conv_bn(inputs, outputs, 1, stride, act=None)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class TinyResNet(nn.Module):
    """CIFAR-style: two blocks of the first width (an identity shortcut), one of each other width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.blocks = nn.Sequential(ResidualBlock(8, 8, 1), ResidualBlock(8, 16, 2), ResidualBlock(16, 32, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.conv = nn.Sequential(
            *([conv_bn(inputs, hidden, 1, act=nn.ReLU6)] if expand != 1 else []),
            conv_bn(hidden, hidden, 3, stride, groups=hidden, act=nn.ReLU6),
            conv_bn(hidden, outputs, 1, act=None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class TinyMobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 8, 3, 1, act=nn.ReLU6),
            InvertedResidual(8, 8, 1, 1),
            InvertedResidual(8, 16, 2, 4),
            InvertedResidual(16, 16, 1, 4),
            InvertedResidual(16, 24, 2, 4),
            conv_bn(24, 48, 1, act=nn.ReLU6),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(48, N_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class Attention(nn.Module):
    """Multi-head self-attention with one qkv projection, written as in timm.

    With `fused` the shapes are fixed numbers, so that no head can be removed; without, they follow the weights.
    """

    def __init__(self, dim: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.fused = heads, dim // heads, fused
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        heads = self.num_heads if self.fused else -1
        qkv = self.qkv(x).reshape(n, tokens, 3, heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        x = x.transpose(1, 2)
        return self.proj(x.reshape(n, tokens, dim) if self.fused else x.flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads, fused)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TinyViT(nn.Module):
    """Patches of 4x4, a class token (fused attention) or mean pooling (plain matmuls)."""

    def __init__(self, *, fused: bool = True, cls_token: bool = True, dim: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 4, 4)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, dim)) if cls_token else None
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 16 + cls_token, dim))
        self.blocks = nn.Sequential(*(TransformerBlock(dim, 4, fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        return self.head(x[:, 0] if self.cls_token is not None else x.mean(dim=1))


class WaveNet1d(nn.Module):
    """1-D convolutions on the raw waveform (N, 1, samples)."""

    def __init__(self) -> None:
        super().__init__()
        widths, layers = (1, 8, 16, 32), []
        for inputs, outputs, kernel in zip(widths[:-1], widths[1:], (9, 5, 5), strict=True):
            layers += [nn.Conv1d(inputs, outputs, kernel, 2, kernel // 2), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(32, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool1d(self.features(x), 1).squeeze(-1))


class SpectrogramDsCnn(nn.Module):
    """The depthwise-separable keyword spotter of Zhang et al. (arXiv 1711.07128), small."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, (10, 4), (2, 2), (5, 1), bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(
            *(nn.Sequential(conv_bn(i, i, groups=i), conv_bn(i, o, 1)) for i, o in ((16, 24), (24, 24), (24, 32)))
        )
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(32, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.blocks(self.stem(x)), (1, 1))
        return self.fc(self.dropout(torch.flatten(x, 1)))


class SensorMlp(nn.Sequential):
    """Two hidden layers with BatchNorm1d on (N, features)."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Linear(24, 64), nn.BatchNorm1d(64), nn.ReLU()),
            *(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU()),
            nn.Linear(32, N_CLASSES),
        )


class SharedNet(nn.Module):
    """One convolution used twice, functional operations, a concatenation, and a channel shuffle.

    The shuffle's view fixes the channel count, so what feeds it (`left`, `right`) cannot be narrowed;
    `shared` can only be narrowed together with `entry`; `tail` is free.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entry = conv_bn(3, 12)
        self.shared = nn.Conv2d(12, 12, 3, padding=1)
        self.left = nn.Conv2d(12, 8, 1)
        self.right = nn.Conv2d(12, 8, 3, padding=1)
        self.tail = conv_bn(16, 24)
        self.fc = nn.Linear(24, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        x = F.relu(self.shared(x))
        x = x + F.relu(self.shared(F.max_pool2d(x, 3, 1, 1)))
        x = torch.cat((torch.relu(self.left(x)), F.hardswish(self.right(x))), dim=1)
        x = x.view(-1, 2, 8, 16, 16).transpose(1, 2).reshape(-1, 16, 16, 16)
        x = F.avg_pool2d(self.tail(x), 2)
        return self.fc(x.amax(dim=(2, 3)))


class GroupedNet(nn.Module):
    """ResNeXt-like: grouped convolutions inside a residual bottleneck, then one that changes the width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.bottleneck = nn.Sequential(conv_bn(16, 32, 1), conv_bn(32, 32, groups=4), conv_bn(32, 16, 1, act=None))
        self.widen = conv_bn(16, 32, stride=2, groups=2)
        self.fc = nn.Linear(32, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.widen(F.relu(x + self.bottleneck(x)))
        return self.fc(x.mean((2, 3)))


def _settled(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> Callable[[], tuple[nn.Module, Tensor]]:
    """Return a factory of the seeded model with uneven batch-norm statistics, and a seeded input."""

    def factory() -> tuple[nn.Module, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    assert module.running_mean is not None and module.running_var is not None
                    nn.init.uniform_(module.running_mean, -0.2, 0.2)
                    nn.init.uniform_(module.running_var, 0.5, 1.5)
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.uniform_(module.bias, -0.2, 0.2)
            return model.eval(), torch.randn(1, *shape)

    return factory


ZOO: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "resnet": _settled(TinyResNet, (3, 16, 16)),
    "mobilenetv2": _settled(TinyMobileNetV2, (3, 16, 16)),
    "vit": _settled(TinyViT, (3, 16, 16)),
    "vit_matmul": _settled(lambda: TinyViT(fused=False, cls_token=False), (3, 16, 16)),
    "audio1d": _settled(WaveNet1d, (1, 256)),
    "dscnn": _settled(SpectrogramDsCnn, (1, 20, 16)),
    "mlp": _settled(SensorMlp, (24,)),
    "shared": _settled(SharedNet, (3, 16, 16)),
    "grouped": _settled(GroupedNet, (3, 16, 16)),
}


def synthetic_classification(
    example_input: Tensor, n_classes: int = N_CLASSES, n: int = 256, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return `n` inputs shaped like the example's samples and their labels, every class equally often.

    An input is its class's smooth pattern, at a random strength, under noise. The patterns depend only on the
    shape and the number of classes: two seeds give two splits of one task. The global random state of torch
    stays as it is.
    """
    shape = tuple(example_input.shape[1:])
    fixed, rng = torch.Generator().manual_seed(1234), torch.Generator().manual_seed(seed)
    patterns = torch.randn(n_classes, *shape, generator=fixed)
    if len(shape) > 1:
        kernel = torch.tensor([0.25, 0.5, 0.25])
        for dim in range(2, len(shape) + 1):  # smooth along space or time, not across channels
            for _ in range(2):
                patterns = sum(
                    weight * patterns.roll(step, dim) for weight, step in zip(kernel, (-1, 0, 1), strict=True)
                )
        patterns = patterns / patterns.flatten(1).std(1).view(-1, *(1,) * len(shape))
        patterns = patterns + torch.randn(n_classes, shape[0], *(1,) * (len(shape) - 1), generator=fixed)
    labels = torch.arange(n) % n_classes
    labels = labels[torch.randperm(n, generator=rng)]
    strength = 0.75 + 0.5 * torch.rand(n, *(1,) * len(shape), generator=rng)
    return strength * patterns[labels] + 0.5 * torch.randn(n, *shape, generator=rng), labels
