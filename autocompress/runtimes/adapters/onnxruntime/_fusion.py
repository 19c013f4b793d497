"""Which nodes ONNX Runtime's CPU provider fuses away, as far as it matters for the cost (checked on 1.31).

The rules were read off optimised graphs (`optimized_model_filepath`) of convolutional nets and transformers.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

PASSABLE = {"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Flatten", "Identity"}
"""ORT moves Q upwards and DQ downwards across these, so they run on int8 data."""

_INTEGER = {"Conv", "Gemm", "MatMul", "Add", "Mul", "Sigmoid", "LeakyRelu", "AveragePool"}
_INTEGER |= {"GlobalAveragePool", "Softmax", "Concat"}
_FLOAT_OUTPUT_OK = {"MatMul", "Gemm"}
_CONV_ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"}
_ITEMSIZE: dict[int, int] = {
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.UINT8: 1,
    onnx.TensorProto.INT8: 1,
    onnx.TensorProto.BOOL: 1,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.UINT16: 2,
    onnx.TensorProto.INT16: 2,
    onnx.TensorProto.INT64: 8,
    onnx.TensorProto.DOUBLE: 8,
    onnx.TensorProto.INT4: 1,
    onnx.TensorProto.UINT4: 1,
    onnx.TensorProto.INT2: 1,
    onnx.TensorProto.UINT2: 1,
}
_LOWEST = {onnx.TensorProto.UINT8: 0, onnx.TensorProto.INT8: -128}


class Net:
    """Index over a flattened graph whose shapes are inferred."""

    def __init__(self, model: onnx.ModelProto, weight_names: frozenset[str], symbolic: bool) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.initializers = {w.name: w for w in graph.initializer}
        self.graph_inputs = [
            v.name for v in graph.input if v.name not in weight_names and v.name not in self.initializers
        ]
        self.graph_outputs = [v.name for v in graph.output]
        self.producer = {name: k for k, node in enumerate(self.nodes) for name in node.output if name}
        self.consumers: dict[str, list[int]] = {}
        for k, node in enumerate(self.nodes):
            for name in node.input:
                if name:
                    self.consumers.setdefault(name, []).append(k)
        self._types: dict[str, tuple[int, tuple[int, ...]]] = {}
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.tensor_type
            if tensor.HasField("shape"):
                self._types[value.name] = (tensor.elem_type, tuple(d.dim_value for d in tensor.shape.dim))
        for weight in graph.initializer:
            self._types[weight.name] = (weight.data_type, tuple(weight.dims))
        self.static = set(weight_names) | set(self.initializers)
        for node in self.nodes:
            fixed = node.op_type in {"Constant"} or (node.op_type == "Shape" and not symbolic)
            if fixed or (node.input and all(name in self.static for name in node.input if name)):
                self.static.update(name for name in node.output if name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._types.get(name, (0, ()))[1]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors that are known."""
        return {name: dims for name, (_, dims) in self._types.items()}

    def elements(self, name: str) -> int:
        return _product(self.shape(name)) if name in self._types else 0

    def itemsize(self, name: str) -> int:
        return _ITEMSIZE.get(self._types.get(name, (0, ()))[0], 4)

    def is_float(self, name: str) -> bool:
        kind = self._types.get(name, (onnx.TensorProto.FLOAT, ()))[0]
        return kind in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}

    def holds_weights(self, name: str) -> bool:
        """Whether a constant is of a type that weights are stored in."""
        return self.is_float(name) or self._types[name][0] == onnx.TensorProto.INT8

    def attribute(self, node: onnx.NodeProto, name: str, default: int) -> int:
        return next((int(a.i) for a in node.attribute if a.name == name), default)

    def users(self, name: str) -> list[int]:
        return self.consumers.get(name, [])

    def only_user(self, name: str) -> int | None:
        users = self.users(name)
        return users[0] if len(users) == 1 and name not in self.graph_outputs else None


