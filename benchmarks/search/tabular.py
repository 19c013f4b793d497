"""Compare ways to search on the recorded table (record_table.py): evaluations are lookups, cost is CPU seconds.

    python benchmarks/search/tabular.py run --methods "tpe;ehvi" --seeds 0-9    # hypervolume against cost
    python benchmarks/search/tabular.py show                                    # the record as a table
    python benchmarks/search/tabular.py fidelities                              # rank correlation of cheap estimates

Runs that are in results/records/search-tabular.json already are not repeated. A campaign pays for a network once: for
its pruning, each epoch, and each file made of it; thresholds of an exit are free. Hypervolumes are over error and the
logarithms of latency and size, as a share of what the whole table reaches.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from bookkeeping import span, text, versions
from numpy.typing import NDArray
from optuna._hypervolume import compute_hypervolume
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from rungs import Run, ranked
from scipy import stats

from autocompress.controller.proposals import LEVELS, OVERHEAD
from autocompress.known_costs import Columns, Knobs, KnownCostSampler

Array = NDArray[np.float64]
Setting = Mapping[str, int]

RECORDS = Path(__file__).parents[2] / "results" / "records"
NETWORK = ("prune1", "prune2", "prune3", "prune4", "exit")
KNOBS = (*NETWORK, "bits", "threshold")
_EARLY = 0.25
"""Share of the images that is taken to leave early before it is known, as in the product."""


class Table:
    """The record as arrays with one axis per knob, in the order of `KNOBS`."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        levels = [len(v) for v in record["ratios"].values()]
        shape = (*levels, 2)
        n_bits, n_thresholds, n_epochs = len(record["bits"]), len(record["thresholds"]), record["epochs"]
        self.ratios = [np.array(v) for v in record["ratios"].values()]
        self.bits = list(record["bits"])
        self.epochs: int = n_epochs
        self.curve = np.full((*shape, n_epochs + 1), np.nan)
        """Validation accuracy (torch) before and after each epoch."""
        self.curve_s = np.full((*shape, n_epochs + 1), np.nan)
        self.structure_s = np.full(shape, np.nan)
        self.file_s = np.full((*shape, n_bits), np.nan)
        self.path_ms = np.full((*shape, n_bits, 2), np.nan)
        """Latency by the exit, and through the whole network."""
        self.validation = np.full((*shape, n_bits, n_thresholds, 3), np.nan)
        """Error, latency in ms, bytes."""
        self.test = self.validation.copy()
        for row in record["networks"]:
            at = (
                *(list(v).index(r) for v, r in zip(record["ratios"].values(), row["ratios"], strict=True)),
                int(row["exit"]),
            )
            self.curve[at], self.curve_s[at], self.structure_s[at] = row["curve"], row["curve_s"], row["structure_s"]
            for i, file in enumerate(row["files"]):
                self.file_s[(*at, i)] = file["cpu_s"]
                self.path_ms[(*at, i)] = file["path_ms"][0], file["path_ms"][-1]
                for split in ("validation", "test"):
                    points = [(1 - p[split], p["ms"], file["bytes"]) for p in file["points"]]
                    getattr(self, split)[(*at, i)] = points
        if np.isnan(self.validation).any():
            raise ValueError("the table has gaps: record_table.py has not finished")

    @classmethod
    def load(cls) -> Table:
        return cls(json.loads(lzma.decompress((RECORDS / "search-table.json.xz").read_bytes())))

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """All knobs, as indices of their values."""
        counts = dict(zip(KNOBS, self.validation.shape, strict=False))
        return {
            name: CategoricalDistribution(tuple(range(n))) if name in ("exit", "bits") else IntDistribution(0, n - 1)
            for name, n in counts.items()
        }

    @property
    def n_recipes(self) -> int:
        """Different ones: without an exit its threshold makes no difference."""
        per_file = self.validation.shape[-2]
        return self.file_s[..., 0, :].size + self.file_s[..., 1, :].size * per_file

    def costs(self, x: Columns) -> Array:
        """Latency and size of n settings as forecast before training, shape (n, 2)."""
        at = tuple(np.asarray(x[name], int) for name in KNOBS[:-1])
        early, whole = self.path_ms[at].T
        ms = np.where(at[4] > 0, _EARLY * early + (1 - _EARLY) * whole, whole)
        return np.column_stack([ms, self.validation[(*at, 0, 2)]])

    def capacity(self, x: Columns) -> Array:
        """Mean logarithm of the share of channels that the stages keep, shape (n,)."""
        kept = [np.log(1 - v[np.asarray(x[name], int)]) for v, name in zip(self.ratios, NETWORK, strict=False)]
        return np.asarray(np.mean(kept, 0))

    def effort(self, x: Columns) -> Array:
        """As in the product, shape (n,); the latency of the fp32 file stands for multiply-accumulates."""
        ms = self.path_ms[(*(np.asarray(x[name], int) for name in NETWORK), 0, 1)]
        return np.asarray(OVERHEAD + self.epochs * ms / self.path_ms[..., 0, 1].flat[0])

    def full_s(self) -> float:
        """Mean cost of a recipe from its pruning to its file."""
        return float(np.mean(self.structure_s + self.curve_s[..., 1:].sum(-1) + self.file_s.mean(-1)))


