"""ONNX Runtime on the CPU: quiet sessions, runs, and a timing protocol that survives a busy machine.

The protocol: candidates and a fixed reference net run round-robin in one process, so that changes of the
clock hit all of them; with one thread the thread's CPU time counts, not the wall clock; the smallest value of
two passes is the latency, and it is `trusted` if the two passes agree.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autocompress.errors import CandidateError, MeasurementError
from autocompress.runtimes._timing import Stopwatch, TimingProtocol, build_session, example_feed, spread, time_together

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "AGREEMENT",
    "FAST",
    "THOROUGH",
    "Arrays",
    "Timing",
    "TimingProtocol",
    "example_feed",
    "measure",
    "measure_reference",
    "pieces",
    "reference_model",
    "run",
    "session",
]

Arrays = Mapping[str, npt.NDArray[Any]]

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


def session(
    model: bytes | str | Path, threads: int = 1, extra: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """Build a quiet CPU session with all graph optimisations.

    `extra` holds session configuration entries. Spinning is on with more than one thread (small nets are up
    to 1.5 times slower without) and off with one.

    Raises:
        CandidateError: ONNX Runtime refuses the model.
    """
    source = str(model) if isinstance(model, Path) else model
    try:
        return build_session(source, threads, extra or {})
    except Exception as error:  # onnxruntime has no common base class for its errors
        name = "the model" if isinstance(model, bytes) else str(model)
        raise CandidateError(f"ONNX Runtime cannot load {name}: {' '.join(str(error).split())}") from None


def run(
    session: onnxruntime.InferenceSession, feed: Arrays, outputs: Sequence[str] | None = None
) -> list[npt.NDArray[Any]]:
    """Run once and return the outputs in order.

    Raises:
        CandidateError: ONNX Runtime refuses the inputs, or fails.
    """
    try:
        return list(session.run(None if outputs is None else list(outputs), dict(feed)))
    except Exception as error:  # as in `session`
        raise CandidateError(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())}") from None


def pieces(session: onnxruntime.InferenceSession, batch: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The batch as the session takes it: whole, or sample by sample where the first input has a fixed size."""
    return np.split(batch, len(batch)) if isinstance(session.get_inputs()[0].shape[0], int) else [batch]


@functools.cache
def reference_model() -> bytes:
    """Return the fixed reference net, four 3x3 convolutions on 32 channels at 16x16, as bytes."""
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


def measure(
    candidates: Sequence[tuple[onnxruntime.InferenceSession, Arrays]],
    *,
    threads: int = 1,
    protocol: TimingProtocol = THOROUGH,
    reference_ms: float | None = None,
) -> list[Timing]:
    """Time a batch of sessions round-robin together with the reference net.

    Args:
        candidates: session and feed of each; the sessions must have been built with `threads` threads.
        threads: 1 counts CPU time of the calling thread, more counts wall time.
        protocol: `THOROUGH` or `FAST`.
        reference_ms: latency of the reference net on this machine at full speed
            (`DeviceProfile.reference_ms`); if given, latencies are scaled by it, which cancels a clock that
            is lower today.

    Raises:
        MeasurementError: the clock of the thread does not advance.
        CandidateError: a session fails to run.
    """
    if not candidates:
        return []
    reference = session(reference_model(), threads)
    everything = [*candidates, (reference, example_feed(reference))]
    try:
        watches = time_together(everything, threads, protocol)
    except Exception as error:  # as in `session`
        raise CandidateError(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())}") from None
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


def measure_reference(threads: int = 1, protocol: TimingProtocol = THOROUGH) -> Timing:
    """Time the reference net alone."""
    own = session(reference_model(), threads)
    return measure([(own, example_feed(own))], threads=threads, protocol=protocol)[0]
