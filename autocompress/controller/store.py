"""The study on disk while a search runs: Optuna's journal and the trial folders, kept in step.

Every result is on disk in its trial's folder before Optuna is told, so that a crash between the two is repaired by
telling again; a journal that was cut short or deleted is written again from the folders. A trial that was under way
when the driver died is taken up again under its own number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from autocompress.controller.storage import open_storage, quiet
from autocompress.errors import RecipeError, StudyError
from autocompress.evaluation.evaluator import Outcome
from autocompress.files import Folder, json_object
from autocompress.known_costs import KnownCostSampler
from autocompress.known_costs.sampler import DERIVED_FROM
from autocompress.recipes.recipe import Recipe
from autocompress.studies.constraints import Constraint, value_of
from autocompress.studies.folder import (
    has_evaluation,
    invalidate_final,
    is_study,
    read_evaluation,
    read_settings,
    trial_name,
    trial_numbers,
    write_evaluation,
    write_settings,
    write_workloads,
)
from autocompress.studies.results import Evaluation
from autocompress.studies.sample_scores import write_sample_scores
from autocompress.studies.settings import Settings

_OBJECTIVES: Final[dict[str, Literal["maximize", "minimize"]]] = {
    "accuracy": "maximize",
    "latency_ms": "minimize",
    "size_bytes": "minimize",
}
"""Energy is no objective: on one device it is proportional to latency. Memory can be limited by a constraint."""
_STATES: Final = {"complete": TrialState.COMPLETE, "rejected": TrialState.PRUNED, "failed": TrialState.FAIL}
_PROPOSAL = "proposal.json"
_ELAPSED = "elapsed.json"
_LONGEST_S = 3e9
"""A century: no search took longer."""
_OUTCOMES: Final = TypeAdapter(list[Evaluation])
_INDEX = "derived_index"
"""User attribute of points that were found with another one, as the thresholds of exits are: which of them it is."""
_RECIPE = "recipe"
"""User attribute of a trial whose recipe was given: that recipe, as data."""
_FIXED = "fixed_params"
"""Optuna's system attribute of a trial whose setting was given."""
_TRIES = 10
"""How often the search may die during a trial before the trial counts as its cause."""


