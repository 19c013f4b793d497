"""CPU time and memory of one proposal, by the number of trials: 40 knobs, three objectives, two constraints.

python benchmarks/search/overhead.py --out results/records/search-overhead.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from synthetic import CONDITIONS, EPOCHS, MAX_ERROR, MAX_MB, MAX_MS, SPACE, Problem

from autocompress.known_costs import Knobs, KnownCostSampler

_REPEATS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = [measure(n) for n in (20, 100, 500, 2000)]
    for row in rows:
        print(row)
    if options.out:
        options.out.write_text(json.dumps({"knobs": len(SPACE) + 4, "proposals": rows}, indent=1) + "\n")


def measure(n: int) -> dict[str, Any]:
    """Ten proposals after n random trials that keep the limits; the first one fits the kernel."""
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
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    knobs = Knobs(space)
    codes = knobs.random(20 * n, np.random.default_rng(0))
    codes = codes[(problem.costs(knobs.columns(codes))[1] <= 0).all(1)][:n]
    values = problem.objectives(knobs.columns(codes), EPOCHS)
    for one, found in zip(codes, values, strict=True):
        study.add_trial(optuna.create_trial(params=knobs.setting(one), distributions=space, values=found.tolist()))
    seconds = []
    for _ in range(_REPEATS):
        trial = study.ask()
        started = time.process_time()
        assert trial.relative_params
        seconds.append(time.process_time() - started)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return {
        "trials": n,
        "first_cpu_s": round(seconds[0], 3),
        "median_cpu_s": round(float(np.median(seconds[1:])), 3),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
