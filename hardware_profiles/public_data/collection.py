"""From a collection of measured devices to profiles: the joint fit, its held-out errors, the YAML content."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from autocompress.devices.profile import Calibration, DeviceProfile, Dtype, Provenance
from autocompress.devices.transfer import FORMATS
from autocompress.runtimes.workload import Workload
from public_data import hierarchy
from public_data.hierarchy import Floats, Pool, Settings, Term

_COVERED = 0.92
"""Of the errors that the widths are found from, so that 90 % of those that they were not found from are covered."""
_BORROWED = 8.0
_ENOUGH_PAIRS = 2
_DETECTOR = re.compile(r"yolo|ssd|nanodet|blazeface|retina|fcos|centernet|damo|detr|efficientdet|face", re.IGNORECASE)
_MARKS = {"grouped": 0.05, "depthwise": 0.01}
"""Share of the MACs above which a network counts as one with such convolutions."""
_LARGEST = 1.0
"""Of an error as a logarithm, in the scale of a device."""
SCRIPT = "hardware_profiles/fit_public_data.py"
_HOLD_OUT = "leave one network out, of all devices at once"


@dataclass(frozen=True)
class Target:
    """One measured device configuration; `name` is empty if it only lends strength to others.

    The profile of a CPU gets the runtime behind this name.
    """

    name: str
    description: str
    ms: Mapping[str, float]
    date: str
    profile: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `DeviceProfile` that do not come from the fit."""
    facts: tuple[float, ...] = ()
    caveats: tuple[str, ...] = ()
    datasheet: str = ""
    source: str = ""
    """Of this device, if not that of the collection; its licence stands at the end."""


@dataclass(frozen=True)
class Collection:
    """Devices that are fitted together."""

    source: str
    licence: str
    terms: tuple[Term, ...]
    workloads: Mapping[str, Workload]
    targets: tuple[Target, ...]
    block: int = 1
    cache_bytes: int | None = None
    settings: Settings = field(default_factory=Settings)
    free: tuple[str, ...] = ("layout", "quantize", "dequantize")
    """Operator kinds that cost nothing of their own."""
    fitted_only: tuple[str, ...] = ()
    """Operator kinds of the data that are no kinds of `Workload`."""
    caveats: tuple[str, ...] = ()
    max_p90: float = 1.6
    """A device with a wider 90 % interval gets no profile."""

    def pool(self) -> Pool:
        """The matrices of the joint fit."""
        measured, facts = [t.ms for t in self.targets], [t.facts for t in self.targets]
        return hierarchy.make_pool(self.terms, self.workloads, measured, facts, self.block, self.cache_bytes)

    def groups(self) -> list[list[str]]:
        """Networks that are left out together: the float and the int8 version, and other inputs, of one network."""
        groups: dict[str, list[str]] = {}
        for name in self.workloads:
            groups.setdefault(family(name), []).append(name)
        return list(groups.values())

    def held_out(self) -> Floats:
        """Predictions (devices, networks) in ms by fits that saw the network on no device."""
        return hierarchy.leave_networks_out(self.pool(), self.groups(), self.settings)


_SAME = {
    "mobilenetv2_100": "mobilenet_v2",
    "mobilenetv3_large_100": "mobilenet_v3",
    "shufflenet_v2_x1_0": "shufflenet_v2",
    "resnet50_v1": "resnet50",
}
"""Other names of networks in the tables."""


def family(network: str) -> str:
    """Name without "_int8" and without what follows "@" (size, data set)."""
    name = network.removesuffix("_int8").partition("@")[0]
    return _SAME.get(name, name)


def profiles(collection: Collection) -> list[DeviceProfile]:
    """The profiles of all named targets, those that are too far off included."""
    pool = collection.pool()
    coefficients = hierarchy.fit(pool, collection.settings)
    predicted = collection.held_out()
    errors = np.log(predicted / pool.ms)
    widths = intervals(errors, pool.networks)
    covered = coverage(errors, pool.networks)
    kinds = [kind_of(name, collection.workloads[name]) for name in pool.networks]
    return [
        _profile(
            collection,
            target,
            coefficients[d],
            dict(zip(pool.networks, predicted[d], strict=True)),
            {dtype: float(width[d]) for dtype, width in widths.items()},
            by_kind(covered[d], kinds),
        )
        for d, target in enumerate(collection.targets)
        if target.name
    ]


