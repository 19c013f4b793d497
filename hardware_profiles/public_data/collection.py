"""From a collection of measured devices to profiles: the joint fit, its held-out errors, the YAML content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autocompress.devices.profile import Calibration, DeviceProfile, Provenance
from autocompress.runtimes.workload import Workload
from public_data import hierarchy
from public_data.hierarchy import Floats, Pool, Settings, Term

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
    max_p90: float = 0.8
    """A device with a larger 90th percentile of the held-out errors gets no profile."""

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
    return [
        _profile(collection, target, coefficients[d], dict(zip(pool.networks, predicted[d], strict=True)))
        for d, target in enumerate(collection.targets)
        if target.name
    ]


def _profile(
    collection: Collection, target: Target, coefficients: Floats, predicted: Mapping[str, float]
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
            "calibration": _calibration(held_out, len(target.ms), target.date).model_dump(),
            "provenance": Provenance(
                kind="measured",
                source=f"{target.source or collection.source}; fitted by {SCRIPT}, nothing was measured here",
                licence=target.source.rpartition(", ")[2] or collection.licence,
                datasheet=target.datasheet,
            ).model_dump(),
            "caveats": (*target.caveats, *collection.caveats),
        },
        target.name,
    )


def _name(target: Target) -> str:
    """A CPU runs several runtimes, so the name says which; an accelerator has its own."""
    several = target.profile.get("device_class") in ("board", "phone", "computer")
    return f"{target.name}.{target.profile['runtime']}" if several else target.name


def _calibration(held_out: Mapping[str, tuple[float, float]], points: int, date: str) -> Calibration:
    errors = {name: abs(guess / ms - 1) for name, (ms, guess) in held_out.items()}
    by_format: dict[str, list[float]] = {}
    for name, error in errors.items():
        by_format.setdefault("int8" if name.endswith("_int8") else "float", []).append(error)
    medians = ", ".join(f"{kind} {np.median(values):.0%} of {len(values)}" for kind, values in by_format.items())
    values = list(errors.values())
    return Calibration(
        points=points,
        held_out=len(errors),
        median_error=round(float(np.median(values)), 4),
        p90_error=round(float(np.percentile(values, 90)), 4),
        date=date,
        split=f"{_HOLD_OUT} (median: {medians})",
        held_out_ms={name: (float(f"{ms:.5g}"), float(f"{guess:.5g}")) for name, (ms, guess) in held_out.items()},
    )
