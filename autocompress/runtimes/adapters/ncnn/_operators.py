"""ONNX operators as ncnn's layers: one function each. Numbers of parameters and codes are those that ncnn documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from autocompress.runtimes import resizing
from autocompress.runtimes.adapters.ncnn._format import Form, Param, floats, halves, integers, plain
from autocompress.runtimes.adapters.ncnn._network import Network, Node, kept_axes
from autocompress.runtimes.kernels import OpForm

Handler = Callable[[Network, Node], None]
_LARGEST = float(np.finfo(np.float32).max)
_CODES = 127
"""Activations are coded symmetrically, from -127 to 127."""
_REQUANTISES = 100
"""Added to the parameter of the scales: the result is coded at once, by one more scale."""


@dataclass(frozen=True)
class _Window:
    """Of a convolution or a pooling in two dimensions: vertical, horizontal."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    """Top, left, bottom, right."""

    @classmethod
    def of(cls, net: Network, node: Node, kernel: Sequence[int]) -> _Window:
        """Read the attributes; one dimension becomes two, the first of size 1."""
        n = len(kernel)
        if n > 2:
            raise node.refuse(f"it has {n} dimensions, 1 or 2 are possible")
        strides, dilations = (tuple(node.get(name, [1] * n)) for name in ("strides", "dilations"))
        pads = tuple(node.get("pads", [0] * 2 * n))
        if (auto := node.get("auto_pad", b"NOTSET")) not in (b"NOTSET", b"VALID"):
            spans = zip(
                net.shape(node.inputs[0])[2:], net.shape(node.output)[2:], kernel, strides, dilations, strict=True
            )
            totals = [max(0, (out - 1) * s + (k - 1) * d + 1 - size) for size, out, k, s, d in spans]
            small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
            pads = (*small, *large) if auto == b"SAME_UPPER" else (*large, *small)
        if n == 1:
            return cls((1, *kernel), (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1]))
        return cls(tuple(kernel), strides, dilations, pads)

    def params(self) -> dict[int, Param]:
        """Of a convolution; those of pooling have other numbers."""
        (kh, kw), (sh, sw), (dh, dw), (top, left, bottom, right) = self.kernel, self.strides, self.dilations, self.pads
        return {1: kw, 2: dw, 3: sw, 4: left, 11: kh, 12: dh, 13: sh, 14: top, 15: right, 16: bottom}


def _image(net: Network, tensor: str) -> Form:
    """Channels, height and width of (1, C, H, W) or (1, C, L), where the height is 1.

    Raises:
        ValueError: it has more dimensions, or it is several images.
    """
    shape = (1, *_channels_first(net, tensor))
    if len(shape) > 4:
        raise ValueError(f"it has {len(shape) - 2} dimensions, 1 or 2 are possible")
    return (shape[1], *(1,) * (4 - len(shape)), *shape[2:])


def _is_integer(net: Network, node: Node) -> bool:
    return (node.output, 0) in net.graph.integer_reads and node.inputs[1] in net.graph.weights


def _weights(net: Network, node: Node, arrange: Callable[[NDArray[Any]], NDArray[Any]]) -> bytes:
    """The weight of a layer; as halves where our file stores it small, and the layer computes in floats."""
    name = node.inputs[1]
    if _is_integer(net, node):
        return integers(arrange(net.graph.weights[name].values))
    array = arrange(net.constants[name])
    return halves(array) if name in net.graph.weights or name in net.graph.halves else floats(array)


def _scales(net: Network, node: Node) -> list[bytes]:
    """What weights and data are multiplied by to be integers."""
    scales = net.graph.weights[node.inputs[1]].scale.astype(np.float64)
    return [plain(1 / scales), plain(np.array([_data_scale(net, node)]))]


def _data_scale(net: Network, node: Node) -> float:
    """The same largest magnitude as our file can code, by symmetric codes."""
    code = net.graph.codes[node.inputs[0]]
    return _CODES / (code.scale * max(code.zero_point, 255 - code.zero_point))


def _constant(net: Network, node: Node, index: int) -> NDArray[Any] | None:
    """An input that must be a constant, if it is given."""
    name = node.inputs[index] if len(node.inputs) > index else ""
    if name and name not in net.constants:
        raise node.refuse(f"its input {name!r} is computed, it must be a constant")
    return net.constants[name] if name else None


def _needed(net: Network, node: Node, index: int) -> NDArray[Any]:
    found = _constant(net, node, index)
    if found is None:
        raise node.refuse(f"it has no input {index}, as operators of another opset")
    return found


def _with_activation(net: Network, tensor: str) -> tuple[str, dict[int, Param]]:
    """The activation that a layer with weights can apply to its result: what it then makes, and the parameters."""
    reader = net.only_reader(tensor)
    if reader is None or reader.proto.op_type not in _ACTIVATIONS:
        return tensor, {}
    net.done.add(reader.output)
    number, values = _ACTIVATIONS[reader.proto.op_type](net, reader)
    return reader.output, {9: number, 10: values} if values else {9: number}


def _bounds(net: Network, node: Node) -> list[float]:
    given = [_constant(net, node, index) for index in (1, 2)]
    defaults = (-_LARGEST, _LARGEST)
    return [
        d if v is None else float(np.clip(v, -_LARGEST, _LARGEST).reshape(-1)[0])
        for v, d in zip(given, defaults, strict=True)
    ]


_ACTIVATIONS: Mapping[str, Callable[[Network, Node], tuple[int, list[float]]]] = {
    "Relu": lambda net, node: (1, []),
    "LeakyRelu": lambda net, node: (2, [float(node.get("alpha", 0.01))]),
    "Clip": lambda net, node: (3, _bounds(net, node)),
    "Sigmoid": lambda net, node: (4, []),
    "HardSwish": lambda net, node: (6, [1 / 6, 0.5]),
}


def _conv(net: Network, node: Node) -> None:
    kernel = _needed(net, node, 1).shape
    groups = int(node.get("group", 1))
    window, bias = _Window.of(net, node, kernel[2:]), _constant(net, node, 2)
    depthwise = groups > 1 and kernel[1] == 1 and kernel[0] == groups
    if groups > 1 and not depthwise and _is_integer(net, node):
        return _grouped_integers(net, node, window, bias, groups)
    end, activation = _with_activation(net, node.output)
    if groups == 1 and _is_point(net, node):
        return _inner_product(net, node, end, bias, activation, lambda w: w.reshape(len(w), -1), "conv1x1")
    params = {0: kernel[0], 5: int(bias is not None), 6: math.prod(kernel), **window.params(), **activation}
    params |= {7: groups} if groups > 1 else {}
    weights = [_weights(net, node, lambda w: w), *([] if bias is None else [plain(bias)])]
    if _is_integer(net, node):
        _note_coding(net, node)
        weights += _scales(net, node)
        params[8] = 1 if depthwise else 2
        if (scale := _next_scale(net, end)) is not None:
            params[8] = int(params[8]) + _REQUANTISES
            weights.append(plain(np.array([scale])))
            net.bytes_of[end] = 1
    kind = "conv1x1" if math.prod(kernel[2:]) == 1 else "conv"
    kind = kind if groups == 1 else "depthwise" if depthwise else "grouped"
    layer = "Convolution" if groups == 1 else "ConvolutionDepthWise"
    blob = net.blob(node.inputs[0], _image(net, node.inputs[0]))
    net.add(layer, [blob], {end: _image(net, end)}, params, weights)
    _product_cost(net, node, kind, end, groups=groups)


def _is_point(net: Network, node: Node) -> bool:
    """Whether a convolution is a product of a matrix and a vector: nothing is around its only pixel either."""
    return all(math.prod(net.shape(name)[2:]) == 1 for name in (*node.inputs[:2], node.output))


def _next_scale(net: Network, tensor: str) -> float | None:
    """By what all readers of a tensor multiply it, if they are convolutions that code it."""
    readers = net.readers.get(tensor, [])
    if tensor in net.outputs or not readers or not all(_codes_image(net, node) for node in readers):
        return None
    return _data_scale(net, readers[0])


def _codes_image(net: Network, node: Node) -> bool:
    if node.proto.op_type != "Conv" or not _is_integer(net, node) or _is_point(net, node):
        return False
    kernel, groups = net.shape(node.inputs[1]), int(node.get("group", 1))
    return groups == 1 or kernel[0] == groups


def _note_coding(net: Network, node: Node) -> None:
    tensor = net.tensor_of(node.inputs[0])
    if net.bytes_of.get(tensor) != 1:
        net.ops.append(OpForm("quantize", "float32", f"{node.output}/quantize", ((tensor, 4),), ((tensor, 1),)))


def _product_cost(net: Network, node: Node, kind: str, end: str, **facts: Any) -> None:
    product = (node.inputs[0], node.inputs[1], node.output)
    net.cost(kind, node, [end], "int8" if _is_integer(net, node) else "float32", product=product, **facts)


def _grouped_integers(net: Network, node: Node, window: _Window, bias: Any, groups: int) -> None:
    """One convolution for each group: ncnn has one scale for the weights of a group, our file one for each channel."""
    kernel, (channels, *_) = net.shape(node.inputs[1]), (form := _image(net, node.inputs[0]))
    source, end = net.blob(node.inputs[0], form), node.output
    parts = {f"{end}/in{k}": (channels // groups, *form[1:]) for k in range(groups)}
    net.add("Slice", [source], parts, {0: [channels // groups] * groups, 1: 0})
    scale, code = net.graph.weights[node.inputs[1]], plain(np.array([_data_scale(net, node)]))
    n = kernel[0] // groups
    shared = {0: n, 5: int(bias is not None), 6: math.prod(kernel) // groups, 8: 2, **window.params()}
    out = _image(net, end)
    for k, part in enumerate(parts):
        own = slice(k * n, (k + 1) * n)
        weights = [integers(scale.values[own]), *([] if bias is None else [plain(bias[own])])]
        weights += [plain(1 / scale.scale[own].astype(np.float64)), code]
        net.add("Convolution", [net.blob(part, parts[part])], {f"{end}/out{k}": (n, *out[1:])}, shared, weights)
    blobs = [net.blob(f"{end}/out{k}", (n, *out[1:])) for k in range(groups)]
    net.add("Concat", blobs, {end: out}, {0: 0})
    _note_coding(net, node)
    _product_cost(net, node, "grouped", end, groups=groups)


def _conv_transpose(net: Network, node: Node) -> None:
    weight, bias = _needed(net, node, 1), _constant(net, node, 2)
    groups, window = int(node.get("group", 1)), _Window.of(net, node, weight.shape[2:])
    if node.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or "output_shape" in node.attributes:
        raise node.refuse("its padding is not given in numbers")
    end, activation = _with_activation(net, node.output)
    n_out = weight.shape[1] * groups
    more = [0, 0, *node.get("output_padding", [0, 0])][-2:]
    params = {0: n_out, 5: int(bias is not None), 6: weight.size, 18: more[1], 19: more[0], **window.params()}
    params |= {**activation, **({7: groups} if groups > 1 else {})}

    def arrange(w: NDArray[Any]) -> NDArray[Any]:
        """From (inputs, outputs of a group, ...) to (groups, outputs, inputs, ...)."""
        return w.reshape(groups, -1, *w.shape[1:]).swapaxes(1, 2)

    blob = net.blob(node.inputs[0], _image(net, node.inputs[0]))
    weights = [_weights(net, node, arrange), *([] if bias is None else [plain(bias)])]
    layer = "Deconvolution" if groups == 1 else "DeconvolutionDepthWise"
    net.add(layer, [blob], {end: _image(net, end)}, params, weights)
    _product_cost(net, node, "conv_transpose", end, groups=groups, transposed=True)


def _inner_product(
    net: Network,
    node: Node,
    end: str,
    bias: NDArray[Any] | None,
    activation: Mapping[int, Param],
    arrange: Callable[[NDArray[Any]], NDArray[Any]],
    kind: str = "linear",
) -> None:
    """Rows of numbers times a matrix, which `arrange` makes (outputs, inputs)."""
    n_out, n_in = arrange(net.constants[node.inputs[1]]).shape
    rows = math.prod(net.shape(node.inputs[0])) // n_in
    before, after = ((n_in,), (n_out,)) if rows == 1 else ((rows, n_in), (rows, n_out))
    weights = [_weights(net, node, arrange), *([] if bias is None else [plain(bias)])]
    params: dict[int, Param] = {0: n_out, 1: int(bias is not None), 2: n_in * n_out, **activation}
    if _is_integer(net, node):
        _note_coding(net, node)
        params[8] = 2
        weights += _scales(net, node)
    net.add("InnerProduct", [net.blob(node.inputs[0], before)], {end: after}, params, weights)
    _product_cost(net, node, kind, end)


def _gemm(net: Network, node: Node) -> None:
    if node.inputs[1] not in net.constants or node.get("transA", 0):
        raise node.refuse("its second input must be a constant, and its first must not be transposed")
    if node.get("alpha", 1.0) != 1.0 or node.get("beta", 1.0) != 1.0:
        raise node.refuse("it multiplies by alpha or beta")
    transposed, n = bool(node.get("transB", 0)), net.shape(node.output)[-1]
    bias = _constant(net, node, 2)
    if bias is not None and bias.size > 1 and bias.shape != (n,) and bias.shape != (1, n):
        raise node.refuse("it does not add the same numbers to every row")
    bias = None if bias is None else np.broadcast_to(bias.reshape(-1), (n,))
    end, activation = _with_activation(net, node.output)
    _inner_product(net, node, end, bias, activation, lambda w: w if transposed else w.T)


def _matmul(net: Network, node: Node) -> None:
    first, second = node.inputs[:2]
    if second in net.constants and len(net.shape(second)) == 2:
        end, bias = _with_bias(net, node)
        end, activation = _with_activation(net, end)
        return _inner_product(net, node, end, bias, activation, lambda w: w.T)
    rank = len(net.shape(node.output))
    if min(len(net.shape(first)), len(net.shape(second))) < 2:
        raise node.refuse("one of its inputs is a vector")
    axes = kept_axes(net.shape(node.output), (rank - 2, rank - 1))
    blobs = [net.blob(name, _aligned(net, name, rank, axes)) for name in (first, second)]
    net.add("MatMul", blobs, {node.output: _aligned(net, node.output, rank, axes)})
    net.cost("attention", node, [node.output], product=(first, second, node.output))


def _aligned(net: Network, tensor: str, rank: int, axes: Sequence[int]) -> Form:
    """The form of a tensor that is broadcast to `rank` axes, of which some are kept."""
    shape = net.shape(tensor)
    full = (*(1,) * (rank - len(shape)), *shape)
    return tuple(full[axis] for axis in axes) or (1,)


def _with_bias(net: Network, node: Node) -> tuple[str, NDArray[Any] | None]:
    """The constant that the next node adds to every row."""
    reader, shape = net.only_reader(node.output), net.shape(node.output)
    if reader is None or reader.proto.op_type != "Add":
        return node.output, None
    bias = net.constants.get(next((name for name in reader.inputs if name != node.output), ""))
    if bias is None or bias.size != shape[-1] or bias.shape[-1:] != shape[-1:] or net.shape(reader.output) != shape:
        return node.output, None
    net.done.add(reader.output)
    return reader.output, bias.reshape(-1)


_BINARY = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3, "Max": 4, "Min": 5}
_REVERSED = {1: 7, 3: 8}
"""Constant minus data, and so on."""


def _binary(net: Network, node: Node) -> None:
    if len(node.inputs) != 2:
        raise node.refuse(f"it has {len(node.inputs)} inputs, 2 are possible")
    number, out = _BINARY[node.proto.op_type], node.output
    scalars = [name for name in node.inputs if name in net.constants and net.constants[name].size == 1]
    data = [name for name in node.inputs if name not in scalars[:1]]
    if scalars and len(data) == 1 and math.prod(net.shape(data[0])) == math.prod(net.shape(out)):
        form, scalar = net.made(data[0]), float(net.constants[scalars[0]].reshape(-1)[0])
        number = _REVERSED.get(number, number) if node.inputs[0] == scalars[0] else number
        net.add("BinaryOp", [net.blob(data[0], form)], {out: form}, {0: number, 1: 1, 2: scalar})
    else:
        shapes, forms = {net.shape(name) for name in node.inputs}, {net.made(name) for name in node.inputs}
        if len(shapes) == len(forms) == 1:
            (form,) = forms
            blobs = [net.blob(name, form) for name in node.inputs]
        else:
            axes, rank = kept_axes(net.shape(out)), len(net.shape(out))
            form = _aligned(net, out, rank, axes)
            blobs = [net.blob(name, _aligned(net, name, rank, axes)) for name in node.inputs]
        net.add("BinaryOp", blobs, {out: form}, {0: number})
    net.cost("elementwise", node, [out])


def _unary(
    layer: str, kind: str, params: Callable[[Network, Node], Mapping[int, Param]] = lambda net, node: {}
) -> Handler:
    """What works on number after number, in whatever form they are."""

    def write(net: Network, node: Node) -> None:
        form = net.made(node.inputs[0])
        net.add(layer, [net.blob(node.inputs[0], form)], {node.output: form}, params(net, node))
        net.cost(kind, node, [node.output])

    return write


def _sigmoid(net: Network, node: Node) -> None:
    """With the product of both, x * sigmoid(x), it is one layer."""
    product, source = net.only_reader(node.output), node.inputs[0]
    if product is None or product.proto.op_type != "Mul" or sorted(product.inputs) != sorted([node.output, source]):
        return _unary("Sigmoid", "activation")(net, node)
    net.done.add(product.output)
    form = net.made(source)
    net.add("Swish", [net.blob(source, form)], {product.output: form})
    net.cost("activation", node, [product.output])


def _function(number: int) -> Handler:
    return _unary("UnaryOp", "activation", lambda net, node: {0: number})


_POWERS = {2.0: 4, 0.5: 5, -0.5: 6, -1.0: 15}


def _pow(net: Network, node: Node) -> None:
    """Powers that have a function of their own: the general one knows no negative numbers."""
    power = _needed(net, node, 1)
    if power.size != 1 or float(power.reshape(-1)[0]) not in _POWERS:
        raise node.refuse(f"the powers are {', '.join(map(str, _POWERS))}")
    _function(_POWERS[float(power.reshape(-1)[0])])(net, node)


def _softmax(net: Network, node: Node) -> None:
    axes, form, axis = _along(net, node, int(node.get("axis", -1)))
    net.add("Softmax", [net.blob(node.inputs[0], form)], {node.output: form}, {0: axes.index(axis), 1: 1})
    net.cost("softmax", node, [node.output])


def _along(net: Network, node: Node, axis: int) -> tuple[list[int], Form, int]:
    """The kept axes of the input of a layer that works along one axis, the input's form, and the axis from the left."""
    shape = net.shape(node.inputs[0])
    axis %= len(shape)
    axes = kept_axes(shape, (axis,))
    return axes, tuple(shape[k] for k in axes), axis


