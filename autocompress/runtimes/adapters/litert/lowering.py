"""From a graph of ours to a .tflite file: which form each tensor has, and what turns one form into another.

Kernels of LiteRT want images with their channels last (NHWC), our graphs have them second (NCHW); so a tensor is kept
in the form that its operator wrote, and is turned where somebody reads another form. One sample at a time is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from autocompress.errors import CandidateError
from autocompress.runtimes.adapters.litert.flatbuffer import File
from autocompress.runtimes.base import reference
from autocompress.runtimes.input_shapes import fix_inputs
from autocompress.runtimes.quantized_graph import Code, QuantizedGraph, read

Array = NDArray[Any]
_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1)}
"""Order of the axes with the channels last; tensors of other ranks have one form only."""
_FLOAT = np.dtype(np.float32)
_OLDEST_OPSET = 13


@dataclass(frozen=True, slots=True)
class Form:
    """How a tensor lies in memory."""

    last: bool = False
    """Channels last; of three axes (N, C, L) as an image of height 1, (N, 1, L, C)."""
    code: Code | None = None
    """Of int8; None for floats and whatever is no quantised number."""
    rounded: bool = False
    """Floats that were codes before."""


class Lowering:
    """A graph on its way into a file; operators are in `operators`."""

    def __init__(self, model: onnx.ModelProto, output_codes: Mapping[str, Code] = MappingProxyType({})) -> None:
        opset = max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
        if opset < _OLDEST_OPSET:
            raise CandidateError(f"LiteRT files are written from opset {_OLDEST_OPSET} on, and this graph has {opset}")
        taken = read(model)
        self.taken: QuantizedGraph = replace(taken, codes={**taken.codes, **output_codes})
        self.integers_only = bool(output_codes)
        self.graph = self.taken.floats.graph
        self.file = File()
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        inputs = [value for value in self.graph.input if value.name not in self.constants]
        for value in inputs:
            if not all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim[1:]):
                raise CandidateError(
                    f"a LiteRT file takes inputs of one size, and {value.name!r} has a free axis: fix it"
                )
        fix_inputs(inputs, {}, 1)
        self.shapes = reference().kernels(self.taken.floats).shapes
        self.nodes = self._without_constants()
        self.outputs = [value.name for value in self.graph.output]
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.dtypes = _types(self.taken.floats)
        self.done: set[str] = set()
        """First outputs of nodes that are parts of the operators of others."""
        self._held: dict[str, dict[Form, int]] = {}
        self._unpacked: dict[int, int] = {}

    def feed(self, value: onnx.ValueInfoProto) -> int:
        """An input of the file: as in the graph, or in codes with the channels last."""
        if self.integers_only and value.name not in self.taken.codes:
            raise CandidateError(f"no layer reads the input {value.name!r} in integers: quantise all layers")
        if self.integers_only:
            return self.put(value.name, Form(True, self.taken.codes[value.name]))
        return self.put(value.name, Form())

    def own(self, name: str) -> int:
        """The tensor of an output: floats, axes as in the graph, copied if another name already uses it.

        Where only integers are allowed it is in codes, with the channels last.
        """
        form = Form(self.is_last(name), self.taken.codes[name]) if self.integers_only else Form()
        number = self.get(name, form)
        if sum(number in held.values() for held in self._held.values()) > 1 or name in self.constants:
            shape = self.physical(self.shape(name), form.last)
            number = self._same_type("RESHAPE", number, shape, name, form, shape)
        return number

    # -- what the graph says

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one sample, in the order of the graph."""
        return tuple(self.constants[name].shape) if name in self.constants else tuple(self.shapes[name])

    def dtype(self, name: str) -> np.dtype[Any]:
        """Of a tensor's numbers in the graph."""
        return self.dtypes.get(name, _FLOAT)

    def constant(self, node: onnx.NodeProto, k: int) -> Array:
        """An input that has to be constant."""
        if node.input[k] not in self.constants:
            raise self.refused(node, f"its input {node.input[k]!r} is not constant")
        return self.constants[node.input[k]]

    def is_rounded(self, node: onnx.NodeProto, k: int) -> bool:
        """Whether a node reads codes."""
        return (node.output[0], k) in self.taken.integer_reads

    def is_integer(self, node: onnx.NodeProto, inputs: Sequence[int], end: str) -> bool:
        """Whether a node reads and writes codes."""
        return end in self.taken.codes and all(self.is_rounded(node, k) for k in inputs)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor, if it is one."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    # -- forms of tensors

    def is_last(self, name: str) -> bool:
        """Whether a tensor was written with its channels last."""
        return next(iter(self._held[name])).last if name in self._held else False

    def format_of(self, node: onnx.NodeProto, k: int, last: bool) -> Form:
        """What is there of an input without converting numbers: for operators that only move them."""
        name = node.input[k]
        if self.is_rounded(node, k):
            return Form(last, self.taken.codes[name])
        held = self._held.get(name, {})
        if not held or any(form.code is None and not form.rounded for form in held):
            return Form(last)
        return replace(next(iter(held)), last=last)

    def read(self, node: onnx.NodeProto, k: int, last: bool = False) -> int:
        """An input in floats, rounded if the graph says so."""
        return self.get(node.input[k], Form(last, rounded=self.is_rounded(node, k)))

    def get(self, name: str, form: Form) -> int:
        """A tensor in a form; what converts it is written once."""
        form = self._possible(name, form)
        held = self._held.setdefault(name, {})
        if form not in held:
            held[form] = self._constant(name, form) if name in self.constants else self._converted(name, form)
        return held[form]

    def put(self, name: str, form: Form) -> int:
        """A new tensor for what an operator writes."""
        form = self._possible(name, form)
        number = self.file.tensor(self.physical(self.shape(name), form.last), self.dtype(name), form.code)
        self._held.setdefault(name, {})[form] = number
        return number

    def write(self, kind: str, inputs: Sequence[int], name: str, form: Form, **options: Any) -> None:
        """An operator that writes a tensor of the graph."""
        self.file.operator(kind, inputs, [self.put(name, form)], **options)

    def step(
        self,
        kind: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        what: Code | np.dtype[Any] | None = None,
        **options: Any,
    ) -> int:
        """An operator that writes a tensor that the graph does not have: floats, codes, or numbers of another type."""
        code = what if isinstance(what, Code) else None
        number = self.file.tensor(shape, what if isinstance(what, np.dtype) else _FLOAT, code)
        self.file.operator(kind, inputs, [number], **options)
        return number

    def numbers(self, values: Sequence[int]) -> int:
        """A constant of int32, as axes and sizes are given."""
        return self.file.constant(np.asarray(values, np.int32))

    def operand(self, name: str, rank: int, last: bool) -> int:
        """A constant that is broadcast to a tensor of so many axes."""
        array = self.constants[name]
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        return self.file.constant(np.ascontiguousarray(self._arranged(array, last)))

    def unpacked(self, number: int, shape: Sequence[int]) -> int:
        """Floats from a constant that is stored smaller; unpacked once, when the file is loaded."""
        if number not in self._unpacked:
            self._unpacked[number] = self.step("DEQUANTIZE", [number], shape)
        return self._unpacked[number]

    def alias(self, name: str, form: Form, number: int) -> None:
        """Say that a tensor is another one under a second name."""
        self._held.setdefault(name, {})[form] = number

    @staticmethod
    def order(rank: int, last: bool) -> tuple[int, ...]:
        """Which axis of the graph lies where."""
        return _LAST[rank] if last and rank in _LAST else tuple(range(rank))

    def physical(self, shape: Sequence[int], last: bool) -> tuple[int, ...]:
        """A shape as it lies in memory."""
        moved = tuple(shape[axis] for axis in self.order(len(shape), last))
        return (moved[0], 1, *moved[1:]) if last and len(shape) == 3 else moved

    def axis(self, axis: int, rank: int, last: bool) -> int:
        """Where an axis of the graph lies in memory."""
        found = self.order(rank, last).index(axis % rank)
        return found + (1 if last and rank == 3 and found else 0)

    def refused(self, node: onnx.NodeProto, why: str = "") -> CandidateError:
        """The error for what LiteRT has no operator for."""
        name = node.name or node.output[0]
        return CandidateError(f"no LiteRT operator does what {node.op_type} {name!r} does{why and ': '}{why}")

    # -- inside

    def _possible(self, name: str, form: Form) -> Form:
        """Of up to two axes the channels are last anyway; of more than four there is no form with the channels last."""
        rank = len(self.shape(name))
        if form.last and rank > max(_LAST):
            raise CandidateError(
                f"LiteRT's kernels take images of two dimensions at most, and {name!r} has {rank} axes"
            )
        return replace(form, last=form.last and rank in _LAST)

    def _arranged(self, array: Array, last: bool) -> Array:
        moved = array.transpose(self.order(array.ndim, last))
        return moved.reshape(self.physical(array.shape, last))

    def _constant(self, name: str, form: Form) -> int:
        array = np.ascontiguousarray(self._arranged(self.constants[name], form.last))
        return self.file.constant(array) if form.code is None else self.file.coded(array, form.code)

    def _converted(self, name: str, form: Form) -> int:
        held = self._held[name]
        if form.rounded:
            source = self.get(name, Form(form.last, self.taken.codes[name]))
        elif (other := replace(form, last=not form.last)) in held:
            return self._turned(name, held[other], form)
        else:
            best = min(held, key=lambda known: (known.rounded, known.code is not None))
            source = self.get(name, replace(best, last=form.last))
        shape = self.physical(self.shape(name), form.last)
        return self.step("DEQUANTIZE" if form.code is None else "QUANTIZE", [source], shape, form.code)

    def _turned(self, name: str, source: int, form: Form) -> int:
        """The same numbers in the other order of axes."""
        shape = self.shape(name)
        before, after = self.order(len(shape), not form.last), self.order(len(shape), form.last)
        moves = tuple(before.index(axis) for axis in after)
        number, sizes = source, [shape[axis] for axis in before]
        if not keeps_order(sizes, moves):
            if self.physical(shape, not form.last) != tuple(sizes):
                number = self._same_type("RESHAPE", number, sizes, name, form, sizes)
            sizes = [sizes[k] for k in moves]
            number = self._same_type("TRANSPOSE", number, sizes, name, form, moves)
        if (there := self.physical(shape, form.last)) != tuple(sizes) or number == source:
            number = self._same_type("RESHAPE", number, there, name, form, there)
        return number

    def _same_type(
        self, kind: str, source: int, shape: Sequence[int], name: str, form: Form, how: Sequence[int]
    ) -> int:
        number = self.file.tensor(shape, self.dtype(name), form.code)
        self.file.operator(kind, [source, self.numbers(how)], [number])
        return number

    def _without_constants(self) -> list[onnx.NodeProto]:
        """The nodes that depend on the inputs; the values of the others are computed here."""
        static, fixed, others = set(self.constants), list[onnx.NodeProto](), list[onnx.NodeProto]()
        for node in self.graph.node:
            if node.op_type == "Shape" and node.input[0] not in static:
                self.constants[node.output[0]] = self._size(node)
                static.add(node.output[0])
            elif node.op_type == "Constant" or (node.input and all(name in static for name in node.input if name)):
                fixed.append(node)
                static.update(node.output)
            else:
                others.append(node)
        read_outside = {name for node in others for name in node.input} | {value.name for value in self.graph.output}
        wanted = [name for node in fixed for name in node.output if name in read_outside]
        if wanted:
            self.constants |= _computed(self.taken.floats, fixed, self.constants, wanted)
        return others

    def _size(self, node: onnx.NodeProto) -> Array:
        whole = np.asarray(self.shapes[node.input[0]], np.int64)
        return whole[attribute(node, "start", 0) : attribute(node, "end", None)]


