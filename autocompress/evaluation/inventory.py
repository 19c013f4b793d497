"""What is in an ONNX file: every layer with weights, how these are stored, and in which arithmetic it computes.

The one source of what a study says about the bits and layers of a file. It reads any file, nested `If` included; the
names that the user's network gave the layers are not in a finished file and come from the exported graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from autocompress.graphs.qdq import SCALES
from autocompress.graphs.quantizable import attribute, module_name, quantizable_layers
from autocompress.runtimes.base import Runtime
from autocompress.runtimes.kernels import Forms

_BITS: Mapping[int, int] = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT2: 2,
    onnx.TensorProto.UINT2: 2,
}
"""Of a stored weight; tensors of other types are no weights."""
_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1, 0),
    "MatMul": (1, 0),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Einsum": (1, 0),
}
"""Where the weights of each operator are."""
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True, slots=True)
class FileLayer:
    """One layer as a file has it; a module that is called several times is one layer."""

    name: str
    kind: str
    """In torch's words: Conv2d, ConvTranspose1d, Linear, Embedding, LSTM, ..."""
    shape: tuple[int, ...]
    """Of its weight, in the order of the file."""
    channels: int
    """Output channels or features, of both directions of a recurrent layer."""
    weight_bits: int
    """Of each stored weight: 2, 4, 8, 16, 32 or 64."""
    weight_bytes: int
    """Of all its stored weights, without scales and biases."""
    activation_bits: int
    """8 where all its kernels compute in integers, else 32."""
    macs: int


@dataclass(frozen=True, slots=True)
class _Weighted:
    """A node with weights."""

    node: onnx.NodeProto
    operand: str
    """The input that is the (first) weight."""
    stored: tuple[onnx.TensorProto, ...]
    """What the file holds for each of its weights."""

    @property
    def key(self) -> str:
        return self.node.name or str(self.node.output[0])


