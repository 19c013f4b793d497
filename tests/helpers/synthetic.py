"""Makes study folders with invented figures, for the tests of the report and for looking at it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from autocompress.controller.ablate import chain_of
from autocompress.recipes.recipe import Recipe
from autocompress.studies.ablation import Ablation, Chain, Step, recommended
from autocompress.studies.confusion import Confusion, write_confusions
from autocompress.studies.constraints import at_least, at_most
from autocompress.studies.folder import write_evaluation, write_final
from autocompress.studies.results import Evaluation, ExitSummary, LayerSummary
from autocompress.studies.settings import Settings
from autocompress.studies.study import Study
from autocompress.tasks.metric import Score, Split

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
BASELINES = {"fp32": (0.934, 4.20, 1_180_000), "fp16": (0.934, 4.31, 596_000), "int8": (0.921, 2.35, 318_000)}
Change = Callable[[Evaluation], Evaluation]


def settings(**changes: Any) -> Settings:
    data: dict[str, Any] = {
        "task": "keywords.py:task",
        "task_name": "keyword spotting",
        "metric": "accuracy",
        "model_sha256": "5f" * 32,
        "data_sha256": "a1" * 32,
        "device": {
            "name": "host",
            "processor": "AMD EPYC (2 cores)",
            "runtime": "onnxruntime",
            "runtime_version": "1.31.1",
            "threads": 1,
            "int8_arithmetic": "saturating",
            "calibration": {"points": 60, "median_error": 0.04, "p90_error": 0.11, "date": "2026-11-20"},
        },
        "space": {"stages": [{"technique": "prune"}, {"technique": "ptq"}]},
        "constraints": (at_most("latency_ms", 3), at_least("accuracy", 0.9)),
        "sampler": "nsga2",
        "seed": 7,
        "outline": {"groups": {}, "layers": {}, "places": []},
        "unprunable": {"head": "its channels are the classes"},
        "versions": {"autocompress": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
        "created_at": START.isoformat(),
    }
    return Settings.model_validate(data | changes)


def score(value: float, split: Split = "validation", n: int = 1000) -> Score:
    half = 1.96 * math.sqrt(max(value * (1 - value), 1e-6) / n)
    return Score(value=value, low=max(value - half, 0), high=min(value + half, 1), n_samples=n, split=split)


def layers(rng: random.Random, n: int, keep: float) -> tuple[LayerSummary, ...]:
    made = []
    for i in range(n):
        before = 16 * 2 ** (3 * i // n)
        after = max(8, round(before * min(1.0, keep * rng.uniform(0.7, 1.3)) / 8) * 8)
        bits, cost = rng.choice([4, 8, 8, 32]), 4.2 / n
        made.append(
            LayerSummary(
                name=f"blocks.{i // 2}.conv{i % 2 + 1}",
                kind="Conv",
                channels_before=before,
                channels_after=min(after, before),
                weight_bits=bits,
                activation_bits=32 if bits == 32 else 8,
                latency_ms_before=round(cost, 5),
                latency_ms=round(cost * after / before * (1.0 if bits == 32 else 0.6), 5),
            )
        )
    return tuple(made)


def recipe(rng: random.Random, ratio: float, exiting: bool) -> Recipe:
    """Pruning, sometimes exits, distillation and quantisation."""
    stages: list[dict[str, Any]] = []
    if exiting:
        stages.append({"technique": "early_exit", "count": 2})
    ratios = {f"stage{i}": round(ratio * rng.uniform(0.8, 1.0), 2) for i in (1, 2, 3)}
    stages.append({"technique": "prune", "ratio": ratios})
    stages.append({"technique": "distill", "epochs": rng.randint(1, 4), "temperature": rng.randint(1, 8)})
    stages.append({"technique": "ptq", "weight_bits": {"default": 8, "stage3": rng.choice([4, 8])}})
    if exiting:
        stages.append({"technique": "exit_threshold", "thresholds": [0.9, 0.99]})
    return Recipe.parse({"stages": stages})


def baseline(trial: int, label: str) -> Evaluation:
    accuracy, latency, size = BASELINES[label]
    return Evaluation(
        trial=trial,
        kind="baseline",
        label=label,
        recipe=Recipe(),
        recipe_digest=Recipe().digest(),
        state="complete",
        validation=score(accuracy),
        predicted_latency_ms=latency,
        worst_case_latency_ms=latency,
        size_bytes=size,
        artifact=f"trials/{trial:06d}/model.onnx",
        sha256=f"{trial:064x}",
        parity=1.0,
        layers=layers(random.Random(0), 21, 5.0) if label != "int8" else (),
        seconds={"evaluation": 3.0},
        finished_at=(START + timedelta(seconds=10 * trial)).isoformat(),
    )


def candidate(trial: int, seed: int = 0, n_layers: int = 21) -> Evaluation:
    rng = random.Random(seed * 100_003 + trial)
    keep, luck = rng.uniform(0.12, 1.0), rng.random()
    exiting = rng.random() < 0.4
    made = recipe(rng, 1 - keep, exiting)
    common: dict[str, Any] = {
        "trial": trial,
        "label": made.summary(),
        "recipe": made,
        "recipe_digest": made.digest(),
        "finished_at": (START + timedelta(seconds=90 * trial)).isoformat(),
        "predicted_latency_ms": round(4.2 * keep**0.8 * rng.uniform(0.45, 0.7), 4),
        "size_bytes": int(1_180_000 * keep * rng.uniform(0.15, 0.35)),
    }
    if luck < 0.15:
        reason = rng.choice(
            [
                "latency_ms must be at most 3, predicted 3.4",
                "size_bytes must be at most 512000 (flash of the device), exported 620000",
            ]
        )
        return Evaluation(**common, state="rejected", reason=reason, seconds={"structure": 0.8})
    if luck < 0.20:
        reason = "training diverged: the loss is not finite"
        seconds = {"structure": 1.0, "training": 12.0}
        return Evaluation(**common, state="failed", reason=reason, seconds=seconds)
    accuracy = 0.936 - 0.09 * (1 - keep) ** 2.2 - abs(rng.gauss(0, 0.012))
    exits: tuple[ExitSummary, ...] = ()
    latency = common["predicted_latency_ms"]
    if exiting:
        exits = (
            ExitSummary(place="stage2", threshold=0.9, rate=0.55, latency_ms=latency * 0.7, accuracy=0.95),
            ExitSummary(place="stage3", threshold=0.99, rate=0.0, latency_ms=latency * 1.1, accuracy=-1),
            ExitSummary(place="output", threshold=0.0, rate=0.45, latency_ms=latency * 1.37, accuracy=0.87),
        )
    seconds = {"structure": 1.2, "training": 40 * keep + 8, "numerics": 6.0, "evaluation": 4.5}
    return Evaluation(
        **common,
        state="complete",
        validation=score(round(accuracy, 4)),
        worst_case_latency_ms=latency * 1.37 if exits else latency,
        artifact=f"trials/{trial:06d}/model.onnx",
        sha256=f"{trial:064x}",
        parity=0.998,
        n_params=int(270_000 * keep),
        macs=int(40e6 * keep),
        layers=layers(rng, n_layers, keep),
        exits=exits,
        notes=("prune: removed 41 % of the channels", "ptq: 7-bit weights, the device saturates"),
        seconds=seconds,
    )


def finished(evaluation: Evaluation, seed: int = 0) -> Evaluation:
    """The same with a measured latency and a test score, as at the end of a search."""
    assert evaluation.validation is not None and evaluation.predicted_latency_ms is not None
    rng = random.Random(seed + evaluation.trial)
    factor = rng.gauss(1.02, 0.05)
    measured = round(evaluation.predicted_latency_ms * factor, 4)
    value = round(evaluation.validation.value - rng.uniform(-0.002, 0.006), 4)
    exits = tuple(e.model_copy(update={"latency_ms": e.latency_ms * factor}) for e in evaluation.exits)
    worst = measured * (1.37 if exits else 1)
    final = {"test": score(value, "test", 2000), "measured_latency_ms": measured}
    return evaluation.model_copy(update={**final, "worst_case_latency_ms": worst, "exits": exits})


def make_study(
    folder: Path,
    n: int = 60,
    *,
    final: bool = True,
    n_layers: int = 21,
    seed: int = 0,
    complete: bool = False,
    **changes: Any,
) -> Study:
    """Write and open a study with the three baselines and `n` candidates; `n` = 0 has no trial at all.

    With `complete` it also has the journal, the counts per class, the chains and the hand-made pipelines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(settings(**changes).model_dump_json())
    made = [baseline(i, label) for i, label in enumerate(BASELINES)] if n else []
    made += [candidate(3 + i, seed, n_layers) for i in range(n)]
    for evaluation in made:
        write_evaluation(folder, evaluation)
    study = Study.open(folder)
    if not (final and n):
        return study
    last = {e.trial: e for e in (*study.baselines, *study.front) if e.state == "complete"}
    conditions = {"finished_at": START.isoformat(), "timing": {"clock": "CPU time of the thread", "rounds": 40}}
    write_final(folder, [finished(e) for e in last.values()], conditions)
    study = Study.open(folder)
    if complete:
        write_journal(study)
        write_confusions(folder, {e.trial: confusion(e) for e in study.evaluations if e.test})
        (folder / "ablation.json").write_text(ablation(study).model_dump_json())
    return study