def _pool(net: Network, node: Node) -> None:
    if len(node.proto.output) > 1 or node.get("storage_order", 0):
        raise node.refuse("it returns places beside values")
    window = _Window.of(net, node, node.get("kernel_shape", []))
    if window.dilations != (1, 1):
        raise node.refuse("its window is dilated")
    (kh, kw), (sh, sw), (top, left, bottom, right) = window.kernel, window.strides, window.pads
    form, after = _image(net, node.inputs[0]), _image(net, node.output)
    is_mean, up = node.proto.op_type == "AveragePool", bool(node.get("ceil_mode", 0))
    counts = is_mean and bool(node.get("count_include_pad", 0)) and any(window.pads)
    height, width = form[1] + top + bottom, form[2] + left + right
    beyond = (kh - height) % sh, (kw - width) % sw
    if kh > height or kw > width:
        raise node.refuse("its window is larger than the image with its padding")
    if up and (beyond[0] >= kh - bottom or beyond[1] >= kw - right):
        raise node.refuse("its last window would lie in the padding")
    if up and counts and any(beyond):
        raise node.refuse("it counts its padding, but not what is beyond it in the last window")
    params: dict[int, Param] = {0: int(is_mean), 1: kw, 2: sw, 3: left, 5: int(not up), 6: int(counts)}
    params |= {11: kh, 12: sh, 13: top, 14: right, 15: bottom}
    net.add("Pooling", [net.blob(node.inputs[0], form)], {node.output: after}, params)
    net.cost("pool", node, [node.output])