@dataclass(frozen=True)
class Problem:
    """A table and the worst error, latency and size that are of use."""

    table: Table
    limits: tuple[float, float, float]

    @classmethod
    def named(cls, table: Table, name: str) -> Problem:
        """One of two.

        default: a tenth of the accuracy may be lost, and nothing may be worse than fp32, as in a search without limits.
        limits: at most 3 points lost, 0.7 of the latency and a sixth of the size of fp32; few recipes keep these.
        """
        error, ms, size = table.validation[(0,) * len(KNOBS)].tolist()
        if name == "default":
            return cls(table, (error + 0.1 * (1 - error), ms, size))
        return cls(table, (error + 0.03, 0.7 * ms, size / 6))

    @property
    def reference(self) -> Array:
        """The limits as they count for the hypervolume."""
        return _scaled(np.array(self.limits))

    def volume(self, points: Array) -> float:
        """Hypervolume of error, latency, size (n, 3)."""
        y = _scaled(points)
        y = y[(y < self.reference).all(1)]
        return float(compute_hypervolume(y, self.reference)) if len(y) else 0.0

    @cached_property
    def whole(self) -> float:
        """Hypervolume of the whole table."""
        return self.volume(self.table.validation.reshape(-1, 3))

    def tested(self, rows: Sequence[tuple[int, ...]]) -> float:
        """Hypervolume of recipes on the test images, as a share of that of the table's front of validation."""
        shift = (self.table.test - self.table.validation)[(0,) * len(KNOBS)]
        points, everything = self.table.test - shift, self.table.validation.reshape(-1, 3)
        best = points.reshape(-1, 3)[[not _dominates(everything, p).any() for p in everything]]
        return self.volume(points[tuple(np.array(rows).T)]) / self.volume(best)


def _scaled(points: Array) -> Array:
    return np.concatenate([points[..., :1], np.log(points[..., 1:])], -1)


