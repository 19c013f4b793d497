"""What a search is about to do, settled before it starts: budget, constraints, space for this network and device."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property

from autocompress import __version__
from autocompress.compression.quantize import Quantize
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import CandidateError, ConstraintError, InputError
from autocompress.evaluation.evaluator import Evaluator, Forecast
from autocompress.recipes.domains import Value
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.space import SearchSpace
from autocompress.runtimes.base import Runtime
from autocompress.studies.constraints import Constraint, Quantity, device_limits
from autocompress.studies.results import Evaluation, energy_mj
from autocompress.studies.settings import EvaluatorName, Settings
from autocompress.tasks.metric import ACCURACY
from autocompress.tasks.task import Task

_LIBRARIES = ("torch", "torch-pruning", "onnx", "onnxruntime", "optuna", "numpy")


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: evaluated candidates (rejected ones are free), hours of search, or both."""

    trials: int | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.hours is None:
            raise InputError("a search needs a budget: give a number of trials, of hours, or both")
        if self.trials is not None and self.trials < 1:
            raise InputError(f"the budget of trials must be at least 1, got {self.trials}")
        if self.hours is not None and not (math.isfinite(self.hours) and self.hours > 0):
            raise InputError(f"the budget of hours must be above 0, got {self.hours}")

    def used(self, n_evaluated: int, seconds: float) -> float:
        """Share of the budget that is used, from 0 to 1 and above."""
        shares = [n_evaluated / self.trials] if self.trials else []
        shares += [seconds / 3600 / self.hours] if self.hours else []
        return max(shares)


