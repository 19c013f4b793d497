"""How far profiles made from public measurements carry, on networks and boards that were not used to make them.

    python benchmarks/public_devices.py FOLDER_WITH_THE_TABLES [--out results/records/devices]

coverage.json   every collection of shipped profiles: each network is predicted by a joint fit that saw it in neither
                number format on any device; errors, and the share inside of a 90 % interval found without it.
transfers.json  boards with public times under two runtimes: one predicted from the other by what other boards taught.
grids.json      width and resolution grids of MobileNet on Pixel 1 and Pixel 3 (TensorFlow Lite): a shipped profile of
                ANOTHER board, scaled by ONE measured base network, predicts the rest of the grid.

Beside the errors of Arm CPUs and of the grids stands the guess that latency is proportional to MACs. Nothing is
measured here; the tables hold public figures, their sources stand in the profiles.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from datetime import UTC, datetime
from math import hypot, log1p
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.devices import cost_model
from autocompress.devices.profile import DeviceProfile, list_profiles
from autocompress.devices.transfer import Z90
from autocompress.runtimes.workload import Workload

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "hardware_profiles"))

from fit_public_data import COLLECTIONS  # noqa: E402
from public_data import boards, cpus, networks, transfers  # noqa: E402
from public_data.collection import Collection, coverage, family, is_int8, kind_of  # noqa: E402

GRIDS = (
    ("Pixel 1, MobileNetV2, fp32, 1 thread", "Pixel 1", "mobilenet_v2", "fp32", 1, ("snapdragon-821",)),
    ("Pixel 3, MobileNetV1, fp32, 4 threads", "Pixel 3", "mobilenet_v1", "fp32", 4, ("snapdragon-845",)),
    ("Pixel 3, MobileNetV1, int8, 4 threads", "Pixel 3", "mobilenet_v1", "int8", 4, ("snapdragon-845",)),
)
BIG_CORES = ("A57", "A72", "A73", "A75", "A76", "A77", "A78", "Kryo", "X1", "X3", "Carmel", "Denver")


def errors(predicted: Any, measured: Any) -> dict[str, float]:
    """Median, 90th percentile and shares of |predicted / measured - 1|."""
    values = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    values = values[np.isfinite(values)]
    return {
        "points": len(values),
        "median_error": round(float(np.median(values)), 4),
        "p90_error": round(float(np.percentile(values, 90)), 4),
        "within_10_percent": round(float(np.mean(values <= 0.1)), 3),
        "within_20_percent": round(float(np.mean(values <= 0.2)), 3),
    }


def by_macs(collection: Collection) -> Any:
    """MACs times the median ratio over the other networks of the device in the same number format."""
    pool = collection.pool()
    macs = np.array([collection.workloads[name].macs for name in pool.networks])
    predicted = np.full_like(pool.ms, np.nan)
    for n, name in enumerate(pool.networks):
        int8 = name.endswith("_int8")
        others = [family(o) != family(name) and o.endswith("_int8") == int8 for o in pool.networks]
        predicted[:, n] = macs[n] * np.nanmedian((pool.ms / macs)[:, others], axis=1)
    return np.where(np.isfinite(pool.ms), predicted, np.nan)


def of_collection(collection: Collection) -> dict[str, Any]:
    """Held-out errors and coverage of one collection, all devices with a profile together."""
    pool = collection.pool()
    named = np.array([bool(target.name) for target in collection.targets])
    predicted, measured = collection.held_out()[named], pool.ms[named]
    integer = is_int8(pool.networks)
    held = coverage(np.log(collection.held_out() / pool.ms), pool.networks)[named]
    kinds = np.array([kind_of(name, collection.workloads[name]) for name in pool.networks])
    formats = {"float": ~integer, "int8": integer}
    return {
        "configurations_tried": int(named.sum()),
        "all": errors(predicted, measured),
        **{k: errors(predicted[:, c], measured[:, c]) for k, c in formats.items() if np.isfinite(measured[:, c]).any()},
        "covered": round(float(np.nanmean(held)), 3),
        "covered_by_kind": {
            kind: [round(float(np.nanmean(held[:, kinds == kind])), 3), int(np.isfinite(held[:, kinds == kind]).sum())]
            for kind in sorted(set(kinds.tolist()))
            if np.isfinite(held[:, kinds == kind]).any()
        },
    }


def by_runtime(data: Path) -> dict[str, Any]:
    """Arm CPUs apart by the runtime that was timed."""
    collection = cpus.arm(data)
    pool, predicted = collection.pool(), collection.held_out()
    runtimes = np.array([target.profile["runtime"] for target in collection.targets])
    found = {r: errors(predicted[runtimes == r], pool.ms[runtimes == r]) for r in sorted(set(runtimes.tolist()))}
    ncnn = cpus.arm(data, ncnn_only=True)
    return found | {"ncnn, proportional to MACs": errors(by_macs(ncnn), ncnn.pool().ms)}


def all_collections(data: Path) -> dict[str, Any]:
    """Part 1."""
    found = {name: of_collection(make(data)) for name, make in COLLECTIONS.items()}
    kinds: dict[str, list[float]] = {}
    for part in found.values():
        for kind, (share, n) in part["covered_by_kind"].items():
            kinds.setdefault(kind, [0.0, 0])
            kinds[kind] = [kinds[kind][0] + share * n, kinds[kind][1] + n]
    inside, points = sum(a for a, _ in kinds.values()), sum(n for _, n in kinds.values())
    return {
        "configurations_tried": sum(part["configurations"] for part in found.values()),
        "latencies": points,
        "covered": round(inside / points, 3),
        "covered_by_kind": {kind: [round(a / n, 3), n] for kind, (a, n) in sorted(kinds.items())},
        "arm_cpus_by_runtime": by_runtime(data),
        "collections": found,
    }


def from_other_boards(data: Path) -> dict[str, Any]:
    """Part 2: times moved to another runtime by what was learnt without the board, and how often the interval held."""
    shipped = {name: DeviceProfile.load(name) for name in list_profiles() if name != "host"}
    pairs = transfers.pairs(shipped, *boards.arm(data))
    rows, inside, points = [], 0, 0
    for pair in pairs:
        others = [other for other in pairs if other.board != pair.board]
        known = {(t.source, t.target, t.computed_in): t for t in transfers.learn(others)}
        own = (pair.source, pair.target, pair.computed_in)
        learnt = known.get(own) or known.get(("", "", pair.computed_in))
        if learnt is None:  # the only board that computes in this format
            continue
        found = pair.parts_ms @ np.array(list(learnt.factors.values()))
        profile = shipped[f"{pair.board}.{pair.source}"]
        spread = log1p(profile.error_of("int8" if pair.computed_in == "int8" else "float32")) / Z90
        held = np.abs(np.log(found / pair.ms)) <= Z90 * hypot(spread, learnt.spread)
        inside, points = inside + int(held.sum()), points + len(held)
        rows.append({
            "board": pair.board, "from": pair.source, "to": pair.target, "computed_in": pair.computed_in,
            "learnt_from": "other boards under both" if own in known else "other pairs of runtimes",
            "median_error": errors(found, pair.ms)["median_error"], "covered": [int(held.sum()), len(held)],
        })  # fmt: skip
    return {"covered": round(inside / points, 3), "points": points, "boards_left_out": rows}


def grid(data: Path, device: str, network: str, precision: str, threads: int) -> dict[tuple[float, int], float]:
    """Measured ms by width and resolution."""
    found = {}
    with (data / "mobile_width_resolution_grid.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            same = (row["device"], row["precision"], row["threads"]) == (device, precision, str(threads))
            same &= row["source"].startswith("tensorflow/")  # TensorFlow Lite; other runtimes ran single networks
            if same and row["processor"] == "cpu" and row["network"].startswith(network) and row["width_multiplier"]:
                found[float(row["width_multiplier"]), int(float(row["resolution"]))] = float(row["latency_ms"])
    return found


def grids(data: Path) -> dict[str, Any]:
    """Part 3."""
    shipped = [DeviceProfile.load(ROOT / "hardware_profiles" / f"{n}.yaml") for n in list_profiles() if n != "host"]
    result = {}
    for title, device, network, precision, threads, same_chip in GRIDS:
        dtype = "int8" if precision == "int8" else "float32"
        build = networks.mobilenet_v1 if network == "mobilenet_v1" else networks.mobilenet_v2
        measured = grid(data, device, network, precision, threads)
        works: dict[tuple[float, int], Workload] = {key: build(*key, dtype) for key in measured}  # type: ignore[operator]
        base = (1.0, 224)
        rest = [key for key in measured if key != base]
        ms = [measured[key] for key in rest]
        guess = [measured[base] * works[key].macs / works[base].macs for key in rest]
        rows = {}
        pooled: list[float] = []
        for profile in shipped:
            usable = profile.device_class in ("board", "phone") and profile.threads == threads
            big = any(core in profile.processor for core in BIG_CORES)
            if not usable or not big or profile.name.startswith(same_chip) or dtype not in profile.dtypes:
                continue
            own = {key: cost_model.predict(profile, work).latency_ms for key, work in works.items()}
            predicted = [measured[base] * own[key] / own[base] for key in rest]
            rows[profile.name] = errors(predicted, ms)["median_error"]
            pooled += [p / m for p, m in zip(predicted, ms, strict=True)]
        result[title] = {
            "profiles": len(rows),
            "all_profiles": errors(pooled, np.ones(len(pooled))),
            "median_error_by_profile": dict(sorted(rows.items(), key=lambda item: item[1])),
            "macs_proportional": errors(guess, ms),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "records" / "devices")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    date = {"date": datetime.now(UTC).isoformat(timespec="seconds")}
    for name, make in (("coverage", all_collections), ("transfers", from_other_boards), ("grids", grids)):
        text = json.dumps(date | make(arguments.data), indent=1)
        (arguments.out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
