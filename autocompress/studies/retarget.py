"""Project a study onto other devices: accuracy stays, latency and memory are predicted again, in seconds.

A file is what it is on every device that can run it, so nothing is trained, built or run; where another runtime takes
other files, `evaluation.judging` converts and judges them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from autocompress.compression.quantize import Quantize
from autocompress.devices import cost_model
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import DeviceError, InputError, StudyError
from autocompress.recipes.recipe import Recipe
from autocompress.runtimes.base import executor
from autocompress.runtimes.workload import Workload
from autocompress.studies.constraints import Constraint, device_limits, met_by, value_of
from autocompress.studies.folder import read_artifact, read_workload
from autocompress.studies.front import ParetoFront
from autocompress.studies.results import Evaluation, LayerSummary
from autocompress.studies.study import Study, front_of

if TYPE_CHECKING:
    import pandas as pd

_EXIT_TEST = re.compile(r"exit\d+/(softmax|max|greater)")


@dataclass(frozen=True)
class Projection:
    """What the trials of a study are worth on one device; every latency is predicted from its profile."""

    device: DeviceProfile
    points: tuple[Evaluation, ...]
    """The complete trials that run there, with the figures of this device."""
    intervals: Mapping[int, tuple[float, float]]
    """Lowest and highest expected latency in ms, by trial."""
    excluded: Mapping[int, str]
    """Trials that cannot run there, with the reason."""
    doubts: Mapping[int, str]
    """Trials whose accuracy may be another one there, with the reason."""
    outside: Mapping[int, tuple[str, ...]]
    """Trials with operators that the profile does not know, and which; the nearest ones were used."""
    constraints: tuple[Constraint, ...]
    """Those of the user with absolute limits; what does not fit into the device is excluded."""
    notes: tuple[str, ...] = ()
    judged: bool = False
    """Whether the accuracies and sizes are those of files for its runtime, judged in it here."""

    @cached_property
    def front(self) -> ParetoFront:
        """The points that no other one dominates, among those that keep the constraints, or among all."""
        return front_of(self.points, self.constraints)

    @property
    def constraints_met(self) -> bool:
        """Whether the points of the front keep all constraints."""
        return all(met_by(point, self.constraints) for point in self.front)

    @cached_property
    def knee(self) -> Evaluation | None:
        """The knee of the front; None if nothing runs here."""
        return self.front.knee() if len(self.front) else None

    @cached_property
    def choice(self) -> Evaluation | None:
        """The best point in what the user left free.

        The most accurate one where only costs are limited, the fastest where only accuracy is, else the knee.
        """
        limited = {c.quantity == "accuracy" for c in self.constraints}
        if self.knee is None or len(limited) != 1 or not self.constraints_met:
            return self.knee
        return self.front.select("fastest" if limited == {True} else "most-accurate")

    def point(self, trial: int) -> Evaluation | None:
        """The figures of a trial on this device, or None if it does not run there."""
        return next((p for p in self.points if p.trial == trial), None)


@dataclass(frozen=True, slots=True)
class CrossDeviceResult:
    """The best choice for one device, run on another one."""

    chosen_for: str
    device: str
    """Where it runs."""
    trial: int | None
    own_trial: int | None
    """The best choice for `device` itself."""
    latency_ms: float | None = None
    latency_cost: float | None = None
    """How much slower than the device's own choice, as a share: 0.1 is 10 % slower, below 0 is faster."""
    accuracy_difference: float | None = None
    """Against the device's own choice, on the validation split."""
    size_ratio: float | None = None
    """Against the device's own choice."""
    slower_at_its_accuracy: float | None = None
    """How much slower than the fastest file there that is at least as accurate, as a share."""
    reason: str = ""
    """Why it does not run there."""


