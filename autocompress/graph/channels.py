"""Groups of channels that must be pruned together, found by Torch-Pruning's dependency graph.

Reference: G. Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv 2301.12900.
Why not its own pruners: they round down and then skip a group that would become empty, so that a ratio of 0.9
removes less than one of 0.5; and their default arguments are shared between instances.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from autocompress.errors import CandidateError, first_line
from autocompress.networks import evaluating, outputs_of

_HEAD_COUNTS = ("num_heads", "n_heads", "num_attention_heads", "heads", "n_head", "nhead", "h")
_INNER_WIDTHS = ("all_head_size", "all_head_dim", "inner_dim")
_PROJECTION = re.compile(r"(qkv|to_qkv|in_proj|[qkv]|query|key|value|[qkv]_proj|to_[qkv]|w[qkv])$", re.IGNORECASE)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of several layers that are removed together; for attention the unit is a whole head."""

    name: str
    """The first layer, in order of execution, whose output channels belong to it."""
    members: Any
    """Torch-Pruning's group with all its channels."""
    n_channels: int
    n_parts: int
    """Equal parts that must lose the same channels: groups of a convolution or of a GroupNorm."""
    heads_of: str
    """Name of the attention module whose heads these are, else empty."""
    n_heads: int

    @property
    def n_units(self) -> int:
        """What a pruning ratio counts: heads, else channels."""
        return self.n_heads or self.n_channels

    def channels(self, units: Sequence[int]) -> list[int]:
        """Channels that go with some units: those of whole heads, or the same one of every part."""
        if self.n_heads:
            width = self.n_channels // self.n_heads
            return sorted(head * width + i for head in units for i in range(width))
        width = self.n_channels // self.n_parts
        return sorted(part * width + unit for part in range(self.n_parts) for unit in units)


def channels_to_keep(n_channels: int, ratio: float, round_to: int, n_parts: int = 1) -> int:
    """Number of channels that stay, never none, never more than there are.

    A multiple of `n_parts`, so that all parts stay equal, and of `round_to` where both fit into the group.
    """
    if ratio <= 0 or n_channels <= round_to:
        return n_channels
    step = math.lcm(round_to, n_parts)
    if step >= n_channels:
        step = n_parts
    return min(n_channels, max(step, round(n_channels * (1 - ratio) / step) * step))


class ChannelPruner:
    """The channel groups of one model, and their removal from it, in place.

    Args:
        model: pruned in place.
        example: an input, shape (N, ...).
        protected: layers whose outputs must stay as they are, such as classifiers.
        order: names of the layers in order of execution, to name groups by.
    """

    def __init__(self, model: nn.Module, example: Tensor, protected: Sequence[str], order: Sequence[str]) -> None:
        self.model = model
        self.example = example
        self.names = {module: name for name, module in model.named_modules()}
        self._rank = {name: i for i, name in enumerate(order)}
        self._heads = _attention_heads(model)
        with _quiet(), evaluating(model):
            self._graph = tp.DependencyGraph().build_dependency(model, example_inputs=example)
            ignored = [model.get_submodule(name) for name in protected]
            groups = [self._describe(g) for g in self._graph.get_all_groups(ignored_layers=ignored)]
        self.groups = sorted(groups, key=lambda g: self._rank.get(g.name, len(self._rank)))

    def importance(self, group: ChannelGroup, criterion: Any) -> Tensor | None:
        """Importance of each unit of the group, shape (n_units / n_parts,), or None where it has no meaning."""
        with _quiet():
            scores: Tensor | None = criterion(group.members)
        if scores is None or len(scores) != group.n_channels or not torch.isfinite(scores).all():
            return None
        scores = scores.detach().float()
        if group.n_heads:
            return scores.view(group.n_heads, -1).mean(1)
        return scores.view(group.n_parts, -1).mean(0)

    def remove(self, group: ChannelGroup, units: Sequence[int]) -> None:
        """Remove units (channels of one part, or heads) from every member of the group."""
        if not units:
            return
        root = group.members[0].dep
        with _quiet():
            self._graph.get_pruning_group(root.target.module, root.handler, group.channels(units)).prune()
        if group.n_heads:
            _set_heads(self.model.get_submodule(group.heads_of), group.n_heads, len(units), group.n_channels)

    def _describe(self, group: Any) -> ChannelGroup:
        projections = [
            dep.target.module
            for dep, _ in group
            if dep.target.module in self._heads and self._graph.is_out_channel_pruning_fn(dep.handler)
        ]
        name = self._name(group)
        if projections:
            group = self._from_downstream(group)
            owner, n_heads = self._heads[projections[0]]
            return ChannelGroup(name, group, len(group[0].idxs), 1, owner, n_heads)
        return ChannelGroup(name, group, len(group[0].idxs), self._parts(group), "", 0)

    def _name(self, group: Any) -> str:
        names: list[str] = [
            self.names[dep.target.module]
            for dep, _ in group
            if dep.target.module in self.names and self._graph.is_out_channel_pruning_fn(dep.handler)
        ]
        known = [name for name in names if name in self._rank]
        return min(known, key=self._rank.__getitem__) if known else (names or ["?"])[0]

    def _from_downstream(self, group: Any) -> Any:
        """Express an attention group by the inputs of its output projection: one index per channel of a head."""
        for dep, idxs in group:
            if isinstance(dep.target.module, nn.Linear) and self._graph.is_in_channel_pruning_fn(dep.handler):
                return self._graph.get_pruning_group(dep.target.module, dep.handler, list(idxs))
        return group

    def _parts(self, group: Any) -> int:
        parts = 1
        for dep, _ in group:
            module = dep.target.module
            if isinstance(module, (nn.Conv1d, nn.Conv2d)) and 1 < module.groups < module.out_channels:
                parts = math.lcm(parts, module.groups)
            elif isinstance(module, nn.GroupNorm):
                parts = math.lcm(parts, module.num_groups)
        return parts if len(group[0].idxs) % parts == 0 else 1


