"""A small study by hand: its settings, and six evaluations."""

from __future__ import annotations

from autocompress.recipes.recipe import Recipe
from autocompress.studies.constraints import at_most
from autocompress.studies.results import Evaluation
from autocompress.studies.settings import Settings
from autocompress.tasks.metric import Score

SETTINGS = Settings(
    task="my_task.py:task",
    task_name="my task",
    metric="accuracy",
    model_sha256="ab" * 32,
    data_sha256="cd" * 32,
    device={"name": "host", "threads": 1},
    space={"stages": [{"technique": "ptq"}]},
    constraints=(at_most("latency_ms", 2),),
    sampler="tpe",
    seed=0,
    outline={"groups": {}},
    unprunable={},
    versions={"torch": "2"},
    created_at="2026-11-22T00:00:00+00:00",
)


def evaluation(trial: int, accuracy: float, latency_ms: float, size_bytes: int, **changes: object) -> Evaluation:
    recipe = Recipe.parse({"stages": [{"technique": "prune", "ratio": 0.01 * trial}, {"technique": "ptq"}]})
    score = Score(value=accuracy, low=accuracy, high=accuracy, n_samples=100, split="validation")
    values = {
        "trial": trial,
        "recipe": recipe,
        "recipe_digest": recipe.digest(),
        "state": "complete",
        "validation": score,
        "predicted_latency_ms": latency_ms,
        "size_bytes": size_bytes,
    }
    return Evaluation.model_validate(values | changes)


TRIALS = (
    evaluation(0, 0.90, 4.0, 1000, kind="baseline", label="fp32"),
    evaluation(1, 0.88, 2.0, 250, kind="baseline", label="int8"),
    evaluation(2, 0.91, 1.5, 240),
    evaluation(3, 0.80, 1.0, 100),
    evaluation(4, 0.10, 9.0, 9000),
    evaluation(5, 0.50, 0.1, 10, state="rejected", reason="too slow"),
)