class Store:
    """The only writer of a study folder. Hold `journal.exclusive(folder)` while using it."""

    def __init__(self, folder: Path, settings: Settings, url: str | None = None) -> None:
        self.folder = folder
        self.settings = settings
        _keep_settings(folder, settings)
        files = Folder(folder)
        for name in ("", *(trial_name(number) for number in trial_numbers(folder))):
            files.sweep(name)
        self.notes: list[str] = []
        """What of the folder cannot be read, a sentence each."""
        before = set(files.names())
        with quiet():
            name, self._storage = open_storage(folder, url)
            for aside in set(files.names()) - before:
                if "unreadable" in aside:
                    self.notes.append(f"Optuna's journal could not be read; it is kept as {aside}, and written again")
            self._study = optuna.create_study(
                study_name=name,
                storage=self._storage,
                directions=list(_OBJECTIVES.values()),
                load_if_exists=True,
            )
            self._study.set_metric_names(list(_OBJECTIVES))
        self.sampler_of: Callable[[int], optuna.samplers.BaseSampler] | None = None
        """The sampler for each trial, by its number."""
        self._asked: set[int] = set()
        self._elapsed_s: float | None = None

    def close(self) -> None:
        """Leave the database, if it is one."""
        if isinstance(self._storage, optuna.storages.RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, oldest first."""
        return self._study.get_trials(deepcopy=False)

    def evaluations(self) -> Iterator[Evaluation]:
        """Results of all finished trials."""
        for trial in self.trials:
            evaluation = self._read(trial.number)
            if evaluation is not None and trial.state.is_finished():
                yield evaluation

    def baseline(self, label: str) -> Evaluation | None:
        """A baseline that is on disk, told to Optuna or not."""
        on_disk = (self._read(number) for number in range(self._n_on_disk()))
        return next((e for e in on_disk if e and e.kind == "baseline" and e.label == label), None)

    def key(self, number: int) -> str:
        """What was kept as the key of a finished trial, or nothing."""
        return _read_proposal(self.folder, number).key

    def _read(self, number: int) -> Evaluation | None:
        """The result of a trial; what cannot be read is replaced from what else is kept of it, or set aside."""
        try:
            return read_evaluation(self.folder, number)
        except StudyError as error:
            if outcomes := _read_outcomes(self.folder, number):
                write_evaluation(self.folder, outcomes[0])
                return outcomes[0]
            note = f"trial {number} is left out: {error}"
            if note not in self.notes:
                self.notes.append(note)
            return None

    def elapsed_s(self) -> float:
        """Seconds of search so far, over all sessions; also where Optuna's record of them is gone."""
        if self._elapsed_s is None:
            kept = _read_elapsed(self.folder)
            self._elapsed_s = max(kept, float(self._study.user_attrs.get("elapsed_s", 0.0)))
        return self._elapsed_s

    def add_elapsed(self, seconds: float) -> None:
        """Account for the time that a trial took."""
        self._elapsed_s = round(self.elapsed_s() + seconds, 3)
        Folder(self.folder).write_json(_ELAPSED, {"seconds": self._elapsed_s})

    def enqueue(self, values: dict[str, Any]) -> None:
        """Have a setting tried next, once."""
        with quiet():
            self._study.enqueue_trial(values, skip_if_exists=True)

    def take_up(self, source: int | None = None) -> Trial | None:
        """A trial that was under way when the last driver died, if there is one.

        Args:
            source: only of those that were asked for as sharing its network.
        """
        unfinished = (t for t in self.trials if t.state == TrialState.RUNNING and t.number not in self._asked)
        frozen = next((t for t in unfinished if source in (None, t.user_attrs.get(DERIVED_FROM))), None)
        return None if frozen is None else self._started(frozen)

    def ask(self) -> Trial:
        """The next trial: one that waits, else a new one."""
        waiting = (t.number for t in self.trials if t.state == TrialState.WAITING)
        with quiet():
            self._use_sampler(next(waiting, len(self.trials)))
            asked = self._study.ask()
            self._asked.add(asked.number)
            return asked

    def ask_derived(self, source: int, sampler: KnownCostSampler, free: Callable[[str], bool]) -> Trial | None:
        """A trial of the best setting that differs from that of `source` in `free` knobs only, if there is another.

        The trial that comes back says so: see `derived_from`.
        """
        params = self.trials[source].params
        held = {name: value for name, value in params.items() if not free(name)}
        if len(held) == len(params):
            return None
        with quiet():
            found = sampler.propose(self._study, 1, held)
            if not found:
                return None
            attributes = {_FIXED: found[0][0]}  # as Optuna's enqueue_trial does; but it starts at once
            state, derived = TrialState.RUNNING, {DERIVED_FROM: source}
            self._study.add_trial(optuna.create_trial(state=state, system_attrs=attributes, user_attrs=derived))
        return self._started(self.trials[-1])

    def ask_for(self, recipe: Recipe, source: int, values: dict[str, Any] | None) -> Trial:
        """A trial of a given recipe, which shares the network of `source`.

        Args:
            recipe: kept with the trial, see `recipe`.
            source: see `derived_from`.
            values: its setting in the space; None where the space does not have it, and the trial has no parameters.
        """
        attributes = {} if values is None else {_FIXED: values}
        derived = {DERIVED_FROM: source, _RECIPE: recipe.to_dict()}
        with quiet():
            self._study.add_trial(
                optuna.create_trial(state=TrialState.RUNNING, system_attrs=attributes, user_attrs=derived)
            )
        return self._started(self.trials[-1])

    def recipe(self, number: int) -> Recipe | None:
        """The recipe that a trial was asked for, where the space does not have it."""
        trial = self.trials[number]
        return None if _FIXED in trial.system_attrs else _recipe_of(trial)

    def asked_for(self, source: int) -> dict[str, Evaluation | None]:
        """What is known of the trials that share the network of `source`, by the digest of their recipe.

        None stands for one that is being evaluated.
        """
        found: dict[str, Evaluation | None] = {}
        for trial in self.trials:
            if trial.user_attrs.get(DERIVED_FROM) == source:
                evaluation, recipe = self._read(trial.number), _recipe_of(trial)
                if digest := recipe.digest() if recipe else evaluation.recipe_digest if evaluation else "":
                    found[digest] = evaluation
        return found

    def derived_from(self, number: int) -> int | None:
        """The trial whose trained network a trial shares, if it was asked for that."""
        source = self.trials[number].user_attrs.get(DERIVED_FROM)
        return None if source is None else int(source)

    def n_derived(self, source: int) -> int:
        """How many trials were asked for that share the trained network of `source`."""
        attributes = [trial.user_attrs for trial in self.trials]
        return sum(a.get(DERIVED_FROM) == source and _INDEX not in a for a in attributes)

    def _started(self, frozen: FrozenTrial) -> Trial:
        self._asked.add(frozen.number)
        if DERIVED_FROM in frozen.user_attrs:  # its setting is fixed; the sampler would propose one in vain
            self._study.sampler = optuna.samplers.RandomSampler()
        else:
            self._use_sampler(frozen.number)
        with quiet():
            return Trial(self._study, frozen._trial_id)

    def begin(self, trial: Trial) -> bool:
        """Note that a trial is being evaluated; False when it has already killed the process too often."""
        tries = int(trial.user_attrs.get("tries", 0))
        trial.set_user_attr("tries", tries + 1)
        return tries < _TRIES

    def keep(
        self, number: int, outcomes: Sequence[Outcome], constraints: Sequence[Constraint], key: str = ""
    ) -> list[Evaluation]:
        """Keep a finished candidate: files first, then Optuna, then the points that share its network.

        Args:
            key: candidates of equal keys give the same file.
        """
        invalidate_final(self.folder)  # this one is not in it, should the search be interrupted now
        evaluations = self._write(number, outcomes)
        self._write_proposal(number, key)
        write_evaluation(self.folder, evaluations[0])
        self._tell(evaluations[0], constraints)
        return [evaluations[0], *self._add_derived(number, constraints)]

    def refuse(self, evaluation: Evaluation, constraints: Sequence[Constraint] = (), key: str = "") -> None:
        """Keep a rejected or failed candidate with its reason."""
        self._write_proposal(evaluation.trial, key)
        write_evaluation(self.folder, evaluation)
        self._tell(evaluation, constraints)

    def add_baseline(self, outcome: Outcome) -> Evaluation:
        """Keep a baseline as a trial without parameters."""
        [evaluation] = self._write(len(self.trials), [outcome])
        write_evaluation(self.folder, evaluation)
        self._add(evaluation, ())
        return evaluation

    def recover(self, constraints: Sequence[Constraint]) -> None:
        """Bring Optuna up to what is on disk: results that it does not know, points not yet added."""
        for number in range(self._n_on_disk()):
            evaluation = self._read(number)
            if number >= len(self.trials):
                self._add(evaluation, constraints)
            elif evaluation is not None:
                self._tell(evaluation, constraints)
        for trial in self.trials:
            evaluation = self._read(trial.number)
            if evaluation is not None and evaluation.state == "complete":
                self._add_derived(trial.number, constraints)

    def _n_on_disk(self) -> int:
        """One more than the highest number of a trial with a proposal or a result.

        A folder with neither is that of a baseline which a kill left half written: it is evaluated again.
        """
        files = Folder(self.folder)
        for number in reversed(trial_numbers(self.folder)):
            if files.has(f"{trial_name(number)}/{_PROPOSAL}") or has_evaluation(self.folder, number):
                return number + 1
        return 0

    def _write(self, number: int, outcomes: Sequence[Outcome]) -> list[Evaluation]:
        evaluations = []
        for i, outcome in enumerate(outcomes):
            name = f"model{outcome.suffix}" if i == 0 else f"model.{i}{outcome.suffix}"
            artifact = f"{trial_name(number)}/{name}"
            Folder(self.folder).write(artifact, outcome.file)
            write_workloads(self.folder, outcome.workloads)
            if outcome.sample_scores is not None:
                write_sample_scores(self.folder, artifact, "validation", outcome.sample_scores)
            evaluations.append(outcome.evaluation.model_copy(update={"trial": number, "artifact": artifact}))
        Folder(self.folder).write_json(_outcomes_of(number), [e.model_dump(mode="json") for e in evaluations])
        return evaluations

    def _write_proposal(self, number: int, key: str) -> None:
        """Keep what was proposed, so that Optuna's record of a trial can be written again."""
        trial = self.trials[number]
        params = {
            name: [distribution_to_json(domain), domain.to_internal_repr(trial.params[name])]
            for name, domain in trial.distributions.items()
        }
        Folder(self.folder).write_json(f"{trial_name(number)}/{_PROPOSAL}", {"key": key, "params": params})

    def _add_derived(self, number: int, constraints: Sequence[Constraint]) -> list[Evaluation]:
        known = {t.user_attrs.get(_INDEX) for t in self.trials if t.user_attrs.get(DERIVED_FROM) == number}
        added = []
        for i, outcome in enumerate(_read_outcomes(self.folder, number)):
            if i == 0 or i in known:
                continue
            evaluation = outcome.model_copy(update={"trial": len(self.trials), "derived_from": number})
            write_evaluation(self.folder, evaluation)
            self._add(evaluation, constraints)
            added.append(evaluation)
        return added

    def _add(self, evaluation: Evaluation | None, constraints: Sequence[Constraint]) -> None:
        """Add a finished trial to Optuna in one record; nothing is known of one that was under way."""
        if evaluation is None:
            with quiet():
                self._study.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={"reason": "lost"}))
            return
        attributes, source = _attributes(evaluation), evaluation.trial
        if evaluation.derived_from is not None and not evaluation.is_repeat:
            attributes[DERIVED_FROM] = evaluation.derived_from
            suffixes = Path(str(evaluation.artifact)).suffixes
            if len(suffixes) == 2:  # model.3.onnx, found with another one
                source = evaluation.derived_from
                attributes[_INDEX] = int(suffixes[0].lstrip("."))
        params, distributions = self._proposed(source)
        with quiet():
            self._study.add_trial(
                optuna.create_trial(
                    state=_STATES[evaluation.state],
                    values=list(evaluation.objectives()) if evaluation.state == "complete" else None,
                    params=params,
                    distributions=distributions,
                    user_attrs=attributes,
                    constraints=_violations(evaluation, constraints) if evaluation.kind == "candidate" else {},
                )
            )

    def _proposed(self, number: int) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        kept = _read_proposal(self.folder, number).params
        try:
            distributions = {name: json_to_distribution(text) for name, (text, _) in kept.items()}
            return {n: d.to_external_repr(kept[n][1]) for n, d in distributions.items()}, distributions
        except Exception:  # a domain that Optuna cannot read: it says so in any way it likes
            return {}, {}

    def _tell(self, evaluation: Evaluation, constraints: Sequence[Constraint]) -> None:
        frozen = self.trials[evaluation.trial]
        if frozen.state.is_finished():
            return
        with quiet():
            storage = self._study._storage
            if frozen.state == TrialState.WAITING:  # the journal was cut short
                storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING)
            params, distributions = self._proposed(evaluation.trial)
            for name, domain in distributions.items():
                if name not in frozen.params:
                    storage.set_trial_param(frozen._trial_id, name, domain.to_internal_repr(params[name]), domain)
            trial = Trial(self._study, frozen._trial_id)
            for key, value in _attributes(evaluation).items():
                trial.set_user_attr(key, value)
            for key, violation in _violations(evaluation, constraints).items():
                if key not in frozen.constraints:
                    trial.set_constraint(key, violation)
            if evaluation.state == "complete":
                self._study.tell(trial, list(evaluation.objectives()))
            else:
                self._study.tell(trial, state=_STATES[evaluation.state])

    def _use_sampler(self, number: int) -> None:
        if self.sampler_of:
            self._study.sampler = self.sampler_of(number)


