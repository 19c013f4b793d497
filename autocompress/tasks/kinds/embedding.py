"""Vectors that are near for samples of one label: outputs (N, dimensions), labels (N,), for retrieval and verification.

Vectors are compared by their cosine, whether the network normalises them or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.kind import TaskKind
from autocompress.tasks.metric import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from autocompress.tasks.task import Task

_TEMPERATURE = 0.1
"""Of the contrastive loss."""
_BLOCK = 1024
"""Rows of the matrix of all cosines that are in memory at a time."""
_BINS = 2**16
"""Angles between vectors are counted in so many classes from 0 to pi."""
_UNEVEN = 1.02
"""Vectors whose lengths differ by more than this factor are not normalised."""


def recall_at(k: int) -> Metric:
    """Share of the samples that have one of their own label among the k nearest others of the split.

    Samples that are alone with their label are asked for nothing, but can be found.
    """
    return Metric(f"recall@{k}", over_split=partial(_recall, k=k), unit="share", pairs=True, resamples=100)


def tar_at(false_accept_rate: float) -> Metric:
    """True accept rate: share of the pairs of one label above the cosine that so many pairs of two labels exceed."""
    function = partial(_true_accept_rate, false_accept_rate=false_accept_rate)
    return Metric(f"TAR at FAR {false_accept_rate:g}", over_split=function, unit="share", pairs=True, resamples=100)


def _recall(outputs: NDArray[Any], labels: NDArray[Any], k: int) -> float:
    found = []
    for start, cosines in _cosines(outputs):
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        nearest = np.argpartition(-cosines, min(k, len(labels) - 1) - 1, axis=1)[:, :k]
        found.append((labels[nearest] == labels[start + rows, None]).any(1))
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    asked = counts[inverse] > 1
    return float(np.concatenate(found)[asked].mean()) if asked.any() else np.nan


def _equal_error_rate(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    accepted, falsely = _accept_rates(outputs, labels)
    middle = np.argmin(np.abs(falsely - (1 - accepted)))
    return float(falsely[middle] + 1 - accepted[middle]) / 2


def _true_accept_rate(outputs: NDArray[Any], labels: NDArray[Any], false_accept_rate: float) -> float:
    accepted, falsely = _accept_rates(outputs, labels)
    last = np.searchsorted(falsely, false_accept_rate, "right")
    return float(accepted[last - 1]) if last else 0.0


def _accept_rates(outputs: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Shares of the pairs of one label, and of two, that are accepted at thresholds from the strictest on."""
    same, other = np.zeros(_BINS + 1), np.zeros(_BINS + 1)
    for start, cosines in _cosines(outputs):
        first = start + np.arange(len(cosines))[:, None]
        once = np.arange(len(labels)) > first
        angles = (np.arccos(np.clip(cosines[once], -1, 1)) * (_BINS / np.pi)).astype(np.int64)
        alike = (labels[first] == labels)[once]
        same += np.bincount(angles[alike], minlength=_BINS + 1)
        other += np.bincount(angles[~alike], minlength=_BINS + 1)
    with np.errstate(invalid="ignore"):  # no pair of a kind: no number
        rates = [np.append(0, counts.cumsum() / counts.sum()) for counts in (same, other)]
    return rates[0], rates[1]