def _types(model: onnx.ModelProto) -> dict[str, np.dtype[Any]]:
    """Of all tensors; found without the values of the weights, which would be copied."""
    graph, given = model.graph, {value.name for value in model.graph.input}
    stored = [
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in graph.initializer if t.name not in given
    ]
    light = helper.make_graph(graph.node, graph.name, [*graph.input, *stored], graph.output)
    light_model = helper.make_model(light, opset_imports=model.opset_import, ir_version=model.ir_version)
    found = onnx.shape_inference.infer_shapes(light_model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*found.input, *found.value_info, *found.output)}
    return {name: helper.tensor_dtype_to_np_dtype(kind) for name, kind in types.items() if kind}


def _computed(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], constants: dict[str, Array], wanted: Sequence[str]
) -> dict[str, Array]:
    used = {name for node in nodes for name in node.input}
    given = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
    graph = helper.make_graph(nodes, "constants", [], [onnx.ValueInfoProto(name=name) for name in wanted], given)
    small = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return dict(reference().load(small.SerializeToString())({}))


def keeps_order(sizes: Sequence[int], moves: Sequence[int]) -> bool:
    """Whether a transposition moves axes of size 1 only, and so no number."""
    moved = [axis for axis in moves if sizes[axis] != 1]
    return moved == sorted(moved)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node, or `default`."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)
