"""Measures this machine with micro-models and fits its `DeviceProfile`."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autocompress.device import HOST, Calibration, DeviceProfile, Provenance
from autocompress.errors import DeviceError
from autocompress.latency.linear import LinearFit, fit, relative_errors
from autocompress.workload import Workload

if TYPE_CHECKING:
    import onnx

Progress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and a few words on the current step."""

MIN_BUDGET_S = 5.0
_BATCH = 12
_HOLD_OUT_EVERY = 5
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
    started = time.perf_counter()
    report = progress or (lambda share, text: None)
    flags = cpu_flags()
    block = channel_block(flags)
    measured, reference_ms = _measure_plan(threads, budget_s, report)
    report(0.97, "fitting")
    kept, held = _split(measured)
    cache = _effective_cache_bytes(kept, block)
    trial = _profile(fit(kept, block, cache), threads, flags, block, cache)
    errors = np.abs(relative_errors(trial, held))
    final = _profile(fit(measured, block, cache), threads, flags, block, cache)
    calibration = Calibration(
        points=len(measured),
        held_out=len(held),
        median_error=round(float(np.median(errors)), 4),
        p90_error=round(float(np.percentile(errors, 90)), 4),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        seconds=round(time.perf_counter() - started, 1),
        split=f"every {_HOLD_OUT_EVERY}th micro-model",
    )
    update = {
        "calibration": calibration,
        "reference_ms": round(reference_ms, 6),
        "int8_arithmetic": "saturating" if int8_saturates() else "exact",
        "if_overhead_us": round(_if_overhead_us(threads), 2),
    }
    report(1.0, "done")
    return final.model_copy(update=update)


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


def _measure_plan(threads: int, budget_s: float, report: Progress) -> tuple[list[tuple[Workload, float]], float]:
    """Measure every micro-model; returns workloads with ms at full speed, and the reference net's ms."""
    import onnx

    from autocompress.latency.micro_models import plan
    from autocompress.runtimes.onnxruntime import (
        TimingProtocol,
        example_feed,
        measure,
        reference_model,
        session,
    )

    models = plan()
    deadline = time.perf_counter() + 0.92 * budget_s
    reference = session(reference_model(), threads)
    points: list[tuple[Workload, float, float]] = []
    for start in range(0, len(models), _BATCH):
        contents = [model.make() for model in models[start : start + _BATCH]]
        works = [Workload.from_onnx(onnx.load_from_string(content)) for content in contents]
        sessions = [session(content, threads) for content in contents]
        left = max(0.0, deadline - time.perf_counter())
        share = left / (len(models) - start + len(models) / _BATCH)
        protocol = TimingProtocol(
            rounds=20, runs=400, passes=2, warm_up=3, pause_s=0.0, max_seconds=max(0.004, 0.8 * share)
        )
        pairs = [(item, example_feed(item)) for item in (*sessions, reference)]
        times = measure(pairs, threads=threads, protocol=protocol)
        points += [(w, t.latency_ms, times[-1].latency_ms) for w, t in zip(works, times, strict=False)]
        report(0.95 * (start + len(contents)) / len(models), f"{start + len(contents)} of {len(models)} nets")
    best = float(np.percentile([point[2] for point in points], 10))
    return [(work, ms * best / reference_ms) for work, ms, reference_ms in points], best


def _effective_cache_bytes(measured: Sequence[tuple[Workload, float]], block: int) -> int:
    """Pick the size that explains the fitted nets best: a share of a common cache cannot be read off."""

    def loss(cache: int) -> float:
        errors = np.abs(relative_errors(_profile(fit(measured, block, cache), 1, (), block, cache), measured))
        return float(np.minimum(errors, 0.5).mean())

    return min(_CACHE_SIZES, key=loss)


def _split(
    measured: Sequence[tuple[Workload, float]],
) -> tuple[list[tuple[Workload, float]], list[tuple[Workload, float]]]:
    """Return the nets to fit and every fifth, held out."""
    kept = [point for k, point in enumerate(measured) if k % _HOLD_OUT_EVERY != _HOLD_OUT_EVERY - 1]
    held = [point for k, point in enumerate(measured) if k % _HOLD_OUT_EVERY == _HOLD_OUT_EVERY - 1]
    return kept, held


