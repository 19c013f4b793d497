"""What a search makes of finished networks before it trains anything: accuracy and size of each file.

    python benchmarks/untouched.py [NAME ...]

The networks are those of `repair_nets.py`; latencies are predicted, for a Raspberry Pi 5. One record per
network goes to results/records/repair/.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from repair import RECORDS
from repair_nets import NETS, task

from autocompress import DeviceProfile
from autocompress.controller.untouched import UntouchedNetwork
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe
from autocompress.studies.results import Evaluation

DEVICE = "raspberry-pi-5"


def files(name: str) -> list[dict[str, Any]]:
    """Baselines first, then the formats in the order in which they are tried."""
    evaluator, rows = Evaluator(task(name), DeviceProfile.load(DEVICE)), []

    def judge(recipe: Recipe) -> Evaluation:
        outcome = evaluator.evaluate(recipe)[0]
        found = outcome.evaluation
        rows.append(
            {
                "format": found.label,
                "validation": found.validation.value if found.validation else None,
                "test": evaluator.score(outcome.file, "test").value,
                "size_bytes": len(outcome.file),
                "predicted_latency_ms": found.predicted_latency_ms,
            }
        )
        print(name, rows[-1], flush=True)
        return found

    baselines = {label: judge(recipe) for label, recipe in evaluator.baselines().items()}
    network, judged = UntouchedNetwork(evaluator, baselines), dict[str, Evaluation | None]()
    while recipe := network.next(judged):
        judged[recipe.digest()] = judge(recipe)
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[1:] or NETS:
        record = {"network": each, "device": DEVICE, "files": files(each)}
        (RECORDS / f"untouched-{each}.json").write_text(json.dumps(record, indent=1) + "\n")
