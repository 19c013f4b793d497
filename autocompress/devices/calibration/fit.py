"""Calibration in three steps: `micro_models.plan`, `measure_plan` (gives `Measurements`), `fit_profile`.

The steps share nothing but their data, so that a device can be measured elsewhere and fitted here.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from autocompress.devices.calibration import _bundle_runner as runner
from autocompress.devices.calibration.measurements import Measurements
from autocompress.devices.calibration.micro_nets import EXIT_LEVELS, extreme_model
from autocompress.devices.calibration.plan import EXIT_PAIR, PLAN_VERSION, plan, plan_digest
from autocompress.devices.cost_model import fit, predict, relative_errors
from autocompress.devices.profile import HOST, Calibration, DeviceProfile, Provenance, host_name
from autocompress.errors import DeviceError, MeasurementError
from autocompress.runtimes.base import Runtime, executor, get, reference
from autocompress.runtimes.timing import load_onnx, reference_model
from autocompress.runtimes.workload import Workload

Progress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and a few words on the current step."""
Points = Mapping[str, tuple[Workload, float]]
"""Name of a measured graph -> its operators, its latency in ms."""

MIN_BUDGET_S = 5.0
_FOLDS = 5
_CACHE_SIZES = tuple(2**20 * megabytes for megabytes in (1, 2, 4, 8, 16, 32))


def calibrate_host(
    threads: int = 1, budget_s: float = 60.0, progress: Progress | None = None, runtime: str = "onnxruntime"
) -> DeviceProfile:
    """Time the micro-models on this machine and fit its profile (see `profile.host_name`).

    Args:
        threads: intra-op threads of the sessions; with more than one, wall time is measured.
        budget_s: wall time to spend, in seconds; at least `MIN_BUDGET_S`. The same plan is measured with any
            budget, a small one only repeats less.
        progress: called after every batch.
        runtime: that executes them.

    Raises:
        DeviceError: the budget is too small, `threads` < 1, or the runtime is not here.
        MeasurementError: this machine cannot be timed.
    """
    if threads < 1 or not budget_s >= MIN_BUDGET_S:
        raise DeviceError(
            f"calibration needs threads >= 1 and budget_s >= {MIN_BUDGET_S:g}, "
            f"got threads={threads} and budget_s={budget_s:g}."
        )
    report = progress or (lambda share, text: None)
    executing = get(runtime)
    measurements = measure_plan(executing, threads, 0.95 * budget_s, lambda share, text: report(0.97 * share, text))
    report(0.97, "fitting")
    profile = fit_profile(measurements, host_name(runtime))
    report(1.0, "done")
    return profile


def measure_plan(runtime: Runtime, threads: int, budget_s: float, progress: Progress) -> Measurements:
    """Time every model of the plan on this machine; a run that is not steady is returned with what it showed.

    Raises:
        MeasurementError: this machine cannot be timed.
        DeviceError: the runtime is not installed.
    """
    version, load = runtime.version(), partial(load_onnx, runtime)
    models = plan()
    begin, started = datetime.datetime.now(datetime.UTC), time.perf_counter()
    events = runner.throttle_events()

    def report(timings: list[dict[str, Any]], words: str) -> None:
        progress(min(1.0, (time.perf_counter() - started) / budget_s), f"{len(timings)} of {len(models)} nets{words}")

    sources = {model.name: model.make for model in models}
    timings, refused = runner.measure_models(sources, reference_model, load, threads, budget_s, report)
    if not all(row["latency_ms"] > 0 and row["reference_ms"] > 0 for row in timings):
        raise MeasurementError("the CPU clock of the thread did not advance during a run; this machine cannot time it.")
    return Measurements.parse(
        {
            "version": runner.MEASUREMENTS_VERSION,
            "plan_version": PLAN_VERSION,
            "plan_digest": plan_digest(models),
            "runtime": runtime.name,
            "runtime_version": version,
            "threads": threads,
            # how the processor adds int8 is seen with an operator that not every runtime has
            "machine": runner.machine_facts(extreme_model(), partial(load_onnx, reference())),
            "started": begin.isoformat(timespec="seconds"),
            "seconds": time.perf_counter() - started,
            "complete": True,
            "throttled": runner.throttle_events() > events,
            "refused": refused,
            "timings": timings,
        },
        "calibration",
    )


