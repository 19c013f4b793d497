"""How long until the first point, how much two workers bring, and what Ray costs per trial.

python benchmarks/scale_out.py [--trials 10] [--repeats 1]     writes results/records/scale-out.json

The quickstart's search with one epoch instead of three, through the command line, with one thread per worker. Random
recipes, so that all runs train the same ones; the first `_WARM_UP` candidates of a run are not counted, since workers
load the task meanwhile. Runs of the kinds take turns. The device is a shipped profile, so that no run times its front.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autocompress.controller.plan import now, versions

ROOT = Path(__file__).parents[1]
KINDS = {
    "this process": [],
    "1 worker": ["--workers", "1", "--trial-timeout-minutes", "60"],  # a time limit asks for a process of its own
    "2 workers": ["--workers", "2"],
    "Ray, 1 worker": ["--executor", "ray", "--workers", "1"],
    "Ray, 2 workers": ["--executor", "ray", "--workers", "2"],
}
_WARM_UP = 2


def run(options: list[str], trials: int, sampler: str = "random") -> dict[str, float]:
    """Seconds until the first baseline and the first candidate, and between later candidates."""
    out = Path(tempfile.mkdtemp()) / "study"
    space = out.with_name("space.yaml")
    space.write_text((ROOT / "search_spaces/quickstart.yaml").read_text().replace("epochs: 3", "epochs: 1"))
    command = [sys.executable, "-m", "autocompress.cli", "search", str(ROOT / "examples/fashion_mnist.py:task")]
    command += ["--space", str(space), "--device", "raspberry-pi-4"]
    command += ["--trials", str(trials), "--out", str(out), "--sampler", sampler, "--threads", "1", "--json-lines"]
    baselines, candidates = [], []
    started = time.monotonic()
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "trial" and event["state"] == "complete" and event["derived_from"] is None:
            (baselines if event["kind"] == "baseline" else candidates).append(time.monotonic() - started)
    shutil.rmtree(out.parent)
    if process.wait() or len(candidates) < trials:
        raise SystemExit(f"{' '.join(options)}: ended with {process.returncode} after {len(candidates)} candidates")
    return {
        "first_baseline_s": baselines[0],
        "first_candidate_s": candidates[0],
        "s_per_candidate": (candidates[-1] - candidates[_WARM_UP - 1]) / (len(candidates) - _WARM_UP),
    }


def main() -> None:
    """Run all kinds in turn; print and record medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in KINDS}
    for _ in range(arguments.repeats):
        for name, options in KINDS.items():
            rows[name].append(run(options, arguments.trials))
            print(name, {key: round(value, 2) for key, value in rows[name][-1].items()}, flush=True)
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in rows.items()
    }
    base = middle["this process"]["s_per_candidate"]
    summary = {name: {**row, "trials_per_hour_ratio": base / row["s_per_candidate"]} for name, row in middle.items()}
    one, ray = middle["1 worker"]["s_per_candidate"], middle["Ray, 1 worker"]["s_per_candidate"]
    for name, row in summary.items():
        print(f"{name:15} first {row['first_baseline_s']:5.1f} s, candidate {row['first_candidate_s']:5.1f} s, "
              f"{row['s_per_candidate']:5.2f} s each, {row['trials_per_hour_ratio']:.2f}x")  # fmt: skip
    print(f"Ray: {ray - one:+.2f} s per trial against a local worker")
    record = {"benchmark": "scale-out", "at": now(), "trials": arguments.trials, "runs": rows, "median": summary,
              "ray_overhead_s_per_trial": ray - one, "processor": platform.processor() or platform.machine(),
              "versions": versions()}  # fmt: skip
    path = ROOT / "results/records/scale-out.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"recorded in {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
