"""One candidate after the other, in the process of the search."""

from __future__ import annotations

from autocompress.controller.executors.base import Job, Reply, attempt
from autocompress.evaluation.evaluator import Evaluator


class InProcess:
    """Evaluates a job when its reply is asked for."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._job: Job | None = None

    def free(self) -> int:
        """One, unless a job waits."""
        return int(self._job is None)

    def submit(self, job: Job) -> None:
        """Keep the job until `collect`."""
        self._job = job

    def collect(self, timeout_s: float) -> list[Reply]:
        """Evaluate the job, however long it takes."""
        job, self._job = self._job, None
        return [attempt(self._evaluator, job)] if job else []

    def close(self) -> None:
        """Nothing to stop."""