def is_int8(networks: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which of the networks are in int8."""
    return np.array([name.endswith("_int8") for name in networks])


def intervals(errors: Floats, networks: Sequence[str]) -> dict[Dtype, Floats]:
    """Half widths (devices,) of the 90 % interval in each number format, as shares.

    A quantile of few errors says little, so that of a device is held to what its mean error, itself held to that of its
    relatives, and one multiple for the whole collection would give.

    Args:
        errors: (devices, networks) logarithm of predicted by measured, held out; NaN where nothing was measured.
        networks: names, in the order of the columns.
    """
    integer = is_int8(networks)
    sizes = {dtype: np.abs(errors[:, integer == (dtype == "int8")]) for dtype in FORMATS}
    known = {dtype: size for dtype, size in sizes.items() if np.isfinite(size).any()}
    scales = {dtype: _held(np.nanmean(np.minimum(s, _LARGEST)), s, _mean) for dtype, s in known.items()}
    multiple = np.nanquantile(np.hstack([s / scales[dtype][:, None] for dtype, s in known.items()]), _COVERED)
    return {dtype: np.expm1(_held(multiple * scales[dtype], s, _quantile)) for dtype, s in known.items()}


def coverage(errors: Floats, networks: Sequence[str]) -> Floats:
    """Whether the interval of its device, found without it, covers each network: 1, 0 or NaN (devices, networks)."""
    families = np.array([family(name) for name in networks])
    found = np.full(errors.shape, np.nan)
    for own in set(families.tolist()):
        here = families == own
        others = np.where(here, np.nan, errors)
        widths = intervals(others, networks) if np.isfinite(others).any() else {}
        for dtype, width in widths.items():
            columns = here & (is_int8(networks) == (dtype == "int8"))
            inside = np.abs(errors[:, columns]) <= np.log1p(width)[:, None]
            found[:, columns] = np.where(np.isfinite(errors[:, columns]), inside, np.nan)
    return found


def kind_of(name: str, work: Workload) -> str:
    """The kind of a network: "detector" by its name, otherwise by where its MACs are."""
    if _DETECTOR.search(name):
        return "detector"
    share = {kind: sum(op.macs for op in work.ops if op.kind == kind) / max(1, work.macs) for kind in _MARKS}
    return next((kind for kind, least in _MARKS.items() if share[kind] > least), "dense")


def by_kind(covered: Floats, kinds: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Share covered and number of networks, by kind."""
    found = {}
    for kind in sorted(set(kinds)):
        own = covered[[k == kind for k in kinds]]
        known = own[np.isfinite(own)]
        if len(known):
            found[kind] = round(float(known.mean()), 2), len(known)
    return found


def _held(prior: Floats | float, sizes: Floats, statistic: Callable[[Floats], float]) -> Floats:
    """A statistic of each device's errors, held to the prior by as much as `_BORROWED` networks would."""
    own = [statistic(row[np.isfinite(row)]) if np.isfinite(row).any() else 0.0 for row in sizes]
    known = np.isfinite(sizes).sum(axis=1)
    return np.asarray((_BORROWED * prior + known * np.array(own)) / (_BORROWED + known))


def _mean(sizes: Floats) -> float:
    return float(np.minimum(sizes, _LARGEST).mean())


def _quantile(sizes: Floats) -> float:
    return float(np.quantile(sizes, _COVERED))


def _profile(
    collection: Collection,
    target: Target,
    coefficients: Floats,
    predicted: Mapping[str, float],
    widths: Mapping[Dtype, float],
    covered: Mapping[str, tuple[float, int]],
) -> DeviceProfile:
    latency = hierarchy.costs(collection.terms, coefficients)
    run, beyond = latency.pop(hierarchy.RUN, {}), latency.pop(hierarchy.BEYOND, {})
    latency = {kind: by_format for kind, by_format in latency.items() if kind not in collection.fitted_only}
    formats = {dtype for by_format in latency.values() for dtype in by_format}
    measured = {"int8" if name.endswith("_int8") else "float32" for name in target.ms}
    for kind in collection.free:
        latency.setdefault(kind, {dtype: {} for dtype in sorted(formats)})
    if formats != measured:  # what was never measured on this device is not part of its profile
        latency = {kind: {d: cost for d, cost in by.items() if d in measured} for kind, by in latency.items()}
    held_out = {name: (ms, predicted[name]) for name, ms in target.ms.items() if np.isfinite(predicted[name])}
    return DeviceProfile.parse(
        {
            "name": _name(target),
            "description": target.description,
            **target.profile,
            "channel_block": collection.block,
            "run_overhead_us": round(run.get("float32", {}).get("overhead_us", 0.0), 3),
            "cache_bytes": collection.cache_bytes,
            "us_per_mb_beyond_cache": round(beyond.get("float32", {}).get("overhead_us", 0.0), 3),
            "latency": {kind: by for kind, by in latency.items() if by},
            "calibration": _calibration(held_out, len(target.ms), target.date, widths, covered).model_dump(),
            "provenance": Provenance(
                kind="measured",
                source=f"{target.source or collection.source}; fitted by {SCRIPT}, nothing was measured here",
                licence=target.source.rpartition(", ")[2] or collection.licence,
                datasheet=target.datasheet,
            ).model_dump(),
            "caveats": (*target.caveats, *collection.caveats),
            "chip": _chip(target.name),
            "int8_gain": _int8_gain(target.ms),
        },
        target.name,
    )


def _name(target: Target) -> str:
    """A CPU runs several runtimes, so the name says which; an accelerator has its own."""
    several = target.profile.get("device_class") in ("board", "phone", "computer")
    return f"{target.name}.{target.profile['runtime']}" if several else target.name


_CHIP = re.compile(
    r"snapdragon-(8-elite(-gen-\d)?|x-elite|\d+-gen-\d|\d+g?(-plus)?)|kirin-\d+|rk\d{4}|raspberry-pi-(zero-2-w|\d)"
)


def _chip(name: str) -> str:
    """What the names of all profiles of a chip have in common, for the chips that have several."""
    found = _CHIP.search(name)
    return found[0] if found else ""


def _int8_gain(ms: Mapping[str, float]) -> float | None:
    """Median of float by int8 latency over the networks that were timed in both."""
    gains = [
        ms[name.removesuffix("_int8")] / own for name, own in ms.items() if name.endswith("_int8") and name[:-5] in ms
    ]
    return round(float(np.median(gains)), 2) if len(gains) >= _ENOUGH_PAIRS else None


def _calibration(
    held_out: Mapping[str, tuple[float, float]],
    points: int,
    date: str,
    widths: Mapping[Dtype, float],
    covered: Mapping[str, tuple[float, int]],
) -> Calibration:
    errors = {name: abs(guess / ms - 1) for name, (ms, guess) in held_out.items()}
    by_format: dict[str, list[float]] = {}
    for name, error in errors.items():
        by_format.setdefault("int8" if name.endswith("_int8") else "float", []).append(error)
    medians = ", ".join(f"{kind} {np.median(values):.0%} of {len(values)}" for kind, values in by_format.items())
    values = list(errors.values())
    own = {
        dtype: round(width, 3)
        for dtype, width in widths.items()
        if any(name.endswith("_int8") == (dtype == "int8") for name in held_out)
    }
    return Calibration(
        points=points,
        held_out=len(errors),
        median_error=round(float(np.median(values)), 4),
        p90_error=own.get("float32", own.get("int8", 0.0)),
        p90_by_format=own if len(own) > 1 else {},
        coverage=dict(covered),
        date=date,
        split=f"{_HOLD_OUT} (median: {medians})",
        held_out_ms={name: (float(f"{ms:.5g}"), float(f"{guess:.5g}")) for name, (ms, guess) in held_out.items()},
    )
