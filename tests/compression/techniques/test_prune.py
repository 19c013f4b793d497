from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch
from helpers.tasks import make_workshop
from helpers.zoo import ZOO
from torch import nn

from autocompress.compression import channels
from autocompress.compression.analysis import analyze
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.techniques.early_exit import EarlyExit
from autocompress.compression.techniques.prune import Importance, Prune, prune_channels
from autocompress.errors import CandidateError, RecipeError
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import outputs_of

Get = Callable[[str], Context]
RATIOS = (0.25, 0.5, 0.75, 0.9)


def size(candidate: Candidate) -> int:
    return sum(p.numel() for p in candidate.model.parameters())


def prune(context: Context, **settings: object) -> Candidate:
    stage = Prune.model_validate({"round_to": 2, **settings})
    return stage.apply(Candidate(context.task.model), context)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_pruning_is_monotone_and_the_network_still_runs(name: str, workshop_of: Get) -> None:
    context = workshop_of(name)
    inputs = torch.randn(3, *context.task.example_input.shape[1:])
    sizes = [context.analysis.n_params]
    for ratio in RATIOS:
        pruned = prune(context, ratio=ratio)
        sizes.append(size(pruned))
        (output,) = outputs_of(pruned.model, inputs)
        assert output.shape == (3, 4) and torch.isfinite(output).all()
        for parameter in pruned.model.parameters():
            assert parameter.numel() > 0
    assert sizes == sorted(set(sizes), reverse=True)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_widths_are_what_the_ratio_asks_for(name: str, workshop_of: Get) -> None:
    context = workshop_of(name)
    pruned = prune(context, ratio=0.5)
    assert set(pruned.removed) == set(context.analysis.groups)
    for group, lost in pruned.removed.items():
        width = context.analysis.widths[group]
        assert len(set(lost)) == len(lost) == width / 2 and min(lost) >= 0 and max(lost) < width
        if "attn" not in group:
            assert pruned.model.get_submodule(group).weight.shape[0] == width / 2
    for protected, reason in context.analysis.unprunable.items():
        if reason == "output of the network":
            assert pruned.model.get_submodule(protected).weight.shape[0] == 4


def test_every_width_of_a_ratio_near_one_is_the_smallest_step(workshop_of: Get) -> None:
    pruned = prune(workshop_of("resnet"), ratio=0.99, round_to=4)
    convs = [m for m in pruned.model.modules() if isinstance(m, nn.Conv2d)]
    assert {m.out_channels for m in convs} == {4}


def test_groups_of_convolutions_stay_equal(workshop_of: Get) -> None:
    for ratio in RATIOS:
        model = prune(workshop_of("grouped"), ratio=ratio).model
        grouped = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
        assert len(grouped) == 2 and all(m.in_channels % m.groups == m.out_channels % m.groups == 0 for m in grouped)
        assert [m.groups for m in grouped] == [4, 2]


def test_depthwise_convolutions_stay_depthwise(workshop_of: Get) -> None:
    model = prune(workshop_of("mobilenetv2"), ratio=0.5).model
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) == 4 and all(m.groups == m.in_channels == m.out_channels for m in depthwise)


def test_heads_go_as_a_whole(workshop_of: Get) -> None:
    context = workshop_of("vit_matmul")
    pruned = prune(context, ratio={"blocks.0.attn.qkv": 0.5})
    attention = pruned.model.blocks[0].attn
    assert (attention.num_heads, attention.qkv.out_features, attention.proj.in_features) == (2, 3 * 16, 16)
    assert len(pruned.removed["blocks.0.attn.qkv"]) == 2
    original = context.task.model.blocks[0].attn
    kept = [h for h in range(4) if h not in pruned.removed["blocks.0.attn.qkv"]]
    rows = [part * 32 + head * 8 + i for part in range(3) for head in kept for i in range(8)]
    assert torch.equal(attention.qkv.weight, original.qkv.weight[rows])
    assert pruned.model.blocks[1].attn.num_heads == 4


def test_table_prunes_by_stage_group_and_pattern(workshop_of: Get) -> None:
    context = workshop_of("resnet")
    by_stage = prune(context, ratio={"stage2": 0.5})
    assert set(by_stage.removed) == {n for n, s in context.analysis.groups.items() if s == "stage2"}
    mixed = prune(context, ratio={"default": 0.25, "stage3": 0.0, "blocks.1.*": 0.75})
    assert {n: len(v) for n, v in mixed.removed.items()} == {
        "stem.0": 2,
        "blocks.0.conv1": 2,
        "blocks.1.conv1": 12,
        "blocks.1.conv2": 12,
    }


def test_unknown_names_are_refused(workshop_of: Get) -> None:
    with pytest.raises(
        CandidateError, match=r"prune.ratio: no group or stage 'stage9'; stages: stage1, stage2, stage3; groups"
    ):
        prune(workshop_of("resnet"), ratio={"stage1": 0.5, "stage9": 0.5})
    with pytest.raises(CandidateError, match=r"prune\.ratio: 'fc' cannot be pruned: output of the network"):
        prune(workshop_of("resnet"), ratio={"fc": 0.5})


def test_a_ratio_of_zero_removes_nothing_and_says_so(workshop_of: Get) -> None:
    context = workshop_of("resnet")
    pruned = prune(context, ratio=0.0)
    assert pruned.notes == ("prune: nothing removed",) and size(pruned) == context.analysis.n_params
    (note,) = prune(context, ratio=0.5).notes
    assert note.startswith("prune: 56 channels of 6 groups removed (6 of 6 groups, 100% of the parameters can be")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ratio": 0.9, "round_to": 64}, "rounded to multiples of 64 .the largest one is 32, the largest ratio 0.9"),
        ({"ratio": 0.01}, "rounded to multiples of 2"),
    ],
)
def test_a_prune_stage_that_removes_nothing_fails_with_the_reason(
    settings: dict[str, object], reason: str, workshop_of: Get
) -> None:
    with pytest.raises(CandidateError, match=f"prune: nothing was removed: .*{reason}"):
        prune(workshop_of("resnet"), **settings)


