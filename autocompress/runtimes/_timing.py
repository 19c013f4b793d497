"""What a loaded file is, and the timing protocol: written once, over models of any runtime.

It is copied to devices with `_bundle_runner.py`: Python 3.8 and numpy only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

_BURST_S = 0.15
"""With more than one thread: the threads of the model that ran before stay busy waiting for up to 0.08 s."""


_NUMBERS = ("float16", "float32", "float64", "uint8", "int8", "int16", "uint16", "int32", "int64", "bool")
"""Types of inputs that can be made up."""


class TensorSpec(NamedTuple):
    """An input of a model."""

    shape: tuple[int | str | None, ...]
    """A name, or None, where any size is taken; one name is one size."""
    dtype: str
    """As numpy calls it; another word for what numpy has no type for."""


class Model(Protocol):
    """A file that a runtime has loaded."""

    inputs: Mapping[str, TensorSpec]
    """What must be given, by name."""
    options: Mapping[str, TensorSpec]
    """What may be given besides: inputs with a value of their own in the file, such as the thresholds of exits."""
    outputs: Sequence[str]
    """Names of the outputs, in order."""

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run once: arrays by name to arrays by name, all outputs in order."""


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


def example_inputs(model: Model, seed: int = 0) -> dict[str, Any]:
    """Inputs of the right shapes and types: random floats, zeros where they may be ids; a free size is one.

    Raises:
        TypeError: an input holds neither numbers nor booleans; the message is its type.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for name, spec in model.inputs.items():
        shape = [size if isinstance(size, int) else 1 for size in spec.shape]
        if spec.dtype not in _NUMBERS:
            raise TypeError(spec.dtype)
        dtype = np.dtype(spec.dtype)
        is_float = np.issubdtype(dtype, np.floating)
        made[name] = np.asarray(rng.standard_normal(shape)).astype(dtype) if is_float else np.zeros(shape, dtype)
    return made


class Stopwatch:
    """Times one model; keeps the times of all passes in nanoseconds."""

    def __init__(self, model: Model, inputs: Mapping[str, Any], threads: int, protocol: TimingProtocol) -> None:
        self._model, self._inputs = model, dict(inputs)
        self._clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
        self.smallest_ns: list[int] = []
        self.wall_ns: list[int] = []
        self._pass_ns: list[int] = []
        for _ in range(max(1, protocol.warm_up)):
            started = time.perf_counter()
            self._model(self._inputs)
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
        clock, wall, model, inputs = self._clock, time.perf_counter_ns, self._model, self._inputs
        done, end = 0, wall() + self._burst_ns
        while done < self.runs or wall() < end:
            done += 1
            wall_start, start = wall(), clock()
            model(inputs)
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
    pairs: Sequence[tuple[Model, Mapping[str, Any]]], threads: int, protocol: TimingProtocol
) -> list[Stopwatch]:
    """Run models with their inputs round-robin, so that a change of the clock hits all of them."""
    watches = [Stopwatch(model, inputs, threads, protocol) for model, inputs in pairs]
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
