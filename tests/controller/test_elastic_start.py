from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small import SPACE, device, small_task, space

from autocompress.compression.candidate import Candidate
from autocompress.compression.training import Schedule
from autocompress.controller import Budget, search
from autocompress.controller.elastic_start import ElasticAccuracy, structures, train_shared_weights
from autocompress.controller.executors.base import EvaluatorSpec
from autocompress.controller.plan import Plan
from autocompress.errors import ConstraintError, InputError, StudyError
from autocompress.evaluation.elastic import Elastic
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe
from autocompress.studies.constraints import at_most
from autocompress.studies.study import Study
from autocompress.tasks.metric import Score
from autocompress.tasks.task import Task


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of elastic training."""
    train = Elastic.train.__func__  # type: ignore[attr-defined]

    def once(context: Any, recipes: Any, **settings: Any) -> Elastic:
        schedule = Schedule(epochs=2, learning_rate=0.01)
        made: Elastic = train(Elastic, context, recipes, **{"schedule": schedule, **settings})
        return made

    monkeypatch.setattr(Elastic, "train", once)


def run(task: Task, out: Path, trials: int = 2, **settings: Any) -> Study:
    return search(task, device(), space(), budget=Budget(trials), out=out, evaluator="elastic", **settings)


def test_candidates_start_from_the_shared_weights(tmp_path: Path) -> None:
    study = run(small_task(), tmp_path / "a")
    complete = [e for e in study.candidates if e.state == "complete" and e.derived_from is None]
    assert complete and all("elastic: starts from the shared weights" in e.notes for e in complete)
    assert study.settings.evaluator == "elastic"
    kept = {path.name.split(".", 1)[1] for path in (tmp_path / "a" / "cache").glob("elastic-*.json")}
    assert kept == {"json", "2.accuracy.0.48.json"}, "weights, and their promises for the sampler"


def test_a_study_repeats_and_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    task = small_task()
    whole = run(task, tmp_path / "whole", 4)
    run(task, tmp_path / "parts", 2)
    parts = run(task, tmp_path / "parts", 4)
    assert [e.sha256 for e in parts.evaluations] == [e.sha256 for e in whole.evaluations]


def test_a_study_cannot_change_its_evaluator(tmp_path: Path) -> None:
    task = small_task()
    run(task, tmp_path)
    with pytest.raises(StudyError, match='evaluator: the study has "elastic", now "standalone"'):
        search(task, device(), space(), budget=Budget(3), out=tmp_path)


def test_what_it_cannot_do_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown evaluator 'elastik' \(did you mean 'elastic'\?\); known"):
        search(small_task(), device(), space(), budget=Budget(1), out=tmp_path, evaluator="elastik")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the elastic evaluator needs training data"):
        run(small_task(train=None), tmp_path)
    with pytest.raises(ConstraintError, match="impossible"):
        run(small_task(), tmp_path, constraints=[at_most("size_bytes", 10)])
    fixed = {"stages": [{"technique": "prune", "ratio": 0.5}, {"technique": "ptq"}]}
    with pytest.raises(InputError, match="this space has none to choose for this network; use standalone"):
        search(small_task(), device(), space(fixed), budget=Budget(1), out=tmp_path / "fixed", evaluator="elastic")
    assert not list(tmp_path.rglob("cache/elastic-*"))


def test_it_takes_a_third_of_the_hours_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task()
    evaluator = Evaluator(task, device(), cache=tmp_path)
    plan = Plan.make(evaluator, space(), (), device())
    train_shared_weights(plan, Budget(hours=1e-9), 0)
    [note] = tmp_path.glob("elastic-*.json")
    assert json.loads(note.read_text()) == {"epochs": 1}


def test_the_strongest_recipe_comes_first(tmp_path: Path) -> None:
    evaluator = Evaluator(small_task("resnet"), device())
    drawn = structures(Plan.make(evaluator, space(), (), device()), seed=0, n=32)
    sizes = [evaluator.forecast(Recipe(stages=r.stages[:1])).size_bytes for r in drawn]
    assert sizes[0] == min(sizes) and len(set(sizes)) > 5


def test_weights_trained_from_the_original_are_not_mixed_up_with_others(tmp_path: Path) -> None:
    task = small_task()
    alone, sharing = (Evaluator(task, device(), cache=tmp_path) for _ in range(2))
    plan = Plan.make(sharing, space(SPACE), (), device())
    train_shared_weights(plan, Budget(1), 0)
    chosen = structures(plan, seed=1, n=2)[1]
    a, b = alone.evaluate(chosen)[0], sharing.evaluate(chosen)[0]
    assert a.evaluation.sha256 != b.evaluation.sha256
    assert alone.forecast(chosen).key != sharing.forecast(chosen).key


def test_workers_get_the_same_weights(tmp_path: Path) -> None:
    evaluator = Evaluator(small_task(), device(), cache=tmp_path / "here")
    plan = Plan.make(evaluator, space(), (), device())
    train_shared_weights(plan, Budget(1), 0)
    theirs = EvaluatorSpec.of(evaluator, small_task, threads=1).build()
    theirs.cache = None
    chosen = structures(plan, seed=1, n=2)[1]
    assert theirs.forecast(chosen).key == evaluator.forecast(chosen).key
    assert theirs.evaluate(chosen)[0].evaluation.sha256 == evaluator.evaluate(chosen)[0].evaluation.sha256


def test_the_accuracy_with_shared_weights_is_interpolated_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Evaluator(small_task(), device(), cache=tmp_path)
    plan = Plan.make(evaluator, space(), (), device())
    train_shared_weights(plan, Budget(1), 0)
    asked = []

    def by_size(elastic: Elastic, candidate: Candidate) -> Score:
        asked.append(candidate)
        value = sum(p.numel() for p in candidate.model.parameters()) / 1e4
        return Score(value=value, low=value, high=value, n_samples=0, split="validation")

    monkeypatch.setattr(Elastic, "accuracy", by_size)
    feature = ElasticAccuracy(plan, seed=0, n=12)
    names = feature.settings[0]
    grid = {name: np.array([0.0, 0.25, 0.5]) if name.startswith("prune") else np.zeros(3) for name in names}
    promised = feature(grid)
    assert promised.shape == (3, 1) and len(asked) == 12
    assert promised[0] > promised[1] > promised[2]
    assert np.array_equal(ElasticAccuracy(plan, seed=0, n=12)(grid), promised) and len(asked) == 12
