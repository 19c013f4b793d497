"""How far can a cheap estimate of a recipe's accuracy be trusted? Rank correlation with the fine-tuned accuracy.

    python benchmarks/fidelities.py [examples/fashion_mnist.py:task] [--space quickstart] [--recipes 16]

Random width recipes of a space (everything else of them at its first choice, no exits, no quantisation) within a limit
of MACs are judged on the validation split, as torch models in float32, in six ways:

    base+0     pruned, BatchNorm re-estimated
    base+1     ... one epoch of distillation
    base+full  ... all epochs of the space: the yardstick
    elastic+0, elastic+1, elastic+full   the same from the shared weights of `autocompress.evaluation.elastic`

Costs are CPU seconds of this process, one thread; that of the elastic training is stated apart. What is finished is
kept in --out, so that a run can be interrupted. The record goes to results/records/.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from autocompress.compression.analysis import analyze, count_macs
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.stage import Phase
from autocompress.compression.structure import NetworkStructure
from autocompress.compression.techniques.distill import Distill
from autocompress.compression.weights import load_weights
from autocompress.controller.plan import Fixed, now, versions
from autocompress.evaluation.elastic import SCHEDULE, Elastic, torch_score
from autocompress.files import write_json
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.space import SearchSpace
from autocompress.tasks.loading import load_task

WAYS = ("base+full", "base+0", "elastic+0", "base+1", "elastic+1", "elastic+full")
YARDSTICK = "base+full"


def random_widths(space: SearchSpace, outline: NetworkStructure, rng: np.random.Generator) -> Recipe:
    """A recipe of random ratios."""
    values = space.setting(outline, rng.random, optional=False)
    widths = {name: value for name, value in values.items() if "ratio" in name}
    return space.sample(Fixed(widths), outline)


def carry_out(recipe: Recipe, context: Context) -> Candidate:
    """The STRUCTURE stages."""
    candidate = Candidate(context.task.model)
    for stage in recipe.upto(Phase.STRUCTURE).stages:
        candidate = stage.apply(candidate, context)
    return candidate


def draw(space: SearchSpace, context: Context, n: int, max_macs: float, seed: int) -> list[Recipe]:
    """Different recipes within the limit; fewer than `n` where the space has no more."""
    rng, found = np.random.default_rng(seed), {}
    for _ in range(50 * n):
        recipe = random_widths(space, context.analysis.outline, rng)
        candidate = carry_out(recipe, context)
        if count_macs(candidate.model, context.task.example_input) <= max_macs * context.analysis.macs:
            found.setdefault(str(candidate.removed), recipe)
        if len(found) == n:
            break
    return list(found.values())


def judge(way: str, recipe: Recipe, context: Context, elastic: Elastic) -> dict[str, float]:
    """Accuracy and CPU seconds of one way to judge a recipe."""
    started = time.process_time()
    candidate = carry_out(recipe, context)
    origin, _, length = way.partition("+")
    distill = recipe.get("distill")
    assert isinstance(distill, Distill)
    epochs = distill.epochs if length == "full" else int(length)
    if origin == "elastic":
        candidate = elastic.start(candidate)
    candidate = distill.model_copy(update={"epochs": epochs}).apply(candidate, context)
    accuracy = torch_score(candidate.model, context).value
    return {"accuracy": accuracy, "cpu_seconds": time.process_time() - started}


def summary(rows: Sequence[dict[str, Any]], way: str) -> dict[str, float]:
    """Agreement with the yardstick over the recipes that have both."""
    both = [(r[way], r[YARDSTICK]) for r in rows if way in r and YARDSTICK in r]
    mine, theirs = (np.array([pair[i]["accuracy"] for pair in both]) for i in (0, 1))
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(both), size=len(both)) for _ in range(2000)]
    spearman = [float(stats.spearmanr(mine[d], theirs[d])[0]) for d in draws if np.ptp(mine[d]) and np.ptp(theirs[d])]
    low, high = np.quantile(spearman, (0.025, 0.975))
    return {
        "n": len(both),
        "accuracy": float(mine.mean()),
        "gap_points": float(100 * (theirs - mine).mean()),
        "spearman": float(stats.spearmanr(mine, theirs)[0]),
        "spearman_low": float(low),
        "spearman_high": float(high),
        "kendall": float(stats.kendalltau(mine, theirs)[0]),
        "cpu_seconds": float(np.mean([pair[0]["cpu_seconds"] for pair in both])),
    }


def main() -> None:
    """Judge, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="examples/fashion_mnist.py:task")
    parser.add_argument("--space", default="quickstart")
    parser.add_argument("--recipes", type=int, default=16)
    parser.add_argument("--max-macs", type=float, default=0.6, help="as a share of those of the unpruned network")
    parser.add_argument("--elastic-epochs", type=int, default=SCHEDULE.epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/fidelities"))
    parser.add_argument("--record", default="fidelities-fashion")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = load_task(arguments.task)
    context = Context(task, analyze(task), arguments.seed)
    space, outline = SearchSpace.load(arguments.space), context.analysis.outline
    rng = np.random.default_rng(arguments.seed + 1)
    strongest = space.sample(Fixed(space.setting(outline, lambda: 1.0, optional=False)), outline)
    parts = [strongest, *(random_widths(space, outline, rng) for _ in range(255))]
    schedule = type(SCHEDULE)(**{**vars(SCHEDULE), "epochs": arguments.elastic_epochs})
    kept = arguments.out / f"{arguments.record}.json"
    state = json.loads(kept.read_text()) if kept.exists() else {"training": None, "rows": []}
    files = [path for path in arguments.out.glob("elastic-*") if not path.suffix]
    before = max((int((load_weights(path) or {"epoch": 0})["epoch"]) for path in files), default=0)
    started = time.process_time()
    elastic = Elastic.train(context, parts, schedule=schedule, folder=arguments.out)
    if state["training"] is None:
        seconds, epochs = time.process_time() - started, schedule.epochs - before
        state["training"] = {
            "cpu_seconds": seconds / epochs * schedule.epochs,
            "epochs": schedule.epochs,
            "of_them_timed": epochs,
        }
        write_json(kept, state)
        print("elastic training", state["training"], flush=True)
    recipes = draw(space, context, arguments.recipes, arguments.max_macs, arguments.seed)
    state["rows"] += [{"recipe": r.to_dict()} for r in recipes[len(state["rows"]) :]]
    for number, way in enumerate(WAYS, 1):
        for row, recipe in zip(state["rows"], recipes, strict=True):
            assert row["recipe"] == recipe.to_dict(), "--out holds another run"
            if way not in row:
                row[way] = judge(way, recipe, context, elastic)
                write_json(kept, state)
                print(way, recipe.summary(), row[way], flush=True)
        table = {way: summary(state["rows"], way) for way in WAYS[:number]}
        record = {"benchmark": "fidelities", "at": now(), "task": task.name, "space": arguments.space,
                  "seed": arguments.seed, "max_macs": arguments.max_macs,
                  "n_validation": sum(len(y) for _, y in task.split("validation")),
                  "processor": platform.processor() or platform.machine(), "versions": versions(),
                  "elastic_training": state["training"], "summary": table, "rows": state["rows"]}  # fmt: skip
        write_json(Path("results/records") / f"{arguments.record}.json", record)
    for way, s in table.items():
        print(f"{way:>13}: accuracy {s['accuracy']:.4f}, {s['gap_points']:+.2f} points below the yardstick, Spearman "
              f"{s['spearman']:.2f} ({s['spearman_low']:.2f} to {s['spearman_high']:.2f}), Kendall {s['kendall']:.2f}, "
              f"{s['cpu_seconds']:.1f} s")  # fmt: skip


if __name__ == "__main__":
    main()