def _profile(fitted: LinearFit, threads: int, flags: tuple[str, ...], block: int, cache_bytes: int) -> DeviceProfile:
    import onnxruntime

    name = processor_name()
    return DeviceProfile(
        name=HOST,
        description=f"this machine ({platform.system()} {platform.machine()}), {threads} thread(s)",
        processor=name,
        runtime_version=onnxruntime.__version__,
        threads=threads,
        instruction_set=flags,
        channel_block=block,
        cache_bytes=cache_bytes,
        us_per_mb_beyond_cache=fitted.us_per_mb_beyond_cache,
        run_overhead_us=fitted.run_overhead_us,
        latency=fitted.latency,
        provenance=Provenance(kind="measured", source=f"autocompress calibration on {name}"),
    )


def _if_overhead_us(threads: int) -> float:
    """Cost of one early-exit test (Softmax, ReduceMax, Greater, If) over the same net without it."""
    from autocompress.runtimes.onnxruntime import TimingProtocol, example_feed, measure, session

    pairs = [session(_exit_net(nested), threads) for nested in (False, True)]
    protocol = TimingProtocol(rounds=30, runs=50, pause_s=0.0, max_seconds=0.5)
    plain, nested = measure([(s, example_feed(s)) for s in pairs], threads=threads, protocol=protocol)
    return max(0.0, (nested.latency_ms - plain.latency_ms) * 1e3 / _EXIT_LEVELS)


_EXIT_LEVELS = 2


def _exit_net(nested: bool) -> bytes:
    """Return three convolutions in a row; if `nested`, with two exit tests that never leave between them."""
    from onnx import TensorProto, helper

    shape = [1, 16, 8, 8]
    nodes, output = _exit_level(0, "input", nested)
    graph = helper.make_graph(
        nodes,
        "exits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _exit_level(level: int, source: str, nested: bool) -> tuple[list[onnx.NodeProto], str]:
    """Nodes of one convolution and what follows it, and the name of their result."""
    from onnx import helper, numpy_helper

    weight, out = f"weight_{level}", f"conv_{level}"
    values = numpy_helper.from_array(np.full((16, 16, 3, 3), 0.01, np.float32), weight)
    nodes: list[onnx.NodeProto] = [
        helper.make_node("Constant", [], [weight], value=values),
        helper.make_node("Conv", [source, weight], [out], pads=[1] * 4),
    ]
    if level == _EXIT_LEVELS:
        return nodes, out
    rest, result = _exit_level(level + 1, out, nested)
    if not nested:
        return [*nodes, *rest], result
    return [*nodes, *_exit_test(level, out, rest, result)], f"result_{level}"


def _exit_test(level: int, source: str, rest: list[onnx.NodeProto], result: str) -> list[onnx.NodeProto]:
    """Return the test as deployed files have it: Softmax, ReduceMax, Greater, If."""
    from onnx import TensorProto, helper

    final = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
    early = helper.make_tensor_value_info(f"early_{level}", TensorProto.FLOAT, None)
    stay = helper.make_graph(rest, f"stay_{level}", [], [final])
    identity = helper.make_node("Identity", [source], [f"early_{level}"])
    leave = helper.make_graph([identity], f"leave_{level}", [], [early])
    return [
        helper.make_node("GlobalAveragePool", [source], [f"pool_{level}"]),
        helper.make_node("Flatten", [f"pool_{level}"], [f"logits_{level}"]),
        helper.make_node("Softmax", [f"logits_{level}"], [f"soft_{level}"]),
        helper.make_node("ReduceMax", [f"soft_{level}"], [f"max_{level}"], keepdims=0),
        helper.make_node("Constant", [], [f"limit_{level}"], value_float=2.0),
        helper.make_node("Greater", [f"max_{level}", f"limit_{level}"], [f"leave_{level}"]),
        helper.make_node("If", [f"leave_{level}"], [f"result_{level}"], then_branch=leave, else_branch=stay),
    ]
