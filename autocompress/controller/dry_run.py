"""What a search would find here, before it starts: parts, space, feasibility, what each technique gains, time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from autocompress.compression.gains import Knob
from autocompress.controller.duration import trial_time
from autocompress.controller.plan import Plan
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import AutocompressError, CandidateError, ConstraintError, TaskError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.gains import GainEstimator
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.space import SearchSpace
from autocompress.studies.constraints import Constraint
from autocompress.studies.results import Evaluation
from autocompress.tasks.task import Task

_NAMED = 12
"""Modules that are named; of more, only their number is told."""


@dataclass(frozen=True)
class DryRun:
    """The findings of `autocompress check`."""

    task: str
    device: str
    n_params: int
    macs: int
    metric: str
    """What `accuracy` is."""
    accuracy: float
    latency_ms: float
    size_bytes: int
    peak_memory_bytes: int | None
    energy_mj: float | None
    profile: str
    """How far the device profile can be trusted for this network."""
    prunable: str
    """How many groups, and what share of the parameters, can be pruned; empty for a network that is an ONNX file."""
    groups: dict[str, int]
    unprunable: dict[str, str]
    untouched: dict[str, int]
    """Modules that no technique makes smaller, with their numbers of parameters."""
    layers: dict[str, str]
    places: dict[str, float]
    n_knobs: int
    n_recipes: float
    left_out: tuple[str, ...]
    knobs: tuple[Knob, ...]
    """What each technique on its own would gain, predicted."""
    least_ms: float | None
    least_bytes: float | None
    """The least latency and the least size among the strongest recipes of the space."""
    constraints: tuple[str, ...]
    infeasible: str
    seconds_per_epoch: float | None
    seconds_per_trial: float
    """Training of the full network for the epochs of the space, and once through export and validation."""

    notes: tuple[str, ...] = ()
    """What was done to the given network before anything else (see `Task.notes`)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        data = asdict(self)
        data["n_recipes"] = self.n_recipes if math.isfinite(self.n_recipes) else "continuous"
        return data

    def to_text(self) -> str:
        """For the terminal."""
        size = f"{self.n_recipes:.3g}" if math.isfinite(self.n_recipes) else "a continuum of"
        widths = ", ".join(f"{name} ({n})" for name, n in self.groups.items())
        lines = [
            f"{self.task} on {self.device}: {self.n_params:,} parameters, {self.macs:,} MACs; the fp32 file has "
            f"{self.metric} {self.accuracy:.4f} (validation), {self.latency_ms:.3f} ms (predicted), "
            f"{self.size_bytes:,} bytes{self._memory_and_energy()}",
            self.profile,
            *(f"note: {note}" for note in self.notes),
            f"\n{self.prunable}: {widths or 'none'}" if self.prunable else "",
            *(f"  cannot be pruned: {name}: {reason}" for name, reason in self.unprunable.items()),
            *self._untouched(),
            f"quantisable layers ({len(self.layers)}): {', '.join(self.layers) or 'none'}",
            *self._places(),
            f"\nsearch space: {self.n_knobs} knobs, {size} recipes",
            *(f"  {note}" for note in self.left_out),
            "\nwhich techniques speed up this device (predicted, one at a time):",
            *(f"  {knob.text()}" for knob in self.knobs),
        ]
        if nothing := [knob.name for knob in self.knobs if knob.speedup is not None and not knob.pays]:
            lines.append(f"  does not pay here: {', '.join(nothing)}")
        if self.least_ms is not None:
            lines.append(f"  strongest recipes of the space: from {self.least_ms:.3f} ms, {self.least_bytes:,} bytes")
        lines.append(f"\nconstraints: {', '.join(self.constraints) or 'none'}")
        if self.constraints:
            lines.append(f"  {self.infeasible or 'can be met as far as it can be predicted before training'}")
        epoch = f"{self.seconds_per_epoch:.2g} s an epoch at full width, " if self.seconds_per_epoch is not None else ""
        lines.append(
            f"\ntime: about {epoch}{self.seconds_per_trial:.2g} s a trial, "
            f"{3600 / self.seconds_per_trial:.0f} trials an hour"
        )
        return "\n".join(lines)

    def _places(self) -> list[str]:
        """Where early exits could be, where that is a question."""
        places = ", ".join(f"{name} ({share:.0%} of the MACs)" for name, share in self.places.items())
        return [f"exit places: {places or 'none'}"] if self.prunable else []

    def _untouched(self) -> list[str]:
        """Modules that stay as they are, the largest ones by name."""
        if not self.untouched:
            return []
        named = sorted(self.untouched.items(), key=lambda pair: -pair[1])
        texts = [f"{name} {n / self.n_params:.1%} of the parameters" for name, n in named[:_NAMED]]
        if rest := named[_NAMED:]:
            texts.append(f"{len(rest)} more, {sum(n for _, n in rest) / self.n_params:.1%}")
        return [f"neither pruned nor quantised by any technique: {'; '.join(texts)}"]

    def _memory_and_energy(self) -> str:
        memory = f", {self.peak_memory_bytes:,} bytes of working memory" if self.peak_memory_bytes is not None else ""
        return memory + (f", {self.energy_mj:.3g} mJ" if self.energy_mj is not None else "")


def dry_run(task: Task, device: DeviceProfile, space: SearchSpace, constraints: Iterable[Constraint]) -> DryRun:
    """Look at everything that a search would use; nothing is trained, nothing is written.

    Raises:
        InputError: something given is wrong.
    """
    task.validate()
    evaluator = Evaluator(task, device)
    plan = Plan.make(evaluator, space, constraints, device)
    analysis, outline = evaluator.analysis, evaluator.analysis.outline
    try:
        base = evaluator.evaluate(Recipe())[0].evaluation
    except AutocompressError as error:
        raise TaskError(f"the model itself cannot be deployed: {error}") from error
    infeasible = _infeasible(plan, base)
    gains = GainEstimator(evaluator)
    try:
        time = trial_time(plan, base)
    except CandidateError as error:
        raise TaskError(str(error)) from error
    assert base.validation is not None and base.predicted_latency_ms is not None and base.size_bytes is not None
    return DryRun(
        task=task.name,
        device=device.name,
        n_params=analysis.n_params,
        macs=base.macs or analysis.macs,
        metric=task.figure,
        accuracy=base.validation.value,
        latency_ms=base.predicted_latency_ms,
        size_bytes=base.size_bytes,
        peak_memory_bytes=base.peak_memory_bytes,
        energy_mj=base.energy_mj,
        profile=gains.trust(),
        groups=dict(analysis.widths),
        prunable=analysis.prunable,
        unprunable=dict(analysis.unprunable),
        untouched=dict(analysis.untouched),
        layers=dict(analysis.layers),
        places={p.name: p.fraction for p in analysis.places},
        n_knobs=len(plan.space.knobs(outline)),
        n_recipes=plan.space.size(outline),
        left_out=plan.space.notes,
        knobs=gains.knobs(),
        least_ms=plan.reach.get("latency_ms"),
        least_bytes=plan.reach.get("size_bytes"),
        constraints=tuple(f"{c} ({c.because})" if c.because else str(c) for c in plan.constraints),
        infeasible=infeasible,
        seconds_per_epoch=time.epoch_s,
        notes=task.notes,
        seconds_per_trial=time.total_s,
    )


def _infeasible(plan: Plan, base: Evaluation) -> str:
    try:
        plan.check_feasible(plan.resolve(base))
    except ConstraintError as error:
        return str(error)
    return ""
