"""The kinds of small nets that calibration times, each built for given widths and sizes.

Each net is a chain or a block of layers as they occur in deployed models, because kernels in a chain (fused,
with blocked channel order and warm caches) cost something else than alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autocompress.devices.calibration.net_builder import NetBuilder

EXIT_LEVELS = 2
"""Exit tests of `exit_net`."""


def chain(cin: int, cout: int, size: int, kernel: int, length: int, int8: bool, stem: bool) -> bytes:
    """Convolutions in a row, from `cin` to `cout` channels and back; with `stem` after one that reads an image."""
    net = NetBuilder((1, 3 if stem else cin, size, size), int8)
    out = net.conv("input", cin) if stem else "input"
    for k in range(length):
        out = net.conv(out, cout if k % 2 == 0 else cin, kernel)
    return _classifier(net, out)


def _classifier(net: NetBuilder, out: str) -> bytes:
    """End as deployed nets do: the last convolution of a file would stay in fp32."""
    return net.build(net.gemm(net.global_pool(out), 10))


def residual(widths: tuple[int, ...], size: int, int8: bool) -> bytes:
    """Blocks of two 3x3 convolutions around a shortcut (ResNet), each width at half the size of the one before."""
    net = NetBuilder((1, 3, size, size), int8)
    out = net.conv("input", widths[0])
    for k, width in enumerate(widths):
        stride = 2 if k else 1
        inner = net.conv(net.conv(out, width, 3, stride), width, 3, relu=False)
        same = net.shapes[inner] == net.shapes[out]
        short = out if same else net.conv(out, width, 1, stride, relu=False)
        out = net.unary("Relu", net.binary("Add", inner, short))
    return _classifier(net, out)


def inverted(
    widths: tuple[int, ...], expand: int, size: int, int8: bool, kernel: int = 3, act: str = "", excite: bool = False
) -> bytes:
    """Inverted residual blocks (MobileNetV2), with squeeze and excitation if `excite` (MobileNetV3)."""
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


def grouped(group: int, groups: int, size: int, depth: int, int8: bool) -> bytes:
    """Bottlenecks whose 3x3 convolutions have groups of `group` channels."""
    width = group * groups
    net = NetBuilder((1, 3, size, size), int8)
    out = net.conv("input", width)
    for _ in range(depth):
        inner = net.conv(net.conv(out, width, 1), width, groups=groups)
        out = net.unary("Relu", net.binary("Add", net.conv(inner, width, 1, relu=False), out))
    return _classifier(net, out)


def fire(widths: tuple[int, ...], size: int, int8: bool) -> bytes:
    """Two convolutions side by side, joined (SqueezeNet's module), with pooling between the stages."""
    net = NetBuilder((1, 3, size, size), int8)
    out = net.conv("input", widths[0])
    for k, width in enumerate(widths):
        out = net.conv(net.max_pool(out) if k % 2 else out, width, 1)
        out = net.concat(net.conv(out, 2 * width, 1), net.conv(out, 2 * width))
    return _classifier(net, out)


def temporal(width: int, length: int, kernel: int, depth: int, int8: bool) -> bytes:
    """Residual blocks of 1-D convolutions."""
    net = NetBuilder((1, 16, length), int8)
    out = net.conv("input", width, kernel)
    for _ in range(depth):
        out = net.binary("Add", out, net.conv(net.conv(out, width, kernel), width, 1, relu=False))
    return _classifier(net, out)


def wide(shape: tuple[int, ...], width: int, kernel: int, stride: int, int8: bool) -> bytes:
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


def transformer(
    tokens: int, width: int, heads: int, depth: int, int8: bool, ratio: int = 4, together: bool = False
) -> bytes:
    """Blocks of self-attention and two linear layers, normalised first (ViT)."""
    net = NetBuilder((1, tokens, width), int8)
    out = "input"
    for _ in range(depth):
        out = net.binary("Add", out, _attention(net, net.layer_norm(out), heads, together))
        hidden = net.unary("Gelu", net.linear(net.layer_norm(out), width * ratio))
        out = net.binary("Add", out, net.linear(hidden, width))
    return net.build(net.layer_norm(out))


def mlp(rows: int, width: int, length: int, int8: bool) -> bytes:
    """Linear layers of one width with ReLU between them."""
    net = NetBuilder((rows, width), int8)
    out = "input"
    for _ in range(length):
        out = net.unary("Relu", net.gemm(out, width))
    return net.build(out)


def repeat(op_type: str, shape: tuple[int, ...], length: int, int8: bool) -> bytes:
    """One operator over and over, so that it is most of the time."""
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


def pooled(cout: int, size: int, int8: bool) -> bytes:
    """A convolution, a pooling, a pointwise convolution and a pooling again."""
    net = NetBuilder((1, 3, size, size), int8)
    out = net.max_pool(net.conv("input", cout))
    return _classifier(net, net.max_pool(net.conv(out, cout, 1)))


def patches(width: int, int8: bool) -> bytes:
    """Cut an image into patches, as transformers begin."""
    net = NetBuilder((1, 3, 32, 32), int8)
    out = net.reshape(net.conv("input", width, 4, 4, relu=False), (1, width, 64))
    return net.build(net.layer_norm(net.transpose(out, (0, 2, 1))))


def volumes(cin: int, widths: tuple[int, ...], size: tuple[int, int], form: str, int8: bool) -> bytes:
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


def points(widths: tuple[int, ...], length: int, int8: bool) -> bytes:
    """Pointwise 1-D convolutions on three coordinates, as for clouds of points."""
    net = NetBuilder((1, 3, length), int8)
    out = "input"
    for width in widths:
        out = net.conv(out, width, 1)
    return _classifier(net, out)


def separable(width: int, length: int, kernel: int, depth: int, group: int, int8: bool) -> bytes:
    """Residual blocks of 1-D convolutions in groups of `group` channels, each followed by a pointwise one."""
    net = NetBuilder((1, 16, length), int8)
    out = net.conv("input", width, 1)
    for _ in range(depth):
        inner = net.conv(net.conv(out, width, kernel, groups=width // group), width, 1, relu=False)
        out = net.binary("Add", out, inner)
    return _classifier(net, out)


def decoder(sides: tuple[int, ...], widths: tuple[int, ...], kernel: int, int8: bool) -> bytes:
    """Transposed convolutions that double the size; `sides` of the input."""
    net = NetBuilder((1, widths[0], *sides), int8)
    out = "input"
    for width in widths[1:]:
        out = net.conv_transpose(out, width, kernel, 2)
    return net.build(net.conv(out, 3, 1))


def text(rows: tuple[int, ...], width: int, tokens: int) -> bytes:
    """Look-ups in tables of `rows`, added, then a linear layer."""
    net = NetBuilder((1, tokens), ids=True)
    out, *others = (net.look_up("input", n, width) for n in rows)
    for other in others:
        out = net.binary("Add", out, other)
    return net.build(net.linear(out, 16))


def sequence(cell: str, features: int, hidden: int, steps: int, layers: int, both_ways: bool) -> bytes:
    """Recurrent layers of `cell` LSTM or GRU."""
    net = NetBuilder((1, steps, features))
    out = "input"
    for _ in range(layers):
        out = net.recurrent(cell, out, hidden, both_ways)
    return net.build(net.linear(out, 10))


def branches(widths: tuple[int, ...], size: int, n: int, groups: bool, int8: bool) -> bytes:
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


def normalised(width: int, size: int, groups: int, int8: bool) -> bytes:
    """Convolutions with group normalisation."""
    net = NetBuilder((1, 3, size, size), int8)
    out = net.conv("input", width)
    for _ in range(2):
        out = net.unary("Relu", net.group_norm(net.conv(out, width, relu=False), groups))
    return _classifier(net, out)


def odd(widths: tuple[int, ...], size: int) -> bytes:
    """Convolutions of both kinds between widths that fit no block of channels."""
    net = NetBuilder((1, 3, size, size))
    out = net.conv("input", widths[0])
    for k, width in enumerate(widths):
        out = net.conv(net.conv(out, width, 3, 2 if k else 1), width, 1)
    return _classifier(net, out)


def pyramid(width: int, size: int, mode: str, factor: int, by_scales: bool, int8: bool) -> bytes:
    """Features resized and joined with those of that size, then resized once more."""
    net = NetBuilder((1, 3, size, size), int8)
    fine = net.conv("input", width, 3, 2)
    coarse = net.conv(net.conv(fine, 2 * width, 3, factor), width, 1, relu=False)
    out = net.binary("Add", net.conv(fine, width, 1, relu=False), net.resize(coarse, mode, factor, by_scales))
    return net.build(net.resize(net.conv(out, 8, 1, relu=False), mode, 2, by_scales))


def exit_net(nested: bool) -> bytes:
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
