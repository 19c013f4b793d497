"""A graph on its way to ncnn's layers: which blob holds a tensor, in which form, and what the layers cost.

Blobs have no batch: a tensor of one sample is a blob without its first axis of size 1. Forms with the same numbers in
the same order are as good as each other, so that a Reshape is written only where a layer asks for another form than the
one that the last layer made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from autocompress.errors import CandidateError
from autocompress.runtimes.adapters.ncnn._format import Form, Layer, Param, plain, sizes
from autocompress.runtimes.kernels import OpForm
from autocompress.runtimes.quantized_graph import QuantizedGraph

_MOST_SIZES = 4


@dataclass(frozen=True)
class Node:
    """One operator of the graph; its inputs and outputs are names of tensors."""

    proto: onnx.NodeProto

    @cached_property
    def inputs(self) -> list[str]:
        """Empty where one is left out."""
        return list(self.proto.input)

    @property
    def output(self) -> str:
        """The first."""
        return str(self.proto.output[0])

    @property
    def name(self) -> str:
        """As costs and layers are known by."""
        return str(self.proto.name) or self.output

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """As they are written."""
        return {item.name: helper.get_attribute_value(item) for item in self.proto.attribute}

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def refuse(self, why: str) -> CandidateError:
        """The error that this node cannot be written."""
        return CandidateError(f"ncnn cannot run {self.proto.op_type} {self.name!r}: {why}")


@dataclass(frozen=True)
class _Value:
    blob: str
    form: Form
    tensor: str
    """Whose numbers they are: itself, or what it was reshaped from."""


class Network:
    """What is known while the operators are written, in their order.

    Args:
        graph: taken apart.
        shapes: of its tensors, for a batch of 1.
    """

    def __init__(self, graph: QuantizedGraph, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.graph = graph
        self.shapes = shapes
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.floats.graph.initializer}
        self.stored = frozenset(self.constants)
        """Those constants that the graph holds; others are computed from them and from shapes."""
        self.layers: list[Layer] = []
        self.ops: list[OpForm] = []
        self.done: set[str] = set()
        """First outputs of nodes that another one took in."""
        self.bytes_of: dict[str, int] = {}
        """Of an element of the tensors that are no floats."""
        self._values: dict[str, _Value] = {}
        self._reshaped: dict[tuple[str, Form], str] = {}
        nodes = [Node(node) for node in graph.floats.graph.node]
        self.outputs = {value.name for value in graph.floats.graph.output}
        self.readers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in dict.fromkeys(node.inputs):
                self.readers.setdefault(name, []).append(node)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Of a tensor or a constant."""
        return self.constants[tensor].shape if tensor in self.constants else self.shapes[tensor]

    def form(self, tensor: str) -> Form:
        """The usual form of a tensor."""
        shape = self.shape(tensor)
        return tuple(shape[axis] for axis in kept_axes(shape)) or (1,)

    def made(self, tensor: str) -> Form:
        """The form that the last layer gave it."""
        return self._values[tensor].form if tensor in self._values else self.form(tensor)

    def tensor_of(self, tensor: str) -> str:
        """What it was reshaped from."""
        return self._values[tensor].tensor if tensor in self._values else tensor

    def only_reader(self, tensor: str) -> Node | None:
        """The node that reads a tensor, where it is the only one."""
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def add_input(self, tensor: str, blob: str, form: Form) -> None:
        """An input of the network."""
        self.layers.append(Layer("Input", [], [blob], sizes(form)))
        self._values[tensor] = _Value(blob, form, tensor)

    def alias(self, source: str, target: str) -> None:
        """The same numbers with another shape."""
        if source in self.constants:
            self.constants[target] = self.constants[source].reshape(self.shapes[target])
        else:
            self._values[target] = self._values[source]

    def blob(self, tensor: str, form: Form | None = None) -> str:
        """The blob of a tensor, in its usual form or another one."""
        wanted = form or self.form(tensor)
        if tensor in self.constants:
            return self._constant(tensor, wanted)
        value = self._values[tensor]
        if value.form == wanted:
            return value.blob
        key = value.blob, wanted
        if key not in self._reshaped:
            self._reshaped[key] = self._new("Reshape", [value.blob], sizes(wanted))
            self.ops.append(OpForm("view", "float32", f"{value.tensor}/reshape{len(self.layers)}"))
        return self._reshaped[key]

    def _constant(self, tensor: str, form: Form) -> str:
        key = tensor, form
        if key not in self._reshaped:
            data = plain(self.constants[tensor])
            self._reshaped[key] = self._new("MemoryData", [], sizes(form), [data])
        return self._reshaped[key]

    def _new(self, kind: str, inputs: list[str], params: dict[int, Param], weights: Sequence[bytes] = ()) -> str:
        blob = str(len(self.layers))
        self.layers.append(Layer(kind, inputs, [blob], params, list(weights)))
        return blob

    def add(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Mapping[str, Form],
        params: Mapping[int, Param] | None = None,
        weights: Sequence[bytes] = (),
    ) -> None:
        """Write a layer.

        Args:
            kind: as ncnn calls it.
            inputs: blobs.
            outputs: tensors, and the forms in which it makes them.
            params: by their numbers.
            weights: in ncnn's order.

        Raises:
            ValueError: one of the outputs would have no elements.
        """
        if any(size < 1 for form in outputs.values() for size in form):
            raise ValueError("nothing is left of its input, and blobs have elements")
        blobs = [f"{len(self.layers)}" + (f"o{k}" if k else "") for k in range(len(outputs))]
        self.layers.append(Layer(kind, list(inputs), blobs, dict(params or {}), list(weights)))
        for (tensor, form), blob in zip(outputs.items(), blobs, strict=True):
            self._values[tensor] = _Value(blob, form, tensor)

    def cost(self, kind: str, node: Node, outputs: Sequence[str], dtype: str = "float32", **facts: Any) -> None:
        """Note what a layer costs: it reads what is no constant, once each."""
        itemsize = 1 if dtype == "int8" else 4
        reads = dict.fromkeys(self.tensor_of(name) for name in node.inputs if name and name not in self.constants)
        self.ops.append(
            OpForm(
                kind,
                dtype,
                node.name,
                reads=tuple((name, itemsize) for name in reads),
                writes=tuple((name, itemsize) for name in outputs),
                weights=tuple((name, itemsize) for name in node.inputs if name in self.stored),
                **facts,
            )
        )


def kept_axes(shape: Sequence[int], needed: Sequence[int] = ()) -> list[int]:
    """The axes of a tensor that its blob has: all but the first of size 1, and more of size 1 if they are too many.

    Args:
        shape: of the tensor.
        needed: axes that a layer works along, which stay.

    Raises:
        ValueError: more than four are left.
    """
    axes = list(range(len(shape)))
    for number, axis in enumerate([axis for axis in axes if shape[axis] == 1 and axis not in needed]):
        if number == 0 or len(axes) > _MOST_SIZES:
            axes.remove(axis)
    if len(axes) > _MOST_SIZES:
        raise ValueError(f"tensors have up to four dimensions beside the batch, and one of its is {tuple(shape)}")
    return axes


def evaluated(node: onnx.NodeProto, inputs: Mapping[str, NDArray[Any]], opset: int) -> list[NDArray[Any]]:
    """What an operator makes of constants."""
    from onnx.reference import ReferenceEvaluator

    outputs = [helper.make_tensor_value_info(name, 0, None) for name in node.output]
    given = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()
    ]
    graph = helper.make_graph([node], "constant", given, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, dict(inputs))]
