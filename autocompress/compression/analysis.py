"""Finds the parts of a network that compression can act on: layers, stages, channel groups, exit places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from autocompress.compression.blocks import find_blocks
from autocompress.compression.labels import OUTPUT
from autocompress.compression.probe import Prunable, probe_groups
from autocompress.compression.structure import NetworkStructure
from autocompress.given.network import UNCHANGEABLE, GraphNetwork
from autocompress.graphs.quantizable import LOOK_UP, Graph, output_axis, quantizable_layers
from autocompress.runtimes.base import reference
from autocompress.tasks.interface import Inputs, Tensors, take, values
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import evaluating, in_known_operators

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""What can be pruned and quantised; others that multiply only count in the MACs."""
_QUANTISABLE = (*WEIGHTED, nn.Conv3d, nn.MultiheadAttention, nn.Embedding)
_TABLES = "embeddings"
"""Stage of all embedding tables: what they lose with few bits has little to do with where they are read."""
_CONTAINERS = (nn.Sequential, nn.ModuleList)
_MAX_STAGES = 6
_EARLIEST, _LATEST = 0.05, 0.9  # share of the MACs: before and behind, an exit saves nothing or sees nothing


@dataclass(slots=True)
class Visit:
    """One call of a module during the trace."""

    shape: tuple[int, ...]
    macs: int
    """Done in the whole network when the module has run for the first time."""
    order: int
    calls: int = 1


@dataclass(frozen=True, slots=True)
class ExitPoint:
    """A module after which an early exit can be attached."""

    name: str
    fraction: float
    """Share of the network's MACs done when it has run."""
    channels: int
    layout: str
    """Of its output: "nchw", "ncl" or "nlc"."""


@dataclass(frozen=True)
class NetworkAnalysis:
    """What was found in a network."""

    layers: Mapping[str, str]
    """Convolutions and linear layers in order of execution, then embeddings, each with its stage of the network."""
    channels: Mapping[str, int]
    """Output channels of each layer, columns of a table."""
    groups: Mapping[str, str]
    """Prunable groups of channels (or attention heads), each with its stage."""
    widths: Mapping[str, int]
    """Number of channels (or heads) of each group."""
    unprunable: Mapping[str, str]
    """Groups that cannot be pruned, with the reason."""
    prunable_share: float
    """Of the parameters, those that pruning can reach."""
    untouched: Mapping[str, int]
    """Modules whose own parameters no technique makes smaller, with the number of these."""
    places: tuple[ExitPoint, ...]
    macs: int
    n_params: int
    notes: tuple[str, ...] = field(default=())
    blocks: Mapping[str, str] = field(default_factory=dict)
    """Blocks that the network runs without (see `find_blocks`), in order of execution, each with its stage."""
    unchangeable: str = ""
    """Why the layers can be neither changed nor trained; empty where they can."""

    @property
    def prunable(self) -> str:
        """How much can be pruned, in words; nothing where that is no question."""
        if self.unchangeable:
            return ""
        others = sum(reason != OUTPUT for reason in self.unprunable.values())
        return (
            f"{len(self.groups)} of {len(self.groups) + others} groups, "
            f"{self.prunable_share:.0%} of the parameters can be pruned"
        )

    @property
    def tables(self) -> list[str]:
        """The embeddings among the layers."""
        return [name for name, stage in self.layers.items() if stage == _TABLES]

    @property
    def outline(self) -> NetworkStructure:
        """The names that a search space needs."""
        return NetworkStructure(
            groups=dict(self.groups),
            layers=dict(self.layers),
            places=tuple(place.name for place in self.places),
            blocks=dict(self.blocks),
            unchangeable=self.unchangeable,
        )

    def stage_of(self, layer: str) -> str:
        """The stage of a layer, or of its nearest relative by name where the graph has more layers than the network.

        Modules such as nn.MultiheadAttention call their projections as functions: no layer of the network makes them.
        """
        return _stage_of(layer, self.layers)


def _stage_within(block: str, stages: Mapping[str, str]) -> str:
    return next(stage for layer, stage in stages.items() if layer.startswith(f"{block}."))


def _stage_of(layer: str, stages: Mapping[str, str]) -> str:
    if layer in stages or not stages:
        return stages.get(layer, "exits")
    near = [name for name, stage in stages.items() if stage != _TABLES] or [*stages]
    return stages[max(reversed(near), key=lambda other: _shared_modules(layer, other))]