class Campaign:
    """One search: counts what it costs and remembers every recipe that was carried out.

    Args:
        problem: the table and its limits.
        budget: CPU seconds.
        remembers: whether a network or file that was paid once is free afterwards.
    """

    def __init__(self, problem: Problem, budget: float, *, remembers: bool = True) -> None:
        self.problem, self.table, self.budget, self.remembers = problem, problem.table, budget, remembers
        self.cost = 0.0
        self.rows: list[tuple[int, ...]] = []
        self.costs: list[float] = []
        self._trained: dict[tuple[int, ...], int] = {}
        self._files: set[tuple[int, ...]] = set()

    @property
    def is_over(self) -> bool:
        return self.cost >= self.budget

    def train(self, setting: Setting, epochs: int) -> float:
        """Train a network up to so many epochs; its validation error as a torch model. 0: BatchNorm re-estimated."""
        at, table = _at(setting, NETWORK), self.table
        known = self._trained.get(at, -1) if self.remembers else -1
        if known < 0:
            self.cost += table.structure_s[at]
        if epochs > 0:
            self.cost += float(table.curve_s[at][max(known, 0) + 1 : epochs + 1].sum())
        elif known < 0:
            self.cost += table.curve_s[at][0]
        self._trained[at] = max(known, epochs)
        return float(1 - table.curve[at][epochs])

    def evaluate(self, setting: Setting) -> tuple[float, float, float]:
        """Error, latency and size of a recipe's file on the validation images."""
        self.train(setting, self.table.epochs)
        file = _at(setting, KNOBS[:-1])
        if file not in self._files or not self.remembers:
            self.cost += self.table.file_s[file]
        self._files.add(file)
        self.rows.append(_at(setting, KNOBS))
        self.costs.append(self.cost)
        error, ms, size = self.table.validation[self.rows[-1]].tolist()
        return error, ms, size

    def curve(self, costs: Array) -> list[float]:
        """Share of the table's hypervolume at each cost."""
        points = self.table.validation[tuple(np.array(self.rows).T)]
        upto = np.searchsorted(self.costs, costs, side="right")
        return [round(self.problem.volume(points[:n]) / self.problem.whole, 5) for n in upto]

    def front(self) -> list[tuple[int, ...]]:
        """The recipes that no other one dominates on the validation images."""
        rows = list(dict.fromkeys(self.rows))
        points = self.table.validation[tuple(np.array(rows).T)]
        return [row for row, p in zip(rows, points, strict=True) if not _dominates(points, p).any()]


def _dominates(points: Array, one: Array) -> NDArray[np.bool_]:
    """Which points are no worse than one in anything, and better in something."""
    found: NDArray[np.bool_] = (points <= one).all(-1) & (points < one).any(-1)
    return found


def _at(setting: Setting, names: Sequence[str]) -> tuple[int, ...]:
    return tuple(int(setting[name]) for name in names)


# ------------------------------------------------------------------------------------------------ ways to search

Method = Callable[[Campaign, int], None]
_IN_VAIN = 300
"""So many proposals in a row that cost nothing end a campaign, as in the product."""


def stock(make: Callable[[int], BaseSampler], *, in_product: bool = False) -> Method:
    """A sampler of Optuna, told the limits as constraints and the logarithms of the costs as objectives.

    `in_product`: with the recipes to begin with, and with all thresholds of a file tried.
    """

    def run(campaign: Campaign, seed: int) -> None:
        study = _study(make(seed))
        space = {n: d for n, d in campaign.table.space.items() if n != "threshold" or not in_product}
        for setting in warm_starts(campaign, space, {}, seed) if in_product else ():
            study.enqueue_trial(setting)
        for _ in _until_over(campaign):
            trial = study.ask(space)
            for number, values in enumerate(_points(campaign, trial.params)):
                scaled = [values[0], *np.log(values[1:]).tolist()]
                broken = dict(zip(("error", "latency", "size"), scaled - campaign.problem.reference, strict=True))
                if number:
                    more = optuna.create_trial(
                        values=scaled, params=trial.params, distributions=space, constraints=broken
                    )
                    study.add_trial(more)
                    continue
                for name, value in broken.items():
                    trial.set_constraint(name, value)
                study.tell(trial, scaled)

    return run


