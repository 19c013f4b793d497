"""Timing of loaded files on this machine, by a protocol that survives a busy one.

Candidates and a fixed reference net run round-robin in one process, so that changes of the clock hit all of them; with
one thread the thread's CPU time counts, not the wall clock; the smallest value of two passes is the latency, and it is
`trusted` if the two passes agree.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autocompress.errors import MeasurementError
from autocompress.runtimes._timing import Model, Stopwatch, TimingProtocol, example_inputs, spread, time_together
from autocompress.runtimes.base import Runtime

__all__ = ["AGREEMENT", "FAST", "THOROUGH", "Timing", "TimingProtocol", "example_inputs", "measure", "reference_model"]

AGREEMENT = 0.05
"""Largest relative difference of the two passes of a trusted timing."""

THOROUGH = TimingProtocol()
FAST = TimingProtocol(rounds=20, runs=4, pause_s=0.0, max_seconds=0.4)
"""For searches: below half a second per candidate, a few percent noisier."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Latency of one inference call of one candidate."""

    latency_ms: float
    """Smallest time of a call: CPU time of the thread (1 thread) or wall time (more)."""
    p50_ms: float
    """Median wall time; on a busy machine it holds the waiting for the processor as well."""
    p95_ms: float
    n: int
    threads: int
    spread: float
    """Relative difference between the passes, each relative to the reference net where one ran."""
    trusted: bool
    """True if `spread` is at most `AGREEMENT`."""


@functools.cache
def reference_model() -> bytes:
    """Return the fixed reference net, four 3x3 convolutions on 32 channels at 16x16, as an ONNX file."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, tensor = [], [], "input"
    for k in range(4):
        name = f"weight_{k}"
        values = rng.standard_normal((32, 32, 3, 3)).astype(np.float32) / 17
        weights.append(numpy_helper.from_array(values, name))
        nodes.append(helper.make_node("Conv", [tensor, name], [f"conv_{k}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"conv_{k}"], [f"relu_{k}"]))
        tensor = f"relu_{k}"
    shape = [1, 32, 16, 16]
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def load_onnx(runtime: Runtime, content: bytes, threads: int = 1) -> Model:
    """Load an ONNX file as the runtime executes it: converted.

    Raises:
        CandidateError: the runtime refuses it.
        DeviceError: the runtime is not installed.
    """
    import onnx

    return runtime.load(runtime.convert(onnx.load_from_string(content)), threads)


def measure(
    candidates: Sequence[tuple[Model, Mapping[str, npt.NDArray[Any]]]],
    runtime: Runtime,
    *,
    threads: int = 1,
    protocol: TimingProtocol = THOROUGH,
    reference_ms: float | None = None,
) -> list[Timing]:
    """Time a batch of models round-robin together with the reference net.

    Args:
        candidates: model and inputs of each; the models must have been loaded with `threads` threads.
        runtime: that of the models; the reference net runs in it, too.
        threads: 1 counts CPU time of the calling thread, more counts wall time.
        protocol: `THOROUGH` or `FAST`.
        reference_ms: latency of the reference net on this machine at full speed
            (`DeviceProfile.reference_ms`); if given, latencies are scaled by it, which cancels a clock that
            is lower today.

    Raises:
        MeasurementError: the clock of the thread does not advance.
        CandidateError: a model fails to run.
    """
    if not candidates:
        return []
    reference = load_onnx(runtime, reference_model(), threads)
    watches = time_together([*candidates, (reference, example_inputs(reference))], threads, protocol)
    if any(min(watch.smallest_ns) <= 0 for watch in watches):
        raise MeasurementError("the CPU clock of the thread did not advance during a run; this machine cannot time it.")
    scale = 1.0 if reference_ms is None else reference_ms * 1e6 / min(watches[-1].smallest_ns)
    return [_timing(watch, watches[-1], threads, scale) for watch in watches[:-1]]


def _timing(watch: Stopwatch, reference: Stopwatch, threads: int, scale: float) -> Timing:
    difference = spread(watch, reference)
    wall_ms = np.asarray(watch.wall_ns, dtype=np.float64) / 1e6
    return Timing(
        latency_ms=min(watch.smallest_ns) / 1e6 * scale,
        p50_ms=float(np.median(wall_ms)),
        p95_ms=float(np.percentile(wall_ms, 95)),
        n=len(watch.wall_ns),
        threads=threads,
        spread=difference,
        trusted=difference <= AGREEMENT,
    )
