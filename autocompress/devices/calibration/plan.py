"""The small nets that calibration times: built with onnx.helper from a fixed plan, in fp32 and as deployed in int8.

Each net is a chain or a block of layers as they occur in deployed models, because kernels in a chain (fused,
with blocked channel order and warm caches) cost something else than alone.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from autocompress.devices.calibration._bundle_runner import filler

PLAN_VERSION = 6
"""Raise it when a net of the plan changes."""
EXIT_LEVELS = 2
EXIT_PAIR = ("exits/none", "exits/two")
"""The same net without and with `EXIT_LEVELS` exit tests: gives the cost of a test, is not fitted."""

_FLOAT_ONLY = ("Add", "Mul", "LayerNormalization", "Softmax", "Gelu", "Sigmoid", "Transpose", "MatMul")
"""Operators that deployment leaves in fp32, but for an Add between convolutions."""
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


@dataclass(frozen=True, slots=True)
class MicroModel:
    """One point of the plan."""

    name: str
    make: partial[bytes]


def _chain(cin: int, cout: int, size: int, kernel: int, length: int, int8: bool, stem: bool) -> bytes:
    net = NetBuilder((1, 3 if stem else cin, size, size), int8)
    out = net.conv("input", cin) if stem else "input"
    for k in range(length):
        out = net.conv(out, cout if k % 2 == 0 else cin, kernel)
    return _classifier(net, out)


def _classifier(net: NetBuilder, out: str) -> bytes:
    """End as deployed nets do: the last convolution of a file would stay in fp32."""
    return net.build(net.gemm(net.global_pool(out), 10))


def _residual(widths: tuple[int, ...], size: int, int8: bool) -> bytes:
    net = NetBuilder((1, 3, size, size), int8)
    out = net.conv("input", widths[0])
    for k, width in enumerate(widths):
        stride = 2 if k else 1
        inner = net.conv(net.conv(out, width, 3, stride), width, 3, relu=False)
        same = net.shapes[inner] == net.shapes[out]
        short = out if same else net.conv(out, width, 1, stride, relu=False)
        out = net.unary("Relu", net.binary("Add", inner, short))
    return _classifier(net, out)


def _inverted(
    widths: tuple[int, ...], expand: int, size: int, int8: bool, kernel: int = 3, act: str = "", excite: bool = False
) -> bytes:
    net = NetBuilder((1, 3, size, size), int8)
    out = net.conv("input", widths[0], act=act)
    for k, width in enumerate(widths):
        hidden = net.shapes[out][1] * expand
        inner = net.conv(out, hidden, 1, act=act) if expand > 1 else out
        inner = net.conv(inner, hidden, kernel, 2 if k and k % 2 == 0 else 1, groups=hidden, act=act)
        inner = net.excite(inner, max(8, hidden // 4)) if excite else inner
        inner = net.conv(inner, width, 1, relu=False)
        out = net.binary("Add", out, inner) if net.shapes[inner] == net.shapes[out] else inner
    return _classifier(net, net.conv(out, 2 * widths[-1], 1, act=act))


def _grouped(group: int, groups: int, size: int, depth: int, int8: bool) -> bytes:
    """Bottlenecks whose 3x3 convolutions have groups of `group` channels."""
    width = group * groups
    net = NetBuilder((1, 3, size, size), int8)
    out = net.conv("input", width)
    for _ in range(depth):
        inner = net.conv(net.conv(out, width, 1), width, groups=groups)
        out = net.unary("Relu", net.binary("Add", net.conv(inner, width, 1, relu=False), out))
    return _classifier(net, out)


def _fire(widths: tuple[int, ...], size: int, int8: bool) -> bytes:
    """Two convolutions side by side, joined (SqueezeNet's module), with pooling between the stages."""
    net = NetBuilder((1, 3, size, size), int8)
    out = net.conv("input", widths[0])
    for k, width in enumerate(widths):
        out = net.conv(net.max_pool(out) if k % 2 else out, width, 1)
        out = net.concat(net.conv(out, 2 * width, 1), net.conv(out, 2 * width))
    return _classifier(net, out)


def _temporal(width: int, length: int, kernel: int, depth: int, int8: bool) -> bytes:
    """Residual blocks of 1-D convolutions."""
    net = NetBuilder((1, 16, length), int8)
    out = net.conv("input", width, kernel)
    for _ in range(depth):
        out = net.binary("Add", out, net.conv(net.conv(out, width, kernel), width, 1, relu=False))
    return _classifier(net, out)


def _wide(shape: tuple[int, ...], width: int, kernel: int, stride: int, int8: bool) -> bytes:
    """Begin with a wide window over an image or a signal of few channels, then pool; end with a usual convolution."""
    net = NetBuilder(shape, int8)
    out = net.max_pool(net.conv("input", width, kernel, stride))
    return _classifier(net, net.conv(out, 2 * width))


def _attention(net: NetBuilder, tensor: str, heads: int, together: bool) -> str:
    """Self-attention; queries, keys and values from three products, or `together` from one that is then cut up."""
    _, tokens, width = net.shapes[tensor]
    split = (1, tokens, heads, width // heads)
    if together:
        parts = net.reshape(net.linear(tensor, 3 * width), (1, tokens, 3, *split[2:]))
        parts = net.transpose(parts, (2, 0, 3, 1, 4))
        q, k, v = (net.part(parts, index) for index in range(3))
        k = net.transpose(k, (0, 1, 3, 2))
    else:
        q, k, v = (net.reshape(net.linear(tensor, width), split) for _ in range(3))
        q, k, v = net.transpose(q, (0, 2, 1, 3)), net.transpose(k, (0, 2, 3, 1)), net.transpose(v, (0, 2, 1, 3))
    mixed = net.matmul(net.unary("Softmax", net.matmul(q, k), axis=-1), v)
    return net.linear(net.reshape(net.transpose(mixed, (0, 2, 1, 3)), (1, tokens, width)), width)


def _transformer(
    tokens: int, width: int, heads: int, depth: int, int8: bool, ratio: int = 4, together: bool = False
) -> bytes:
    net = NetBuilder((1, tokens, width), int8)
    out = "input"
    for _ in range(depth):
        out = net.binary("Add", out, _attention(net, net.layer_norm(out), heads, together))
        hidden = net.unary("Gelu", net.linear(net.layer_norm(out), width * ratio))
        out = net.binary("Add", out, net.linear(hidden, width))
    return net.build(net.layer_norm(out))


def _mlp(rows: int, width: int, length: int, int8: bool) -> bytes:
    net = NetBuilder((rows, width), int8)
    out = "input"
    for _ in range(length):
        out = net.unary("Relu", net.gemm(out, width))
    return net.build(out)


def _repeat(op_type: str, shape: tuple[int, ...], length: int, int8: bool) -> bytes:
    net = NetBuilder(shape, int8)
    out = "input"
    for _ in range(length):
        if op_type == "LayerNormalization":
            out = net.layer_norm(out)
        elif op_type in {"Add", "Mul"}:
            out = net.binary(op_type, out, "input")
        elif op_type == "Transpose":
            out = net.unary("Relu", net.transpose(out, (0, 2, 1)))
        elif op_type == "MatMul":
            out = net.matmul(net.matmul(out, net.transpose(out, (0, 2, 1))), out)
        else:
            out = net.unary(op_type, out)
    return net.build(out)


def _pooled(cout: int, size: int, int8: bool) -> bytes:
    net = NetBuilder((1, 3, size, size), int8)
    out = net.max_pool(net.conv("input", cout))
    return _classifier(net, net.max_pool(net.conv(out, cout, 1)))


def _patches(width: int, int8: bool) -> bytes:
    net = NetBuilder((1, 3, 32, 32), int8)
    out = net.reshape(net.conv("input", width, 4, 4, relu=False), (1, width, 64))
    return net.build(net.layer_norm(net.transpose(out, (0, 2, 1))))


def _width(rng: np.random.Generator, low: int, high: int) -> int:
    """Log-uniform width: mostly a multiple of 8 or 16, sometimes of 4, sometimes odd."""
    width = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    step = int(rng.choice([16, 8, 8, 4, 1], p=[0.35, 0.25, 0.2, 0.1, 0.1]))
    return max(step, round(width / step) * step)


def _random_nets(rng: np.random.Generator, int8: bool) -> Iterator[partial[bytes]]:
    for _ in range(26):
        size = int(rng.choice([8, 16, 32]))
        width = _width(rng, 8, 2048 // size)
        widths = tuple(min(512, width * 2**k) for k in range(int(rng.integers(2, 5))))
        yield partial(_residual, widths, size, int8)
    for _ in range(22):
        size, expand = int(rng.choice([8, 16, 32])), int(rng.choice([1, 3, 6]))
        start = _width(rng, 8, 48)
        widths = tuple(start + 8 * (k // 2) * int(rng.integers(1, 4)) for k in range(int(rng.integers(3, 8))))
        kernel = int(rng.choice([3, 3, 3, 5]))
        yield partial(_inverted, widths, expand, size, int8, kernel)
    for _ in range(16):
        heads, tokens = int(rng.choice([2, 3, 4, 6])), int(rng.choice([16, 49, 64, 100]))
        width = heads * int(rng.choice([8, 16, 24, 32, 48]))
        depth, ratio = int(rng.integers(1, 3)), int(rng.choice([1, 2, 4]))
        yield partial(_transformer, tokens, width, heads, depth, int8, ratio, bool(rng.integers(0, 2)))
    for _ in range(8):
        widths = tuple(_width(rng, 8, 64) for _ in range(int(rng.integers(2, 5))))
        yield partial(_fire, widths, int(rng.choice([16, 32, 48])), int8)
    for _ in range(6):
        group, groups = int(rng.choice([8, 16, 16, 32])), int(rng.integers(2, 7))
        yield partial(_grouped, group, groups, int(rng.choice([8, 16, 32])), int(rng.integers(1, 4)), int8)
    for _ in range(8):
        length, kernel = int(rng.choice([32, 64, 128, 250])), int(rng.choice([3, 3, 5, 9]))
        yield partial(_temporal, _width(rng, 16, 128), length, kernel, int(rng.integers(2, 6)), int8)


def _grids(rng: np.random.Generator, int8: bool) -> Iterator[tuple[str, partial[bytes]]]:
    for kernel in (1, 3):
        for size, high in ((32, 96), (16, 192), (8, 384), (4, 512)):
            for _ in range(4):
                cin, cout = _width(rng, 8, high), _width(rng, 8, high)
                stem = bool(rng.integers(0, 2))
                make = partial(_chain, cin, cout, size, kernel, 3, int8, stem)
                yield f"chain{kernel}x{kernel}", make
    for rows, width in ((1, 64), (1, 256), (1, 512), (16, 128), (64, 64), (64, 192), (64, 384), (100, 100)):
        yield "mlp", partial(_mlp, rows, width, 3, int8)
    for op_type in _FLOAT_ONLY:
        for shape in ((1, 16, 64), (1, 64, 192), (1, 64, 768), (1, 256, 256)):
            yield op_type.lower(), partial(_repeat, op_type, shape, 4, int8)
    for width, size in ((8, 16), (16, 32), (48, 32), (64, 16)):
        yield "pool", partial(_pooled, width, size, int8)
    for width, size, length in ((256, 8, 4), (256, 4, 8), (512, 4, 4), (512, 2, 6), (384, 8, 3), (320, 8, 4)):
        yield "large", partial(_chain, width, width, size, 3, length, int8, True)
    for width in (48, 64, 100, 192):
        yield "patches", partial(_patches, width, int8)


def _field_nets(rng: np.random.Generator, int8: bool) -> Iterator[partial[bytes]]:
    """Larger nets: several megabytes of weights, images of 24 to 64 pixels, other activations than ReLU."""
    for number in range(18):
        size, expand = int(rng.choice([24, 32, 48, 64])), int(rng.choice([1, 3, 4, 6]))
        width, growth = int(rng.choice([8, 16, 24, 32])), float(rng.uniform(1.15, 1.5))
        widths = tuple(min(320, 8 * round(width * growth**k / 8)) for k in range(int(rng.integers(5, 12))))
        act, excite = ("Clip", "SiLU", "Clip")[number % 3], number % 4 == 1
        yield partial(_inverted, widths, expand, size, int8, int(rng.choice([3, 3, 5])), act, excite)
    for _ in range(6):
        size, width = int(rng.choice([24, 32, 48])), int(rng.choice([16, 24, 32, 48]))
        widths = tuple(min(512, width * 2 ** (k // 2)) for k in range(int(rng.integers(5, 9))))
        yield partial(_residual, widths, size, int8)
    for rows, width in ((1, 1024), (1, 1600), (9, 768), (49, 512)):
        yield partial(_mlp, rows, width, 3, int8)
    for tokens, heads, depth in ((65, 3, 4), (197, 3, 2), (50, 6, 3)):
        yield partial(_transformer, tokens, 64 * heads, heads, depth, int8, 4, tokens > 50)


def _wide_windows(rng: np.random.Generator, int8: bool) -> Iterator[partial[bytes]]:
    """The first layers of many nets for images and of all for raw signals; patches; wide depthwise convolutions."""
    for _ in range(9):
        kernel, stride = int(rng.choice([5, 7, 9, 11])), int(rng.choice([1, 2, 4]))
        shape = (1, int(rng.choice([1, 3, 3])), *[int(rng.choice([32, 48, 64, 96]))] * 2)
        yield partial(_wide, shape, _width(rng, 8, 64), kernel, stride, int8)
    for _ in range(9):
        kernel, stride = round(float(np.exp(rng.uniform(np.log(8), np.log(160))))), int(rng.choice([1, 2, 4, 8]))
        shape = (1, int(rng.choice([1, 2, 3])), int(rng.choice([500, 1000, 2000, 4000])))
        yield partial(_wide, shape, _width(rng, 8, 64), kernel, stride, int8)
    for kernel in (7, 9, 7):
        width = _width(rng, 16, 96)
        yield partial(_inverted, (width, width, 2 * width), 1, int(rng.choice([8, 16, 24])), int8, kernel)


def _volumes(cin: int, widths: tuple[int, ...], size: tuple[int, int], form: str, int8: bool) -> bytes:
    """3-D convolutions: "cubes", "split" into space and time, "pointwise" or "depthwise" between pointwise ones."""
    depth, side = size
    net = NetBuilder((1, cin, depth, side, side), int8)
    out = "input"
    for k, width in enumerate(widths):
        stride = 2 if k else 1
        if form == "split":
            out = net.conv(net.conv(out, 2 * width, (1, 3, 3), stride), width, (3, 1, 1), stride)
        elif form == "depthwise":
            out = net.conv(net.conv(out, 2 * width, 1), 2 * width, 3, stride, groups=2 * width)
            out = net.conv(out, width, 1)
        else:
            out = net.conv(out, width, 3 if form == "cubes" else 1, stride if form == "cubes" else 1)
    return _classifier(net, out)


def _points(widths: tuple[int, ...], length: int, int8: bool) -> bytes:
    """Pointwise 1-D convolutions on three coordinates, as for clouds of points."""
    net = NetBuilder((1, 3, length), int8)
    out = "input"
    for width in widths:
        out = net.conv(out, width, 1)
    return _classifier(net, out)


def _separable(width: int, length: int, kernel: int, depth: int, group: int, int8: bool) -> bytes:
    """Residual blocks of 1-D convolutions in groups of `group` channels, each followed by a pointwise one."""
    net = NetBuilder((1, 16, length), int8)
    out = net.conv("input", width, 1)
    for _ in range(depth):
        inner = net.conv(net.conv(out, width, kernel, groups=width // group), width, 1, relu=False)
        out = net.binary("Add", out, inner)
    return _classifier(net, out)


def _decoder(sides: tuple[int, ...], widths: tuple[int, ...], kernel: int, int8: bool) -> bytes:
    """Transposed convolutions that double the size; `sides` of the input."""
    net = NetBuilder((1, widths[0], *sides), int8)
    out = "input"
    for width in widths[1:]:
        out = net.conv_transpose(out, width, kernel, 2)
    return net.build(net.conv(out, 3, 1))


def _text(rows: tuple[int, ...], width: int, tokens: int) -> bytes:
    """Look-ups in tables of `rows`, added, then a linear layer."""
    net = NetBuilder((1, tokens), ids=True)
    out, *others = (net.look_up("input", n, width) for n in rows)
    for other in others:
        out = net.binary("Add", out, other)
    return net.build(net.linear(out, 16))


def _sequence(cell: str, features: int, hidden: int, steps: int, layers: int, both_ways: bool) -> bytes:
    net = NetBuilder((1, steps, features))
    out = "input"
    for _ in range(layers):
        out = net.recurrent(cell, out, hidden, both_ways)
    return net.build(net.linear(out, 10))


def _branches(widths: tuple[int, ...], size: int, n: int, groups: bool, int8: bool) -> bytes:
    """Blocks that sum `n` 3x3 convolutions, a pointwise one and a batch normalisation (MobileOne, RepVGG)."""
    net = NetBuilder((1, 3, size, size), int8)
    out = net.conv("input", widths[0], stride=2)
    for width in widths:
        same = net.shapes[out][1]
        if groups:
            parts = [net.conv(out, same, kernel, groups=same, relu=False) for kernel in (*[3] * n, 1)]
            out = net.unary("Relu", _sum(net, [*parts, net.batch_norm(out)]))
        kernels = [1] * n if groups else [*[3] * n, 1]
        parts = [net.conv(out, width, kernel, relu=False) for kernel in kernels]
        parts += [net.batch_norm(out)] if same == width else []
        out = net.unary("Relu", _sum(net, parts))
    return _classifier(net, out)


def _sum(net: NetBuilder, parts: Sequence[str]) -> str:
    total, *others = parts
    for other in others:
        total = net.binary("Add", total, other)
    return total


def _normalised(width: int, size: int, groups: int, int8: bool) -> bytes:
    """Convolutions with group normalisation."""
    net = NetBuilder((1, 3, size, size), int8)
    out = net.conv("input", width)
    for _ in range(2):
        out = net.unary("Relu", net.group_norm(net.conv(out, width, relu=False), groups))
    return _classifier(net, out)


def _odd(widths: tuple[int, ...], size: int) -> bytes:
    """Convolutions of both kinds between widths that fit no block of channels."""
    net = NetBuilder((1, 3, size, size))
    out = net.conv("input", widths[0])
    for k, width in enumerate(widths):
        out = net.conv(net.conv(out, width, 3, 2 if k else 1), width, 1)
    return _classifier(net, out)


def _pyramid(width: int, size: int, mode: str, factor: int, by_scales: bool, int8: bool) -> bytes:
    """Features resized and joined with those of that size, then resized once more."""
    net = NetBuilder((1, 3, size, size), int8)
    fine = net.conv("input", width, 3, 2)
    coarse = net.conv(net.conv(fine, 2 * width, 3, factor), width, 1, relu=False)
    out = net.binary("Add", net.conv(fine, width, 1, relu=False), net.resize(coarse, mode, factor, by_scales))
    return net.build(net.resize(net.conv(out, 8, 1, relu=False), mode, 2, by_scales))


def _newer_kinds(rng: np.random.Generator, int8: bool) -> Iterator[tuple[str, partial[bytes]]]:
    """Convolutions of one and three dimensions, many branches, other normalisations, resizing.

    In fp32 only: channels off the blocks, transposed convolutions, look-ups, recurrent layers.
    """
    for form in ("cubes", "cubes", "cubes", "cubes", "split", "split", "split", "pointwise", "pointwise", "depthwise"):
        for _ in range(2 if form == "depthwise" else 1):
            volume = (int(rng.choice([4, 8, 16])), int(rng.choice([12, 16, 24])))
            start = _width(rng, 8, 24)
            widths = tuple(start * 2**k for k in range(int(rng.integers(2, 4))))
            yield "volume", partial(_volumes, int(rng.choice([1, 3, 16])), widths, volume, form, int8)
    for length in (32, 64, 128, 256, 400, 512, 1024, 2048):
        widths = tuple(_width(rng, 16, 256 if length < 600 else 128) for _ in range(int(rng.integers(2, 5))))
        yield "points", partial(_points, widths, length, int8)
    for group in (1, 1, 1, 1, 8, 16, 16, 24, 32, 48):
        width = group * int(rng.integers(2, 6)) if group > 1 else _width(rng, 16, 160)
        length, kernel = int(rng.choice([50, 100, 200, 400, 800])), int(rng.choice([3, 5, 9, 15, 31]))
        yield "separable", partial(_separable, width, length, kernel, int(rng.integers(1, 4)), group, int8)
    for number in range(8):
        widths = tuple(_width(rng, 8, 48) for _ in range(int(rng.integers(2, 5))))
        yield (
            "branches",
            partial(_branches, widths, int(rng.choice([24, 32, 48, 64])), 1 + number % 3, number > 3, int8),
        )
    for groups, width in ((1, 16), (4, 32), (16, 64), (8, 24), (32, 64), (0, 16), (0, 48), (0, 32)):
        yield "groupnorm", partial(_normalised, width, int(rng.choice([12, 16, 32])), groups, int8)
    for mode, by_scales in itertools.product(("nearest", "linear"), (False, False, False, True, True, True)):
        size, factor = int(rng.choice([32, 48, 64, 96])), int(rng.choice([2, 2, 4]))
        yield "pyramid", partial(_pyramid, _width(rng, 8, 64), size, mode, factor, by_scales, int8)
    if int8:
        return
    for _ in range(10):
        widths = tuple(
            int(rng.integers(9, 80)) // 4 * 4 + int(rng.integers(1, 4)) for _ in range(int(rng.integers(2, 4)))
        )
        yield "odd", partial(_odd, widths, int(rng.choice([8, 16, 24, 32, 48])))
    for number, side in enumerate((1, 4, 4, 4, 6, 8, 8, 8, 12, 16, 16, 24, 50, 100, 200, 400)):
        high = 192 if side < 8 else 64 if side < 16 else 32
        widths = tuple(_width(rng, 8, high) for _ in range(int(rng.integers(2, 4))))
        sides = (side,) if side > 24 else (side, side)
        yield "decoder", partial(_decoder, sides, widths, (2, 4, 4, 6)[number % 4], int8)
    for rows, tokens in (((200,), 64), ((500, 64), 32), ((3000,), 128), ((1000,) * 6, 1), ((1000, 40, 2), 256)):
        yield "text", partial(_text, rows, int(rng.choice([16, 32, 64, 128])), tokens)
    for number in range(16):
        sizes = (_width(rng, 8, 96), _width(rng, 16, 256), int(rng.choice([8, 20, 50, 100])))
        yield "sequence", partial(_sequence, ("LSTM", "GRU")[number % 2], *sizes, 1 + number // 12, number % 4 > 1)


def _exit_net(nested: bool) -> bytes:
    """Return three convolutions in a row; if `nested`, with two exit tests that never leave between them."""
    shape = [1, 16, 8, 8]
    nodes, output = _exit_level(0, "input", nested)
    graph = helper.make_graph(
        nodes,
        "exits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _exit_level(level: int, source: str, nested: bool) -> tuple[list[NodeProto], str]:
    """Nodes of one convolution and what follows it, and the name of their result."""
    weight, out = f"weight_{level}", f"conv_{level}"
    values = numpy_helper.from_array(np.full((16, 16, 3, 3), 0.01, np.float32), weight)
    nodes: list[NodeProto] = [
        helper.make_node("Constant", [], [weight], value=values),
        helper.make_node("Conv", [source, weight], [out], pads=[1] * 4),
    ]
    if level == EXIT_LEVELS:
        return nodes, out
    rest, result = _exit_level(level + 1, out, nested)
    if not nested:
        return [*nodes, *rest], result
    return [*nodes, *_exit_test(level, out, rest, result)], f"result_{level}"


def _exit_test(level: int, source: str, rest: list[NodeProto], result: str) -> list[NodeProto]:
    """Return the test as deployed files have it: Softmax, ReduceMax, Greater, If."""
    final = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
    early = helper.make_tensor_value_info(f"early_{level}", TensorProto.FLOAT, None)
    stay = helper.make_graph(rest, f"stay_{level}", [], [final])
    identity = helper.make_node("Identity", [source], [f"early_{level}"])
    leave = helper.make_graph([identity], f"leave_{level}", [], [early])
    return [
        helper.make_node("GlobalAveragePool", [source], [f"pool_{level}"]),
        helper.make_node("Flatten", [f"pool_{level}"], [f"logits_{level}"]),
        helper.make_node("Softmax", [f"logits_{level}"], [f"soft_{level}"]),
        helper.make_node("ReduceMax", [f"soft_{level}"], [f"max_{level}"], keepdims=0),
        helper.make_node("Constant", [], [f"limit_{level}"], value_float=2.0),
        helper.make_node("Greater", [f"max_{level}", f"limit_{level}"], [f"leave_{level}"]),
        helper.make_node("If", [f"leave_{level}"], [f"result_{level}"], then_branch=leave, else_branch=stay),
    ]


def plan() -> list[MicroModel]:
    """Return the micro-models, always the same: fp32 nets, then the same in int8 where that matters, the exit pair.

    Both forms of a net have the same number at the end of their names.
    """
    models: list[MicroModel] = []
    for int8 in (False, True):
        rng = np.random.default_rng(7)
        tag = "int8" if int8 else "fp32"
        grids = [(f"{name}/{tag}/{k}", make) for k, (name, make) in enumerate(_grids(rng, int8))]
        models += [MicroModel(name, make) for name, make in grids if not (int8 and _is_float_only(name))]
        models += [MicroModel(f"net/{tag}/{k}", make) for k, make in enumerate(_random_nets(rng, int8))]
        models += [MicroModel(f"field/{tag}/{k}", make) for k, make in enumerate(_field_nets(rng, int8))]
        models += [MicroModel(f"wide/{tag}/{k}", make) for k, make in enumerate(_wide_windows(rng, int8))]
        models += [MicroModel(f"{name}/{tag}/{k}", make) for k, (name, make) in enumerate(_newer_kinds(rng, int8))]
    return [*models, *(MicroModel(name, partial(_exit_net, k == 1)) for k, name in enumerate(EXIT_PAIR))]


def _is_float_only(name: str) -> bool:
    return name.split("/")[0] in {op_type.lower() for op_type in _FLOAT_ONLY}


def extreme_model() -> bytes:
    """Return the net that shows saturation: uint8 [8, 64] times 127 everywhere, summed in int32."""
    weight = numpy_helper.from_array(np.full((64, 32), 127, np.int8), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight"], ["y"])],
        "extreme",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [8, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [8, 32])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def plan_digest(models: Sequence[MicroModel]) -> str:
    """Stable id of a plan: measurements can be fitted only against the plan they were taken with."""
    text = "\n".join([str(PLAN_VERSION), *(f"{m.name} {m.make.func.__name__} {m.make.args}" for m in models)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