def _global_pool(net: Network, node: Node) -> None:
    form = _image(net, node.inputs[0])
    is_mean = node.proto.op_type in ("GlobalAveragePool", "ReduceMean")
    net.add("Pooling", [net.blob(node.inputs[0], form)], {node.output: form[:1]}, {0: int(is_mean), 4: 1})
    net.cost("pool", node, [node.output])


_REDUCTIONS = {"ReduceSum": 0, "ReduceMean": 3, "ReduceMax": 4, "ReduceMin": 5}


def _reduce(net: Network, node: Node) -> None:
    shape = net.shape(node.inputs[0])
    given = _constant(net, node, 1)
    listed = node.get("axes", []) if given is None else given.reshape(-1).tolist()
    whole = range(0 if node.get("noop_with_empty_axes", 0) else len(shape))
    reduced = {axis % len(shape) for axis in listed or whole}
    is_image = len(shape) in (3, 4) and shape[0] == 1
    if node.proto.op_type in ("ReduceMean", "ReduceMax") and is_image and reduced == {*range(2, len(shape))}:
        return _global_pool(net, node)
    axes = kept_axes(shape)
    form, places = tuple(shape[axis] for axis in axes), [k for k, axis in enumerate(axes) if axis in reduced]
    if not places:
        return net.alias(node.inputs[0], node.output)
    after = tuple(1 if k in places else size for k, size in enumerate(form))
    params: dict[int, Param] = {0: _REDUCTIONS[node.proto.op_type], 1: 0, 3: places, 4: 1, 5: 1}
    net.add("Reduction", [net.blob(node.inputs[0], form)], {node.output: after}, params)
    net.cost("pool", node, [node.output])


