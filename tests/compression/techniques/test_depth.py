from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from helpers.small import EXITS, device, small_task, space

from autocompress.compression.blocks import Passed
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.structure import NetworkStructure
from autocompress.compression.techniques.depth import Depth
from autocompress.errors import CandidateError, SpaceError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe

Get = Callable[[str], Context]


def lost(context: Context, **settings: object) -> list[str]:
    model = Depth.model_validate(settings).apply(Candidate(context.task.model), context).model
    return [name for name, module in model.named_modules() if isinstance(module, Passed)]


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({}, []),
        ({"ratio": 0.2}, []),
        ({"ratio": 1.0}, ["features.1", "features.3"]),
        ({"ratio": {"features.3": 1}}, ["features.3"]),
        ({"ratio": {"stage1": 0.5, "stage2": 0}}, ["features.1"]),
        ({"ratio": {"default": 1}}, ["features.1", "features.3"]),
        ({"blocks": ["features.3"]}, ["features.3"]),
    ],
)
def test_what_is_left_out(settings: dict[str, object], blocks: list[str], workshop_of: Get) -> None:
    assert lost(workshop_of("mobilenetv2"), **settings) == blocks


def test_unknown_names_are_refused_with_those_that_are_known(workshop_of: Get) -> None:
    for settings in ({"blocks": ["features.2"]}, {"ratio": {"features.2": 1}}):
        with pytest.raises(CandidateError, match=r"no block 'features\.2'; blocks: features\.1, features\.3"):
            lost(workshop_of("mobilenetv2"), **settings)
    with pytest.raises(CandidateError, match="nothing can be left out; blocks: none"):
        lost(workshop_of("mlp"), ratio=0.5)


def test_a_network_without_blocks_is_told_so() -> None:
    with pytest.raises(SpaceError, match="depth: left out: the network has no block with a way around it"):
        space({"version": 1, "stages": [{"technique": "depth"}]}).restrict(device(), NetworkStructure())


def test_the_recipe_of_a_file_names_the_blocks() -> None:
    """Another machine may rank them otherwise."""
    evaluator = Evaluator(small_task("vit", n=64), device())
    recipe = Recipe.parse({"stages": [{"technique": "depth", "ratio": 0.5}, {"technique": "distill", "epochs": 0}]})
    evaluation = evaluator.evaluate(recipe)[0].evaluation
    (block,) = evaluation.recipe.stages[0].blocks  # type: ignore[attr-defined]
    assert block == next(iter(evaluator.findings.least_missed))
    assert all(bool(x.channels_after) != x.name.startswith(block) for x in evaluation.layers)
    assert evaluator.structure(recipe).fingerprint == evaluator.structure(evaluation.recipe).fingerprint


def test_exits_stay_where_a_block_was() -> None:
    stages = [{"technique": "depth", "blocks": ["blocks.0"]}, {"technique": "early_exit", "places": ["blocks.0"]}]
    evaluator = Evaluator(small_task("resnet", n=64), device())
    outcome = evaluator.evaluate(Recipe.parse({"stages": [*stages, *EXITS["stages"][1:]]}))[0]
    assert [e.place for e in outcome.evaluation.exits] == ["blocks.0", "output"]


@pytest.mark.parametrize("ratio", [step / 20 for step in range(21)])
def test_screening_counts_the_blocks_that_are_left_out(ratio: float) -> None:
    """Costs are shared by recipes of one variant."""
    blocks = {f"blocks.{i}": "stage1" for i in range(10)}
    network = SimpleNamespace(blocks=blocks)
    assert Depth(ratio=ratio).variant(network) == len(Depth(ratio=ratio)._chosen(blocks))  # type: ignore[arg-type]
