"""Takes a quantised file apart: the same network in floats, and all the integers that `graphs.qdq` wrote into it.

Runtimes with files of their own start here, so that what they execute are our integers. Only onnx and numpy are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import CandidateError

_BITS = {TensorProto.INT2: 2, TensorProto.INT4: 4, TensorProto.INT8: 8}


@dataclass(frozen=True, slots=True)
class Code:
    """Of an activation: value = (code - zero_point) * scale, with codes in 0..255."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class IntegerWeight:
    """A weight as the file stores it: value = values * scale, one scale for each index of `axis`."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    """(size of the axis,)"""
    axis: int
    bits: int
    """2, 4 or 8."""


@dataclass(frozen=True)
class QuantizedGraph:
    """A file taken apart.

    Tensors keep their names; a weight has the name of the initialiser that stores its integers in the file.
    """

    floats: onnx.ModelProto
    """The network without quantisers; its weights have the values that the integers stand for."""
    codes: Mapping[str, Code]
    """Of the activations of `floats` that the file rounds to uint8."""
    integer_reads: frozenset[tuple[str, int]]
    """(first output of a node, number of its input): what is read rounded. All else is read in floats."""
    weights: Mapping[str, IntegerWeight]
    """By initialiser of `floats`. Where the input of their layer is no integer read, only the storage is small."""
    biases: Mapping[str, NDArray[np.int32]]
    """By initialiser of `floats`, in units of the input's scale times the weight's scales."""
    halves: frozenset[str] = field(default=frozenset())
    """Initialisers of `floats` that the file stores as fp16."""


def read(model: onnx.ModelProto) -> QuantizedGraph:
    """Take a file apart that `graphs.qdq.write_qdq` may have quantised; the model is not changed.

    Raises:
        CandidateError: the file has early exits (`If`).
    """
    reader = _Reader(model.graph)
    for node in model.graph.node:
        reader.visit(node)
    return reader.result(model)


class _Reader:
    """Goes through the nodes in order."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.casts: dict[str, str] = {}
        """Result of a Cast -> the constant that it unpacks."""
        self.look_ups: dict[str, onnx.NodeProto] = {}
        """Integers that were looked up in a table -> the node that did."""
        self.integers: dict[str, str] = {}
        """Result of a QuantizeLinear -> its tensor of floats."""
        self.floats: dict[str, str] = {}
        """Result of a DequantizeLinear, or of what unpacks a constant -> its name in the network of floats."""
        self.activations: set[str] = set()
        """Of those, the ones that are no constants."""
        self.codes: dict[str, Code] = {}
        self.reads: set[tuple[str, int]] = set()
        self.weights: dict[str, IntegerWeight] = {}
        self.biases: dict[str, NDArray[np.int32]] = {}
        self.constants: dict[str, NDArray[np.float32]] = {}
        self.halves: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []

    def visit(self, node: onnx.NodeProto) -> None:
        source = node.input[0] if node.input else ""
        constant = self.casts.get(source, source)
        if node.op_type == "If":
            raise CandidateError("early exits are an `If` in the file, which no other file format here has")
        if node.op_type == "QuantizeLinear" and source not in self.stored:
            self.integers[node.output[0]] = tensor = self.floats.get(source, source)
            self.codes[tensor] = Code(float(self._value(node.input[1])), int(self._value(node.input[2])))
        elif node.op_type == "DequantizeLinear" and source in self.integers:
            self.floats[node.output[0]] = self.integers[source]
            self.activations.add(node.output[0])
        elif node.op_type == "DequantizeLinear" and constant in self.stored:
            self._dequantize(node, constant)
        elif node.op_type == "Cast" and self._is_packed(source, node):
            self._cast(node, source)
        elif node.op_type == "Gather" and constant in self.stored and self.stored[constant].data_type in _BITS:
            self.look_ups[node.output[0]] = node
        elif node.op_type == "Cast" and source in self.look_ups:
            self.look_ups[node.output[0]] = self.look_ups[source]
        elif node.op_type == "Mul" and source in self.look_ups:
            self._look_up(node)
        elif node.op_type == "Mul" and source in self.casts and node.input[1] in self.stored:
            scale = self._value(node.input[1])
            self._weight(node, constant, scale.reshape(-1), int(np.argmax(scale.shape)))
        else:
            self._keep(node)

    def _value(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self.stored[name])

    def _is_packed(self, name: str, node: onnx.NodeProto) -> bool:
        kind = self.stored[name].data_type if name in self.stored else None
        to_float = helper.get_node_attr_value(node, "to") == TensorProto.FLOAT
        return kind in (TensorProto.INT4, TensorProto.INT2) or (
            to_float and kind in (TensorProto.INT8, TensorProto.FLOAT16)
        )

    def _cast(self, node: onnx.NodeProto, name: str) -> None:
        if self.stored[name].data_type != TensorProto.FLOAT16:
            self.casts[node.output[0]] = name
            return
        self.floats[node.output[0]] = name
        self.constants[name] = self._value(name).astype(np.float32)
        self.halves.add(name)

    def _dequantize(self, node: onnx.NodeProto, name: str) -> None:
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        scale = self._value(node.input[1])
        if self.stored[name].data_type != TensorProto.INT32:
            self._weight(node, name, scale.reshape(-1), axis)
            return
        self.biases[name] = self._value(name)
        self.constants[name] = (self.biases[name].astype(np.float64) * scale).astype(np.float32)
        self.floats[node.output[0]] = name

    def _weight(self, node: onnx.NodeProto, name: str, scale: NDArray[np.float32], axis: int) -> None:
        values = self._value(name).astype(np.int8)
        along = [-1 if k == axis else 1 for k in range(values.ndim)]
        self.weights[name] = IntegerWeight(values, scale, axis, _BITS[self.stored[name].data_type])
        self.constants[name] = values * scale.reshape(along)
        self.floats[node.output[0]] = name

    def _look_up(self, node: onnx.NodeProto) -> None:
        """Rows of a table and their scales, looked up apart, are rows of floats."""
        rows = self.look_ups[node.input[0]]
        scales = next(kept for kept in self.nodes if node.input[1] in kept.output)
        self.nodes.remove(scales)
        table = self.casts.get(rows.input[0], rows.input[0])
        self._weight(rows, table, self._value(scales.input[0]).reshape(-1), 0)
        self._keep(helper.make_node("Gather", [table, rows.input[1]], [node.output[0]], rows.name))

    def _keep(self, node: onnx.NodeProto) -> None:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        for k, name in enumerate(node.input):
            kept.input[k] = self.floats.get(name, name)
            if name in self.activations:
                self.reads.add((node.output[0], k))
        self.nodes.append(kept)

    def result(self, model: onnx.ModelProto) -> QuantizedGraph:
        used = {name for node in self.nodes for name in node.input} | {value.name for value in model.graph.output}
        kept = [tensor for name, tensor in self.stored.items() if name in used and name not in self.constants]
        kept += [numpy_helper.from_array(value, name) for name, value in self.constants.items() if name in used]
        graph = helper.make_graph(self.nodes, model.graph.name, model.graph.input, model.graph.output, kept)
        floats = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        return QuantizedGraph(
            floats, self.codes, frozenset(self.reads), self.weights, self.biases, frozenset(self.halves)
        )
