"""How good a profile becomes with a few measured networks: on public data of Arm CPUs.

Usage: python hardware_profiles/degrees_of_calibration.py FOLDER_WITH_THE_TABLES [--out results/records/devices]

Writes few_numbers.json; its figures are those of `autocompress.devices.calibration.adapt.EXPECTED`.

1. Other networks. The networks are halved at random (families together) and profiles are fitted jointly without one
   half; a device is given n networks of the known half and predicts the other half, from
   "own"      its own profile, held to it by `adapt.OWN`,
   "chip"     that of another chip with like cores under the same runtime (chips in four parts, one fitted without),
   "runtime"  that for ncnn, of itself or of such another chip, where the times are of ONNX Runtime or TensorFlow Lite.
   The 90 % interval is the 92nd percentile; `held` says how often it holds on a device that it was not found from.
2. Variants of what was measured. Grids of width and resolution on Pixel 1 and Pixel 3 (TensorFlow Lite), from profiles
   of other chips with like cores for ncnn: n networks of the grid, the largest first, predict the others.
3. ONNX Runtime on boards and PCs: each network predicted by a fit without it, then with one measured network of another
   family beside, held to the profile as in "own".
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from public_data import cpus, hierarchy, networks, npus, qai_hub
from public_data.collection import Collection, Target, is_int8
from public_data.tables import read_rows

from autocompress.devices.calibration.adapt import FREE, OWN, Prior, solve
from autocompress.devices.profile import Dtype

Floats = hierarchy.Floats
Errors = dict[tuple[str, str, int], list[tuple[float, str]]]
"""By case, number format asked for and number of networks measured in it: logarithms of errors, and devices."""

ROOT = Path(__file__).resolve().parents[1]
_SPLITS = 8
_PARTS = 4
_PRIORS = 2
_GIVEN = ((0, 1), (1, 0), (1, 1), (3, 0), (3, 2), (8, 3))
"""Numbers that a user gives: of float networks and of int8 ones."""
_GRIDS = (
    ("Pixel 1", "mobilenet_v2", "fp32", "1"),
    ("Pixel 3", "mobilenet_v1", "fp32", "4"),
    ("Pixel 3", "mobilenet_v1", "int8", "4"),
)
_CORES = ("Cortex-A57", "Cortex-A72", "Cortex-A73", "Cortex-A75", "Cortex-A76")


def _entries(collection: Collection) -> tuple[Floats, list[str]]:
    """(terms, parts) membership, the call first, then one for each operator kind and format; formats of the parts."""
    keys = sorted({term.parts[0][:2] for term in collection.terms})
    member = np.zeros((len(collection.terms), 1 + len(keys)))
    for t, term in enumerate(collection.terms):
        member[t, 1 + keys.index(term.parts[0][:2])] = 1.0
    return member, ["", *(dtype for _, dtype in keys)]


def _chip(target: Target) -> str:
    found = re.search(r"RK\d{4}|Snapdragon [\w+ ]+|Raspberry Pi (Zero 2|\d)", target.description, re.IGNORECASE)
    return found[0].upper() if found else target.description.split(",")[0]


def _alike(a: Target, b: Target) -> bool:
    n = len(cpus._GROUPS)
    return a.facts[:n] == b.facts[:n] and abs(a.facts[n + 1] - b.facts[n + 1]) < 0.3


class Trials:
    """Collects what a profile predicts of hidden networks when it is given some of the others."""

    def __init__(self, collection: Collection) -> None:
        self.targets, self.pool = collection.targets, collection.pool()
        self.member, self.formats = _entries(collection)
        self.integer = is_int8(self.pool.networks)
        self.rng = np.random.default_rng(0)
        self.found: Errors = defaultdict(list)

    def run(self, case: str, prior: Prior, coefficients: Floats, target: int, hidden: set[str]) -> None:
        """Give every number of networks in turn."""
        shares, ms = (self.pool.work * coefficients) @ self.member, self.pool.ms[target]
        known = [n for n in range(len(ms)) if np.isfinite(ms[n])]
        usable = self.rng.permutation([n for n in known if self.pool.networks[n] not in hidden]).tolist()
        floats, integers = ([n for n in usable if self.integer[n] == int8] for int8 in (False, True))
        for n_float, n_int8 in _GIVEN:
            given = [*floats[:n_float], *integers[:n_int8]]
            if len(given) < n_float + n_int8:
                continue
            factors = solve(shares[given], ms[given], self.formats, prior)
            for n in known:
                if self.pool.networks[n] in hidden:
                    dtype, count = ("int8", n_int8) if self.integer[n] else ("float32", n_float)
                    error = float(np.log(shares[n] @ factors / ms[n]))
                    self.found[case, dtype, count].append((error, self.targets[target].description))


def other_networks(collection: Collection) -> Errors:
    """Part 1."""
    trials = Trials(collection)
    targets, groups, rng = collection.targets, collection.groups(), trials.rng
    runtimes = [target.profile["runtime"] for target in targets]
    chips = sorted(set(map(_chip, targets)))
    for _ in range(_SPLITS):
        hidden = {name for k in rng.permutation(len(groups))[: len(groups) // 2] for name in groups[k]}
        part_of = {chip: k % _PARTS for k, chip in enumerate(rng.permutation(chips).tolist())}
        pool = trials.pool.without(sorted(hidden))
        own = hierarchy.fit(pool, collection.settings)
        for d, target in enumerate(targets):
            trials.run("own", OWN, own[d], d, hidden)
            for e, other in enumerate(targets):
                if runtimes[e] == "ncnn" != runtimes[d] and _alike(target, other) and _chip(target) == _chip(other):
                    trials.run("runtime", FREE, own[e], d, hidden)
        for part in range(_PARTS):
            kept = [d for d, target in enumerate(targets) if part_of[_chip(target)] != part]
            fitted = hierarchy.fit(replace(pool, ms=pool.ms[kept], facts=pool.facts[kept]), collection.settings)
            for d, target in enumerate(targets):
                if part_of[_chip(target)] != part:
                    continue
                like = [k for k, e in enumerate(kept) if _alike(target, targets[e])]
                same = [k for k in like if runtimes[kept[k]] == runtimes[d]]
                for k in rng.permutation(same)[:_PRIORS]:
                    trials.run("chip", FREE, fitted[k], d, hidden)
                foreign = [k for k in like if runtimes[kept[k]] == "ncnn" != runtimes[d]]
                for k in rng.permutation(foreign)[: 3 * _PRIORS]:
                    trials.run("runtime", FREE, fitted[k], d, hidden)
    return trials.found


def summary(found: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Median, 90 % interval, and how often it holds on devices that it was not found from."""
    sizes, devices = np.abs([error for error, _ in found]), np.array([device for _, device in found])
    held = []
    for device in set(devices.tolist()):
        here = devices == device
        if not here.all():
            held.append((float(np.mean(sizes[here] <= np.quantile(sizes[~here], 0.92))), int(here.sum())))
    return {
        "median": round(float(np.expm1(np.median(sizes))), 3),
        "p90": round(float(np.expm1(np.quantile(sizes, 0.92))), 3),
        "held": round(sum(share * n for share, n in held) / sum(n for _, n in held), 3),
        "devices": len(held),
        "points": len(sizes),
    }