def _concat(net: Network, node: Node) -> None:
    rank = len(net.shape(node.output))
    axis = int(node.get("axis", 0)) % rank
    axes = kept_axes(net.shape(node.output), (axis,))
    blobs = [net.blob(name, _aligned(net, name, rank, axes)) for name in node.inputs]
    net.add("Concat", blobs, {node.output: _aligned(net, node.output, rank, axes)}, {0: axes.index(axis)})
    net.cost("movement", node, [node.output])


def _split(net: Network, node: Node) -> None:
    axes, form, axis = _along(net, node, int(node.get("axis", 0)))
    parts = {name: _aligned(net, name, len(net.shape(name)), axes) for name in node.proto.output}
    counts = [net.shape(name)[axis] for name in parts]
    net.add("Slice", [net.blob(node.inputs[0], form)], parts, {0: counts, 1: axes.index(axis)})
    net.cost("movement", node, list(parts))


def _slice(net: Network, node: Node) -> None:
    shape = net.shape(node.inputs[0])
    starts, ends = (_needed(net, node, k).tolist() for k in (1, 2))
    given, steps = _constant(net, node, 3), _constant(net, node, 4)
    if steps is not None and (steps != 1).any():
        raise node.refuse("its step is not 1")
    axes = range(len(starts)) if given is None else given.tolist()
    spans = {a % len(shape): slice(s, e).indices(shape[a])[:2] for a, s, e in zip(axes, starts, ends, strict=True)}
    _crop(net, node, {axis: span for axis, span in spans.items() if span != (0, shape[axis])})


