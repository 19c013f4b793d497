"""CIFAR-10, one hour of search on this machine: is there a file 12x smaller and 5x faster at one point lost?

    python benchmarks/cifar10.py [--hours 1] [--seed 0] [--out results/cifar10]

Resumable like every search. Afterwards the fp32 file of the base and all files of the front are judged again, here
and now, side by side: accuracy on the 10,000 test images by running each file one image at a time, the share of
images that leave at each exit, and the time of every path through the file (1 thread, batch 1, the thread's CPU time,
two passes round-robin). The latency of a file is its expectation over the test images. The record goes to
results/records/.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from autocompress import Study
from autocompress.controller.plan import now, versions
from autocompress.evaluation.evaluator import Predictor
from autocompress.evaluation.timing import ways_through
from autocompress.graphs.export import INPUT
from autocompress.runtimes.base import reference
from autocompress.runtimes.timing import measure
from autocompress.studies.results import Evaluation
from autocompress.tasks.loading import load_task
from autocompress.tasks.task import Task

HERE = Path(__file__).resolve().parent
GOALS = (
    {"name": "12x smaller, 5x faster, at most 1.0 point lost", "smaller": 12.0, "faster": 5.0, "points_lost": 1.0},
    {"name": "4x faster, no loss", "smaller": 0.0, "faster": 4.0, "points_lost": 0.0},
)


def search(out: Path, hours: float, seed: int, threads: int) -> None:
    """Run the search through the command line, as a user would."""
    command = [sys.executable, "-m", "autocompress.cli", "search", f"{HERE / 'cifar10_task.py'}:task"]
    command += ["--space", str(HERE / "cifar10_space.yaml"), "--device", "host", "--out", str(out)]
    command += ["--hours", str(hours), "--seed", str(seed), "--threads", str(threads)]
    command += ["--max-accuracy-drop", "0.01", "--min-speedup", "4", "--min-compression", "6"]
    subprocess.run(command, check=True)


def judge(study: Study, points: list[Evaluation], task: Task, threads: int = 1) -> list[dict[str, object]]:
    """Test accuracy and expected latency of files, all measured in this run."""
    jobs, spans, rows = [], [], []
    sample = np.random.default_rng(0).standard_normal(tuple(task.example_input[:1].shape)).astype(np.float32)
    for point in points:
        ways = ways_through(reference(), study.path / str(point.artifact), threads, {INPUT: sample})
        spans.append(slice(len(jobs), len(jobs) + len(ways)))
        jobs += ways
        predict = Predictor(ways[-1][0])
        correct = np.concatenate([predict(x)["logits"].argmax(-1) == y for x, y in task.split("test")])
        rates = np.bincount(predict.exits, minlength=len(ways)) / len(correct) if predict.exits else np.ones(1)
        low, high = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
        rows.append({"trial": point.trial, "label": point.label, "accuracy": float(correct.mean()), "low": low,
                     "high": high, "exit_rates": rates.tolist(), "size_bytes": point.size_bytes,
                     "predicted_ms": point.predicted_latency_ms, "recipe": point.recipe.to_dict()})  # fmt: skip
    timings = measure(jobs, reference(), threads=threads)
    for row, span in zip(rows, spans, strict=True):
        paths = [t.latency_ms for t in timings[span]]
        row["path_ms"] = paths
        row["latency_ms"] = float(np.dot(row["exit_rates"], paths))
        row["trusted"] = all(t.trusted for t in timings[span])
    base = rows[0]
    for row in rows:
        row["faster"] = base["latency_ms"] / row["latency_ms"]
        row["smaller"] = base["size_bytes"] / row["size_bytes"]
        row["points_lost"] = 100 * (base["accuracy"] - row["accuracy"])
    return rows


def main() -> None:
    """Search, judge, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="for training; the timings use one")
    parser.add_argument("--out", type=Path, default=Path("results/cifar10"))
    arguments = parser.parse_args()
    search(arguments.out, arguments.hours, arguments.seed, arguments.threads)
    study = Study.open(arguments.out)
    task = load_task(f"{HERE / 'cifar10_task.py'}:task")
    baselines = sorted(study.baselines, key=lambda b: b.label != "fp32")
    rows = judge(study, [*baselines, *(p for p in study.front if p.kind == "candidate")], task)
    print(f"{'trial':>5} {'test acc':>8} {'lost':>6} {'ms':>8} {'faster':>7} {'bytes':>9} {'smaller':>7}  recipe")
    for r in rows:
        print(f"{r['trial']:>5} {r['accuracy']:>8.4f} {r['points_lost']:>6.2f} {r['latency_ms']:>8.4f} "
              f"{r['faster']:>6.2f}x {r['size_bytes']:>9,} {r['smaller']:>6.2f}x  {r['label']}")  # fmt: skip
    reached = {}
    for goal in GOALS:
        good = [r["trial"] for r in rows if all(r[k] >= goal[k] for k in ("smaller", "faster"))
                and r["points_lost"] <= goal["points_lost"]]  # fmt: skip
        reached[goal["name"]] = good
        print(f"{goal['name']}: {'trials ' + ', '.join(map(str, good)) if good else 'not reached'}")
    record = {"benchmark": "cifar10", "at": now(), "hours": arguments.hours, "seed": arguments.seed,
              "processor": platform.processor() or platform.machine(), "versions": versions(), "goals": reached,
              "n_trials": len(study.evaluations), "rows": rows}  # fmt: skip
    path = Path("results/records") / f"cifar10-seed{arguments.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"recorded in {path}")


if __name__ == "__main__":
    main()