def _cosines(outputs: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Cosines of some samples with all, and the index of the first of them."""
    unit = _unit(outputs)
    for start in range(0, len(unit), _BLOCK):
        yield start, unit[start : start + _BLOCK] @ unit.T


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    unit: NDArray[Any] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def contrastive_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Supervised contrastive loss of a batch (Khosla et al., arXiv 2004.11362), temperature 0.1.

    Samples that are alone with their label only count as others.
    """
    import torch
    from torch.nn import functional

    unit = functional.normalize(outputs, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    log_shares = functional.log_softmax((unit @ unit.T / _TEMPERATURE).masked_fill(itself, -1e9), dim=1)
    alike = (labels[:, None] == labels) & ~itself
    n_alike = alike.sum(1)
    of_samples = -(log_shares * alike).sum(1) / n_alike.clamp(min=1)
    return of_samples.sum() / (n_alike > 0).sum().clamp(min=1)


class Embedding(TaskKind):
    """Supervised contrastive loss; recall at 1 within the split.

    By name: "recall@5", "recall@10", "EER" (the error rate where false accepts and false rejects are equally many) and
    "TAR at FAR 0.01", "0.001" and "0.0001"; others are `recall_at(k)` and `tar_at(rate)` of this module.
    """

    title = "embedding"
    lone_output = True
    metric = recall_at(1)
    metrics = (
        *(recall_at(k) for k in (5, 10)),
        Metric("EER", over_split=_equal_error_rate, unit="share", lower_is_better=True, pairs=True, resamples=100),
        *(tar_at(rate) for rate in (0.01, 0.001, 0.0001)),
    )
    class_axis = 1
    differs = "gives vectors whose cosine with those of the network it was made from is below 0.99"

    def loss(self) -> Any:
        """Supervised contrastive loss."""
        return contrastive_loss

    def check(self, task: Task) -> None:
        """Refuse what is no vector of each sample, and splits in which no two samples have one label."""
        names, shape = task.outputs.names, task.output_shape
        if len(names) > 1 or len(shape) != 2 or shape[1] < 2:
            got = ", ".join(names) if len(names) > 1 else str(shape)
            raise TaskError(f"an embedding returns vectors (N, dimensions), got {got}; wrap the network in a module")
        for split, source in (("validation", task.val), ("test", task.test)):
            if source is not None and task.evaluate is None:
                labels = np.concatenate([batch for _, batch in task.split(split)])  # type: ignore[arg-type]
                if len(np.unique(labels)) in (1, len(labels)):
                    raise TaskError(
                        f"{split} data: {'no two' if len(np.unique(labels)) > 1 else 'all'} samples have the same "
                        "label: vectors are judged by finding samples of one label among those of others; give both"
                    )

    def check_targets(self, targets: Any, task: Task, split: str) -> None:
        """Refuse what is no label of each sample; those of calibration data are not read."""
        if split == "calibration" or (split == "train" and task.loss is not contrastive_loss):
            return
        if not hasattr(targets, "dim") or targets.dim() != 1 or targets.is_floating_point():
            got = f"{tuple(targets.shape)} of {targets.dtype}" if hasattr(targets, "dim") else type(targets).__name__
            raise TaskError(f"{split} data: targets must be a label of each sample (N,), integers, got {got}")

    def doubts(self, outputs: NDArray[Any], targets: Any) -> tuple[str, ...]:
        """Vectors of different lengths."""
        lengths = np.linalg.norm(outputs, axis=1)
        if lengths.max() <= _UNEVEN * lengths.min():
            return ()
        return (
            f"the vectors are not normalised (lengths from {lengths.min():.3g} to {lengths.max():.3g}): files are "
            "judged by cosines; whoever compares by distances or products gets what is judged here if the network ends "
            "in torch.nn.functional.normalize",
        )

    def distillation(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """1 minus the cosine to the teacher's vector, and the squared error of the cosines within the batch.

        The second as Tung and Mori, Similarity-preserving knowledge distillation, arXiv 1907.09682, have it.
        """
        from torch.nn import functional

        mine, theirs = functional.normalize(student, dim=1), functional.normalize(teacher, dim=1)
        near = (mine - theirs).square().sum(1).mean() / 2  # 1 - cosine
        return near + functional.mse_loss(mine @ mine.T, theirs @ theirs.T)

    def agreement(self, outputs: NDArray[Any], reference: NDArray[Any]) -> float:
        """The mean cosine, not below 0."""
        return max(0.0, 1.0 - self.damage(outputs, reference))

    def damage(self, outputs: NDArray[Any], reference: NDArray[Any]) -> float:
        """1 minus the mean cosine."""
        return float(np.square(_unit(outputs) - _unit(reference)).sum(1).mean() / 2)
