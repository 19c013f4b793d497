from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from helpers.zoo import ZOO
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress.compression.candidate import Context
from autocompress.compression.channels import ChannelPruner, channels_to_keep, criterion
from autocompress.compression.probe import probe_groups
from autocompress.tasks.torch_utils import outputs_of

RATIOS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@pytest.mark.parametrize("round_to", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("n_parts", [1, 2, 3, 4, 8])
def test_widths_never_reach_zero_and_fall_with_the_ratio(round_to: int, n_parts: int) -> None:
    for n in range(n_parts, 97, n_parts):
        kept = [channels_to_keep(n, ratio, round_to, n_parts) for ratio in RATIOS]
        assert kept[0] == n and kept == sorted(kept, reverse=True)
        assert all(0 < k <= n and k % n_parts == 0 for k in kept)
        if n_parts == 1:
            assert all(k == n or k % round_to == 0 for k in kept)


def test_widths_by_hand() -> None:
    assert channels_to_keep(64, 0.5, 8) == 32
    assert channels_to_keep(64, 0.9, 8) == 8
    assert channels_to_keep(64, 0.99, 8) == 8
    assert channels_to_keep(8, 0.9, 8) == 8
    assert channels_to_keep(12, 0.9, 8) == 8
    assert channels_to_keep(32, 0.9, 1, n_parts=4) == 4
    assert channels_to_keep(4, 0.9, 1) == 1
    assert channels_to_keep(18, 0.5, 8, n_parts=6) == 12


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("resnet", "fc"), ("mobilenetv2", "classifier.1"), ("vit", "head"), ("shared", "fc"), ("mlp", "6")],
)
def test_what_makes_the_output_stays(name: str, outputs: str) -> None:
    model, example = ZOO[name]()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    fixed = ChannelPruner(model, example, ()).fixed
    assert [layer for layer, reason in fixed.items() if reason == "output of the network"] == [outputs]
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("pack", [tuple, list, lambda pair: dict(zip("pq", pair, strict=True))])
def test_outputs_are_found_in_whatever_holds_them(pack: Callable[[tuple[Tensor, Tensor]], object]) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> object:
            x = F.relu(self.a(x), inplace=True)
            return pack((self.b(x).softmax(-1), self.c(x) + 2 * self.d(x)))

    found = probe_groups(Two(), torch.zeros(1, 4), list("abcd"), torch.randn(2, 4))
    assert dict(found.refused) == dict.fromkeys("bcd", "output of the network")
    assert [g.name for g in found.groups] == ["a"]


def pruner_of(context: Context) -> ChannelPruner:
    task = context.task
    return ChannelPruner(copy.deepcopy(task.model), task.example_input, list(context.analysis.layers))


@pytest.mark.parametrize("name", sorted(ZOO))
def test_removing_channels_that_nobody_reads_changes_nothing(name: str, workshop_of: Callable[[str], Context]) -> None:
    """What the channels are multiplied with in the next layers is set to zero first, so that they cannot matter."""
    context = workshop_of(name)
    inputs = torch.randn(2, *context.task.example_input.shape[1:])
    for group_name in context.analysis.groups:
        if name.startswith("vit") and group_name == "patch_embed":
            continue  # layer norms read the width itself
        pruner = pruner_of(context)
        group = next(g for g in pruner.groups if g.name == group_name)
        parameters = dict(pruner.model.named_parameters())
        with torch.no_grad():
            for (parameter, axis), indices in group.axes.items():
                if axis == 1:
                    parameters[parameter][:, [*indices[0], *indices[2]]] = 0
        expected = outputs_of(pruner.model, inputs)[0]
        pruner.remove(group, [0, 2])
        got = outputs_of(pruner.model, inputs)[0]
        assert torch.allclose(expected, got, atol=1e-5), group_name
        assert sum(p.numel() for p in pruner.model.parameters()) < context.analysis.n_params


@pytest.mark.parametrize("name", sorted(ZOO))
def test_groups_are_widths_of_the_network(name: str, workshop_of: Callable[[str], Context]) -> None:
    context = workshop_of(name)
    for group in pruner_of(context).groups:
        if group.name in context.analysis.groups and not group.n_heads:
            assert group.n_channels == context.analysis.channels[group.name]
    assert all(context.analysis.unprunable.get(name) is None for name in context.analysis.groups)


