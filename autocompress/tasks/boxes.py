"""Boxes of a detector: from what its network returns to boxes, scores and classes.

Needs numpy alone: a copy lies beside every exported detector. `candidates` takes torch tensors too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

_MOST_CANDIDATES = 1_000
"""Of the highest scores of an image so many go into non-maximum suppression."""


class Found(NamedTuple):
    """The boxes of one image, highest score first."""

    boxes: np.ndarray
    """(K, 4): left, top, right, bottom in pixels of the input."""
    scores: np.ndarray
    """(K,), from 0 to 1."""
    labels: np.ndarray
    """(K,): classes, counted from 0."""


class Decoder(NamedTuple):
    """How to read the outputs of a network."""

    head: str
    """One of `HEADS`, or "detections" for a network that returns its boxes after non-maximum suppression."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the input; only heads with relative boxes read it."""
    strides: tuple[int, ...] = (8, 16, 32)
    """Pixels between two places of each map, for the head "yolo-maps"."""
    min_score: float = 0.01
    iou: float = 0.7
    """Overlap (intersection over union) above which the box of a class with the lower score is dropped."""
    most: int = 100
    """Boxes of an image."""

    def candidates(self, outputs: Mapping[str, Any]) -> tuple[Any, Any]:
        """All boxes (N, A, 4), left, top, right, bottom in pixels, with the scores of the classes (N, A, C).

        Args:
            outputs: by name, arrays or tensors.

        Raises:
            ValueError: their shapes are not those of this head.
        """
        boxes, scores = HEADS[self.head]({name: _full(values) for name, values in outputs.items()}, self)
        return boxes, scores

    def __call__(self, outputs: Mapping[str, np.ndarray]) -> list[Found]:
        """The boxes of each image."""
        if self.head == "detections":
            return _finished(outputs, self)
        return self.suppressed(*self.candidates(outputs))

    def suppressed(self, boxes: np.ndarray, scores: np.ndarray) -> list[Found]:
        """The boxes of each image that remain of all its `candidates`."""
        return [
            suppress(*pair, min_score=self.min_score, iou=self.iou, most=self.most)
            for pair in zip(boxes, scores, strict=True)
        ]

    def best(self, found: Found) -> Found:
        """Of the boxes of an image, in any order and with labels of any type, those that count."""
        order = np.argsort(-found.scores, kind="stable")
        order = order[found.scores[order] > self.min_score][: self.most]
        return Found(found.boxes[order], found.scores[order], np.rint(found.labels[order]).astype(np.int64))