class _File:
    """Nodes and constants of a graph and of its sub-graphs."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.producer: dict[str, onnx.NodeProto] = {}
        self._add(graph)
        self.constant = set(self.tensors)
        for node in self.nodes:
            if node.input and all(name in self.constant for name in node.input if name):
                self.constant.update(node.output)

    def _add(self, graph: onnx.GraphProto) -> None:
        self.tensors |= {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                value = next((item.t for item in node.attribute if item.name == "value"), onnx.TensorProto())
                self.tensors[node.output[0]] = value
            self.nodes.append(node)
            self.producer |= dict.fromkeys(node.output, node)
            for item in node.attribute:
                for inner in (item.g, *item.graphs):
                    self._add(inner)

    def weighted(self) -> Iterator[_Weighted]:
        for node in self.nodes:
            if node.output and node.output[0] in self.constant:
                continue
            names = [node.input[i] for i in _OPERANDS.get(node.op_type, ()) if i < len(node.input)]
            found = {name: stored for name in names if (stored := self._stored(name)) is not None}
            if found:
                yield _Weighted(node, next(iter(found)), tuple(found.values()))

    def _stored(self, name: str) -> onnx.TensorProto | None:
        """The largest constant that an operand is made of; None where it is not constant, or no numbers."""
        if name not in self.constant:
            return None
        parts = [t for t in self._sources(name) if t.data_type in _BITS and len(t.dims) and not t.name.endswith(SCALES)]
        return max(parts, key=lambda tensor: math.prod(tensor.dims), default=None)

    def _sources(self, name: str) -> Iterator[onnx.TensorProto]:
        if name in self.tensors:
            yield self.tensors[name]
        elif name in self.producer:
            for other in self.producer[name].input:
                yield from self._sources(other) if other else ()


def layer_names(model: onnx.ModelProto) -> dict[str, str]:
    """What the network calls the layer of each node with weights, in an exported graph of floats.

    Nodes are known by their names, or by their first outputs where they have none. A second weight of a module that
    is no module of its own is called `module#2`.
    """
    of_output = {output: layer.name for layer in quantizable_layers(model) for output in layer.nodes}
    owner = {layer.name: layer.weight for layer in quantizable_layers(model)}
    names: dict[str, str] = {}
    for weighted in _File(model.graph).weighted():
        name = of_output.get(weighted.node.output[0])
        if name is None:
            weight = weighted.stored[0].name
            base = name = module_name(weighted.node, weight)
            count = 1
            while owner.setdefault(name, weight) != weight:
                count += 1
                name = f"{base}#{count}"
        names[weighted.key] = name
    return names


def inventory(
    model: onnx.ModelProto, runtime: Runtime, names: Mapping[str, str] | None = None
) -> tuple[FileLayer, ...]:
    """All layers of a file that have weights, in the order of execution.

    Args:
        model: a finished graph, or one on the way there.
        runtime: says what its layers compute in.
        names: of `layer_names`; a layer without one is called after its weight.
    """
    forms = runtime.kernels(model)
    macs: dict[str, int] = {}
    integer = {form.name for form in forms.ops if form.dtype == "int8"}
    for form in forms.ops:
        macs[form.name] = macs.get(form.name, 0) + int(form.sized(forms.shape).macs)
    layers: dict[str, FileLayer] = {}
    for weighted in _File(model.graph).weighted():
        layer = _layer(weighted, (names or {}).get(weighted.key) or _name_of(weighted), forms)
        bits = 8 if weighted.key in integer else 32
        layer = layer if bits == 8 else _as_kept(layer, runtime)
        layer = replace(layer, activation_bits=bits, macs=macs.get(weighted.key, 0))
        if known := layers.get(layer.name):
            bits = max(known.activation_bits, layer.activation_bits)
            layer = replace(known, activation_bits=bits, macs=known.macs + layer.macs)
        layers[layer.name] = layer
    return tuple(layers.values())


def _as_kept(layer: FileLayer, runtime: Runtime) -> FileLayer:
    """A layer that computes in floats: without small weights beside floats, a runtime's file has them in more bits."""
    can = runtime.capabilities
    bits = min((bits for bits in can.weight_bits if bits > 8), default=32)
    if layer.weight_bits > 8 or 32 in can.activation_bits:
        return layer
    return replace(layer, weight_bits=bits, weight_bytes=layer.weight_bytes * bits // layer.weight_bits)


def _name_of(weighted: _Weighted) -> str:
    return weighted.stored[0].name.partition("/")[0].removesuffix(".weight")


def _layer(weighted: _Weighted, name: str, forms: Forms) -> FileLayer:
    node, stored = weighted.node, weighted.stored
    shape = tuple(forms.shapes.get(weighted.operand) or stored[0].dims)
    return FileLayer(
        name,
        _kind(node.op_type, len(shape)),
        shape,
        _channels(weighted, shape),
        max(_BITS[tensor.data_type] for tensor in stored),
        sum(-(-math.prod(tensor.dims) * _BITS[tensor.data_type] // 8) for tensor in stored),
        32,
        0,
    )


def _kind(op_type: str, rank: int) -> str:
    if op_type in ("Conv", "ConvTranspose"):
        return f"{op_type}{rank - 2}d"
    return {"Gemm": "Linear", "MatMul": "Linear", "Gather": "Embedding"}.get(op_type, op_type)


def _channels(weighted: _Weighted, shape: Sequence[int]) -> int:
    node = weighted.node
    if node.op_type == "Conv":
        return shape[0]
    if node.op_type == "ConvTranspose":
        return shape[1] * int(attribute(node, "group", 1))
    if node.op_type in _RECURRENT:
        return shape[0] * int(attribute(node, "hidden_size", shape[1]))
    first = weighted.operand == node.input[0]
    if node.op_type == "Gemm":
        return shape[0] if bool(attribute(node, "transA" if first else "transB", 0)) != first else shape[1]
    if node.op_type == "MatMul" and first:
        return shape[-2] if len(shape) > 1 else 1
    return shape[-1]
