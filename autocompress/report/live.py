"""The terminal while something takes long: one line of status, a progress bar with the time left, a line per trial."""

from __future__ import annotations

import signal
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from autocompress.report._words import ms_text, size_text
from autocompress.results import Evaluation


class Live:
    """A reporter for people. Writes to standard error, so that standard output stays a result."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=1.0, left="")
        self._counts = {"complete": 0, "rejected": 0, "failed": 0}

    def __enter__(self) -> Live:
        self._previous = signal.signal(signal.SIGTERM, _interrupt)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        signal.signal(signal.SIGTERM, self._previous)

    def note(self, message: str) -> None:
        """Print a line that stays."""
        self._console.print(f"note: {message}", markup=False)

    def status(self, message: str) -> None:
        """Replace the status line."""
        self._progress.update(self._bar, description=message[: max(20, self._console.width - 60)])

    def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
        """Print the trial and move the bar."""
        self._counts[evaluation.state] += 1
        left = f"{eta_s / 60:.0f} min left" if eta_s is not None else ""
        self._progress.update(self._bar, completed=min(1.0, share), left=left)
        if evaluation.state == "rejected" and self._counts["rejected"] > 5:
            return  # the first few say why; the rest is counted in the study
        self._console.print(_line(evaluation), markup=False, soft_wrap=True)


def _line(e: Evaluation) -> str:
    name = e.label if e.kind == "candidate" else f"baseline {e.label}"
    if e.state != "complete" or e.validation is None:
        return f"{e.trial:>5}  {e.state}: {name}: {e.reason}"
    assert e.latency_ms is not None and e.size_bytes is not None
    figures = f"{e.validation.value:.4f}  {ms_text(e.latency_ms):>9} {e.latency_source}  {size_text(e.size_bytes):>9}"
    again = f"  ({e.reason})" if e.reason else ""
    return f"{e.trial:>5}  {figures}  {name}{again}"


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
