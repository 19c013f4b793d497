"""What of an ONNX graph can be quantised, and the plan that says where the quantisers go.

Placement follows what ONNX Runtime's CPU provider fuses to int8 kernels: the input of every layer, the output
of a convolution after its ReLU or Clip, both inputs and the output of a residual Add and of a Concat, and
pooling and reshaping between two int8 tensors. Everything else stays fp32: so do the layers that make an output of
the network, through whatever moves their results about, and what no integer kernel reads. The rows of an embedding
table are stored in fewer bits and become floats when they have been looked up.

A node is identified by the name of its first output: node names are optional in ONNX, output names are not.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx
from onnx import numpy_helper

from autocompress.errors import RecipeError

WEIGHT_BITS = (2, 4, 8, 16, 32)
ACTIVATION_BITS = (8, 32)
LOOK_UP = "Gather"
"""Operator that picks rows of a table."""

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the module paths down to the call that became a node."""
_FUSED = frozenset({"Relu", "Clip"})
_JOINS = frozenset({"Add", "Concat"})
_RESHAPES = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
_HEADS = _RESHAPES | {"Concat", "Slice", "Split", "Identity", "DepthToSpace", "SpaceToDepth", "Pad", "Expand", "Gather"}
_HEADS |= {"Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "Tanh", "Exp", "Softplus", "Relu", "Clip"}
"""What stands between the last layers of a network and its outputs: values are moved about, and scaled one by one."""
FEWEST_WEIGHTS = 32
"""Layers of one output with fewer stay fp32: scales and quantisers take more bytes than the weights give up, and such
layers compute with fixed numbers, as the one that reads distances off a distribution in YOLOv8's head does."""
_AVERAGES = frozenset({"GlobalAveragePool", "AveragePool"})
_KEEP_RANK = frozenset({"Relu", "Clip", "Add", "MaxPool", "AveragePool", "Concat", "BatchNormalization"})


@dataclass(frozen=True, slots=True)
class QuantizableLayer:
    """A convolution or linear layer with a constant weight, or an embedding; a module called twice is one layer."""

    name: str
    """Torch module path, e.g. "blocks.0.conv1"; the parameter path for weights used by functional calls."""
    op_type: str
    """Conv, Gemm or MatMul; Gather looks rows of a table up."""
    weight: str
    """Initialiser that holds the weight."""
    nodes: tuple[str, ...]
    """First output name of every node of this layer."""


@dataclass(frozen=True)
class QuantSpec:
    """How many bits each layer gets.

    A layer with 2, 4 or 8 weight bits and 32 activation bits is stored small and computed in fp32: the runtime
    unpacks the weight once, when the session is built. Such a layer saves size, not time.
    """

    weight_bits: Mapping[str, int]
    """By layer name: 2, 4, 8, 16 or 32. Missing layers get 32, names that are no layer are ignored."""
    activation_bits: Mapping[str, int]
    """By layer name: 8 or 32; of no effect when the weight has 16 or 32 bits."""
    reduce_range: bool = False
    """7-bit weights for 8-bit layers: for x86 CPUs without VNNI, whose int8 kernels saturate."""


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """What happens to one Conv, Gemm, MatMul or Gather node."""

    node: str
    layer: str
    op_type: str
    weight: str
    axis: int
    """Axis of the weight initialiser along which it has scales: that of the output channels, or the rows of a table."""
    weight_bits: int
    activation_bits: int
    """8 only where an int8 kernel can run; a planned 8 falls back to 32 elsewhere."""


@dataclass(frozen=True, slots=True)
class PlannedActivation:
    """One tensor that becomes uint8."""

    tensor: str
    source: str
    """Tensor whose range it uses: itself, or the input of the pooling or reshape that made it."""
    consumers: tuple[str, ...]
    """Nodes that read the quantised tensor."""
    exclusive: bool
    """True when an int8 kernel produces it, so that every consumer reads the quantised tensor."""
    maximum: float | None = None
    """Upper bound of its Clip, which the range must not exceed or the Clip is not fused."""


@dataclass(frozen=True)
class QuantPlan:
    """Where the quantisers go: by node for the weights, by tensor for the activations."""

    layers: tuple[PlannedLayer, ...]
    activations: tuple[PlannedActivation, ...]
    reduce_range: bool = False
    pools: tuple[str, ...] = field(default=())
    """ReduceMean nodes to write as GlobalAveragePool, which has an int8 kernel."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Tensors whose range has to be observed."""
        return tuple(a.tensor for a in self.activations if a.source == a.tensor)

    def weight_limits(self, bits: int) -> tuple[int, int]:
        """Smallest and largest integer of a weight with `bits` bits (2, 4 or 8)."""
        if bits < 8:
            return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        return (-63, 63) if self.reduce_range else (-127, 127)


class Graph:
    """Look-up tables over an ONNX graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = [node for node in graph.node if node.output]
        self.initializers = {i.name: i for i in graph.initializer}
        self.inputs = {i.name: i for i in graph.input if i.name not in self.initializers}
        self.outputs = {o.name for o in graph.output}
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in set(node.input):
                self.consumers.setdefault(name, []).append(node)
        # Tensors that a sub-graph reads cannot be redirected, so they never count as private.
        self.captured = {name for node in self.nodes for name in captured(node)}
        self._makes_output: dict[str, bool] = {}

    def private(self, tensor: str) -> bool:
        """Whether no one outside this graph's own nodes reads `tensor`."""
        return tensor not in self.outputs and tensor not in self.captured

    def makes_output(self, tensor: str) -> bool:
        """Whether an output of the graph holds the values of `tensor`, moved about or through an activation at most."""
        if tensor not in self._makes_output:
            self._makes_output[tensor] = not self.private(tensor) or any(
                node.op_type in _HEADS and any(map(self.makes_output, node.output))
                for node in self.consumers.get(tensor, ())
            )
        return self._makes_output[tensor]

    def after_activation(self, tensor: str) -> str:
        """Return the tensor after the ReLU or Clip that the runtime fuses into the maker of `tensor`."""
        readers = self.consumers.get(tensor, [])
        if len(readers) == 1 and self.private(tensor) and self.is_fused_activation(readers[0]):
            return str(readers[0].output[0])
        return tensor

    def kernel(self, tensor: str) -> onnx.NodeProto | None:
        """Return the node that makes `tensor`, looking through a fused ReLU or Clip."""
        node = self.producer.get(tensor)
        if node is not None and node.op_type in _FUSED and self.after_activation(node.input[0]) == tensor:
            return self.producer.get(node.input[0])
        return node

    def is_fused_activation(self, node: onnx.NodeProto) -> bool:
        """Whether a quantiser behind `node` can take over its work."""
        if node.op_type == "Relu":
            return True
        if node.op_type != "Clip":
            return False
        low, high = self.clip_bounds(node)
        return low is not None and high is not None and low <= 0.0 < high

    def clip_bounds(self, node: onnx.NodeProto) -> tuple[float | None, float | None]:
        """Return the constant bounds of a Clip; None where one is computed, infinite where it is missing."""
        bounds: list[float | None] = []
        for index, default in ((1, -math.inf), (2, math.inf)):
            name = node.input[index] if len(node.input) > index else ""
            array = self.initializers.get(name)
            if name and array is None:
                bounds.append(None)
            else:
                bounds.append(default if array is None else float(numpy_helper.to_array(array).reshape(-1)[0]))
        return bounds[0], bounds[1]

    def rank(self, tensor: str) -> int | None:
        """Return the number of dimensions or None, without shape annotations: re-bound graphs have none."""
        for _ in range(len(self.nodes)):
            node = self.producer.get(tensor)
            if node is None:
                value = self.inputs.get(tensor)
                return len(value.type.tensor_type.shape.dim) if value is not None else None
            if node.op_type == "Conv" and node.input[1] in self.initializers:
                return len(self.initializers[node.input[1]].dims)
            if node.op_type not in _KEEP_RANK:
                return None
            tensor = node.input[0]
        return None


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that the sub-graphs of a node read; names of their own are among them."""
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
        for graph in graphs:
            yield from (output.name for output in graph.output)
            for inner in graph.node:
                yield from inner.input
                yield from captured(inner)


def scopes(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the module paths down to the torch call that became `node`; the last is the fx node's name."""
    for prop in node.metadata_props:
        if prop.key == SCOPES_KEY:
            try:
                value = ast.literal_eval(prop.value)
            except (ValueError, SyntaxError):
                return ()
            return tuple(str(item) for item in value) if isinstance(value, (list, tuple)) else ()
    return ()


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """Return a numeric attribute of `node`, or `default` where it is not written."""
    for item in node.attribute:
        if item.name == name:
            return float(item.f if item.type == onnx.AttributeProto.FLOAT else item.i)
    return default


def weight_of(node: onnx.NodeProto) -> str:
    """The operand that holds the weights of a layer: that of a look-up is its table."""
    return str(node.input[0 if node.op_type == LOOK_UP else 1])


def scale_axis(node: onnx.NodeProto, graph: Graph) -> int | None:
    """Axis along which the node's weight gets scales; None when the node is not a layer that can be quantised."""
    if _is_look_up(node, graph):
        return 0
    axis = output_axis(node, graph)
    return None if axis is None or _is_small(node, axis, graph) else axis


def small_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the layers that stay fp32 because they have one output and few weights."""
    graph = Graph(model.graph)
    axes = ((node, output_axis(node, graph)) for node in graph.nodes)
    small = (node for node, axis in axes if axis is not None and _is_small(node, axis, graph))
    return tuple(dict.fromkeys(module_name(node, weight_of(node)) for node in small))


def _is_small(node: onnx.NodeProto, axis: int, graph: Graph) -> bool:
    dims = graph.initializers[node.input[1]].dims
    return bool(dims[axis] == 1 and math.prod(dims) < FEWEST_WEIGHTS)


def _is_look_up(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether rows of a constant table are picked, by other than constant indices: those cost nothing at run time.

    A table that a layer multiplies as well, with scales for its columns, is that layer's weight.
    """
    if node.op_type != LOOK_UP or node.domain not in ("", "ai.onnx") or node.input[1] in graph.initializers:
        return False
    table = graph.initializers.get(node.input[0])
    if table is None or table.data_type != onnx.TensorProto.FLOAT or len(table.dims) != 2:
        return False
    by_columns = any(output_axis(reader, graph) == 1 for reader in graph.consumers[table.name])
    return min(table.dims) > 1 and attribute(node, "axis", 0) == 0 and not by_columns


def output_axis(node: onnx.NodeProto, graph: Graph) -> int | None:
    """Output channel axis of the weight of a convolution or linear layer; None for all other nodes."""
    if node.domain not in ("", "ai.onnx") or len(node.input) < 2:
        return None
    weight = graph.initializers.get(node.input[1])
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT or not math.prod(weight.dims):
        return None
    if node.op_type == "Conv" and len(weight.dims) >= 3:
        return 0
    if node.op_type == "Gemm" and len(weight.dims) == 2:
        return 0 if attribute(node, "transB", 0) else 1
    if node.op_type == "MatMul" and len(weight.dims) == 2:
        return 1
    return None


def module_name(node: onnx.NodeProto, weight: str) -> str:
    """Return the module path of a layer; the parameter's where a module calls several weights by itself."""
    path = scopes(node)
    module = path[-2] if len(path) > 1 else ""
    parameter = weight if module == "" or weight.startswith(f"{module}.") else ""
    if parameter and not (module == "" and weight.startswith("val_")):
        return parameter.removesuffix(".weight")
    return module or node.output[0]


def _layer_nodes(graph: Graph) -> dict[str, list[onnx.NodeProto]]:
    """Nodes of every layer, by unique layer name, in execution order, look-ups last.

    A linear layer with the weights of an embedding, as language models have it, gives both their name.
    """
    by_name: dict[str, list[onnx.NodeProto]] = {}
    names: dict[str, str] = {}
    for node in sorted(graph.nodes, key=lambda node: node.op_type == LOOK_UP):
        if scale_axis(node, graph) is None:
            continue
        weight = weight_of(node)
        if weight not in names:
            names[weight] = _unique(module_name(node, weight), node, by_name, graph)
        by_name.setdefault(names[weight], []).append(node)
    return by_name


def _unique(name: str, node: onnx.NodeProto, known: Mapping[str, list[onnx.NodeProto]], graph: Graph) -> str:
    """`name`, or `name#2` and so on when another weight of the same module has it already."""
    candidate, count = name, 1
    while candidate in known and not _same_weight(known[candidate][0], node, graph):
        count += 1
        candidate = f"{name}#{count}"
    return candidate


def _same_weight(a: onnx.NodeProto, b: onnx.NodeProto, graph: Graph) -> bool:
    """Whether two nodes hold one weight, perhaps transposed: a Linear called on 2-D and on 3-D input."""
    first, second = (numpy_helper.to_array(graph.initializers[weight_of(node)]) for node in (a, b))
    if scale_axis(a, graph) != scale_axis(b, graph):
        second = second.T
    return first.shape == second.shape and bool((first == second).all())


def quantizable_layers(model: onnx.ModelProto) -> tuple[QuantizableLayer, ...]:
    """Return the layers of `model` that can be stored with fewer bits, in execution order, embeddings last."""
    graph = Graph(model.graph)
    return tuple(
        QuantizableLayer(
            name=name,
            op_type=nodes[0].op_type,
            weight=weight_of(nodes[0]),
            nodes=tuple(node.output[0] for node in nodes),
        )
        for name, nodes in _layer_nodes(graph).items()
    )


def plan(model: onnx.ModelProto, spec: QuantSpec) -> QuantPlan:
    """Decide which nodes and tensors of `model` are quantised.

    Args:
        model: fp32 graph from the dynamo exporter, batch normalisation folded where it can be.
        spec: bits by layer name.

    Raises:
        RecipeError: a bit width that is not allowed.
    """
    _check(spec)
    graph = Graph(model.graph)
    layers: list[PlannedLayer] = []
    for name, nodes in _layer_nodes(graph).items():
        bits = spec.weight_bits.get(name, 32)
        for node in nodes:
            wants_int8 = bits <= 8 and spec.activation_bits.get(name, 32) == 8
            axis = scale_axis(node, graph)
            assert axis is not None
            activation = 8 if wants_int8 and _has_int8_kernel(node, graph) else 32
            layers.append(PlannedLayer(node.output[0], name, node.op_type, weight_of(node), axis, bits, activation))
    order = {node.output[0]: index for index, node in enumerate(graph.nodes)}
    layers.sort(key=lambda layer: order[layer.node])
    placement = _settled(graph, {layer.node for layer in layers if layer.activation_bits == 8})
    layers = [x if x.node in placement.layers else replace(x, activation_bits=32) for x in layers]
    return QuantPlan(tuple(layers), placement.activations(), spec.reduce_range, tuple(sorted(placement.pools)))


def _settled(graph: Graph, int8_nodes: set[str]) -> _Placement:
    """The placement in which every one of its layers has an integer kernel.

    The runtime computes Gemm and ReLU as one float kernel where the result is not quantised again.
    """
    placement = _Placement(graph, int8_nodes)
    lost = {node for node in int8_nodes if _is_float_with_relu(graph, graph.producer[node], placement.source)}
    return _settled(graph, int8_nodes - lost) if lost else placement


def _is_float_with_relu(graph: Graph, node: onnx.NodeProto, quantized: Mapping[str, str]) -> bool:
    end = graph.after_activation(node.output[0])
    return node.op_type == "Gemm" and end != node.output[0] and end not in quantized and end not in graph.outputs


def _check(spec: QuantSpec) -> None:
    for what, given, allowed in (
        ("weight", spec.weight_bits, WEIGHT_BITS),
        ("activation", spec.activation_bits, ACTIVATION_BITS),
    ):
        for name, bits in given.items():
            if bits not in allowed:
                raise RecipeError(f"{what} bits of layer {name!r} must be one of {allowed}, not {bits!r}")


def _has_int8_kernel(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether ONNX Runtime has an int8 kernel for `node` with a quantised input."""
    if node.input[0] in graph.initializers or not node.input[0]:
        return False
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and bias not in graph.initializers:
        return False
    if node.op_type == "Gemm":
        shape = list(graph.initializers[bias].dims) if bias else []
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        if not plain or attribute(node, "transA", 0) or (bias and len(shape) != 1):
            return False
        # QGemm writes either uint8 or fp32: it cannot make logits that the next layer reads as uint8.
        readers = graph.consumers.get(node.output[0], [])
        feeds_layer = any(output_axis(reader, graph) is not None for reader in readers)
        return graph.private(node.output[0]) or not feeds_layer
    if node.op_type == "Conv":
        # QLinearConv writes uint8 only: a convolution that makes an output stays in fp32.
        end = graph.after_activation(node.output[0])
        return not graph.makes_output(end) and bool(graph.consumers.get(end))
    return True


class _Placement:
    """Finds the uint8 tensors: wants of the layers, carried back over reshapes, then forward over joins."""

    def __init__(self, graph: Graph, int8_nodes: set[str]) -> None:
        self.graph = graph
        self.layers = frozenset(int8_nodes)
        self.int8 = set(int8_nodes)  # nodes that run, or pass their data on, in int8
        self.pools: set[str] = set()
        self.source: dict[str, str] = {}  # tensor -> tensor whose range it uses
        for node in graph.nodes:
            if node.output[0] in int8_nodes:
                self.source[node.input[0]] = node.input[0]
                if node.op_type == "Conv":
                    end = graph.after_activation(node.output[0])
                    self.source[end] = end
        # Twice: a want that is carried back to a pooling layer can start from a join found going forward.
        for node in graph.nodes:
            self._carry_forward(node)
        self._carry_back()
        for node in graph.nodes:
            self._carry_forward(node)
        self._drop_unread_joins()

    def _drop_unread_joins(self) -> None:
        """Leave an Add or Concat in fp32 that no integer kernel reads: it would only round, to one common scale."""
        wanted: set[str] = set()
        for node in reversed(self.graph.nodes):
            output = node.output[0]
            if output in self.layers:
                wanted.add(node.input[0])
            elif output in self.int8:
                end = self.graph.after_activation(output)
                if not wanted.isdisjoint((output, end)):
                    wanted.update(node.input)
                elif node.op_type in _JOINS:
                    self._drop(output, end)
        for node in self.graph.nodes:  # what only passes such a join on
            output = node.output[0]
            if output in self.int8 - self.layers and node.op_type not in _JOINS and node.input[0] not in self.source:
                self._drop(output, output)

    def _drop(self, node: str, tensor: str) -> None:
        self.int8.discard(node)
        self.pools.discard(node)
        self.source.pop(tensor, None)

    def _carry_back(self) -> None:
        for node in reversed(self.graph.nodes):
            if node.op_type in _RESHAPES and node.output[0] in self.source:
                maker = self.graph.kernel(node.input[0])
                if maker is not None and self._may_be_int8(maker):
                    self.source.setdefault(node.input[0], node.input[0])

    def _may_be_int8(self, node: onnx.NodeProto) -> bool:
        if node.op_type in _AVERAGES or node.op_type == "ReduceMean":
            return node.input[0] in self.source
        return node.output[0] in self.int8 or node.op_type in _RESHAPES

    def _carry_forward(self, node: onnx.NodeProto) -> None:
        graph, output = self.graph, node.output[0]
        if node.op_type in _JOINS:
            end = graph.after_activation(output)
            if graph.private(end) and len(node.input) > 1 and all(i in self.source for i in node.input):
                self.source.setdefault(end, end)
                self.int8.add(output)
        elif node.op_type in _RESHAPES or (node.op_type == "MaxPool" and len(node.output) == 1):
            wanted = output in self.source or node.op_type == "MaxPool"
            if wanted and node.input[0] in self.source and graph.private(output):
                # The same range on both sides lets the runtime move the bytes without touching them.
                self.source[output] = self.source[node.input[0]]
                self.int8.add(output)
        elif node.input and node.input[0] in self.source and output in self.source and graph.private(output):
            if node.op_type in _AVERAGES:
                self.int8.add(output)
            elif node.op_type == "ReduceMean" and is_global_average(node, graph):
                self.int8.add(output)
                self.pools.add(output)

    def activations(self) -> tuple[PlannedActivation, ...]:
        """Return the planned tensors in execution order, graph inputs first."""
        order = dict.fromkeys(self.graph.inputs, -1)
        order |= {name: k for k, node in enumerate(self.graph.nodes) for name in node.output}
        tensors = sorted(self.source, key=lambda name: order.get(name, -1))
        return tuple(self._activation(tensor) for tensor in tensors)

    def _activation(self, tensor: str) -> PlannedActivation:
        graph, maker = self.graph, self.graph.kernel(tensor)
        exclusive = maker is not None and maker.output[0] in self.int8
        readers = graph.consumers.get(tensor, [])
        used = [n.output[0] for n in readers if exclusive or n.output[0] in self.int8]
        producer, maximum = graph.producer.get(tensor), None
        if producer is not None and producer.op_type == "Clip":
            high = graph.clip_bounds(producer)[1]
            maximum = high if high is not None and 0.0 < high < math.inf else None
        return PlannedActivation(tensor, self.source[tensor], tuple(used), exclusive, maximum)


def is_global_average(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether a ReduceMean averages exactly the spatial axes of (N, C, ...)."""
    rank = graph.rank(node.input[0])
    axes = graph.initializers.get(node.input[1]) if len(node.input) > 1 else None
    if rank is None or rank < 3 or axes is None:
        return False
    return {int(a) % rank for a in numpy_helper.to_array(axes).reshape(-1)} == set(range(2, rank))
