"""What kinds have in common whose outputs are logits of classes: of a sample, of each pixel, of each token or frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.tasks.kind import TaskKind

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class ClassScores(TaskKind):
    """Logits along `class_axis` of one tensor; wherever there is an answer, it is the class of the largest."""

    lone_output = True
    class_axis = 1

    def distillation(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Divergence of the softened probabilities, T^2 KL(teacher, student) (Hinton et al., arXiv 1503.02531)."""
        from torch.nn import functional

        axis = self.class_axis
        mine, theirs = (logits / temperature for logits in (student, teacher))
        mine, theirs = functional.log_softmax(mine, axis), functional.softmax(theirs, axis)
        return temperature**2 * functional.kl_div(mine, theirs, reduction="none").sum(axis).mean()

    def agreement(self, outputs: NDArray[Any], reference: NDArray[Any]) -> float:
        """Share of equal answers."""
        return float((self.classes(outputs) == self.classes(reference)).mean())

    def damage(self, outputs: NDArray[Any], reference: NDArray[Any]) -> float:
        """Divergence of the probabilities, KL(reference, outputs)."""
        p, q = (_log_softmax(logits, self.class_axis) for logits in (reference, outputs))
        return float((np.exp(p) * (p - q)).sum(self.class_axis).mean())

    def classes(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The class of the largest logit."""
        found: NDArray[Any] = outputs.argmax(self.class_axis)
        return found


def _log_softmax(logits: NDArray[Any], axis: int) -> NDArray[Any]:
    shifted = logits - logits.max(axis, keepdims=True)
    result: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
    return result
