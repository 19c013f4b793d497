"""A class per pixel: logits (N, classes, H, W), targets class indices (N, H, W), 255 where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.tasks.class_scores import ClassOfPlaces
from autocompress.tasks.metric import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORED = 255


def _iou(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
    """Of each image, intersection over union, the mean over the classes that are in it or in the answer."""
    pairs = zip(outputs, targets, strict=True)
    return np.array([_of_image(logits.argmax(0), truth, len(logits)) for logits, truth in pairs])


def _of_image(answer: NDArray[Any], truth: NDArray[Any], n_classes: int) -> float:
    known = truth != IGNORED
    if not known.any():
        return 1.0
    pairs = n_classes * truth[known].astype(np.int64) + answer[known]
    matrix = np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return float((matrix.diagonal()[union > 0] / union[union > 0]).mean())


class Segmentation(ClassOfPlaces):
    """Cross-entropy of each pixel; intersection over union of each image, the mean over images."""

    title = "segmentation"
    metric = Metric("mIoU of images", _iou, unit="share")
    ignored = IGNORED
    layout = "(N, classes, H, W)"
    place = "pixels"
    differs = "gives another class than the network it was made from to more than 1 % of the pixels"
