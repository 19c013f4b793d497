"""Scenes to detect things in: garments of Fashion-MNIST, tinted and resized, on made backgrounds; boxes are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Split, fashion_mnist_12k
from torch import Tensor
from torch.nn import functional as F

SIZE = 96
CLASSES = ["top", "trousers", "dress", "shoe", "bag"]
_CLASS_OF = (0, 1, 0, 2, 0, 3, 0, 3, 4, 3)
"""Of the ten labels of Fashion-MNIST."""
_SIZES = (20, 48)
"""Smallest and largest side of a garment, in pixels."""
_MOST_OVERLAP = 0.2
"""Of a box with those before it."""


class Scene(NamedTuple):
    """An image (3, SIZE, SIZE) of bytes, with the boxes and classes of what is on it."""

    image: Tensor
    boxes: Tensor
    """(K, 4): left, top, right, bottom in pixels."""
    labels: Tensor


class SceneBatches:
    """Batches of (images from 0 to 1, one mapping of boxes and labels per image), again and again."""

    def __init__(self, scenes: list[Scene], batch_size: int, *, augment: bool = False) -> None:
        self.scenes, self.batch_size, self.augment = scenes, batch_size, augment

    def __len__(self) -> int:
        return -(-len(self.scenes) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
        order = torch.randperm(len(self.scenes)) if self.augment else torch.arange(len(self.scenes))
        for rows in order.split(self.batch_size):
            chosen = [self.scenes[i] for i in rows.tolist()]
            if self.augment:
                chosen = [_mirrored(scene) if torch.rand(()) < 0.5 else scene for scene in chosen]
            images = torch.stack([scene.image for scene in chosen]).float() / 255
            yield images, [{"boxes": scene.boxes, "labels": scene.labels} for scene in chosen]


def scene_batches(n_train: int = 3_000, n_other: int = 500, batch_size: int = 32) -> dict[str, SceneBatches]:
    """Training, validation and test scenes, of garments that are in one of them only."""
    items = fashion_mnist_12k()
    return {
        split: SceneBatches(
            scenes(items[split], n_train if split == "train" else n_other, seed), batch_size, augment=split == "train"
        )
        for seed, split in enumerate(("train", "val", "test"))
    }


def scenes(items: Split, n: int, seed: int) -> list[Scene]:
    """Make `n` scenes, the same ones for a seed."""
    rng = np.random.default_rng(seed)
    return [_scene(items, rng) for _ in range(n)]


def _scene(items: Split, rng: np.random.Generator) -> Scene:
    image, boxes, labels = _background(rng), [], []
    for _ in range(int(rng.integers(0, 5))):
        chosen = int(rng.integers(len(items.x)))
        grey = _resized(items.x[chosen, ..., 0], int(rng.integers(*_SIZES)))
        mask = grey > 0.08
        height, width = grey.shape
        top, left = (int(rng.integers(SIZE - side + 1)) for side in (height, width))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]
        if any(_covered(box, other) > _MOST_OVERLAP for other in boxes):
            continue
        tint = rng.uniform(0.4, 1.0, 3)
        part = image[:, top : top + height, left : left + width]
        part[:] = np.where(mask, (0.25 + 0.75 * grey) * tint[:, None, None], part)
        boxes.append(box)
        labels.append(_CLASS_OF[int(items.y[chosen])])
    return Scene(
        torch.from_numpy((image * 255).clip(0, 255).astype(np.uint8)),
        torch.tensor(np.reshape(boxes, (-1, 4)), dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )


def _background(rng: np.random.Generator) -> Any:
    """Coloured clouds of two sizes and noise, (3, SIZE, SIZE) from 0 to 1."""
    image = np.zeros((3, SIZE, SIZE), np.float32)
    for cells, share in ((3, 0.5), (12, 0.3)):
        clouds = torch.from_numpy(rng.uniform(0, share, (1, 3, cells, cells)).astype(np.float32))
        image += F.interpolate(clouds, size=(SIZE, SIZE), mode="bilinear", align_corners=False)[0].numpy()
    return image + rng.normal(0, 0.03, image.shape).astype(np.float32)


def _resized(item: Any, side: int) -> Any:
    values = torch.from_numpy(item.astype(np.float32) / 255)[None, None]
    return F.interpolate(values, size=(side, side), mode="bilinear", align_corners=False)[0, 0].numpy()


def _covered(box: list[int], other: list[int]) -> float:
    """Share of the smaller of two boxes that the other covers."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return max(0, width) * max(0, height) / smaller


def _mirrored(scene: Scene) -> Scene:
    left, top, right, bottom = scene.boxes.unbind(1)
    return scene._replace(image=scene.image.flip(-1), boxes=torch.stack([SIZE - right, top, SIZE - left, bottom], 1))
