from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small import small_task
from helpers.tasks import make_workshop
from helpers.zoo import ZOO, synthetic_classification
from torch import Tensor, nn

from autocompress.compression.analysis import analyze
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.training import Schedule
from autocompress.errors import CandidateError, InputError
from autocompress.evaluation.elastic import Elastic, SharedNetwork, SubNetwork
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import outputs_of

Get = Callable[[str], Context]
EXIT = {"technique": "early_exit", "first": 0.3, "hidden": 8}


def recipe(*stages: dict[str, Any]) -> Recipe:
    return Recipe.parse({"stages": list(stages)})


def pruned(context: Context, seed: int, *before: dict[str, Any]) -> Candidate:
    """A candidate with another random share removed from every group, by a random criterion."""
    rng = torch.Generator().manual_seed(seed)
    shares = torch.rand(len(context.analysis.groups), generator=rng) * 0.9
    ratio = dict(zip(context.analysis.groups, shares.tolist(), strict=True))
    prune = {"technique": "prune", "ratio": ratio, "round_to": 1, "importance": ("l2", "fpgm", "random")[seed % 3]}
    candidate = Candidate(context.task.model)
    for stage in recipe(*before, prune).stages:
        candidate = stage.apply(candidate, context)
    return candidate


def shared_with(context: Context, *stages: dict[str, Any]) -> SharedNetwork:
    shared = SharedNetwork(context.task.model)
    candidate = Candidate(context.task.model)
    for stage in recipe(*stages).stages:
        candidate = stage.apply(candidate, context)
    shared.add_heads(candidate)
    return shared


def inputs_for(context: Context, n: int = 8) -> Tensor:
    return synthetic_classification(context.task.example_input, n=n)[0]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_subnetwork_is_the_pruned_network(name: str, seed: int, training: bool, workshop_of: Get) -> None:
    """Bit for bit, BatchNorm included: with running statistics, and with those of the batch."""
    context = workshop_of(name)
    candidate = pruned(context, seed)
    part = SubNetwork(candidate, SharedNetwork(context.task.model), context)
    expected = candidate.copy_model().train(training)
    part.frame.train(training)
    with torch.no_grad():
        torch.manual_seed(0)  # dropout
        want = expected(inputs_for(context))
        torch.manual_seed(0)
        (got,) = part(inputs_for(context))
    assert torch.equal(want, got)
    for name_, buffer in expected.named_buffers():
        assert torch.equal(buffer, part.frame.get_buffer(name_))


@pytest.mark.parametrize("name", ["resnet", "audio1d", "vit_matmul"])
def test_with_exits_too(name: str, workshop_of: Get) -> None:
    context = workshop_of(name)
    candidate = pruned(context, 1, EXIT)
    part = SubNetwork(candidate, shared_with(context, EXIT), context)
    want, got = outputs_of(candidate.model, inputs_for(context)), part(inputs_for(context))
    assert len(want) == len(got) == 2
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_an_exit_that_was_not_trained_is_refused(workshop_of: Get) -> None:
    context = workshop_of("resnet")
    shared = shared_with(context, {**EXIT, "hidden": 16})
    with pytest.raises(CandidateError, match="no exit head 'blocks/0 8' was trained; trained: blocks/0 16"):
        SubNetwork(pruned(context, 0, EXIT), shared, context)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_gradients_reach_the_shared_weights_that_are_kept_and_no_others(name: str, workshop_of: Get) -> None:
    context = workshop_of(name)
    candidate = pruned(context, 0)
    shared = SharedNetwork(context.task.model).requires_grad_(True)
    part = SubNetwork(candidate, shared, context)
    alone = candidate.copy_model().requires_grad_(True)
    alone(inputs_for(context)).square().sum().backward()
    part(inputs_for(context))[0].square().sum().backward()
    whole = dict(shared.backbone.named_parameters())
    for parameter_name, parameter in alone.named_parameters():
        assert parameter.grad is not None and whole[parameter_name].grad is not None
        gradient = whole[parameter_name].grad
        assert int((gradient != 0).sum()) == int((parameter.grad != 0).sum())
        assert torch.allclose(gradient.sum(), parameter.grad.sum(), rtol=1e-4, atol=1e-4)


def test_a_network_whose_weights_are_not_sliced_is_refused(workshop_of: Get) -> None:
    context = workshop_of("resnet")
    other = Candidate(nn.Linear(3, 4), removed={})
    with pytest.raises(CandidateError, match="weight is not a parameter of the original network"):
        SubNetwork(other, SharedNetwork(context.task.model), context)
    candidate = pruned(context, 0)
    with torch.no_grad():
        candidate.model.fc.weight.mul_(2.0)
    with pytest.raises(CandidateError, match=r"the values of fc\.weight are not a slice"):
        SubNetwork(candidate, SharedNetwork(context.task.model), context)