def variants(collection: Collection, data: Path) -> dict[str, Any]:
    """Part 2: errors by number of measured networks of the grid."""
    pool = collection.pool()
    member, formats = _entries(collection)
    coefficients = hierarchy.fit(pool, collection.settings)
    rows = list(read_rows(data / "mobile_width_resolution_grid.csv"))
    found: dict[int, list[float]] = defaultdict(list)
    for device, network, precision, threads in _GRIDS:
        grid = [
            row
            for row in rows
            if row["device"] == device and row["processor"] == "cpu" and row["threads"] == threads
            and row["precision"] == precision and row["network"].startswith(network + "_") and row["resolution"]
            and row["width_multiplier"] and row["runtime"] == "tflite"
        ]  # fmt: skip
        make = networks.mobilenet_v1 if network == "mobilenet_v1" else networks.mobilenet_v2
        dtype: Dtype = "int8" if precision == "int8" else "float32"
        grid.sort(key=lambda row: -float(row["latency_ms"]))
        works = [make(float(r["width_multiplier"]), int(r["resolution"]), dtype) for r in grid]
        work = np.array([hierarchy.term_work(pool.terms, w, collection.block) for w in works]) / 1e3
        ms = np.array([float(row["latency_ms"]) for row in grid])
        for d, target in enumerate(collection.targets):
            like = str(target.profile["processor"]).startswith(_CORES) and target.profile["device_class"] == "board"
            if not target.name or not like or str(target.profile["threads"]) != threads:
                continue
            shares = (work * coefficients[d]) @ member
            for n in (1, 3, 5):
                given = [0, *np.linspace(1, len(grid) - 1, n - 1).round().astype(int).tolist()] if n > 1 else [0]
                asked = [k for k in range(len(grid)) if k not in given]
                factors = solve(shares[given], ms[given], formats)
                found[n] += np.abs(shares[asked] @ factors / ms[asked] - 1).tolist()
    return {
        f"{n} measured": {"median": round(float(np.median(e)), 3), "p90": round(float(np.percentile(e, 90)), 3)}
        for n, e in found.items()
    }


