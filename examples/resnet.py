"""A small residual network for CIFAR-size images: the model that the examples and the benchmark compress."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., 2016, arXiv 1512.03385)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, one residual block per (width, stride), global average pooling, classifier.

    Shapes: (N, in_channels, H, W) -> logits (N, n_classes).
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        strides: Sequence[int],
        *,
        in_channels: int = 3,
        n_classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        inputs = (stem, *widths[:-1])
        self.blocks = nn.Sequential(
            *(ResidualBlock(i, o, stride) for i, o, stride in zip(inputs, widths, strides, strict=True))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(self.stem(x))
        return self.classifier(torch.flatten(self.pool(features), 1))


def cifar10_resnet() -> ResNet:
    """About 1.0 M parameters and 60 MMACs at 3x32x32."""
    return ResNet(32, (32, 64, 128, 208), (1, 2, 2, 2))


def fashion_mnist_resnet() -> ResNet:
    """About 0.36 M parameters and 28 MMACs at 1x28x28."""
    return ResNet(24, (32, 64, 144), (2, 1, 2), in_channels=1)
