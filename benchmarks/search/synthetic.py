"""A family of synthetic compression problems with the structure of real ones, evaluated in microseconds.

A recipe has 36 knobs: per stage of the network a pruning ratio and the bits of weights and activations, the pruning
criterion, four knobs of distillation, quantisation-aware training, resolution, two early exits. Latency is a roofline
per stage plus the switches between number formats and the rates of the exits; size is exact. The error is a sum of
convex damages per stage, interactions between neighbours, rounding noise, bowls in learning rate and distillation, and
a random rough term; it falls along a learning curve from the damage before any training to convergence after ten
epochs. The sensitivities are drawn for each instance. Cost is counted in training epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna._hypervolume import compute_hypervolume
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Array = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]

STAGES = 8
WEIGHT_BITS = np.array([4, 6, 8, 16])
ACTIVATION_BITS = np.array([8, 16])
RESOLUTIONS = np.array([160, 192, 224])
CHANNELS = np.array([32, 64, 64, 128, 128, 256, 512, 512])
MAC_SHARE = np.array([0.08, 0.16, 0.16, 0.15, 0.14, 0.13, 0.12, 0.06])
PARAMETER_SHARE = np.array([0.003, 0.01, 0.02, 0.05, 0.10, 0.17, 0.29, 0.357])
EXITS_AFTER = (3, 5)
BASE_MS, BASE_MB, BASE_ERROR = 100.0, 44.6, 0.07
MAX_MS, MAX_MB, MAX_ERROR = 25.0, 6.0, 0.17
EPOCHS = 10
"""Of a full fine-tune."""
LOOK_COST = 0.15
"""Cost of an evaluation without training, in epochs."""
QAT_FACTOR = 1.5
_REFERENCE = np.array([MAX_ERROR, np.log(MAX_MS), np.log(MAX_MB)])
_BEST = np.array([BASE_ERROR - 0.012, np.log(2.0), np.log(0.4)])
_TYPICAL_EXIT_QUALITY = (0.52, 0.70)

SPACE: dict[str, BaseDistribution] = {
    **{f"prune{s}": FloatDistribution(0.0, 0.8) for s in range(STAGES)},
    **{f"weight_bits{s}": IntDistribution(0, 3) for s in range(STAGES)},
    **{f"activation_bits{s}": IntDistribution(0, 1) for s in range(STAGES)},
    "criterion": CategoricalDistribution((0, 1, 2, 3)),
    "temperature": FloatDistribution(1.0, 20.0, log=True),
    "alpha": FloatDistribution(0.0, 1.0),
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
    "qat": IntDistribution(0, 1),
    "resolution": IntDistribution(0, 2),
    "exit1": IntDistribution(0, 1),
    "exit2": IntDistribution(0, 1),
    "threshold1": FloatDistribution(0.3, 0.99),
    "threshold2": FloatDistribution(0.3, 0.99),
    "exit_weight": FloatDistribution(0.05, 1.0),
    "qat_share": FloatDistribution(0.1, 0.6),
}
CONDITIONS = {
    "threshold1": lambda x: x["exit1"] > 0,
    "threshold2": lambda x: x["exit2"] > 0,
    "exit_weight": lambda x: (x["exit1"] > 0) | (x["exit2"] > 0),
    "qat_share": lambda x: x["qat"] > 0,
}


def columns(settings: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Settings by knob."""
    return {name: np.array([s[name] for s in settings]) for name in SPACE}


