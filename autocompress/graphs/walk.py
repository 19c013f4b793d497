"""A float graph and its quantised copy, run side by side from layer to layer on calibration data.

Between two layers somebody may change the weights of the layer that comes next in the copy: what is measured behind it
then holds what was done before. Each node of either graph runs once for each sample, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autocompress.graphs.observe import ActivationRange
from autocompress.graphs.qdq import write_qdq
from autocompress.graphs.quantizable import LOOK_UP, Graph, PlannedLayer, QuantPlan, captured
from autocompress.runtimes.adapters.onnxruntime.inside import as_written
from autocompress.runtimes.base import Model
from autocompress.tasks.interface import n_samples, take

Array = NDArray[Any]
Tensors = dict[str, Array]

_FEWEST = 16
_MEMORY_BYTES = 2**30
"""What lies between two layers of both graphs, for all samples together, takes no more than this."""


@dataclass(frozen=True)
class Stop:
    """A layer that comes next, and what flows into it."""

    layer: PlannedLayer
    reference: Sequence[Array]
    """Its input in the float graph, by batch."""
    inputs: Sequence[Array]
    """Its input in the quantised copy, by batch."""


Repair = Callable[[Stop], Mapping[str, Array]]
"""Says by which values the copy computes the initialisers of a layer."""


def walk(
    model: onnx.ModelProto,
    plan: QuantPlan,
    ranges: Mapping[str, ActivationRange],
    batches: Sequence[Mapping[str, Array]],
    repair: Repair,
) -> None:
    """Lead calibration data past all planned layers but tables, in order of execution.

    Activations and tables of the copy are rounded as the plan says; its other weights are the float ones until `repair`
    gives others.

    Args:
        model: the fp32 graph the plan was made for.
        plan: from `plan`.
        ranges: one per planned activation.
        batches: calibration inputs by input name. Fewer samples are used where the tensors between two layers would
            not fit into a gibibyte.
        repair: called at each planned layer.
    """
    tables = {layer.weight for layer in plan.layers if layer.op_type == LOOK_UP}
    layers = [layer for layer in plan.layers if layer.weight not in tables]
    floats = replace(plan, layers=tuple(x if x.weight in tables else replace(x, weight_bits=32) for x in plan.layers))
    graph = Graph(model.graph)
    free = {layer.node: (layer.weight, *filter(None, [bias_of(graph, layer)])) for layer in layers}
    reference = _Line(model, free)
    copy = _Line(write_qdq(model, floats, ranges), free)
    batches = _as_taken(model, batches)
    batches = _fewer(batches, reference.bytes_per_sample(batches[0]) + copy.bytes_per_sample(batches[0]))
    ours, theirs = reference.start(batches), copy.start(batches)
    for layer in layers:
        stop = Stop(layer, reference.until(layer.node, ours), copy.until(layer.node, theirs))
        copy.values.update(repair(stop))


def bias_of(graph: Graph, layer: PlannedLayer) -> str | None:
    """The initialiser (output channels,) that is added to what a layer computes, and to nothing else."""
    node = graph.producer[layer.node]
    after = graph.consumers.get(layer.node, [])
    if layer.op_type != "MatMul":
        name = node.input[2] if len(node.input) > 2 else ""
    elif len(after) == 1 and after[0].op_type == "Add" and graph.private(layer.node):
        name = next(n for n in after[0].input if n != layer.node)
    else:
        name = ""
    width = graph.initializers[layer.weight].dims[layer.axis]
    fits = name in graph.initializers and list(graph.initializers[name].dims) == [width]
    return name if fits and len(graph.consumers[name]) == 1 else None


def _as_taken(model: onnx.ModelProto, batches: Sequence[Mapping[str, Array]]) -> Sequence[Mapping[str, Array]]:
    """Sample by sample where the graph takes no more at a time."""
    firsts = [value.type.tensor_type.shape.dim[:1] for value in model.graph.input]
    if not any(dim.HasField("dim_value") for dims in firsts for dim in dims):
        return batches
    return [take(batch, slice(i, i + 1)) for batch in batches for i in range(n_samples(batch))]


def _fewer(batches: Sequence[Mapping[str, Array]], bytes_per_sample: int) -> list[Tensors]:
    """The first samples, as many as fit."""
    room, kept = max(_FEWEST, _MEMORY_BYTES // max(1, bytes_per_sample)), list[Tensors]()
    for batch in batches:
        kept.append(take(batch, slice(room)))
        room -= n_samples(kept[-1])
        if room <= 0:
            break
    return kept


@dataclass(frozen=True)
class _Piece:
    """The nodes between two layers: the first of them included, the second not."""

    model: Model | None
    reads: tuple[str, ...]
    forgets: tuple[str, ...]
    """What nobody reads later."""


class _Line:
    """A graph cut before each of some nodes."""

    def __init__(self, model: onnx.ModelProto, free: Mapping[str, tuple[str, ...]]) -> None:
        graph = Graph(model.graph)
        self._inputs = {node: str(graph.producer[node].input[0]) for node in free}
        names = {name for constants in free.values() for name in constants}
        self.values: Tensors = {name: numpy_helper.to_array(graph.initializers[name]) for name in names}
        self._pieces = dict(zip(free, _cut(model, list(free), names), strict=True))

    def start(self, batches: Sequence[Mapping[str, Array]]) -> list[Tensors]:
        """What there is before the first node."""
        return [dict(batch) for batch in batches]

    def until(self, node: str, state: list[Tensors]) -> list[Array]:
        """Run up to a node, the next one in order, and return what flows into it."""
        piece = self._pieces[node]
        for tensors in state:
            self._run(piece, tensors)
        return [tensors[self._inputs[node]] for tensors in state]

    def bytes_per_sample(self, batch: Mapping[str, Array]) -> int:
        """The most that lies between two nodes, for one sample."""
        tensors, most = dict(take(batch, slice(1))), 0
        for piece in self._pieces.values():
            self._run(piece, tensors)
            most = max(most, sum(value.nbytes for value in tensors.values()))
        return most

    def _run(self, piece: _Piece, tensors: Tensors) -> None:
        if piece.model:
            tensors |= piece.model({n: tensors[n] if n in tensors else self.values[n] for n in piece.reads})
        for name in piece.forgets:
            tensors.pop(name, None)


def _cut(model: onnx.ModelProto, stops: Sequence[str], free: set[str]) -> list[_Piece]:
    """A piece that ends before each stop; initialisers in `free` are read as if they were inputs."""
    groups: list[list[onnx.NodeProto]] = [[]]
    for node in model.graph.node:
        if len(groups) <= len(stops) and stops[len(groups) - 1] in node.output:
            groups.append([])
        groups[-1].append(node)
    builder = _Builder(model, free)
    reads = [builder.reads(group) for group in groups]
    last = {name: k for k, names in enumerate(reads) for name in names}
    pieces = []
    for k, group in enumerate(groups[:-1]):
        writes = tuple(name for node in group for name in node.output if last.get(name, -1) > k)
        piece = builder.load(group, reads[k], writes) if writes else None
        forgets = tuple(name for name, end in last.items() if end <= k and name not in free)
        pieces.append(_Piece(piece, reads[k], forgets))
    return pieces


class _Builder:
    """Makes graphs of parts of a graph."""

    def __init__(self, model: onnx.ModelProto, free: set[str]) -> None:
        self._model = model
        self._constants = {i.name: i for i in model.graph.initializer if i.name not in free}
        made = {name for node in model.graph.node for name in node.output}
        self._tensors = made | free | {value.name for value in model.graph.input} - self._constants.keys()
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self._types = {i.name: i.data_type for i in model.graph.initializer}
        self._types |= {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input)}

    def reads(self, nodes: Sequence[onnx.NodeProto]) -> tuple[str, ...]:
        """Tensors that are made elsewhere, those read inside of sub-graphs included."""
        made = {name for node in nodes for name in node.output}
        names = dict.fromkeys(name for node in nodes for name in (*node.input, *captured(node)))
        return tuple(name for name in names if name in self._tensors and name not in made)

    def load(self, nodes: Sequence[onnx.NodeProto], reads: Sequence[str], writes: Sequence[str]) -> Model:
        """Some nodes as a graph of their own."""
        used = {name for node in nodes for name in (*node.input, *captured(node))}
        graph = helper.make_graph(
            nodes,
            "piece",
            [self._value(name) for name in reads],
            [self._value(name) for name in writes],
            [constant for name, constant in self._constants.items() if name in used],
        )
        model = helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        return as_written(model)

    def _value(self, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self._types.get(name) or TensorProto.FLOAT, None)
