"""What a search may propose: the settings of its space and their costs, thousands at a time and without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from autocompress.errors import CandidateError, failing_as
from autocompress.evaluation.screening import Costs, Screen
from autocompress.known_costs import Columns, KnownCostSampler
from autocompress.recipes.domains import Choice, Domain, Value
from autocompress.recipes.stage_space import Slot, StageSpace
from autocompress.studies.constraints import Constraint
from autocompress.studies.results import Evaluation, energy_mj

if TYPE_CHECKING:
    from autocompress.controller.plan import Plan

Array = NDArray[np.float64]

_EARLY = 0.25
"""Share of the samples that is taken to leave early, as long as it is not known."""
_LOSS = 0.1
"""Share of the accuracy that may be lost where no constraint says so."""
OVERHEAD = 0.5
"""What export and evaluation, and a training whatever its network, take, in epochs of the unpruned network. A guess;
results/README.md has what two searches measured."""
_SETTINGS, _FORECASTS = 10_000, 64
"""Settings per proposal; where they must be forecast one by one."""
LEVELS = (0.4, 0.1, 0.02)
"""Quantiles of latency times size of random settings at which a search begins."""
_DRAWS, _ROUNDS, _PARENTS, _CHILDREN, _CHANGED = 2000, 4, 20, 20, 0.3
"""Of the search for warm starts: random settings, rounds of variations, how many of how many, share of strengths."""


class Proposals:
    """The settings of a plan's space, with a fast forecast of their costs.

    Args:
        plan: network, device and space.
        constraints: with absolute limits.
    """

    def __init__(self, plan: Plan, constraints: Sequence[Constraint]) -> None:
        self._plan = plan
        self._constraints = tuple(constraints)
        self._knobs = plan.space.knobs(plan.evaluator.analysis.outline)
        self._strengths = plan.space.strengths(plan.evaluator.analysis.outline)
        self._constant = {name: d.corners()[0] for name, d in self._knobs.items() if d.size == 1}
        self._forecasts: dict[tuple[Value, ...], tuple[float, ...]] = {}
        self._screen: Screen | None = None
        try:
            with failing_as(CandidateError, "screening"):
                self._screen = Screen(plan.evaluator, plan.space)
                self.costs(self.columns([{name: d.corners()[0] for name, d in self._knobs.items()}]))
        except CandidateError:
            self._screen = None

    @property
    def is_fast(self) -> bool:
        """Whether thousands of settings can be screened; otherwise each takes a forecast of its own."""
        return self._screen is not None

    def sampler(
        self, baseline: Evaluation, seed: int, features: Callable[[Columns], Array] | None = None
    ) -> KnownCostSampler:
        """A sampler of this space that knows the costs.

        Args:
            baseline: fp32. Together with the constraints it says from where on a point is of use.
            seed: of everything random.
            features: from n settings to further numbers that may explain the accuracy, shape (n, any), besides the
                channels that are kept, which alone order networks nearly as well as a look at their accuracy does.
        """

        def explaining(x: Columns) -> Array:
            capacity = self.capacity(x)[:, None]
            return np.hstack([capacity, features(x)]) if features else capacity

        return KnownCostSampler(
            {name: _distribution(domain) for name, domain in self._knobs.items()},
            self.objectives,
            reference=reference(self._constraints, baseline),
            log_costs=True,
            conditions=_conditions(self._plan),
            features=explaining,
            effort=self.effort,
            n_startup_trials=len(LEVELS),
            seed=seed,
            n_candidates=_SETTINGS if self.is_fast else _FORECASTS,
        )

    def warm_starts(self, seed: int) -> list[dict[str, Value]]:
        """Settings to begin with: at a few levels of latency times size, the one that keeps the most channels.

        Both are known without training. Of many random settings that keep the constraints, and of variations of the
        best of them, the one of the largest capacity is taken at each level. Few and wide apart: after them the
        model chooses better, and levels of latency alone find large files.
        """
        rng = np.random.default_rng(seed)
        outline, space = self._plan.evaluator.analysis.outline, self._plan.space
        n = _DRAWS if self.is_fast else _FORECASTS
        usual = [space.setting(outline, rng.random, optional=bool(rng.integers(2))) for _ in range(n)]
        pool = self._draws(usual) or self._draws(space.strongest(outline))
        chosen: dict[tuple[float, ...], dict[str, Value]] = {}
        for level in LEVELS:
            if len(pool) <= len(chosen):
                break
            limit = float(np.quantile([d.cost for d in pool], level))
            best = [d for d in pool if d.cost <= limit]
            for _ in range(_ROUNDS if self.is_fast else 0):
                best = sorted(best, key=lambda d: -d.capacity)[:_PARENTS]
                varied = self._draws([self._varied(d.setting, rng) for d in best for _ in range(_CHILDREN)])
                best += [d for d in varied if d.cost <= limit]
            new = [d for d in best if d.key not in chosen] or pool
            winner = max(new, key=lambda d: d.capacity)
            chosen.setdefault(winner.key, winner.setting)
        return list(chosen.values())

    def _draws(self, settings: Sequence[dict[str, Value]]) -> list[_Draw]:
        """Settings that keep the constraints, with their costs."""
        x = self.columns(settings)
        costs, (values, broken) = self.costs(x), self.objectives(x)
        kept = (broken <= 0).all(1) & np.isfinite(values).all(1)
        return [_Draw(settings[i], *map(float, (*values[i], costs.capacity[i]))) for i in np.flatnonzero(kept).tolist()]

    def _varied(self, setting: dict[str, Value], rng: np.random.Generator) -> dict[str, Value]:
        """The same setting with some other strengths."""
        changed = [name for name in setting if name in self._strengths and rng.random() < _CHANGED]
        return setting | {name: self._knobs[name].at(float(rng.random())) for name in changed}

    def columns(self, settings: Sequence[Mapping[str, Value]]) -> Columns:
        """Settings by knob; a knob that one of them lacks has the first value of its domain there."""
        return {n: np.array([s.get(n, d.corners()[0]) for s in settings]) for n, d in self._knobs.items()}

    def objectives(self, x: Columns) -> tuple[Array, Array]:
        """Expected latency and size, shape (n, 2), and the constraints that are known, kept where at most 0."""
        costs = self.costs(x)
        known: dict[str, Array] = {
            "latency_ms": costs.best_case_ms,
            "size_bytes": costs.size_bytes,
            "peak_memory_bytes": costs.peak_memory_bytes,
        }
        if mj_per_ms := energy_mj(1.0, self._plan.evaluator.device.active_power_mw):
            known["energy_mj"] = costs.best_case_ms * mj_per_ms
        broken = [[c.violation(v) for v in known[c.quantity]] for c in self._constraints if c.quantity in known]
        values = np.column_stack([expected_ms(costs), costs.size_bytes])
        return values, np.array(broken).reshape(-1, len(values)).T

    def costs(self, x: Columns) -> Costs:
        """Costs of n settings; NaN for those that cannot be applied to the network, where that is found out."""
        columns = self._complete(x)
        if self._screen is not None:
            return self._screen.costs(columns)
        return Costs(*np.array([f[:-1] for f in self._forecast_rows(columns)]).T)

    def capacity(self, x: Columns) -> Array:
        """`Costs.capacity` of n settings, shape (n,)."""
        return self.costs(x).capacity if self._screen is None else self._screen.capacity(self._complete(x))

    def effort(self, x: Columns) -> Array:
        """What n settings take to be trained and judged, in epochs of the unpruned network, shape (n,).

        From the epochs and multiply-accumulates of the settings, not from the clock: a search is repeatable.
        """
        columns = self._complete(x)
        if self._screen is None:
            macs = np.array([f[-1] for f in self._forecast_rows(columns)])
        else:
            macs = self._screen.macs(columns)
        epochs = np.zeros(len(macs))
        for slot in self._plan.space.slots:
            for stage in slot.alternatives:
                drawn = np.asarray(columns.get(f"{stage.technique}.{stage.cls.effort}", stage.fixed_effort), float)
                epochs += np.where(_is_on(slot, stage, columns), drawn, 0.0)
        return np.asarray(OVERHEAD + epochs * macs / max(1, self._plan.evaluator.analysis.macs))

    def _complete(self, x: Columns) -> Columns:
        n = len(next(iter(x.values()))) if x else 1  # a space may leave nothing to choose
        return {**{name: np.full(n, value) for name, value in self._constant.items()}, **x}

    def _forecast_rows(self, columns: Columns) -> list[tuple[float, ...]]:
        """The fields of `Costs`, then the multiply-accumulates, of each setting."""
        return [self._forecast(row) for row in zip(*(columns[name].tolist() for name in self._knobs), strict=True)]

    def _forecast(self, row: tuple[Value, ...]) -> tuple[float, ...]:
        if row not in self._forecasts:
            f = self._plan.forecast_of(dict(zip(self._knobs, row, strict=True)))
            self._forecasts[row] = (
                (np.nan,) * 6
                if f is None
                else (f.best_case_ms, f.worst_case_ms, f.size_bytes, f.cost.peak_memory_bytes, f.capacity, f.cost.macs)
            )
        return self._forecasts[row]


@dataclass(frozen=True)
class _Draw:
    setting: dict[str, Value]
    latency_ms: float
    size_bytes: float
    capacity: float

    @property
    def cost(self) -> float:
        return self.latency_ms * self.size_bytes

    @property
    def key(self) -> tuple[float, ...]:
        """Settings with equal keys very likely give the same file."""
        return self.latency_ms, self.size_bytes, self.capacity


def reference(constraints: Sequence[Constraint], baseline: Evaluation) -> tuple[float, float, float]:
    """The lowest accuracy and the highest latency and size that are of use: the limits, else those of fp32.

    Without a limit on accuracy, a tenth of it may be lost.
    """
    accuracy, latency_ms, size_bytes = baseline.objectives()
    least = [c.limit for c in constraints if c.quantity == "accuracy" and c.sense == "at least"]
    most = [(c.quantity, c.limit) for c in constraints if c.sense == "at most"]
    return (
        max(least, default=accuracy - _LOSS * abs(accuracy)),
        min([latency_ms, *(limit for quantity, limit in most if quantity == "latency_ms")]),
        min([size_bytes, *(limit for quantity, limit in most if quantity == "size_bytes")]),
    )


def expected_ms(costs: Costs) -> Array:
    """Latency, as long as it is not known how many samples leave early."""
    return _EARLY * costs.best_case_ms + (1 - _EARLY) * costs.worst_case_ms


def _distribution(domain: Domain) -> BaseDistribution:
    """What `Domain.suggest` asks Optuna for."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    return FloatDistribution(domain.low, domain.top, step=domain.step, log=domain.log)


def _conditions(plan: Plan) -> dict[str, Callable[[Columns], NDArray[np.bool_]]]:
    """For the knobs of stages that can be off: in which settings they are on."""
    outline = plan.evaluator.analysis.outline
    return {
        name: partial(_is_on, slot, alternative)
        for slot in plan.space.slots
        if slot.switch
        for alternative in slot.alternatives
        for name, _ in alternative.knobs(outline)
    }


def _is_on(slot: Slot, stage: StageSpace, x: Columns) -> NDArray[np.bool_]:
    """In which settings a slot is taken by one of its alternatives."""
    if slot.switch is None:
        return np.ones(1, bool)
    return np.isin(x[slot.name], [value for value in slot.switch.values if slot.chosen(value) is stage])