class Problem:
    """One instance. Errors, latencies (ms) and sizes (MB) are without noise; `Campaign` adds it."""

    def __init__(self, instance: int) -> None:
        rng = np.random.default_rng(1000 + instance)
        self._sensitivity = rng.lognormal(np.log(0.0085), 0.6, STAGES)
        self._untrained_sensitivity = self._sensitivity * rng.lognormal(0, 0.7, STAGES)
        self._interaction = rng.lognormal(np.log(0.004), 0.5, STAGES - 1)
        self._weight_noise = rng.lognormal(np.log(0.0045), 0.8, STAGES)
        self._weight_noise[0] *= 2.5
        self._weight_noise[-1] *= 2
        self._activation_noise = rng.lognormal(np.log(0.0012), 0.7, STAGES)
        self._criterion = np.array([1.0, 1.10, 1.18, 1.6])[rng.permutation(4)]
        self._log_temperature = np.log(rng.uniform(2.5, 7))
        self._log10_rate = rng.uniform(-2.6, -1.8)
        self._waves = rng.normal(0, 1.2, (64, len(SPACE)))
        self._phases = rng.uniform(0, 2 * np.pi, 64)
        self._heights = rng.normal(0, 1, 64)
        self._waves[:, [list(SPACE).index(f"threshold{i}") for i in (1, 2)]] = 0

    # ------------------------------------------------------------------------------------- what hardware tells

    def costs(self, x: Columns) -> tuple[Array, Array]:
        """Latency and size as forecast before training, and the limits as constraints."""
        values = np.column_stack(self.latency_and_size(x, _TYPICAL_EXIT_QUALITY))
        return values, np.log(values / [MAX_MS, MAX_MB])

    def latency_and_size(self, x: Columns, quality: tuple[Any, Any]) -> tuple[Array, Array]:
        """With given qualities of the exits' heads, which decide how many samples leave early."""
        latency, size = self._stage_costs(x)
        on = [x["exit1"] > 0, x["exit2"] > 0]
        rates = [np.where(on[i], _exit(quality[i], x[f"threshold{i + 1}"])[0], 0.0) for i in (0, 1)]
        first, second = EXITS_AFTER
        parts = [
            latency[:, :first].sum(1) + 0.25 * on[0],
            latency[:, first:second].sum(1) + 0.25 * on[1],
            latency[:, second:].sum(1),
        ]
        total = parts[0] + (1 - rates[0]) * parts[1] + (1 - rates[0]) * (1 - rates[1]) * parts[2]
        return total, size.sum(1) + 0.12 + 0.06 * on[0] + 0.06 * on[1]

    def _stage_costs(self, x: Columns) -> tuple[Array, Array]:
        kept = _kept(x)
        before = np.concatenate([np.ones((len(kept), 1)), kept[:, :-1]], 1)
        w = WEIGHT_BITS[_stages(x, "weight_bits").astype(int)]
        a = ACTIVATION_BITS[_stages(x, "activation_bits").astype(int)]
        macs, parameters = MAC_SHARE / MAC_SHARE.sum(), PARAMETER_SHARE / PARAMETER_SHARE.sum()
        pixels = (RESOLUTIONS[x["resolution"].astype(int)] / 224.0)[:, None] ** 2
        speed = np.where(a == 8, np.where(w <= 8, 0.30, 0.55), np.where(w <= 8, 0.55, 0.62))
        compute = BASE_MS * macs * kept * before * pixels * speed
        memory = 12.0 * parameters * kept * before * (w / 32) + 3.0 * macs * kept * pixels * (a / 16)
        latency = np.maximum(compute, memory) + 0.15 * np.minimum(compute, memory) + 0.12
        latency[:, 1:] += 0.35 * (a[:, 1:] != a[:, :-1])
        return latency, BASE_MB * parameters * kept * before * w / 32

    # -------------------------------------------------------------------------------------------- the hidden truth

    def exit_quality(self, x: Columns) -> tuple[Array, Array]:
        """How good the heads of the exits become; known after training."""
        kept, weight = _kept(x), x["exit_weight"]
        first, second = (np.clip(kept[:, :after].mean(1), 0, 1) ** 0.35 for after in EXITS_AFTER)
        return (
            0.62 * first * (0.75 + 0.25 * np.sqrt(weight)),
            0.80 * second * (0.80 + 0.20 * np.sqrt(weight)),
        )

    def error(self, x: Columns, epochs: Any) -> Array:
        """Top-1 error of the finished file after so many epochs, shape (n,)."""
        final, rounding, untrained, rate_offset = self._damages(x)
        start = 0.83 * (1 - np.exp(-((untrained / 0.022) ** 0.8)))
        pace = 0.35 * np.exp(0.5 * np.clip(-rate_offset, -1.5, 2.5)) * (1 + 6.0 * untrained)
        remaining = np.maximum(start - 0.6 * final, 0) * (1 + np.asarray(epochs, float) / pace) ** -1.25
        damage = np.maximum(final + remaining + rounding, -0.01)
        error = BASE_ERROR + 0.83 * (1 - np.exp(-damage / 0.83))
        here = 1.0
        for i, quality in enumerate(self.exit_quality(x), 1):
            rate, wrong = _exit(quality, x[f"threshold{i}"])
            rate = rate * (x[f"exit{i}"] > 0) * here
            error = error + rate * wrong
            here = 1 - rate
        return error

    def objectives(self, x: Columns, epochs: Any) -> Array:
        """Error, latency and size, shape (n, 3)."""
        return np.column_stack([self.error(x, epochs), *self.latency_and_size(x, self.exit_quality(x))])

    def _damages(self, x: Columns) -> tuple[Array, Array, Array, Array]:
        ratio = _stages(x, "prune")
        growth = ratio**1.8 / (1.02 - ratio) ** 0.5
        criterion = self._criterion[x["criterion"].astype(int)]
        pruning = (self._sensitivity * growth).sum(1) * criterion
        pruning += (self._interaction * ratio[:, 1:] * ratio[:, :-1]).sum(1)
        untrained = (self._untrained_sensitivity * growth).sum(1) * criterion

        bits = WEIGHT_BITS[_stages(x, "weight_bits").astype(int)]
        is_qat, share = x["qat"] > 0, x["qat_share"]
        weights = (self._weight_noise * (1 + 0.8 * ratio) * 4.0 ** (-(bits - 4) / 2)).sum(1)
        activations = (self._activation_noise * (_stages(x, "activation_bits") == 0)).sum(1)
        rounding = weights * np.where(is_qat, 0.22 + 0.5 * (share - 0.4) ** 2, 1.0)
        rounding += activations * np.where(is_qat, 0.35, 1.0)

        best_alpha = 0.35 + 0.45 * np.minimum(pruning / 0.12, 1)
        distilled = 0.38 * np.exp(-(((np.log(x["temperature"]) - self._log_temperature) / 0.8) ** 2))
        distilled *= np.exp(-(((x["alpha"] - best_alpha) / 0.35) ** 2))
        rate_offset = (np.log10(x["learning_rate"]) - self._log10_rate - 0.5 * ratio.mean(1)) / 0.6
        final = pruning * (1 - distilled) + np.minimum(0.012 * rate_offset**2, 0.08)
        final += np.array([0.020, 0.007, 0.0])[x["resolution"].astype(int)]
        final += 0.004 * x["exit_weight"] * ((x["exit1"] > 0).astype(float) + (x["exit2"] > 0))
        waves = np.cos(_unit(x) @ self._waves.T + self._phases) @ self._heights
        return final + 0.0035 * np.sqrt(2 / 64) * waves, rounding, untrained, rate_offset


