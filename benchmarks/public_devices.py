"""How far profiles made from public measurements carry, on networks and boards that were not used to make them.

    python benchmarks/public_devices.py FOLDER_WITH_THE_TABLES [--out results/records/public-devices.json]

1. Every Arm CPU configuration of ncnn's tables (boards and phones): each network is predicted by a joint fit that saw
   neither its float nor its int8 version on any device.
2. Width and resolution grids of MobileNet on Pixel 1 and Pixel 3 (TensorFlow Lite): a shipped profile of ANOTHER board,
   scaled by ONE measured base network, predicts the rest of the grid.

Beside each stands the guess that latency is proportional to MACs (1: by the median ratio over the other networks
in the same number format).
Nothing is measured here; the tables hold public figures, their sources stand in hardware_profiles/README.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from autocompress.devices import cost_model
from autocompress.devices.profile import DeviceProfile, list_profiles
from autocompress.runtimes.workload import Workload

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "hardware_profiles"))

from public_data import cpus, networks  # noqa: E402
from public_data.collection import Collection, family  # noqa: E402

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


def ranks(predicted: Any, measured: Any) -> float:
    """Spearman's correlation over the networks of a device, median over devices."""
    found = []
    for guess, ms in zip(predicted, measured, strict=True):
        known = np.isfinite(guess) & np.isfinite(ms)
        found.append(spearmanr(guess[known], ms[known]).statistic)
    return round(float(np.median(found)), 4)


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


def leave_one_out(data: Path) -> dict[str, Any]:
    """Part 1."""
    collection = cpus.arm(data, ncnn_only=True)
    pool = collection.pool()
    predicted, guess = collection.held_out(), by_macs(collection)
    is_int8 = np.array([name.endswith("_int8") for name in pool.networks])
    return {
        "configurations": len(pool.ms),
        "devices": len({t.description.partition(", ")[0] for t in collection.targets}),
        "all": {**errors(predicted, pool.ms), "rank_correlation": ranks(predicted, pool.ms)},
        "float": errors(predicted[:, ~is_int8], pool.ms[:, ~is_int8]),
        "int8": errors(predicted[:, is_int8], pool.ms[:, is_int8]),
        "macs_proportional": {**errors(guess, pool.ms), "rank_correlation": ranks(guess, pool.ms)},
        "by_network": {
            name: round(float(np.nanmedian(np.abs(predicted[:, n] / pool.ms[:, n] - 1))), 3)
            for n, name in enumerate(pool.networks)
        },
    }


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
    """Part 2."""
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
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "records" / "public-devices.json")
    arguments = parser.parse_args()
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "leave_one_network_out": leave_one_out(arguments.data),
        "grids_from_another_board": grids(arguments.data),
        "shipped_profiles": len([name for name in list_profiles() if name != "host"]),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