@dataclass(frozen=True)
class KnownCosts:
    """Our sampler with what the product does around it; each part can be switched off."""

    warm_starts: bool = True
    """Begin with the recipes that keep the most channels at a few levels of cost."""
    formats: int = 2
    """Other number formats that are tried of every trained network."""
    thresholds: bool = True
    """All thresholds are tried of every file with an exit."""
    capacity: bool = True
    """The channels that a network keeps may explain its accuracy."""
    effort: bool = True
    """The improvement per effort counts."""
    fixed: tuple[tuple[str, int], ...] = ()
    """Knobs that are not searched."""
    settings: tuple[tuple[str, Any], ...] = ()

    def __call__(self, campaign: Campaign, seed: int) -> None:
        table, fixed, limits = campaign.table, dict(self.fixed), campaign.problem.limits
        hidden = {*fixed, "threshold"} if self.thresholds else {*fixed}
        space = {n: d for n, d in table.space.items() if n not in hidden}
        settings = dict(self.settings) | ({"n_startup_trials": len(LEVELS)} if self.warm_starts else {})
        sampler = KnownCostSampler(
            space,
            lambda x: _costs(campaign, x, fixed),
            reference=limits,
            log_costs=True,
            conditions={} if self.thresholds else {"threshold": lambda x: x["exit"] > 0},
            features=(lambda x: table.capacity(_with(x, fixed))[:, None]) if self.capacity else None,
            effort=(lambda x: table.effort(_with(x, fixed))) if self.effort else None,
            seed=seed,
            **settings,
        )
        study = _study(sampler)
        for setting in warm_starts(campaign, space, fixed, seed) if self.warm_starts else ():
            study.enqueue_trial(setting)

        def add(number: int, setting: Mapping[str, Any], found: Sequence[Any]) -> None:
            attributes = {"derived_from": number}
            for values in found:
                study.add_trial(
                    optuna.create_trial(values=values, params=setting, distributions=space, user_attrs=attributes)
                )

        for _ in _until_over(campaign):
            trial = study.ask(space)
            first, *others = _points(campaign, trial.params | fixed)
            own = trial.number
            study.tell(trial, first)
            add(own, trial.params, others)
            held = {name: value for name, value in trial.params.items() if name != "bits"}
            for _ in range(self.formats if "bits" in space else 0):
                if proposed := sampler.propose(study, 1, held):
                    setting = proposed[0][0]
                    add(own, setting, _points(campaign, setting | fixed))


