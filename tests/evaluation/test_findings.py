from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from helpers.small import SPACE, device, small_task, space

from autocompress.compression import finetuning
from autocompress.controller import Budget, search
from autocompress.controller.executors.base import EvaluatorSpec
from autocompress.evaluation import findings
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe
from autocompress.studies.reporter import Silent

AUTO = {"technique": "distill", "epochs": 1, "learning_rate": "auto/3", "optimizer": "auto"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "_STEPS", 2)


def test_a_recipe_is_kept_with_what_auto_became() -> None:
    evaluator = Evaluator(small_task("resnet"), device())
    (outcome,) = evaluator.evaluate(Recipe.parse({"stages": [AUTO]}))
    (stage,) = outcome.evaluation.recipe.stages
    assert stage.optimizer == "sgd"  # type: ignore[attr-defined]
    assert stage.learning_rate == pytest.approx(evaluator.findings.peak_rate("sgd") / 3, rel=1e-5)  # type: ignore[attr-defined]
    assert evaluator.settled(outcome.evaluation.recipe) == outcome.evaluation.recipe


def test_the_rate_is_found_once_for_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task("mlp")
    rate = Evaluator(task, device(), cache=tmp_path).findings.peak_rate("sgd")
    (kept,) = tmp_path.glob("rate-*.json")
    with monkeypatch.context() as patch:
        patch.setattr(findings, "find_rate", lambda *args: pytest.fail("found again"))
        assert Evaluator(task, device(), cache=tmp_path).findings.peak_rate("sgd") == rate
    kept.write_text("{damaged")
    assert Evaluator(task, device(), cache=tmp_path).findings.peak_rate("sgd") == rate


def test_workers_are_told_what_was_found() -> None:
    evaluator = Evaluator(small_task("mlp"), device())
    evaluator.findings.peak_rate("sgd")
    sent = pickle.loads(EvaluatorSpec.of(evaluator, "a.py:task", 1).pack())
    assert sent.ladders == evaluator.findings.ladders


def test_a_search_finds_it_before_its_first_candidate_and_says_so(tmp_path: Path) -> None:
    told: list[str] = []

    class Listener(Silent):
        def note(self, message: str) -> None:
            told.append(message)

    data = {**SPACE, "stages": [SPACE["stages"][0], AUTO, SPACE["stages"][2]]}
    for trials in (1, 2):  # the second time it is read from the study
        study = search(
            small_task(), device(), space(data), budget=Budget(trials), out=tmp_path / "study", reporter=Listener()
        )
    assert len([note for note in told if note.startswith("peak rate of sgd: ")]) == 1
    trained = [e for e in study.candidates if e.recipe.get("distill")]
    assert trained and all(isinstance(e.recipe.get("distill").learning_rate, float) for e in trained)  # type: ignore[union-attr]
