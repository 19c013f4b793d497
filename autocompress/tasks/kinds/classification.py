"""One class per sample: logits (N, classes), targets class indices (N,) or probabilities (N, classes)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.class_scores import ClassScores
from autocompress.tasks.kind import wrong_labels
from autocompress.tasks.metric import ACCURACY, Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autocompress.tasks.task import Task

_SUM_OF_PROBABILITIES = 1e-3
"""Outputs whose sums are nearer to 1 than this are probabilities."""


def _confusion(outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """How many samples of each class (row) were given each class (column)."""
    truth = labels if labels.ndim == 1 else labels.argmax(1)
    n = outputs.shape[1]
    return np.bincount(n * truth.astype(np.int64) + outputs.argmax(1), minlength=n * n).reshape(n, n)


def _macro_recall(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    matrix = _confusion(outputs, labels)
    there = matrix.sum(1) > 0
    return float((matrix.diagonal()[there] / matrix.sum(1)[there]).mean())


def _macro_f1(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    matrix = _confusion(outputs, labels)
    both = matrix.sum(0) + matrix.sum(1)
    return float((2 * matrix.diagonal()[both > 0] / both[both > 0]).mean())


class Classification(ClassScores):
    """Cross-entropy, top-1 accuracy and early exits; "macro recall" (balanced accuracy), "macro F1" for rare ones.

    With an `evaluate` of the user's own outputs may be dense.
    """

    title = "classification"
    metric = ACCURACY
    metrics = (
        Metric("macro recall", over_split=_macro_recall, unit="share"),
        Metric("macro F1", over_split=_macro_f1, unit="share"),
    )
    exits = True
    differs = "answers otherwise than the network it was made from on more than 1 % of the samples"

    def check(self, task: Task) -> None:
        """Refuse what is no logits of two or more classes."""
        way_out = "use Task(..., kind='generic') with a metric and a loss of your own"
        if len(task.outputs.names) > 1:
            raise TaskError(
                f"a classification returns one tensor of logits, got {', '.join(task.outputs.names)}; {way_out}, or "
                "wrap it in a module that returns one of them"
            )
        if len(task.output_shape) != 2 and task.evaluate is None:
            raise TaskError(f"a classification returns logits (N, classes), got {task.output_shape}; {way_out}")
        if len(task.output_shape) < 2 or task.n_outputs < 2:
            raise TaskError(
                f"a classification returns logits of two or more classes, got {task.output_shape}; for a single logit "
                f"{way_out}"
            )

    def check_targets(self, targets: Any, task: Task, split: str) -> None:
        """Refuse labels that are no index of a class."""
        if not hasattr(targets, "is_floating_point") or targets.is_floating_point() or targets.dim() != 1:
            return
        if wrong := wrong_labels(targets, task.n_outputs):
            raise TaskError(f"{split} data: {wrong}")

    def doubts(self, outputs: NDArray[Any], targets: Any) -> tuple[str, ...]:
        """Probabilities in the place of logits."""
        if outputs.min() < 0 or np.abs(outputs.sum(1) - 1).max() > _SUM_OF_PROBABILITIES:
            return ()
        return (
            "the outputs are probabilities: cross-entropy and distillation take them for logits, and training hardly "
            "moves; let the network return what goes into its softmax",
        )