def _crop(net: Network, node: Node, spans: Mapping[int, tuple[int, int]]) -> None:
    """Keep from first to before last along some axes."""
    if not spans:
        return net.alias(node.inputs[0], node.output)
    shape = net.shape(node.inputs[0])
    axes = kept_axes(shape, [*spans])
    form = tuple(shape[axis] for axis in axes)
    after = tuple(spans[a][1] - spans[a][0] if a in spans else shape[a] for a in axes)
    (starts, ends), places = zip(*spans.values(), strict=True), [axes.index(axis) for axis in spans]
    blob = net.blob(node.inputs[0], form)
    net.add("Crop", [blob], {node.output: after}, {9: list(starts), 10: list(ends), 11: places})
    net.cost("movement", node, [node.output])


def _gather(net: Network, node: Node) -> None:
    indices = net.constants.get(node.inputs[1])
    if indices is None or indices.size != 1 or node.inputs[0] in net.constants:
        raise node.refuse("only one place, known in advance, can be taken out of a tensor")
    shape = net.shape(node.inputs[0])
    axis = int(node.get("axis", 0)) % len(shape)
    place = int(indices.reshape(-1)[0]) % shape[axis]
    _crop(net, node, {axis: (place, place + 1)} if shape[axis] > 1 else {})


_ORDERS = {
    2: "WH HW",
    3: "WHC HWC WCH CWH HCW CHW",
    4: "WHDC HWDC WDHC DWHC HDWC DHWC WHCD HWCD WCHD CWHD HCWD CHWD "
    "WDCH DWCH WCDH CWDH DCWH CDWH HDCW DHCW HCDW CHDW DCHW CDHW",
}
"""Codes of Permute, by how many sizes a blob has: the places of the list, which name the innermost axis first."""


