"""Groups of channels that must be pruned together, and their removal.

What belongs together is found by `labels.trace_channels`. Torch-Pruning gives the criteria of importance only. Why not
its dependency graph: it follows index arithmetic through the operators, some of which it takes for others (a flatten
of channels-last features, a concatenation with the input, padded channels), so that other columns were removed than
the channels fed; it walks rotary embeddings and shifted windows without end; and one operator that it does not know
costs the whole network.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from autocompress.compression.labels import Axis, Ints, trace_channels
from autocompress.tasks.interface import Inputs

_HEAD_COUNTS = ("num_heads", "n_heads", "num_attention_heads", "heads", "n_head", "nhead", "h")
_INNER_WIDTHS = ("all_head_size", "all_head_dim", "inner_dim", "attn_dim", "split_size")
_PROJECTION = re.compile(
    r"(qkv|to_qkv|in_proj|c_attn|[qkv]|query|key|value|[qkv]_proj|[qkv]_lin|to_[qkv]|w[qkv])$", re.IGNORECASE
)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of several layers that are removed together; for attention the unit is a whole head."""

    name: str
    """The first layer, in order of execution, whose output channels belong to it."""
    parts: tuple[tuple[int, ...], ...]
    """For each unit, the output channels of that layer that go with it: one, or one of each part of its output."""
    axes: Mapping[Axis, tuple[Ints, ...]]
    """What each unit is in every parameter: indices along an axis."""
    heads_of: str | None
    """Name of the attention module whose heads these are, if they are."""

    @property
    def n_heads(self) -> int:
        """Heads of attention, or 0."""
        return 0 if self.heads_of is None else len(self.parts)

    @property
    def n_parts(self) -> int:
        """Parts that must lose the same channels: groups of a convolution or of a GroupNorm, halves of a GLU."""
        return len(self.parts[0]) if self.heads_of is None else 1

    @property
    def n_channels(self) -> int:
        """Output channels of the first layer."""
        return len(self.parts) * len(self.parts[0])

    @property
    def n_units(self) -> int:
        """What a pruning ratio counts: heads, else channels."""
        return self.n_heads or self.n_channels

    def channels(self, units: Sequence[int]) -> list[int]:
        """Output channels of the first layer that go with some units."""
        return sorted(channel for unit in units for channel in self.parts[unit])

    def units_of(self, removed: Sequence[int]) -> list[int]:
        """The reverse: the units that a candidate tells of by its `removed` (channels of the first layer, or heads)."""
        if self.n_heads:
            return list(removed)
        lost = set(removed)
        return [unit for unit, channels in enumerate(self.parts) if channels[0] in lost]


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
        example: inputs, each (N, ...).
        order: names of the layers in order of execution, to name groups by.

    Raises:
        Exception: whatever the model raises when it is run.
    """

    def __init__(self, model: nn.Module, example: Inputs, order: Sequence[str]) -> None:
        self.model = model
        self._rank = {name: i for i, name in enumerate(order)}
        self._owners = _owners(model)
        self._channels = trace_channels(model, example)
        self._heads = _attention_heads(model)
        self._left: dict[Axis, Ints] = {a: np.arange(len(c)) for a, c in self._channels.component.items()}
        self.fixed: dict[str, str] = {}
        """Layers with channels that must stay, with the reason."""
        self.groups = self._find()

    def importance(self, group: ChannelGroup, criterion: Any) -> Tensor | None:
        """Importance of each unit of the group, shape (n_units / n_parts,), or None where it has no meaning."""
        with _quiet():
            scores: Tensor | None = criterion(_members(group, self._owners, self._channels.reads))
        n = len(group.parts)
        if scores is None or len(scores) < n or not torch.isfinite(scores[:n]).all():
            return None
        return scores[:n].detach().float()

    def remove(self, group: ChannelGroup, units: Sequence[int]) -> None:
        """Remove units (channels of one part, or heads) from every member of the group."""
        if not units:
            return
        for (name, axis), indices in group.axes.items():
            left = self._left[name, axis]
            keep = ~np.isin(left, np.concatenate([indices[u] for u in units]))
            self._left[name, axis] = left[keep]
            _cut(self._owners[name], axis, torch.from_numpy(np.flatnonzero(keep)))
            for _, module, _ in self._owners[name]:
                _tell_widths(module, depthwise=(name, 1) not in self._channels.reads)
        if group.heads_of is not None:
            _set_heads(self.model.get_submodule(group.heads_of), group.n_heads, len(units))

    def marks(self, group: ChannelGroup, units: Sequence[int]) -> Iterator[tuple[str, int, Ints]]:
        """Where the channels of some units are made: names of parameters, axes, and indices along them."""
        for (name, axis), indices in group.axes.items():
            if (name, axis) not in self._channels.reads or (name, axis) in self._channels.produces:
                yield name, axis, np.concatenate([indices[u] for u in units])

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Give back what is removed meanwhile: parameters are replaced, not changed, so nothing is copied."""
        left = dict(self._left)
        saved = [
            (m, {k: copy.copy(v) if type(v) in (dict, list) else v for k, v in vars(m).items()})
            for m in self.model.modules()
        ]
        try:
            yield
        finally:
            self._left = left
            for module, state in saved:
                vars(module).clear()
                vars(module).update(state)

    # -- finding groups

    def _find(self) -> list[ChannelGroup]:
        found = self._channels
        members: dict[int, list[tuple[Axis, Ints]]] = {}
        for axis in sorted(found.component):
            numbers = found.component[axis]
            order = np.argsort(numbers, kind="stable")
            for indices in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
                if found.known[number := int(numbers[indices[0]])]:
                    members.setdefault(number, []).append((axis, indices))
        alike: dict[tuple[tuple[Axis, int], ...], list[int]] = {}
        for number, parts in members.items():
            if number in found.fixed:
                self._note_fixed(parts, found.fixed[number])
            else:
                alike.setdefault(tuple((axis, len(indices)) for axis, indices in parts), []).append(number)
        groups = [self._describe([dict(members[n]) for n in numbers], numbers) for numbers in alike.values()]
        groups.sort(key=lambda g: (self._rank.get(g.name, len(self._rank)), g.parts))
        return _with_unique_names(groups)

    def _note_fixed(self, parts: Sequence[tuple[Axis, Ints]], reason: str) -> None:
        for axis, _ in parts:
            if axis in self._channels.produces:
                self.fixed.setdefault(self._layer(axis[0]), reason)

    def _layer(self, parameter: str) -> str:
        return parameter.rpartition(".")[0] or parameter

    def _describe(self, units: list[dict[Axis, Ints]], numbers: Sequence[int]) -> ChannelGroup:
        layers = [axis for axis in units[0] if axis in self._channels.produces]
        first = min(layers, key=lambda a: self._rank.get(self._layer(a[0]), len(self._rank)))
        units.sort(key=lambda unit: unit[first][0])
        owners = [self._heads.get(self._layer(axis[0]), ("", 0)) for axis in layers]
        heads = [name for name, n in owners if n == len(units) and set(numbers) & self._channels.heads]
        return ChannelGroup(
            name=self._layer(first[0]),
            parts=tuple(tuple(unit[first].tolist()) for unit in units),
            axes={axis: tuple(unit[axis] for unit in units) for axis in units[0]},
            heads_of=heads[0] if heads else None,
        )


