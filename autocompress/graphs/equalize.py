"""Channels scaled to like ranges where that changes nothing: down where they are made, up again where they are read.

An activation has one range for all its channels: a few large ones leave the others few codes. Scaling is exact where
every operation between maker and readers maps a scaled channel to the result scaled alike: ReLU, pooling, nothing at
all (Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019). A layer norm
makes channels too, by its own scale and bias (Xiao et al., "SmoothQuant", ICML 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from autocompress.graphs.quantizable import Graph, attribute, is_global_average, output_axis
from autocompress.runtimes.adapters.onnxruntime.inside import with_inner_tensors
from autocompress.runtimes.base import pieces

Array = NDArray[Any]

_SCALABLE = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Flatten"})
_LIMIT = 1e3
"""No channel is scaled by more."""


@dataclass(frozen=True)
class Join:
    """Channels, by where they are made and read."""

    made_by: tuple[tuple[str, int], ...]
    """Initialisers with the axis of these channels: weight and bias of a layer, scale and bias of a norm."""
    read_by: tuple[tuple[str, int], ...]
    """Weights with the axis of their inputs. A depthwise convolution has them where its outputs are."""
    tensor: str
    """What the readers read."""
    axis: int
    """Of the channels in it."""


def equalize(model: onnx.ModelProto, batches: Sequence[Mapping[str, Array]]) -> onnx.ModelProto:
    """Return a graph that computes the same with other weights.

    Each channel is divided by the root of its largest value over the largest weight that reads it, which leaves half of
    the difficulty to activations and half to weights.

    Args:
        model: an fp32 graph.
        batches: calibration inputs by input name.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    found = list(joins(Graph(result.graph)))
    if not found:
        return result
    initializers = {i.name: i for i in result.graph.initializer}
    names = {name for join in found for name, _ in (*join.made_by, *join.read_by)}
    values = {name: numpy_helper.to_array(initializers[name]).astype(np.float64) for name in names}
    reach = _reach(model, found, batches)
    for join in found:
        _scale(join, values, _root(reach[join.tensor] / _read(join, values)))
    for name in names:
        initializers[name].CopyFrom(numpy_helper.from_array(values[name].astype(np.float32), name))
    return result


def joins(graph: Graph) -> Iterator[Join]:
    """All places of a graph where channels can be scaled, in order of execution."""
    for node in graph.nodes:
        made = _maker(node, graph)
        if made is None:
            continue
        tensor, axis, constants = made
        n_channels = graph.initializers[constants[0][0]].dims[constants[0][1]]
        tensor = _end(tensor, graph)
        readers = [_reader(reader, tensor, n_channels, graph) for reader in graph.consumers.get(tensor, [])]
        known = [reader for reader in readers if reader is not None]
        if not known or len(known) < len(readers) or not graph.private(tensor):
            continue
        if all(len(graph.consumers[name]) == 1 for name, _ in (*constants, *known)):
            yield Join(tuple(constants), tuple(known), tensor, axis)


def _maker(node: onnx.NodeProto, graph: Graph) -> tuple[str, int, list[tuple[str, int]]] | None:
    """The tensor with the channels that a node makes, their axis, and the constants that scale them."""
    if node.op_type == "LayerNormalization":
        constants = [name for name in node.input[1:] if name]
        plain = all(n in graph.initializers and len(graph.initializers[n].dims) == 1 for n in constants)
        return (node.output[0], -1, [(name, 0) for name in constants]) if plain and constants else None
    axis = output_axis(node, graph)
    if axis is None:
        return None
    tensor, constants = node.output[0], [(node.input[1], axis)]
    bias = node.input[2] if len(node.input) > 2 else ""
    after = graph.consumers.get(tensor, [])
    if node.op_type == "MatMul" and len(after) == 1 and after[0].op_type == "Add" and graph.private(tensor):
        bias, tensor = next((n for n in after[0].input if n != tensor), ""), after[0].output[0]
    if bias:
        if bias not in graph.initializers or len(graph.initializers[bias].dims) != 1:
            return None
        constants.append((bias, 0))
    return tensor, 1 if node.op_type == "Conv" else -1, constants