class _Proposal(BaseModel):
    """What was proposed for a trial."""

    key: str = ""
    params: dict[str, tuple[str, float]] = Field(default_factory=dict)
    """By knob: its domain as Optuna writes it, and the value as Optuna numbers it."""


def _read_proposal(folder: Path, number: int) -> _Proposal:
    """What was proposed; nothing where that is not known any more."""
    try:
        return _Proposal.model_validate_json(Folder(folder).read(f"{trial_name(number)}/{_PROPOSAL}") or b"{}")
    except (StudyError, ValidationError):
        return _Proposal()


def _recipe_of(trial: FrozenTrial) -> Recipe | None:
    data = trial.user_attrs.get(_RECIPE)
    return None if data is None else Recipe.parse(data)


def _read_elapsed(folder: Path) -> float:
    try:
        seconds = json_object(_ELAPSED, Folder(folder).read(_ELAPSED) or b"{}").get("seconds", 0.0)
    except StudyError:
        return 0.0
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < _LONGEST_S else 0.0


def _outcomes_of(number: int) -> str:
    return f"{trial_name(number)}/outcomes.json"


def _read_outcomes(folder: Path, number: int) -> list[Evaluation]:
    """All points that were found with one network, the trial's own first; none where that is not known any more."""
    try:
        return _OUTCOMES.validate_json(Folder(folder).read(_outcomes_of(number)) or b"[]")
    except (StudyError, RecipeError, ValidationError):
        return []