def _transpose(net: Network, node: Node) -> None:
    shape, source = net.shape(node.inputs[0]), node.inputs[0]
    order = list(node.get("perm", range(len(shape) - 1, -1, -1)))
    moved = [axis for axis in order if shape[axis] != 1]
    if moved == sorted(moved):
        return net.alias(source, node.output)
    axes = kept_axes(shape)
    order = [axis for axis in order if axis in axes]
    letters = dict(zip(axes, {2: "HW", 3: "CHW", 4: "CDHW"}[len(axes)], strict=True))
    code = _ORDERS[len(axes)].split().index("".join(letters[axis] for axis in reversed(order)))
    blob = net.blob(source, tuple(shape[axis] for axis in axes))
    net.add("Permute", [blob], {node.output: tuple(shape[axis] for axis in order)}, {0: code})
    net.cost("movement", node, [node.output])


def _same_numbers(net: Network, node: Node) -> None:
    if math.prod(net.shape(node.output)) != math.prod(net.shape(node.inputs[0])):
        raise node.refuse("it repeats numbers that are computed")
    net.alias(node.inputs[0], node.output)


def _cast(net: Network, node: Node) -> None:
    if node.get("to", TensorProto.FLOAT) != TensorProto.FLOAT:
        raise node.refuse("all that is computed is float32")
    net.alias(node.inputs[0], node.output)


