"""Write a quantised ONNX file: integer weights, and quantise/dequantise pairs around what runs in int8.

This module needs onnx and numpy only. The trainable counterpart is `autocompress.graphs.qat`.

What a bit width means in the file:
    8   int8 weight, one scale per output channel, behind a DequantizeLinear; computed in int8.
    4   INT4 weight (half a byte) cast to int8, then as above: the runtime unpacks it once, at session build.
    2   INT2 weight (a quarter), likewise.
    16  fp16 weight cast to fp32 at session build; computed in fp32.
    2, 4 or 8 with 32-bit activations: integer weight, cast and scaled at session build; computed in fp32.
    2, 4 or 8 of an embedding: the table stays int8 in memory, unpacked at session build; what has been looked up is
        cast to fp32 and multiplied by the scale of its row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import CandidateError
from autocompress.graphs.observe import ActivationRange, Observer, activation_range, observe
from autocompress.graphs.quantizable import (
    LOOK_UP,
    Graph,
    PlannedActivation,
    PlannedLayer,
    QuantizableLayer,
    QuantPlan,
    QuantSpec,
    attribute,
    plan,
    quantizable_layers,
    weight_of,
)
from autocompress.runtimes.adapters.onnxruntime.inside import all_nodes

__all__ = [
    "ActivationRange",
    "Observer",
    "PlannedActivation",
    "PlannedLayer",
    "QuantPlan",
    "QuantSpec",
    "QuantizableLayer",
    "WeightQuant",
    "activation_range",
    "observe",
    "plan",
    "quantizable_layers",
    "quantize_weights",
    "write_qdq",
]

SCALES = "/r"
"""Ending of the name of what a file holds of the scales of a table."""
_PACKED = {4: TensorProto.INT4, 2: TensorProto.INT2}
"""Formats of several weights in a byte."""
_INT4_OPSET = 21
_INT2_OPSET, _INT2_IR = 25, 13
_CLIP_GRID = np.linspace(0.4, 1.0, 25)
# Scales this much below the layer's largest are raised: they only cost int32 range in the bias.
_SMALLEST_SHARE = 1e-6
_EMPTY_LAYER_SCALE = 1e-4
_BIAS_LIMIT = float(2**30)


@dataclass(frozen=True, slots=True)
class WeightQuant:
    """Integer code of one weight initialiser: weight = values * scale, scale along `axis`."""

    values: NDArray[np.int8]
    """Same shape and layout as the initialiser."""
    scale: NDArray[np.float32]
    """(output channels,) or (rows of a table,), positive."""
    axis: int
    bits: int
    """2, 4 or 8."""

    def floats(self) -> NDArray[np.float32]:
        """The weight that it stands for."""
        weight: NDArray[np.float32] = self.values * _along(self.scale, self.axis, self.values.ndim)
        return weight


def quantize_weights(model: onnx.ModelProto, plan: QuantPlan) -> dict[str, WeightQuant]:
    """Quantise the planned weights of 8 bits and fewer, symmetric and per output channel, or row of a table.

    8 bits take the largest magnitude as range; 4 bits search the clipping that minimises the squared error
    (Banner et al., "Post-training 4-bit quantization of convolution networks", NeurIPS 2019).

    Returns:
        By initialiser name; a weight that several nodes share is quantised once.
    """
    graph, found = Graph(model.graph), dict[str, WeightQuant]()
    for layer in plan.layers:
        name = weight_of(graph.producer[layer.node]) if layer.node in graph.producer else layer.weight
        if layer.weight_bits <= 8 and name not in found:
            weight = numpy_helper.to_array(graph.initializers[name])
            low, high = plan.weight_limits(layer.weight_bits)
            scale = _weight_scale(weight, layer.axis, low, high, search=layer.weight_bits in _PACKED)
            values = _to_integers(weight, scale, layer.axis, low, high)
            found[name] = WeightQuant(values, scale, layer.axis, layer.weight_bits)
    return found


def _along(scale: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    return scale.reshape([-1 if k == axis else 1 for k in range(rank)])


def _to_integers(weight: NDArray[Any], scale: NDArray[Any], axis: int, low: int, high: int) -> NDArray[np.int8]:
    codes = np.clip(np.rint(weight / _along(scale, axis, weight.ndim)), low, high)
    integers: NDArray[np.int8] = codes.astype(np.int8)
    return integers


def _weight_scale(weight: NDArray[Any], axis: int, low: int, high: int, *, search: bool) -> NDArray[np.float32]:
    others = tuple(k for k in range(weight.ndim) if k != axis)
    largest = np.abs(weight).max(axis=others)
    peak = float(largest.max(initial=0.0))
    if not np.isfinite(peak):
        raise CandidateError("a weight is not finite; lower the learning rate or clip the gradient")
    if peak == 0.0:
        return np.full(largest.shape, _EMPTY_LAYER_SCALE, np.float32)
    # An all-zero channel gets its neighbours' scale, so that its bias stays finely resolved in int32.
    largest = np.where(largest == 0.0, peak, np.maximum(largest, peak * _SMALLEST_SHARE))
    scale = (largest / high).astype(np.float32)
    if not search:
        return scale
    best, least = scale, np.full(largest.shape, np.inf)
    for share in _CLIP_GRID:
        candidate = (scale * share).astype(np.float32)
        spread = _along(candidate, axis, weight.ndim)
        codes = np.clip(np.rint(weight / spread), low, high)
        error = ((codes * spread - weight) ** 2).sum(axis=others)
        best, least = np.where(error < least, candidate, best), np.minimum(error, least)
    return best


def write_qdq(
    model: onnx.ModelProto,
    plan: QuantPlan,
    ranges: Mapping[str, ActivationRange],
    weights: Mapping[str, WeightQuant] | None = None,
) -> onnx.ModelProto:
    """Return a quantised copy of `model`.

    Every consumer gets a DequantizeLinear of its own, so that the graph can be cut into sub-graphs anywhere.
    Graph outputs stay fp32. Metadata and shape annotations are dropped: they outweigh a small net's weights.

    Args:
        model: the fp32 graph the plan was made for, opset 21 or later when there are 4-bit layers.
        plan: from `plan`.
        ranges: from `observe` or from a trained twin; one per planned activation.
        weights: from `quantize_weights` (the default) or from a trained twin.

    Raises:
        CandidateError: a range is missing, or the opset is too old for packed weights.
    """
    missing = [a.tensor for a in plan.activations if a.tensor not in ranges]
    if missing:
        raise CandidateError(f"no activation range for {', '.join(missing)}; observe the same plan first")
    if any(layer.weight_bits in _PACKED for layer in plan.layers) and _opset(model) < _INT4_OPSET:
        raise CandidateError(f"weights of 4 bits and fewer need opset {_INT4_OPSET}, the graph has {_opset(model)}")
    return _Writer(model, plan, ranges, weights or quantize_weights(model, plan)).write()


def _opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _raise_versions(model: onnx.ModelProto) -> None:
    """Say that a graph is of the first version that knows INT2; between ours and that one operators got types only."""
    model.ir_version = max(model.ir_version, _INT2_IR)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, _INT2_OPSET)


def _count_no_padding(node: onnx.NodeProto) -> None:
    """Say of an average without padding that it counts none.

    PyTorch says that it does, and ONNX Runtime's integer kernel then counts what `ceil_mode` adds beyond the image.
    """
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if not any(given.get("pads", ())) and given.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"):
        kept = [item for item in node.attribute if item.name != "count_include_pad"]
        del node.attribute[:]
        node.attribute.extend(kept)


class _Writer:
    """Builds the node list anew, in order, with quantisers between the original nodes."""

    def __init__(
        self,
        model: onnx.ModelProto,
        plan: QuantPlan,
        ranges: Mapping[str, ActivationRange],
        weights: Mapping[str, WeightQuant],
    ) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = Graph(self._model.graph)
        self._plan, self._ranges = plan, ranges
        self._layers = {layer.node: layer for layer in plan.layers}
        self._activations = {a.tensor: a for a in plan.activations}
        self._weights = self._make_room_for_biases(weights)
        self._nodes: list[onnx.NodeProto] = []
        self._new: dict[str, TensorProto] = {}

    def write(self) -> onnx.ModelProto:
        graph = self._model.graph
        for value in graph.input:
            self._quantize(value.name)
        for node in list(graph.node):
            self._rewrite(node)
        del graph.node[:], graph.value_info[:], graph.metadata_props[:], self._model.metadata_props[:]
        graph.node.extend(self._nodes)
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
            if node.op_type == "AveragePool":
                _count_no_padding(node)
        used = {name for node in all_nodes(graph) for name in node.input} | self._graph.outputs
        kept = [i for i in (*graph.initializer, *self._new.values()) if i.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        if any(weight.bits == 2 for weight in self._weights.values()):
            _raise_versions(self._model)
        return self._model

    def _make_room_for_biases(self, weights: Mapping[str, WeightQuant]) -> dict[str, WeightQuant]:
        """Enlarge scales where |bias| / (input scale * weight scale) would leave the int32 range.

        That happens only where the bias dwarfs all that the channel's weights can add, for example in
        channels that training has switched off; the coarser weights then do not matter.
        """
        fitted = dict(weights)
        for layer in self._plan.layers:
            node = self._graph.producer[layer.node]
            name, bias = node.input[1], self._bias(node, layer)
            if bias is None or name not in fitted:
                continue
            old = fitted[name]
            needed = np.abs(bias) / (self._ranges[node.input[0]].scale * _BIAS_LIMIT)
            scale = np.maximum(old.scale, needed.astype(np.float32))
            if np.any(scale > old.scale):
                ratio = _along(old.scale / scale, old.axis, old.values.ndim)
                values = np.rint(old.values * ratio).astype(np.int8)
                fitted[name] = replace(old, values=values, scale=scale)
        return fitted

    def _bias(self, node: onnx.NodeProto, layer: PlannedLayer) -> NDArray[Any] | None:
        """Constant bias of an int8 Conv or Gemm; None where there is none or it is added in fp32."""
        if layer.activation_bits != 8 or layer.op_type == "MatMul" or len(node.input) < 3:
            return None
        array = self._graph.initializers.get(node.input[2])
        return None if array is None else numpy_helper.to_array(array)

    def _constant(self, name: str, array: NDArray[Any] | np.generic) -> str:
        if name not in self._new:
            self._new[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def _emit(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def _code(self, tensor: str) -> list[str]:
        """Names of the scale and zero point of a tensor."""
        source = self._activations[tensor].source
        code = self._ranges[tensor]
        return [
            self._constant(f"{source}/s", np.float32(code.scale)),
            self._constant(f"{source}/z", np.uint8(code.zero_point)),
        ]

    def _quantize(self, tensor: str) -> None:
        activation = self._activations.get(tensor)
        if activation is not None and activation.consumers:
            self._emit("QuantizeLinear", [tensor, *self._code(tensor)], f"{tensor}/q")

    def _rewrite(self, node: onnx.NodeProto) -> None:
        output = node.output[0] if node.output else ""
        layer, inputs = self._layers.get(output), list(node.input)
        if layer is not None and layer.weight_bits <= 8 and layer.op_type == LOOK_UP:
            self._look_up(node, self._weights[weight_of(node)])
            return
        if layer is not None and layer.weight_bits < 32:
            inputs[inputs.index(weight_of(node))] = self._weight(node, layer)
            bias = self._bias(node, layer)
            if bias is not None:
                inputs[2] = self._quantized_bias(node, bias)
        for index, tensor in enumerate(node.input):
            activation = self._activations.get(tensor)
            if activation is not None and output in activation.consumers:
                name = f"{output}/x{index}"
                inputs[index] = self._emit("DequantizeLinear", [f"{tensor}/q", *self._code(tensor)], name)
        if output in self._plan.pools:
            self._global_average(node, inputs[0])
        else:
            del node.input[:]
            node.input.extend(inputs)
            self._nodes.append(node)
        for name in node.output:
            self._quantize(name)

    def _global_average(self, node: onnx.NodeProto, tensor: str) -> None:
        """Write a spatial ReduceMean as the pooling op that has an int8 kernel."""
        output = node.output[0]
        if attribute(node, "keepdims", 1):
            self._emit("GlobalAveragePool", [tensor], output)
        else:
            pooled = self._emit("GlobalAveragePool", [tensor], f"{output}/pool")
            # Without a quantiser of its own the pooling is not fused.
            coded = self._emit("QuantizeLinear", [pooled, *self._code(output)], f"{pooled}/q")
            restored = self._emit("DequantizeLinear", [coded, *self._code(output)], f"{pooled}/x0")
            self._emit("Flatten", [restored], output, axis=1)

    def _look_up(self, node: onnx.NodeProto, weight: WeightQuant) -> None:
        """Pick rows of the stored table, and their scales by the same indices."""
        (name, ids), output = node.input, node.output[0]
        stored = self._stored(name, weight)
        if weight.bits in _PACKED:
            stored = self._emit("Cast", [stored], f"{output}/t", to=TensorProto.INT8)
        node.name = node.name or output  # by which the layer is found in the file
        node.input[0], node.output[0] = stored, f"{output}/g"
        self._nodes.append(node)
        values = self._emit("Cast", [node.output[0]], f"{output}/v", to=TensorProto.FLOAT)
        scales = self._constant(f"{name}{SCALES}", weight.scale[:, None])
        self._emit("Mul", [values, self._emit("Gather", [scales, ids], f"{output}{SCALES}")], output)
        self._quantize(output)

    def _weight(self, node: onnx.NodeProto, layer: PlannedLayer) -> str:
        """Emit what turns the stored weight into the node's operand; returns its name."""
        name, output = weight_of(node), f"{node.output[0]}/w"
        if layer.weight_bits == 16:
            array = numpy_helper.to_array(self._graph.initializers[name])
            half = np.clip(array, -65504.0, 65504.0).astype(np.float16)
            return self._emit("Cast", [self._constant(f"{name}/h", half)], output, to=TensorProto.FLOAT)
        weight = self._weights[name]
        stored = self._stored(name, weight)
        scale = self._constant(f"{name}/s", weight.scale)
        if layer.activation_bits == 32:
            # Not DequantizeLinear: the runtime would run that at every inference instead of folding it.
            values = self._emit("Cast", [stored], f"{output}/v", to=TensorProto.FLOAT)
            spread = _along(weight.scale, weight.axis, weight.values.ndim)
            return self._emit("Mul", [values, self._constant(f"{name}/m", spread)], output)
        if weight.bits in _PACKED:
            stored = self._emit("Cast", [stored], f"{output}/v", to=TensorProto.INT8)
        operands = [stored, scale]
        if layer.op_type == "Gemm":
            # QGemm is only fused when the zero points are written; the others do without, which saves bytes.
            operands.append(self._constant(f"{name}/z", np.zeros(len(weight.scale), np.int8)))
        return self._emit("DequantizeLinear", operands, output, axis=weight.axis)

    def _stored(self, name: str, weight: WeightQuant) -> str:
        stored = f"{name}/q"
        if weight.bits == 8:
            return self._constant(stored, weight.values)
        if stored not in self._new:
            self._new[stored] = TensorProto(
                name=stored,
                data_type=_PACKED[weight.bits],
                dims=weight.values.shape,
                raw_data=_packed(weight.values, weight.bits),
            )
        return stored

    def _quantized_bias(self, node: onnx.NodeProto, bias: NDArray[Any]) -> str:
        """Emit an int32 bias in units of input scale * weight scale, as the int8 kernels add it."""
        output = node.output[0]
        unit = self._weights[node.input[1]].scale * np.float32(self._ranges[node.input[0]].scale)
        codes = np.rint(bias.astype(np.float64) / unit).clip(-(2**31) + 1, 2**31 - 1).astype(np.int32)
        operands = [self._constant(f"{output}/bq", codes), self._constant(f"{output}/bs", unit)]
        if node.op_type == "Gemm":
            operands.append(self._constant(f"{output}/bz", np.zeros(len(bias), np.int32)))
        return self._emit("DequantizeLinear", operands, f"{output}/b", axis=0)


def _packed(values: NDArray[np.int8], bits: int) -> bytes:
    """Several values per byte, the first in the lowest bits, as ONNX stores INT4 and INT2."""
    per_byte = 8 // bits
    padded = np.append(values, np.zeros(-values.size % per_byte, np.int8)).astype(np.uint8) & (2**bits - 1)
    shifted = padded.reshape(-1, per_byte) << (bits * np.arange(per_byte, dtype=np.uint8))
    return bytes(np.bitwise_or.reduce(shifted, axis=1).tobytes())
