"""Calibration in three steps: `micro_models.plan`, `measure_plan` (gives `Measurements`), `fit_profile`.

The steps share nothing but their data, so that a device can be measured elsewhere and fitted here.
"""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from autocompress.device import HOST, Calibration, DeviceProfile, Provenance
from autocompress.errors import DeviceError
from autocompress.latency.linear import fit, predict, relative_errors
from autocompress.latency.measurements import Machine, Measurements, ModelTiming
from autocompress.latency.micro_models import EXIT_LEVELS, EXIT_PAIR, PLAN_VERSION, plan, plan_digest
from autocompress.workload import Workload

Progress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and a few words on the current step."""
Points = Mapping[str, tuple[Workload, float]]
"""Name of a measured graph -> its operators, its latency in ms."""

MIN_BUDGET_S = 5.0
_BATCH = 12
_FOLDS = 5
_CACHE_SIZES = tuple(2**20 * megabytes for megabytes in (1, 2, 4, 8, 16, 32))
_FLAGS = (
    "avx",
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "fphp",
    "asimdhp",
    "i8mm",
    "sve",
    "sve2",
)


def calibrate_host(threads: int = 1, budget_s: float = 60.0, progress: Progress | None = None) -> DeviceProfile:
    """Time the micro-models on this machine and fit the profile "host".

    Args:
        threads: intra-op threads of the sessions; with more than one, wall time is measured.
        budget_s: wall time to spend, in seconds; at least `MIN_BUDGET_S`. The same plan is measured with any
            budget, a small one only repeats less.
        progress: called after every batch.

    Raises:
        DeviceError: the budget is too small or `threads` < 1.
        MeasurementError: this machine cannot be timed.
    """
    if threads < 1 or not budget_s >= MIN_BUDGET_S:
        raise DeviceError(
            f"calibration needs threads >= 1 and budget_s >= {MIN_BUDGET_S:g}, "
            f"got threads={threads} and budget_s={budget_s:g}."
        )
    report = progress or (lambda share, text: None)
    measurements = measure_plan(threads, 0.95 * budget_s, lambda share, text: report(0.97 * share, text))
    report(0.97, "fitting")
    profile = fit_profile(measurements, HOST)
    report(1.0, "done")
    return profile


def measure_plan(threads: int, budget_s: float, progress: Progress) -> Measurements:
    """Time every model of the plan on this machine, in batches that each hold the reference net.

    Raises:
        MeasurementError: this machine cannot be timed.
    """
    import onnxruntime

    from autocompress.runtimes.onnxruntime import TimingProtocol, example_feed, measure, reference_model, session

    models = plan()
    begin = datetime.datetime.now(datetime.UTC)
    started = time.perf_counter()
    reference = session(reference_model(), threads)
    timings: list[ModelTiming] = []
    for start in range(0, len(models), _BATCH):
        batch = models[start : start + _BATCH]
        sessions = [session(model.make(), threads) for model in batch]
        left = max(0.0, started + budget_s - time.perf_counter())
        share = left / (len(models) - start + len(models) / _BATCH)
        protocol = TimingProtocol(
            rounds=20, runs=400, passes=2, warm_up=3, pause_s=0.0, max_seconds=max(0.004, 0.8 * share)
        )
        pairs = [(item, example_feed(item)) for item in (*sessions, reference)]
        *times, own = measure(pairs, threads=threads, protocol=protocol)
        timings += [
            ModelTiming(
                name=model.name,
                latency_ms=timing.latency_ms,
                reference_ms=own.latency_ms,
                spread=timing.spread,
                at_s=time.perf_counter() - started,
            )
            for model, timing in zip(batch, times, strict=True)
        ]
        progress(len(timings) / len(models), f"{len(timings)} of {len(models)} nets")
    return Measurements(
        plan_version=PLAN_VERSION,
        plan_digest=plan_digest(models),
        runtime_version=onnxruntime.__version__,
        threads=threads,
        machine=Machine(
            processor=processor_name(),
            instruction_set=cpu_flags(),
            int8_saturates=int8_saturates(),
            cores=os.cpu_count() or 1,
            system=f"{platform.system()} {platform.machine()}",
        ),
        started=begin.isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
        complete=True,
        timings=tuple(timings),
    )


def fit_profile(measurements: Measurements, name: str) -> DeviceProfile:
    """Fit the profile called `name`; every micro-model is also predicted by a fit that did not see it.

    Raises:
        DeviceError: the measurements are of another plan.
    """
    latencies_ms = measurements.at_full_speed_ms()
    plain_ms, exits_ms = (latencies_ms.pop(key, 0.0) for key in EXIT_PAIR)
    points = _points(latencies_ms)
    held_out_ms = _held_out_ms(points, measurements)
    errors = [abs(predicted / measured - 1) for measured, predicted in held_out_ms.values()]
    machine = measurements.machine
    update = {
        "name": name,
        "description": f"{name} ({machine.system}), {measurements.threads} thread(s)",
        "processor": machine.processor,
        "runtime_version": measurements.runtime_version,
        "threads": measurements.threads,
        "instruction_set": machine.instruction_set,
        "int8_arithmetic": "saturating" if machine.int8_saturates else "exact",
        "reference_ms": round(measurements.reference_ms, 6),
        "if_overhead_us": round(max(0.0, (exits_ms - plain_ms) * 1e3 / EXIT_LEVELS), 2),
        "provenance": Provenance(kind="measured", source=f"autocompress calibration on {machine.processor}"),
        "calibration": Calibration(
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


def _points(latencies_ms: Mapping[str, float]) -> dict[str, tuple[Workload, float]]:
    """Pair the latencies with the operators of their models, in the order of the plan."""
    import onnx

    models = {model.name: model for model in plan()}
    unknown = sorted(set(latencies_ms) - set(models))
    if unknown:
        raise DeviceError(f"the measurements hold {unknown[0]!r}, which is not in this plan; measure the device again.")
    return {
        name: (Workload.from_onnx(onnx.load_from_string(model.make())), latencies_ms[name])
        for name, model in models.items()
        if name in latencies_ms
    }


def _held_out_ms(points: Points, measurements: Measurements) -> dict[str, tuple[float, float]]:
    """Measured and predicted latency of every point, each predicted by a fit without its part of the points.

    Neighbours in the plan are the fp32 and the int8 form of one net: they go into the same part.
    """
    held_out_ms: dict[str, tuple[float, float]] = {}
    part_of = {name: k // 2 % _FOLDS for k, name in enumerate(points)}
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
        fitted = fit(measured, block, cache_bytes)
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


def cpu_flags() -> tuple[str, ...]:
    """Instruction-set flags of this processor that matter for the kernels; empty where unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    present: set[str] = set()
    for line in text.splitlines():
        if line.lower().startswith(("flags", "features")):
            present.update(line.partition(":")[2].split())
    return tuple(flag for flag in _FLAGS if flag in present)


def processor_name() -> str:
    """Name of this processor, as the system states it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def channel_block(flags: Sequence[str]) -> int:
    """Channels per block of ONNX Runtime's fp32 convolution: 16 with AVX-512, otherwise 8."""
    return 16 if "avx512f" in flags else 8


def int8_saturates() -> bool:
    """Tell by test whether uint8 x int8 products overflow 16-bit sums on this machine.

    A product of the extreme values 255 x 127 over 64 terms is compared with the exact integer.
    """
    from onnx import TensorProto, helper, numpy_helper

    from autocompress.runtimes.onnxruntime import run, session

    inner, columns = 64, 32
    weight = numpy_helper.from_array(np.full((inner, columns), 127, np.int8), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight"], ["y"])],
        "extreme",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [8, inner])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [8, columns])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    feed = {"x": np.full((8, inner), 255, np.uint8)}
    result = run(session(bytes(model.SerializeToString())), feed)[0]
    return bool((result != 255 * 127 * inner).any())