def _shared_modules(one: str, other: str) -> int:
    """How many modules, from the root on, two layers lie in together."""
    steps = zip(one.partition("#")[0].split("."), other.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda step: step[0] == step[1], steps))


def analyze(task: Task) -> NetworkAnalysis:
    """Trace the task's model once and probe every channel group of it."""
    if isinstance(task.model, GraphNetwork):
        return _of_graph(task.model)
    example = take(task.inputs, slice(1))
    visits = trace(task.model, example)
    modules = dict(task.model.named_modules())
    names = [n for n in visits if isinstance(modules[n], WEIGHTED)]
    tables = {n: modules[n].embedding_dim for n in visits if isinstance(modules[n], nn.Embedding)}
    stages = _stages({n: visits[n] for n in names})
    found = probe_groups(task.model, example, (*names, *tables), _samples(task))
    exits = task.traits.exits and task.metric.per_sample and task.evaluate is None and len(task.output_shape) == 2
    places = _places(task.model, visits) if exits else ()
    return NetworkAnalysis(
        layers={**stages, **dict.fromkeys(tables, _TABLES)},
        channels={n: int(modules[n].weight.shape[0]) for n in names} | tables,
        groups={g.name: _stage_of(g.name, stages) for g in found.groups},
        widths={g.name: g.n_units for g in found.groups},
        unprunable=found.refused,
        prunable_share=found.n_params / max(1, sum(p.numel() for p in task.model.parameters())),
        untouched=_untouched(task.model, found),
        places=places,
        blocks={block: _stage_within(block, stages) for block in find_blocks(task.model, example, names)},
        macs=count_macs(task.model, example),
        n_params=sum(p.numel() for p in task.model.parameters()),
    )


def _of_graph(model: GraphNetwork) -> NetworkAnalysis:
    """What there is to choose in a network that is known as a graph only: the number formats of its layers."""
    layers, graph = quantizable_layers(model.graph), Graph(model.graph.graph)
    forms = reference().kernels(model.graph)
    visits, channels, tables = {}, {}, {}
    for order, layer in enumerate(layers):
        dims = graph.initializers[layer.weight].dims
        if layer.op_type == LOOK_UP:
            tables[layer.name] = int(dims[1])
            continue
        visits[layer.name] = Visit(tuple(forms.shapes.get(layer.nodes[0], (1, 1)))[1:], 0, order)
        channels[layer.name] = int(dims[output_axis(graph.producer[layer.nodes[0]], graph) or 0])
    return NetworkAnalysis(
        layers={**_stages(visits), **dict.fromkeys(tables, _TABLES)},
        channels=channels | tables,
        groups={},
        widths={},
        unprunable={},
        prunable_share=0.0,
        untouched={},
        places=(),
        macs=forms.workload().macs,
        n_params=sum(p.numel() for p in model.parameters()),
        unchangeable=UNCHANGEABLE,
    )


def _samples(task: Task) -> Tensors:
    """Two real inputs where the task has any."""
    try:
        samples: Tensors = task.probe(0)
    except Exception:  # what the user's loader raises is told by Task.validate
        samples = take(task.inputs, slice(2))
    return samples


def _untouched(model: nn.Module, found: Prunable) -> dict[str, int]:
    """Modules with parameters of their own that cannot be pruned and are no layers that can be quantised."""
    result = {}
    for path, module in model.named_modules():
        own = {f"{path}.{n}".lstrip("."): p.numel() for n, p in module.named_parameters(recurse=False)}
        if own and not isinstance(module, _QUANTISABLE) and not found.touched & own.keys():
            result[f"{path or 'the network itself'} ({type(module).__name__})"] = sum(own.values())
    return result


def trace(model: nn.Module, example: Inputs) -> dict[str, Visit]:
    """Run the model on one sample; every module that returned a tensor, in order of completion.

    Shapes have no batch dimension. MACs are those of the sample, also where its windows or tokens make up a batch.
    """
    visits: dict[str, Visit] = {}
    counter = _mac_counter()

    def record(name: str, output: object) -> None:
        if not isinstance(output, Tensor):
            return
        if name in visits:
            visits[name].calls += 1
        else:
            done = int(counter.get_total_flops()) // 2
            visits[name] = Visit(tuple(output.shape[1:]), done, len(visits))

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: record(name, output))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad(), evaluating(model), _frozen(model), in_known_operators(), counter:
            model(*values(example))
    finally:
        for hook in hooks:
            hook.remove()
    return visits


