"""Numbers: outputs and targets of one shape (N, ...), such as a forecast (N, horizon) or (N, horizon, channels)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.kind import TaskKind
from autocompress.tasks.metric import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autocompress.tasks.task import Task


def squared_errors(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
    """The mean squared error of each sample, shape (N,)."""
    mean: NDArray[Any] = _rows(np.square(outputs.astype(np.float64) - targets))
    return mean


def _absolute_errors(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
    return _rows(np.abs(outputs.astype(np.float64) - targets))


def _symmetric_percentage_errors(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
    outputs = outputs.astype(np.float64)
    largest = np.maximum(np.abs(outputs) + np.abs(targets), 1e-12)  # 0 for 0 is right
    return _rows(2 * np.abs(outputs - targets) / largest)


def _rows(values: NDArray[Any]) -> NDArray[Any]:
    mean: NDArray[Any] = values.reshape(len(values), -1).mean(1)
    return mean


def _determination(outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    spread = np.square(targets - targets.mean(0)).sum()
    return 1 - float(np.square(outputs.astype(np.float64) - targets).sum() / spread) if spread else np.nan


class Regression(TaskKind):
    """Mean squared error; mean absolute error of each sample.

    By name: "RMSE" of all values, "sMAPE" (the mean of 2 |output - target| / (|output| + |target|)) and "R2" (1 minus
    the squared errors relative to those of the mean of the targets).
    """

    title = "regression"
    lone_output = True
    metric = Metric("MAE", _absolute_errors, unit="number", lower_is_better=True)
    metrics: tuple[Metric, ...] = (
        Metric(
            "RMSE",
            records=lambda outputs, targets: squared_errors(outputs, targets).tolist(),
            over_split=lambda errors: float(np.sqrt(np.mean(errors))),
            unit="number",
            lower_is_better=True,
        ),
        Metric("sMAPE", _symmetric_percentage_errors, unit="share", lower_is_better=True),
        Metric("R2", over_split=_determination, unit="number"),
    )

    def loss(self) -> Any:
        """Mean squared error."""
        from torch.nn.functional import mse_loss

        return mse_loss

    def check(self, task: Task) -> None:
        """Refuse several outputs."""
        if len(task.outputs.names) > 1:
            raise TaskError(
                f"a {self.title} returns one tensor, got {', '.join(task.outputs.names)}; use Task(..., "
                "kind='generic') with a metric and a loss of your own"
            )

    def check_targets(self, targets: Any, task: Task, split: str) -> None:
        """Refuse what is not of the outputs' shape; a loss and a metric of the user's own may read anything."""
        if not self._reads(task, split):
            return
        shape = tuple(targets.shape[1:]) if hasattr(targets, "shape") else type(targets).__name__
        wanted = task.output_shape[1:]
        if shape != wanted and not (any(task.free.values()) and len(shape) == len(wanted)):
            raise TaskError(
                f"{split} data: targets of a sample must have the shape of the outputs {wanted}, got {shape}; reshape, "
                "crop or resize one of them"
            )
        if not targets.is_floating_point():
            raise TaskError(f"{split} data: targets must be floats, got {targets.dtype}; convert them, scaled as usual")

    def _reads(self, task: Task, split: str) -> bool:
        """Whether the kind's own loss or one of its metrics reads the targets of a split."""
        if split == "train":
            return task.loss is self.loss()
        return split != "calibration" and task.evaluate is None and self._is_own(task.metric)

    def _is_own(self, metric: Metric) -> bool:
        """Whether it is a metric of this kind, which needs targets of the outputs' shape."""
        return metric in (self.metric, *self.metrics)

    def doubts(self, outputs: Any, targets: Any) -> tuple[str, ...]:
        """Outputs that are worse than the mean of the targets, as where one of them is scaled and the other is not."""
        if isinstance(outputs, list) or getattr(targets, "shape", None) != outputs.shape:
            return ()
        if not np.isfinite(targets).all():
            return ()
        mean = np.broadcast_to(targets.mean(0), targets.shape)
        if squared_errors(outputs, targets).mean() <= squared_errors(mean, targets).mean():
            return ()
        ranges = (f"{values.min():.4g} to {values.max():.4g}" for values in (outputs, targets))
        return (
            "the outputs are further from the targets than the mean of the targets is: outputs from {}, targets from "
            "{}; is the network trained, and are its inputs and the targets scaled as in its training?".format(*ranges),
        )