def suppress(boxes: np.ndarray, scores: np.ndarray, *, min_score: float, iou: float, most: int) -> Found:
    """Non-maximum suppression among the boxes of each class; a box counts for every class with enough score.

    Args:
        boxes: (A, 4); those that are NaN or infinite are left out.
        scores: (A, C).
        min_score: boxes have more.
        iou: overlap (intersection over union) above which the box with the lower score is dropped.
        most: boxes to return.
    """
    places, labels = np.nonzero((scores > min_score) & np.isfinite(boxes).all(1)[:, None])
    order = np.argsort(-scores[places, labels], kind="stable")[:_MOST_CANDIDATES]
    places, labels = places[order], labels[order]
    found = boxes[places].astype(np.float64)
    apart = found + (labels * (np.ptp(found) + 1.0))[:, None] if len(found) else found  # classes never overlap
    left, kept = np.arange(len(found)), list[int]()
    while len(left) and len(kept) < most:
        kept.append(left[0])
        left = left[1:][overlap(apart[left[0]], apart[left[1:]]) <= iou]
    return Found(found[kept].astype(np.float32), scores[places, labels][kept].astype(np.float32), labels[kept])


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4), from 0 to 1."""
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.prod(np.clip(sides, 0, None), -1)
    union = np.prod(one[..., 2:] - one[..., :2], -1) + np.prod(other[..., 2:] - other[..., :2], -1) - shared
    share: np.ndarray = shared / np.maximum(union, 1e-9)
    return share


# -- heads: outputs to candidates


def _yolo(outputs: Mapping[str, Any], decoder: Decoder) -> tuple[Any, Any]:
    """One output (N, 4 + C, A) or (N, A, 4 + C): centre x, y, width, height in pixels, then scores."""
    rows = _rows(outputs, 5)
    return _corners(rows[..., :4]), rows[..., 4:]


def _yolo_objectness(outputs: Mapping[str, Any], decoder: Decoder) -> tuple[Any, Any]:
    """One output (N, A, 5 + C): as `_yolo`, with the score of being an object before those of the classes."""
    rows = _rows(outputs, 6)
    return _corners(rows[..., :4]), rows[..., 4:5] * rows[..., 5:]


def _yolo_maps(outputs: Mapping[str, Any], decoder: Decoder) -> tuple[Any, Any]:
    """A map (N, 4 * 16 + C, H, W) for each stride: 16 logits for the distance to each side, logits of the classes.

    Distances are in strides, from the centre of a place (Li et al., Generalized Focal Loss, arXiv 2006.04388).
    """
    bins = 16
    maps = [value for value in outputs.values() if value.ndim == 4]
    if len(maps) != len(decoder.strides) or any(m.shape[1] <= 4 * bins for m in maps):
        raise ValueError(
            f"the head 'yolo-maps' has a map (N, 64 + classes, H, W) for each stride of {decoder.strides}, got "
            f"{_shapes(outputs)}"
        )
    xp, boxes, scores = _library(maps[0]), [], []
    for values, stride in zip(maps, decoder.strides, strict=True):
        n, channels, height, width = values.shape
        rows = values.reshape(n, channels, height * width).swapaxes(1, 2)
        logits = rows[..., : 4 * bins].reshape(n, height * width, 4, bins)
        weights = xp.exp(logits - xp.amax(logits, axis=-1, keepdims=True))
        distances = (weights * _counted(weights[:1, :1, :1])).sum(-1) / weights.sum(-1)
        place = _counted(rows[:1, :, 0])
        centres = xp.stack([place % width + 0.5, place // width + 0.5], -1)
        boxes.append(xp.concatenate([centres - distances[..., :2], centres + distances[..., 2:]], -1) * stride)
        scores.append(_sigmoid(rows[..., 4 * bins :]))
    return xp.concatenate(boxes, 1), xp.concatenate(scores, 1)


def _boxes_scores(outputs: Mapping[str, Any], decoder: Decoder) -> tuple[Any, Any]:
    """Two outputs: boxes (N, A, 4), left, top, right, bottom in pixels, and scores (N, A, C)."""
    return _pair(outputs, "boxes-scores", 0)


def _detr(outputs: Mapping[str, Any], decoder: Decoder) -> tuple[Any, Any]:
    """Two outputs: logits (N, A, C + 1), the last of them for no object, and boxes (N, A, 4).

    Boxes are centre x, y, width, height relative to the input (Carion et al., DETR, arXiv 2005.12872).
    """
    boxes, logits = _pair(outputs, "detr", 1)
    xp, (height, width) = _library(boxes), decoder.size
    weights = xp.exp(logits - xp.amax(logits, axis=-1, keepdims=True))
    corners = _corners(boxes)
    pixels = xp.stack([corners[..., 0::2] * width, corners[..., 1::2] * height], -1)
    return pixels.reshape(corners.shape), weights[..., :-1] / weights.sum(-1)[..., None]


HEADS: dict[str, Callable[[Mapping[str, Any], Decoder], tuple[Any, Any]]] = {
    "yolo": _yolo,
    "yolo-objectness": _yolo_objectness,
    "yolo-maps": _yolo_maps,
    "boxes-scores": _boxes_scores,
    "detr": _detr,
}
"""Heads whose boxes are not yet suppressed, by name."""


def _finished(outputs: Mapping[str, np.ndarray], decoder: Decoder) -> list[Found]:
    """Boxes, scores and labels as three outputs (N, K, 4), (N, K) and (N, K), or as one (N, K, 6) in this order."""
    values = list(outputs.values())
    if len(values) == 1 and values[0].ndim == 3 and values[0].shape[2] == 6:
        boxes, scores, labels = values[0][..., :4], values[0][..., 4], values[0][..., 5]
    elif len(values) == 3 and [value.ndim for value in values] in ([3, 2, 2], [2, 3, 2], [2, 2, 3]):
        boxes = next(value for value in values if value.ndim == 3)
        scores, labels = _scores_and_labels({k: v for k, v in outputs.items() if v.ndim == 2})
    else:
        raise ValueError(
            "the head 'detections' has the outputs boxes (N, K, 4), scores (N, K) and labels (N, K), or one (N, K, 6), "
            f"got {_shapes(outputs)}"
        )
    return [decoder.best(Found(*image)) for image in zip(boxes, scores, labels, strict=True)]


def _scores_and_labels(outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """By their names, else in this order."""
    named = sorted(outputs, key=lambda name: ("label" in name or "class" in name) - ("score" in name))
    return [outputs[name] for name in named]


def _rows(outputs: Mapping[str, Any], least: int) -> Any:
    """The first output with three dimensions as (N, A, values): there are more places than values of each."""
    values = next((value for value in outputs.values() if value.ndim == 3), None)
    if values is None or min(values.shape[1:]) < least:
        raise ValueError(
            f"a YOLO head has one output (N, values, places) or (N, places, values) with {least} or more values, got "
            f"{_shapes(outputs)}"
        )
    if values.shape[1] == values.shape[2]:
        raise ValueError(
            f"a YOLO head has more places than values of each, got {_shapes(outputs)}, which says not what is what: "
            "give a function as decode that returns boxes (N, A, 4) and scores (N, A, C)"
        )
    return values.swapaxes(1, 2) if values.shape[1] < values.shape[2] else values


def _pair(outputs: Mapping[str, Any], head: str, boxes_at: int) -> tuple[Any, Any]:
    """Boxes, which have "box" in their name, else four values, else this place among the outputs; and the other one."""
    pair = [(name, value) for name, value in outputs.items() if value.ndim == 3]
    at = max(range(len(pair)), key=lambda i: ("box" in pair[i][0], pair[i][1].shape[2] == 4, i == boxes_at), default=0)
    if len(pair) != 2 or pair[at][1].shape[2] != 4 or pair[0][1].shape[1] != pair[1][1].shape[1]:
        raise ValueError(
            f"the head {head!r} has the outputs boxes (N, A, 4) and scores (N, A, classes), got {_shapes(outputs)}"
        )
    return pair[at][1], pair[1 - at][1]


def _corners(boxes: Any) -> Any:
    """From centre x, y, width, height to left, top, right, bottom."""
    half = boxes[..., 2:] / 2
    return _library(boxes).concatenate([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def _sigmoid(values: Any) -> Any:
    xp = _library(values)
    return 1 / (1 + xp.exp(-xp.clip(values, -60, 60)))


def _counted(values: Any) -> Any:
    """0, 1, 2, ... along the last axis, in the shape and type of `values` and where these are."""
    return _library(values).ones_like(values).cumsum(-1) - 1


def _full(values: Any) -> Any:
    """Half precision as float32: bfloat16 tells places beyond the 128th no longer apart."""
    if values.dtype.itemsize > 2:
        return values
    return values.astype(np.float32) if isinstance(values, np.ndarray) else values.float()


def _library(values: Any) -> Any:
    """The library of an array or tensor; what is used here has the same names in both."""
    return np if isinstance(values, np.ndarray) else sys.modules["torch"]


def _shapes(outputs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in outputs.items())
