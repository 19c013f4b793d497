"""Layers with weights, and pooling.

Layers with integer inputs and outputs compute in our integers. A linear layer with integer inputs and a float output
has int8 weights and codes its inputs row by row when it runs: LiteRT has no kernel that reads our codes and writes
floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from autocompress.runtimes.adapters.litert.activations import end_of, take
from autocompress.runtimes.adapters.litert.lowering import Form, Lowering, attribute
from autocompress.runtimes.adapters.litert.table import operator

_REDUCTIONS = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"}

SPATIAL = (1, 2)
"""Axes of height and width where channels are last."""


@operator("Conv")
def _conv(low: Lowering, node: onnx.NodeProto) -> None:
    x, weight = node.input[0], low.constants.get(node.input[1])
    if weight is None or weight.ndim > 4:
        raise low.refused(node, "its weight is not constant, or it has three spatial axes")
    integer, end, activation = _computes_in(low, node, end_of(low, node))
    groups, channels = attribute(node, "group", 1), low.shape(x)[1]
    depthwise = groups > 1 and groups == channels
    pads, strides, dilations = (_two(low, node, name, default) for name, default in _WINDOWS)
    kernel, size = _as_image(weight.shape[2:]), _as_image(low.shape(x)[2:])
    source = low.get(x, Form(True, low.taken.codes[x])) if integer else low.read(node, 0, last=True)
    padding = _padding(size, kernel, strides, dilations, pads)
    if padding is None:
        source = _padded(low, source, x, pads, integer)
    order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
    options: dict[str, Any] = {"depthMultiplier": weight.shape[0] // channels} if depthwise else {}
    low.write(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [source, _weight(low, node, order, axis, integer), _bias(low, node, weight.shape[0], integer)],
        end,
        Form(True, low.taken.codes[end] if integer else None),
        padding=padding or "VALID",
        strideH=strides[0],
        strideW=strides[1],
        dilationHFactor=dilations[0],
        dilationWFactor=dilations[1],
        fusedActivationFunction=activation,
        **options,
    )


_WINDOWS: tuple[tuple[str, int], ...] = (("pads", 0), ("strides", 1), ("dilations", 1))


@operator("ConvTranspose")
def _conv_transpose(low: Lowering, node: onnx.NodeProto) -> None:
    """Written without padding, and cut, where the padding is not that of LiteRT."""
    x, out, weight = node.input[0], node.output[0], low.constants.get(node.input[1])
    dilations = _two(low, node, "dilations", 1)
    if weight is None or weight.ndim > 4 or attribute(node, "group", 1) > 1 or set(dilations) != {1}:
        raise low.refused(node, "it has groups, dilation, three spatial axes or no constant weight")
    pads, strides = _two(low, node, "pads", 0), _two(low, node, "strides", 1)
    if attribute(node, "output_shape", None):
        raise low.refused(node, "it has an output_shape")
    kernel, size = _as_image(weight.shape[2:]), _as_image(low.shape(x)[2:])
    wanted = _as_image(low.shape(out)[2:])
    whole = tuple((n - 1) * s + k for n, s, k in zip(size, strides, kernel, strict=True))
    fits = all(
        (a - b) // 2 == p and -(-b // s) == n
        for a, b, p, n, s in zip(whole, wanted, pads[:2], size, strides, strict=True)
    )
    if not fits and any(p + b > a for p, b, a in zip(pads[:2], wanted, whole, strict=True)):
        raise low.refused(node, "its output reaches beyond its windows")
    made, channels = wanted if fits else whole, weight.shape[1]
    data, shape = low.read(node, 0, last=True), (low.shape(x)[0], *made, channels)
    parts = [low.numbers(shape), _weight(low, node, (1, 2, 3, 0), 0, False), data, _bias(low, node, channels, False)]
    options: dict[str, Any] = {"padding": "SAME" if fits else "VALID", "strideH": strides[0], "strideW": strides[1]}
    if fits:
        low.write("TRANSPOSE_CONV", parts, out, Form(True), **options)
        return
    cut = [low.numbers((0, *pads[:2], 0)), low.numbers((shape[0], *wanted, channels))]
    low.write("SLICE", [low.step("TRANSPOSE_CONV", parts, shape, **options), *cut], out, Form(True))


@operator("Gemm", "MatMul")
def _linear(low: Lowering, node: onnx.NodeProto) -> None:
    weight = low.constants.get(node.input[1])
    if node.op_type == "MatMul" and (weight is None or weight.ndim != 2):
        _batch_matmul(low, node)
        return
    plain = not attribute(node, "transA", 0) and attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    if weight is None or not plain:
        raise low.refused(node, "only x @ constant + constant is known")
    flip = node.op_type == "MatMul" or not attribute(node, "transB", 0)
    integer, end, activation = _computes_in(low, node, end_of(low, node))
    bias = _bias(low, node, weight.shape[1 if flip else 0], integer)
    if node.op_type == "MatMul" and not integer and (addition := _added_bias(low, node)):
        low.done.add(addition.output[0])
        bias = low.file.constant(low.constants[_constant_input(low, addition)].reshape(-1).astype(np.float32))
        end, activation = take(low, addition.output[0], None)
    x, small = node.input[0], node.input[1] in low.taken.weights and low.is_rounded(node, 0)
    source = low.get(x, Form(code=low.taken.codes[x] if integer else None)) if small else low.read(node, 0)
    low.write(
        "FULLY_CONNECTED",
        [source, _weight(low, node, (1, 0) if flip else (0, 1), 0, small), bias],
        end,
        Form(code=low.taken.codes[end] if integer else None),
        keepNumDims=len(low.shape(x)) > 2,
        asymmetricQuantizeInputs=small and not integer,
        fusedActivationFunction=activation,
    )


def _batch_matmul(low: Lowering, node: onnx.NodeProto) -> None:
    if any(len(low.shape(name)) < 2 for name in node.input):
        raise low.refused(node, "one of its inputs is a vector")
    low.write("BATCH_MATMUL", [low.read(node, 0), low.read(node, 1)], node.output[0], Form())


def _computes_in(low: Lowering, node: onnx.NodeProto, end: str) -> tuple[bool, str, str]:
    """Whether a layer computes in integers, the tensor after the activation that is part of it, and that activation."""
    integer = node.input[1] in low.taken.weights and low.is_integer(node, (0,), end)
    return integer, *take(low, node.output[0], end if integer else None)


def _weight(low: Lowering, node: onnx.NodeProto, order: Sequence[int], axis: int, integer: bool) -> int:
    """A constant weight in LiteRT's order of axes; one-dimensional windows are of height 1."""

    def arranged(array: NDArray[Any]) -> NDArray[Any]:
        image = array[:, :, None] if array.ndim == 3 else array
        return np.ascontiguousarray(image.transpose(order))

    name = node.input[1]
    if (stored := low.taken.weights.get(name)) is not None:
        values = arranged(stored.values)
        number = low.file.constant(values, stored.scale, axis=axis)
        return number if integer else low.unpacked(number, values.shape)
    floats = arranged(low.constants[name].astype(np.float32))
    if name in low.taken.halves:
        return low.unpacked(low.file.constant(floats.astype(np.float16)), floats.shape)
    return low.file.constant(floats)


