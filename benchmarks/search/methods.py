"""Ways to spend a budget on a synthetic problem; each takes a campaign and a seed and runs it to its end."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from rungs import Run, ranked
from synthetic import (
    CONDITIONS,
    EPOCHS,
    LOOK_COST,
    MAX_ERROR,
    MAX_MB,
    MAX_MS,
    QAT_FACTOR,
    SPACE,
    Campaign,
    Columns,
    Problem,
)

from autocompress.known_costs import Knobs, KnownCostSampler
from autocompress.known_costs.surrogate import AdditiveGP

_NETWORK_KNOBS = [n for n in SPACE if not n.startswith(("weight_bits", "activation_bits", "threshold"))]
"""What a network is trained with; without quantisation-aware training the bits are chosen afterwards."""
_BITS = [n for n in SPACE if n.startswith(("weight_bits", "activation_bits"))]
_SWEPT_BITS = 6
_KEPT_THRESHOLDS = 5
_SIDE = 8
_LEVELS = (0.5, 0.25, 0.1)
_CHANCE = 0.9
"""Error of a network that knows nothing."""


def stock(make: Callable[[int], BaseSampler]) -> Callable[[Campaign, int], None]:
    """A sampler of Optuna, told the limits as constraints and the logarithms of the costs as objectives."""

    def run(campaign: Campaign, seed: int) -> None:
        study = _study(make(seed))
        while not campaign.is_over:
            trial = study.ask(SPACE)
            error, latency, size = campaign.train(trial.params, campaign.begin(), 0, EPOCHS)
            trial.set_constraint("latency", np.log(latency / MAX_MS))
            trial.set_constraint("size", np.log(size / MAX_MB))
            trial.set_constraint("error", 10 * (error - MAX_ERROR))
            study.tell(trial, [error, np.log(latency), np.log(size)])

    return run


def halving(campaign: Campaign, seed: int) -> None:
    """Random recipes that meet the limits, promoted by thirds at 1, 3 and 10 epochs by non-dominated rank.

    After multi-objective asynchronous successive halving (Schmucker et al. 2021); ties of rank go to the
    recipe that is farthest from those promoted already.
    """
    rng = np.random.default_rng(seed)
    rungs = (0, 1, 3, EPOCHS)
    reached: dict[int, list[Run]] = {1: [], 2: [], 3: []}
    while not campaign.is_over:
        thirds = ((k, ranked(reached[k], k, (MAX_ERROR, MAX_MS, MAX_MB))[: len(reached[k]) // 3]) for k in (2, 1))
        waiting = (one for k, third in thirds for one in third if len(one.values) == k)
        job = next(waiting, None) or Run(_random_feasible(campaign, rng), campaign.begin())
        rung = len(job.values) + 1
        job.values.append(np.array(campaign.train(job.setting, job.luck, rungs[rung - 1], rungs[rung])))
        reached[rung].append(job)


@dataclass(frozen=True)
class KnownCosts:
    """Our sampler with what the product does around it; each part can be switched off."""

    looks: int = 100
    """Random settings that are evaluated without training; what a model learns from them is a feature."""
    sweep: bool = True
    """Thresholds and post-training bits are tried on every trained network."""
    settings: tuple[tuple[str, Any], ...] = ()

    def __call__(self, campaign: Campaign, seed: int) -> None:
        looks = Looks(campaign, self.looks, seed) if self.looks else None
        sampler = KnownCostSampler(
            SPACE,
            campaign.problem.costs,
            reference=(MAX_ERROR, MAX_MS, MAX_MB),
            log_costs=True,
            conditions=CONDITIONS,
            features=looks.features if looks else None,
            effort=lambda x: EPOCHS * np.where(x["qat"] > 0, QAT_FACTOR, 1.0) + LOOK_COST,
            seed=seed,
            **dict(self.settings),
        )
        study = _study(sampler)
        for setting in looks.warm_starts(campaign.problem, seed) if looks else ():
            study.enqueue_trial(setting)
        while not campaign.is_over:
            trial = study.ask(SPACE)
            luck = campaign.begin()
            values = campaign.train(trial.params, luck, 0, EPOCHS)
            study.tell(trial, values)
            if self.sweep:
                for setting in (trial.params, *self._other_bits(campaign, study, sampler, trial, luck)):
                    _sweep_thresholds(campaign, study, trial.number, setting, luck)

    @staticmethod
    def _other_bits(
        campaign: Campaign, study: optuna.Study, sampler: KnownCostSampler, trial: optuna.Trial, luck: float
    ) -> list[dict[str, Any]]:
        """Other bits for the same weights, as far as they promise more than their evaluation costs."""
        tried: list[dict[str, Any]] = []
        trained, number = trial.params, trial.number
        if trained["qat"]:
            return tried
        network = {name: trained[name] for name in SPACE if name not in _BITS}
        for setting, improvement in sampler.propose(study, _SWEPT_BITS, network):
            if improvement < 2e-5 or campaign.is_over:
                break
            _add(study, number, setting, campaign.evaluate(setting, luck, EPOCHS))
            tried.append(setting)
        return tried


class Looks:
    """The error without training as a function of the settings, from random settings that meet the limits."""

    def __init__(self, campaign: Campaign, n: int, seed: int) -> None:
        rng = np.random.default_rng([seed, n])
        self._knobs = Knobs(SPACE, CONDITIONS)
        codes = self._knobs.random(100 * n, rng)
        codes = codes[(campaign.problem.costs(self._knobs.columns(codes))[1] <= 0).all(1)][:n]
        settings = (self._knobs.setting(c) for c in codes)
        errors = np.array([campaign.evaluate(one, campaign.begin(), 0)[0] for one in settings])
        damage = -np.log(np.maximum(1 - errors / _CHANCE, 0.03))
        codes, none = self._knobs.used(codes), np.empty((len(codes), 0))
        self._gp = AdditiveGP(self._knobs.similarities())
        runs = np.arange(len(codes))
        self._gp.fit(codes, none, damage, runs).condition(codes, none, damage, runs)

    def features(self, x: Columns) -> NDArray[np.float64]:
        """Expected damage, and the share of the accuracy that is left."""
        codes = self._knobs.used(self._knobs.codes(x))
        damage = self._gp.predict(codes, np.empty((len(codes), 0)))[0]
        return np.column_stack([damage, np.exp(-damage)])

    def warm_starts(self, problem: Problem, seed: int) -> list[dict[str, Any]]:
        """At a few levels of cost the setting of the least expected damage, of many random ones."""
        codes = self._knobs.random(30_000, np.random.default_rng([seed, 1]))
        x = self._knobs.columns(codes)
        values, broken = problem.costs(x)
        damage = np.where((broken <= 0).all(1), self.features(x)[:, 0], np.inf)
        chosen: dict[int, dict[str, Any]] = {}
        for level, cost in itertools.product(_LEVELS, (values[:, 0], values.prod(1))):
            is_cheap = cost <= np.quantile(cost[np.isfinite(damage)], level)
            best = int(np.argmin(np.where(is_cheap, damage, np.inf)))
            chosen[best] = self._knobs.setting(codes[best])
        return list(chosen.values())


def _sweep_thresholds(
    campaign: Campaign, study: optuna.Study, number: int, setting: dict[str, Any], luck: float
) -> None:
    """Try the exits' thresholds on a grid, which costs nothing, and keep a handful of the useful points."""
    grids = [np.linspace(0.3, 0.99, _SIDE) if setting[f"exit{i}"] else [setting[f"threshold{i}"]] for i in (1, 2)]
    if not (setting["exit1"] or setting["exit2"]):
        return
    found = []
    for first, second in itertools.product(*grids):
        one = {**setting, "threshold1": float(first), "threshold2": float(second)}
        found.append((campaign.evaluate(one, luck, EPOCHS, is_free=True), one))
    found.sort(key=lambda item: item[0][0])
    front: list[Any] = []
    for values, one in found:
        if not front or values[1] < front[-1][0][1]:
            front.append((values, one))
    front = [item for item in front if item[0][1] <= MAX_MS and item[0][0] <= MAX_ERROR]
    if front:
        for i in np.unique(np.linspace(0, len(front) - 1, _KEPT_THRESHOLDS).round().astype(int)):
            _add(study, number, front[i][1], front[i][0])


def _add(study: optuna.Study, number: int, setting: dict[str, Any], values: Any) -> None:
    attributes = {"derived_from": number}
    study.add_trial(optuna.create_trial(values=values, params=setting, distributions=SPACE, user_attrs=attributes))


def _study(sampler: BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna.create_study(directions=["minimize"] * 3, sampler=sampler)


def _random_feasible(campaign: Campaign, rng: np.random.Generator) -> dict[str, Any]:
    knobs = Knobs(SPACE)
    while True:
        codes = knobs.random(50, rng)
        kept = np.flatnonzero((campaign.problem.costs(knobs.columns(codes))[1] <= 0).all(1))
        if len(kept):
            return knobs.setting(codes[kept[0]])


METHODS: dict[str, Callable[[Campaign, int], None]] = {
    "random": stock(lambda seed: RandomSampler(seed=seed)),
    "nsga2": stock(lambda seed: NSGAIISampler(seed=seed, population_size=24)),
    "halving": halving,
    "tpe": stock(lambda seed: TPESampler(seed=seed)),
    "ehvi": KnownCosts(),
    "ehvi-no-sweep": KnownCosts(sweep=False),
    "ehvi-no-looks": KnownCosts(looks=0),
}