@dataclass(frozen=True)
class Plan:
    """The space as far as this network, task and device can use it, and what can be said about it."""

    evaluator: Evaluator
    space: SearchSpace
    constraints: tuple[Constraint, ...]

    @classmethod
    def make(
        cls,
        evaluator: Evaluator,
        space: SearchSpace,
        constraints: Iterable[Constraint],
        device: DeviceProfile,
    ) -> Plan:
        """Restrict the space, and add the limits of the device to the constraints.

        Raises:
            ConstraintError: energy is limited, and nothing says what the device draws.
        """
        outline = evaluator.analysis.outline
        restricted = space.restrict(device, outline, trainable=evaluator.task.trainable)
        given = tuple(constraints)
        for c in given:
            if c.quantity == "energy_mj" and device.active_power_mw is None:
                raise ConstraintError(
                    f"{c}: the profile of {device.name} does not say what the device draws; "
                    "give it: --active-power-mw, or active_power_mw in the profile"
                )
        return cls(evaluator, restricted, (*given, *device_limits(device)))

    def resolve(self, baseline: Evaluation) -> tuple[Constraint, ...]:
        """All constraints with absolute limits."""
        return tuple(c.resolve(baseline) for c in self.constraints)

    def rejected(self, forecast: Forecast, constraints: Sequence[Constraint]) -> str:
        """Why a recipe cannot meet the constraints whatever its accuracy, or nothing.

        Latency counts by the shortest path, since how many samples take it is known only after training.
        """
        known = self._least([forecast])
        reasons = [
            c.broken_by(known[c.quantity], "predicted")
            for c in constraints
            if c.quantity in known and c.violation(known[c.quantity]) > 0
        ]
        return "; ".join(reasons)

    @property
    def _is_accuracy(self) -> bool:
        """Whether the metric cannot exceed 1."""
        task = self.evaluator.task
        return task.metric is ACCURACY and task.evaluate is None

    @cached_property
    def reach(self) -> dict[Quantity, float]:
        """The least of every quantity that is known before training among the strongest recipes; empty if none fits."""
        settings = self.space.strongest(self.evaluator.analysis.outline)
        return self._least([f for f in map(self.forecast_of, settings) if f is not None])

    def check_feasible(self, constraints: Sequence[Constraint]) -> None:
        """Refuse constraints that even the strongest recipes of the space are predicted to break.

        Raises:
            ConstraintError: naming what the space can reach.
        """
        for c in constraints:
            if c.quantity == "accuracy" and c.sense == "at least" and c.limit > 1 and self._is_accuracy:
                raise ConstraintError(f"{c}: impossible, accuracy is at most 1")
            least = self.reach.get(c.quantity)
            if c.sense == "at most" and least is not None and c.violation(least) > 0:
                raise ConstraintError(
                    f"impossible: {c.broken_by(least, 'the strongest recipe of the space is predicted at')}"
                    "; loosen it, or allow stronger compression in the search space"
                )

    def _least(self, forecasts: Sequence[Forecast]) -> dict[Quantity, float]:
        """The least of every quantity that is known before training."""
        if not forecasts:
            return {}
        latency_ms = min(f.best_case_ms for f in forecasts)
        energy = energy_mj(latency_ms, self.evaluator.device.active_power_mw)
        return {
            "latency_ms": latency_ms,
            "size_bytes": min(f.size_bytes for f in forecasts),
            "peak_memory_bytes": min(f.cost.peak_memory_bytes for f in forecasts),
            **({} if energy is None else {"energy_mj": energy}),
        }

    def forecast_of(self, values: dict[str, Value]) -> Forecast | None:
        """Forecast one setting of the space, or None where it cannot be applied."""
        recipe = self.space.sample(Fixed(values), self.evaluator.analysis.outline)
        try:
            return self.evaluator.forecast(recipe)
        except CandidateError:
            return None

    def setting_of(self, recipe: Recipe) -> dict[str, Value] | None:
        """The setting of the space that gives a recipe of post-training quantisation alone, or None."""
        outline = self.evaluator.analysis.outline
        values = self.space.setting_of(recipe, outline)
        if values is None:
            return None
        same = self._formats(self.space.sample(Fixed(values), outline)) == self._formats(recipe)
        return values if same else None

    def _formats(self, recipe: Recipe) -> object:
        """What a recipe does, where it changes number formats only."""
        stage = recipe.stages[0] if len(recipe.stages) == 1 else None
        if not isinstance(stage, Quantize) or stage.effort:
            return recipe
        bits = {name: stage.bits(name, part) for name, part in self.evaluator.analysis.layers.items()}
        return bits, stage.model_copy(update={"weight_bits": 8, "activation_bits": 8})

    def settings(self, reference: str, sampler: str, seed: int, evaluator: EvaluatorName = "standalone") -> Settings:
        """What is kept in study.json."""
        task, analysis = self.evaluator.task, self.evaluator.analysis
        return Settings(
            task=reference,
            task_name=task.name,
            task_kind=task.traits.name,
            classes=tuple(map(str, task.classes)),
            preprocessing=task.preprocessing,
            decoder=task.traits.decoding(),
            metric=task.figure,
            metric_unit=task.metric.unit if task.evaluate is None else None,
            model_sha256=task.model_sha256,
            data_sha256=task.data_sha256,
            training_sha256=task.training_sha256,
            identity=task.identity,
            device=self.evaluator.device.model_dump(mode="json", exclude={"calibration": {"held_out_ms"}}),
            space=self.space.to_dict(),
            constraints=self.constraints,
            sampler=sampler,
            evaluator=evaluator,
            seed=seed,
            notes=(*task.notes, analysis.unchangeable or analysis.prunable),
            outline=asdict(analysis.outline),
            unprunable=dict(analysis.unprunable),
            versions=versions(self.evaluator.runtime),
            created_at=now(),
        )


class Fixed:
    """A suggester that answers with given values; what is not given gets the first value of its domain."""

    def __init__(self, values: dict[str, Value]) -> None:
        self._values = values

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The given value, or `low`."""
        return float(self._values.get(name, low))

    def suggest_categorical(self, name: str, choices: Sequence[object]) -> object:
        """The given value, or the first choice."""
        return self._values.get(name, choices[0])


def task_name(task: Task, reference: str) -> str:
    """The name to show for a task."""
    return task.name if task.name != "task" else reference.rpartition("/")[2] or "task"


def versions(runtime: Runtime | None = None) -> dict[str, str]:
    """Of autocompress, Python, the machine, the libraries that change results, and the runtime."""
    found = {"autocompress": __version__, "python": platform.python_version(), "machine": platform.machine()}
    found |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return found | ({runtime.name: runtime.version()} if runtime else {})


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
