"""ONNX graphs made node by node, as deployment writes them: in fp32, or in int8 by deployment's own quantiser."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from autocompress.devices.calibration._bundle_runner import filler

_FILLER_STD = 36.7
_OPSET = 21
_IR_VERSION = 10


class NetBuilder:
    """Appends layers to a graph like those that deployment writes; with `int8` deployment's own quantiser follows.

    A batch of one is left symbolic, as in deployed files: ONNX Runtime then picks other kernels (a linear layer on
    tokens is a MatMul and an Add, not a Gemm).
    """

    def __init__(self, shape: tuple[int, ...], int8: bool = False, ids: bool = False) -> None:
        self.int8 = int8
        self._input_type = TensorProto.INT64 if ids else TensorProto.FLOAT
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self._input_shape = shape
        self._count = 0
        self.shapes: dict[str, tuple[int, ...]] = {"input": shape}

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def _constant(self, stem: str, values: npt.NDArray[Any] | np.generic) -> str:
        name = self._name(stem)
        self._weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _node(self, op_type: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> str:
        name = self._name(op_type.lower())
        self._nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        self.shapes[name] = shape
        return name

    def _weight(self, shape: tuple[int, ...]) -> str:
        count = math.prod(shape)
        size = 1 / (_FILLER_STD * math.sqrt(count / shape[0]))
        return self._constant("weight", filler(count, "float32", size).reshape(shape))

    def _bias(self, size: int, value: float = 0.0) -> str:
        return self._constant("bias", np.full(size, value, np.float32))

    def conv(
        self,
        tensor: str,
        cout: int,
        kernel: int | tuple[int, ...] = 3,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
        act: str = "",
    ) -> str:
        """Convolution (of as many dimensions as the tensor has) with bias, same padding and optional ReLU or `act`.

        With a window that is not a cube, the stride is along the sides longer than 1 only.
        """
        _, cin, *sides = self.shapes[tensor]
        window = (kernel,) * len(sides) if isinstance(kernel, int) else kernel
        strides = [stride if side > 1 or isinstance(kernel, int) else 1 for side in window]
        inputs = [tensor, self._weight((cout, cin // groups, *window)), self._bias(cout)]
        pads = [side // 2 if side % 2 else 0 for side in window]
        padded = [side + 2 * pad for side, pad in zip(sides, pads, strict=True)]
        ends = [(side - size) // step + 1 for side, size, step in zip(padded, window, strides, strict=True)]
        shape = (1, cout, *ends)
        out = self._node("Conv", inputs, shape, pads=pads * 2, strides=strides, group=groups, kernel_shape=list(window))
        return self.activation(out, act or "Relu") if relu else out

    def conv_transpose(self, tensor: str, cout: int, kernel: int, stride: int) -> str:
        """Transposed convolution with bias and ReLU, to `stride` times the size; kernel - stride is even."""
        _, cin, *sides = self.shapes[tensor]
        n, pad = len(sides), (kernel - stride) // 2
        inputs = [tensor, self._weight((cin, cout, *[kernel] * n)), self._bias(cout)]
        shape = (1, cout, *(side * stride for side in sides))
        size = {"kernel_shape": [kernel] * n, "strides": [stride] * n, "pads": [pad] * 2 * n}
        return self.unary("Relu", self._node("ConvTranspose", inputs, shape, **size))

    def look_up(self, tensor: str, rows: int, width: int) -> str:
        """Rows of a table by the ids in a tensor [1, ids]."""
        return self._node("Gather", [self._weight((rows, width)), tensor], (*self.shapes[tensor], width), axis=0)

    def recurrent(self, cell: str, tensor: str, hidden: int, both_ways: bool) -> str:
        """LSTM or GRU on [1, steps, features], with what the exporter writes around it."""
        _, steps, features = self.shapes[tensor]
        gates, ways = {"LSTM": 4, "GRU": 3}[cell], 1 + both_ways
        weights = [self._weight((ways, gates * hidden, size)) for size in (features, hidden)]
        bias = self._constant("bias", np.zeros((ways, 2 * gates * hidden), np.float32))
        options: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional" if both_ways else "forward"}
        options |= {"linear_before_reset": 1} if cell == "GRU" else {}
        turned = self.transpose(tensor, (1, 0, 2))
        out = self._node(cell, [turned, *weights, bias], (steps, ways, 1, hidden), **options)
        joined = self._node("Transpose", [out], (1, steps, ways, hidden), perm=[2, 0, 1, 3])
        return self.reshape(joined, (1, steps, ways * hidden))

    def batch_norm(self, tensor: str) -> str:
        """Batch normalisation that nothing could be merged with."""
        channels = self.shapes[tensor][1]
        ones, zeros = (self._constant("norm", np.full(channels, value, np.float32)) for value in (1, 0))
        return self._node("BatchNormalization", [tensor, ones, zeros, zeros, ones], self.shapes[tensor])

    def group_norm(self, tensor: str, groups: int) -> str:
        """Group normalisation; 0 groups stand for one of each channel, written as InstanceNormalization."""
        shape = self.shapes[tensor]
        scale = [tensor, *(self._constant("norm", np.full(shape[1], value, np.float32)) for value in (1, 0))]
        if not groups:
            return self._node("InstanceNormalization", scale, shape)
        return self._node("GroupNormalization", scale, shape, num_groups=groups)

    def resize(self, tensor: str, mode: str, factor: int, by_scales: bool) -> str:
        """Higher and wider by a factor, "nearest" or "linear", given by scales or by sizes that follow the batch."""
        _, *sizes = self.shapes[tensor]
        sizes[1:] = [factor * side for side in sizes[1:]]
        options = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
        if mode == "nearest":
            options = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if by_scales:
            ends = ["", self._constant("scales", np.array([1, 1, factor, factor], np.float32))]
        else:
            batch = self._node("Shape", [tensor], (1,), start=0, end=1)
            rest = self._constant("sizes", np.array(sizes, np.int64))
            ends = ["", "", self._node("Concat", [batch, rest], (4,), axis=0)]
        return self._node("Resize", [tensor, *ends], (1, *sizes), **options)

    def activation(self, tensor: str, act: str) -> str:
        """Activation of a convolution: "Relu", "Clip" (to 0 ... 6), or "SiLU" (two nodes)."""
        if act == "Clip":
            bounds = [self._constant("bound", np.float32(value)) for value in (0, 6)]
            return self._node("Clip", [tensor, *bounds], self.shapes[tensor])
        return self.binary("Mul", tensor, self.unary("Sigmoid", tensor)) if act == "SiLU" else self.unary(act, tensor)

    def excite(self, tensor: str, hidden: int) -> str:
        """Scale the channels by a small net of their means (squeeze and excitation)."""
        channels = self.shapes[tensor][1]
        axes = self._constant("axes", np.array([-1, -2], np.int64))
        mean = self._node("ReduceMean", [tensor, axes], (1, channels, 1, 1), keepdims=1)
        gate = self.unary("Sigmoid", self.conv(self.conv(mean, hidden, 1), channels, 1, relu=False))
        return self._node("Mul", [tensor, gate], self.shapes[tensor])

    def unary(self, op_type: str, tensor: str, **attributes: Any) -> str:
        """Operator with one input that keeps the shape."""
        return self._node(op_type, [tensor], self.shapes[tensor], **attributes)

    def binary(self, op_type: str, a: str, b: str) -> str:
        """Elementwise operator on two tensors of one shape."""
        return self._node(op_type, [a, b], self.shapes[a])

    def concat(self, *tensors: str) -> str:
        """Join tensors along the channels."""
        shape = list(self.shapes[tensors[0]])
        shape[1] = sum(self.shapes[tensor][1] for tensor in tensors)
        return self._node("Concat", list(tensors), tuple(shape), axis=1)

    def max_pool(self, tensor: str) -> str:
        """Max pooling to half the size, without overlap."""
        _, channels, *sides = self.shapes[tensor]
        shape, window = (1, channels, *(side // 2 for side in sides)), [2] * len(sides)
        return self._node("MaxPool", [tensor], shape, kernel_shape=window, strides=window)

    def global_pool(self, tensor: str) -> str:
        """Mean over height and width: [1, channels]."""
        shape = self.shapes[tensor]
        axes = self._constant("axes", np.arange(2 - len(shape), 0))
        return self._node("ReduceMean", [tensor, axes], shape[:2], keepdims=0)

    def reshape(self, tensor: str, shape: tuple[int, ...]) -> str:
        """Reshape to a fixed shape, the batch aside."""
        target = self._constant("shape", np.array([-1 if shape[0] == 1 else shape[0], *shape[1:]], np.int64))
        return self._node("Reshape", [tensor, target], shape)

    def transpose(self, tensor: str, order: tuple[int, ...]) -> str:
        """Permute the axes."""
        shape = self.shapes[tensor]
        return self._node("Transpose", [tensor], tuple(shape[axis] for axis in order), perm=list(order))

    def part(self, tensor: str, index: int) -> str:
        """One entry along the first axis, cut out and squeezed as the exporter writes it."""
        start, end, axis = (self._constant("bound", np.array([value], np.int64)) for value in (index, index + 1, 0))
        cut = self._node("Slice", [tensor, start, end, axis], (1, *self.shapes[tensor][1:]))
        return self._node("Squeeze", [cut, axis], self.shapes[tensor][1:])

    def gemm(self, tensor: str, columns: int) -> str:
        """Fully connected layer with bias on [rows, features]."""
        rows, features = self.shapes[tensor]
        inputs = [tensor, self._weight((columns, features)), self._bias(columns)]
        return self._node("Gemm", inputs, (rows, columns), transB=1)

    def linear(self, tensor: str, columns: int) -> str:
        """Matrix product with a constant, then Add of a bias, on [1, tokens, features]."""
        shape = self.shapes[tensor]
        product = self._node("MatMul", [tensor, self._weight((shape[-1], columns))], (*shape[:-1], columns))
        return self._node("Add", [product, self._bias(columns, 0.1)], self.shapes[product])

    def matmul(self, a: str, b: str) -> str:
        """Matrix product of two activations."""
        return self._node("MatMul", [a, b], (*self.shapes[a][:-1], self.shapes[b][-1]))

    def layer_norm(self, tensor: str) -> str:
        """Layer normalisation over the last axis (always fp32 arithmetic)."""
        size = self.shapes[tensor][-1]
        ones = self._constant("ones", np.ones(size, np.float32))
        return self._node("LayerNormalization", [tensor, ones, self._bias(size)], self.shapes[tensor], axis=-1)

    def build(self, output: str) -> bytes:
        """Return the model's bytes."""
        model = helper.make_model(
            helper.make_graph(
                self._nodes,
                "micro",
                [_value("input", self._input_shape, self._input_type)],
                [_value(output, self.shapes[output])],
                self._weights,
            ),
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
        )
        return bytes((_quantized(model) if self.int8 else model).SerializeToString())


def _value(name: str, shape: tuple[int, ...], elem_type: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, ["batch" if shape[0] == 1 else shape[0], *shape[1:]])


def _quantized(model: ModelProto) -> ModelProto:
    """Return the model as deployed with 8 bits in every layer; weights and ranges are made up."""
    from autocompress.graphs.qdq import ActivationRange, QuantSpec, WeightQuant, plan, quantizable_layers, write_qdq

    bits = {layer.name: 8 for layer in quantizable_layers(model)}
    planned = plan(model, QuantSpec(bits, bits))
    shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    weights = {}
    for layer in planned.layers:
        shape = shapes[layer.weight]
        values = filler(math.prod(shape), "int8", 1.0).reshape(shape)
        weights[layer.weight] = WeightQuant(values, np.full(shape[layer.axis], 0.01, np.float32), layer.axis, 8)
    ranges = {
        a.tensor: ActivationRange(0.02, 0 if a.source.startswith(("relu", "clip")) else 128)
        for a in planned.activations
    }
    return write_qdq(model, planned, ranges, weights)