_MODES = {b"nearest": (1, "resize"), b"linear": (2, "resize_linear"), b"cubic": (3, "other")}
"""ncnn's number, and what it costs."""


def _resize(net: Network, node: Node) -> None:
    before, after = _image(net, node.inputs[0]), _image(net, node.output)
    mode, place = node.get("mode", b"nearest"), node.get("coordinate_transformation_mode", b"half_pixel")
    if before[0] != after[0] or (place == b"asymmetric" and mode != b"nearest"):
        raise node.refuse("it resizes channels, or interpolates with asymmetric coordinates")
    shapes = net.shape(node.inputs[0]), net.shape(node.output)
    if why := resizing.refusal(node.proto, *shapes, _constant(net, node, 2)):
        raise node.refuse(why)
    number, cost = _MODES[mode]
    params: dict[int, Param] = {0: number, 3: after[1], 4: after[2]}
    params |= {6: int(place == b"align_corners" and mode != b"nearest")}
    net.add("Interp", [net.blob(node.inputs[0], before)], {node.output: after}, params)
    net.cost(cost, node, [node.output])


_EDGES = {b"constant": 0, b"edge": 1, b"reflect": 2}


def _pad(net: Network, node: Node) -> None:
    shape = net.shape(node.inputs[0])
    pads, value, given = _needed(net, node, 1).tolist(), _constant(net, node, 2), _constant(net, node, 3)
    listed = range(len(shape)) if given is None else given.tolist()
    sizes = {a % len(shape): (pads[k], pads[k + len(listed)]) for k, a in enumerate(listed)}
    wide = [axis for axis, pair in sizes.items() if any(pair)]
    axes = kept_axes(shape, wide)
    mode = _EDGES.get(node.get("mode", b"constant"))
    if mode is None or len(axes) > 3 or min(pads) < 0:
        raise node.refuse("this mode, or cutting away, is not possible")
    pairs = [(0, 0)] * (3 - len(axes)) + [sizes.get(axis, (0, 0)) for axis in axes]
    (front, behind), (top, bottom), (left, right) = pairs
    number = 0.0 if value is None or not value.size else float(value.reshape(-1)[0])
    params: dict[int, Param] = {0: top, 1: bottom, 2: left, 3: right, 4: mode, 5: number, 7: front, 8: behind}
    form = tuple(shape[axis] for axis in axes)
    after = tuple(net.shape(node.output)[axis] for axis in axes)
    net.add("Padding", [net.blob(node.inputs[0], form)], {node.output: after}, params)
    net.cost("movement", node, [node.output])