def test_an_importance_that_means_nothing_fails_the_candidate(workshop_of: Get) -> None:
    with pytest.raises(CandidateError, match="importance 'bn_scale' has no meaning for these layers; use 'l2'"):
        prune(workshop_of("vit_matmul"), ratio=0.5, importance="bn_scale")


def test_a_network_without_groups_fails_with_the_reasons() -> None:
    class OnlyHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x)

    task = Task.classification(OnlyHead().eval(), example_input=torch.zeros(1, 8), val=[])
    with pytest.raises(CandidateError, match=r"nothing can be removed .*fc: output of the network"):
        prune(Context(task, analyze(task)), ratio=0.5)


@pytest.mark.parametrize("importance", get_args(Importance))
@pytest.mark.parametrize("name", ["resnet", "grouped", "dscnn"])
def test_every_importance_works_and_repeats(name: str, importance: str, workshop_of: Get) -> None:
    context = workshop_of(name)
    a, b = (prune(context, ratio=0.5, importance=importance) for _ in range(2))
    assert a.removed == b.removed and size(a) == size(prune(context, ratio=0.5))
    assert all(p.grad is None for p in context.task.model.parameters())


def test_importances_differ_and_random_follows_the_seed(workshop_of: Get) -> None:
    context = workshop_of("resnet")
    removed = {i: str(prune(context, ratio=0.5, importance=i).removed) for i in ("l2", "fpgm", "taylor", "random")}
    assert len(set(removed.values())) == 4
    other = prune(replace(context, seed=1), ratio=0.5, importance="random")
    assert str(other.removed) != removed["random"]


def test_taylor_sees_what_does_not_matter_to_the_loss() -> None:
    context = make_workshop("resnet")
    model = context.task.model
    with torch.no_grad():
        model.fc.weight[:, [3, 5]] = 0  # nobody reads the two channels
        model.blocks[2].conv2.weight[[3, 5]] *= 10
    assert prune(context, ratio={"blocks.2.conv2": 0.07}, importance="taylor").removed == {"blocks.2.conv2": (3, 5)}
    assert not {3, 5} & set(prune(context, ratio={"blocks.2.conv2": 0.5}).removed["blocks.2.conv2"])


def test_taylor_needs_training_data() -> None:
    context = make_workshop("mlp", train=None)
    with pytest.raises(CandidateError, match="importance 'taylor' needs training data; use 'l2'"):
        prune(context, ratio=0.5, importance="taylor")


def test_gradients_left_by_the_user_do_not_count(workshop_of: Get) -> None:
    context = make_workshop("mlp")
    clean = prune(context, ratio=0.5, importance="taylor")
    for parameter in context.task.model.parameters():
        parameter.grad = torch.randn(parameter.shape) * 100
    assert prune(context, ratio=0.5, importance="taylor").removed == clean.removed


@pytest.mark.parametrize("importance", ["l2", "taylor", "fpgm"])
@pytest.mark.parametrize("name", ["resnet", "audio1d", "vit_matmul", "shared"])
def test_exit_heads_follow_the_pruned_backbone(name: str, importance: str, workshop_of: Get) -> None:
    context = workshop_of(name)
    multi = EarlyExit(count=2, hidden=8).apply(Candidate(context.task.model), context)
    pruned = Prune(ratio=0.5, round_to=2, importance=importance).apply(multi, context)  # type: ignore[arg-type]
    assert size(pruned) < size(multi) and pruned.exits == multi.exits
    outputs = outputs_of(pruned.model, torch.randn(2, *context.task.example_input.shape[1:]))
    assert [tuple(o.shape) for o in outputs] == [(2, 4)] * (len(multi.exits) + 1)
    alone = prune(context, ratio=0.5)
    assert {n.removeprefix("backbone."): len(v) for n, v in pruned.removed.items()} == {
        n: len(v) for n, v in alone.removed.items()
    }
    for head in pruned.model.heads:  # type: ignore[union-attr]
        assert head.classifier.out_features == 4


def test_errors_of_the_analysis_fail_the_candidate(workshop_of: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("float division by zero")

    context = workshop_of("mlp")
    monkeypatch.setattr(channels, "trace_channels", fail)
    with pytest.raises(
        CandidateError, match="the structure of the network cannot be followed: ZeroDivisionError: float div"
    ):
        prune(context, ratio=0.5)
    assert prune(context, ratio=0.0).notes == ("prune: nothing removed",)


def test_a_network_that_breaks_fails_the_candidate() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            if y.shape[1] < 12:
                raise ValueError("too narrow")
            return self.b(y)

    model, example = Picky().eval(), torch.zeros(1, 8)
    analysis = analyze(Task.classification(model, example_input=example, val=[]))
    assert analysis.widths == {"a": 16}  # losing one channel does no harm
    assert prune_channels(copy.deepcopy(model), example, {"a": 0.25}, round_to=1, order=["a", "b"])
    with pytest.raises(CandidateError, match="prune: the pruned network does not run: ValueError: too narrow"):
        prune_channels(model, example, {"a": 0.5}, round_to=1, order=["a", "b"])


@pytest.mark.parametrize("ratio", [1.0, -0.1, math.nan, {"stage1": 1.0}, "half"])
def test_impossible_ratios_are_refused(ratio: object) -> None:
    with pytest.raises(RecipeError, match=r"stages\.0: ratio"):
        Recipe.parse({"stages": [{"technique": "prune", "ratio": ratio}]})