def fit_profile(measurements: Measurements, name: str, base: Workload | None = None) -> DeviceProfile:
    """Fit the profile called `name`; every measured graph is also predicted by a fit that did not see it.

    Args:
        measurements: a complete run.
        name: of the profile.
        base: operators of the user's own model, if it was measured too; it is fitted with the rest.

    Raises:
        DeviceError: the measurements are of another plan.
    """
    latencies_ms = measurements.at_full_speed_ms()
    plain_ms, exits_ms = (latencies_ms.pop(key, 0.0) for key in EXIT_PAIR)
    base_ms = latencies_ms.pop(runner.BASE, None)
    points = _points(latencies_ms, executor(measurements.runtime))
    if base is not None and base_ms is not None:
        points[runner.BASE] = base, base_ms
    held_out_ms = _held_out_ms(points, measurements)
    errors = [abs(predicted / measured - 1) for measured, predicted in held_out_ms.values()]
    machine = measurements.machine
    update = {
        "name": name,
        "description": f"{name} ({machine.system}), {measurements.threads} thread(s)",
        "processor": machine.processor,
        "runtime": measurements.runtime,
        "runtime_version": measurements.runtime_version,
        "measured_with": measurements.runtime,
        "threads": measurements.threads,
        "instruction_set": machine.instruction_set,
        "int8_arithmetic": "saturating" if machine.int8_saturates else "exact",
        "reference_ms": round(measurements.reference_ms, 6),
        "if_overhead_us": round(max(0.0, (exits_ms - plain_ms) * 1e3 / EXIT_LEVELS), 2),
        "provenance": Provenance(kind="measured", source=f"autocompress calibration on {machine.processor}"),
        "caveats": _caveats(measurements),
        "calibration": Calibration(
            degree="full",
            points=len(points),
            held_out=len(held_out_ms),
            median_error=round(float(np.median(errors)), 4),
            p90_error=round(float(np.percentile(errors, 90)), 4),
            date=measurements.started[:10],
            seconds=round(measurements.seconds, 1),
            split=f"{_FOLDS} parts, each predicted from the others",
            held_out_ms=held_out_ms,
        ),
    }
    return _model(points, measurements).model_copy(update=update)


def _caveats(measurements: Measurements) -> tuple[str, ...]:
    found = []
    if measurements.unsteadiness:
        found.append(f"during calibration {measurements.unsteadiness}")
    if measurements.refused:
        kinds = ", ".join(sorted({"/".join(name.split("/")[:2]) for name in measurements.refused}))
        found.append(
            f"{measurements.runtime} {measurements.runtime_version} cannot run {len(measurements.refused)} models of "
            f"the plan ({kinds}): what they hold is not known"
        )
    return tuple(found)


def _points(latencies_ms: Mapping[str, float], runtime: Runtime) -> dict[str, tuple[Workload, float]]:
    """Pair the latencies with the operators of their models, in the order of the plan."""
    import onnx

    models = {model.name: model for model in plan()}
    unknown = sorted(set(latencies_ms) - set(models))
    if unknown:
        raise DeviceError(f"the measurements hold {unknown[0]!r}, which is not in this plan; measure the device again.")
    return {
        name: (runtime.kernels(onnx.load_from_string(model.make())).workload(), latencies_ms[name])
        for name, model in models.items()
        if name in latencies_ms
    }


def _held_out_ms(points: Points, measurements: Measurements) -> dict[str, tuple[float, float]]:
    """Measured and predicted latency of every point, each predicted by a fit without its part of the points.

    The fp32 and the int8 form of a net, whose names end in the same number, go into the same part.
    """
    held_out_ms: dict[str, tuple[float, float]] = {}
    part_of = {name: int(name.rpartition("/")[2]) % _FOLDS if "/" in name else 0 for name in points}
    for part in range(_FOLDS):
        profile = _model({n: p for n, p in points.items() if part_of[n] != part}, measurements)
        for name, (work, ms) in points.items():
            if part_of[name] == part:
                held_out_ms[name] = (_rounded(ms), _rounded(predict(profile, work).latency_ms))
    return {name: held_out_ms[name] for name in points}


def _model(points: Points, measurements: Measurements) -> DeviceProfile:
    """Fit the latency model to the points: the one place that knows its form."""
    measured = list(points.values())
    block = channel_block(measurements.machine.instruction_set)

    def profile(cache_bytes: int) -> DeviceProfile:
        fitted = fit(measured, block, cache_bytes, tiling=True)
        return DeviceProfile(
            name=HOST,
            channel_block=block,
            cache_bytes=cache_bytes,
            us_per_mb_beyond_cache=fitted.us_per_mb_beyond_cache,
            run_overhead_us=fitted.run_overhead_us,
            latency=fitted.latency,
            provenance=Provenance(kind="measured", source=""),
        )

    def loss(candidate: DeviceProfile) -> float:
        return float(np.minimum(np.abs(relative_errors(candidate, measured)), 0.5).mean())

    # a share of a common cache cannot be read off: take the size that explains the nets best
    return min(map(profile, _CACHE_SIZES), key=loss)


def _rounded(ms: float) -> float:
    return float(f"{ms:.4g}")


def channel_block(flags: Sequence[str]) -> int:
    """Channels per block of ONNX Runtime's fp32 convolution: 16 with AVX-512, otherwise 8."""
    return 16 if "avx512f" in flags else 8
