"""Shapes of all tensors of a graph: as onnx infers them, and where it gives up as one run in ONNX Runtime shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from autocompress.errors import InputError

_PER_BYTE = {"INT4": 2, "UINT4": 2, "INT2": 4, "UINT2": 4}
_WHOLE: dict[str, str] = {
    "Loop": "what runs inside of Loop is not counted",
    "Scan": "what runs inside of Scan is not counted",
}
_BY_DATA = {"NonZero", "NonMaxSuppression", "Unique", "Compress", "StringSplit", "RegexFullMatch"}


def infer(model: onnx.ModelProto, weights: Sequence[onnx.TensorProto]) -> onnx.ModelProto:
    """Return the graph with the shapes and types of all its tensors.

    The run is one on zeros, with weights of zeros and without optimisation: what a tensor holds does not matter to the
    shapes of others, save for `assumptions`. It needs the memory of one inference.

    Args:
        model: all dimensions of its inputs are fixed; large weights are inputs, too.
        weights: these, without values.

    Raises:
        InputError: ONNX Runtime cannot run the graph, so that nobody knows the shapes.
    """
    for output in model.graph.output:
        if not output.type.tensor_type.elem_type:
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    inferred = _inferred(model)
    known = {v.name: v.type for v in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)}
    unknown = [name for node in inferred.graph.node for name in node.output if name and not _is_known(known.get(name))]
    if unknown:
        found = _run(model, weights, unknown, [name for name in unknown if not _elem_type(known.get(name))])
        _write(inferred.graph, {name: (_elem_type(known.get(name)) or kind, dims) for name, kind, dims in found})
    return inferred


def assumptions(graph: onnx.GraphProto) -> tuple[str, ...]:
    """What the shapes of a graph do not tell: sizes that depend on the data, and what runs inside of loops."""
    found = [
        _WHOLE.get(node.op_type) or f"the size of {node.output[0]!r} ({node.op_type}) depends on the data"
        for node in graph.node
        if node.op_type in _BY_DATA or node.op_type in _WHOLE
    ]
    return tuple(dict.fromkeys(found))


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    for data_prop in (True, False):
        try:
            return onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=data_prop)
        except Exception:  # an operator or a type that onnx does not know
            continue
    return model


def _elem_type(kind: onnx.TypeProto | None) -> int:
    return kind.tensor_type.elem_type if kind is not None and kind.HasField("tensor_type") else 0


def _is_known(kind: onnx.TypeProto | None) -> bool:
    """Whether nothing is left to find out: sequences and optional values have no shape."""
    if kind is None or not kind.WhichOneof("value"):
        return False
    tensor = kind.tensor_type
    return not kind.HasField("tensor_type") or (
        tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
    )


def _run(
    model: onnx.ModelProto, weights: Sequence[onnx.TensorProto], names: Sequence[str], untyped: Sequence[str]
) -> list[tuple[str, int, list[int]]]:
    """Name, element type (0 unless untyped) and shape of some tensors, found by running the graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level, options.enable_cpu_mem_arena = 1, 4, False
    probe = _probe(model, weights, names, untyped)
    try:
        session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feed = {value.name: _zeros(value) for value in probe.graph.input}
        shapes = session.run([f"{name}:shape" for name in names], feed)
    except Exception as error:  # onnxruntime has no common base class for its errors
        makers = {name: node.op_type for node in model.graph.node for name in node.output}
        raise InputError(
            f"the shape of tensor {names[0]!r} ({makers[names[0]]}) is not known, so no latency can be predicted: "
            f"onnx cannot infer it, and one run of the graph to learn it fails: {' '.join(str(error).split())[:300]}"
        ) from None
    types = {value.name: value.type for value in session.get_outputs()}
    elem_types = {name: _elem_type_of(types[name]) for name in untyped}
    return [(name, elem_types.get(name, 0), shape.tolist()) for name, shape in zip(names, shapes, strict=True)]


def _zeros(value: onnx.ValueInfoProto) -> npt.NDArray[Any]:
    tensor = value.type.tensor_type
    return np.zeros([dim.dim_value for dim in tensor.shape.dim], helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def _elem_type_of(text: str) -> int:
    """Element type of a session's "tensor(float)" and so on."""
    name = text.removeprefix("tensor(").removesuffix(")").upper()
    return int(dict(onnx.TensorProto.DataType.items()).get(name, 0))


def _probe(
    model: onnx.ModelProto, weights: Sequence[onnx.TensorProto], names: Sequence[str], untyped: Sequence[str]
) -> onnx.ModelProto:
    """Return the graph with weights of zeros, made as it runs, and shapes as outputs: so nothing else is kept."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    taken = {weight.name for weight in weights}
    inputs = [value for value in graph.input if value.name not in taken]
    del graph.input[:]
    graph.input.extend(inputs)
    makers = []
    for weight in weights:
        if per_byte := _PER_BYTE.get(onnx.TensorProto.DataType.Name(weight.data_type)):
            size = -(-int(np.prod(weight.dims)) // per_byte)
            graph.initializer.append(helper.make_tensor(weight.name, weight.data_type, weight.dims, bytes(size), True))
            continue
        shape = helper.make_tensor(f"{weight.name}:dims", onnx.TensorProto.INT64, [len(weight.dims)], weight.dims)
        zero = helper.make_tensor("zero", weight.data_type, [1], [0])
        graph.initializer.append(shape)
        makers.append(helper.make_node("ConstantOfShape", [shape.name], [weight.name], value=zero))
    nodes = [*makers, *graph.node, *(helper.make_node("Shape", [name], [f"{name}:shape"]) for name in names)]
    del graph.node[:]
    graph.node.extend(nodes)
    for node in graph.node:
        node.ClearField("name")  # a path through nested exits may hold two of one name, which is refused
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(f"{n}:shape", onnx.TensorProto.INT64, None) for n in names)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in untyped)
    return probe


def _write(graph: onnx.GraphProto, found: dict[str, tuple[int, list[int]]]) -> None:
    outputs = {value.name: value for value in graph.output}
    kept_info = [value for value in graph.value_info if value.name not in found]
    del graph.value_info[:]
    graph.value_info.extend(kept_info)
    for name, (elem_type, dims) in found.items():
        value = helper.make_tensor_value_info(name, elem_type or onnx.TensorProto.FLOAT, dims)
        if name in outputs:
            outputs[name].CopyFrom(value)
        else:
            graph.value_info.append(value)
