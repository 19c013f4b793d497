"""A profile under another runtime than the one that was measured: a model of its own, with its own, wider interval.

Costs are multiplied by a factor per number format and group of operators. Factors and their spread are learnt by
`hardware_profiles/fit_public_data.py` from devices whose times are public under both runtimes, and lie in
`hardware_profiles/transfers.json`. Where no device has both, the factor is that of all pairs of runtimes known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from autocompress.devices.profile import (
    Calibration,
    DeviceProfile,
    Dtype,
    OpCost,
    Provenance,
    shipped_profiles_folder,
)
from autocompress.errors import DeviceError
from autocompress.files import read_file
from autocompress.validation import Data

FILE = "transfers.json"
Z90, Z50 = 1.645, 0.6745
"""Standard deviations within which 90 % and 50 % of a normal distribution lie."""
FORMATS: tuple[Dtype, ...] = ("float32", "int8")
Group = Literal["dense", "conv", "depthwise", "other"]
_DENSE = ("conv1x1", "linear", "grouped", "attention", "any")
_FILE_BYTES = 2**20
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ONE_NUMBER = (
    "one measured number helps most: autocompress devices calibrate my-board --like {name} "
    "--base-model model.onnx --latency-ms MS"
)


class Transfer(Data):
    """How costs change from one runtime to another, in one number format."""

    source: str
    """Runtime that was measured; "" for any."""
    target: str
    """Runtime that executes the file; "" for any."""
    computed_in: Literal["float32", "float16", "int8"]
    """What the source runtime computed in; from floats the target computes in float32."""
    factors: dict[Group, _Positive]
    spread: _Positive
    """Standard deviation of the logarithm of a latency around the transferred prediction."""
    devices: Annotated[int, Field(ge=0)]
    points: Annotated[int, Field(ge=0)]
    basis: str
    """What it was learnt from, for people."""


def group_of(kind: str) -> Group:
    """The group that an operator kind of `DeviceProfile.latency` changes with."""
    if kind.startswith("depthwise"):
        return "depthwise"
    if kind.startswith(_DENSE):
        return "dense"
    return "conv" if kind.startswith("conv") else "other"


@cache
def transfers(path: Path | None = None) -> tuple[Transfer, ...]:
    """All that are known; those of one pair of runtimes come before the general ones."""
    text = read_file(path or shipped_profiles_folder() / FILE, DeviceError, _FILE_BYTES)
    return tuple(TypeAdapter(list[Transfer]).validate_python(json.loads(text)))


def choose(profile: DeviceProfile, runtime: str, dtype: Dtype) -> Transfer:
    """The transfer that fits a profile best in one number format."""
    computed = "int8" if dtype == "int8" else profile.float_format
    arm = any(feature in ("neon", "asimd") for feature in profile.instruction_set)
    for known in transfers():
        pair = (known.source, known.target, known.computed_in) == (profile.runtime, runtime, computed)
        if (pair and arm) or (not known.source and known.computed_in == computed):
            return known
    raise DeviceError(f"{profile.name}: nothing is known about {runtime} from times under {profile.runtime}.")


def under(profile: DeviceProfile, runtime: str, name: str) -> DeviceProfile:
    """The profile as another runtime would have it, under the given name, with the error of the transfer in it."""
    used = {dtype: choose(profile, runtime, dtype) for dtype in FORMATS if dtype in profile.dtypes}
    latency = {
        kind: {dtype: _times(cost, used[dtype].factors[group_of(kind)]) for dtype, cost in costs.items()}
        for kind, costs in profile.latency.items()
    }
    first = next(iter(used.values()))
    return profile.model_copy(
        update={
            "name": name,
            "runtime": runtime,
            "runtime_version": "",
            "transferred_from": profile.runtime,
            "float_format": "float32",
            "latency": latency,
            "run_overhead_us": profile.run_overhead_us * first.factors["other"],
            "calibration": _calibration(profile, runtime, used),
            "provenance": Provenance(
                kind=profile.provenance.kind,
                source=f"{profile.name}, moved from {profile.runtime} to {runtime} ({profile.provenance.source})",
                licence=profile.provenance.licence,
                datasheet=profile.provenance.datasheet,
            ),
            "caveats": (_sentence(profile, runtime, name), *(used[d].basis for d in used), *profile.caveats),
        }
    )


def completed(profiles: Sequence[DeviceProfile], runtime: str, name: str) -> DeviceProfile:
    """A device under one runtime, from its profiles for several, the best first.

    Its own profile for the runtime is kept, with number formats that it lacks moved from the next that has them.
    """
    best, *others = [p if p.runtime == runtime else under(p, runtime, name) for p in profiles]
    found = best.model_copy(update={"name": name})
    for other in others:
        for dtype in sorted(other.dtypes - found.dtypes):
            found = _with_format(found, other, dtype)
    return found


def _with_format(profile: DeviceProfile, other: DeviceProfile, dtype: str) -> DeviceProfile:
    assert profile.calibration is not None and other.calibration is not None
    latency = {kind: dict(costs) for kind, costs in profile.latency.items()}
    for kind, costs in other.latency.items():
        latency.setdefault(kind, {}).update({d: cost for d, cost in costs.items() if d == dtype})
    errors = {d: profile.error_of(d) for d in FORMATS if d in profile.dtypes}
    errors |= {d: other.error_of(d) for d in FORMATS if d == dtype}
    caveat = (
        f"{dtype}: not measured under {profile.runtime} on this device: times under {other.transferred_from} were "
        f"moved to it; {ONE_NUMBER.format(name=profile.name)}"
    )
    return profile.model_copy(
        update={
            "latency": {kind: costs for kind, costs in latency.items() if costs},
            "calibration": profile.calibration.model_copy(update={"p90_by_format": errors}),
            "caveats": (caveat, *profile.caveats),
        }
    )


def _sentence(profile: DeviceProfile, runtime: str, name: str) -> str:
    return (
        f"{runtime} was not measured on this device: times under {profile.runtime} were moved to it; "
        f"{ONE_NUMBER.format(name=name)}"
    )


def _calibration(profile: DeviceProfile, runtime: str, used: dict[Dtype, Transfer]) -> Calibration:
    own = math.log1p(profile.expected_error) / Z90
    spread = {dtype: math.hypot(own, known.spread) for dtype, known in used.items()}
    errors: dict[Dtype, float] = {dtype: round(math.expm1(Z90 * s), 3) for dtype, s in spread.items()}
    narrow = min(spread.values())
    before = profile.calibration
    return Calibration(
        degree="none",
        points=before.points if before else 1,
        median_error=round(math.expm1(Z50 * narrow), 3),
        p90_error=min(errors.values()),
        p90_by_format=errors,
        date=before.date if before else "",
        split=f"{runtime} from times under {profile.runtime}: error of the transfer and of the profile together",
    )


def _times(cost: OpCost, factor: float) -> OpCost:
    """In the digits that a file keeps, so that a profile that is saved and loaded predicts the same."""
    return OpCost(**{term: float(f"{getattr(cost, term) * factor:.5g}") for term in OpCost.model_fields})
