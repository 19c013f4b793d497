"""The study on disk while a search runs: Optuna's journal and the trial folders, kept in step.

Every result is on disk in its trial's folder before Optuna is told, so that a crash between the two is repaired by
telling again. A trial that was under way when the driver died is taken up again under its own number.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from autocompress._files import write_atomically, write_json
from autocompress.constraints import QUANTITIES, Constraint
from autocompress.controller.journal import SafeJournalBackend
from autocompress.controller.samplers import sampler
from autocompress.errors import StudyError
from autocompress.evaluate import Outcome
from autocompress.results import Evaluation
from autocompress.study import Settings, read_evaluation, read_settings, trial_folder, write_evaluation

_NAME = "autocompress"
_DIRECTIONS: Final = ("maximize", "minimize", "minimize")
_TRIES = 3
"""How often a trial may kill the process before it counts as failed."""


class Store:
    """The only writer of a study folder. Hold `journal.exclusive(folder)` while using it."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        _keep_settings(folder, settings)
        with _quiet():
            backend = SafeJournalBackend(folder / "study.journal")
            self._study = optuna.create_study(
                study_name=_NAME,
                storage=optuna.storages.JournalStorage(backend),
                directions=_DIRECTIONS,
                load_if_exists=True,
            )
            self._study.set_metric_names(list(QUANTITIES))

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, oldest first."""
        return self._study.get_trials(deepcopy=False)

    def evaluations(self) -> Iterator[Evaluation]:
        """Results of all finished trials."""
        for trial in self.trials:
            evaluation = read_evaluation(self.folder, trial.number)
            if evaluation is not None and trial.state.is_finished():
                yield evaluation

    def elapsed_s(self) -> float:
        """Seconds of search so far, over all sessions."""
        return float(self._study.user_attrs.get("elapsed_s", 0.0))

    def add_elapsed(self, seconds: float) -> None:
        """Account for the time that a trial took."""
        self._study.set_user_attr("elapsed_s", round(self.elapsed_s() + seconds, 3))

    def enqueue(self, values: dict[str, Any]) -> None:
        """Have a setting tried next, once."""
        with _quiet():
            self._study.enqueue_trial(values, skip_if_exists=True)

    def ask(self) -> Trial:
        """The next trial: one that was under way when the last driver died, else a new one."""
        with _quiet():
            for trial in self.trials:
                if trial.state == TrialState.RUNNING:
                    self._use_sampler(trial.number)
                    return Trial(self._study, trial._trial_id)
            self._use_sampler(len(self.trials))
            return self._study.ask()

    def begin(self, trial: Trial) -> bool:
        """Note that a trial is being evaluated; False when it has already killed the process too often."""
        tries = int(trial.user_attrs.get("tries", 0))
        trial.set_user_attr("tries", tries + 1)
        return tries < _TRIES

    def keep(self, number: int, outcomes: Sequence[Outcome], constraints: Sequence[Constraint]) -> list[Evaluation]:
        """Keep a finished candidate: files first, then Optuna, then the points that share its network."""
        folder = trial_folder(self.folder, number)
        evaluations = []
        for i, outcome in enumerate(outcomes):
            path = folder / ("model.onnx" if i == 0 else f"model.{i}.onnx")
            write_atomically(path, outcome.file)
            artifact = path.relative_to(self.folder).as_posix()
            evaluations.append(outcome.evaluation.model_copy(update={"trial": number, "artifact": artifact}))
        write_json(folder / "outcomes.json", [e.model_dump(mode="json") for e in evaluations])
        write_evaluation(self.folder, evaluations[0])
        self._tell(evaluations[0], constraints)
        return [evaluations[0], *self._add_derived(number, constraints)]

    def refuse(self, evaluation: Evaluation, constraints: Sequence[Constraint] = ()) -> None:
        """Keep a rejected or failed candidate with its reason."""
        write_evaluation(self.folder, evaluation)
        self._tell(evaluation, constraints)

    def add_baseline(self, outcome: Outcome) -> Evaluation:
        """Keep a baseline as a trial without parameters."""
        with _quiet():
            trial = self._study.ask()
        return self.keep(trial.number, [outcome], ())[0]

    def recover(self, constraints: Sequence[Constraint]) -> None:
        """Bring Optuna up to what is on disk: results that were written but not told, points not yet added."""
        for trial in self.trials:
            evaluation = read_evaluation(self.folder, trial.number)
            if trial.state == TrialState.RUNNING and evaluation is not None:
                self._tell(evaluation, constraints)
            if evaluation is not None and evaluation.state == "complete":
                self._add_derived(trial.number, constraints)

    def _add_derived(self, number: int, constraints: Sequence[Constraint]) -> list[Evaluation]:
        path = trial_folder(self.folder, number) / "outcomes.json"
        if not path.exists():
            return []
        known = {t.user_attrs.get("derived_index") for t in self.trials if t.user_attrs.get("derived_from") == number}
        parent = self.trials[number]
        added = []
        for i, item in enumerate(json.loads(path.read_text())):
            if i == 0 or i in known:
                continue
            evaluation = Evaluation.model_validate(item).model_copy(
                update={"trial": len(self.trials), "derived_from": number}
            )
            write_evaluation(self.folder, evaluation)
            with _quiet():
                self._study.add_trial(
                    optuna.create_trial(
                        state=TrialState.COMPLETE,
                        values=list(evaluation.objectives()),
                        params=parent.params,
                        distributions=parent.distributions,
                        user_attrs={"derived_from": number, "derived_index": i, **_attributes(evaluation)},
                        constraints=_violations(evaluation, constraints),
                    )
                )
            added.append(evaluation)
        return added

    def _tell(self, evaluation: Evaluation, constraints: Sequence[Constraint]) -> None:
        frozen = self.trials[evaluation.trial]
        if frozen.state.is_finished():
            return
        with _quiet():
            trial = Trial(self._study, frozen._trial_id)
            for key, value in _attributes(evaluation).items():
                trial.set_user_attr(key, value)
            for key, violation in _violations(evaluation, constraints).items():
                if key not in frozen.constraints:
                    trial.set_constraint(key, violation)
            if evaluation.state == "complete":
                self._study.tell(trial, list(evaluation.objectives()))
            else:
                state = TrialState.PRUNED if evaluation.state == "rejected" else TrialState.FAIL
                self._study.tell(trial, state=state)

    def _use_sampler(self, number: int) -> None:
        self._study.sampler = sampler(self.settings.sampler, self.settings.seed, number)


def _attributes(evaluation: Evaluation) -> dict[str, Any]:
    return {"kind": evaluation.kind, "label": evaluation.label, "reason": evaluation.reason[:500]}


def _violations(evaluation: Evaluation, constraints: Sequence[Constraint]) -> dict[str, float]:
    values: dict[str, float | None] = {
        "accuracy": evaluation.validation.value if evaluation.validation else None,
        "latency_ms": evaluation.predicted_latency_ms,
        "size_bytes": evaluation.size_bytes,
    }
    result = {}
    for i, c in enumerate(constraints):
        value = values[c.quantity]
        if value is not None:
            result[f"{i}: {c}"] = c.violation(value)
    return result


def check_folder(folder: Path) -> None:
    """Refuse a folder with other things in it, before anything is written.

    Raises:
        StudyError: it is not empty, and not a study.
    """
    if not folder.is_dir() or (folder / "study.json").exists():
        return
    if any(path.name not in ("lock", "cache") for path in folder.iterdir()):
        raise StudyError(f"{folder}: is not empty and not a study; use another --out")


def _keep_settings(folder: Path, settings: Settings) -> None:
    if (folder / "study.json").exists():
        if differences := read_settings(folder).differences(settings):
            raise StudyError(
                f"{folder}: holds a study with other inputs: {'; '.join(differences)}. "
                "Use another --out, or the same inputs to resume"
            )
        return
    write_json(folder / "study.json", settings.model_dump(mode="json"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs every trial and warns about experimental features that we chose knowingly."""
    previous = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(previous)
