"""Numbers: outputs and targets of one shape (N, ...)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autocompress.errors import TaskError
from autocompress.tasks.kind import TaskKind

if TYPE_CHECKING:
    from autocompress.tasks.task import Task


class Regression(TaskKind):
    """Mean squared error; the task brings the metric."""

    title = "regression"
    lone_output = True

    def loss(self) -> Any:
        """Mean squared error."""
        from torch.nn.functional import mse_loss

        return mse_loss

    def check(self, task: Task) -> None:
        """Refuse several outputs."""
        if len(task.outputs.names) > 1:
            raise TaskError(
                f"a regression returns one tensor, got {', '.join(task.outputs.names)}; use Task(..., kind='generic') "
                "with a metric and a loss of your own"
            )
