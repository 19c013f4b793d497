"""Speech and handwriting recognition by connectionist temporal classification: logits (N, frames, classes).

Targets are class indices without blanks: (N, labels), filled up at the end with the blank or with negative numbers as
transformers' -100, or a list with the labels of each sample. Frames are decoded greedily: the best class of each,
repetitions made one, blanks left out.

Reference: Graves et al., Connectionist temporal classification, ICML 2006.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.class_scores import ClassScores
from autocompress.tasks.kind import wrong_labels
from autocompress.tasks.metric import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from autocompress.tasks.task import Task

_RARE = 0.05
"""A class that is the answer in fewer of the frames is not what trained networks use as the blank."""


@dataclass(frozen=True)
class Ctc(ClassScores):
    """CTC loss; label error rate: wrong, missing and added labels, relative to the labels of the split.

    That of characters is the character error rate (CER), that of phonemes the phoneme error rate.

    Args:
        blank: index of the class that stands for no label.
        separator: index of the class between words; the figure is then the word error rate, "WER", and the other one
            has its name, "label error rate".
    """

    blank: int = 0
    separator: int | None = None

    title = "CTC recogniser"
    class_axis = 2
    differs = "answers otherwise than the network it was made from in more than 1 % of the frames"

    def __post_init__(self) -> None:
        """Make the metrics, which need the settings.

        Raises:
            TaskError: blank or separator is no index, or both are the same.
        """
        for name, index in (("blank", self.blank), ("separator", self.separator)):
            if index is not None and not isinstance(index, Integral):
                raise TaskError(f"{name} must be the index of a class, a whole number, got {index!r}")
        if self.blank == self.separator:
            raise TaskError(f"blank and separator must be two classes, got {self.blank} for both")
        labels = _error_rate("label error rate", self.blank, None)
        words = () if self.separator is None else (_error_rate("WER", self.blank, self.separator),)
        object.__setattr__(self, "metric", (*words, labels)[0])
        object.__setattr__(self, "metrics", (*words, labels)[1:])

    def loss(self) -> Any:
        """CTC loss of logits or of logarithms of probabilities, per label."""
        return partial(ctc_loss, blank=self.blank)

    def check(self, task: Task) -> None:
        """Refuse what is no logits of each frame."""
        names, shape = task.outputs.names, task.output_shape
        if len(names) > 1 or len(shape) != 3 or shape[2] < 2:
            got = ", ".join(names) if len(names) > 1 else str(shape)
            raise TaskError(
                f"a {self.title} returns logits (N, frames, classes), got {got}; wrap it in a module that does"
            )
        n = len(next(iter(task.inputs.values())))
        if shape[0] != n:
            raise TaskError(
                f"a {self.title} returns logits (N, frames, classes), got {shape} for {n} samples: let it return "
                "outputs.transpose(0, 1), the loss here puts the frames first itself"
            )
        for name, index in (("blank", self.blank), ("separator", self.separator)):
            if index is not None and not 0 <= index < shape[2]:
                raise TaskError(f"{name} must be the index of one of the {shape[2]} classes, got {index}")

    def check_targets(self, targets: Any, task: Task, split: str) -> None:
        """Refuse labels that are no classes, blanks between labels, and more labels than frames can give."""
        if split == "calibration" or (split == "train" and not _is_ours(task.loss)):
            return
        classes, frames = task.n_outputs, task.output_shape[1]
        for labels in _sequences(targets, self.blank, split):
            if wrong := wrong_labels(labels, classes, ", and negative ones only after the last", from_0=False):
                raise TaskError(f"{split} data: {wrong}")
            if (labels == self.blank).any():
                raise TaskError(
                    f"{split} data: labels must not hold the blank (class {self.blank}) before their end, got "
                    f"{labels.tolist()[:12]}; number them without it, or say which class is the blank: blank=..."
                )
            if (needed := len(labels) + int((labels[1:] == labels[:-1]).sum())) > frames:
                raise TaskError(
                    f"{split} data: {len(labels)} labels need at least {needed} frames, a blank between equal ones, "
                    f"and the network gives {frames}; leave these samples out, or let it give more frames"
                )

    def doubts(self, outputs: NDArray[Any], targets: Any) -> tuple[str, ...]:
        """Another class where the blank is expected.

        Raises:
            TaskError: there is no label at all.
        """
        if not any(len(labels) for labels in _sequences(targets, self.blank, "validation")):
            raise TaskError(
                f"validation data: no sample has a label other than the blank (class {self.blank}); error rates need "
                "some"
            )
        shares = np.bincount(self.classes(outputs).ravel(), minlength=outputs.shape[2]) / outputs[..., 0].size
        usual = int(shares.argmax())
        if shares[self.blank] >= _RARE or usual == self.blank:
            return ()
        return (
            f"the blank (class {self.blank}) is the answer in {shares[self.blank]:.1%} of the frames only, class "
            f"{usual} in {shares[usual]:.1%}: if that one is the blank of this network, give blank={usual}",
        )


def ctc_loss(outputs: Tensor, targets: Any, blank: int) -> Tensor:
    """CTC loss of all frames (N, frames, classes); samples whose labels cannot be given count 0."""
    import torch
    from torch.nn import functional

    n, frames, _ = outputs.shape
    rows = [torch.from_numpy(labels).to(outputs.device) for labels in _sequences(targets, blank, "train")]
    return functional.ctc_loss(
        functional.log_softmax(outputs, 2).transpose(0, 1),
        torch.cat(rows),
        torch.full((n,), frames),
        torch.tensor([len(labels) for labels in rows]),
        blank=blank,
        zero_infinity=True,
    )


def decode(frames: NDArray[Any], blank: int) -> list[int]:
    """The labels of one sample, from the best class of each frame, shape (frames,)."""
    new = np.append(True, frames[1:] != frames[:-1])
    found: list[int] = frames[new & (frames != blank)].tolist()
    return found


def _error_rate(name: str, blank: int, separator: int | None) -> Metric:
    return Metric(
        name,
        records=partial(_errors, blank=blank, separator=separator),
        over_split=_rate,
        unit="share",
        lower_is_better=True,
    )


def _errors(outputs: NDArray[Any], targets: Any, blank: int, separator: int | None) -> list[Any]:
    """Edits and labels (words, where there is a separator) of each sample."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise TaskError("error rates need rapidfuzz; install it with: pip install 'autocompress[speech]'") from None
    found = []
    for frames, labels in zip(outputs.argmax(2), _sequences(targets, blank, "these"), strict=True):
        answer, truth = (_words(each, separator) for each in (decode(frames, blank), labels.tolist()))
        found.append((Levenshtein.distance(truth, answer), len(truth)))
    return found