def with_one_number(collections: Mapping[str, Collection]) -> dict[str, Any]:
    """Part 3."""
    errors: dict[str, list[float]] = defaultdict(list)
    for label, collection in collections.items():
        pool, (member, formats) = collection.pool(), _entries(collection)
        chosen = [d for d, t in enumerate(collection.targets) if t.profile["runtime"] == "onnxruntime"]
        for group in collection.groups():
            columns = [pool.networks.index(name) for name in group]
            coefficients = hierarchy.fit(pool.without(group), collection.settings)
            for d in chosen:
                shares = (pool.work * coefficients[d]) @ member
                others = [n for n in np.flatnonzero(np.isfinite(pool.ms[d])) if n not in columns]
                for n in (n for n in columns if np.isfinite(pool.ms[d, n])):
                    errors[f"{label}, no number"].append(float(shares[n].sum() / pool.ms[d, n] - 1))
                    for given in others:
                        factors = solve(shares[[given]], pool.ms[d, [given]], formats, OWN)
                        errors[f"{label}, one number"].append(float(shares[n] @ factors / pool.ms[d, n] - 1))
    for kind in ("no number", "one number"):
        errors[f"all, {kind}"] = [e for label, found in errors.items() if label.endswith(kind) for e in found]
    return {label: {"median": round(float(np.median(np.abs(e))), 3), "points": len(e)} for label, e in errors.items()}


def main(arguments: list[str]) -> int:
    """Write the record; returns the exit code."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    data = Path(arguments[0])
    out = Path(arguments[1]) if len(arguments) == 2 else ROOT / "results" / "records" / "devices"
    arm = cpus.arm(data)
    found = other_networks(arm)
    ort = {"Arm": arm, "Intel": cpus.x86(data), "SpacemiT": npus.spacemit(data), "Qualcomm": qai_hub.cpus(data)}
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "other_networks": {
            f"{case}, {dtype}, {n} measured in this format": summary(errors)
            for (case, dtype, n), errors in sorted(found.items())
        },
        "variants": variants(cpus.arm(data, ncnn_only=True), data),
        "onnxruntime": with_one_number(ort),
    }
    text = json.dumps(record, indent=1)
    (out / "few_numbers.json").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