# ---------------------------------------------------------------------------------------------------- training

PRUNE = {"technique": "prune", "round_to": 2}
RECIPES = [recipe({**PRUNE, "ratio": ratio}, {"technique": "distill"}) for ratio in (0.8, 0.75, 0.6, 0.5, 0.25)]
SHORT = Schedule(epochs=6, learning_rate=0.05, clip=1.0)


def elastic(task: Task, folder: Path | None = None, recipes: Sequence[Recipe] = RECIPES, **settings: Any) -> Elastic:
    limit = settings.pop("max_seconds", math.inf)
    context = Context(task, analyze(task), **settings)
    return Elastic.train(context, recipes, schedule=SHORT, folder=folder, max_seconds=limit)


def structure(of: Elastic, chosen: Recipe) -> Candidate:
    candidate = Candidate(of.context.task.model)
    for stage in chosen.stages[:1]:
        candidate = stage.apply(candidate, of.context)
    return candidate


@pytest.fixture(scope="module")
def trained() -> Elastic:
    return elastic(small_task("resnet", batch_size=16))


def test_shared_weights_serve_pruned_networks_better_than_the_originals(trained: Elastic) -> None:
    untrained = Elastic(trained.context, SharedNetwork(trained.context.task.model), "untrained")
    for chosen in RECIPES[:3]:
        candidate = structure(trained, chosen)
        assert trained.accuracy(candidate).value > untrained.accuracy(candidate).value + 0.1
    assert trained.accuracy(candidate).split == "validation"


def test_training_repeats_and_depends_on_the_seed() -> None:
    once, again, other = elastic(small_task("mlp")), elastic(small_task("mlp")), elastic(small_task("mlp"), seed=1)
    candidate = structure(once, RECIPES[1])
    weights = once.weights(candidate)
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.weights(candidate).items())
    assert not all(torch.equal(weights[name], tensor) for name, tensor in other.weights(candidate).items())
    assert again.key == once.key != other.key


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    def interrupt(message: str) -> None:
        if "step 5/" in message:  # in the second epoch of three batches
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        elastic(small_task("mlp"), tmp_path, progress=interrupt)
    steps: list[str] = []
    resumed = elastic(small_task("mlp"), tmp_path, progress=steps.append)
    assert [m.split(",")[0] for m in steps] == [f"elastic training: step {i}/18" for i in range(4, 19)]
    once = elastic(small_task("mlp"))
    candidate = structure(once, RECIPES[1])
    expected = once.weights(candidate)
    assert all(torch.equal(expected[name], tensor) for name, tensor in resumed.weights(candidate).items())


def test_a_time_limit_costs_epochs_and_is_kept_on_resuming(tmp_path: Path) -> None:
    steps: list[str] = []
    for limit in (1e-6, 1e9):
        made = elastic(small_task("mlp"), tmp_path, progress=steps.append, max_seconds=limit)
        assert made.key.endswith(".1")
    assert len(steps) == 3


def test_exits_are_trained_with_the_rest() -> None:
    context = make_workshop("resnet")
    exits = [recipe(EXIT, {**PRUNE, "ratio": ratio}) for ratio in (0.75, 0.5)]
    made = Elastic.train(context, exits, schedule=SHORT)
    before = dict(shared_with(context, EXIT).heads.named_parameters())
    assert before and all(not torch.equal(p, before[name]) for name, p in made.shared.heads.named_parameters())
    again = Elastic.of(context, pickle.loads(pickle.dumps(made.keep())))
    candidate = pruned(context, 0, EXIT)
    expected = made.weights(candidate)
    assert again.key == made.key
    assert all(torch.equal(expected[name], tensor) for name, tensor in again.weights(candidate).items())


def test_a_recipe_that_cannot_be_applied_is_left_out() -> None:
    broken = recipe({**PRUNE, "ratio": {"nowhere": 0.5}})
    task = small_task("mlp")
    assert elastic(task, recipes=[RECIPES[0], broken]).key.endswith(".6")
    with pytest.raises(CandidateError, match="no group or stage 'nowhere'"):
        elastic(task, recipes=[broken, RECIPES[0]])


def test_what_it_needs_is_said() -> None:
    with pytest.raises(InputError, match="needs one or more recipes"):
        elastic(small_task("mlp"), recipes=[])
    with pytest.raises(InputError, match="the task brings no training data"):
        elastic(small_task("mlp", train=None))