def _layer_norm(net: Network, node: Node) -> None:
    shape = net.shape(node.inputs[0])
    if int(node.get("axis", -1)) % len(shape) != len(shape) - 1:
        raise node.refuse("it works along more than the last axis")
    n = shape[-1]
    form = (math.prod(shape) // n, n)
    scale, shift = _needed(net, node, 1), _constant(net, node, 2)
    weights = [plain(scale), plain(np.zeros(n) if shift is None else shift)]
    params: dict[int, Param] = {0: n, 1: float(node.get("epsilon", 1e-5)), 2: 1}
    net.add("LayerNorm", [net.blob(node.inputs[0], form)], {node.output: form}, params, weights)
    net.cost("norm", node, [node.output])


def _channel_norm(net: Network, node: Node) -> None:
    """By statistics of the training, or of each image: of single channels or of groups of them."""
    kind, n = node.proto.op_type, net.shape(node.inputs[0])[1]
    given = [_needed(net, node, k) for k in range(1, len(node.inputs))]
    if any(values.size != n for values in given):
        raise node.refuse("it has other scales than one for each channel")
    scale, shift, *statistics = map(plain, given)
    epsilon = float(node.get("epsilon", 1e-5))
    if kind == "BatchNormalization":
        mean, variance = statistics
        layer, cost, weights = "BatchNorm", "batch_norm", [scale, mean, variance, shift]
        params: dict[int, Param] = {0: n, 1: epsilon}
    elif kind == "InstanceNormalization":
        layer, cost, weights, params = "InstanceNorm", "instance_norm", [scale, shift], {0: n, 1: epsilon, 2: 1}
    else:
        layer, cost, weights = "GroupNorm", "group_norm", [scale, shift]
        params = {0: int(node.get("num_groups", 1)), 1: n, 2: epsilon, 3: 1}
    form = _channels_first(net, node.inputs[0])
    if layer == "InstanceNorm":  # whatever follows the channels is an image to it
        form = (n, 1, math.prod(form[1:]))
    net.add(layer, [net.blob(node.inputs[0], form)], {node.output: form}, params, weights)
    net.cost(cost, node, [node.output])


def _channels_first(net: Network, tensor: str) -> Form:
    """The form of (1, C, ...) that has channels first, whatever else is 1.

    Raises:
        ValueError: it is several of these.
    """
    first, *form = net.shape(tensor)
    if first != 1:
        raise ValueError(f"it takes {first} images at once")
    return tuple(form)


def _prelu(net: Network, node: Node) -> None:
    slope, form = _needed(net, node, 1), _channels_first(net, node.inputs[0])
    along = _aligned(net, node.inputs[1], len(form) + 1, range(1, len(form) + 1))
    if slope.size != 1 and along != (form[0], *(1,) * (len(form) - 1)):
        raise node.refuse("it has other slopes than one for each channel")
    params, weights = {0: slope.size}, [plain(slope)]
    net.add("PReLU", [net.blob(node.inputs[0], form)], {node.output: form}, params, weights)
    net.cost("elementwise", node, [node.output])


def _depth_to_space(net: Network, node: Node) -> None:
    params = {0: int(node.get("blocksize", 1)), 1: int(node.get("mode", b"DCR") == b"DCR")}
    before, after = _image(net, node.inputs[0]), _image(net, node.output)
    net.add("PixelShuffle", [net.blob(node.inputs[0], before)], {node.output: after}, params)
    net.cost("movement", node, [node.output])


OPERATORS: Mapping[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(_BINARY, _binary),
    "Relu": _unary("ReLU", "elementwise"),
    "LeakyRelu": _unary("ReLU", "elementwise", lambda net, node: {0: float(node.get("alpha", 0.01))}),
    "Clip": _unary("Clip", "elementwise", lambda net, node: dict(enumerate(_bounds(net, node)))),
    "PRelu": _prelu,
    "Pow": _pow,
    "Sigmoid": _sigmoid,
    "Tanh": _unary("TanH", "activation"),
    "HardSigmoid": _unary(
        "HardSigmoid",
        "activation",
        lambda net, node: {0: float(node.get("alpha", 0.2)), 1: float(node.get("beta", 0.5))},
    ),
    "HardSwish": _unary("HardSwish", "activation", lambda net, node: {0: 1 / 6, 1: 0.5}),
    "Gelu": _unary("GELU", "gelu", lambda net, node: {0: int(node.get("approximate", b"none") == b"tanh")}),
    "Erf": _unary("Erf", "gelu"),
    "Elu": _unary("ELU", "activation", lambda net, node: {0: float(node.get("alpha", 1.0))}),
    "Softplus": _unary("Softplus", "activation"),
    "Mish": _unary("Mish", "activation"),
    "Abs": _function(0),
    "Neg": _function(1),
    "Floor": _function(2),
    "Ceil": _function(3),
    "Sqrt": _function(5),
    "Exp": _function(7),
    "Log": _function(8),
    "Sin": _function(9),
    "Cos": _function(10),
    "Reciprocal": _function(15),
    "Softmax": _softmax,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Expand"), _same_numbers),
    "Cast": _cast,
    "Resize": _resize,
    "Pad": _pad,
    "LayerNormalization": _layer_norm,
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization"), _channel_norm),
    "DepthToSpace": _depth_to_space,
}
"""What can be written."""
