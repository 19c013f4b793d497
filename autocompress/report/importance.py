"""Which knobs decide about accuracy, latency and size, by the trials of the study itself."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from autocompress.errors import first_line
from autocompress.files import Folder
from autocompress.studies.study import Study

ENOUGH = 30
"""Evaluated candidates below which no importance is given."""
_TOP = 0.1
_LEAST_TOP = 5
"""PED-ANOVA compares the knobs of the best trials with those of all: the best tenth, or so many."""
_SHUFFLES = 20
_TARGETS = {"accuracy": (0, -1.0), "latency": (1, 1.0), "size": (2, 1.0)}


@dataclass(frozen=True)
class Importance:
    """How much one knob has to do with being among the best in one objective."""

    objective: str
    knob: str
    share: float
    """Of the importances of all knobs, 0 to 1."""
    beyond_chance: bool
    """Whether it is larger than in every one of 20 studies with shuffled results (p < 0.05)."""


def importances(study: Study) -> tuple[list[Importance], str]:
    """Return the importance of each knob for each objective, or none and the reason in words.

    Points that come from the threshold sweep of another trial are left out: they have its knobs.

    Reference: Watanabe et al., PED-ANOVA, IJCAI 2023, arXiv 2304.10255.
    """
    path = study.path / "study.journal"
    if not Folder(study.path).has(path.name):
        return [], "The study folder has no journal, so the knobs of the trials are not known."
    previous = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return _importances(path)
    finally:
        optuna.logging.set_verbosity(previous)


def _importances(path: Path) -> tuple[list[Importance], str]:
    try:
        found = _trials(str(path))
    except Exception as error:  # whatever optuna and json say of a damaged journal, or of one of somebody else
        return [], f"The journal cannot be read ({first_line(error)}), so the settings of the trials are not known."
    trials = [
        t
        for t in found
        if t.state is TrialState.COMPLETE and t.params and t.values and "derived_from" not in t.user_attrs
    ]
    if len(trials) < ENOUGH:
        return [], f"Knob importance needs {ENOUGH} evaluated candidates; this study has {len(trials)}."
    evaluated = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that PED-ANOVA minimises the target: it is given so
        evaluated.add_trials(trials)
        return [i for name in _TARGETS for i in _of_objective(name, evaluated)], ""


def _trials(path: str) -> list[FrozenTrial]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the journal is experimental
        storage = JournalStorage(JournalFileBackend(path))
    [study] = storage.get_all_studies()
    return storage.get_all_trials(study._study_id)


def _of_objective(name: str, study: optuna.Study) -> list[Importance]:
    index, sign = _TARGETS[name]
    costs = np.array([sign * t.values[index] for t in study.get_trials(deepcopy=False)])
    found = _ped_anova(study, costs)
    rng = np.random.default_rng(0)
    chance = [_ped_anova(study, rng.permutation(costs)) for _ in range(_SHUFFLES)]
    total = sum(found.values()) or 1.0
    return [
        Importance(name, knob, value / total, value > max(c.get(knob, 0.0) for c in chance))
        for knob, value in found.items()
    ]


def _ped_anova(study: optuna.Study, costs: np.ndarray) -> dict[str, float]:
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(_TOP, _LEAST_TOP / len(costs)))
    return evaluator.evaluate(study, target=lambda t: float(costs[t.number]))