def probe_groups(model: nn.Module, example: Tensor, order: Sequence[str]) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Try every channel group of a model on a copy: those that can be pruned, and the others with the reason.

    A group is prunable when the network still runs and returns the same shape after losing one unit of it.
    """
    protected = output_layers(model, example)
    expected = outputs_shape(model, example)
    try:
        groups = ChannelPruner(copy.deepcopy(model), example, protected, order).groups
    except Exception as error:  # Torch-Pruning raises anything on graphs it cannot follow
        return [], {"(whole network)": f"its structure cannot be followed: {_short(error)}"}
    good, bad = [], dict.fromkeys(protected, "output of the network")
    for index, group in enumerate(groups):
        if group.n_units // group.n_parts < 2:
            bad[group.name] = "it has a single unit"
            continue
        pruner = ChannelPruner(copy.deepcopy(model), example, protected, order)
        twin = pruner.groups[index]
        try:
            before = sum(p.numel() for p in pruner.model.parameters())
            pruner.remove(twin, [0])
            shape = outputs_shape(pruner.model, example)
            if shape != expected:
                raise CandidateError(f"the output would become {shape} instead of {expected}")
            if sum(p.numel() for p in pruner.model.parameters()) >= before:
                raise CandidateError("nothing would be removed")
        except Exception as error:  # any failure of the probe means the same: leave this group alone
            bad[group.name] = _short(error)
        else:
            good.append(group)
    return good, bad


def output_layers(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Layers whose outputs are the network's own, found by following the graph back from its outputs."""
    copied = copy.deepcopy(model)
    layers: dict[nn.Module, str] = {
        m: n for n, m in copied.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))
    }
    producers: dict[Any, str] = {}

    def remember(module: nn.Module, _: Any, output: Tensor) -> None:
        producers[output.grad_fn] = layers[module]

    for parameter in copied.parameters():
        parameter.requires_grad_(True)
    for module in layers:
        module.register_forward_hook(remember)
    with evaluating(copied):
        output = copied(example)
    outputs = output if isinstance(output, tuple) else (output,)
    found: list[str] = []
    for tensor in outputs:
        pending, seen = [tensor.grad_fn], set()
        while pending:
            node = pending.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in producers:
                found.append(producers[node])
            else:
                pending.extend(parent for parent, _ in node.next_functions)
    return tuple(dict.fromkeys(found))


def _attention_heads(model: nn.Module) -> dict[nn.Module, tuple[str, int]]:
    """Projections to queries, keys and values, with the name of their attention module and its heads."""
    result: dict[nn.Module, tuple[str, int]] = {}
    for name, module in model.named_modules():
        heads = next((v for a in _HEAD_COUNTS if isinstance(v := getattr(module, a, None), int)), 0)
        for child_name, child in module.named_children():
            if heads > 0 and isinstance(child, nn.Linear) and _PROJECTION.fullmatch(child_name):
                result[child] = (name, heads)
    return result


def _set_heads(module: nn.Module, before: int, removed: int, width: int) -> None:
    for attribute in _HEAD_COUNTS:
        if getattr(module, attribute, None) == before:
            setattr(module, attribute, before - removed)
    for attribute in _INNER_WIDTHS:
        if getattr(module, attribute, None) == width:
            setattr(module, attribute, width // before * (before - removed))


def outputs_shape(model: nn.Module, example: Tensor) -> list[tuple[int, ...]]:
    """Shapes of all outputs."""
    return [tuple(output.shape) for output in outputs_of(model, example)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch-Pruning warns about parameters that it handles well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def criterion(name: str) -> Any:
    """Torch-Pruning's importance criterion by our name."""
    table: Mapping[str, Any] = {
        "l1": lambda: tp.importance.MagnitudeImportance(p=1),
        "l2": lambda: tp.importance.MagnitudeImportance(p=2),
        "lamp": lambda: tp.importance.LAMPImportance(),
        "fpgm": lambda: _geometric_median,
        "taylor": lambda: tp.importance.GroupTaylorImportance(),
        "bn_scale": lambda: tp.importance.BNScaleImportance(),
        "random": lambda: tp.importance.RandomImportance(),
    }
    return table[name]()


@torch.no_grad()
def _geometric_median(members: Any) -> Tensor | None:
    """FPGM (arXiv 1811.00250): a filter close to all the others is the one that can be replaced by them.

    Torch-Pruning's own compares squared weights, which lose their sign, and fails on grouped convolutions.
    """
    scores: list[Tensor] = []
    for i, (dep, idxs) in enumerate(members):
        module, root = dep.target.module, members[i].root_idxs
        if dep.handler not in (tp.prune_conv_out_channels, tp.prune_linear_out_channels):
            continue
        weight = module.weight.transpose(0, 1) if getattr(module, "transposed", False) else module.weight
        filters = weight[idxs].flatten(1)
        distances = torch.cdist(filters, filters).sum(1)
        if distances.sum() > 0 and None not in root:
            score = distances.new_zeros(len(members[0].idxs))
            scores.append(score.index_add(0, torch.tensor(root), distances / distances.mean()))
    return torch.stack(scores).mean(0) if scores else None


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"[:160]
