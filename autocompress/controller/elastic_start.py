"""The elastic training at the beginning of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, FiniteFloat, ValidationError
from scipy.interpolate import RBFInterpolator

from autocompress.compression.stage import Phase
from autocompress.controller.plan import Budget, Fixed, Plan
from autocompress.errors import CandidateError, InputError, StudyError, failing_as
from autocompress.evaluation.elastic import Elastic
from autocompress.files import Folder
from autocompress.recipes.domains import Domain, Value
from autocompress.recipes.recipe import Recipe
from autocompress.studies.settings import EvaluatorName
from autocompress.tasks.task import Task
from autocompress.validation import suggestion

_RECIPES = 256
_READINGS = 48
_SMOOTHING = 0.01
"""Of the splines: an accuracy from some thousand samples is uncertain by half a point."""
_SHARE = 1 / 3
"""Of the hours of a search, for the elastic training at most."""


def check_evaluator(name: str) -> None:
    """Refuse an unknown name.

    Raises:
        InputError: with the names that are known.
    """
    known = get_args(EvaluatorName)
    if name not in known:
        raise InputError(f"unknown evaluator {name!r}{suggestion(name, known)}; known: {', '.join(known)}")


def check_trainable(evaluator: EvaluatorName, task: Task) -> None:
    """Refuse an evaluator that this task cannot serve.

    Raises:
        InputError: saying what is missing.
    """
    if evaluator == "elastic" and not task.trainable:
        raise InputError("the elastic evaluator needs training data: give the task train=..., or use standalone")


def train_shared_weights(plan: Plan, budget: Budget, seed: int) -> None:
    """Train the weights that all candidates start from, or read them where that was done before.

    Raises:
        InputError: this network cannot share weights, or the space has no pruning ratio to choose.
    """
    evaluator = plan.evaluator
    if not _strengths(plan):
        raise InputError(
            "the elastic evaluator shares weights between pruning ratios and the like, and this space has none to "
            "choose for this network; use standalone"
        )
    try:
        with failing_as(CandidateError, "elastic training"):
            evaluator.elastic = Elastic.train(
                evaluator.context,
                structures(plan, seed),
                folder=evaluator.cache,
                max_seconds=_SHARE * 3600 * budget.hours if budget.hours else math.inf,
            )
    except CandidateError as error:
        raise InputError(f"{error}; use the evaluator standalone for this network") from error


def structures(plan: Plan, seed: int, n: int = _RECIPES) -> list[Recipe]:
    """The strongest recipe of the space, then random ones."""
    rng = np.random.default_rng(seed)
    outline = plan.evaluator.analysis.outline
    knobs = plan.space.knobs(outline)
    settings = [plan.space.setting(outline, lambda: 1.0, optional=False)]
    settings += [{name: domain.at(float(rng.random())) for name, domain in knobs.items()} for _ in range(n - 1)]
    return [plan.space.sample(Fixed(values), outline) for values in settings]


def _strengths(plan: Plan) -> dict[str, Domain]:
    """The knobs that make the network smaller, as far as there is something to choose."""
    found = plan.space.strengths(plan.evaluator.analysis.outline, Phase.STRUCTURE)
    return {name: domain for name, domain in found.items() if domain.size > 1}


class _Readings(BaseModel):
    """Accuracies that were read off, kept beside the shared weights."""

    settings: list[dict[str, Value]]
    accuracies: list[FiniteFloat]


def _read_readings(path: Path, knobs: set[str]) -> _Readings | None:
    """What was kept, or None where there is nothing or it is damaged."""
    try:
        found = _Readings.model_validate_json(Folder(path.parent).read(path.name) or b"")
    except (StudyError, ValidationError):
        return None
    usable = len(found.settings) == len(found.accuracies) and all(knobs <= set(s) for s in found.settings)
    return found if usable else None


class ElasticAccuracy:
    """What the shared weights promise for settings: a feature for samplers that model the accuracy, no result.

    The promise is read off for some random widths, at the cost of one pass over the validation data each, and
    interpolated between them (thin plate splines over the pruning ratios and other strengths).

    Args:
        plan: its evaluator has shared weights.
        seed: of the widths.
        n: how many of them; at least one more than there are strengths to choose.
    """

    def __init__(self, plan: Plan, seed: int, n: int = _READINGS) -> None:
        evaluator, outline = plan.evaluator, plan.evaluator.analysis.outline
        assert evaluator.elastic is not None, "train_shared_weights comes first"
        self._ratios = _strengths(plan)
        n = max(n, 2 * len(self._ratios) + 2)
        path = (
            evaluator.cache / f"elastic-{evaluator.elastic.key}.accuracy.{seed}.{n}.json" if evaluator.cache else None
        )
        if path and (kept := _read_readings(path, set(self._ratios))):
            self.settings, self.accuracies = kept.settings, kept.accuracies
        else:
            rng = np.random.default_rng([seed, 2])
            self.settings, self.accuracies = [], []
            for i in range(1, n + 1):
                evaluator.context.progress(f"accuracy with shared weights: {i} of {n}")
                setting = plan.space.setting(outline, rng.random, optional=False)
                with suppress(CandidateError), failing_as(CandidateError, "reading shared weights"):
                    candidate = evaluator.structure(plan.space.sample(Fixed(setting), outline))
                    self.accuracies.append(evaluator.elastic.accuracy(candidate).value)
                    self.settings.append(setting)
            if path:
                Folder(path.parent).write_json(path.name, {"settings": self.settings, "accuracies": self.accuracies})
        columns = {name: np.array([setting[name] for setting in self.settings]) for name in self._ratios}
        where, index = np.unique(self._widths(columns), axis=0, return_inverse=True)
        means = np.bincount(index, self.accuracies) / np.bincount(index)
        self._spline = RBFInterpolator(where, means, smoothing=_SMOOTHING) if len(where) > len(self._ratios) else None

    def __call__(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """From n settings, by knob, to shape (n, 1)."""
        n = len(next(iter(columns.values())))
        if self._spline is None:
            return np.zeros((n, 1))
        promise: NDArray[np.float64] = self._spline(self._widths(columns))[:, None]
        return promise

    def _widths(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        return np.column_stack([_numbers(columns[name], domain) for name, domain in self._ratios.items()])


def _numbers(column: NDArray[Any], domain: Domain) -> NDArray[np.float64]:
    """Values of a knob as they are, or their places in its choice where they are no numbers."""
    values = np.asarray(column)
    if values.dtype.kind in "biuf":
        return values.astype(float)
    place = {value: float(i) for i, value in enumerate(domain.corners())}
    return np.array([place[value] for value in values.tolist()])
