from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from threadpoolctl import threadpool_info, threadpool_limits

from autocompress.known_costs import Columns, KnownCostSampler

SPACE: dict[str, BaseDistribution] = {
    **{f"ratio{i}": FloatDistribution(0.0, 0.75, step=0.125) for i in range(4)},
    "bits": CategoricalDistribution((4, 8)),
    "exit": CategoricalDistribution(("off", "on")),
    "threshold": FloatDistribution(0.3, 0.9),
    "rate": FloatDistribution(1e-3, 1e-1, log=True),
    "fixed": IntDistribution(3, 3),
}
WEIGHT = np.array([0.02, 0.05, 0.1, 0.3])


def ratios(x: Columns) -> Any:
    return np.stack([x[f"ratio{i}"] for i in range(4)], 1)


def costs(x: Columns) -> tuple[Any, Any]:
    """Latency and size with a limit each."""
    latency = (1 - ratios(x)).sum(1) * np.where(x["exit"] == "on", 0.6 + 0.4 * x["threshold"], 1.0)
    size = ((1 - ratios(x)) * [1, 2, 3, 4]).sum(1) * x["bits"] / 8
    values = np.stack([latency, size], 1)
    return values, values - [3.0, 8.0]


def accuracy(p: dict[str, Any]) -> float:
    damage = sum(w * p[f"ratio{i}"] ** 2 for i, w in enumerate(WEIGHT)) + 0.02 * (p["bits"] == 4)
    exits = 0.1 * (0.9 - p["threshold"]) if p["exit"] == "on" else 0.0
    return float(0.9 - damage - exits - 0.01 * np.log10(p["rate"] / 1e-2) ** 2)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Define by run: the threshold is asked for only with an exit."""
    p: dict[str, Any] = {f"ratio{i}": trial.suggest_float(f"ratio{i}", 0.0, 0.75, step=0.125) for i in range(4)}
    p["bits"] = trial.suggest_categorical("bits", (4, 8))
    p["exit"] = trial.suggest_categorical("exit", ("off", "on"))
    if p["exit"] == "on":
        p["threshold"] = trial.suggest_float("threshold", 0.3, 0.9)
    p["rate"] = trial.suggest_float("rate", 1e-3, 1e-1, log=True)
    p["fixed"] = trial.suggest_int("fixed", 3, 3)
    return p


def columns(p: dict[str, Any]) -> Columns:
    return {name: np.array([p.get(name, 0.5)]) for name in SPACE}


def objective(trial: optuna.Trial) -> tuple[float, float, float]:
    p = suggest(trial)
    latency, size = costs(columns(p))[0][0]
    return accuracy(p), float(latency), float(size)


def make(seed: int = 0, **changes: Any) -> KnownCostSampler:
    settings: dict[str, Any] = {
        "reference": (0.5, 3.0, 8.0),
        "conditions": {"threshold": lambda x: x["exit"] == "on"},
        "n_startup_trials": 5,
        "n_candidates": 600,
        "seed": seed,
    }
    return KnownCostSampler(SPACE, costs, **settings | changes)


def new_study(sampler: optuna.samplers.BaseSampler | None = None, **storage: Any) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = ["maximize", "minimize", "minimize"]
    return optuna.create_study(directions=directions, sampler=sampler or make(), load_if_exists=True, **storage)


def params(study: optuna.Study) -> list[dict[str, Any]]:
    return [t.params for t in study.trials]


def volume(study: optuna.Study) -> float:
    points = np.array([[-t.values[0], *t.values[1:]] for t in study.trials])
    worst = np.array([-0.5, 3.0, 8.0])
    return float(optuna._hypervolume.compute_hypervolume(points[(points < worst).all(1)], worst))


def test_every_proposal_keeps_the_known_constraints_and_is_new() -> None:
    study = new_study()
    study.optimize(objective, 20)
    assert all((costs(columns(p))[1] <= 0).all() for p in params(study))
    assert len({repr(p) for p in params(study)}) == 20
    assert all(("threshold" in p) == (p["exit"] == "on") for p in params(study))


def test_it_finds_a_larger_front_than_random_search() -> None:
    ours, random = new_study(), new_study(optuna.samplers.RandomSampler(seed=0))
    ours.optimize(objective, 25)
    random.optimize(objective, 100)
    assert volume(ours) > volume(random)


def test_proposals_depend_on_the_seed_and_the_trials_only(tmp_path: Path) -> None:
    whole = new_study()
    whole.optimize(objective, 14)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal"))
    for n in (7, 1, 6):  # a sampler of its own each time, as after an interruption
        resumed = new_study(make(), storage=optuna.storages.JournalStorage(backend), study_name="s")
        resumed.optimize(objective, n)
    assert params(resumed) == params(whole)
    other = new_study(make(seed=1))
    other.optimize(objective, 3)
    assert params(other) != params(whole)[:3]


def test_parallel_proposals_differ_and_know_of_each_other() -> None:
    study = new_study()
    study.optimize(objective, 10)
    running = [study.ask(dict(SPACE)) for _ in range(4)]
    assert len({repr(t.params) for t in running}) == 4
    batch = make().propose(study, 4)
    taken = [t.params for t in running]
    assert len(batch) == 4 and all(setting not in taken for setting, _ in batch)
    assert all(improvement >= 0 for _, improvement in batch)


def test_proposals_take_one_thread_of_linear_algebra_and_give_the_others_back() -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    def watched(x: Columns) -> tuple[Any, Any]:
        seen.append(threads())
        return costs(x)

    seen: list[list[int]] = []
    with threadpool_limits(2, user_api="blas"):
        study = new_study(KnownCostSampler(SPACE, watched, n_candidates=500, seed=0))
        study.optimize(objective, 1)
        assert set(threads()) == {2}
    assert seen and {n for pools in seen for n in pools} == {1}


def test_a_proposal_can_keep_what_was_trained() -> None:
    study = new_study()
    study.optimize(objective, 8)
    trained = {name: v for name, v in study.trials[-1].params.items() if name not in ("bits", "threshold")}
    for setting, _ in make().propose(study, 3, {**trained, "exit": "on", "rate": 0.0123}):
        assert setting == {**trained, "exit": "on", "rate": 0.0123} | {k: setting[k] for k in ("bits", "threshold")}


def test_added_failed_and_strange_trials_are_taken_as_they_come() -> None:
    study = new_study()
    study.add_trial(optuna.create_trial(values=[0.95, 5.0, 20.0]))  # a baseline without parameters
    study.optimize(objective, 6)
    first = study.trials[1]
    derived = optuna.create_trial(values=[0.7, 1.0, 3.0], params=first.params, distributions=first.distributions)
    study.add_trial(derived)
    study.add_trial(
        optuna.create_trial(values=[float("inf")] * 3, params=first.params, distributions=first.distributions)
    )
    failing = study.ask()
    failed = suggest(failing)
    study.tell(failing, state=TrialState.FAIL)
    study.enqueue_trial({"bits": 4, "exit": "off"})
    study.optimize(objective, 4)
    assert params(study)[-4]["bits"] == 4 and failed not in params(study)[-4:]


def test_a_limit_on_accuracy_is_kept_after_a_while() -> None:
    study = new_study(make(reference=(0.86, 3.0, 8.0)))
    study.optimize(objective, 30)
    first, late = ([t.values[0] for t in trials] for trials in (study.trials[:5], study.trials[15:]))
    assert np.median(late) > max(0.85, np.median(first))


def test_without_limits_and_reference_it_works_from_the_front() -> None:
    sampler = KnownCostSampler(
        SPACE, lambda x: (costs(x)[0], np.empty((len(x["bits"]), 0))), n_startup_trials=3, n_candidates=400, seed=0
    )
    study = new_study(sampler)
    study.optimize(objective, 10)
    assert len(study.best_trials) >= 3


def test_a_space_that_is_used_up_still_gets_an_answer() -> None:
    space = {"bits": CategoricalDistribution((4, 8)), "kind": CategoricalDistribution("ab")}

    def known(x: Columns) -> tuple[Any, Any]:
        return x["bits"][:, None] * 1.0, np.zeros((len(x["bits"]), 1))

    sampler = KnownCostSampler(space, known, n_startup_trials=2, n_candidates=40, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for i in range(6):
        trial = study.ask(dict(space))
        study.tell(trial, [0.1 * i, trial.params["bits"]])
    assert len({repr(p) for p in params(study)[:4]}) == 4
    assert sampler.propose(study, 2) == []


def test_a_small_space_is_screened_whole() -> None:
    """Of 10,000 settings one keeps the limits; the search for it by variations would be led the other way."""
    space: dict[str, BaseDistribution] = {f"x{i}": IntDistribution(0, 9) for i in range(4)}

    def needle(x: Columns) -> tuple[Any, Any]:
        total = sum(x[f"x{i}"] for i in range(4))
        is_needle = (x["x0"] == 7) & (x["x1"] == 2) & (x["x2"] == 9) & (x["x3"] == 0)
        return 1.0 + total[:, None], np.where(is_needle, -1.0, 1.0 + total)[:, None]

    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=KnownCostSampler(space, needle, n_candidates=10_000, seed=0)
    )
    assert study.ask(space).params == {"x0": 7, "x1": 2, "x2": 9, "x3": 0}


def test_constraints_that_nothing_random_keeps_are_searched_for() -> None:
    def tight(x: Columns) -> tuple[Any, Any]:
        values, _ = costs(x)
        return values, values - [1.3, 1.6]

    sampler = KnownCostSampler(SPACE, tight, n_candidates=2000, n_startup_trials=3, seed=0)
    study = new_study(sampler)
    study.optimize(objective, 5)
    assert all((tight(columns(p))[1] <= 0).all() for p in params(study))


def test_settings_without_costs_are_left_alone() -> None:
    def partly(x: Columns) -> tuple[Any, Any]:
        values, limits = costs(x)
        values[x["bits"] == 8] = np.nan
        return values, limits

    study = new_study(KnownCostSampler(SPACE, partly, n_startup_trials=3, n_candidates=400, seed=0))
    study.optimize(objective, 6)
    assert {p["bits"] for p in params(study)} == {4}


def test_costs_that_turn_out_otherwise_are_corrected() -> None:
    def slower(p: dict[str, Any]) -> float:
        return float(costs(columns(p))[0][0, 0]) * (1.4 if p["exit"] == "on" else 1.0)

    study = new_study(make(reference=(0.5, 9.0, 20.0)))
    for _ in range(25):
        trial = study.ask()
        p = suggest(trial)
        study.tell(trial, [accuracy(p), slower(p), float(costs(columns(p))[0][0, 1])])
    sampler = make(reference=(0.5, 9.0, 20.0))
    history = sampler._history(study, 99)
    expected = sampler._expectation(history)
    codes = sampler._knobs.random(200, np.random.default_rng(0))
    computed, _ = sampler._screen(codes, history.signs)
    corrected = expected._corrected(codes, computed)
    actual = np.array([slower(sampler._knobs.setting(c) | {"fixed": 3}) for c in codes])
    assert np.abs(corrected[:, 0] - actual).mean() < 0.3 * np.abs(computed[:, 0] - actual).mean()
    assert (corrected[:, 1] == computed[:, 1]).all()


@pytest.mark.parametrize("shape", [(2,), (3, 2)])
def test_costs_of_a_wrong_shape_are_named(shape: tuple[int, ...]) -> None:
    sampler = KnownCostSampler(SPACE, lambda x: (np.zeros(shape), np.zeros((len(x["bits"]), 1))), n_candidates=40)
    with pytest.raises(ValueError, match="costs must return objectives of shape"):
        new_study(sampler).optimize(objective, 1)


def test_effort_and_features_are_taken_in() -> None:
    sampler = make(
        features=lambda x: (ratios(x) ** 2 * WEIGHT).sum(1),
        effort=lambda x: np.where(x["bits"] == 4, 1e6, 1.0),
    )
    study = new_study(sampler)
    study.optimize(objective, 12)
    assert {p["bits"] for p in params(study)[5:]} == {8}


def test_the_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "sampler.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    exec(example, {})
    points = int(re.match(r"(\d+) points on the front", capsys.readouterr().out)[1])  # type: ignore[index]
    assert points >= 10
