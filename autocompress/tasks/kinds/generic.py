"""Whatever else: the user gives the loss, and a metric or a function `evaluate`; files agree by their outputs."""

from __future__ import annotations

from autocompress.tasks.kind import TaskKind


class Generic(TaskKind):
    """Any number of outputs; cross-entropy where no loss is given."""

    title = "generic task"
