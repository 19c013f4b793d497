"""Compare samplers on the synthetic problems: hypervolume against cost, over instances and seeds.

    python benchmarks/search/run.py --instances 200-209 --seeds 0-2 --out results/records/search-synthetic.json

Runs that are in the record already are not repeated; the table of the record is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from bookkeeping import span, text, versions
from methods import METHODS
from synthetic import Campaign, Problem

BUDGET = 1200.0
GRID = np.linspace(20, BUDGET, 60)
_SHOWN = (100, 200, 300, 600, 900, 1200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="random,nsga2,halving,tpe,ehvi")
    parser.add_argument("--instances", default="200-209", help="first-last")
    parser.add_argument("--seeds", default="0-2", help="first-last")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    record = json.loads(options.out.read_text()) if options.out.exists() else {"runs": []}
    record |= {"budget": BUDGET, "grid": GRID.tolist(), "versions": versions()}
    known = {(r["method"], r["instance"], r["seed"]) for r in record["runs"]}
    for seed in span(options.seeds):
        for instance in span(options.instances):
            for method in options.methods.split(","):
                if (method, instance, seed) not in known:
                    record["runs"].append(run(method, instance, seed))
                    options.out.write_text(text(record))
                    print(method, instance, seed, record["runs"][-1]["hypervolume"][-1], file=sys.stderr, flush=True)
    print(summary(record))


def run(method: str, instance: int, seed: int) -> dict[str, Any]:
    """One campaign and its curve."""
    campaign = Campaign(Problem(instance), BUDGET, 1000 * seed + instance)
    started = time.process_time()
    METHODS[method](campaign, 1000 * seed + instance)
    seconds = time.process_time() - started
    curve = [round(v, 5) for v in campaign.curve(GRID)]
    return {"method": method, "instance": instance, "seed": seed, "cpu_s": round(seconds, 1), "hypervolume": curve}


def summary(record: dict[str, Any]) -> str:
    """Mean hypervolume at some costs; ratios to TPE as geometric means over instances, with their range."""
    grid = np.array(record["grid"])
    methods = list(dict.fromkeys(r["method"] for r in record["runs"]))
    curves = {m: _curves(record, m) for m in methods}
    lines = [
        f"{'method':28s}{'runs':>5s}" + "".join(f"{c:>8d}" for c in _SHOWN) + "   final / TPE   cost to TPE's final"
    ]
    for method in methods:
        mean = np.mean([c for runs in curves[method].values() for c in runs], 0)
        row = f"{method:28s}{sum(map(len, curves[method].values())):5d}"
        row += "".join(f"{np.interp(c, grid, mean):8.3f}" for c in _SHOWN)
        if "tpe" in curves:
            shared = sorted(set(curves[method]) & set(curves["tpe"]))
            ratios, shares = [], []
            for instance in shared:
                ours, tpe = (np.mean(curves[m][instance], 0) for m in (method, "tpe"))
                ratios.append(max(ours[-1], 1e-9) / max(tpe[-1], 1e-9))
                reached = np.flatnonzero(ours >= tpe[-1])
                shares.append(grid[reached[0]] / grid[-1] if len(reached) else np.inf)
            row += f"   {_geometric(ratios):5.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            late = sum(np.isinf(shares))
            row += (
                f"   not reached on {late}"
                if late
                else f"   {_geometric(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})"
            )
        lines.append(row)
    return "\n".join(lines)


def _curves(record: dict[str, Any], method: str) -> dict[int, list[list[float]]]:
    curves: dict[int, list[list[float]]] = {}
    for r in record["runs"]:
        if r["method"] == method:
            curves.setdefault(r["instance"], []).append(r["hypervolume"])
    return curves


def _geometric(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


if __name__ == "__main__":
    main()
