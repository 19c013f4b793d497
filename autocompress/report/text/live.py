"""What a search shows while it runs: a terminal for people, lines for logs, a file for those who watch.

All of them are reporters and context managers; SIGTERM ends a search like Ctrl-C does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live as Region
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from autocompress._process import interrupt
from autocompress.errors import AutocompressError
from autocompress.files import Folder
from autocompress.report.formatting import ms_text, reasons, size_text
from autocompress.report.study_reader import PROGRESS, Follower
from autocompress.report.text.table import front_rows
from autocompress.studies.folder import has_evaluation, is_study
from autocompress.studies.results import Evaluation

if TYPE_CHECKING:
    from autocompress.studies.reporter import Reporter

_TRIAL = re.compile(r"trial (\d+): (.*)", re.DOTALL)
_BLOCKS = "▁▂▃▄▅▆▇█"
_WORKERS = 8
"""Maximum number of lines about work in progress below the front."""
_STATUS_EVERY_S = 10.0
"""Between two lines of status in a log; training reports every step."""


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGTERM, interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def note(self, message: str) -> None:
        """Something worth reading once."""

    def status(self, message: str) -> None:
        """What is being done right now."""

    def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
        """A trial is finished."""


class JsonLines(Quiet):
    """One JSON object per line, for logs: `event` is "note", "status", "trial" or "finished"."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._last_status = 0.0

    def write(self, event: str, **values: Any) -> None:
        """Write one line."""
        line = json.dumps({"event": event, "time": _now(), **values})
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def note(self, message: str) -> None:
        """A line for each."""
        self.write("note", message=message)

    def status(self, message: str) -> None:
        """A line now and then."""
        if time.monotonic() - self._last_status >= _STATUS_EVERY_S:
            self._last_status = time.monotonic()
            self.write("status", message=message)

    def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
        """A line with the row of the trial, as in `show --json`."""
        self.write("trial", **evaluation.as_row(), budget_used=round(share, 4), eta_s=eta_s)


