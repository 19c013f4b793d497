"""Does a search that starts from shared weights find a better front in the same time?

    python benchmarks/elastic.py [examples/fashion_mnist.py:task] [--space quickstart] [--hours 0.5] [--seeds 0]

Two searches per seed with equal hours, one after the other, which differ in `--evaluator` only; the elastic training is
part of its hours. Their fronts on the validation split (predicted latency, so that nothing depends on the timing of the
day) are compared by hypervolume. Resumable like every search. The record goes to results/records/.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from pathlib import Path

from autocompress import Study
from autocompress._files import write_json
from autocompress.controller.plan import now, versions
from autocompress.report._volume import hypervolume_reference
from autocompress.results import hypervolume
from autocompress.study import front_of


def points_of(study: Study) -> list[tuple[float, float, float]]:
    """Validation accuracy, predicted latency and size of the front, constraints kept."""
    complete = [e for e in study.evaluations if e.state == "complete"]
    predicted = [e.model_copy(update={"measured_latency_ms": None}) for e in complete]
    return [e.objectives() for e in front_of(predicted, study.constraints)]


def main() -> None:
    """Search, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="examples/fashion_mnist.py:task")
    parser.add_argument("--space", default="quickstart")
    parser.add_argument("--device", default="raspberry-pi-4", help="any profile: latencies are predicted")
    parser.add_argument("--hours", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max-accuracy-drop", default="0.02")
    parser.add_argument("--out", type=Path, default=Path("results/elastic"))
    parser.add_argument("--record", default="elastic-fashion")
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        studies = {}
        for evaluator in ("standalone", "elastic"):
            out = arguments.out / f"{evaluator}-{seed}"
            command = [sys.executable, "-m", "autocompress.cli", "search", arguments.task, "--space", arguments.space]
            command += ["--device", arguments.device, "--hours", str(arguments.hours), "--seed", str(seed)]
            command += ["--max-accuracy-drop", arguments.max_accuracy_drop, "--threads", "1"]
            subprocess.run([*command, "--evaluator", evaluator, "--out", str(out)], check=True)
            studies[evaluator] = Study.open(out)
        worst, _ = hypervolume_reference(studies["standalone"])
        assert worst is not None
        for evaluator, study in studies.items():
            points = points_of(study)
            rows.append({"seed": seed, "evaluator": evaluator, "hypervolume": hypervolume(points, worst),
                         "n_evaluated": sum(e.state == "complete" and e.kind == "candidate" for e in study.evaluations),
                         "best_accuracy": max(p[0] for p in points), "front": sorted(points)})  # fmt: skip
            print({k: v for k, v in rows[-1].items() if k != "front"}, flush=True)
    record = {"benchmark": "elastic", "at": now(), "task": arguments.task, "space": arguments.space,
              "hours": arguments.hours, "processor": platform.processor() or platform.machine(),
              "versions": versions(), "rows": rows}  # fmt: skip
    write_json(Path("results/records") / f"{arguments.record}.json", record)


if __name__ == "__main__":
    main()
