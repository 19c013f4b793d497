"""CPU time and memory of one proposal, by the number of trials: 40 knobs, three objectives, two constraints.

python benchmarks/search/overhead.py --out results/records/search-overhead.json

"synthetic" is the sampler alone, on a problem whose costs take no time. "product" is all that a search does for a
proposal, on the 33 knobs of benchmarks/screening.py (a ResNet-18): costs of 10,000 recipes and their features, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from synthetic import CONDITIONS, EPOCHS, MAX_ERROR, MAX_MB, MAX_MS, SPACE, Problem

from autocompress.known_costs import Knobs, KnownCostSampler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import screening

from autocompress import SearchSpace
from autocompress.controller.plan import Plan
from autocompress.controller.proposals import Proposals
from autocompress.studies.constraints import at_most
from autocompress.studies.results import Evaluation
from autocompress.tasks.metric import Score

Rows = tuple[Sequence[dict[str, Any]], NDArray[np.float64]]
"""Settings, and their objectives (n, 3), to be minimised but for the first where that is an accuracy."""
_REPEATS = 10
_TRIALS = (20, 100, 500, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    record = {
        "synthetic": {"knobs": len(SPACE) + 4, "proposals": [synthetic(n) for n in _TRIALS]},
        "product": product(),
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def synthetic(n: int) -> dict[str, Any]:
    """After n random trials that keep the limits."""
    problem = Problem(0)
    space = {**SPACE, **{f"extra{i}": FloatDistribution(0.0, 1.0) for i in range(4)}}
    sampler = KnownCostSampler(
        space,
        problem.costs,
        reference=(MAX_ERROR, MAX_MS, MAX_MB),
        log_costs=True,
        conditions=CONDITIONS,
        seed=0,
    )
    knobs = Knobs(space)
    codes = knobs.random(20 * n, np.random.default_rng(0))
    codes = codes[(problem.costs(knobs.columns(codes))[1] <= 0).all(1)][:n]
    values = problem.objectives(knobs.columns(codes), EPOCHS)
    return proposals(sampler, ["minimize"] * 3, space, ([knobs.setting(code) for code in codes], values))


def product() -> dict[str, Any]:
    """The same for a search, whose accuracies are made up."""
    evaluator = screening.resnet18()
    recipe = evaluator.baselines()["fp32"]
    forecast = evaluator.forecast(recipe)
    score = Score(value=0.9, low=0.9, high=0.9, n_samples=1, split="validation")
    base = Evaluation(trial=0, recipe=recipe, recipe_digest=recipe.digest(), state="complete", validation=score,
                      predicted_latency_ms=forecast.best_case_ms, size_bytes=forecast.size_bytes)  # fmt: skip
    limits = [at_most("latency_ms", forecast.best_case_ms / 2), at_most("size_bytes", forecast.size_bytes / 2)]
    plan = Plan.make(evaluator, SearchSpace.parse(screening.SPACE), limits, evaluator.device)
    offered = Proposals(plan, limits)
    rng, found = np.random.default_rng(0), []
    space = offered.sampler(base, 0).infer_relative_search_space(None, None)  # type: ignore[arg-type]
    for n in _TRIALS:
        knobs = Knobs(space)
        columns = knobs.columns(knobs.random(50 * n, rng))
        costs, broken = offered.objectives(columns)
        kept = np.flatnonzero((broken <= 0).all(1))[:n]
        lost = 0.3 * np.mean([columns[name][kept] for name in columns if "ratio" in name], axis=0)
        values = np.column_stack([0.9 - lost + 0.01 * rng.standard_normal(len(kept)), costs[kept]])
        settings = [{name: column[i].item() for name, column in columns.items()} for i in kept]
        directions = ["maximize", "minimize", "minimize"]
        found.append(proposals(offered.sampler(base, 0), directions, space, (settings, values)))
    return {"knobs": len(space), "proposals": found}


def proposals(
    sampler: BaseSampler, directions: Sequence[str], space: Mapping[str, BaseDistribution], known: Rows
) -> dict[str, Any]:
    """Time ten proposals after the known trials; the first one fits the kernel."""
    study = optuna.create_study(directions=directions, sampler=sampler)
    for setting, values in zip(*known, strict=True):
        study.add_trial(optuna.create_trial(params=setting, distributions=dict(space), values=values.tolist()))
    seconds = []
    for _ in range(_REPEATS):
        trial = study.ask()
        started = time.process_time()
        assert trial.relative_params
        seconds.append(time.process_time() - started)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return {
        "trials": len(known[0]),
        "first_cpu_s": round(seconds[0], 3),
        "median_cpu_s": round(float(np.median(seconds[1:])), 3),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
