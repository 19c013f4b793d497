"""Networks that learn in seconds where things are: bright squares on dark images, red or green, and spots."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress.tasks.kinds.detection import Detection
from autocompress.tasks.kinds.keypoints import Keypoints
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


def spots(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Dark images with a red spot in the left half and a green one in the right half, and where they are."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(n, 2, 2, generator=generator) * torch.tensor([10.0, 26]) + torch.tensor([3.0, 3])
    points[:, 1, 0] += SIDE // 2
    steps = torch.arange(SIDE) + 0.5
    across, down = (steps - points[..., :1])[:, :, None, :], (steps - points[..., 1:])[..., None]
    heat = torch.exp(-(across**2 + down**2) / 8)
    return torch.cat([heat, torch.zeros(n, 1, SIDE, SIDE)], 1) + 0.05 * torch.rand(n, 3, SIDE, SIDE), points


def keypoints_task() -> Task:
    """A trained network of heat maps of the two spots."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 2, 3, 1, 1))
    data, other = spots(64, 0), spots(48, 1)
    optimizer, loss = torch.optim.Adam(model.parameters(), 0.01), Keypoints(size=(SIDE, SIDE)).loss()
    for _ in range(80):
        optimizer.zero_grad()
        loss(model(data[0]), data[1]).backward()
        optimizer.step()
    return Task.keypoints(model.eval(), train=[data], val=[other], example_input=data[0][:1])