def halving(campaign: Campaign, seed: int) -> None:
    """Random recipes that can keep the limits, promoted by thirds from no epoch to one to all, by non-dominated rank.

    After multi-objective asynchronous successive halving (Schmucker et al. 2021); ties of rank go to the recipe that
    is farthest from those promoted already. A rung promotes a third of its runs at most. The last one gives a file.
    """
    rng, table = np.random.default_rng(seed), campaign.table
    rungs, reached = (0, 1, table.epochs), [list[Run]() for _ in range(3)]
    for _ in _until_over(campaign):
        open_ = [k for k in (1, 0) if len(reached[k]) // 3 > len(reached[k + 1])]
        thirds = ((k, ranked(reached[k], k + 1, campaign.problem.limits)[: len(reached[k]) // 3]) for k in open_)
        promoted = (run for k, third in thirds for run in third if len(run.values) == k + 1)
        run = next(promoted, None) or Run(_random_feasible(campaign, rng), 0.0)
        rung = len(run.values)
        if rungs[rung] == table.epochs:
            found = campaign.evaluate(run.setting)
        else:
            costs = table.costs({name: np.array([value]) for name, value in run.setting.items()})[0]
            found = (campaign.train(run.setting, rungs[rung]), *costs.tolist())
        run.values.append(np.array(found))
        reached[rung].append(run)


def sequential(campaign: Campaign, seed: int) -> None:
    """First a search over pruning in fp32 with nine tenths of the budget, then the number formats of its front."""
    budget, campaign.budget = campaign.budget, 0.9 * campaign.budget
    KnownCosts(fixed=(("exit", 0), ("bits", 0)))(campaign, seed)
    campaign.budget = budget
    front = campaign.front()
    for bits in range(1, len(campaign.table.bits)):
        for row in front:
            if not campaign.is_over:
                campaign.evaluate({**dict(zip(KNOBS, row, strict=True)), "bits": bits})


def ax(campaign: Campaign, seed: int) -> None:
    """Ax as it comes: q-log-NEHVI on a Gaussian process for several objectives; needs the package ax-platform."""
    from ax.api.client import Client
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

    parameters: list[Any] = []
    for name, d in campaign.table.space.items():
        if isinstance(d, CategoricalDistribution):
            values: Any = list(d.choices)
            parameters.append(ChoiceParameterConfig(name, values, "int", is_ordered=len(values) == 2))
        elif isinstance(d, IntDistribution):
            parameters.append(RangeParameterConfig(name, (d.low, d.high), "int"))
    client, limits = Client(random_seed=seed), campaign.problem.reference
    client.configure_experiment(parameters)
    names = ("error", "log_ms", "log_bytes")
    bounds = [f"{name} <= {limit}" for name, limit in zip(names, limits, strict=True)]
    client.configure_optimization(", ".join(f"-{name}" for name in names), bounds)
    client.configure_generation_strategy(initialization_random_seed=seed)
    for _ in _until_over(campaign):
        for number, setting in client.get_next_trials(1).items():
            values = _scaled(np.array(campaign.evaluate(setting)))
            client.complete_trial(number, dict(zip(names, values.tolist(), strict=True)))


def warm_starts(campaign: Campaign, space: Any, fixed: Mapping[str, int], seed: int) -> list[dict[str, Any]]:
    """As in the product: at three levels of latency times size the random setting of the largest capacity."""
    knobs = Knobs(space)
    codes = knobs.random(2000, np.random.default_rng([seed, 1]))
    values, broken = _costs(campaign, knobs.columns(codes), fixed)
    codes, values = codes[(broken <= 0).all(1)], values[(broken <= 0).all(1)]
    if not len(codes):
        return []
    capacity = campaign.table.capacity(_with(knobs.columns(codes), fixed))
    area = values.prod(1)
    best = (int(np.argmax(np.where(area <= np.quantile(area, level), capacity, -np.inf))) for level in LEVELS)
    return [knobs.setting(codes[i]) for i in dict.fromkeys(best)]


def _costs(campaign: Campaign, x: Columns, fixed: Mapping[str, int]) -> tuple[Array, Array]:
    values = campaign.table.costs(_with(x, fixed))
    return values, np.log(values / campaign.problem.limits[1:])


def _with(x: Columns, fixed: Mapping[str, int]) -> Columns:
    n = len(next(iter(x.values())))
    return {**{name: np.full(n, value) for name, value in fixed.items()}, **x}


def _points(campaign: Campaign, setting: Mapping[str, int]) -> list[tuple[float, float, float]]:
    """What a recipe gives, or the recipe with each threshold, if it names none: the most accurate first."""
    if "threshold" in setting:
        return [campaign.evaluate(setting)]
    n = campaign.table.validation.shape[-2] if setting["exit"] else 1
    return sorted(campaign.evaluate({**setting, "threshold": i}) for i in range(n))


def _random_feasible(campaign: Campaign, rng: np.random.Generator) -> dict[str, Any]:
    knobs = Knobs(campaign.table.space)
    while True:
        codes = knobs.random(50, rng)
        kept = np.flatnonzero((_costs(campaign, knobs.columns(codes), {})[1] <= 0).all(1))
        if len(kept):
            return knobs.setting(codes[kept[0]])


def _until_over(campaign: Campaign) -> Iterator[None]:
    in_vain = 0
    while not campaign.is_over and in_vain < _IN_VAIN:
        before = campaign.cost
        yield
        in_vain = in_vain + 1 if campaign.cost == before else 0


def _study(sampler: BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna.create_study(directions=["minimize"] * 3, sampler=sampler)


def _optuna(in_product: bool) -> dict[str, Method]:
    made: dict[str, Callable[[int], BaseSampler]] = {
        "random": lambda seed: RandomSampler(seed=seed),
        "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=16),
        "tpe": lambda seed: TPESampler(seed=seed),
        "gp": lambda seed: GPSampler(seed=seed),
    }
    return {
        f"{name}{' in the product' if in_product else ''}": stock(make, in_product=in_product)
        for name, make in made.items()
    }


METHODS: dict[str, Method] = {
    **_optuna(in_product=False),
    **_optuna(in_product=True),
    "halving": halving,
    "ax": ax,
    "ehvi": KnownCosts(),
    "ehvi, no warm starts": KnownCosts(warm_starts=False),
    "ehvi, no other formats": KnownCosts(formats=0),
    "ehvi, no sweep of thresholds": KnownCosts(thresholds=False),
    "ehvi, capacity not told": KnownCosts(capacity=False),
    "ehvi, effort not counted": KnownCosts(effort=False),
    "ehvi, nothing around it": KnownCosts(warm_starts=False, formats=0, thresholds=False, capacity=False, effort=False),
    "ehvi, 1,000 settings screened": KnownCosts(settings=(("n_candidates", 1000),)),
    "only pruning": KnownCosts(fixed=(("exit", 0), ("bits", 0))),
    "only pruning, int8": KnownCosts(fixed=(("exit", 0), ("bits", 1))),
    "only bits": KnownCosts(fixed=(*((f"prune{i}", 0) for i in range(1, 5)), ("exit", 0))),
    "only exits": KnownCosts(fixed=(*((f"prune{i}", 0) for i in range(1, 5)), ("bits", 0))),
    "only exits, int8": KnownCosts(fixed=(*((f"prune{i}", 0) for i in range(1, 5)), ("bits", 1))),
    "first pruning, then bits": sequential,
}
BUDGET, GRID = 60, np.arange(1, 61)
"""In full recipes of mean cost."""
_SHOWN = (6, 10, 20, 30, 45, 60)


def summary(record: Mapping[str, Any], problem: str) -> str:
    """Mean and standard deviation over seeds at some costs; at which share of TPE's cost its final mean is reached."""
    grid, runs = np.array(record["grid"]), [r for r in record["runs"] if r["problem"] == problem]
    lines = [f"{'method':32s}{'seeds':>6s}" + "".join(f"{c:>14d}" for c in _SHOWN) + "   on test   TPE's final at"]
    tpe = np.array([r["hypervolume"] for r in runs if r["method"] == "tpe"])
    for method in dict.fromkeys(r["method"] for r in runs):
        mine = [r for r in runs if r["method"] == method]
        curves = np.array([r["hypervolume"] for r in mine])
        line = f"{method:32s}{len(mine):6d}"
        for c in _SHOWN:
            at = curves[:, np.searchsorted(grid, c)]
            line += f"{at.mean():8.3f} +-{at.std(ddof=1) if len(at) > 1 else 0:.3f}"
        line += f"{np.mean([r['test'] for r in mine]):10.3f}"
        if len(tpe):
            line += f"   {_reached(curves, tpe, grid):.2f}"
            rng = np.random.default_rng(0)
            drawn = [_reached(*(c[rng.integers(len(c), size=len(c))] for c in (curves, tpe)), grid) for _ in range(999)]
            low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
            line += f" ({low:.2f}-{high:.2f})"
        lines.append(line)
    return "\n".join(lines)


def _reached(curves: Array, tpe: Array, grid: Array) -> float:
    """Share of the budget after which the mean of some runs is as good as the mean of TPE at the end."""
    late = np.flatnonzero(curves.mean(0) >= tpe[:, -1].mean() - 1e-9)
    return float(grid[late[0]] / grid[-1]) if len(late) else float("inf")


def uniform(record: Mapping[str, Any], name: str, problem: Problem) -> str:
    """The pipelines "prune p everywhere, int8" against what our searches find."""
    table, lines = problem.table, []
    rows = []
    for p in table.ratios[-1]:
        row = (*(int(np.abs(levels - p).argmin()) for levels in table.ratios), 0, 1, 0)
        rows.append(row)
        line = f"prune {p:4.0%} everywhere, int8: error, ms, bytes {np.round(table.validation[row], 4).tolist()}"
        fronts = [r["front"] for r in record["runs"] if r["problem"] == name and r["method"] == "ehvi"]
        for split in ("validation", "test"):
            points = getattr(table, split)
            better = [_dominates(points[tuple(np.array(f).T)], points[row]).any() for f in fronts]
            line += f"; dominated ({split}) in {sum(better)} of {len(fronts)}"
        lines.append(line)
    points = table.validation[tuple(np.array(rows).T)]
    return "\n".join([*lines, f"hypervolume of all of them: {problem.volume(points) / problem.whole:.3f}"])


def fidelities(table: Table) -> str:
    """How each cheap estimate of a network orders the networks, against the test accuracy of their int8 files."""
    final = 1 - table.test[..., 1, 1, 0].ravel()
    candidates = {
        **{f"validation, {e} epochs": table.curve[..., e].ravel() for e in range(table.epochs + 1)},
        "validation, int8 file": 1 - table.validation[..., 1, 1, 0].ravel(),
        "capacity": np.repeat(table.capacity(_grid(table)).ravel(), 2),
        "latency": table.path_ms[..., 1, 1].ravel(),
    }
    seconds = [table.structure_s.mean() + table.curve_s[..., 0].mean()]
    seconds += [float(table.structure_s.mean() + table.curve_s[..., 1 : e + 1].sum(-1).mean()) for e in (1, 2, 3)]
    lines = []
    for (name, values), cost in zip(candidates.items(), [*seconds, table.full_s(), 0.0, 0.0], strict=True):
        rank, tau = stats.spearmanr(values, final)[0], stats.kendalltau(values, final)[0]
        good = final >= np.median(final)
        among = stats.spearmanr(values[good], final[good])[0]
        lines.append(f"{name:24s} Spearman {rank:.3f}, of the better half {among:.3f}, Kendall {tau:.3f}, {cost:.2f} s")
    return "\n".join(lines)


def _grid(table: Table) -> Columns:
    shape = table.structure_s.shape[:-1]
    return dict(zip(NETWORK, np.indices(shape), strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "show", "fidelities"))
    parser.add_argument("--methods", default="random;nsga2;halving;tpe;gp;ehvi", help="; between them")
    parser.add_argument("--problems", default="default;limits")
    parser.add_argument("--seeds", default="0-9", help="first-last")
    parser.add_argument("--pays-again", action="store_true", help="nothing that was paid is free afterwards")
    options = parser.parse_args()
    table = Table.load()
    if options.what == "fidelities":
        print(fidelities(table))
        return
    path = RECORDS / "search-tabular.json"
    record = json.loads(path.read_text()) if path.exists() else {"runs": []}
    full_s = table.full_s()
    record |= {"recipes": table.n_recipes, "full_recipe_cpu_s": round(full_s, 3), "grid": GRID.tolist()}
    record |= {"versions": versions()}
    known = {(r["problem"], r["method"], r["seed"]) for r in record["runs"]}
    for seed in span(options.seeds) if options.what == "run" else ():
        for name in options.problems.split(";"):
            problem = Problem.named(table, name)
            for method in options.methods.split(";"):
                label = f"{method}, pays again" if options.pays_again else method
                if (name, label, seed) in known:
                    continue
                campaign = Campaign(problem, BUDGET * full_s, remembers=not options.pays_again)
                started = time.process_time()
                METHODS[method](campaign, seed)
                run = {"problem": name, "method": label, "seed": seed}
                run |= {"cpu_s": round(time.process_time() - started, 1), "recipes": len(set(campaign.rows))}
                run |= {
                    "hypervolume": campaign.curve(GRID * full_s),
                    "test": round(problem.tested(campaign.front()), 5),
                }
                record["runs"].append(run | {"front": campaign.front()})
                path.write_text(text(record))
                print(name, label, seed, run["recipes"], run["hypervolume"][-1], file=sys.stderr, flush=True)
    for name in options.problems.split(";"):
        print(f"\n{name}\n{summary(record, name)}\n{uniform(record, name, Problem.named(table, name))}")


if __name__ == "__main__":
    main()