@dataclass(frozen=True)
class Retargeted:
    """A study seen from several devices."""

    study: Study
    projections: tuple[Projection, ...]
    lost: tuple[int, ...] = ()
    """Complete trials of which neither the list of operators nor the file is left."""

    def frame(self) -> pd.DataFrame:
        """One row per device and complete trial."""
        import pandas as pd

        return pd.DataFrame([row for projection in self.projections for row in _rows(projection)])

    def crossings(self) -> list[CrossDeviceResult]:
        """Every device's best choice on every device."""
        return [_cross(a, b) for a in self.projections for b in self.projections]

    def cross_frame(self) -> pd.DataFrame:
        """Latency cost in percent: one row per device chosen for, one column per device run on; NaN: does not run."""
        import pandas as pd

        names = [p.device.name for p in self.projections]
        table = pd.DataFrame(index=pd.Index(names, name="chosen for"), columns=names, dtype=float)
        for crossing in self.crossings():
            if crossing.latency_cost is not None:
                table.loc[crossing.chosen_for, crossing.device] = 100 * crossing.latency_cost
        return table

    def to_dict(self) -> dict[str, Any]:
        """What `retarget --json` prints."""
        return {
            "study": str(self.study.path),
            "searched_for": self.study.settings.device["name"],
            "latency_source": "predicted",
            "devices": [_summary(p) for p in self.projections],
            "cross": [asdict(crossing) for crossing in self.crossings()],
            "lost": list(self.lost),
        }


Judged = Mapping[str, Mapping[int, Evaluation]]
"""By device and trial: what the runtime of the device makes of the file (see `evaluation.judging`)."""


def retarget(study: Study, devices: Iterable[DeviceProfile], judged: Judged = MappingProxyType({})) -> Retargeted:
    """Predict every complete trial of a study on other devices.

    Accuracies and sizes are those of the study, or those that were judged in the runtime of the device. The user's
    constraints hold on every device, relative ones against the fp32 baseline on that device; what exceeds the memory of
    a device, or uses what its runtime cannot execute, is excluded there with the reason.

    Raises:
        InputError: no device, or two of one name.
        StudyError: the study has no complete trial that can be projected.
    """
    profiles = list(devices)
    names = Counter(p.name for p in profiles)
    if not profiles:
        raise InputError("name at least one device to project the study onto")
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"device {twice[0]!r} is given twice; give each device once")
    complete = [e for e in study.evaluations if e.state == "complete"]
    if not complete:
        raise StudyError(f"{study.path}: no trial was completed yet, so there is nothing to project")
    known: dict[str, Workload | None] = {}
    paths = {e.trial: _paths(study, e, known) for e in complete}
    kept = {e.trial: workloads for e in complete if (workloads := paths[e.trial])}
    if not kept:
        raise StudyError(
            f"{study.path}: neither workloads/ nor the ONNX files of its trials are left: nothing can be projected"
        )
    projections = tuple(_project(study, [e for e in complete if e.trial in kept], kept, p, judged) for p in profiles)
    return Retargeted(study, projections, tuple(e.trial for e in complete if e.trial not in kept))


def _paths(study: Study, evaluation: Evaluation, known: dict[str, Workload | None]) -> tuple[Workload, ...]:
    """What a file executes on each path, from what the study keeps, else from the file; nothing if both are gone."""
    for fingerprint in evaluation.workloads:
        if fingerprint not in known:
            known[fingerprint] = read_workload(study.path, fingerprint)
    kept = [known[fingerprint] for fingerprint in evaluation.workloads]
    if kept and all(kept):
        return tuple(workload for workload in kept if workload is not None)
    import onnx

    try:
        file = onnx.load_from_string(read_artifact(study.path, evaluation))
        runtime = executor(str(study.settings.device.get("runtime")))
    except Exception:  # gone, changed, or no ONNX file: protobuf and onnx have no common base class
        return ()
    n_exits = max(0, len(evaluation.exits) - 1)
    ends = [[f"exit{k}/go" for k in range(i + 1)] for i in range(n_exits)]
    return tuple(
        _without_tests(runtime.kernels(file, end).workload(), n_tests)
        for end, n_tests in [*zip(ends, range(1, n_exits + 1), strict=True), (None, n_exits)]
    )


def _without_tests(workload: Workload, n_tests: int) -> Workload:
    """One op for each confidence test on the way: its cost in a profile is that of the whole test."""
    ops = [op for op in workload.ops if op.kind != "if" and not _EXIT_TEST.fullmatch(op.name)]
    tests = [op for op in workload.ops if op.kind == "if"][:n_tests]
    return replace(workload, ops=(*ops, *tests))


