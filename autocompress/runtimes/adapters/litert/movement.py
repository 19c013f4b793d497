"""Operators that move numbers: codes stay codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from autocompress.runtimes.adapters.litert.arithmetic import common_order
from autocompress.runtimes.adapters.litert.lowering import Form, Lowering, attribute, keeps_order
from autocompress.runtimes.adapters.litert.table import operator
from autocompress.runtimes.resizing import refusal


@operator("Identity", "Dropout")
def _identity(low: Lowering, node: onnx.NodeProto) -> None:
    form = low.format_of(node, 0, low.is_last(node.input[0]))
    low.alias(node.output[0], form, low.get(node.input[0], form))


@operator("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(low: Lowering, node: onnx.NodeProto) -> None:
    x, out = node.input[0], node.output[0]
    before, after = low.shape(x), low.shape(out)
    same_channels = before[:2] == after[:2] and {len(before), len(after)} <= {3, 4}
    form = low.format_of(node, 0, low.is_last(x) and same_channels)
    target = low.numbers(low.physical(after, form.last))
    low.write("RESHAPE", [low.get(x, form), target], out, form)


@operator("Transpose")
def _transpose(low: Lowering, node: onnx.NodeProto) -> None:
    """A change between channels first and last is none where the tensor already lies so."""
    x, out, shape = node.input[0], node.output[0], low.shape(node.input[0])
    rank, last = len(shape), low.is_last(node.input[0])
    perm = [int(axis) for axis in attribute(node, "perm", range(rank)[::-1])]
    before, form = low.order(rank, last), low.format_of(node, 0, last)
    for target in (False, True):
        moves = [before.index(perm[axis]) for axis in low.order(rank, target)]
        if keeps_order([shape[axis] for axis in before], moves):
            to = low.numbers(low.physical(low.shape(out), target))
            low.write("RESHAPE", [low.get(x, form), to], out, Form(target, form.code))
            return
    low.write("TRANSPOSE", [low.get(x, Form(False, form.code)), low.numbers(perm)], out, Form(False, form.code))


@operator("Concat")
def _concat(low: Lowering, node: onnx.NodeProto) -> None:
    out, rank = node.output[0], len(low.shape(node.output[0]))
    integer, last = low.is_integer(node, range(len(node.input)), out), common_order(low, node)
    form = Form(last, low.taken.codes[out] if integer else None)
    inputs = [
        low.get(n, form) if integer or n in low.constants else low.read(node, k, last) for k, n in enumerate(node.input)
    ]
    axis = low.axis(attribute(node, "axis", 1), rank, last)
    low.write("CONCATENATION", inputs, out, form, axis=axis, fusedActivationFunction="NONE")


@operator("Slice")
def _slice(low: Lowering, node: onnx.NodeProto) -> None:
    shape = low.shape(node.input[0])
    if any(name and name not in low.constants for name in node.input[1:]):
        raise low.refused(node, "its bounds are not constant")
    starts, ends = (low.constants[name].tolist() for name in node.input[1:3])
    given = [low.constants[name].tolist() if name else None for name in [*node.input[3:], "", ""][:2]]
    axes, steps = given[0] or range(len(starts)), given[1] or [1] * len(starts)
    if min(steps) < 1:
        raise low.refused(node, "it goes backwards")
    parts = [slice(0, size, 1) for size in shape]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        parts[axis] = slice(*slice(start, end, step).indices(shape[axis]))
    _cut(low, node, node.output[0], parts)


def _cut(low: Lowering, node: onnx.NodeProto, out: str, parts: Sequence[slice]) -> None:
    """Some indices of each axis."""
    if not all(low.shape(out)):
        raise low.refused(node, "nothing is left of it")
    x, last = node.input[0], low.is_last(node.input[0])
    form = low.format_of(node, 0, last)

    def moved(values: Sequence[int], fill: int) -> list[int]:
        ordered = [values[axis] for axis in low.order(len(parts), last)]
        return [ordered[0], fill, *ordered[1:]] if last and len(parts) == 3 else ordered

    begins, steps = moved([part.start for part in parts], 0), moved([part.step for part in parts], 1)
    source = low.get(x, form)
    if set(steps) == {1}:
        size = moved([part.stop - part.start for part in parts], 1)
        low.write("SLICE", [source, low.numbers(begins), low.numbers(size)], out, form)
    else:
        bounds = [begins, moved([part.stop for part in parts], 1), steps]
        low.write("STRIDED_SLICE", [source, *map(low.numbers, bounds)], out, form)


@operator("Split")
def _split(low: Lowering, node: onnx.NodeProto) -> None:
    shape = low.shape(node.input[0])
    axis, start = attribute(node, "axis", 0) % len(shape), 0
    for out in node.output:
        parts = [slice(0, size, 1) for size in shape]
        parts[axis] = slice(start, start + low.shape(out)[axis], 1)
        start = parts[axis].stop
        _cut(low, node, out, parts)


@operator("Pad")
def _pad(low: Lowering, node: onnx.NodeProto) -> None:
    x, out, rank = node.input[0], node.output[0], len(low.shape(node.input[0]))
    mode = attribute(node, "mode", b"constant")
    value = float(low.constant(node, 2).reshape(-1)[0]) if len(node.input) > 2 and node.input[2] else 0.0
    if mode not in (b"constant", b"reflect") or (mode == b"constant" and value) or len(node.input) > 3:
        raise low.refused(node, "it pads with other values than zeros or a reflection, or some axes only")
    pads = low.constant(node, 1).reshape(2, rank).T
    if (pads < 0).any():
        raise low.refused(node, "it cuts")
    last = low.is_last(x)
    form = low.format_of(node, 0, last)
    ordered = pads[list(low.order(rank, last))].tolist()
    if last and rank == 3:
        ordered.insert(1, [0, 0])
    inputs = [low.get(x, form), low.file.constant(np.asarray(ordered, np.int32))]
    if mode == b"constant":
        low.write("PAD", inputs, out, form)
    else:
        low.write("MIRROR_PAD", inputs, out, form, mode=0)


@operator("Gather")
def _gather(low: Lowering, node: onnx.NodeProto) -> None:
    table, where, out = node.input[0], node.input[1], node.output[0]
    rank = len(low.shape(table))
    axis = attribute(node, "axis", 0) % rank
    index = low.constants.get(where)
    if index is not None:
        index = np.where(index < 0, index + low.shape(table)[axis], index)
    if index is not None and index.ndim == 0 and table not in low.constants:
        _row(low, node, axis, int(index))
        return
    indices = low.get(where, Form()) if index is None else low.file.constant(index.astype(np.int32))
    if table in low.taken.weights:
        _rows_of_integers(low, node, indices)
        return
    if table in low.taken.halves:
        halves = low.file.constant(low.constants[table].astype(np.float16))
        rows = low.step("GATHER", [halves, indices], low.shape(out), np.dtype(np.float16), axis=axis)
        low.write("DEQUANTIZE", [rows], out, Form())
        return
    low.write("GATHER", [low.read(node, 0), indices], out, Form(), axis=axis, batchDims=0)


def _rows_of_integers(low: Lowering, node: onnx.NodeProto, indices: int) -> None:
    """Integers and their scales are looked up apart, as LiteRT has one scale for a whole table only."""
    out, weight = node.output[0], low.taken.weights[node.input[0]]
    shape = low.shape(out)
    rows = low.step("GATHER", [low.file.constant(weight.values), indices], shape, np.dtype(np.int8), axis=0)
    scales = low.step("GATHER", [low.file.constant(weight.scale[:, None]), indices], (*shape[:-1], 1), axis=0)
    low.write("MUL", [low.step("CAST", [rows], shape), scales], out, Form(), fusedActivationFunction="NONE")


def _row(low: Lowering, node: onnx.NodeProto, axis: int, index: int) -> None:
    """One index of an axis, which is then gone: a piece with another shape."""
    x, out = node.input[0], node.output[0]
    shape, form = list(low.shape(x)), low.format_of(node, 0, False)
    begins, sizes = [0] * len(shape), list(shape)
    begins[axis], sizes[axis] = index % shape[axis], 1
    piece = low.file.tensor(sizes, low.dtype(x), form.code)
    low.file.operator("SLICE", [low.get(x, form), low.numbers(begins), low.numbers(sizes)], [piece])
    low.write("RESHAPE", [piece, low.numbers(low.shape(out))], out, form)


@operator("Expand")
def _expand(low: Lowering, node: onnx.NodeProto) -> None:
    x, out = node.input[0], node.output[0]
    low.write("BROADCAST_TO", [low.get(x, Form()), low.numbers(low.shape(out))], out, Form())


@operator("Tile")
def _tile(low: Lowering, node: onnx.NodeProto) -> None:
    repeats = low.numbers(low.constant(node, 1).tolist())
    low.write("TILE", [low.get(node.input[0], Form()), repeats], node.output[0], Form())


@operator("Resize")
def _resize(low: Lowering, node: onnx.NodeProto) -> None:
    x, out = node.input[0], node.output[0]
    before, after = low.shape(x), low.shape(out)
    mode, places = (attribute(node, name, default).decode() for name, default in _RESIZES)
    if len(before) != 4 or before[:2] != after[:2] or mode == "cubic":
        raise low.refused(node, f"resizing with {mode} interpolation from {before} to {after}")
    scales = low.constant(node, 2) if len(node.input) > 2 and node.input[2] else None
    if why := refusal(node, before, after, scales):
        raise low.refused(node, why)
    linear = mode == "linear"
    form = Form(True) if linear else low.format_of(node, 0, True)
    source = low.read(node, 0, True) if linear else low.get(x, form)
    low.write(
        "RESIZE_BILINEAR" if linear else "RESIZE_NEAREST_NEIGHBOR",
        [source, low.numbers(after[2:])],
        out,
        form,
        alignCorners=places == "align_corners" and linear,
        halfPixelCenters=places.endswith("half_pixel") and linear,
    )


_RESIZES = (("mode", b"nearest"), ("coordinate_transformation_mode", b"half_pixel"))


@operator("DepthToSpace", "SpaceToDepth")
def _depth_to_space(low: Lowering, node: onnx.NodeProto) -> None:
    if attribute(node, "mode", b"DCR") != b"DCR":
        raise low.refused(node, "it takes neighbours from neighbouring channels (CRD)")
    kind = "DEPTH_TO_SPACE" if node.op_type == "DepthToSpace" else "SPACE_TO_DEPTH"
    form = low.format_of(node, 0, True)
    size = attribute(node, "blocksize", 1)
    low.write(kind, [low.get(node.input[0], form)], node.output[0], form, blockSize=size)
