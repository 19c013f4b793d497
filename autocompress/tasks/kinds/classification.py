"""One class per sample: logits (N, classes), targets class indices (N,) or probabilities (N, classes)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.kind import TaskKind
from autocompress.tasks.metric import ACCURACY

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from autocompress.tasks.task import Task


class Classification(TaskKind):
    """Cross-entropy, top-1 accuracy and early exits. With an `evaluate` of the user's own outputs may be dense."""

    title = "classification"
    lone_output = True
    metric = ACCURACY
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
        if task.n_outputs < 2:
            raise TaskError(
                f"a classification returns logits of two or more classes, got {task.output_shape}; for a single logit "
                f"{way_out}"
            )

    def check_targets(self, targets: Any, task: Task, split: str) -> None:
        """Refuse labels that are no index of a class."""
        if not hasattr(targets, "is_floating_point") or targets.is_floating_point() or targets.dim() != 1:
            return
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= task.n_outputs:
            raise TaskError(
                f"{split} data: labels must be from 0 to {task.n_outputs - 1} (the model has "
                f"{task.n_outputs} outputs), got {low if low < 0 else high}"
            )

    def distillation(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Divergence of the softened probabilities, T^2 KL(teacher, student) (Hinton et al., arXiv 1503.02531)."""
        from torch.nn import functional

        mine, theirs = functional.log_softmax(student / temperature, -1), functional.softmax(teacher / temperature, -1)
        return temperature**2 * functional.kl_div(mine, theirs, reduction="batchmean")

    def agreement(self, outputs: NDArray[Any], reference: NDArray[Any]) -> float:
        """Share of equal answers."""
        return float((self.classes(outputs) == self.classes(reference)).mean())

    def damage(self, outputs: NDArray[Any], reference: NDArray[Any]) -> float:
        """Divergence of the probabilities, KL(reference, outputs), over axis 1."""
        p, q = log_softmax(reference), log_softmax(outputs)
        return float((np.exp(p) * (p - q)).sum(1).mean())

    def classes(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The class of the largest logit; of dense logits (N, classes, ...) at each position."""
        found: NDArray[Any] = outputs.argmax(1 if outputs.ndim > 2 else -1)
        return found


def log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Logarithms of the probabilities over axis 1, which holds the classes of (N, classes, ...)."""
    shifted = logits - logits.max(1, keepdims=True)
    result: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