def write_journal(study: Study) -> None:
    """The knobs of the candidates, as the search keeps them."""
    backend = optuna.storages.journal.JournalFileBackend(str(study.path / "study.journal"))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(
        study_name="autocompress",
        storage=optuna.storages.JournalStorage(backend),
        directions=["maximize", "minimize", "minimize"],
    )
    ratios = {f"prune.ratio[stage{i}]": optuna.distributions.FloatDistribution(0, 1) for i in (1, 2, 3)}
    bits = optuna.distributions.CategoricalDistribution([8, 4])
    for e in study.candidates:
        if e.state == "complete":
            values = e.recipe.get("prune").model_dump()["ratio"]  # type: ignore[union-attr]
            params = {f"prune.ratio[{part}]": value for part, value in values.items()}
            params["ptq.weight_bits[stage3]"] = random.Random(e.trial).choice([8, 4])
            distributions = {**ratios, "ptq.weight_bits[stage3]": bits}
            trial = optuna.create_trial(params=params, distributions=distributions, values=e.objectives())
            made.add_trial(trial)


def confusion(e: Evaluation, n_classes: int = 10) -> Confusion:
    """Right answers at the rate of the test score, the mistakes mostly into the next class."""
    assert e.test is not None
    rng = np.random.default_rng(e.trial)
    truth = np.arange(e.test.n_samples) % n_classes
    wrong = rng.random(len(truth)) > e.test.value + 0.06 * (truth % 3 - 1)
    answers = np.where(wrong, (truth + rng.choice([1, 1, 1, 4], len(truth))) % n_classes, truth)
    return Confusion.count(answers, truth, n_classes, "test")


