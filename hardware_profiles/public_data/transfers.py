"""How times under one runtime become times under another: learnt from boards whose times are public under both."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autocompress.devices.calibration.adapt import contributions_ms, solve
from autocompress.devices.profile import DeviceProfile
from autocompress.devices.transfer import FILE, FORMATS, Group, Transfer, group_of
from autocompress.runtimes.workload import Workload
from public_data.boards import Timed
from public_data.hierarchy import Floats

_GROUPS: tuple[Group, ...] = ("dense", "conv", "depthwise", "other")
_SOURCES = ("ncnn", "litert")
_ENOUGH = 4


@dataclass(frozen=True)
class Pair:
    """One board under two runtimes, in one number format."""

    board: str
    source: str
    target: str
    computed_in: str
    parts_ms: Floats
    """(networks, groups): what the profile for the source predicts."""
    ms: Floats
    """(networks,): measured under the target."""

    @property
    def shift(self) -> float:
        """Logarithm of how much slower the target is, median over the networks."""
        return float(np.median(np.log(self.ms / self.parts_ms.sum(axis=1))))


def pairs(profiles: Mapping[str, DeviceProfile], timed: Iterable[Timed], works: Mapping[str, Workload]) -> list[Pair]:
    """All boards that have a profile for one runtime and times under another."""
    found = []
    for cpu in timed:
        for source in _SOURCES:
            profile = profiles.get(f"{cpu.name}.{source}")
            if profile is None or source == cpu.runtime:
                continue
            for dtype in FORMATS:
                names = [name for name in cpu.ms if name.endswith("_int8") == (dtype == "int8")]
                if len(names) >= _ENOUGH:
                    parts = np.array([_parts(profile, works[name]) for name in names])
                    computed = "int8" if dtype == "int8" else profile.float_format
                    ms = np.array([cpu.ms[name] for name in names])
                    found.append(Pair(cpu.name, source, cpu.runtime, computed, parts, ms))
    return found


def _parts(profile: DeviceProfile, work: Workload) -> list[float]:
    entries = [(kind, dtype) for kind, costs in profile.latency.items() for dtype in costs]
    call, *costs = contributions_ms(profile, work, entries)
    total = dict.fromkeys(_GROUPS, 0.0)
    total["other"] += call
    for (kind, _), ms in zip(entries, costs, strict=True):
        total[group_of(kind)] += ms
    return list(total.values())


def learn(found: Sequence[Pair]) -> list[Transfer]:
    """One transfer for each two runtimes and number format, then a general one for each number format."""
    kinds = defaultdict(list)
    for pair in found:
        kinds[pair.source, pair.target, pair.computed_in].append(pair)
    between = {
        is_int8: _between([same for key, same in kinds.items() if (key[2] == "int8") == is_int8])
        for is_int8 in (False, True)
    }
    own = [_of_two(key, same, between[key[2] == "int8"]) for key, same in kinds.items()]
    from_ncnn = [pair for pair in found if pair.source == "ncnn"]
    general = [
        _general(computed, [pair for pair in from_ncnn if pair.computed_in == computed], between[computed == "int8"])
        for computed in ("float32", "float16", "int8")
        if any(pair.computed_in == computed for pair in from_ncnn)
    ]
    return [*own, *general]


def _between(kinds: Sequence[Sequence[Pair]]) -> float:
    """Standard deviation of the shift from board to board, under the same two runtimes."""
    several = [np.array([pair.shift for pair in same]) for same in kinds if len(same) > 1]
    freedom = sum(len(shifts) - 1 for shifts in several)
    return math.sqrt(sum(float(((s - s.mean()) ** 2).sum()) for s in several) / freedom)


def _of_two(key: tuple[str, str, str], same: Sequence[Pair], between: float) -> Transfer:
    parts, ms = np.vstack([pair.parts_ms for pair in same]), np.concatenate([pair.ms for pair in same])
    factors = solve(parts, ms)
    errors = []
    for n in range(len(ms)):
        rest = np.arange(len(ms)) != n
        errors.append(math.log(float(parts[n] @ solve(parts[rest], ms[rest])) / ms[n]))
    boards = sorted({pair.board for pair in same})
    within = math.sqrt(float(np.mean(np.square(errors))))
    basis = (
        f"{key[2]} from {key[0]} to {key[1]}: learnt from {len(ms)} times of {', '.join(boards)}; "
        "other chips may differ"
    )
    return _transfer(key, factors, math.hypot(within, between), len(boards), len(ms), basis)


def _general(computed: str, same: Sequence[Pair], between: float) -> Transfer:
    shifts = np.array([pair.shift for pair in same])
    logs = np.concatenate([np.log(pair.ms / pair.parts_ms.sum(axis=1)) - pair.shift for pair in same])
    within = math.sqrt(float(np.mean(np.square(logs))))
    spread = math.hypot(within, max(between, float(shifts.std(ddof=1))))
    boards = {pair.board for pair in same}
    factors = np.full(len(_GROUPS), math.exp(float(shifts.mean())))
    basis = (
        f"{computed}: no device has public times under both runtimes; the factor is that of {len(shifts)} pairs of "
        "other runtimes on Arm boards"
    )
    return _transfer(("", "", computed), factors, spread, len(boards), len(logs), basis)


def _transfer(key: tuple[str, str, str], factors: Floats, spread: float, boards: int, n: int, basis: str) -> Transfer:
    values = {group: round(float(value), 3) for group, value in zip(_GROUPS, factors, strict=True)}
    return Transfer.model_validate(
        {
            "source": key[0],
            "target": key[1],
            "computed_in": key[2],
            "factors": values,
            "spread": round(spread, 3),
            "devices": boards,
            "points": n,
            "basis": basis,
        }
    )


def write(found: Sequence[Transfer], folder: Path) -> None:
    """Write them beside the profiles."""
    rows = ",\n".join(json.dumps(one.model_dump()) for one in found)
    (folder / FILE).write_text(f"[\n{rows}\n]\n", encoding="utf-8")
