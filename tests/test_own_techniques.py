"""Techniques that nothing in the package knows: their candidates are told apart, built to be costed, and recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small import device, small_task, space

from autocompress import Budget, search
from autocompress.compression.catalogue import enable
from autocompress.compression.training import Schedule
from autocompress.errors import CandidateError
from autocompress.evaluation.elastic import Elastic
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.screening import Screen
from autocompress.recipes.recipe import Recipe

TRAIN = {"technique": "distill", "epochs": 1}
DROP = {"technique": "own_techniques.drop_block", "block": "blocks.0"}


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    """What `--techniques` does, for the tests of this module."""
    before = set(sys.modules)
    for name in ("drop_block", "shrink"):
        enable(f"own_techniques.{name}")
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_techniques"):
            del sys.modules[name]


def recipe(*stages: dict[str, Any]) -> Recipe:
    return Recipe.parse({"stages": list(stages)})


def shrunk(factor: float) -> Recipe:
    return recipe({"technique": "own_techniques.shrink", "factor": factor}, {**TRAIN, "epochs": 0})


def test_trained_weights_are_those_of_the_recipe(tmp_path: Path) -> None:
    """The example of docs/extend.md: with one key for all factors the weights of another recipe came back."""
    evaluator = Evaluator(small_task("mlp"), device(), cache=tmp_path)
    recipes = [recipe(TRAIN), shrunk(1.0), shrunk(0.5), shrunk(0.01)]
    assert len({evaluator.forecast(r).key for r in recipes}) == 4
    files = [evaluator.evaluate(r)[0].evaluation for r in recipes]
    assert len({e.sha256 for e in files}) == 4 == len(list(tmp_path.glob("*.pt")))
    assert not any("found in the cache" in note for e in files for note in e.notes)


def test_equal_candidates_of_other_recipes_share_weights_and_key(tmp_path: Path) -> None:
    evaluator = Evaluator(small_task("mlp"), device(), cache=tmp_path)
    same = [
        recipe({"technique": "own_techniques.drop_block"}, TRAIN),
        recipe({"technique": "prune", "ratio": 0.0}, TRAIN),
    ]
    assert {evaluator.forecast(r).key for r in same} == {evaluator.forecast(recipe(TRAIN)).key}
    evaluator.evaluate(recipe(TRAIN))
    assert all(evaluator.is_trained(r) for r in same) and not evaluator.is_trained(recipe({**TRAIN, "epochs": 2}))
    assert any("found in the cache" in note for note in evaluator.evaluate(same[0])[0].evaluation.notes)


def test_costs_of_unknown_stages_are_not_guessed() -> None:
    evaluator = Evaluator(small_task("resnet", n=64), device())
    with pytest.raises(CandidateError, match=r"what own_techniques.drop_block does to the costs is not known before"):
        Screen(evaluator, space({"version": 1, "stages": [{**DROP, "block": {"choice": ["none", "blocks.0"]}}]}))
    dropped = evaluator.forecast(recipe(DROP))
    assert dropped.worst_case_ms < evaluator.forecast(recipe()).worst_case_ms


def test_shared_weights_carry_what_consists_of_them(tmp_path: Path) -> None:
    workshop = Evaluator(small_task("resnet", n=64), device()).workshop
    pruned = {"technique": "prune", "ratio": 0.5, "round_to": 2}
    replaced = recipe({**DROP, "by": "two"})
    with pytest.raises(CandidateError, match=r"blocks.0.0.weight is not a parameter of the original network"):
        Elastic.train(workshop, [replaced])
    elastic = Elastic.train(workshop, [recipe(DROP, pruned), recipe(pruned)], schedule=Schedule(1, 0.05))
    smaller, other = (
        elastic.start(Evaluator(workshop.task, device()).structure(r)) for r in (recipe(DROP, pruned), replaced)
    )
    whole = dict(elastic.shared.backbone.named_parameters())
    kept = [i for i in range(8) if i not in smaller.removed["stem.0"]]
    assert torch.equal(smaller.model.stem[0].weight, whole["stem.0.weight"][kept])
    assert not [name for name, _ in smaller.model.named_parameters() if name.startswith("blocks.0")]
    assert "starts from the original's weights" in other.notes[-1]


def test_a_search_with_the_default_sampler_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stages = [
        {**DROP, "block": {"choice": ["none", "blocks.0"]}, "by": {"choice": ["nothing", "two"]}},
        {"technique": "prune", "ratio": {"choice": [0.0, 0.5]}, "round_to": 2},
        {"technique": "ptq", "weight_bits": {"choice": [8, 4]}},
    ]
    found = search(
        small_task("resnet", n=64), device(), space({"version": 1, "stages": stages}), budget=Budget(5), out=tmp_path
    )
    done = [e for e in found.evaluations if e.state == "complete" and e.recipe.get("own_techniques.drop_block")]
    assert {e.recipe.get("own_techniques.drop_block").block for e in done} == {"none", "blocks.0"}
    for e in done:
        gone = {x.name for x in e.layers if not x.channels_after}
        is_gone = e.recipe.get("own_techniques.drop_block").block == "blocks.0"
        assert gone == ({"blocks.0.conv1", "blocks.0.conv2"} if is_gone else set())
