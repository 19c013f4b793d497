"""A study folder that is still being written, read again and again; only what is new costs anything.

Nothing is locked and nothing is written. What cannot be read yet, or is damaged, is left out and counted.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

from autocompress.errors import StudyError
from autocompress.report._volume import Volumes, hypervolume_reference, in_order
from autocompress.results import Evaluation
from autocompress.study import Settings, Study, read_evaluation, read_final, read_settings, trial_folder

PROGRESS = "progress.json"
"""What the search writes for those who watch it: budget, time left, what each worker does."""

_Stamp = tuple[int, int]


class Follower:
    """Keeps what is known about a study folder; `refresh` brings it up to date."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study: Study | None = None
        """None as long as there is no study in the folder."""
        self.version = 0
        """Grows when `study` changes."""
        self.unreadable = 0
        """Trials whose result cannot be read."""
        self.volumes: Volumes | None = None
        """None as long as no fp32 baseline is complete."""
        self._settings: Settings | None = None
        self._known: dict[int, tuple[_Stamp, Evaluation | None]] = {}
        self.judged: set[int] = set()
        """Trials whose result was read."""
        self._final: tuple[_Stamp | None, list[Evaluation]] = (None, [])
        self._lock = threading.Lock()

    def refresh(self) -> bool:
        """Read what is new; return whether anything was."""
        with self._lock:
            if self._settings is None:
                try:
                    self._settings = read_settings(self.folder)
                except (StudyError, OSError):
                    return False
            new = self._read_trials()
            changed = self._read_final() or bool(new) or self.study is None
            if changed:
                evaluations = {n: e for n, (_, e) in self._known.items() if e is not None}
                evaluations |= {e.trial: e for e in self._final[1]}
                ordered = tuple(evaluations[n] for n in sorted(evaluations))
                self.study = Study(self.folder, self._settings, ordered, bool(self._final[1]))
                self._measure(self.study, new)
                self.version += 1
            return changed

    def _read_trials(self) -> list[Evaluation]:
        new = []
        try:
            names = [entry.name for entry in os.scandir(self.folder / "trials") if entry.name.isdigit()]
        except OSError:
            names = []
        for number in sorted(set(map(int, names)) - self.judged):  # what was read whole never changes
            stamp = _stamp(trial_folder(self.folder, number) / "evaluation.json")
            if stamp is None or self._known.get(number, (None,))[0] == stamp:
                continue
            try:
                found = read_evaluation(self.folder, number)
            except StudyError:
                found = None
            self._known[number] = (stamp, found)
            if found is not None:
                new.append(found)
                self.judged.add(number)
        self.unreadable = sum(e is None for _, e in self._known.values())
        return new

    def _read_final(self) -> bool:
        stamp = _stamp(self.folder / "final.json")
        if stamp == self._final[0]:
            return False
        try:
            self._final = (stamp, read_final(self.folder))
        except StudyError:
            self._final = (stamp, [])
        return True

    def _measure(self, study: Study, new: list[Evaluation]) -> None:
        if self.volumes is None:
            reference = hypervolume_reference(study)[0]
            if reference is None:
                return
            self.volumes, new = Volumes(reference), list(study.evaluations)
        for evaluation in in_order(tuple(new)):
            self.volumes.add(evaluation)

    def progress(self) -> dict[str, Any]:
        """What the search last said about itself, and whether it still runs.

        `state` is "waiting" (no study yet), "running", "interrupted", "finished", or "unknown" where the search
        runs on another machine or does not say what it does.
        """
        try:
            told: dict[str, Any] = json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = {}
        told = told if isinstance(told, dict) else {}
        told["workers"] = [w for w in told.get("workers", []) if w.get("trial") not in self.judged]
        return {**told, "state": self._state(told)}

    def _state(self, told: dict[str, Any]) -> str:
        if self.study is None:
            return "waiting"
        if told.get("host") == socket.gethostname() and not told.get("ended"):
            return "running" if _alive(told.get("pid")) else "finished" if self.study.final else "interrupted"
        if self.study.final:
            return "finished"
        return "interrupted" if told.get("ended") else "unknown"


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True
