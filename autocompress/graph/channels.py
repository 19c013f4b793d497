"""Groups of channels that must be pruned together, found by Torch-Pruning's dependency graph.

Reference: G. Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv 2301.12900.
Why not its own pruners: they round down and then skip a group that would become empty, so that a ratio of 0.9
removes less than one of 0.5; and their default arguments are shared between instances.
"""

from __future__ import annotations

import copy
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autocompress.errors import CandidateError, first_line
from autocompress.networks import evaluating, outputs_of, tensors_in

_GROUP_CPU_S, _GROUPS_CPU_S, _MAX_MEMBERS, _MAX_INDICES = 3.0, 20.0, 5_000, 200_000
"""Where Torch-Pruning walks in circles (rotary embeddings, windows) a group, and then the network, is given up."""

_HEAD_COUNTS = ("num_heads", "n_heads", "num_attention_heads", "heads", "n_head", "nhead", "h")
_INNER_WIDTHS = ("all_head_size", "all_head_dim", "inner_dim", "attn_dim")
_PROJECTION = re.compile(
    r"(qkv|to_qkv|in_proj|[qkv]|query|key|value|[qkv]_(?:proj|lin)|to_[qkv]|w[qkv])$", re.IGNORECASE
)


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
    def modules(self) -> list[Any]:
        """Layers, and parameters that no layer holds, that lose something."""
        return [dep.target.module for dep, _ in self.members]

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
        self.refused: dict[str, str] = {}
        """Layers whose groups cannot be followed, with the reason."""
        with _guarded(), evaluating(model):
            self.graph = tp.DependencyGraph().build_dependency(model, example_inputs=example)
            groups = list(self._found({model.get_submodule(name) for name in protected}))
        self.groups = sorted(groups, key=lambda g: self._rank.get(g.name, len(self._rank)))

    def _found(self, protected: set[nn.Module]) -> Iterator[ChannelGroup]:
        """All groups that can be followed; as Torch-Pruning's `get_all_groups`, but one that fails costs no other."""
        done: set[Any] = set(protected)
        deadline = time.process_time() + _GROUPS_CPU_S
        for module in list(self.graph.module2node):
            if module in done or not isinstance(module, (nn.Linear, _ConvNd)):
                continue
            name = self.names.get(module, "?")
            if time.process_time() > deadline:
                self.refused[name] = f"it was not looked at: the analysis ended after {_GROUPS_CPU_S:.0f} CPU s"
                continue
            handler = self.graph.get_pruner_of_module(module)
            try:
                width = handler.get_out_channels(module)
                group = self.graph.get_pruning_group(module, handler.prune_out_channels, list(range(width)))
                described = self._describe(group)
            except Exception as error:  # Torch-Pruning raises anything on graphs it cannot follow
                self.refused[name] = f"its channels cannot be followed: {_short(error)}"
                continue
            makers = {dep.target.module for dep, _ in group if self.graph.is_out_channel_pruning_fn(dep.handler)}
            done |= makers
            if not makers & protected:
                yield described

    def importance(self, group: ChannelGroup, criterion: Any) -> Tensor | None:
        """Importance of each unit of the group, shape (n_units / n_parts,), or None where it has no meaning."""
        with _guarded():
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
        with _guarded():
            self._part(group, units).prune()
        if group.n_heads:
            _set_heads(self.model.get_submodule(group.heads_of), group.n_heads, len(units), group.n_channels)

    @torch.no_grad()
    def silence(self, group: ChannelGroup, units: Sequence[int]) -> None:
        """Set to zero, in new tensors, the weights by which the next layers read some units of the group."""
        with _guarded():
            part = self._part(group, units)
        for dep, idxs in part:
            module = dep.target.module
            if self.graph.is_in_channel_pruning_fn(dep.handler):
                for parameter, where in _columns(module, list(idxs)):
                    parameter.data = parameter.data.clone()
                    for index in where:
                        parameter.data[index] = 0

    def _part(self, group: ChannelGroup, units: Sequence[int]) -> Any:
        root = group.members[0].dep
        return self.graph.get_pruning_group(root.target.module, root.handler, group.channels(units))

    def _describe(self, group: Any) -> ChannelGroup:
        projections = [
            dep.target.module
            for dep, _ in group
            if dep.target.module in self._heads and self.graph.is_out_channel_pruning_fn(dep.handler)
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
            if dep.target.module in self.names and self.graph.is_out_channel_pruning_fn(dep.handler)
        ]
        known = [name for name in names if name in self._rank]
        return min(known, key=self._rank.__getitem__) if known else (names or ["?"])[0]

    def _from_downstream(self, group: Any) -> Any:
        """Express an attention group by the inputs of its output projection: one index per channel of a head."""
        for dep, idxs in group:
            if isinstance(dep.target.module, nn.Linear) and self.graph.is_in_channel_pruning_fn(dep.handler):
                return self.graph.get_pruning_group(dep.target.module, dep.handler, list(idxs))
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