class Campaign:
    """One search on one instance: counts its cost, adds the noise, remembers every model that could be deployed."""

    def __init__(self, problem: Problem, budget: float, seed: int) -> None:
        self.problem, self.budget, self.cost = problem, budget, 0.0
        self._rng = np.random.default_rng(777 + seed)
        self._settings: list[dict[str, Any]] = []
        self._epochs: list[float] = []
        self._costs: list[float] = []
        self._errors: list[float] = []

    @property
    def is_over(self) -> bool:
        """Whether the budget is used."""
        return self.cost >= self.budget

    def begin(self) -> float:
        """The luck of a training run: its offset of the error."""
        return float(self._rng.normal(0, 0.003))

    def train(self, setting: dict[str, Any], luck: float, start: float, end: float) -> tuple[float, float, float]:
        """Train from one epoch to another and evaluate; return error, latency, size as measured."""
        self.cost += (end - start) * (QAT_FACTOR if setting["qat"] > 0 else 1.0)
        return self.evaluate(setting, luck, end)

    def evaluate(self, setting: dict[str, Any], luck: float, epochs: float, *, is_free: bool = False) -> Any:
        """Evaluate weights that are there, with other bits or thresholds; free for thresholds."""
        self.cost += 0.0 if is_free else LOOK_COST
        error, latency, size = self.problem.objectives(columns([setting]), epochs)[0]
        error += luck * (0.5 + 0.5 / (1 + epochs / 3)) + self._rng.normal(0, 0.0012)
        for record, value in zip(
            (self._settings, self._epochs, self._costs, self._errors), (setting, epochs, self.cost, error), strict=True
        ):
            record.append(value)  # type: ignore[attr-defined]
        return float(error), float(latency), float(size)

    def curve(self, costs: Array) -> list[float]:
        """True hypervolume, 0 to 1, of the models that look non-dominated as measured, at each cost."""
        truth = self.problem.objectives(columns(self._settings), np.array(self._epochs))
        measured = np.column_stack([self._errors, truth[:, 1:]])
        inside = (_normal(measured) < 1).all(1)
        truth, measured, spent = truth[inside], measured[inside], np.array(self._costs)[inside]
        values, front, used = [], np.zeros(0, int), 0
        for cost in costs:
            n = int(np.searchsorted(spent, cost, side="right"))
            if n > used:
                pool = np.concatenate([front, np.arange(used, n)])
                front, used = pool[_non_dominated(_normal(measured[pool]))], n
            values.append(_hypervolume(truth[front]))
        return values