def _rate(errors: list[Any]) -> float:
    edits, labels = np.sum(errors, axis=0)
    return float(edits / labels) if labels else np.nan


def _words(labels: list[int], separator: int | None) -> list[Any]:
    if separator is None:
        return labels
    return [tuple(run) for between, run in groupby(labels, lambda label: label == separator) if not between]


def _sequences(targets: Any, blank: int, split: str) -> list[NDArray[Any]]:
    """The labels of each sample, without what fills them up."""
    rows = [np.asarray(labels) for labels in targets] if isinstance(targets, list) or hasattr(targets, "shape") else []
    rows = [row if row.size else np.zeros(0, np.int64) for row in rows]  # torch.tensor([]) is a float
    wrong = [i for i, row in enumerate(rows) if row.ndim != 1 or row.dtype.kind not in "iu"]
    if not rows or wrong:
        raise TaskError(
            f"{split} data: targets must be class indices (N, labels), integers filled up at the end, or a list with "
            f"the labels of each sample, got {_got(targets, rows, wrong)}"
        )
    return [labels[: 1 + np.flatnonzero((labels >= 0) & (labels != blank)).max(initial=-1)] for labels in rows]


def _got(targets: Any, rows: list[NDArray[Any]], wrong: list[int]) -> str:
    if not wrong:
        return type(targets).__name__
    row = rows[wrong[0]]
    if hasattr(targets, "shape"):
        return f"{row.ndim + 1} dimensions of {row.dtype}"
    return f"{row.ndim} dimensions of {row.dtype} for sample {wrong[0]} of a batch"


def _is_ours(loss: Any) -> bool:
    return getattr(loss, "func", None) is ctc_loss
