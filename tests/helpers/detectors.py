"""A detector that learns in seconds: bright squares on dark images, red or green."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress.tasks.kinds.detection import Detection
from autocompress.tasks.task import Task

SIDE, STRIDE = 32, 4


class SmallDetector(nn.Module):
    """(N, 3, 32, 32) to (N, 6, 64): centre x, y, width, height in pixels, scores of two classes."""

    def __init__(self) -> None:
        super().__init__()
        steps = (torch.arange(SIDE // STRIDE) + 0.5) * STRIDE
        self.register_buffer("centres", torch.stack(torch.meshgrid(steps, steps, indexing="xy")).flatten(1))
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(24, 24, 3, 1, 1), nn.ReLU()),
        )
        self.box, self.cls = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        before, after = (F.softplus(self.box(features).flatten(2)) * 2 * STRIDE).chunk(2, 1)
        scores = self.cls(features).flatten(2).sigmoid()
        return torch.cat([self.centres + (after - before) / 2, before + after, scores], 1)


def squares(n: int, seed: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Images with none to two squares each, and their boxes."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = 0.1 * torch.rand(n, 3, SIDE, SIDE, generator=generator), []
    for image in images:
        boxes, labels = [], []
        for half in range(2):
            side, label, there = (
                int(torch.randint(*limits, (), generator=generator)) for limits in ((8, 14), (0, 2), (0, 4))
            )
            left, top = (int(torch.randint(0, most - side, (), generator=generator)) for most in (SIDE // 2, SIDE))
            left += half * SIDE // 2
            if there:
                image[label, top : top + side, left : left + side] += 0.8
                boxes.append([left, top, left + side, top + side])
                labels.append(label)
        targets.append({"boxes": torch.tensor(boxes).float().reshape(-1, 4), "labels": torch.tensor(labels).long()})
    return images, targets


def detection_task(**settings: Any) -> Task:
    """A trained detector of squares."""
    model = SmallDetector()
    data, other = squares(64, 0), squares(48, 1)
    optimizer, loss = torch.optim.Adam(model.parameters(), 0.01), Detection("yolo").loss()
    for step in range(120):
        rows = slice(16 * (step % 4), 16 * (step % 4) + 16)
        optimizer.zero_grad()
        loss(model(data[0][rows]), data[1][rows]).backward()
        optimizer.step()
    given = {"train": [data], "val": [other], "example_input": data[0][:1], **settings}
    return Task.detection(model.eval(), **given)
