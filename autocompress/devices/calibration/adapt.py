"""A profile moved by one or a few measured latencies: that of a similar device, or the device's own, to refine it.

Every cost of the profile is multiplied by exp(s + q + d), all Gaussian around 0: s is common to all costs (nearly free,
unless the profile is of the very device), q to those in int8, d belongs to each operator kind. One latency scales the
profile, more of them bend it, and no cost becomes negative.
"""

from __future__ import annotations

import csv
import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

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

_NOISE = 0.12
_STEPS = 12
_TABLE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Prior:
    """How far a profile can be off, as standard deviations of logarithms."""

    common: float
    """Of a factor that all costs share."""
    int8: float
    """Of a further one that all int8 costs share."""
    kind: float
    """Of that of each operator kind in each number format."""


OWN = Prior(common=0.05, int8=0.05, kind=0.1)
"""The device itself, from good data of its own."""
FREE = Prior(common=100.0, int8=0.3, kind=0.25)
"""Another device: its speed says nothing, but its gain by int8 does."""


@dataclass(frozen=True, slots=True)
class ExpectedError:
    """For networks that neither the profile nor the user measured, found by `degrees_of_calibration.py`."""

    median: float
    p90: float
    """Half width of the 90 % interval as a share; on devices that it was not found from it held for 90 to 92 %."""


Case = Literal["chip", "runtime"]
_Table = Mapping[Case, Mapping[Dtype, Mapping[int, ExpectedError]]]
EXPECTED: _Table = {
    "chip": {
        "float32": {
            0: ExpectedError(0.239, 0.952),
            1: ExpectedError(0.178, 0.680),
            3: ExpectedError(0.154, 0.573),
            8: ExpectedError(0.138, 0.540),
        },
        "int8": {
            0: ExpectedError(0.247, 0.939),
            1: ExpectedError(0.187, 0.763),
            2: ExpectedError(0.134, 0.491),
            3: ExpectedError(0.117, 0.411),
        },
    },
    "runtime": {
        "float32": {0: ExpectedError(0.415, 1.523), 1: ExpectedError(0.255, 0.839), 3: ExpectedError(0.181, 0.627)},
        "int8": {0: ExpectedError(0.435, 2.358), 1: ExpectedError(0.352, 2.242)},
    },
}
"""By how the profile that is moved differs, number format, and how many networks were measured in that format.

"chip": times of another chip with like cores under the same runtime; "runtime": times under another runtime. 0 means
that only the other format was measured. Arm CPUs, public data (ncnn, ONNX Runtime, TensorFlow Lite).
"""
FORMATS: tuple[Dtype, ...] = ("float32", "int8")
_SOURCE = "other networks on Arm CPUs, from times {of}, public data"
_OF: Mapping[Case, str] = {"chip": "of another chip under the same runtime", "runtime": "under another runtime"}
_REFINED = "; then moved to latencies of your own files"


def adapt_profile(like: DeviceProfile, points: Sequence[Point], name: str) -> DeviceProfile:
    """Move a profile to measured latencies of one or more networks.

    Under its own name a profile of the device's own public times is held to them (`OWN`): one number of another board
    of the kind says little that they do not. Any other profile takes its speed from the numbers alone.

    Args:
        like: profile of the same device under another runtime, or of a similar one; with the same `name`, the
            device's own, which is refined and keeps the error that its calibration states.
        points: the measured networks; of one in float and one in int8 both intervals profit.
        name: of the new profile.

    Raises:
        DeviceError: no points, or a latency that is not a positive number.
    """
    if not points or any(not math.isfinite(ms) or ms <= 0 for _, _, ms in points):
        raise DeviceError("a latency must be a positive number of milliseconds.")
    moved = _moved(like, points, name)
    held_out_ms = {
        label: (ms, predict(_moved(like, [*points[:k], *points[k + 1 :]], name), work).latency_ms)
        for k, (label, work, ms) in enumerate(points)
        if len(points) > 1
    }
    held_out_ms = {key: (float(f"{a:.4g}"), float(f"{b:.4g}")) for key, (a, b) in held_out_ms.items()}
    counts = {dtype: sum(_format(work) == dtype for _, work, _ in points) for dtype in FORMATS}
    cases = {dtype: _case(like, dtype) for dtype in FORMATS if dtype in like.dtypes}
    errors = {dtype: _expected(case, dtype, counts[dtype]) for dtype, case in cases.items()}
    if name == like.name and like.calibration is not None and not like.transferred_from:
        own = _refined(like.calibration, points, held_out_ms)
        better = {d: min(p90, errors[d].p90) if counts[d] else p90 for d, p90 in own.p90_by_format.items()}
        return moved.model_copy(update={"calibration": own.model_copy(update={"p90_by_format": better})})
    first = errors[max(errors, key=lambda dtype: counts[dtype])]
    return moved.model_copy(
        update={
            "name": name,
            "description": f"{name}: like {like.name}, moved to {len(points)} measured latencies",
            "reference_ms": None,
            "calibration": Calibration(
                degree="one" if len(points) == 1 else "few",
                points=len(points),
                held_out=len(held_out_ms),
                median_error=first.median,
                p90_error=first.p90,
                p90_by_format={dtype: error.p90 for dtype, error in errors.items()},
                date=_today(),
                split=_SOURCE.format(of=_OF[cases[max(cases, key=lambda dtype: counts[dtype])]]),
                held_out_ms=held_out_ms,
            ),
            "provenance": Provenance(
                kind=like.provenance.kind,
                source=f"the user's measurements on top of {like.name} ({like.provenance.source})",
                licence=like.provenance.licence,
                datasheet=like.provenance.datasheet,
            ),
            "caveats": (*_asked(cases, counts), *(c for c in like.caveats if c != like.transfer_note)),
        }
    )


