"""The elastic training at the beginning of a search."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np

from autocompress.controller.plan import Budget, Fixed, Plan
from autocompress.elastic import Elastic
from autocompress.errors import InputError
from autocompress.recipe import Recipe, suggestion
from autocompress.study import EvaluatorName
from autocompress.task import Task

_RECIPES = 256
_SHARE = 1 / 3
"""Of the hours of a search, for the elastic training at most."""


def check_evaluator(name: str, task: Task) -> None:
    """Refuse an unknown name, and one that this task cannot serve.

    Raises:
        InputError: saying what is possible.
    """
    known = get_args(EvaluatorName)
    if name not in known:
        raise InputError(f"unknown evaluator {name!r}{suggestion(name, known)}; known: {', '.join(known)}")
    if name == "elastic" and not task.trainable:
        raise InputError("the elastic evaluator needs training data: give the task train=..., or use standalone")


def share_weights(plan: Plan, budget: Budget, seed: int) -> None:
    """Train the weights that all candidates start from, or read them where that was done before."""
    evaluator = plan.evaluator
    evaluator.elastic = Elastic.train(
        evaluator.workshop,
        structures(plan, seed),
        folder=evaluator.cache,
        max_seconds=_SHARE * 3600 * budget.hours if budget.hours else math.inf,
    )


def structures(plan: Plan, seed: int, n: int = _RECIPES) -> list[Recipe]:
    """The strongest recipe of the space, then random ones."""
    rng = np.random.default_rng(seed)
    outline = plan.evaluator.anatomy.outline
    knobs = plan.space.knobs(outline)
    settings = [plan.space.setting(outline, lambda: 1.0, optional=False)]
    settings += [{name: domain.at(float(rng.random())) for name, domain in knobs.items()} for _ in range(n - 1)]
    return [plan.space.sample(Fixed(values), outline) for values in settings]