def count_macs(model: nn.Module, example: Inputs) -> int:
    """Multiply-accumulates of one sample: those of `Workload.macs`, counted without an export.

    Convolutions, products of matrices, attention and recurrent layers, as modules or as functions.
    """
    counter = _mac_counter()
    with torch.no_grad(), evaluating(model), _frozen(model), in_known_operators(), counter:
        model(*(tensor[:1] for tensor in values(example)))
    flops: int = counter.get_total_flops()
    return flops // 2


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Without gradients of parameters: torch's counter asks every input of a module for the function that made it."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def _mac_counter() -> FlopCounterMode:
    """Counts two floating-point operations for each multiply-accumulate."""

    def recurrent(data: Any, of_input: Any, of_state: Any, *_: Any, **__: Any) -> int:
        return 2 * int(math.prod(data[:2]) * (math.prod(of_input) + math.prod(of_state)))

    def attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop(q, k, v))

    ops = torch.ops.aten
    own = {ops.mkldnn_rnn_layer: recurrent, ops._scaled_dot_product_flash_attention_for_cpu: attention}
    return FlopCounterMode(display=False, custom_mapping=own)


def _stages(visits: Mapping[str, Visit]) -> dict[str, str]:
    """Group layers by the resolution they work at; a network of one resolution is cut into three equal parts.

    A branch of lower resolution inside a stage, such as squeeze-and-excitation, belongs to the stage around it.
    """
    names = list(visits)
    sizes = [math.prod(visits[n].shape[1:]) if len(visits[n].shape) == 3 else 0 for n in names]
    if not any(sizes):
        sizes = [visits[n].shape[-1] if len(visits[n].shape) == 2 else 0 for n in names]
    level = 0
    levels: list[int] = []
    for size in reversed(sizes):
        level = max(level, size)
        levels.append(level)
    levels.reverse()
    distinct = list(dict.fromkeys(x for x in levels if x > 1)) or [levels[0] if levels else 0]
    distinct = distinct[:_MAX_STAGES]
    index = [distinct.index(x) if x in distinct else len(distinct) - 1 for x in levels]
    if len(distinct) == 1 and len(names) >= 6:
        index = [min(2, 3 * i // len(names)) for i in range(len(names))]
    return {name: f"stage{i + 1}" for name, i in zip(names, index, strict=True)}


def _places(model: nn.Module, visits: Mapping[str, Visit]) -> tuple[ExitPoint, ...]:
    modules = dict(model.named_modules())
    leaves = {n: v for n, v in visits.items() if isinstance(modules[n], (nn.Linear, _ConvNd))}
    total = max((v.macs for v in visits.values()), default=0) or 1
    found: dict[float, ExitPoint] = {}
    for names in (list(_blocks(model)), [n for n in visits if n]):
        for name in names:
            visit = visits.get(name)
            if visit is None or visit.calls != 1 or len(visit.shape) not in (2, 3):
                continue
            before = {n: v for n, v in leaves.items() if v.order <= visit.order}
            fraction = visit.macs / total
            if before and _EARLIEST <= fraction <= _LATEST:
                last = modules[max(before, key=lambda n: before[n].order)]
                layout = _layout(last, visit.shape)
                channels = visit.shape[-1] if layout == "nlc" else visit.shape[0]
                found[round(fraction, 6)] = ExitPoint(name, fraction, channels, layout)
        if found:
            break
    return tuple(found[key] for key in sorted(found))


def _blocks(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the blocks that containers hold; a block with weights reaches to its last weightless sibling."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, _CONTAINERS):
            yield from _blocks(child, f"{path}.")
        elif isinstance(module, _CONTAINERS):
            yield path
        elif any(isinstance(m, _CONTAINERS) for m in child.modules()):
            yield from _blocks(child, f"{path}.")


def _layout(last: nn.Module, shape: tuple[int, ...]) -> str:
    """Layout of an output from its shape and from the last layer with weights that ran before it."""
    if len(shape) == 3:
        return "nchw"
    return "ncl" if isinstance(last, _ConvNd) and last.out_channels == shape[0] else "nlc"