def _attributes(evaluation: Evaluation) -> dict[str, Any]:
    return {"kind": evaluation.kind, "label": evaluation.label, "reason": evaluation.reason[:500]}


def _violations(evaluation: Evaluation, constraints: Sequence[Constraint]) -> dict[str, float]:
    predicted = evaluation.model_copy(update={"measured_latency_ms": None})
    result = {}
    for i, c in enumerate(constraints):
        value = value_of(predicted, c.quantity)
        if value is not None:
            result[f"{i}: {c}"] = c.violation(value)
    return result


def check_folder(folder: Path) -> None:
    """Refuse a folder with other things in it, before anything is written.

    Raises:
        StudyError: it is not empty, and not a study.
    """
    if not folder.is_dir() or is_study(folder):
        return
    if any(not name.startswith(".") and name not in ("lock", "cache") for name in Folder(folder).names()):
        raise StudyError(f"{folder}: is not empty and not a study; use another --out")


def remarks(folder: Path, settings: Settings) -> list[str]:
    """What is to be said before the study in a folder goes on with these settings."""
    return read_settings(folder).remarks(settings) if is_study(folder) else []


def _keep_settings(folder: Path, settings: Settings) -> None:
    if is_study(folder):
        if differences := read_settings(folder).differences(settings):
            raise StudyError(
                f"{folder}: holds a study with other inputs: {'; '.join(differences)}. Use the same inputs to resume, "
                f"or another --out with --start-from {folder}, which tries its best recipes first"
            )
        return
    write_settings(folder, settings)