class Fusion:
    """Decides for each node whether it is absorbed, integer or on its own."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.absorbed: dict[int, str] = {}
        """Node -> tensor whose value its outputs are."""
        self.int8: set[int] = set()
        self.extra_inputs: dict[int, tuple[str, ...]] = {}
        self.costly_dequantize: set[int] = set()
        self.epilogues: set[int] = set()
        """fp32 convolutions that apply an activation to their result in a further pass (all but ReLU)."""
        self._from_int8: dict[str, bool] = {}
        self._find_integer_ops()
        self._settle_quantizers()
        self._fuse_float_ops()

    def out_itemsize(self, name: str, kind: str, dtype: str) -> int:
        """Bytes per element that a kernel writes to tensor `name`."""
        if kind == "quantize":
            return 1
        if kind == "dequantize" or dtype != "int8":
            return self.net.itemsize(name) if kind in {"movement", "embedding"} else 4
        return 1 if self._to_int8(name) is not None or self._reads_as_int8(name) else 4

    # -- integer kernels

    def _reads_as_int8(self, name: str) -> bool:
        """Tell if the tensor is a DequantizeLinear's output, possibly moved by passable nodes."""
        if name not in self._from_int8:
            index = self.net.producer.get(name)
            node = None if index is None else self.net.nodes[index]
            if node is None:
                self._from_int8[name] = False
            elif node.op_type == "DequantizeLinear":
                self._from_int8[name] = True
            else:
                self._from_int8[name] = node.op_type in PASSABLE and self._reads_as_int8(node.input[0])
        return self._from_int8[name]

    def _to_int8(self, name: str) -> set[int] | None:
        """Nodes between a kernel and its QuantizeLinear that the integer kernel absorbs, or None."""
        users = self.net.users(name)
        if not users or name in self.net.graph_outputs:
            return None
        absorbed: set[int] = set()
        for index in users:
            node = self.net.nodes[index]
            if node.op_type == "QuantizeLinear" and node.input[0] == name:
                absorbed.add(index)
                continue
            is_clip = node.op_type in {"Relu", "Clip"} and len(users) == 1
            if not is_clip and not (node.op_type in PASSABLE and node.input[0] == name):
                return None
            below = self._to_int8(node.output[0])
            if below is None or (is_clip and not self._starts_at_zero_point(below)):
                return None
            absorbed |= below | ({index} if is_clip else set())
        return absorbed

    def _starts_at_zero_point(self, quantizers: Iterable[int]) -> bool:
        """Tell if the quantised range starts at real zero, so that a ReLU before it does nothing."""
        for index in quantizers:
            node = self.net.nodes[index]
            if node.op_type != "QuantizeLinear":
                continue
            zero = self.net.initializers.get(node.input[2]) if len(node.input) > 2 else None
            if zero is None:
                continue  # no zero point means uint8 zero
            values = onnx.numpy_helper.to_array(zero).ravel()
            if zero.data_type not in _LOWEST or any(int(v) != _LOWEST[zero.data_type] for v in values):
                return False
        return True

    def _find_integer_ops(self) -> None:
        for index, node in enumerate(self.net.nodes):
            if node.op_type in PASSABLE:
                moves_int8 = self._reads_as_int8(node.input[0]) or self._to_int8(node.output[0]) is not None
                if moves_int8 and node.input[0] not in self.net.static:
                    self.int8.add(index)
                continue
            if node.op_type == "Resize":
                self._find_integer_resize(index, node)
                continue
            if node.op_type not in _INTEGER or not self._inputs_are_int8(node):
                continue
            below = self._to_int8(node.output[0])
            if below is None and (node.op_type not in _FLOAT_OUTPUT_OK or self._is_float_with_relu(node)):
                continue
            self.int8.add(index)
            for k in below or ():
                self.absorbed[k] = self.net.nodes[k].input[0]

    def _is_float_with_relu(self, node: onnx.NodeProto) -> bool:
        """Tell if the runtime computes a Gemm with the activation after it, in floats."""
        user = self.net.only_user(node.output[0])
        if node.op_type != "Gemm" or user is None or self.net.nodes[user].op_type not in {"Relu", "Clip"}:
            return False
        return self.net.nodes[user].output[0] not in self.net.graph_outputs

    def _find_integer_resize(self, index: int, node: onnx.NodeProto) -> None:
        """Between a DequantizeLinear and QuantizeLinears of the same scale the nearest integers are repeated."""
        if any(a.name == "mode" and a.s != b"nearest" for a in node.attribute):
            return
        before = self.net.producer.get(node.input[0])
        users = [self.net.nodes[user] for user in self.net.users(node.output[0])]
        around = [] if before is None else [self.net.nodes[before], *users]
        kinds = [other.op_type for other in around]
        if kinds[:1] == ["DequantizeLinear"] and set(kinds[1:]) == {"QuantizeLinear"}:
            scales = {tuple(map(self._constant, other.input[1:3])) for other in around}
            if len(scales) == 1 and node.output[0] not in self.net.graph_outputs:
                self.int8.add(index)
                self.absorbed |= dict.fromkeys(self.net.users(node.output[0]), node.output[0])

    def _constant(self, name: str) -> bytes:
        """Value of a small constant, or its name."""
        weight = self.net.initializers.get(name)
        return name.encode() if weight is None else onnx.numpy_helper.to_array(weight).tobytes()

    def _inputs_are_int8(self, node: onnx.NodeProto) -> bool:
        count = 1 if node.op_type in {"Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool", "Softmax"} else 2
        names = list(node.input) if node.op_type == "Concat" else list(node.input)[:count]
        return any(name not in self.net.static for name in names) and all(map(self._reads_as_int8, names))

    def _settle_quantizers(self) -> None:
        for index, node in enumerate(self.net.nodes):
            if node.op_type == "DequantizeLinear":
                needed = self._feeds_float(node.output[0])
                if node.input[0] in self.net.static:
                    if needed:
                        self.costly_dequantize.add(index)
                elif not needed:
                    self.absorbed[index] = node.input[0]
            elif node.op_type == "QuantizeLinear" and index not in self.absorbed:
                again = node.input[0] not in self.net.static and self._reads_as_int8(node.input[0])
                if again:
                    self.absorbed[index] = node.input[0]

    def _feeds_float(self, name: str) -> bool:
        if name in self.net.graph_outputs:
            return True
        for index in self.net.users(name):
            node = self.net.nodes[index]
            if index in self.int8 and node.op_type not in PASSABLE:
                continue
            if node.op_type in PASSABLE:
                if self._feeds_float(node.output[0]):
                    return True
            elif node.op_type != "QuantizeLinear":
                return True
        return False

    # -- float kernels

    def _fuse_float_ops(self) -> None:
        for index, node in enumerate(self.net.nodes):
            if index in self.int8 or index in self.absorbed:
                continue
            if node.op_type == "Conv":
                self._fuse_conv(index, node)
            elif node.op_type == "Gemm":
                self._take(node.output[0], {"Relu"})
            elif node.op_type == "MatMul":
                self._take_scale(node.output[0])
            elif node.op_type == "Gelu":
                self._absorb_bias_before(node.input[0])
            elif node.op_type == "Erf":
                self._fuse_erf(node)
            elif node.op_type == "Sigmoid":
                self._fuse_silu(node)

    def _take(self, name: str, op_types: set[str]) -> str | None:
        """Absorb the only user of tensor `name` if its type is listed; returns its output."""
        index = self.net.only_user(name)
        if index is None or self.net.nodes[index].op_type not in op_types:
            return None
        self.absorbed[index] = name
        return str(self.net.nodes[index].output[0])

    def _take_scale(self, name: str) -> None:
        index = self.net.only_user(name)
        if index is None or self.net.nodes[index].op_type not in {"Mul", "Div"}:
            return
        if any(other in self.net.static and self.net.elements(other) == 1 for other in self.net.nodes[index].input):
            self.absorbed[index] = name

    def _fuse_conv(self, index: int, node: onnx.NodeProto) -> None:
        name = self._take(node.output[0], {"BatchNormalization"}) or node.output[0]
        activated = self._take_activation(index, name)
        user = self.net.only_user(name)
        if activated is not None or user is None or self.net.nodes[user].op_type not in {"Add", "Sum"}:
            return
        if len(self.net.shape(name)) != 4:  # only the kernels on blocks of channels add, and they are 2-D
            return
        addition = self.net.nodes[user]
        others = [other for other in addition.input if other != name]
        if user in self.absorbed or user in self.int8 or len(others) != 1:
            return
        if others[0] not in self.net.static:
            if self.net.shape(others[0]) != self.net.shape(name) or not self._is_ready(others[0], index):
                return
            self.extra_inputs[index] = (others[0],)
        self.absorbed[user] = name
        self._take_activation(index, addition.output[0])

    def _take_activation(self, index: int, name: str) -> str | None:
        """Absorb the activation after a convolution; returns its output."""
        user = self.net.only_user(name)
        activated = self._take(name, _CONV_ACTIVATIONS)
        if activated is not None and user is not None and self.net.nodes[user].op_type != "Relu":
            self.epilogues.add(index)
        return activated

    def _is_ready(self, name: str, index: int) -> bool:
        """Tell if the tensor exists before node `index` runs, so that the convolution can add it."""
        producer = self.net.producer.get(name)
        return producer is None or producer < index

    def _absorb_bias_before(self, name: str) -> None:
        index = self.net.producer.get(name)
        if index is None or self.net.only_user(name) is None:
            return
        node = self.net.nodes[index]
        data = [other for other in node.input if other not in self.net.static]
        if node.op_type == "Add" and len(data) == 1:
            self.absorbed[index] = data[0]

    def _fuse_erf(self, node: onnx.NodeProto) -> None:
        """GELU written out as x * 0.5 * (1 + erf(x / sqrt(2))): one kernel."""
        before = self.net.producer.get(node.input[0])
        if before is not None and self.net.nodes[before].op_type in {"Div", "Mul"}:
            self.absorbed[before] = self.net.nodes[before].input[0]
        name: str | None = self._take(node.output[0], {"Add"})
        while name is not None:
            name = self._take(name, {"Mul"})

    def _fuse_silu(self, node: onnx.NodeProto) -> None:
        user = self.net.only_user(node.output[0])
        if user is None or self.net.nodes[user].op_type != "Mul":
            return
        if node.input[0] in self.net.nodes[user].input:
            self.absorbed[user] = node.output[0]


def _product(dims: Iterable[int]) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count