def _expected(case: Case, dtype: Dtype, n: int) -> ExpectedError:
    table = EXPECTED[case][dtype]
    return table[max(known for known in table if known <= n)]


def _case(like: DeviceProfile, dtype: Dtype) -> Case:
    moved = like.transferred_from or like.transfer_note.startswith(f"{dtype}:")
    return "runtime" if moved else "chip"


def _prior(like: DeviceProfile, name: str) -> Prior:
    if name != like.name or like.degree != "none" or like.transferred_from:
        return FREE
    return OWN if _case(like, "int8") == "chip" else replace(OWN, int8=FREE.int8)


def _asked(cases: Mapping[Dtype, Case], counts: Mapping[Dtype, int]) -> Iterator[str]:
    """What numbers of a format would bring that has none."""
    for dtype, case in cases.items():
        if not counts[dtype]:
            now, then = (_expected(case, dtype, n).p90 for n in (0, 2))
            yield (
                f"{dtype}: no number of yours; with the latencies of two {dtype} files the 90 % interval of such files "
                f"narrows from {now:.0%} to {then:.0%}"
            )


def _format(work: Workload) -> Dtype:
    """Of the products that do most of the work."""
    integer = sum(op.macs for op in work.ops if op.dtype == "int8")
    return "int8" if 2 * integer > work.macs else "float32"


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


def _moved(like: DeviceProfile, points: Sequence[Point], name: str) -> DeviceProfile:
    """Return the profile with its costs multiplied by what the points ask for."""
    entries = [(kind, dtype) for kind, formats in like.latency.items() for dtype in formats]
    shares_ms = np.array([contributions_ms(like, work, entries) for _, work, _ in points])
    dtypes = ("", *(dtype for _, dtype in entries))
    factors = solve(shares_ms, np.array([ms for _, _, ms in points]), dtypes, _prior(like, name))
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


def solve(shares_ms: Floats, measured_ms: Floats, formats: Sequence[str] = (), prior: Prior = FREE) -> Floats:
    """Most probable factor of every part, given the latency of some networks.

    Args:
        shares_ms: (networks, parts) predicted cost of every part.
        measured_ms: (networks,) measured latency.
        formats: number format of every part; without them int8 moves as floats do.
        prior: how far the profile can be off.

    Returns:
        Factors (parts,), all positive. Gauss-Newton on the error of the logarithm; networks that stay far off
        are weighted down.
    """
    n_parts = shares_ms.shape[1]
    target = np.log(measured_ms)
    in_int8 = np.array([name == "int8" for name in formats] or [False] * n_parts, dtype=float)
    columns = np.hstack([np.ones((n_parts, 1)), in_int8[:, None], np.eye(n_parts)])  # log factor = s + q + d
    precision = np.diag([prior.common**-2, prior.int8**-2, *[prior.kind**-2] * n_parts])
    found = np.zeros(n_parts + 2)
    found[0] = float(np.median(target - np.log(shares_ms.sum(axis=1)))) * prior.common**2 / (prior.common**2 + 0.01)
    for _ in range(_STEPS):
        cost = shares_ms * np.exp(columns @ found)
        total = cost.sum(axis=1)
        error = np.log(total) - target
        slope = (cost / total[:, None]) @ columns
        weight = np.minimum(1.0, 2 * _NOISE / np.maximum(np.abs(error), 1e-9)) / _NOISE**2
        step = np.linalg.solve(
            slope.T @ (weight[:, None] * slope) + precision, slope.T @ (weight * error) + precision @ found
        )
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