def ablation(study: Study) -> Ablation:
    """Chains of the recommended points with invented figures, and two pipelines."""

    def result(recipe: Recipe, trial: int, latency: float, value: float, size: int) -> Evaluation:
        return Evaluation(
            trial=trial, recipe=recipe, recipe_digest=recipe.digest(), state="complete", label=recipe.summary(),
            validation=score(value), test=score(value, "test", 2000), predicted_latency_ms=latency,
            measured_latency_ms=latency, size_bytes=size,
        )  # fmt: skip

    chains = []
    for trial in recommended(study):
        end, steps = study.evaluation(trial), chain_of(study.evaluation(trial).recipe)
        assert end.latency_ms and end.size_bytes and end.score
        made = []
        for i, (label, recipe) in enumerate(steps):
            share = i / max(1, len(steps) - 1)
            latency = 4.2 * (end.latency_ms / 4.2) ** share
            value = 0.934 + (end.score.value - 0.934) * share - (0.08 if label == "pruning" else 0)
            size = int(1_180_000 * (end.size_bytes / 1_180_000) ** share)
            made.append(Step(label=label, evaluation=result(recipe, -1 - i, latency, value, size)))
        chains.append(Chain(trial=trial, steps=tuple(made)))
    figures = (("unchanged", 4.2, 0.934, 1_180_000), ("prune 50% + fine-tuning + int8", 1.6, 0.885, 170_000))
    figures = (*figures, ("prune 50% + distillation + int8", 1.6, 0.893, 170_000))
    hand_made = [
        Step(label=label, evaluation=result(Recipe(), -i, ms, value, size))
        for i, (label, ms, value, size) in enumerate(figures, 1)
    ]
    return Ablation(chains=tuple(chains), pipelines=tuple(hand_made))