def _attention_heads(model: nn.Module) -> dict[str, tuple[str, int]]:
    """Projections to queries, keys and values, with the name of their attention module and its heads."""
    result: dict[str, tuple[str, int]] = {}
    for name, module in model.named_modules():
        heads = next((v for a in _HEAD_COUNTS if isinstance(v := getattr(module, a, None), int)), 0)
        for child_name, child in module.named_children():
            if heads > 0 and isinstance(child, nn.Linear) and _PROJECTION.fullmatch(child_name):
                result[f"{name}.{child_name}" if name else child_name] = (name, heads)
    return result


def _set_heads(module: nn.Module, before: int, removed: int) -> None:
    for attribute in _HEAD_COUNTS:
        if getattr(module, attribute, None) == before:
            setattr(module, attribute, before - removed)
    for attribute in _INNER_WIDTHS:
        width = getattr(module, attribute, None)
        if isinstance(width, int) and width % before == 0:
            setattr(module, attribute, width // before * (before - removed))


def _with_unique_names(groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """One layer's channels can be in several groups: all but the first have a number behind their name."""
    seen: Counter[str] = Counter()
    result = []
    for group in groups:
        seen[group.name] += 1
        n = seen[group.name]
        result.append(group if n == 1 else replace(group, name=f"{group.name}#{n}"))
    return result


Owners = dict[str, list[tuple[str, nn.Module, str]]]
"""For each parameter and buffer all modules that hold it: their names, themselves, and the attribute."""


def _owners(model: nn.Module) -> Owners:
    first = {id(t): name for name, t in reversed([*model.named_parameters(), *model.named_buffers()])}
    result: Owners = {}
    for path, module in model.named_modules():
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                result.setdefault(first[id(tensor)], []).append((path, module, attribute))
    return result


def _cut(owners: Sequence[tuple[str, nn.Module, str]], axis: int, keep: Tensor) -> None:
    """Leave some indices of a parameter or buffer, with its gradient, wherever it is held."""
    old: Tensor = getattr(owners[0][1], owners[0][2])
    new = old.detach().index_select(axis, keep)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, old.requires_grad)
        if old.grad is not None:
            new.grad = old.grad.index_select(axis, keep)
    for _, module, attribute in owners:
        setattr(module, attribute, new)


def _tell_widths(module: nn.Module, depthwise: bool) -> None:
    """Set what a module knows of its widths to those of its parameters."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.MultiheadAttention):
        module.embed_dim = module.kdim = module.vdim = module.in_proj_weight.shape[0] // 3
        module.head_dim = module.embed_dim // module.num_heads
    elif isinstance(module, nn.RNNBase):
        weights: Tensor = module.all_weights[0][0]
        module.input_size = weights.shape[1]
    elif isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]
    elif isinstance(module, _ConvNd):
        _tell_convolution(module, depthwise)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, (_BatchNorm, _InstanceNorm)):
        known = module.running_mean if weight is None else weight
        module.num_features = module.num_features if known is None else len(known)
    elif weight is not None:
        _tell_others(module, weight)


def _tell_convolution(module: _ConvNd, depthwise: bool) -> None:
    into, out = (0, 1) if isinstance(module, _ConvTransposeNd) else (1, 0)
    if into == 1 and module.groups > 1 and depthwise:
        module.groups = module.weight.shape[0] // (module.out_channels // module.groups)
    per_group = (1 if into == 0 else module.groups, module.groups if into == 0 else 1)
    module.in_channels = module.weight.shape[into] * per_group[0]
    module.out_channels = module.weight.shape[out] * per_group[1]


def _tell_others(module: nn.Module, weight: Tensor) -> None:
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(weight)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]


@dataclass(frozen=True)
class _Dependency:
    """What Torch-Pruning's criteria look at: a layer, and how it would be pruned."""

    layer: nn.Module
    pruning_fn: Any

    handler = property(lambda self: self.pruning_fn)
    target = property(lambda self: self)
    module = property(lambda self: self.layer)


@dataclass(frozen=True)
class _Member:
    """Channels of a layer, and which unit each of them belongs to."""

    dep: _Dependency
    idxs: list[int]
    root_idxs: list[int]

    def __iter__(self) -> Iterator[Any]:
        yield from (self.dep, self.idxs)


def _members(group: ChannelGroup, owners: Owners, reads: set[Axis]) -> list[_Member]:
    """The group as Torch-Pruning's criteria take it, its first layer first."""
    result: list[_Member] = []
    for (name, axis), units in group.axes.items():
        for path, module, attribute in owners[name]:
            function = _pruning_function(module, (name, axis) in reads) if attribute == "weight" else None
            if function is None:
                continue
            roots = [unit for unit, indices in enumerate(units) for _ in indices]
            member = _Member(_Dependency(module, function), np.concatenate(units).tolist(), roots)
            first = path == group.name.partition("#")[0] and (name, axis) not in reads
            result.insert(0 if first else len(result), member)
    return result


def _pruning_function(module: nn.Module, reads: bool) -> Any:
    if isinstance(module, nn.Linear):
        return tp.prune_linear_in_channels if reads else tp.prune_linear_out_channels
    if isinstance(module, _ConvNd):
        if reads:
            return tp.prune_conv_in_channels
        depthwise = module.groups > 1 and module.weight.shape[1] == 1
        return tp.prune_depthwise_conv_out_channels if depthwise else tp.prune_conv_out_channels
    if isinstance(module, _BatchNorm):
        return tp.prune_batchnorm_out_channels
    return tp.prune_layernorm_out_channels if isinstance(module, nn.LayerNorm) else None


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
