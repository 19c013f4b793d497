from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.small import EXITS, device, small_task, space

from autocompress.controller import Budget, search
from autocompress.controller.ablate import ablate, chain_of
from autocompress.errors import StudyError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.replay import apply
from autocompress.recipes.recipe import Recipe
from autocompress.studies.ablation import Ablation, Chain, Step, read_ablation, recommended
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks.metric import Score

FULL = {
    "stages": [
        {"technique": "early_exit", "count": 1},
        {"technique": "prune", "ratio": 0.5},
        {"technique": "distill", "epochs": 2, "weight": 0.5},
        {"technique": "ptq"},
        {"technique": "exit_threshold", "thresholds": [0.9]},
    ]
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("ablation") / "study"
    return search(small_task(), device(), space(), budget=Budget(4), out=out)


def result(latency_ms: float, accuracy: float, size_bytes: int = 1000, half: float = 0.01) -> Evaluation:
    score = Score(value=accuracy, low=accuracy - half, high=accuracy + half, n_samples=100, split="test")
    empty = Recipe()
    return Evaluation(
        trial=0, recipe=empty, recipe_digest=empty.digest(), state="complete", validation=score, test=score,
        predicted_latency_ms=latency_ms, size_bytes=size_bytes,
    )  # fmt: skip


def test_a_chain_adds_one_stage_at_a_time_and_ends_at_the_recipe() -> None:
    recipe = Recipe.parse(FULL)
    labels, recipes = zip(*chain_of(recipe), strict=True)
    assert labels == ("unchanged", "pruning", "distillation", "quantisation", "early exits")
    assert recipes[0] == Recipe() and recipes[-1] == recipe
    assert [s.technique for s in recipes[1].stages] == ["prune", "distill"]
    assert recipes[1].stages[1].model_dump()["epochs"] == 0  # BatchNorm re-estimated, nothing trained
    assert [[s.technique for s in r.stages] for r in recipes[2:4]] == [
        ["prune", "distill"],
        ["prune", "distill", "ptq"],
    ]
    assert recipes[2].stages == recipe.stages[1:3]


def test_steps_that_change_nothing_are_left_out() -> None:
    untrained = Recipe.parse({"stages": [{"technique": "prune"}, {"technique": "distill", "epochs": 0}]})
    assert [label for label, _ in chain_of(untrained)] == ["unchanged", "pruning"]
    assert [label for label, _ in chain_of(Recipe())] == ["unchanged"]
    tuned = Recipe.parse({"stages": [{"technique": "distill", "weight": 0}]})
    assert [label for label, _ in chain_of(tuned)] == ["unchanged", "fine-tuning"]


def test_changes_are_against_the_step_before() -> None:
    figures = [(4.0, 0.9, 1000), (2.0, 0.8, 500), (2.0, 0.895, 500), (1.0, 0.89, 125)]
    chain = Chain(
        trial=5, steps=tuple(Step(label=str(i), evaluation=result(*figure)) for i, figure in enumerate(figures))
    )
    pruning, training, int8 = chain.changes()
    assert pruning and training and int8
    assert (pruning.latency, pruning.size, pruning.tie) == (-0.5, -0.5, False)
    assert pruning.accuracy == pytest.approx(-0.1) and training.accuracy == pytest.approx(0.095)
    assert (training.latency, int8.latency, int8.size, int8.tie) == (0, -0.5, -0.75, True)


def test_a_step_that_failed_has_no_change() -> None:
    bad = result(1.0, 0.5).model_copy(update={"state": "failed", "validation": None, "test": None})
    steps = [Step(label=str(i), evaluation=e) for i, e in enumerate((result(2, 0.9), bad, result(1, 0.9)))]
    assert Chain(trial=1, steps=tuple(steps)).changes() == [None, None]


def test_predictions_are_never_compared_with_measurements() -> None:
    measured = result(3.0, 0.9).model_copy(update={"measured_latency_ms": 30.0})
    change = Step(label="b", evaluation=result(1.5, 0.9)).change(Step(label="a", evaluation=measured))
    assert change and change.latency == -0.5


def test_the_chain_of_a_study_is_evaluated_and_kept(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[str] = []
    evaluate = Evaluator.evaluate
    monkeypatch.setattr(Evaluator, "evaluate", lambda self, r: (evaluated.append(r.summary()), evaluate(self, r))[1])
    [trial, *_] = recommended(study)
    found = ablate(study, small_task(), [trial])
    assert read_ablation(study.path) == found
    [chain] = found.chains
    first, last = chain.steps[0].evaluation, chain.steps[-1].evaluation
    assert first.recipe == Recipe() and last.recipe == study.evaluation(trial).recipe
    assert (last.size_bytes, last.validation) == (
        study.evaluation(trial).size_bytes,
        study.evaluation(trial).validation,
    )
    assert all(s.evaluation.test is not None for s in chain.steps)
    assert len(evaluated) == len(chain.steps) - 2  # the study has the files of the first and the last
    for step in chain.steps:
        assert (study.path / str(step.evaluation.artifact)).stat().st_size == step.evaluation.size_bytes


def test_a_point_of_a_study_can_be_reproduced_from_its_recipe(study: Study, tmp_path: Path) -> None:
    """What the commands in the report promise: the same file."""
    point = study.evaluation(max(recommended(study)))
    point.recipe.save(tmp_path / "recipe.yaml")
    again = apply(Recipe.load(tmp_path / "recipe.yaml"), small_task(), device(), out=tmp_path / "again.onnx")
    assert again.sha256 == point.sha256


def test_chains_of_other_trials_and_pipelines_stay(study: Study) -> None:
    first, second = [e.trial for e in study.candidates if e.state == "complete" and not e.is_repeat][:2]
    hand_made = ablate(study, small_task(), [first], pipelines=True).pipelines
    found = ablate(study, small_task(), [second])
    assert {first, second} <= {c.trial for c in found.chains} and found.pipelines == hand_made
    labels = [step.label for step in hand_made]
    assert labels[:3] == ["unchanged", "prune 25% + fine-tuning + int8", "prune 25% + distillation + int8"]
    sizes = [s.evaluation.size_bytes or 0 for s in hand_made[1:7:2]]
    assert sizes == sorted(sizes, reverse=True)


def test_a_damaged_file_is_set_aside_before_anything_is_judged(study: Study) -> None:
    (study.path / "ablation.json").write_text("{damaged")
    found = ablate(study, small_task(), [])
    assert read_ablation(study.path) == found
    assert [path.read_text() for path in study.path.glob("ablation.json.unreadable-*")] == ["{damaged"]


def test_pipelines_with_exits_and_without_training_data(tmp_path: Path) -> None:
    exits = search(small_task("resnet"), device(), space(EXITS), budget=Budget(1), out=tmp_path / "a")
    found = ablate(exits, small_task("resnet"), [], pipelines=True).pipelines[-1]
    assert found.label == "exit + prune 50% + distillation + int8" and len(found.evaluation.exits) == 2
    untrained = search(small_task(train=None), device(), space(), budget=Budget(1), out=tmp_path / "b")
    labels = [s.label for s in ablate(untrained, small_task(train=None), [], pipelines=True).pipelines]
    assert labels[1:] == [f"prune {r}% + no training + int8" for r in (25, 50, 75)]


def test_only_the_task_of_the_study_and_complete_candidates(study: Study) -> None:
    with pytest.raises(StudyError, match="made with another model"):
        ablate(study, small_task("resnet"))
    with pytest.raises(StudyError, match="trial 0 is a baseline; only complete candidates have a chain"):
        ablate(study, small_task(), [0])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert read_ablation(tmp_path) is None
    path = tmp_path / "ablation.json"
    for text in ("{", "[]", json.dumps({"version": 1, "chains": 3})):
        path.write_text(text)
        with pytest.raises(StudyError, match=r"ablation.json: (damaged|cannot be read)"):
            read_ablation(tmp_path)
    path.write_text(json.dumps({"version": 2}))
    with pytest.raises(StudyError, match="version must be 1"):
        read_ablation(tmp_path)
    path.write_text(Ablation().model_dump_json())
    assert read_ablation(tmp_path) == Ablation()
