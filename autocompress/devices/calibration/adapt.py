"""A profile moved by one or a few measured latencies: that of a similar device, or the device's own, to refine it.

Every cost of the profile is multiplied by exp(s + d): s is free and common to all, d of each operator kind is
Gaussian around 0. So one latency scales the profile, more of them bend it, and no cost becomes negative.
"""

from __future__ import annotations

import csv
import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from autocompress.devices.calibration.bundle import read_model
from autocompress.devices.calibration.measurements import LONGEST_MS, SHORTEST_MS
from autocompress.devices.cost_model import predict
from autocompress.devices.profile import Calibration, DeviceProfile, Dtype, OpCost, Provenance
from autocompress.errors import DeviceError
from autocompress.files import read_file
from autocompress.runtimes.base import Runtime
from autocompress.runtimes.input_shapes import Shapes
from autocompress.runtimes.workload import Workload

Floats = npt.NDArray[np.float64]
Point = tuple[str, Workload, float]
"""Name, operators and measured latency in ms of a network."""

_DEVIATION = 0.25
_NOISE = 0.12
_STEPS = 12
_TABLE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ExpectedError:
    """Relative errors found on public data by `hardware_profiles/degrees_of_calibration.py`."""

    median: float
    """For networks that neither the profile nor the user measured; so is `p90`."""
    p90: float
    variants_median: float
    """For other widths and resolutions of the measured networks; so is `variants_p90`."""
    variants_p90: float


EXPECTED = {
    1: ExpectedError(0.176, 0.507, 0.063, 0.230),
    3: ExpectedError(0.147, 0.420, 0.038, 0.119),
    5: ExpectedError(0.139, 0.397, 0.041, 0.125),
    8: ExpectedError(0.132, 0.382, 0.041, 0.125),
    13: ExpectedError(0.125, 0.366, 0.041, 0.125),
}
"""By number of measured networks; variants were not tested with more than 5.

Arm CPUs: profile of another chip with like cores, ncnn; variants: MobileNet grids of Pixel 1 and 3, TensorFlow Lite.
Without any measurement the same profiles are off by 36.8 % in the median.
"""
_SOURCE = (
    "other networks on Arm CPUs from a similar chip's profile, public data; variants of the measured: median "
    "{median:.1%}, 90 % within {p90:.0%}"
)
_REFINED = "; then moved to latencies of your own files"


def refit(like: DeviceProfile, points: Sequence[Point], name: str) -> DeviceProfile:
    """Move a profile to measured latencies of one or more networks.

    Args:
        like: profile of the same device under another runtime, or of a similar one; with the same `name`, the
            device's own, which is refined and keeps the error that its calibration states.
        points: the measured networks.
        name: of the new profile.

    Raises:
        DeviceError: no points, or a latency that is not a positive number.
    """
    if not points or any(not math.isfinite(ms) or ms <= 0 for _, _, ms in points):
        raise DeviceError("a latency must be a positive number of milliseconds.")
    moved = _moved(like, points)
    held_out_ms = {
        label: (ms, predict(_moved(like, [*points[:k], *points[k + 1 :]]), work).latency_ms)
        for k, (label, work, ms) in enumerate(points)
        if len(points) > 1
    }
    held_out_ms = {key: (float(f"{a:.4g}"), float(f"{b:.4g}")) for key, (a, b) in held_out_ms.items()}
    if name == like.name and like.calibration is not None:
        return moved.model_copy(update={"calibration": _refined(like.calibration, points, held_out_ms)})
    error = EXPECTED[max(n for n in EXPECTED if n <= len(points))]
    return moved.model_copy(
        update={
            "name": name,
            "description": f"{name}: like {like.name}, moved to {len(points)} measured latencies",
            "reference_ms": None,
            "calibration": Calibration(
                degree="one" if len(points) == 1 else "few",
                points=len(points),
                held_out=len(held_out_ms),
                median_error=error.median,
                p90_error=error.p90,
                date=_today(),
                split=_SOURCE.format(median=error.variants_median, p90=error.variants_p90),
                held_out_ms=held_out_ms,
            ),
            "provenance": Provenance(
                kind=like.provenance.kind,
                source=f"the user's measurements on top of {like.name} ({like.provenance.source})",
                licence=like.provenance.licence,
                datasheet=like.provenance.datasheet,
            ),
        }
    )