def _project(
    study: Study,
    evaluations: Sequence[Evaluation],
    paths: Mapping[int, tuple[Workload, ...]],
    device: DeviceProfile,
    judged: Judged,
) -> Projection:
    found = judged.get(device.name, {})
    points: dict[int, Evaluation] = {}
    intervals: dict[int, tuple[float, float]] = {}
    excluded: dict[int, str] = {}
    outside: dict[int, tuple[str, ...]] = {}
    costs: dict[tuple[str, ...], list[cost_model.LatencyEstimate]] = {}
    for e in (found.get(e.trial, e) for e in evaluations):
        if reason := e.reason if e.state == "failed" else _unable(e, device):
            excluded[e.trial] = reason
            continue
        key = tuple(w.fingerprint for w in paths[e.trial])
        try:
            if key not in costs:
                costs[key] = [cost_model.predict(device, workload) for workload in paths[e.trial]]
        except DeviceError as error:
            excluded[e.trial] = str(error)
            continue
        point, interval = _on_device(e, costs[key], paths[e.trial][-1], device)
        if reason := _too_large(point, device):
            excluded[e.trial] = reason
            continue
        points[e.trial], intervals[e.trial] = point, interval
        if reasons := {reason for estimate in costs[key] for reason in estimate.reasons}:
            outside[e.trial] = tuple(sorted(reasons))
    built_for = str(study.settings.device.get("int8_arithmetic", "exact"))
    unsure = () if found else points.values()
    doubts = {e.trial: doubt for e in unsure if (doubt := _doubt(e, built_for, device))}
    constraints, notes = _constraints(study, points, device)
    if found:
        notes = (f"accuracies and sizes are those of the files for {device.runtime}, judged in it here", *notes)
    stripped = tuple(p.model_copy(update={"layers": ()}) for p in points.values())
    return Projection(device, stripped, intervals, excluded, doubts, outside, constraints, notes, bool(found))


def _unable(evaluation: Evaluation, device: DeviceProfile) -> str:
    """Why the runtime of a device cannot execute a file, or nothing."""
    if evaluation.exits and not device.support.early_exits:
        return f"{device.runtime} does not execute the If operators of early exits"
    weights, activations = _asked(evaluation.recipe)
    allowed = {"weights": (weights, device.weight_bits), "activations": (activations, device.support.activation_bits)}
    for kind, (used, executed) in allowed.items():
        if not used <= executed:
            bits = " and ".join(map(str, sorted(executed)))
            return f"{device.name} ({device.runtime}) executes {kind} of {bits} bits only"
    return ""


def _asked(recipe: Recipe) -> tuple[set[int], set[int]]:
    """Bits of weights and of activations beside integer weights that a recipe asks a runtime to execute."""
    stage = next((stage for stage in recipe.stages if isinstance(stage, Quantize)), None)
    return (set(stage.asked_weight_bits), set(stage.asked_activation_bits)) if stage else ({32}, set())


def _on_device(
    evaluation: Evaluation, path: Sequence[cost_model.LatencyEstimate], whole: Workload, device: DeviceProfile
) -> tuple[Evaluation, tuple[float, float]]:
    """The figures of a file on a device; with exits the expectation over the rates that the study found."""
    rates = [exit_.rate for exit_ in evaluation.exits] or [1.0]
    expected, low, high = (
        sum(rate * getattr(estimate, name) for rate, estimate in zip(rates, path, strict=True))
        for name in ("latency_ms", "low_ms", "high_ms")
    )
    exits = tuple(
        exit_.model_copy(update={"latency_ms": estimate.latency_ms})
        for exit_, estimate in zip(evaluation.exits, path, strict=bool(evaluation.exits))
    )
    changes = {
        "predicted_latency_ms": expected,
        "measured_latency_ms": None,
        "worst_case_latency_ms": path[-1].latency_ms if exits else None,
        "exits": exits,
        "peak_memory_bytes": whole.peak_memory_bytes(weights_in_flash=device.weights_in_flash),
        "active_power_mw": device.active_power_mw,
    }
    return evaluation.model_copy(update=changes), (low, high)


def _too_large(point: Evaluation, device: DeviceProfile) -> str:
    """Why a file does not fit into the memory of a device, or nothing."""
    for limit in device_limits(device):
        value = value_of(point, limit.quantity)
        if value is not None and limit.violation(value) > 0:
            return f"does not fit: {limit.broken_by(value, 'it has')}"
    return ""


