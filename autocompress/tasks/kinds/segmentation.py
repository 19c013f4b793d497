"""A class per pixel: logits (N, classes, H, W), targets class indices (N, H, W), 255 where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.class_scores import ClassScores
from autocompress.tasks.metric import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autocompress.tasks.task import Task

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


class Segmentation(ClassScores):
    """Cross-entropy of each pixel; intersection over union of each image, the mean over images."""

    title = "segmentation"
    metric = Metric("mIoU of images", _iou, unit="share")
    differs = "gives another class than the network it was made from to more than 1 % of the pixels"

    def loss(self) -> Any:
        """Cross-entropy over the pixels that have a class."""
        from torch import nn

        return nn.CrossEntropyLoss(ignore_index=IGNORED)

    def check(self, task: Task) -> None:
        """Refuse what is no logits of each pixel."""
        names, shape = task.outputs.names, task.output_shape
        if len(names) > 1 or len(shape) != 4 or shape[1] < 2:
            got = ", ".join(names) if len(names) > 1 else str(shape)
            raise TaskError(
                f"a segmentation returns logits (N, classes, H, W) of two or more classes, got {got}; wrap the network "
                "in a module that does, or use kind='generic' with a metric and a loss of your own"
            )

    def check_targets(self, targets: Any, task: Task, split: str) -> None:
        """Refuse what is no index of a class for each pixel."""
        if not hasattr(targets, "dim") or targets.dim() != 3 or targets.is_floating_point():
            got = f"{tuple(targets.shape)} of {targets.dtype}" if hasattr(targets, "dim") else type(targets).__name__
            raise TaskError(f"{split} data: targets must be class indices (N, H, W), integers, got {got}")
        known = targets[targets != IGNORED]
        if known.numel() and (int(known.min()) < 0 or int(known.max()) >= task.n_outputs):
            wrong = int(known.min()) if int(known.min()) < 0 else int(known.max())
            raise TaskError(
                f"{split} data: classes must be from 0 to {task.n_outputs - 1} (the model has {task.n_outputs}), or "
                f"{IGNORED} for pixels without one, got {wrong}"
            )
