"""`Measurements`: what one run of the calibration plan measured on one machine, as a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from autocompress.devices.calibration._bundle_runner import MEASUREMENTS_VERSION
from autocompress.errors import DeviceError
from autocompress.files import write_atomically
from autocompress.validation import Data

UNSTEADY_SLOWDOWN = 0.3
"""Larger loss of speed of the reference net during a run: its result is to be doubted."""
UNSTEADY_SPREAD = 0.1
"""Larger median difference between the passes: the same."""

SHORTEST_MS, LONGEST_MS = 1e-6, 1e7
"""A nanosecond and three hours: no call of a runtime lies outside."""
_Latency = Annotated[float, Field(ge=SHORTEST_MS, le=LONGEST_MS, allow_inf_nan=False)]
_NonNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Machine(Data):
    """Facts about the machine that was measured."""

    processor: str
    instruction_set: tuple[str, ...] = ()
    """Flags that matter for the kernels; empty where unknown."""
    int8_saturates: bool
    """Found by test: uint8 x int8 products overflow 16-bit sums."""
    cores: Annotated[int, Field(ge=1, le=2**20)]
    system: str
    """Operating system and architecture, for example "Linux aarch64"."""


class ModelTiming(Data):
    """Latency of one micro-model, and of the reference net that ran in the same batch."""

    name: str
    latency_ms: _Latency
    reference_ms: _Latency
    spread: _NonNegative
    """Relative difference between the passes."""
    at_s: _NonNegative
    """Seconds since the start of the run."""


class Measurements(Data):
    """One run of the plan: timings with everything that is needed to fit a profile from them."""

    version: Literal[1] = 1
    plan_version: int
    plan_digest: str
    base_sha256: str = ""
    """Digest of the user's own ONNX file, timed as "base"; empty if there was none."""
    runtime: str = "onnxruntime"
    runtime_version: str
    threads: Annotated[int, Field(ge=1, le=4096)]
    machine: Machine
    started: str
    """ISO date and time, UTC."""
    seconds: _NonNegative
    """Wall time of the run."""
    complete: bool
    """False as long as models of the plan are missing."""
    throttled: bool = False
    """The machine itself reported that it lowered its clock during the run."""
    refused: tuple[str, ...] = ()
    """Models that the runtime cannot run, for example because it is too old."""
    timings: Annotated[tuple[ModelTiming, ...], Field(min_length=1, max_length=10_000)]

    @property
    def reference_ms(self) -> float:
        """Latency of the reference net at full speed: the 10th percentile over all batches."""
        return float(np.percentile([t.reference_ms for t in self.timings], 10))

    @property
    def slowdown(self) -> float:
        """How much slower the reference net was in the slowest tenth of the batches than in the fastest."""
        return float(np.percentile([t.reference_ms for t in self.timings], 90)) / self.reference_ms - 1

    @property
    def spread(self) -> float:
        """Median relative difference between the passes of a model."""
        return float(np.median([t.spread for t in self.timings]))

    @property
    def unsteadiness(self) -> str:
        """Why the run is to be doubted, in one clause; empty if nothing speaks against it."""
        if self.throttled:
            return "the device reported that it lowered its clock because of heat"
        if self.slowdown > UNSTEADY_SLOWDOWN:
            return (
                f"the device was {self.slowdown:.0%} slower in parts of the run (throttling or other programs; "
                f"at most {UNSTEADY_SLOWDOWN:.0%} is fine)"
            )
        if self.spread > UNSTEADY_SPREAD:
            return (
                f"repeated timings differ by {self.spread:.0%} in the median (other programs; "
                f"at most {UNSTEADY_SPREAD:.0%} is fine)"
            )
        return ""

    def at_full_speed_ms(self) -> dict[str, float]:
        """Latency of every model, in ms, had the reference net run at its full speed in its batch."""
        best_ms = self.reference_ms
        return {t.name: t.latency_ms * best_ms / t.reference_ms for t in self.timings}

    def save(self, path: str | Path) -> Path:
        """Write JSON, all or nothing; returns the path."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")
        return Path(path)

    @classmethod
    def parse(cls, data: Any, source: str) -> Measurements:
        """Build measurements from plain data; raises DeviceError that starts with `source`."""
        version = data.get("version") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise DeviceError(f"{source}: this is not a result of the calibration plan: it has no 'version'.")
        if version > MEASUREMENTS_VERSION:
            raise DeviceError(
                f"{source}: this autocompress reads measurements up to version {MEASUREMENTS_VERSION}, "
                f"got {version}; upgrade autocompress."
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise DeviceError(f"{source}: {where}: {problem['msg'].lower()}; run the plan again.") from None