class Activity:
    """What is being done: one line for each trial under way, one for everything else.

    A trial of the study in `folder` is under way until its result is there; not all results are reported.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.now = ""
        self._folder = folder
        self._trials: dict[int, str] = {}

    def status(self, message: str) -> None:
        """Take a status; those of trials begin with "trial 12: "."""
        match = _TRIAL.fullmatch(message)
        self.now = "" if match else message
        if match:
            self._trials[int(match[1])] = match[2]

    def done(self, trial: int) -> None:
        """Forget a trial that was judged."""
        self._trials.pop(trial, None)

    def workers(self) -> list[dict[str, Any]]:
        """Trial (None for everything else) and what is done for it."""
        if self._folder is not None:
            for trial in list(self._trials):
                if has_evaluation(self._folder, trial):
                    self.done(trial)
        trials = dict(self._trials)  # another thread may add one
        rows: list[dict[str, Any]] = [{"trial": n, "doing": trials[n]} for n in sorted(trials)]
        return rows + ([{"trial": None, "doing": self.now}] if self.now else [])


class Live(Quiet):
    """A reporter for people. Writes to standard error, so that standard output stays a result.

    Lines about trials stay; below them a terminal shows the budget, what each worker does and, of the study in
    `folder`, hypervolume, front and reasons of rejections.
    """

    def __init__(self, console: Console | None = None, folder: Path | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._follower = Follower(folder) if folder else None
        self._activity = Activity(folder)
        self._study: list[RenderableType] = []
        self._rejected = 0
        self._seen = 0
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            auto_refresh=False,
        )
        self._bar = self._progress.add_task("", total=1.0, left="")
        self._region = Region(get_renderable=self._render, console=self._console, refresh_per_second=1, transient=True)

    def __enter__(self) -> Self:
        super().__enter__()
        if self._console.is_terminal:
            self._look()
            self._region.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._region.stop()
        super().__exit__(kind, error, trace)

    def note(self, message: str) -> None:
        """Print a line that stays."""
        self._console.print(f"note: {message}", markup=False)

    def status(self, message: str) -> None:
        """Replace what is said about a trial, or about everything else."""
        self._activity.status(message)

    def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
        """Print the trial, move the bar, look at the study again."""
        self._activity.done(evaluation.trial)
        left = f"about {duration(eta_s)} left" if eta_s is not None else ""
        self._progress.update(self._bar, completed=min(1.0, share), left=left)
        if self._console.is_terminal:
            self._look()
        self._rejected += evaluation.state == "rejected"
        if evaluation.state != "rejected" or self._rejected <= 5:  # the first few say why; the rest is counted
            self._console.print(_line(evaluation), markup=False, soft_wrap=True)

    def _look(self) -> None:
        """Read what is new in the study, and lay it out."""
        if self._follower is None:
            return
        self._follower.refresh()
        if self._follower.study is None or self._seen == self._follower.version:
            return
        self._seen = self._follower.version
        study, volumes = self._follower.study, self._follower.volumes
        rows = front_rows(study)
        shown = max(4, self._console.height - 14)
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("trial", f"{study.settings.metric} ({study.split})", "latency", "size"):
            table.add_column(Text(name), justify="right", no_wrap=True)
        table.add_column("against fp32", no_wrap=True)
        table.add_column("baselines, then the front", no_wrap=True, overflow="ellipsis")
        for row in rows[:shown]:
            cells = (str(row.trial), row.accuracy.partition(" [")[0], row.latency, row.size, row.versus, row.recipe)
            table.add_row(*map(Text, cells), style="bold" if "baseline" in row.mark else None)
        self._study = [table]
        if len(rows) > shown:
            self._study.append(Text(f"and {len(rows) - shown} more points"))
        if volumes is not None and volumes.last():
            width = max(10, min(60, self._console.width - 40))
            self._study.append(Text(f"hypervolume {sparkline(volumes.volume, width)} {volumes.last():.4g}"))
        counted = [f"{count} {state}: {reason}" for state, reason, count, _ in reasons(study)[:3]]
        self._study += [Text(line, overflow="ellipsis", no_wrap=True) for line in counted]

    def _render(self) -> RenderableType:
        doing = [
            Text(
                ("" if w["trial"] is None else f"trial {w['trial']}: ") + w["doing"], overflow="ellipsis", no_wrap=True
            )
            for w in self._activity.workers()[-_WORKERS:]
        ]
        return Group(*self._study, self._progress, *doing)


class Recorder:
    """Passes everything on to another reporter, and writes it into the study folder for those who watch.

    The file is written at most once a second, by a thread of its own, and only once the study is there.
    """

    def __init__(self, folder: Path, shown: Reporter, budget: dict[str, float | None]) -> None:
        self._folder = folder
        self._shown = shown
        self._activity = Activity(folder)
        self._told: dict[str, Any] = {
            "version": 1,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": _now(),
            "budget": budget,
            "share": None,
            "eta_s": None,
            "notes": [],
            "ended": "",
        }
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._changed.set()
        self._thread.join()
        self._told["ended"] = "interrupted" if kind else "finished"
        self._write()

    def note(self, message: str) -> None:
        """Pass on and keep."""
        self._shown.note(message)
        self._keep(lambda: self._told["notes"].append(message))

    def status(self, message: str) -> None:
        """Pass on and keep."""
        self._shown.status(message)
        self._keep(lambda: self._activity.status(message))

    def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
        """Pass on and keep."""
        self._shown.judged(evaluation, share, eta_s)

        def change() -> None:
            self._activity.done(evaluation.trial)
            self._told |= {"share": share, "eta_s": eta_s}

        self._keep(change)

    def _keep(self, change: Callable[[], None]) -> None:
        with self._lock:
            change()
        self._changed.set()

    def _keep_writing(self) -> None:
        while not self._stop.is_set():
            self._changed.wait()
            self._changed.clear()
            self._write()
            self._stop.wait(1.0)

    def _write(self) -> None:
        if not is_study(self._folder):
            return
        with self._lock:
            told = {**self._told, "workers": self._activity.workers(), "updated_at": _now()}
            text = json.dumps(told)
        try:
            Folder(self._folder).write(PROGRESS, text)
        except AutocompressError:
            return  # a full disk stops the search where it matters, not here


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the course of values from 0 to their largest as block characters, at most `width` of them."""
    if not values:
        return ""
    n = min(width, len(values))
    picked = [values[(i + 1) * len(values) // n - 1] for i in range(n)]
    top = max(picked) or 1.0
    return "".join(_BLOCKS[min(len(_BLOCKS) - 1, int(max(0.0, v) / top * len(_BLOCKS)))] for v in picked)


def duration(seconds: float) -> str:
    """Return a time in words: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _line(e: Evaluation) -> str:
    name = e.label if e.kind == "candidate" else f"baseline {e.label}"
    if e.state != "complete" or e.validation is None:
        return f"{e.trial:>5}  {e.state}: {name}: {e.reason}"
    assert e.latency_ms is not None and e.size_bytes is not None
    figures = f"{e.validation.value:.4f}  {ms_text(e.latency_ms):>9} {e.latency_source}  {size_text(e.size_bytes):>9}"
    again = f"  ({e.reason})" if e.reason else ""
    return f"{e.trial:>5}  {figures}  {name}{again}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
