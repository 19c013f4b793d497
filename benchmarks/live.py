"""Searches that differ in one option, side by side on one task with equal hours: which front is better, and when?

    python benchmarks/live.py benchmarks/cifar10_task.py:small --vary "--sampler tpe" "--sampler ehvi" --hours 0.4

Each search is a process of its own with one thread, and all start at the same moment; give no more of them than there
are cores. Latencies are predictions of a shipped profile, so that nothing depends on the timing of the day.
Hypervolumes (of accuracy and the logarithms of latency and size, on the validation split) have one reference. The times
in the record are right only for a run that was not interrupted. The record goes to results/records/.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from autocompress import Study
from autocompress.controller.plan import now, versions
from autocompress.files import write_json
from autocompress.report.hypervolume import Volumes, hypervolume_reference, in_order


def course(study: Study, began: float) -> tuple[list[float], list[float]]:
    """Minutes since the command was given, and the hypervolume from then on, one pair per trial."""
    worst, words = hypervolume_reference(study)
    if worst is None:
        raise SystemExit(f"{study.path}: {words}")
    volumes, minutes = Volumes(worst), []
    for evaluation in in_order(study.evaluations):
        volumes.add(evaluation)
        minutes.append((datetime.fromisoformat(evaluation.finished_at).timestamp() - began) / 60)
    return minutes, volumes.volume


def main() -> None:
    """Search, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="examples/fashion_mnist.py:task")
    parser.add_argument(
        "--vary", nargs="+", default=["--sampler tpe", "--sampler ehvi"], help="the first is the yardstick"
    )
    parser.add_argument("--space", default="quickstart")
    parser.add_argument("--device", default="raspberry-pi-4")
    parser.add_argument("--hours", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("results/live"))
    parser.add_argument("--record", default="live")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        folders = {vary: arguments.out / f"{vary.strip('- ').replace(' ', '-')}-{seed}" for vary in arguments.vary}
        began = time.time()
        running = []
        for vary, folder in folders.items():
            command = [sys.executable, "-m", "autocompress.cli", "search", arguments.task, "--space", arguments.space]
            command += ["--device", arguments.device, "--hours", str(arguments.hours), "--seed", str(seed)]
            command += ["--threads", "1", "--quiet", "--out", str(folder), *shlex.split(vary)]
            running.append(subprocess.Popen(command))
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit("a search failed: see above")
        goal = None
        for vary, folder in folders.items():
            study = Study.open(folder)
            minutes, volume = course(study, began)
            goal = goal or volume[-1]
            reached = next((m for m, v in zip(minutes, volume, strict=True) if v >= goal), None)
            own = [e for e in study.candidates if e.state == "complete" and e.derived_from is None and not e.is_repeat]
            row = {
                "seed": seed,
                "vary": vary,
                "trained": len(own),
                "judged": sum(e.state == "complete" for e in study.candidates),
                "hypervolume": round(volume[-1], 5),
                "against_first": round(volume[-1] / goal, 4),
                "first_reached_at_minutes": reached and round(reached, 2),
                "minutes": round(minutes[-1], 2),
            }
            print(row, flush=True)
            steps = [[round(m, 2), round(v, 5)] for m, v in zip(minutes, volume, strict=True)]
            rows.append({**row, "front": sorted(p.objectives() for p in study.front), "course": steps})
    record = {"benchmark": "live", "at": now(), "task": arguments.task, "space": arguments.space,
              "device": arguments.device, "hours": arguments.hours, "versions": versions(),
              "processor": platform.processor() or platform.machine(), "rows": rows}  # fmt: skip
    write_json(Path("results/records") / f"{arguments.record}.json", record)


if __name__ == "__main__":
    main()