def _stages(x: Columns, name: str) -> NDArray[Any]:
    return np.stack([x[f"{name}{s}"] for s in range(STAGES)], 1)


def _kept(x: Columns) -> Array:
    """Share of the channels that each stage keeps, in multiples of 8."""
    channels = np.maximum(8, np.ceil(CHANNELS * (1 - _stages(x, "prune")) / 8) * 8)
    kept: Array = np.minimum(channels, CHANNELS) / CHANNELS
    return kept


def _exit(quality: Any, threshold: Any) -> tuple[Array, Array]:
    """Share of the samples that leave at an exit, and the error added for each."""
    rate = quality * (1 - threshold ** (1.5 + 3 * quality))
    return rate, np.clip(0.55 * (1 - threshold) * (1.1 - quality), 0, 1)


def _unit(x: Columns) -> Array:
    parts = []
    for name, d in SPACE.items():
        if isinstance(d, FloatDistribution):
            low, high, value = (np.log(v) if d.log else v for v in (d.low, d.high, x[name]))
            parts.append((value - low) / (high - low))
        else:
            n = len(d.choices) if isinstance(d, CategoricalDistribution) else d.high - d.low + 1  # type: ignore[attr-defined]
            parts.append((x[name] + 0.5) / n)
    return np.stack(parts, 1)


def _normal(objectives: Array) -> Array:
    """Error, log latency, log size in units in which the limits are 1."""
    y = np.column_stack([objectives[:, 0], np.log(objectives[:, 1:])])
    return np.maximum((y - _BEST) / (_REFERENCE - _BEST), 0)


def _hypervolume(objectives: Array) -> float:
    y = _normal(objectives)
    y = y[(y < 1).all(1)]
    return float(compute_hypervolume(y, np.ones(3))) if len(y) else 0.0


def _non_dominated(y: Array) -> NDArray[np.bool_]:
    dominated = (y[:, None] >= y[None]).all(2) & (y[:, None] > y[None]).any(2)
    return ~dominated.any(1)
