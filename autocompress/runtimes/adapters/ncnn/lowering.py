"""From a graph of ours to ncnn's layers, node after node: what is written, and what latency is predicted from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import onnx
from onnx import TensorProto

from autocompress.errors import CandidateError, InputError
from autocompress.runtimes.adapters.ncnn._format import Form, Layer, pack, with_splits
from autocompress.runtimes.adapters.ncnn._network import Network, Node, evaluated
from autocompress.runtimes.adapters.ncnn._operators import OPERATORS
from autocompress.runtimes.adapters.onnxruntime.reader import read_forms
from autocompress.runtimes.kernels import Forms, with_lives
from autocompress.runtimes.quantized_graph import read

_OLDEST_OPSET = 13
"""Before it, some operators had other defaults, or attributes for inputs."""


def write(model: onnx.ModelProto) -> bytes:
    """The file: layers, their weights, and in words what it takes, what it returns, and the graph's metadata.

    Raises:
        CandidateError: a node has no counterpart in ncnn.
    """
    net = _lowered(model)
    stored, graph = net.stored, net.graph.floats.graph
    about = {
        "inputs": {value.name: _described(net, value.name) for value in graph.input if value.name not in stored},
        "outputs": {value.name: _described(net, value.name) for value in graph.output},
        "metadata": {item.key: item.value for item in model.metadata_props},
    }
    ends = [Layer("Noop", [net.blob(value.name)], [_blob_name(value.name)]) for value in graph.output]
    return pack(with_splits([*net.layers, *ends]), about)


def kernels(model: onnx.ModelProto, outputs: Sequence[str] | None = None) -> Forms:
    """What the layers cost; shapes are those of the graph.

    Raises:
        CandidateError: as `write`.
        InputError: the graph has no such output.
    """
    net = _lowered(model, outputs)
    inputs = [value.name for value in net.graph.floats.graph.input]
    ends = [net.tensor_of(name) for name in outputs or net.outputs]
    ops = with_lives(net.ops, inputs, ends, lambda name: (name, net.bytes_of.get(name, 4)))
    return Forms(tuple(ops), net.shapes)


def _described(net: Network, tensor: str) -> dict[str, Any]:
    return {"blob": _blob_name(tensor), "form": _form(net, tensor), "shape": net.shape(tensor)}


def _form(net: Network, tensor: str) -> Form:
    """Of an input or output.

    Raises:
        CandidateError: it has too many dimensions.
    """
    try:
        return net.form(tensor)
    except ValueError as reason:
        raise CandidateError(f"ncnn can neither take nor return {tensor!r}: {reason}") from None


def _blob_name(tensor: str) -> str:
    """What an input or output is called in the file, where names hold no spaces."""
    return quote(tensor, safe="/:.[]")


def _lowered(model: onnx.ModelProto, outputs: Sequence[str] | None = None) -> Network:
    opset = max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < _OLDEST_OPSET:
        raise CandidateError(f"ncnn's files are written from opset {_OLDEST_OPSET} on, and this graph has {opset}")
    graph = read(model)
    net = Network(graph, read_forms(model).shapes)
    for value in graph.floats.graph.input:
        if value.name not in net.stored:
            if value.type.tensor_type.elem_type != TensorProto.FLOAT:
                raise CandidateError(f"ncnn takes inputs of float32 only, and {value.name!r} is of another type")
            net.add_input(value.name, _blob_name(value.name), _form(net, value.name))
    needed = None if outputs is None else _ancestors(graph.floats.graph, outputs)
    for proto in graph.floats.graph.node:
        if (needed is None or proto.output[0] in needed) and proto.output[0] not in net.done:
            _write(net, Node(proto), opset)
    return net


def _write(net: Network, node: Node, opset: int) -> None:
    """Write a node, or compute it now if it depends on constants and shapes only."""
    kind = node.proto.op_type
    if kind == "Shape":
        span = slice(node.get("start", 0), node.get("end", None))
        net.constants[node.output] = np.array(net.shape(node.inputs[0])[span], np.int64)
    elif all(name in net.constants for name in node.inputs if name):
        values = evaluated(node.proto, {name: net.constants[name] for name in node.inputs if name}, opset)
        net.constants.update(zip(node.proto.output, values, strict=True))
    elif kind in OPERATORS:
        try:
            OPERATORS[kind](net, node)
        except ValueError as reason:
            raise node.refuse(str(reason)) from None
    else:
        raise node.refuse("no layer of ncnn is written for this operator")


def _ancestors(graph: onnx.GraphProto, outputs: Sequence[str]) -> set[str]:
    """Everything that some tensors are computed from, themselves included."""
    producer = {name: node for node in graph.node for name in node.output}
    missing = [name for name in outputs if name not in producer]
    if missing or not outputs:
        have = ", ".join(value.name for value in graph.output)
        raise InputError(f"the graph has no tensor {missing[0] if missing else ''!r}; its outputs are: {have}.")
    needed: set[str] = set()
    stack = list(outputs)
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack.extend(producer[name].input if name in producer else ())
    return needed