def _end(tensor: str, graph: Graph) -> str:
    """The tensor after all that keeps a channel's scale."""
    readers = graph.consumers.get(tensor, [])
    while len(readers) == 1 and graph.private(tensor) and _keeps_scales(readers[0], graph):
        tensor = readers[0].output[0]
        readers = graph.consumers.get(tensor, [])
    return tensor


def _keeps_scales(node: onnx.NodeProto, graph: Graph) -> bool:
    if node.op_type == "ReduceMean":
        return is_global_average(node, graph)
    return node.op_type in _SCALABLE and (node.op_type != "Flatten" or attribute(node, "axis", 1) == 1)


def _reader(node: onnx.NodeProto, tensor: str, n_channels: int, graph: Graph) -> tuple[str, int] | None:
    """The weight by which a node reads channels, and their axis in it; None where it does anything else with them."""
    axis = output_axis(node, graph)
    if axis is None or node.input[0] != tensor or tensor in list(node.input)[1:]:
        return None
    shape, groups = list(graph.initializers[node.input[1]].dims), int(attribute(node, "group", 1))
    if node.op_type == "Conv" and groups > 1:
        return (node.input[1], 0) if groups == n_channels == shape[0] and shape[1] == 1 else None
    return (node.input[1], 1 - axis) if shape[1 - axis] % n_channels == 0 else None


def _root(ratio: Array) -> Array:
    """By how much channels are divided; those that are never used, or are all zero, stay."""
    usable = np.isfinite(ratio) & (ratio > 0)
    divisors: Array = np.where(usable, np.clip(np.sqrt(np.where(usable, ratio, 1.0)), 1 / _LIMIT, _LIMIT), 1.0)
    return divisors


def _read(join: Join, values: Mapping[str, Array]) -> Array:
    """Largest weight of each channel where it is read; 0 is a channel that nobody reads."""
    name, axis = join.made_by[0]
    n_channels = values[name].shape[axis]
    largest = np.max([_largest(values[name], axis, n_channels) for name, axis in join.read_by], axis=0)
    with np.errstate(divide="ignore"):
        return np.where(largest > 0, largest, np.inf)


def _largest(weight: Array, axis: int, n_channels: int) -> Array:
    largest: Array = np.abs(np.moveaxis(weight, axis, 0)).reshape(n_channels, -1).max(1)
    return largest


def _scale(join: Join, values: dict[str, Array], divisors: Array) -> None:
    for name, axis in join.made_by:
        values[name] = values[name] / _along(divisors, axis, values[name])
    for name, axis in join.read_by:
        values[name] = values[name] * _along(divisors, axis, values[name])


def _along(divisors: Array, axis: int, weight: Array) -> Array:
    """Shaped for a weight; a channel that was flattened has several inputs, one beside the other."""
    repeated = np.repeat(divisors, weight.shape[axis] // len(divisors))
    return repeated.reshape([-1 if k == axis else 1 for k in range(weight.ndim)])


def _reach(model: onnx.ModelProto, found: Sequence[Join], batches: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Largest magnitude of each channel on calibration data, by tensor."""
    widths = {j.tensor: _width(model, j) for j in found}
    axes = {j.tensor: j.axis for j in found}
    reach = {name: np.zeros(width) for name, width in widths.items()}
    inner = with_inner_tensors(model, list(widths))
    for batch in batches:
        for piece in pieces(inner, batch):
            values = inner(piece)
            for tensor, so_far in reach.items():
                value = values[tensor]
                rows = np.moveaxis(value, axes[tensor] if value.ndim > 2 else 1, 0)
                np.maximum(so_far, np.abs(rows.reshape(widths[tensor], -1)).max(1), out=so_far)
    return reach


def _width(model: onnx.ModelProto, join: Join) -> int:
    name, axis = join.made_by[0]
    return int(next(i for i in model.graph.initializer if i.name == name).dims[axis])