def _refined(own: Calibration, points: Sequence[Point], held_out_ms: dict[str, tuple[float, float]]) -> Calibration:
    """What the device's own calibration becomes: its error on other networks stands, the measured ones join it."""
    return own.model_copy(
        update={
            "points": own.points + len(points),
            "held_out": own.held_out + len(held_out_ms),
            "date": _today(),
            "split": own.split.removesuffix(_REFINED) + _REFINED,
            "held_out_ms": own.held_out_ms | held_out_ms,
        }
    )


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _moved(like: DeviceProfile, points: Sequence[Point]) -> DeviceProfile:
    """Return the profile with its costs multiplied by what the points ask for."""
    entries = [(kind, dtype) for kind, formats in like.latency.items() for dtype in formats]
    shares_ms = np.array([contributions_ms(like, work, entries) for _, work, _ in points])
    factors = solve(shares_ms, np.array([ms for _, _, ms in points]))
    call, of = float(factors[0]), dict(zip(entries, factors[1:].tolist(), strict=True))
    latency = {
        kind: {dtype: _times(cost, of[kind, dtype]) for dtype, cost in formats.items()}
        for kind, formats in like.latency.items()
    }
    common = {key: getattr(like, key) * call for key in ("run_overhead_us", "us_per_mb_beyond_cache", "if_overhead_us")}
    return like.model_copy(update={"latency": latency, **common})


def contributions_ms(profile: DeviceProfile, work: Workload, entries: Sequence[tuple[str, Dtype]]) -> list[float]:
    """Split a prediction into the cost of the call, then that of each entry of `profile.latency`."""
    free = {kind: {dtype: OpCost() for dtype in formats} for kind, formats in profile.latency.items()}
    call_ms = predict(profile.model_copy(update={"latency": free}), work).latency_ms
    alone = profile.model_copy(update={"run_overhead_us": 0.0, "us_per_mb_beyond_cache": 0.0, "if_overhead_us": 0.0})
    found = [call_ms]
    for kind, dtype in entries:
        latency = free | {kind: free[kind] | {dtype: profile.latency[kind][dtype]}}
        found.append(predict(alone.model_copy(update={"latency": latency}), work).latency_ms)
    return found


def solve(shares_ms: Floats, measured_ms: Floats) -> Floats:
    """Most probable factor of every part, given the latency of some networks.

    Args:
        shares_ms: (networks, parts) predicted cost of every part.
        measured_ms: (networks,) measured latency.

    Returns:
        Factors (parts,), all positive. Gauss-Newton on the error of the logarithm; networks that stay far off
        are weighted down.
    """
    n_parts = shares_ms.shape[1]
    target = np.log(measured_ms)
    start = float(np.median(target - np.log(shares_ms.sum(axis=1))))
    columns = np.hstack([np.ones((n_parts, 1)), np.eye(n_parts)])  # log factor = s + d
    prior = np.diag([1e-6, *[_DEVIATION**-2] * n_parts])
    found = np.array([start, *[0.0] * n_parts])
    for _ in range(_STEPS):
        cost = shares_ms * np.exp(columns @ found)
        total = cost.sum(axis=1)
        error = np.log(total) - target
        slope = (cost / total[:, None]) @ columns
        weight = np.minimum(1.0, 2 * _NOISE / np.maximum(np.abs(error), 1e-9)) / _NOISE**2
        pull = prior @ (found - np.array([start, *[0.0] * n_parts]))
        step = np.linalg.solve(slope.T @ (weight[:, None] * slope) + prior, slope.T @ (weight * error) + pull)
        found = found - np.clip(step, -1.0, 1.0)
    return np.asarray(np.exp(columns @ found))


def _times(cost: OpCost, factor: float) -> OpCost:
    return OpCost(**{term: getattr(cost, term) * factor for term in OpCost.model_fields})


def read_table(path: str | Path, shapes: Shapes = MappingProxyType({}), runtime: Runtime | None = None) -> list[Point]:
    """Read a CSV table with the columns file and latency_ms; files are looked up beside the table.

    `shapes` are those of the inputs of the files, by name, that have free dimensions beside the batch; `runtime` is
    that of the device, by default the reference.

    Raises:
        DeviceError: a column is missing, a latency is no positive number, or a file is no ONNX model.
    """
    table = Path(path)
    try:
        rows = list(csv.DictReader(read_file(table, DeviceError, _TABLE_BYTES).decode("utf-8-sig").splitlines()))
    except UnicodeDecodeError:
        raise DeviceError(f"{path}: cannot be read: it is not UTF-8 text.") from None
    except csv.Error as error:
        raise DeviceError(f"{path}: not a CSV table: {error}.") from None
    if not rows or not {"file", "latency_ms"} <= set(rows[0]):
        raise DeviceError(f"{path}: needs a first line 'file,latency_ms' and at least one row below it.")
    points: list[Point] = []
    for number, row in enumerate(rows, 2):
        try:
            ms = float(row["latency_ms"] or "")
        except ValueError:
            ms = math.nan
        if not SHORTEST_MS <= ms <= LONGEST_MS:
            raise DeviceError(
                f"{path}, line {number}: latency_ms must be a positive number, got {row['latency_ms']!r}; from "
                f"{SHORTEST_MS:g} to {LONGEST_MS:g} is possible."
            )
        points.append((row["file"] or "", read_model(table.parent / (row["file"] or ""), shapes, runtime)[1], ms))
    names = [label for label, _, _ in points]
    twice = next((label for label in names if names.count(label) > 1), None)
    if twice is not None:
        raise DeviceError(f"{path}: {twice!r} is there twice; give one latency per file.")
    return points
