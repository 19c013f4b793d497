"""What a kind of task is: all that differs between, say, a classification and a regression.

A kind is one file of `tasks/kinds/`, found by its name, or a class of the user's own: `Task(..., kind=MyKind())`.
`autocompress.testing` has a suite that every kind passes. Torch is imported inside functions, so that reports know the
kinds without it.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.metric import Metric
from autocompress.validation import suggestion

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from autocompress.tasks.task import Task

_PACKAGE = "autocompress.tasks.kinds"
_OLD_NAMES = {"other": "generic"}


class TaskKind:
    """A kind of task. What its methods get are outputs in the structure that the user's network returns.

    For a kind with `lone_output` that is one tensor of shape (N, ...), whatever it comes in.
    """

    title: ClassVar[str]
    """As people call it."""
    lone_output: ClassVar[bool] = False
    """Whether it reads one tensor, which may come in a dict or dataclass."""
    metric: Metric | None = None
    """Where the task brings none; None: it must."""
    metrics: tuple[Metric, ...] = ()
    """Others that a task can ask for by name: `Task(..., metric="macro recall")`."""
    exits: ClassVar[bool] = False
    """Whether its outputs are logits (N, classes): a network can answer early where it is sure."""
    class_axis: ClassVar[int] = -1
    """The axis of the (first) output whose size is `Task.n_outputs`: that of the classes, where there are some."""
    differs: ClassVar[str] = "gives outputs that are more than 1 % off those of the network it was made from"
    """What is said of a file whose `agreement` with its torch model is below 0.99."""

    @property
    def name(self) -> str:
        """That of its file."""
        return type(self).__module__.rpartition(".")[2]

    def of(self, task: Task) -> TaskKind:
        """The kind as it is for the inputs of a task; by default the same for all."""
        return self

    def n_outputs(self, task: Task) -> int:
        """How many classes or numbers the network answers with; by default the size of `class_axis`."""
        return int(task.output_shape[self.class_axis])

    def loss(self) -> Any:
        """The function of outputs and targets that training minimises, where the task brings none."""
        from torch.nn.functional import cross_entropy

        return cross_entropy

    def check(self, task: Task) -> None:
        """Refuse networks that this kind cannot read, before any work is done.

        Raises:
            TaskError: one sentence that says what was expected, what is there and what to do.
        """

    def check_targets(self, targets: Any, task: Task, split: str) -> None:
        """Refuse targets of a batch, as the data gives them.

        Raises:
            TaskError: as in `check`.
        """

    def doubts(self, outputs: Any, targets: Any) -> tuple[str, ...]:
        """What is strange about answers of the user's own network: arrays of some hundred validation samples.

        Returns:
            sentences that are told before a search, of what is more often a mistake than meant.

        Raises:
            TaskError: as in `check`.
        """
        return ()

    def named_metric(self, name: str) -> Metric:
        """The metric of this kind with that name; "_" and "-" count as spaces, capitals as small letters.

        Raises:
            TaskError: it has none of that name.
        """
        offered = {_plain(metric.name): metric for metric in (self.metric, *self.metrics) if metric is not None}
        if found := offered.get(_plain(name)):
            return found
        known = ", ".join(metric.name for metric in offered.values()) or "none by name"
        raise TaskError(
            f"a {self.title} has no metric {name!r}{suggestion(_plain(name), [*offered])}; known: {known}; give "
            "another as Metric(name, per_sample) or Metric(name, over_split=...)"
        )

    def decoding(self) -> dict[str, Any]:
        """How outputs become boxes, for those who run the file: fields of `tasks.boxes.Decoder`; nothing elsewhere."""
        return {}

    def counted(self, outputs: Any, targets: Any) -> Any:
        """The part of the outputs of a batch that its targets speak of, for `distillation`; by default all."""
        return outputs

    def distillation(self, student: Any, teacher: Any, temperature: float) -> Tensor:
        """How far the student is from the teacher, a scalar; 0 for equal outputs. By default the mean squared error."""
        from torch.nn.functional import mse_loss

        from autocompress.tasks.interface import leaves

        pairs = list(zip(leaves(student), leaves(teacher), strict=True))
        total: Tensor = sum(mse_loss(mine, theirs) for mine, theirs in pairs) / len(pairs)  # type: ignore[assignment]
        return total

    def agreement(self, outputs: Any, reference: Any) -> float:
        """How alike the outputs of a batch are, from 0 to 1 for equal ones: arrays, file against torch model.

        By default 1 minus the largest error of any output relative to its largest value.
        """
        from autocompress.tasks.interface import leaves

        return min(_closeness(a, b) for a, b in zip(leaves(outputs), leaves(reference), strict=True))

    def damage(self, outputs: Any, reference: Any) -> float:
        """How much outputs (float64 arrays of many samples) changed, 0 for equal ones; formats are ranked by it.

        By default the mean squared error relative to the variance, the mean over the outputs.
        """
        from autocompress.tasks.interface import leaves

        pairs = zip(leaves(outputs), leaves(reference), strict=True)
        return float(np.mean([np.square(a - b).mean() / max(float(b.var()), 1e-12) for a, b in pairs]))

    def confidence(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """How sure the answers are, (N,) from 0 to 1; asked for where `exits`. The largest softmax probability."""
        shifted = np.exp(outputs - outputs.max(-1, keepdims=True))
        result: NDArray[Any] = (shifted / shifted.sum(-1, keepdims=True)).max(-1)
        return result

    def classes(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """The class that each answer is, in the shape of the targets; None: the answers are no classes."""
        return None


def wrong_labels(labels: Any, n_classes: int, also: str = "", *, from_0: bool = True) -> str:
    """What is wrong with labels, an array or tensor, for a network of so many classes; "" for nothing.

    Args:
        labels: integers of any shape.
        n_classes: 0 where it is not known.
        also: what may be there besides, in words.
        from_0: whether labels from 1 on are more often a mistake than meant.
    """
    if not math.prod(labels.shape):
        return ""
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and (high < n_classes or not n_classes):
        return ""
    allowed = f"{n_classes - 1} (the model has {n_classes} classes)" if n_classes else "the last class"
    hint = ": subtract 1 from labels that start at 1" if from_0 and low > 0 and high == n_classes else ""
    return f"labels must be from 0 to {allowed}{also}, got {low if low < 0 else high}{hint}"


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())


def _closeness(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    if not ours.size:
        return 1.0
    error = np.abs(ours.astype(np.float64) - theirs).max() / max(1e-6, float(np.abs(theirs).max()))
    return max(0.0, 1.0 - float(error))


def names() -> tuple[str, ...]:
    """Names of the kinds of this package."""
    package = importlib.import_module(_PACKAGE)
    return tuple(m.name for m in pkgutil.iter_modules(package.__path__))


def get(given: str | TaskKind, **settings: Any) -> TaskKind:
    """Return the kind of a name, with settings of its own if it has any, or a kind itself.

    Raises:
        TaskError: there is none of that name.
    """
    if isinstance(given, str):
        name = _OLD_NAMES.get(given, given)
        return _class_of(name)(**settings) if settings else _named(name)
    if not isinstance(given, TaskKind):
        raise TaskError(f"kind must be one of {', '.join(names())} or a TaskKind, got {type(given).__name__}")
    return given


def of_study(name: str) -> TaskKind:
    """The kind that a study names; what all kinds have in common for one of a user's own, which is not known here."""
    return get(name) if name in names() or name in _OLD_NAMES else TaskKind()


@cache
def _named(name: str) -> TaskKind:
    return _class_of(name)()


def _class_of(name: str) -> Callable[..., TaskKind]:
    if name not in names():
        raise TaskError(f"unknown kind of task {name!r}{suggestion(name, names())}; known: {', '.join(names())}")
    module = importlib.import_module(f"{_PACKAGE}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, TaskKind) and value.__module__ == module.__name__
    )
