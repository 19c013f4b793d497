"""Honest timing of a file on this machine, every way through it, beside what the profile predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx

from autocompress.devices import cost_model
from autocompress.devices.calibration.bundle import read_model
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import AutocompressError, DeviceError, InputError
from autocompress.graphs.nested_if import EXIT_INDEX, forced_out, path_feeds, threshold_name
from autocompress.runtimes.base import Model, Runtime, executor
from autocompress.runtimes.input_shapes import Shapes, noted_shapes, refuse_free
from autocompress.runtimes.timing import example_inputs, measure


@dataclass(frozen=True, slots=True)
class PathTiming:
    """One way through the file."""

    path: str
    latency_ms: float
    p50_ms: float
    p95_ms: float
    n: int
    trusted: bool


@dataclass(frozen=True)
class FileTiming:
    """What was measured, and under which conditions."""

    model: str
    device: str
    threads: int
    size_bytes: int
    predicted_latency_ms: float | None
    paths: tuple[PathTiming, ...]
    prediction_doubts: tuple[str, ...] = ()
    """Why the prediction is rough, each in one clause."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "latency_source": "measured", "latency_ms": self.paths[-1].latency_ms}

    def to_text(self) -> str:
        """A few lines for the terminal."""
        clock = "CPU time of the thread" if self.threads == 1 else "wall time"
        lines = [f"{self.model}: {self.size_bytes:,} bytes, batch 1, {self.threads} thread(s), measured here"]
        for p in self.paths:
            doubt = "" if p.trusted else "  (the two passes differ by more than 5 %: the machine is busy)"
            lines.append(
                f"  {p.path:<12} {p.latency_ms:.4f} ms ({clock}, smallest of {p.n})   "
                f"wall p50 {p.p50_ms:.4f}, p95 {p.p95_ms:.4f} ms{doubt}"
            )
        if self.predicted_latency_ms is not None:
            rough = f"; rough: {'; '.join(self.prediction_doubts)}" if self.prediction_doubts else ""
            where = f"profile {self.device}, longest path{rough}"
            lines.append(f"  predicted    {self.predicted_latency_ms:.4f} ms ({where})")
        return "\n".join(lines)


def time_file(
    path: Path, device: DeviceProfile, threads: int | None = None, shapes: Shapes = MappingProxyType({})
) -> FileTiming:
    """Time a file with the thorough protocol; each early exit of our own files is timed on its own.

    Args:
        path: of any file that the runtime of the device executes.
        device: profile of this machine.
        threads: of one inference; those of the profile by default.
        shapes: of inputs with free dimensions beside the batch, by name; by default those that the file notes.

    Raises:
        DeviceError: the profile is not this machine.
        InputError: the file does not exist, the runtime refuses it, or the size of an input is not known.
    """
    if not device.is_this_machine:
        raise DeviceError(f"measure runs on this machine: use --device host, got {device.name}")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    threads = threads or device.threads
    runtime = executor(device.runtime)
    try:
        shapes = {**noted_shapes(path), **shapes}
        file = read_model(path, shapes)[0] if shapes else path
        model = runtime.load(file, threads)
        refuse_free({name: spec.shape for name, spec in model.inputs.items()})
        ways = ways_through(runtime, file, threads, example_inputs(model))
    except AutocompressError as error:
        raise InputError(f"{path}: {error}") from None
    except TypeError as kind:
        raise InputError(f"{path}: inputs must be numbers or booleans to be made up, got {kind}") from None
    names = [f"exit {i}" for i in range(len(ways) - 1)] + ["whole file"]
    timings = measure(ways, runtime, threads=threads)
    paths = tuple(
        PathTiming(name, t.latency_ms, t.p50_ms, t.p95_ms, t.n, t.trusted)
        for name, t in zip(names, timings, strict=True)
    )
    predicted, doubts = _predicted(path, device, threads, shapes)
    size_bytes = path.stat().st_size
    return FileTiming(str(path), device.name, threads, size_bytes, predicted, paths, doubts)


def ways_through(
    runtime: Runtime, file: bytes | Path, threads: int, inputs: Mapping[str, Any]
) -> list[tuple[Model, dict[str, Any]]]:
    """Models with inputs that take each way through a file: out at each early exit, and through the whole network.

    Where the runtime keeps the thresholds that the file has, there is a copy of the file for each way.

    Args:
        runtime: executes the file.
        file: its bytes, or its path.
        threads: of one inference.
        inputs: of one sample.

    Raises:
        CandidateError: the runtime refuses it.
    """
    model = runtime.load(file, threads)
    if EXIT_INDEX not in model.outputs:
        return [(model, dict(inputs))]
    if n_exits := sum(threshold_name(i) in model.options for i in range(len(model.options))):
        return [(model, feed) for feed in path_feeds(inputs, n_exits)]
    graph = onnx.load_from_string(file) if isinstance(file, bytes) else onnx.load(file)
    return [(runtime.load(runtime.convert(copy), threads), dict(inputs)) for copy in forced_out(graph)]


def _predicted(path: Path, device: DeviceProfile, threads: int, shapes: Shapes) -> tuple[float | None, tuple[str, ...]]:
    """Predicted latency in ms, if any, and why it is rough."""
    if threads != device.threads:
        return None, ()
    try:
        estimate = cost_model.predict(device, read_model(path, shapes, executor(device.runtime))[1])
    except AutocompressError:
        return None, ()
    return estimate.latency_ms, estimate.reasons
