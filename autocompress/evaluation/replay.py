"""Repeat a recipe: on the model it was found for, or on another checkpoint of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autocompress.devices.profile import DeviceProfile
from autocompress.evaluation.evaluator import Evaluator
from autocompress.files import write_atomically
from autocompress.recipes.recipe import Recipe
from autocompress.studies.results import Evaluation
from autocompress.tasks.task import Task


def apply(
    recipe: Recipe,
    task: Task,
    device: DeviceProfile,
    *,
    out: str | Path,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> Evaluation:
    """Build the file that a recipe describes, write it to `out` and say what it does.

    The accuracy is that of the file on the validation split, and on the test split where the task has one; the
    latency is predicted for the device.

    Raises:
        CandidateError: the recipe does not fit the model.
        TaskError: something is wrong with model or data.
    """
    task.validate()
    evaluator = Evaluator(task, device, seed=seed, progress=progress)
    outcome = evaluator.evaluate(recipe)[0]
    write_atomically(out, outcome.file)
    changes: dict[str, object] = {"artifact": str(out), "notes": (*task.notes, *outcome.evaluation.notes)}
    if task.has("test"):
        changes["test"] = evaluator.score(outcome.file, "test")
    return outcome.evaluation.model_copy(update=changes)
