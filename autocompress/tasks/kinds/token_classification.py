"""A class per token: logits (N, L, classes), targets class indices (N, L), -100 where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.tasks.class_scores import ClassOfPlaces
from autocompress.tasks.metric import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

IGNORED = -100


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Over the tokens that have a class: logits (N, L, classes), targets (N, L)."""
    from torch.nn import functional

    return functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED)


def _confusion(outputs: NDArray[Any], targets: NDArray[Any]) -> list[NDArray[Any]]:
    """Of each text, how many tokens of each class (row) were given each class (column)."""
    return [_of_text(*pair) for pair in zip(outputs, targets, strict=True)]


def _of_text(logits: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    n, known = logits.shape[-1], truth != IGNORED
    pairs = n * truth[known].astype(np.int64) + logits[known].argmax(-1)
    return np.bincount(pairs, minlength=n * n).reshape(n, n)


def _accuracy(matrices: Sequence[NDArray[Any]]) -> float:
    total = np.sum(matrices, 0)
    return float(total.trace() / total.sum()) if total.any() else float("nan")


def _macro_f1(matrices: Sequence[NDArray[Any]]) -> float:
    total = np.sum(matrices, 0)
    both = total.sum(0) + total.sum(1)
    return float((2 * total.diagonal()[both > 0] / both[both > 0]).mean()) if both.any() else float("nan")


class TokenClassification(ClassOfPlaces):
    """Cross-entropy and accuracy of all tokens that have a class, "macro F1" for rare ones."""

    title = "token classification"
    metric = Metric("accuracy of tokens", over_split=_accuracy, records=_confusion, unit="share")
    metrics = (Metric("macro F1", over_split=_macro_f1, records=_confusion, unit="share"),)
    class_axis = -1
    ignored = IGNORED
    layout = "(N, L, classes)"
    place = "tokens"
    differs = "gives another class than the network it was made from to more than 1 % of the tokens"

    def loss(self) -> Any:
        """Cross-entropy over the tokens that have a class."""
        return cross_entropy
