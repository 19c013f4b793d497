"""A study folder that is still being written, read again and again; only what is new costs anything.

Nothing is locked and nothing is written. What cannot be read yet, or is damaged, is left out and counted.
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autocompress.errors import StudyError
from autocompress.files import Folder
from autocompress.report.hypervolume import Volumes, hypervolume_reference, in_order
from autocompress.studies.folder import read_evaluation, read_final, read_settings, trial_name, trial_numbers
from autocompress.studies.results import Evaluation
from autocompress.studies.settings import Settings
from autocompress.studies.study import Study

PROGRESS = "progress.json"
"""What the search writes for those who watch it: budget, time left, what each worker does."""

_Stamp = tuple[int, int]


class _Doing(BaseModel):
    """What a worker does."""

    trial: int | None
    doing: str


class _Told(BaseModel):
    """What the search said about itself; a file of anybody's."""

    model_config = ConfigDict(allow_inf_nan=False)

    version: int = 1
    host: str = ""
    pid: Annotated[int, Field(le=2**31 - 1)] = 0
    started_at: str = ""
    updated_at: str = ""
    budget: dict[str, float | None] = Field(default_factory=dict)
    share: float | None = None
    eta_s: float | None = None
    notes: list[str] = Field(default_factory=list)
    workers: list[_Doing] = Field(default_factory=list)
    ended: str = ""


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
        self._final: tuple[_Stamp | None, list[Evaluation], dict[str, Any]] = (None, [], {})
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
                self.study = Study(self.folder, self._settings, ordered, bool(self._final[1]), self._final[2])
                self._measure(self.study, new)
                self.version += 1
            return changed

    def _read_trials(self) -> list[Evaluation]:
        new = []
        try:
            numbers = trial_numbers(self.folder)
        except (OSError, StudyError):
            numbers = []
        for number in sorted(set(numbers) - self.judged):  # what was read whole never changes
            stamp = Folder(self.folder).stamp(f"{trial_name(number)}/evaluation.json")
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
        stamp = Folder(self.folder).stamp("final.json")
        if stamp == self._final[0]:
            return False
        try:
            self._final = (stamp, *read_final(self.folder))
        except StudyError:
            self._final = (stamp, [], {})
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
            told = _Told.model_validate_json(Folder(self.folder).read(PROGRESS) or b"{}").model_dump()
        except (OSError, StudyError, ValidationError):
            told = _Told().model_dump()
        told["workers"] = [w for w in told["workers"] if w["trial"] not in self.judged]
        return {**told, "state": self._state(told)}

    def _state(self, told: dict[str, Any]) -> str:
        if self.study is None:
            return "waiting"
        if told["host"] == socket.gethostname() and not told["ended"]:
            return "running" if _alive(told["pid"]) else "finished" if self.study.final else "interrupted"
        if self.study.final:
            return "finished"
        return "interrupted" if told["ended"] else "unknown"


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True
