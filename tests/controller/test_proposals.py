from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from helpers.small import device, small_task, space

from autocompress.controller.plan import Plan
from autocompress.controller.proposals import LEVELS, Proposals, reference
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.screening import Screen
from autocompress.studies.constraints import at_least, at_most

SPACE: dict[str, Any] = {
    "version": 1,
    "stages": [
        {"technique": "early_exit", "optional": True, "first": {"choice": [0.3, 0.5]}, "hidden": 8},
        {"technique": "prune", "ratio": {"per": "stage", "low": 0.0, "high": 0.5, "step": 0.125}, "round_to": 2},
        {"technique": "distill", "epochs": 1, "learning_rate": {"low": 0.01, "high": 0.1, "log": True}},
        {"technique": "ptq", "weight_bits": {"choice": [8, 4, 16]}},
    ],
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.make(Evaluator(small_task("resnet"), device()), space(SPACE), (), device())


@pytest.fixture(scope="module")
def proposals(plan: Plan) -> Proposals:
    return Proposals(plan, ())


def median_ms(proposals: Proposals) -> float:
    starts = proposals.warm_starts(0)
    return float(np.median(proposals.objectives(proposals.columns(starts))[0][:, 0]))


def test_costs_are_those_of_the_forecast(plan: Plan, proposals: Proposals) -> None:
    assert proposals.is_fast
    settings = proposals.warm_starts(0)[:3]
    values, _ = proposals.objectives(proposals.columns(settings))
    for setting, (latency_ms, size_bytes) in zip(settings, values, strict=True):
        forecast = plan.forecast_of(setting)
        assert forecast is not None
        assert forecast.best_case_ms * 0.95 <= latency_ms <= forecast.worst_case_ms * 1.05
        assert size_bytes == pytest.approx(forecast.size_bytes, rel=0.02)


def test_a_network_that_cannot_be_screened_is_forecast_one_by_one(
    plan: Plan, proposals: Proposals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise CandidateError("cannot be read")

    settings = proposals.warm_starts(0)[:2]
    expected = proposals.objectives(proposals.columns(settings))[0]
    monkeypatch.setattr(Screen, "__init__", refuse)
    slow = Proposals(plan, ())
    assert not slow.is_fast
    assert slow.objectives(slow.columns(settings))[0] == pytest.approx(expected, rel=0.05)
    assert slow.effort(slow.columns(settings)) == pytest.approx(proposals.effort(proposals.columns(settings)))


def test_effort_is_epochs_times_the_work_of_the_network(plan: Plan) -> None:
    distill = {"technique": "distill", "optional": True, "epochs": {"choice": [1, 4]}}
    numerics = {"one_of": [{"technique": "ptq"}, {"technique": "qat", "epochs": 2}]}
    drawn = space({"version": 1, "stages": [SPACE["stages"][1], distill, numerics]})
    plan = Plan.make(plan.evaluator, drawn, (), device())
    offered, rng = Proposals(plan, ()), np.random.default_rng(0)
    knobs = drawn.knobs(plan.evaluator.analysis.outline)
    settings = [{name: domain.at(float(rng.random())) for name, domain in knobs.items()} for _ in range(16)]
    forecasts = [f for setting in settings if (f := plan.forecast_of(setting))]
    epochs = [sum(getattr(stage, "epochs", 0) for stage in f.recipe.stages) for f in forecasts]
    assert set(epochs) == {0, 1, 2, 3, 4, 6}
    work = np.array(epochs) * [f.cost.macs / plan.evaluator.analysis.macs for f in forecasts]
    effort = offered.effort(offered.columns(settings))
    assert effort - effort.min() == pytest.approx(work - work.min())


def test_warm_starts_keep_the_constraints_and_much_capacity(plan: Plan, proposals: Proposals) -> None:
    limit = median_ms(proposals)
    limited = Proposals(plan, [at_most("latency_ms", limit)])
    starts = limited.warm_starts(0)
    assert len(starts) == len({repr(s) for s in starts}) == len(LEVELS)
    x = limited.columns(starts)
    values, broken = limited.objectives(x)
    assert (broken <= 0).all()
    assert (np.diff(values.prod(1)) < 0).all() and (np.diff(limited.costs(x).capacity) < 0).all()
    assert limited.warm_starts(0) == starts


def test_a_limit_that_only_few_recipes_keep_still_gets_one_to_begin_with(plan: Plan) -> None:
    limit = plan.reach["size_bytes"]
    limited = Proposals(plan, [at_most("size_bytes", limit * 1.02)])  # screened sizes are exact to 2 %
    starts = limited.warm_starts(0)
    assert starts
    for forecast in map(plan.forecast_of, starts):
        assert forecast is not None and forecast.size_bytes <= limit * 1.04


def test_the_sampler_proposes_recipes_that_keep_the_constraints(plan: Plan, proposals: Proposals) -> None:
    limit = median_ms(proposals)
    limited = Proposals(plan, [at_most("latency_ms", limit)])
    baseline = plan.evaluator.evaluate(plan.evaluator.baselines()["fp32"])[0].evaluation
    sampler = limited.sampler(baseline, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=sampler)
    outline = plan.evaluator.analysis.outline
    for i in range(10):
        trial = study.ask()
        recipe = plan.space.sample(trial, outline)
        forecast = plan.evaluator.forecast(recipe)
        assert forecast.best_case_ms <= limit * (1 + 1e-9)
        assert ("early_exit.first" in trial.params) == (recipe.get("early_exit") is not None)
        study.tell(trial, [0.5 + 0.01 * i, forecast.worst_case_ms, forecast.size_bytes])
    assert len({repr(t.params) for t in study.trials}) == 10


def test_the_reference_is_the_limits_else_the_baseline(plan: Plan) -> None:
    baseline = plan.evaluator.evaluate(plan.evaluator.baselines()["fp32"])[0].evaluation
    accuracy, latency_ms, size_bytes = baseline.objectives()
    assert reference((), baseline) == (accuracy * 0.9, latency_ms, size_bytes)
    limits = at_least("accuracy", 0.5), at_most("latency_ms", latency_ms / 2), at_most("size_bytes", size_bytes * 9)
    assert reference(limits, baseline) == (0.5, latency_ms / 2, size_bytes)
    looser = at_most("latency_ms", latency_ms * 0.9)  # of two limits the tighter one counts, whatever their order
    assert (
        reference((*limits, looser), baseline) == reference((looser, *limits), baseline) == reference(limits, baseline)
    )
