"""What kinds have in common whose outputs are logits of classes: of a sample, of each pixel, of each token or frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.kind import TaskKind, wrong_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from autocompress.tasks.task import Task


class ClassScores(TaskKind):
    """Logits along `class_axis` of one tensor; wherever there is an answer, it is the class of the largest."""

    lone_output = True
    class_axis = 1
    ignored: ClassVar[int | None] = None
    """Target of places without a class; None: all have one."""

    def counted(self, outputs: Tensor, targets: Any) -> Tensor:
        """Logits (places, classes) where there is a class."""
        if self.ignored is None:
            return outputs
        return outputs.movedim(self.class_axis, -1)[targets != self.ignored]

    def distillation(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Divergence of the softened probabilities, T^2 KL(teacher, student) (Hinton et al., arXiv 1503.02531)."""
        from torch.nn import functional

        axis = self.class_axis  # that of what `counted` leaves, too
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


class ClassOfPlaces(ClassScores):
    """A class for each pixel or token, none where the target is `ignored`."""

    ignored: ClassVar[int]
    layout: ClassVar[str]
    """Shape of the outputs, such as "(N, classes, H, W)"; that of the targets has no classes."""
    place: ClassVar[str]
    """What has a class, in the plural."""

    def loss(self) -> Any:
        """Cross-entropy over the places that have a class."""
        from torch import nn

        return nn.CrossEntropyLoss(ignore_index=self.ignored)

    def check(self, task: Task) -> None:
        """Refuse what is no logits of each place."""
        names, shape = task.outputs.names, task.output_shape
        if len(names) > 1 or len(shape) != self.layout.count(",") + 1 or shape[self.class_axis] < 2:
            got = ", ".join(names) if len(names) > 1 else str(shape)
            raise TaskError(
                f"a {self.title} returns logits {self.layout} of two or more classes, got {got}; wrap the network in a "
                "module that does, or use kind='generic' with a metric and a loss of your own"
            )

    def check_targets(self, targets: Any, task: Task, split: str) -> None:
        """Refuse what is no index of a class for each place."""
        if not hasattr(targets, "dim") or targets.dim() != self.layout.count(",") or targets.is_floating_point():
            got = f"{tuple(targets.shape)} of {targets.dtype}" if hasattr(targets, "dim") else type(targets).__name__
            wanted = self.layout.replace("classes, ", "").replace(", classes", "")
            raise TaskError(f"{split} data: targets must be class indices {wanted}, integers, got {got}")
        also = f", or {self.ignored} for {self.place} without one"
        if wrong := wrong_labels(targets[targets != self.ignored], task.n_outputs, also):
            raise TaskError(f"{split} data: {wrong}")


def _log_softmax(logits: NDArray[Any], axis: int) -> NDArray[Any]:
    shifted = logits - logits.max(axis, keepdims=True)
    result: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
    return result
