"""ONNX Runtime on the CPU: quiet sessions, runs, and a timing protocol that survives a busy machine.

The protocol: candidates and a fixed reference net run round-robin in one process, so that changes of the
clock hit all of them; with one thread the thread's CPU time counts, not the wall clock; the smallest value of
two passes is the latency, and it is `trusted` if the two passes agree.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autocompress.errors import CandidateError, MeasurementError

if TYPE_CHECKING:
    import onnxruntime

Arrays = Mapping[str, npt.NDArray[Any]]

AGREEMENT = 0.05
"""Largest relative difference of the two passes of a trusted timing."""

_NUMPY_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True, slots=True)
class TimingProtocol:
    """How much to measure; the defaults are what the ranking of finalists needs."""

    rounds: int = 40
    """Rounds per pass; each candidate runs once per round, `runs` times in a row."""
    runs: int = 10
    passes: int = 2
    warm_up: int = 5
    pause_s: float = 0.2
    """Wait between the passes, so that a burst of other work does not hit both."""
    max_seconds: float = 4.0
    """Bound on the time spent per candidate; `runs`, then `rounds`, shrink to keep it."""


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
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    for key, value in (extra or {}).items():
        options.add_session_config_entry(key, value)
    source = str(model) if isinstance(model, Path) else model
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class for its errors
        name = "the model" if isinstance(model, bytes) else str(model)
        raise CandidateError(f"ONNX Runtime cannot load {name}: {' '.join(str(error).split())}") from None


def run(
    session: onnxruntime.InferenceSession, feed: Arrays, outputs: Sequence[str] | None = None
) -> list[npt.NDArray[Any]]:
    """Run once and return the outputs in order; raises CandidateError with the runtime's reason."""
    try:
        return list(session.run(None if outputs is None else list(outputs), dict(feed)))
    except Exception as error:
        raise CandidateError(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())}") from None


def example_feed(session: onnxruntime.InferenceSession, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Random inputs of the right shapes and types, symbolic dimensions set to 1."""
    rng = np.random.default_rng(seed)
    feed: dict[str, npt.NDArray[Any]] = {}
    for value in session.get_inputs():
        shape = [dim if isinstance(dim, int) and dim > 0 else 1 for dim in value.shape]
        feed[value.name] = np.asarray(rng.standard_normal(shape)).astype(_NUMPY_TYPES[value.type])
    return feed


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


class _Runner:
    """Times one session; keeps the times of all passes in nanoseconds."""

    def __init__(
        self, session: onnxruntime.InferenceSession, feed: Arrays, threads: int, protocol: TimingProtocol
    ) -> None:
        self._run, self._feed = session.run, dict(feed)
        self._clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
        self.smallest_ns: list[int] = []
        self.wall_ns: list[int] = []
        self._pass_ns: list[int] = []
        for _ in range(max(1, protocol.warm_up)):
            started = time.perf_counter()
            self._run(None, self._feed)
        seconds = max(1e-6, time.perf_counter() - started)
        calls = max(8, int(protocol.max_seconds / protocol.passes / seconds))
        self.rounds = min(protocol.rounds, calls)
        self.runs = max(1, min(protocol.runs, calls // self.rounds))

    def end_pass(self) -> None:
        self.smallest_ns.append(_smallest(self._pass_ns))
        self._pass_ns = []

    def burst(self) -> None:
        clock, wall, call, feed = self._clock, time.perf_counter_ns, self._run, self._feed
        for _ in range(self.runs):
            wall_start, start = wall(), clock()
            call(None, feed)
            elapsed, wall_elapsed = clock() - start, wall() - wall_start
            self._pass_ns.append(elapsed)
            self.wall_ns.append(wall_elapsed)


def _smallest(times_ns: Sequence[int]) -> int:
    """The smallest time of a pass that can be true: at least half the median.

    A virtual machine books the time that its host took from it late, off the clock of whichever call runs then; one
    call in a million seems to take next to nothing.
    """
    half = float(np.median(times_ns)) / 2
    return min(t for t in times_ns if t >= half)


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
        runners = [_Runner(s, feed, threads, protocol) for s, feed in everything]
        for index in range(protocol.passes):
            if index and protocol.pause_s:
                time.sleep(protocol.pause_s)
            _one_pass(runners)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise CandidateError(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())}") from None
    if any(min(runner.smallest_ns) <= 0 for runner in runners):
        raise MeasurementError("the CPU clock of the thread did not advance during a run; this machine cannot time it.")
    scale = 1.0 if reference_ms is None else reference_ms * 1e6 / min(runners[-1].smallest_ns)
    return [_timing(runner, runners[-1], threads, scale) for runner in runners[:-1]]


def _one_pass(runners: Sequence[_Runner]) -> None:
    for index in range(max(runner.rounds for runner in runners)):
        for runner in runners:
            if index < runner.rounds:
                runner.burst()
    for runner in runners:
        runner.end_pass()


def _timing(runner: _Runner, reference: _Runner, threads: int, scale: float) -> Timing:
    pairs = zip(runner.smallest_ns, reference.smallest_ns, strict=True)
    relative = [own / other for own, other in pairs]
    spread = max(relative) / min(relative) - 1
    raw = max(runner.smallest_ns) / min(runner.smallest_ns) - 1
    spread = min(spread, raw)
    wall_ms = np.asarray(runner.wall_ns, dtype=np.float64) / 1e6
    return Timing(
        latency_ms=min(runner.smallest_ns) / 1e6 * scale,
        p50_ms=float(np.median(wall_ms)),
        p95_ms=float(np.percentile(wall_ms, 95)),
        n=len(runner.wall_ns),
        threads=threads,
        spread=spread,
        trusted=spread <= AGREEMENT,
    )


def measure_reference(threads: int = 1, protocol: TimingProtocol = THOROUGH) -> Timing:
    """Time the reference net alone."""
    own = session(reference_model(), threads)
    return measure([(own, example_feed(own))], threads=threads, protocol=protocol)[0]