@pytest.mark.parametrize("name", ["l1", "l2", "lamp", "fpgm", "bn_scale"])
def test_importance_ranks_a_dead_channel_last(name: str, workshop_of: Callable[[str], Context]) -> None:
    pruner = pruner_of(workshop_of("resnet"))
    group = next(g for g in pruner.groups if g.name == "blocks.1.conv1")
    conv, norm = pruner.model.get_submodule("blocks.1.conv1"), pruner.model.get_submodule("blocks.1.bn1")
    after = pruner.model.get_submodule("blocks.1.conv2")
    with torch.no_grad():
        conv.weight[5] = conv.weight.mean(0) if name == "fpgm" else 0  # the geometric median is what can be replaced
        norm.weight[5], after.weight[:, 5] = 0, 0
    scores = pruner.importance(group, criterion(name))
    assert scores is not None and scores.shape == (16,) and int(scores.argmin()) == 5


def test_fpgm_sees_signs_which_torch_prunings_own_does_not() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1, 1], [1, 1, 1.1], [1.1, 1, 1], [-1, -1, -1]]))
    pruner = ChannelPruner(model, torch.zeros(1, 3), ["0", "1"])
    scores = pruner.importance(pruner.groups[0], criterion("fpgm"))
    assert scores is not None and int(scores.argmax()) == 3


def test_separate_projections_lose_the_same_heads() -> None:
    class Separate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.width = 4, 8
            self.embed = nn.Linear(16, 16)
            self.query, self.key, self.value = (nn.Linear(16, 32) for _ in range(3))
            self.proj, self.out = nn.Linear(32, 16), nn.Linear(16, 3)

        def split(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], x.shape[1], -1, self.width).transpose(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.embed(x))
            q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
            y = (q @ k.transpose(-2, -1) / 3).softmax(-1) @ v
            return self.out(self.proj(y.transpose(1, 2).flatten(2)).mean(1))

    torch.manual_seed(0)
    model, example = Separate().eval(), torch.randn(1, 5, 16)
    order = ["embed", "query", "key", "value", "proj", "out"]
    found = probe_groups(model, example, order)
    good, bad = found.groups, found.refused
    for group in (g for g in good if g.name in ("query", "key", "value")):
        pruner = ChannelPruner(copy.deepcopy(model), example, order)
        twin = next(g for g in pruner.groups if g.name == group.name)
        pruner.remove(twin, [1])
        widths = {n: pruner.model.get_submodule(n).out_features for n in ("query", "key", "value")}
        assert widths == dict.fromkeys(widths, 24) and pruner.model.num_heads == 3
        assert outputs_of(pruner.model, example)[0].shape == (1, 3)
    assert [g.name for g in good] == ["embed", "query", "proj"] and set(bad) == {"out"}


def test_a_single_channel_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    found = probe_groups(model, torch.zeros(1, 3, 9, 9), ["0", "2", "4"])
    assert [g.name for g in found.groups] == ["2"]
    assert found.refused == {"4": "output of the network", "0": "it has a single unit"}


class LastToken(nn.Module):
    """Queries, keys and values in one layer, split by a width that the module knows; answers at a place by the ids."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.split_size = 4, 16
        self.words, self.c_attn, self.c_proj = nn.Embedding(30, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.score = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids)
        parts = self.c_attn(x).split(self.split_size, dim=2)
        q, k, v = (part.reshape(*ids.shape, -1, 4).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].bool())
        x = x + self.c_proj(y.transpose(1, 2).flatten(2))
        x = self.score(x + self.down(self.up(x).relu()))
        return x[torch.arange(len(ids)), (mask * torch.arange(ids.shape[1])).argmax(-1)]


class MeanOfWords(nn.Module):
    """Weighted by the mask, which is one of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.up, self.score = nn.Embedding(30, 16), nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask[..., None].float()
        return self.score((self.up(self.words(ids)).relu() * weights).sum(1) / weights.sum(1))


@pytest.mark.parametrize(
    ("kind", "groups"), [(LastToken, {"c_attn": 4, "c_proj": 16, "up": 24}), (MeanOfWords, {"words": 16, "up": 24})]
)
def test_masks_and_places_from_the_inputs_tie_no_channels(kind: type[nn.Module], groups: dict[str, int]) -> None:
    torch.manual_seed(0)
    ids, mask = torch.randint(1, 30, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    found = probe_groups(kind().eval(), {"ids": ids, "mask": mask}, ["c_attn", "c_proj", "up", "down", "score"])
    assert {group.name: group.n_units for group in found.groups} == groups
    assert set(found.refused) == {"score"}


def test_an_input_that_differs_from_channel_to_channel_still_ties_them() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * x)

    found = probe_groups(Added().eval(), torch.randn(2, 8), ["a", "b"])
    assert not found.groups and found.refused["a"] == "it meets the input of the network"
