"""How good a profile of a similar device becomes with 1, 3, 5, 8 and 13 measured networks: on public data.

Usage: python hardware_profiles/degrees_of_calibration.py FOLDER_WITH_THE_TABLES

The figures are those of `autocompress.devices.calibration.adapt.EXPECTED`.
Data: Tencent/ncnn benchmark/README.md (BSD-3-Clause)
and the MobileNet grids of tensorflow/tensorflow hosted_models.md and tensorflow/models (Apache-2.0).

1. Other networks. The networks are halved at random (families together). Profiles are fitted jointly without one half
   and without the devices of one part; each device of that part then takes the profile of every other device with
   the same kind of core, threads and float format, is given n networks of the known half, and predicts the other half.
2. Variants of what was measured. Grids of width and resolution on Pixel 1 and Pixel 3 (TensorFlow Lite, not ncnn), from
   profiles of other chips with like cores: n networks of the grid, the largest first, predict the others.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from public_data import cpus, hierarchy, networks
from public_data.collection import Collection, Target
from public_data.tables import read_rows

from autocompress.devices.calibration.adapt import solve
from autocompress.devices.profile import Dtype

Floats = hierarchy.Floats

_MEASURED = (1, 3, 5, 8, 13)
_SPLITS = 20
_PARTS = 4
_PRIORS = 4
_GRIDS = (
    ("Pixel 1", "mobilenet_v2", "fp32", "1"),
    ("Pixel 3", "mobilenet_v1", "fp32", "4"),
    ("Pixel 3", "mobilenet_v1", "int8", "4"),
)
_CORES = ("Cortex-A57", "Cortex-A72", "Cortex-A73", "Cortex-A75", "Cortex-A76")


def _entries(collection: Collection) -> Floats:
    """(terms, parts) membership: the call first, then one part per operator kind and number format."""
    keys = sorted({term.parts[0][:2] for term in collection.terms})
    member = np.zeros((len(collection.terms), 1 + len(keys)))
    for t, term in enumerate(collection.terms):
        member[t, 1 + keys.index(term.parts[0][:2])] = 1.0
    return member


def _chip(target: Target) -> str:
    found = re.search(r"RK\d{4}|Snapdragon [\w+ ]+", target.description, re.IGNORECASE)
    return found[0].upper() if found else target.description.split(",")[0]


def _alike(a: Target, b: Target) -> bool:
    return a.facts == b.facts and _chip(a) != _chip(b)


def _errors(shares_ms: Floats, ms: Floats, measured: Sequence[int], asked: Sequence[int]) -> tuple[Floats, Floats]:
    """Relative errors on the networks that are asked for: with the factors found, and without any."""
    factors = solve(shares_ms[list(measured)], ms[list(measured)])
    predicted, plain = shares_ms[list(asked)] @ factors, shares_ms[list(asked)].sum(axis=1)
    return np.abs(predicted / ms[list(asked)] - 1), np.abs(plain / ms[list(asked)] - 1)


def other_networks(collection: Collection) -> dict[int, list[float]]:
    """Errors by number of measured networks; 0 is the similar device's profile as it is."""
    rng = np.random.default_rng(0)
    pool, groups, member = collection.pool(), collection.groups(), _entries(collection)
    chips = sorted({_chip(t) for t in collection.targets})
    found: dict[int, list[float]] = defaultdict(list)
    for _ in range(_SPLITS):
        hidden = {name for k in rng.permutation(len(groups))[: len(groups) // 2] for name in groups[k]}
        part_of = {chip: k % _PARTS for k, chip in enumerate(rng.permutation(chips).tolist())}
        known_pool = pool.without(sorted(hidden))
        for part in range(_PARTS):
            kept = [d for d, t in enumerate(collection.targets) if part_of[_chip(t)] != part]
            seen = replace(known_pool, ms=known_pool.ms[kept], facts=known_pool.facts[kept])
            coefficients = hierarchy.fit(seen, collection.settings)
            for d, target in enumerate(collection.targets):
                if part_of[_chip(target)] != part:
                    continue
                priors = [k for k, other in enumerate(kept) if _alike(target, collection.targets[other])]
                for k in rng.permutation(priors)[:_PRIORS]:
                    _collect(found, pool, coefficients[k], member, pool.ms[d], hidden, rng)
    return found


def _collect(
    found: dict[int, list[float]],
    pool: hierarchy.Pool,
    coefficients: Floats,
    member: Floats,
    ms: Floats,
    hidden: set[str],
    rng: np.random.Generator,
) -> None:
    shares_ms = (pool.work * coefficients) @ member
    known = [n for n in range(len(ms)) if np.isfinite(ms[n])]
    usable = [n for n in known if pool.networks[n] not in hidden]
    asked = [n for n in known if pool.networks[n] in hidden]
    if not asked or len(usable) < max(_MEASURED):
        return
    order = rng.permutation(usable).tolist()
    for n in _MEASURED:
        with_factors, plain = _errors(shares_ms, ms, order[:n], asked)
        found[n] += with_factors.tolist()
    found[0] += plain.tolist()


def variants(collection: Collection, data: Path) -> dict[int, dict[str, list[float]]]:
    """Errors of each prior by number of measured networks of the grid and by grid."""
    pool, member = collection.pool(), _entries(collection)
    coefficients = hierarchy.fit(pool, collection.settings)
    rows = list(read_rows(data / "mobile_width_resolution_grid.csv"))
    found: dict[int, dict[str, list[float]]] = defaultdict(dict)
    for device, family, precision, threads in _GRIDS:
        grid = [
            row
            for row in rows
            if row["device"] == device and row["processor"] == "cpu" and row["threads"] == threads
            and row["precision"] == precision and row["network"].startswith(family + "_") and row["resolution"]
            and row["width_multiplier"] and row["runtime"] == "tflite"
        ]  # fmt: skip
        make = networks.mobilenet_v1 if family == "mobilenet_v1" else networks.mobilenet_v2
        dtype: Dtype = "int8" if precision == "int8" else "float32"
        grid.sort(key=lambda row: -float(row["latency_ms"]))
        works = [make(float(r["width_multiplier"]), int(r["resolution"]), dtype) for r in grid]
        work = np.array([hierarchy.term_work(pool.terms, w, collection.block) for w in works]) / 1e3
        ms = np.array([float(row["latency_ms"]) for row in grid])
        label = f"{device} {family} {precision}, {len(grid)} networks"
        for d, target in enumerate(collection.targets):
            like = str(target.profile["processor"]).startswith(_CORES) and target.profile["device_class"] == "board"
            if not target.name or not like or str(target.profile["threads"]) != threads:
                continue
            shares_ms = (work * coefficients[d]) @ member
            for n in (1, 3, 5):
                order = [0, *np.linspace(1, len(grid) - 1, n - 1).round().astype(int).tolist()] if n > 1 else [0]
                asked = [k for k in range(len(grid)) if k not in order]
                errors, _ = _errors(shares_ms, ms, order, asked)
                found[n].setdefault(label, []).extend(errors.tolist())
    return found


def _line(label: str, errors: Sequence[float]) -> str:
    e = np.asarray(errors)
    return (
        f"{label:<44} median {np.median(e):6.1%}  90 % within {np.percentile(e, 90):6.1%}  within 10 %: "
        f"{np.mean(e < 0.1):4.0%}  within 20 %: {np.mean(e < 0.2):4.0%}  ({len(e)})\n"
    )


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    data = Path(arguments[0])
    collection = cpus.arm(data, ncnn_only=True)
    sys.stdout.write("other networks than those measured\n")
    for n, errors in sorted(other_networks(collection).items()):
        sys.stdout.write(_line(f"  {n} measured", errors))
    sys.stdout.write("variants of the measured networks\n")
    for n, by_grid in sorted(variants(collection, data).items()):
        for label, errors in by_grid.items():
            sys.stdout.write(_line(f"  {n} measured, {label}", errors))
        sys.stdout.write(_line(f"  {n} measured, all", [e for errors in by_grid.values() for e in errors]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
