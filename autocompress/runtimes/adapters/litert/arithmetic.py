"""Operators on one value at a time, and along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from autocompress.runtimes.adapters.litert.activations import CLIPS, bounds_of, end_of, take
from autocompress.runtimes.adapters.litert.layers import SPATIAL
from autocompress.runtimes.adapters.litert.lowering import Form, Lowering, attribute
from autocompress.runtimes.adapters.litert.table import operator

_UNARY = {"Sigmoid": "LOGISTIC", "Tanh": "TANH", "HardSwish": "HARD_SWISH", "Exp": "EXP", "Log": "LOG", "Sqrt": "SQRT"}
_UNARY |= {"Neg": "NEG", "Abs": "ABS", "Floor": "FLOOR", "Ceil": "CEIL", "Sin": "SIN", "Cos": "COS", "Relu": "RELU"}
_UNARY |= {"Not": "LOGICAL_NOT", "Round": "ROUND", "Sign": "SIGN"}
_BINARY = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV", "Max": "MAXIMUM", "Min": "MINIMUM", "Pow": "POW"}
_LOGICAL = {"Equal": "EQUAL", "Greater": "GREATER", "GreaterOrEqual": "GREATER_EQUAL", "Less": "LESS"}
_LOGICAL |= {"LessOrEqual": "LESS_EQUAL", "And": "LOGICAL_AND", "Or": "LOGICAL_OR"}
_FUSING = {"ADD", "SUB", "MUL", "DIV"}


@operator(*_UNARY)
def _unary(low: Lowering, node: onnx.NodeProto) -> None:
    x, out = node.input[0], node.output[0]
    last = low.is_last(x)
    low.write(_UNARY[node.op_type], [low.read(node, 0, last)], out, Form(last))


@operator("Gelu", "Elu", "LeakyRelu")
def _with_option(low: Lowering, node: onnx.NodeProto) -> None:
    kind, options = {
        "Gelu": ("GELU", {"approximate": attribute(node, "approximate", b"none") == b"tanh"}),
        "LeakyRelu": ("LEAKY_RELU", {"alpha": attribute(node, "alpha", 0.01)}),
        "Elu": ("ELU", {}),
    }[node.op_type]
    if kind == "ELU" and attribute(node, "alpha", 1.0) != 1.0:
        raise low.refused(node, "its alpha is not 1")
    last = low.is_last(node.input[0])
    low.write(kind, [low.read(node, 0, last)], node.output[0], Form(last), **options)


@operator("Clip")
def _clip(low: Lowering, node: onnx.NodeProto) -> None:
    x, bounds = node.input[0], bounds_of(low, node)
    if low.dtype(x) != np.float32:
        raise low.refused(node, "it clips integers")
    last = low.is_last(x)
    source, shape = low.read(node, 0, last), low.physical(low.shape(x), last)
    if bounds in CLIPS:
        low.write(CLIPS[bounds], [source], node.output[0], Form(last))
        return
    least, most = (low.file.constant(np.asarray(bound, np.float32)) for bound in bounds)
    low.write("MINIMUM", [low.step("MAXIMUM", [source, least], shape), most], node.output[0], Form(last))


@operator("HardSigmoid")
def _hard_sigmoid(low: Lowering, node: onnx.NodeProto) -> None:
    x = node.input[0]
    last = low.is_last(x)
    shape = low.physical(low.shape(x), last)
    scale, offset = (
        low.file.constant(np.asarray(attribute(node, name, default), np.float32))
        for name, default in (("alpha", 0.2), ("beta", 0.5))
    )
    line = low.step("ADD", [low.step("MUL", [low.read(node, 0, last), scale], shape), offset], shape)
    low.write("RELU_0_TO_1", [line], node.output[0], Form(last))


@operator("PRelu")
def _prelu(low: Lowering, node: onnx.NodeProto) -> None:
    x, rank = node.input[0], len(low.shape(node.input[0]))
    last = low.is_last(x)
    slope = low.constant(node, 1)
    slope = slope.reshape((1,) * (rank - slope.ndim) + slope.shape)
    if slope.shape[0] != 1:
        raise low.refused(node, "it has a slope for each of several images")
    low.constants[f"{node.output[0]}/slope"] = slope[0]
    inputs = [low.read(node, 0, last), low.operand(f"{node.output[0]}/slope", rank, last)]
    low.write("PRELU", inputs, node.output[0], Form(last))


@operator("Reciprocal")
def _reciprocal(low: Lowering, node: onnx.NodeProto) -> None:
    last = low.is_last(node.input[0])
    one = low.file.constant(np.ones(1, np.float32))
    low.write("DIV", [one, low.read(node, 0, last)], node.output[0], Form(last), fusedActivationFunction="NONE")


@operator(*_BINARY, *_LOGICAL)
def _binary(low: Lowering, node: onnx.NodeProto) -> None:
    if len(node.input) != 2:
        raise low.refused(node, "it has another number of inputs than two")
    kind = _BINARY.get(node.op_type) or _LOGICAL[node.op_type]
    end = end_of(low, node) if kind in _FUSING else node.output[0]
    integer = kind == "ADD" and low.is_integer(node, (0, 1), end)
    activation = "NONE"
    if kind in _FUSING:
        end, activation = take(low, node.output[0], end if integer else None)
    last = common_order(low, node)
    inputs = [_operand(low, node, k, last, integer) for k in (0, 1)]
    options = {"fusedActivationFunction": activation} if kind in _FUSING else {}
    low.write(kind, inputs, end, Form(last, low.taken.codes[end] if integer else None), **options)


def common_order(low: Lowering, node: onnx.NodeProto) -> bool:
    """Whether an operator on several tensors computes with the channels last."""
    rank = len(low.shape(node.output[0]))
    data = [name for name in node.input if name not in low.constants]
    return all(len(low.shape(name)) == rank for name in data) and any(map(low.is_last, data))


def _operand(low: Lowering, node: onnx.NodeProto, k: int, last: bool, integer: bool = False) -> int:
    name = node.input[k]
    if name in low.constants:
        return low.operand(name, len(low.shape(node.output[0])) if last else low.constants[name].ndim, last)
    return low.get(name, Form(last, low.taken.codes[name])) if integer else low.read(node, k, last)


@operator("Where")
def _where(low: Lowering, node: onnx.NodeProto) -> None:
    last = common_order(low, node)
    low.write("SELECT_V2", [_operand(low, node, k, last) for k in range(3)], node.output[0], Form(last))


@operator("Cast")
def _cast(low: Lowering, node: onnx.NodeProto) -> None:
    x, last = node.input[0], low.is_last(node.input[0])
    low.write("CAST", [low.read(node, 0, last)], node.output[0], Form(last and x not in low.constants))


# -- along an axis


@operator("Softmax", "LogSoftmax")
def _softmax(low: Lowering, node: onnx.NodeProto) -> None:
    rank = len(low.shape(node.input[0]))
    axis = attribute(node, "axis", -1) % rank
    last = axis == 1 and rank in (3, 4)
    if not last and axis != rank - 1:
        raise low.refused(node, "it is along an axis that is neither the last nor the channels")
    options = {"beta": 1.0} if node.op_type == "Softmax" else {}
    kind = "SOFTMAX" if node.op_type == "Softmax" else "LOG_SOFTMAX"
    low.write(kind, [low.read(node, 0, last)], node.output[0], Form(last), **options)


@operator("ArgMax")
def _arg_max(low: Lowering, node: onnx.NodeProto) -> None:
    if attribute(node, "keepdims", 1):
        raise low.refused(node, "it keeps the axis")
    axis = attribute(node, "axis", 0) % len(low.shape(node.input[0]))
    options = {"outputType": 4}
    low.write("ARG_MAX", [low.read(node, 0), low.numbers([axis])], node.output[0], Form(), **options)


@operator("LayerNormalization")
def _layer_norm(low: Lowering, node: onnx.NodeProto) -> None:
    shape = low.shape(node.input[0])
    axes = range(attribute(node, "axis", -1) % len(shape), len(shape))
    normal = _normalised(low, low.read(node, 0), shape, axes, attribute(node, "epsilon", 1e-5))
    for k in range(1, len(node.input)):
        low.constant(node, k)
    _scaled(low, node, normal, shape, False, node.input[1:])


@operator("BatchNormalization")
def _batch_norm(low: Lowering, node: onnx.NodeProto) -> None:
    scale, offset, mean, variance = (low.constant(node, k) for k in range(1, 5))
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    last = len(low.shape(node.input[0])) <= 4
    _per_channel(low, node, low.read(node, 0, last), last, factor, offset - mean * factor)


@operator("InstanceNormalization")
def _instance_norm(low: Lowering, node: onnx.NodeProto) -> None:
    shape = low.physical(low.shape(node.input[0]), True)
    normal = _normalised(low, low.read(node, 0, True), shape, SPATIAL, attribute(node, "epsilon", 1e-5))
    _per_channel(low, node, normal, True, low.constant(node, 1), low.constant(node, 2))


@operator("GroupNormalization")
def _group_norm(low: Lowering, node: onnx.NodeProto) -> None:
    shape, groups = low.shape(node.input[0]), attribute(node, "num_groups", 1)
    rows = (shape[0], groups, int(np.prod(shape[1:])) // groups)
    data = low.step("RESHAPE", [low.read(node, 0), low.numbers(rows)], rows)
    normal = _normalised(low, data, rows, [2], attribute(node, "epsilon", 1e-5))
    back = low.step("RESHAPE", [normal, low.numbers(shape)], shape)
    _per_channel(low, node, back, False, low.constant(node, 1), low.constant(node, 2))


def _normalised(low: Lowering, data: int, shape: Sequence[int], axes: Sequence[int], epsilon: float) -> int:
    """Numbers less their mean, divided by their standard deviation, along some axes."""
    rest = [1 if axis in axes else size for axis, size in enumerate(shape)]
    where, small = low.numbers(list(axes)), low.file.constant(np.full(1, epsilon, np.float32))
    plain: dict[str, Any] = {"fusedActivationFunction": "NONE"}
    mean = low.step("MEAN", [data, where], rest, keepDims=True)
    centred = low.step("SUB", [data, mean], shape, **plain)
    squares = low.step("MUL", [centred, centred], shape, **plain)
    variance = low.step("ADD", [low.step("MEAN", [squares, where], rest, keepDims=True), small], rest, **plain)
    return low.step("MUL", [centred, low.step("RSQRT", [variance], rest)], shape, **plain)


def _scaled(
    low: Lowering, node: onnx.NodeProto, data: int, shape: Sequence[int], last: bool, names: Sequence[str]
) -> None:
    """Numbers times the first constant plus the second, as the output of a node."""
    parts = [("MUL", names[0]), ("ADD", names[1])] if len(names) > 1 and names[1] else [("MUL", names[0])]
    rank = len(low.shape(node.output[0]))
    for kind, name in parts:
        inputs = [data, low.operand(name, rank, last) if last else low.file.constant(low.constants[name])]
        if (kind, name) == parts[-1]:
            low.write(kind, inputs, node.output[0], Form(last), fusedActivationFunction="NONE")
        else:
            data = low.step(kind, inputs, shape, fusedActivationFunction="NONE")


def _per_channel(
    low: Lowering, node: onnx.NodeProto, data: int, last: bool, factor: NDArray[Any], offset: NDArray[Any]
) -> None:
    shape, names = low.shape(node.output[0]), [f"{node.output[0]}/factor", f"{node.output[0]}/offset"]
    for name, value in zip(names, (factor, offset), strict=True):
        low.constants[name] = value.astype(np.float32).reshape(1, -1, *(1,) * (len(shape) - 2))
    _scaled(low, node, data, low.physical(shape, last), last, names)