def _bias(low: Lowering, node: onnx.NodeProto, channels: int, integer: bool) -> int:
    name = node.input[2] if len(node.input) > 2 else ""
    given = low.constant(node, 2) if name else np.zeros(channels, np.float32)
    if given.size > 1 and given.shape[-1] != given.size:
        raise low.refused(node, "its bias is no row")
    floats = np.broadcast_to(given.reshape(-1), (channels,)).astype(np.float32)
    if not integer:
        return low.file.constant(floats)
    unit = low.taken.weights[node.input[1]].scale * np.float32(low.taken.codes[node.input[0]].scale)
    codes = low.taken.biases[name] if name in low.taken.biases else np.rint(floats / unit).astype(np.int32)
    return low.file.constant(codes, unit)


def _added_bias(low: Lowering, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The addition after a product that is its bias."""
    reader = low.only_reader(node.output[0])
    if reader is None or reader.op_type != "Add" or low.is_rounded(reader, list(reader.input).index(node.output[0])):
        return None
    name, shape = _constant_input(low, reader), low.shape(node.output[0])
    is_row = name and low.constants[name].size == low.constants[name].shape[-1] == shape[-1]
    return reader if is_row and low.shape(reader.output[0]) == shape else None


def _constant_input(low: Lowering, node: onnx.NodeProto) -> str:
    return next((name for name in node.input if name in low.constants and low.constants[name].ndim), "")


# -- windows


def _as_image(sizes: Sequence[int]) -> tuple[int, int]:
    """Sizes of height and width."""
    return (1, int(sizes[0])) if len(sizes) == 1 else (int(sizes[0]), int(sizes[1]))


def _two(low: Lowering, node: onnx.NodeProto, name: str, default: int) -> tuple[int, ...]:
    """An attribute of a window for height and width; pads are (top, left, bottom, right)."""
    axes = len(low.shape(node.input[0])) - 2
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise low.refused(node, "its padding is automatic")
    given = list(attribute(node, name, [default] * (axes * (2 if name == "pads" else 1))))
    if axes == 1:
        fill = 0 if name == "pads" else 1
        given = [fill, given[0], fill, given[1]] if name == "pads" else [fill, *given]
    return tuple(given)


def _padding(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> str | None:
    """What LiteRT calls the padding of a window; nothing where it has to be written out."""

    def same(axis: int) -> tuple[int, int]:
        n, s, reach = size[axis], strides[axis], (kernel[axis] - 1) * dilations[axis] + 1
        total = max((-(-n // s) - 1) * s + reach - n, 0)
        return total // 2, total - total // 2

    if not any(pads):
        return "VALID"
    return "SAME" if all((pads[axis], pads[axis + 2]) == same(axis) for axis in (0, 1)) else None


def _padded(low: Lowering, source: int, name: str, pads: Sequence[int], integer: bool) -> int:
    top, left, bottom, right = pads
    n, height, width, channels = low.physical(low.shape(name), True)
    shape = (n, height + top + bottom, width + left + right, channels)
    around = low.file.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
    return low.step("PAD", [source, around], shape, low.taken.codes[name] if integer else None)


@operator("MaxPool", "AveragePool")
def _pool(low: Lowering, node: onnx.NodeProto) -> None:
    x, out = node.input[0], node.output[0]
    kernel = _two(low, node, "kernel_shape", 1)
    if len(low.shape(x)) > 4:
        raise low.refused(node, "it has three spatial axes")
    pads, strides, dilations = (_two(low, node, name, default) for name, default in _WINDOWS)
    size, made = _as_image(low.shape(x)[2:]), _as_image(low.shape(out)[2:])
    average = node.op_type == "AveragePool"
    counts = not average or bool(attribute(node, "count_include_pad", 0))
    whole = [(n + a + b - k) // s + 1 for n, a, b, k, s in zip(size, pads[:2], pads[2:], kernel, strides, strict=True)]
    if whole != list(made) or set(dilations) != {1}:
        raise low.refused(node, "it has dilation, or rounds its size up")
    # LiteRT would round an average of codes to the codes of its input, which are coarser than the floats of the graph.
    form = Form(True) if average else low.format_of(node, 0, True)
    source = low.read(node, 0, last=True) if average else low.get(x, form)
    padding = _padding(size, kernel, strides, dilations, pads)
    if any(pads) and (padding is None or (average and counts)):
        if average and not counts:
            raise low.refused(node, "LiteRT averages without padding only where it pads evenly")
        source = _padded_pool(low, source, x, pads, form, average)
        padding = "VALID"
    options = {"strideH": strides[0], "strideW": strides[1], "filterHeight": kernel[0], "filterWidth": kernel[1]}
    kind = "AVERAGE_POOL_2D" if average else "MAX_POOL_2D"
    low.write(kind, [source], out, form, padding=padding, fusedActivationFunction="NONE", **options)


def _padded_pool(low: Lowering, source: int, name: str, pads: Sequence[int], form: Form, average: bool) -> int:
    """Padded with zeros where they are averaged, with the least number where the largest is searched."""
    if average or (form.code is not None and form.code.zero_point == 0):
        return _padded(low, source, name, pads, form.code is not None)
    top, left, bottom, right = pads
    n, height, width, channels = low.physical(low.shape(name), True)
    around = low.file.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
    least = np.full(1, np.finfo(np.float32).min, np.float32)
    value = low.file.constant(least) if form.code is None else low.file.coded(least, form.code)
    shape = (n, height + top + bottom, width + left + right, channels)
    return low.step("PADV2", [source, around, value], shape, form.code)


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(low: Lowering, node: onnx.NodeProto) -> None:
    x, out = node.input[0], node.output[0]
    kind = "MEAN" if node.op_type == "GlobalAveragePool" else "REDUCE_MAX"
    integer = kind == "MEAN" and low.is_integer(node, (0,), out)
    source = low.get(x, Form(True, low.taken.codes[x])) if integer else low.read(node, 0, last=True)
    form = Form(True, low.taken.codes[out] if integer else None)
    low.write(kind, [source, low.numbers(SPATIAL)], out, form, keepDims=True)


@operator(*_REDUCTIONS)
def _reduce(low: Lowering, node: onnx.NodeProto) -> None:
    x, out, rank = node.input[0], node.output[0], len(low.shape(node.input[0]))
    given = low.constant(node, 1).tolist() if len(node.input) > 1 and node.input[1] else attribute(node, "axes", [])
    if not given and attribute(node, "noop_with_empty_axes", 0):
        raise low.refused(node, "it has no axes")
    axes, keep = {axis % rank for axis in given or range(rank)}, bool(attribute(node, "keepdims", 1))
    last = low.is_last(x) and (keep or axes == set(range(2, rank)))
    source = low.read(node, 0, last)
    places = {low.axis(axis, rank, last) for axis in axes}
    if last and rank == 3 and not keep:
        places.add(1)  # the height that the file's tensor has beside the graph's axes
    moved = low.numbers(sorted(places))
    low.write(_REDUCTIONS[node.op_type], [source, moved], out, Form(last and keep), keepDims=keep)