def output_layers(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Layers whose outputs are the network's own, found by following the graph back from its outputs."""
    copied = copy.deepcopy(model)
    layers: dict[nn.Module, str] = {m: n for n, m in copied.named_modules() if isinstance(m, (nn.Linear, _ConvNd))}
    producers: dict[Any, str] = {}

    def remember(module: nn.Module, _: Any, output: Tensor) -> None:
        producers[output.grad_fn] = layers[module]

    for parameter in copied.parameters():
        parameter.requires_grad_(True)
    for module in layers:
        module.register_forward_hook(remember)
    with evaluating(copied):
        output = copied(example)
    found: list[str] = []
    for tensor in tensors_in(output):
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


class _BoundedGroup(tp.dependency.Group):  # type: ignore[misc]
    """A group that is given up where it grows without end."""

    def __init__(self) -> None:
        super().__init__()
        self._deadline = time.process_time() + _GROUP_CPU_S

    def add_dep(self, dep: Any, idxs: Any) -> None:
        """Add a member."""
        if len(self) > _MAX_MEMBERS or len(idxs) > _MAX_INDICES or time.process_time() > self._deadline:
            raise CandidateError("its channels come back to themselves in ever other places")
        super().add_dep(dep, idxs)


@contextmanager
def _guarded() -> Iterator[None]:
    """Torch-Pruning without its warnings, without endless groups, and with each node on its own where one fails.

    An operation whose indices cannot be followed counts as one that keeps them: `pruning_check` finds where that is
    wrong.
    """
    graphs, maps = tp.dependency.graph, tp.dependency.index_mapping
    updates = {name: value for name, value in vars(maps).items() if name.startswith("update_") and name != _UPDATE_ALL}
    group = graphs.Group
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graphs.Group = _BoundedGroup
            for name, update in updates.items():
                setattr(maps, name, _tolerant(update))
            yield
        finally:
            graphs.Group = group
            for name, update in updates.items():
                setattr(maps, name, update)


_UPDATE_ALL = "update_index_mapping"


def _tolerant(update: Callable[..., None]) -> Callable[..., None]:
    def one(*args: Any) -> None:
        with suppress(Exception):
            update(*args)

    return one


def _columns(module: Any, idxs: list[int]) -> Iterator[tuple[Tensor, list[tuple[Any, ...]]]]:
    """Weights by which a layer reads some input channels, with their places in them."""
    if isinstance(module, nn.Linear):
        yield module.weight, [(slice(None), idxs)]
    elif isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
        for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
            if hasattr(module, name):
                yield getattr(module, name), [(slice(None), idxs)]
    elif isinstance(module, _ConvNd) and module.groups == 1:
        yield module.weight, [(idxs,) if module.transposed else (slice(None), idxs)]
    elif isinstance(module, _ConvNd) and not module.transposed and module.groups < module.in_channels:
        size, rows = module.in_channels // module.groups, module.out_channels // module.groups
        yield module.weight, [(slice(i // size * rows, (i // size + 1) * rows), i % size) for i in idxs]


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
