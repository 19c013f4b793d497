"""Do recommended points keep, on data that nobody looked at, what was promised of them?

    python benchmarks/chosen_points.py STUDY my_task.py:task [--splits 20] [--out results/records/...json]

Every file of a finished study is run once on validation and test data together. Then these samples are split anew into
validation and test data of the same sizes, and the whole selection is repeated on each validation split: thresholds of
exits, front, choice. What the chosen point shows against fp32 on the test split is set against the interval that was
stated, with and without correction for the choice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress import Study
from autocompress.controller.plan import now
from autocompress.evaluation.evaluator import Predictor, sweep_optimism
from autocompress.evaluation.thresholds import sweep
from autocompress.graphs.nested_if import path_feeds
from autocompress.runtimes.base import reference
from autocompress.studies.choice import Pool, Rule, paired_interval
from autocompress.studies.results import Evaluation
from autocompress.tasks.interface import n_samples, take
from autocompress.tasks.loading import load_task
from autocompress.tasks.task import Task

Array = NDArray[Any]
RULES = {
    "fastest within 0.5 points": Rule("fastest", max_drop=0.005, faster=True),
    "fastest within 1 point": Rule("fastest", max_drop=0.01, faster=True),
    "fastest within 2 points": Rule("fastest", max_drop=0.02, faster=True),
    "knee": Rule("knee"),
    "smallest": Rule("smallest"),
    "most-accurate": Rule("most-accurate", faster=True),
}


@dataclass(frozen=True)
class Network:
    """One trained network with its points: scores (N, ways out), confidence (N, early exits), latency of each way."""

    points: tuple[Evaluation, ...]
    scores: Array
    confidence: Array
    path_ms: tuple[float, ...]

    def on(self, samples: Array) -> Iterator[tuple[Evaluation, Array]]:
        """The points that these samples give, with the scores of all samples."""
        if len(self.path_ms) == 1:
            yield self.points[0], self.scores[:, 0]
            return
        confidence, scores = self.confidence[samples], self.scores[samples]
        optimism = sweep_optimism(confidence, scores, self.path_ms)
        for thresholds in sweep(confidence, scores, self.path_ms):
            fires = np.column_stack([self.confidence > np.array(thresholds), np.ones(len(self.scores), bool)])
            taken = fires.argmax(1)
            latency = float(np.array(self.path_ms)[taken[samples]].mean())
            point = self.points[0].model_copy(
                update={
                    "measured_latency_ms": latency,
                    "predicted_latency_ms": latency,
                    "threshold_optimism": optimism,
                }
            )
            yield point, self.scores[np.arange(len(taken)), taken]


def networks(study: Study, task: Task) -> tuple[list[Network], int]:
    """All networks of the study run on validation and test data, and how many samples are validation data."""
    batches = [*task.split("validation"), *task.split("test")]
    truth = np.concatenate([targets for _, targets in batches])
    by_folder: dict[str, list[Evaluation]] = {}
    for e in study.comparable:
        if not e.is_repeat:
            by_folder.setdefault(str(Path(str(e.artifact)).parent), []).append(e)
    found = []
    for points in by_folder.values():
        model = reference().load(study.path / str(points[0].artifact))
        n_exits = max(0, len(points[0].exits) - 1)
        if not n_exits:
            logits = [np.concatenate([Predictor(model)(x)[model.outputs[0]] for x, _ in batches])]
        else:
            samples = [take(x, slice(i, i + 1)) for x, _ in batches for i in range(n_samples(x))]
            logits = [
                np.concatenate([model(path_feeds(x, n_exits)[way])[model.outputs[0]] for x in samples])
                for way in range(n_exits + 1)
            ]
        scores = np.stack([task.metric.per_sample(one, truth) for one in logits], 1)
        confidence = np.stack([_confidence(one) for one in logits[:-1]], 1) if n_exits else np.zeros((len(truth), 0))
        ms = tuple(e.latency_ms for e in points[0].exits) or (points[0].latency_ms or 0.0,)
        found.append(Network(tuple(points), scores, confidence, ms))
    return found, sum(len(targets) for _, targets in task.split("validation"))


def _confidence(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray((shifted / shifted.sum(-1, keepdims=True)).max(-1))


def trials(study: Study, found: list[Network], n_validation: int, n_splits: int, seed: int) -> list[dict[str, Any]]:
    """One row for each split and rule: what was promised, and what the test split shows."""
    rng, rows = np.random.default_rng(seed), []
    for split in range(n_splits):
        order = rng.permutation(len(found[0].scores))
        mine, others = np.sort(order[:n_validation]), np.sort(order[n_validation:])
        points, scores = zip(*(pair for network in found for pair in network.on(mine)), strict=True)
        every = np.stack(scores)
        base = next(i for i, p in enumerate(points) if p.kind == "baseline" and p.label == "fp32")
        pool = Pool(points, every[:, mine], base, study.settings.constraints)
        for name, rule in RULES.items():
            chosen = pool.choose(rule, pool.scores.mean(1) - [p.threshold_optimism for p in points])
            promised = pool.expected(rule)
            if chosen is None or promised is None or promised.interval is None or chosen == base:
                continue
            differences = every[chosen] - every[base]
            naive = paired_interval(differences[mine])
            assert naive is not None
            rows.append(
                {
                    "split": split,
                    "rule": name,
                    "validation": float(differences[mine].mean()),
                    "naive_low": naive[0],
                    "corrected": promised.value,
                    "low": promised.interval[0],
                    "high": promised.interval[1],
                    "test": float(differences[others].mean()),
                }
            )
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For each rule: how often the test split kept what was stated, and by how much validation flattered."""
    found = {}
    for name in dict.fromkeys(row["rule"] for row in rows):
        own = [row for row in rows if row["rule"] == name]
        mean = {
            key: 100 * float(np.mean([row[key] for row in own])) for key in ("validation", "corrected", "test", "low")
        }
        found[name] = {
            "splits": len(own),
            "kept": sum(row["test"] >= row["low"] for row in own),
            "kept_without_correction": sum(row["test"] >= row["naive_low"] for row in own),
            **{f"{key}_points": round(value, 3) for key, value in mean.items()},
        }
    return found


def main() -> None:
    """Run, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("task")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    study, task = Study.open(arguments.study), load_task(arguments.task)
    found, n_validation = networks(study, task)
    result = summary(trials(study, found, n_validation, arguments.splits, arguments.seed))
    record = {
        "at": now(), "task": study.settings.task_name, "trials": len(study.evaluations),
        "points": sum(len(n.points) for n in found), "n_validation": n_validation,
        "n_test": len(found[0].scores) - n_validation, "resampled_splits": arguments.splits, "rules": result,
    }  # fmt: skip
    for name, row in result.items():
        print(f"{name}: {row}")
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
