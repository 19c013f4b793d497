from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from helpers.small import device, small_task
from torch import nn

from autocompress.compression import factors
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.techniques.low_rank import LowRank
from autocompress.errors import CandidateError, RecipeError
from autocompress.evaluation.elastic import NotCarried, SharedNetwork, SubNetwork
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe

Get = Callable[[str], Context]


def split(context: Context, **settings: object) -> list[str]:
    """The layers that are two now."""
    model = LowRank.model_validate({"round_to": 1, **settings}).apply(Candidate(context.task.model), context).model
    left = dict(model.named_modules())
    return [name for name in context.analysis.layers if f"{name}.0" in left]


def test_shares_are_set_by_layer_and_stage(workshop_of: Get) -> None:
    context = workshop_of("resnet")
    assert split(context) == []
    assert split(context, share={"blocks.1.conv2": 0.5}) == ["blocks.1.conv2"]
    last = [name for name, stage in context.analysis.layers.items() if stage == "stage3"]
    assert set(split(context, share={"stage3": 0.6})) <= set(last) != set()
    with pytest.raises(CandidateError, match=r"low_rank\.share: no layer or stage 'blocks\.9'; layers: stem\.0"):
        split(context, share={"blocks.9": 0.5})


def test_only_pairs_that_make_the_device_faster_are_kept(workshop_of: Get) -> None:
    task, analysis = workshop_of("resnet").task, workshop_of("resnet").analysis

    def layer_ms(candidate: Candidate) -> dict[str, float]:
        """Only the pair of one layer is faster than it was."""
        slow = {name for name, _ in candidate.model.named_modules() if name.startswith("blocks.2.conv2")}
        return dict.fromkeys((name for name, _ in candidate.model.named_modules()), 1.0) | dict.fromkeys(
            slow, 0.4 if "blocks.2.conv2.0" in slow else 1.0
        )

    context = Context(task, analysis, layer_ms=layer_ms)
    assert split(context, share=0.5) == ["blocks.2.conv2"]
    assert len(split(context, share=0.5, keep="all")) > 1


def test_bits_that_a_recipe_gives_a_layer_are_those_of_both_parts() -> None:
    evaluator = Evaluator(small_task("resnet", n=64), device())
    stages = [
        {"technique": "low_rank", "share": {"blocks.2.conv2": 0.5}, "keep": "all", "round_to": 1},
        {"technique": "distill", "epochs": 0},
        {"technique": "ptq", "weight_bits": {"blocks.2.conv2": 4, "default": 8}},
    ]
    layers = evaluator.evaluate(Recipe.parse({"stages": stages}))[0].evaluation.layers
    assert {x.name: x.weight_bits for x in layers if x.name.startswith("blocks.2.conv2") and x.channels_after} == {
        "blocks.2.conv2.0": 4,
        "blocks.2.conv2.1": 4,
    }


def test_it_comes_after_pruning_and_goes_along_with_it(workshop_of: Get) -> None:
    pruning, own = {"technique": "prune", "ratio": 0.25, "round_to": 2}, {"technique": "low_rank", "share": 0.5}
    with pytest.raises(RecipeError, match="low_rank must come after prune; swap the two"):
        Recipe.parse({"stages": [own, pruning]})
    evaluator = Evaluator(small_task("resnet", n=64), device())
    both = Recipe.parse({"stages": [pruning, {**own, "keep": "all", "round_to": 1}]})
    sizes = [evaluator.forecast(r).size_bytes for r in (Recipe.parse({"stages": [pruning]}), both)]
    assert sizes[1] < sizes[0]


def test_shared_weights_do_not_hold_it(workshop_of: Get) -> None:
    context = workshop_of("resnet")
    candidate = LowRank(share=0.5, round_to=1).apply(Candidate(context.task.model), context)
    with pytest.raises(NotCarried, match="is not a parameter of the original network"):
        SubNetwork(candidate, SharedNetwork(context.task.model), context)


def test_a_layer_whose_weights_another_one_has_too_stays_whole(workshop_of: Get) -> None:
    context = workshop_of("mlp")
    model = copy.deepcopy(context.task.model)
    first, *others = [m for m in model.modules() if isinstance(m, nn.Linear)]
    model.again = nn.Linear(first.in_features, first.out_features)
    model.again.weight = first.weight
    assert factors.shares_weights(first, model)
    assert not factors.shares_weights(others[0], model)
    done = LowRank(share=0.5, keep="all", round_to=1).apply(Candidate(model), context)
    assert isinstance(done.model.get_submodule(next(iter(context.analysis.layers))), nn.Linear)
