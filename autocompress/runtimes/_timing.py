"""The timing protocol, over sessions of ONNX Runtime.

It is copied to devices with `_bundle_runner.py`: Python 3.8 and numpy only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_BURST_S = 0.15
"""With more than one thread: the threads of the session that ran before stay busy waiting for up to 0.08 s."""


_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
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


def build_session(model: bytes | str, threads: int = 1, extra: Mapping[str, str] | None = None) -> Any:
    """Build a quiet CPU session with all graph optimisations.

    `extra` holds session configuration entries. Spinning is on with more than one thread (small nets are up
    to 1.5 times slower without) and off with one.
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
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def example_feed(session: Any, seed: int = 0) -> dict[str, Any]:
    """Inputs of the right shapes and types: random floats, zeros where they may be ids; a free batch is one."""
    rng = np.random.default_rng(seed)
    feed: dict[str, Any] = {}
    for value in session.get_inputs():
        shape = [dim if isinstance(dim, int) and dim > 0 else 1 for dim in value.shape]
        dtype = _NUMPY_TYPES[value.type]
        is_float = np.issubdtype(dtype, np.floating)
        feed[value.name] = np.asarray(rng.standard_normal(shape)).astype(dtype) if is_float else np.zeros(shape, dtype)
    return feed


class Stopwatch:
    """Times one session; keeps the times of all passes in nanoseconds."""

    def __init__(self, session: Any, feed: Mapping[str, Any], threads: int, protocol: TimingProtocol) -> None:
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
        self._burst_ns = 0
        if threads > 1:
            self.rounds = min(self.rounds, max(1, int(protocol.max_seconds / protocol.passes / _BURST_S)))
            self._burst_ns = int(_BURST_S * 1e9)
        self.runs = max(1, min(protocol.runs, calls // self.rounds))

    def end_pass(self) -> None:
        """Close the pass: its smallest time is kept."""
        self.smallest_ns.append(smallest_time_ns(self._pass_ns))
        self._pass_ns = []

    def burst(self) -> None:
        """Run `runs` times in a row, with more than one thread for `_BURST_S` at least."""
        clock, wall, call, feed = self._clock, time.perf_counter_ns, self._run, self._feed
        done, end = 0, wall() + self._burst_ns
        while done < self.runs or wall() < end:
            done += 1
            wall_start, start = wall(), clock()
            call(None, feed)
            elapsed, wall_elapsed = clock() - start, wall() - wall_start
            self._pass_ns.append(elapsed)
            self.wall_ns.append(wall_elapsed)


def smallest_time_ns(times_ns: Sequence[int]) -> int:
    """Return the smallest time of a pass that can be true: at least half the median.

    A virtual machine books the time that its host took from it late, off the clock of whichever call runs
    then; one call in a million seems to take next to nothing.
    """
    half = float(np.median(times_ns)) / 2
    return min(t for t in times_ns if t >= half)


def time_together(
    pairs: Sequence[tuple[Any, Mapping[str, Any]]], threads: int, protocol: TimingProtocol
) -> list[Stopwatch]:
    """Run sessions with their feeds round-robin, so that a change of the clock hits all of them."""
    watches = [Stopwatch(session, feed, threads, protocol) for session, feed in pairs]
    for index in range(protocol.passes):
        if index and protocol.pause_s:
            time.sleep(protocol.pause_s)
        for number in range(max(watch.rounds for watch in watches)):
            for watch in watches:
                if number < watch.rounds:
                    watch.burst()
        for watch in watches:
            watch.end_pass()
    return watches


def spread(watch: Stopwatch, reference: Stopwatch) -> float:
    """Relative difference between the passes: as timed or relative to the reference net, the smaller of both."""
    relative = [own / other for own, other in zip(watch.smallest_ns, reference.smallest_ns)]
    raw = max(watch.smallest_ns) / min(watch.smallest_ns) - 1
    return min(max(relative) / min(relative) - 1, raw)