def _doubt(evaluation: Evaluation, built_for: str, device: DeviceProfile) -> str:
    """Why a file may have another accuracy on a device, or nothing."""
    integer: list[LayerSummary] = [x for x in evaluation.layers if x.weight_bits <= 8 and x.activation_bits == 8]
    if integer and not device.support.reads_quantized:
        return f"int8 accuracy is not known: {device.runtime} quantises again by its own rules"
    if device.int8_arithmetic == "saturating" != built_for and any(x.weight_bits == 8 for x in integer):
        return (
            "accuracy may be lower: sums of 8-bit weights overflow in saturating int8 arithmetic; "
            "repeat the recipe for this device, which then uses 7 bits"
        )
    return ""


def _constraints(
    study: Study, points: Mapping[int, Evaluation], device: DeviceProfile
) -> tuple[tuple[Constraint, ...], tuple[str, ...]]:
    """The user's constraints on this device, and what cannot be checked there."""
    base = study.reference
    here = points.get(base.trial) if base else None
    resolved, notes = [], []
    for c in (c for c in study.settings.constraints if not c.because):
        reference = base if c.quantity in ("accuracy", "size_bytes") else here
        if c.relative_to_baseline and reference is None:
            notes.append(f"{c}: not checked: the fp32 baseline does not run here")
        elif c.quantity == "energy_mj" and device.active_power_mw is None:
            notes.append(f"{c}: not checked: the profile does not say what the device draws")
        else:
            resolved.append(c.resolve(reference) if reference is not None else c)
    return tuple(resolved), tuple(notes)


def _cross(a: Projection, b: Projection) -> CrossDeviceResult:
    names = (a.device.name, b.device.name)
    own = b.choice
    own_trial = own.trial if own else None
    if a.choice is None:
        return CrossDeviceResult(*names, None, own_trial, reason=f"nothing runs on {names[0]}")
    trial = a.choice.trial
    there = b.point(trial)
    if there is None or own is None:
        return CrossDeviceResult(*names, trial, own_trial, reason=b.excluded.get(trial, "does not run there"))
    accuracy, latency_ms, size = there.objectives()
    own_accuracy, own_ms, own_size = own.objectives()
    fastest = min(p.objectives()[1] for p in b.points if p.objectives()[0] >= accuracy)
    return CrossDeviceResult(
        *names,
        trial,
        own_trial,
        latency_ms=latency_ms,
        latency_cost=latency_ms / own_ms - 1,
        accuracy_difference=accuracy - own_accuracy,
        size_ratio=size / own_size,
        slower_at_its_accuracy=latency_ms / fastest - 1,
    )


def _rows(projection: Projection) -> list[dict[str, Any]]:
    on_front = {e.trial for e in projection.front}
    best = projection.choice.trial if projection.choice else None
    rows: list[dict[str, Any]] = []
    for e in projection.points:
        low, high = projection.intervals[e.trial]
        rows.append(
            {
                "device": projection.device.name,
                "trial": e.trial,
                "kind": e.kind,
                "label": e.label,
                "runs": True,
                "reason": "",
                "accuracy": e.accuracy,
                "validation_accuracy": e.validation.value if e.validation else None,
                "latency_ms": e.latency_ms,
                "latency_low_ms": low,
                "latency_high_ms": high,
                "worst_case_latency_ms": e.worst_case_latency_ms,
                "size_bytes": e.size_bytes,
                "peak_memory_bytes": e.peak_memory_bytes,
                "energy_mj": e.energy_mj,
                "in_domain": e.trial not in projection.outside,
                "accuracy_doubt": projection.doubts.get(e.trial, ""),
                "on_front": e.trial in on_front,
                "choice": e.trial == best,
            }
        )
    return rows + [
        {"device": projection.device.name, "trial": trial, "runs": False, "reason": reason}
        for trial, reason in projection.excluded.items()
    ]


def _summary(projection: Projection) -> dict[str, Any]:
    on_front = {e.trial for e in projection.front}
    rows = [row for row in _rows(projection) if row["trial"] in on_front]
    calibration = projection.device.calibration
    return {
        "device": projection.device.name,
        "median_error": calibration.median_error if calibration else None,
        "expected_error": projection.device.expected_error,
        "n_run": len(projection.points),
        "choice": projection.choice.trial if projection.choice else None,
        "knee": projection.knee.trial if projection.knee else None,
        "constraints": [str(c) for c in projection.constraints],
        "constraints_met": projection.constraints_met,
        "notes": list(projection.notes),
        "front": sorted(rows, key=lambda row: row["latency_ms"]),
        "excluded": {str(trial): reason for trial, reason in projection.excluded.items()},
    }
