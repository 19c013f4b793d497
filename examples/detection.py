"""A detector in the manner of YOLOv8 on made scenes, its boxes decoded in the network, suppressed outside.

autocompress search examples/detection.py:task      needs: pip install 'autocompress[detection]'
python examples/detection.py                         trains the base again
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from scenes import CLASSES, SIZE, SceneBatches, scene_batches
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress import Task
from autocompress.tasks.kinds.detection import Detection

CHECKPOINT = Path(__file__).parent / "checkpoints" / "scenes_detector.pt"
STRIDES = (8, 16)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Bottleneck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(channels, channels), conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    """One half of the channels goes through a bottleneck; all that was there is joined."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(inputs, outputs, 1), conv(outputs // 2 * 3, outputs, 1)
        self.m = Bottleneck(outputs // 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat([first, second, self.m(second)], 1))


class SPPF(nn.Module):
    """Pooling over three sizes of neighbourhood."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(channels, channels // 2, 1), conv(channels * 2, channels, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Detector(nn.Module):
    """(N, 3, SIZE, SIZE) to (N, 4 + classes, places): centre x, y, width, height in pixels, and scores from 0 to 1."""

    def __init__(self, n_classes: int = len(CLASSES), widths: tuple[int, int, int, int] = (12, 20, 36, 56)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.backbone8 = nn.Sequential(conv(3, a, 3, 2), conv(a, b, 3, 2), C2f(b, b), conv(b, c, 3, 2), C2f(c, c))
        self.backbone16 = nn.Sequential(conv(c, d, 3, 2), C2f(d, d), SPPF(d))
        self.up, self.neck8 = nn.Upsample(scale_factor=2), C2f(c + d, c)
        self.down, self.neck16 = conv(c, c, 3, 2), C2f(c + d, d)
        self.box = nn.ModuleList(nn.Sequential(conv(width, 24), nn.Conv2d(24, 4, 1)) for width in (c, d))
        self.cls = nn.ModuleList(nn.Sequential(conv(width, 24), nn.Conv2d(24, n_classes, 1)) for width in (c, d))
        for head in self.cls:
            nn.init.constant_(head[-1].bias, -4.0)  # hardly anything is anywhere
        centres, strides = places()
        self.register_buffer("centres", centres.T[None].clone())
        self.register_buffer("strides", strides[None, None].clone())

    def forward(self, images: Tensor) -> Tensor:
        at8 = self.backbone8(images)
        at16 = self.backbone16(at8)
        at8 = self.neck8(torch.cat([self.up(at16), at8], 1))
        at16 = self.neck16(torch.cat([self.down(at8), at16], 1))
        maps = (at8, at16)
        sides = torch.cat([head(x).flatten(2) for head, x in zip(self.box, maps, strict=True)], 2)
        logits = torch.cat([head(x).flatten(2) for head, x in zip(self.cls, maps, strict=True)], 2)
        before, after = (F.softplus(sides) * self.strides).chunk(2, 1)
        return torch.cat([self.centres + (after - before) / 2, before + after, logits.sigmoid()], 1)


def places() -> tuple[Tensor, Tensor]:
    """Centres (A, 2) in pixels and strides (A,) of all places."""
    centres, strides = [], []
    for stride in STRIDES:
        steps = (torch.arange(SIZE // stride) + 0.5) * stride
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()], 1))
        strides.append(torch.full((x.numel(),), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def trained() -> Detector:
    """The detector with the weights of its checkpoint, which are stored in half precision."""
    state = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
    model = Detector()
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval()


def task() -> Task:
    return Task.detection(
        trained(),
        decode="yolo",
        **scene_batches(),
        example_input=torch.zeros(1, 3, SIZE, SIZE),
        channels_last=True,
        name="scenes",
        classes=CLASSES,
        preprocessing="RGB / 255",
    )


def fit(model: nn.Module, batches: SceneBatches, epochs: int, peak: float = 4e-3) -> None:
    """Train with AdamW, a one-cycle learning rate and the loss that candidates are trained with."""
    loss = Detection("yolo").loss()
    optimizer = torch.optim.AdamW(model.parameters(), peak, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=epochs * len(batches), pct_start=0.15)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        for images, targets in batches:
            value = loss(model(images.to(memory_format=torch.channels_last)), targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(batches):.3f}, {seconds:.1f} s", flush=True)


def main() -> None:
    torch.manual_seed(0)
    model: Any = Detector()
    fit(model, scene_batches()["train"], epochs=24)
    torch.save(
        {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}, CHECKPOINT
    )


if __name__ == "__main__":
    main()
