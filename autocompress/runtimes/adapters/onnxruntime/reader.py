"""Reads the kernels that ONNX Runtime's CPU provider makes of an ONNX graph: flatten, infer shapes, fuse, count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import onnx
import onnx.inliner

from autocompress.errors import InputError
from autocompress.runtimes.adapters.onnxruntime import shapes as onnx_shapes
from autocompress.runtimes.adapters.onnxruntime._fusion import PASSABLE, Fusion, Net
from autocompress.runtimes.input_shapes import Shapes, fix_inputs
from autocompress.runtimes.kernels import Buffer, Forms, OpForm, elements, with_lives
from autocompress.runtimes.workload import Workload

_SMALL_ELEMENTS = 1024
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"}
_FREE = {"Identity", "Dropout"}
_POOLS = {
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "ReduceMean",
    "ReduceMax",
    "ReduceSum",
    "LpPool",
    "ArgMax",
}
_GELUS = {"Gelu", "Erf", "QuickGelu", "FastGelu", "BiasGelu"}
_ACTIVATIONS = {"Sigmoid", "Tanh", "Exp", "HardSwish", "HardSigmoid", "Elu", "Mish", "Swish"}
_ACTIVATIONS |= {"Softplus", "Selu", "Log", "Sqrt", "Pow"}
_SOFTMAXES = {"Softmax", "LogSoftmax"}
_NORMS = {"LayerNormalization", "RMSNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "LRN"}
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Relu", "Clip", "LeakyRelu", "PRelu", "Max", "Min", "Sum", "Neg"}
_ELEMENTWISE |= {
    "Where",
    "Greater",
    "Less",
    "Equal",
    "And",
    "Or",
    "Not",
    "Abs",
    "Reciprocal",
    "Cast",
    "Floor",
}
_MOVEMENT = {"Transpose", "Concat", "Slice", "Gather", "Split", "Pad", "Expand", "Tile", "Shape"}
_MOVEMENT |= {"DepthToSpace", "SpaceToDepth", "ScatterND", "GatherND", "GatherElements", "ConstantOfShape"}
_CONVS = {"Conv", "ConvTranspose"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
_BLOCKED = "_blocked"
_KEEP_ORDER = {"Conv", "MaxPool", "AveragePool", "Concat"}
_KEEP_ORDER_KINDS = {"elementwise", "quantize", "dequantize"}
_KEEP_LAST = {"Slice", "Split", "Pad"}
_KEEP_LAST_KINDS = {"activation", "pool"}
"""What works on channels-last data as it is, beside what works on any order."""
_TO_LAST, _FROM_LAST = (0, 2, 3, 1), (0, 3, 1, 2)


def read_workload(
    model_or_path: onnx.ModelProto | str | Path,
    outputs: Sequence[str] | None = None,
    batch: int = 1,
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> Workload:
    """Analyse a deployed file as ONNX Runtime's CPU provider fuses it.

    Convolutions absorb BatchNorm, activation and (fp32) residual Add; Q/DQ pairs make an operator int8
    where an integer kernel exists; what depends on constants only is free, except a DequantizeLinear that
    feeds an fp32 kernel (it runs at every call). Where onnx cannot infer a shape, the graph is run once on
    zeros. A free first dimension is the batch and set to `batch`; `shapes` gives the sizes of inputs, by name,
    that have other free dimensions.

    `outputs` restricts the graph to the ancestors of these tensors: one path through a multi-output graph
    with early exits. In a file with nested `If` the branch with more nodes is followed, so that the
    deepest path is counted, plus one op of kind "if" for each.

    Raises:
        InputError: the file cannot be read or has no output of that name, the size of an input is not known,
            or onnx cannot infer a shape and ONNX Runtime cannot run the graph.
    """
    return read_forms(model_or_path, outputs, batch, shapes).workload()


def read_forms(
    model_or_path: onnx.ModelProto | str | Path,
    outputs: Sequence[str] | None = None,
    batch: int = 1,
    shapes: Shapes = MappingProxyType({}),
) -> Forms:
    """The kernel calls of a graph; arguments and errors as those of `read_workload`."""
    if isinstance(model_or_path, onnx.ModelProto):
        model = model_or_path
    else:
        try:
            model = onnx.load(str(model_or_path), load_external_data=False)
        except Exception as error:  # protobuf raises its own kinds
            raise InputError(f"{model_or_path}: this file cannot be read as ONNX: {error}") from None
    light, weights, n_ifs = _light_copy(model, batch, shapes)
    if outputs is not None:
        _restrict(light.graph, outputs)
    symbolic = any(not d.HasField("dim_value") for i in model.graph.input for d in i.type.tensor_type.shape.dim)
    net = Net(onnx_shapes.infer(light, weights), frozenset(weight.name for weight in weights), symbolic)
    forms = _Counter(net).forms(n_ifs)
    return replace(forms, assumptions=(*onnx_shapes.assumptions(light.graph), *forms.assumptions))


def _light_copy(
    model: onnx.ModelProto, batch: int, shapes: Shapes
) -> tuple[onnx.ModelProto, list[onnx.TensorProto], int]:
    """Copy without value_info, nested `If` flattened, input dimensions fixed, large weights as inputs; and these."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = onnx.GraphProto(name=model.graph.name or "graph")
    n_ifs = _flatten(model.graph, graph)
    constants = {weight.name for weight in graph.initializer}
    graph.input.extend(model.graph.input)
    fix_inputs([value for value in graph.input if value.name not in constants], shapes, batch)
    taken = {value.name for value in graph.input}
    weights = [w for w in graph.initializer if elements(w.dims) > _SMALL_ELEMENTS]
    for weight in weights:
        if weight.name not in taken:
            graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    small = [w for w in graph.initializer if elements(w.dims) <= _SMALL_ELEMENTS]
    del graph.initializer[:]
    graph.initializer.extend(small)
    for output in model.graph.output:
        kept = graph.output.add()
        kept.name = output.name
        kept.type.tensor_type.elem_type = output.type.tensor_type.elem_type
    light = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    light.opset_import.extend(model.opset_import)
    return light, weights, n_ifs


def _flatten(source: onnx.GraphProto, target: onnx.GraphProto) -> int:
    """Append nodes and initialisers of `source`, taking the longer branch of each If; returns how many."""
    n_ifs = 0
    for weight in source.initializer:
        light = target.initializer.add()
        if elements(weight.dims) <= _SMALL_ELEMENTS and weight.data_location != onnx.TensorProto.EXTERNAL:
            light.CopyFrom(weight)
        else:
            light.name, light.data_type = weight.name, weight.data_type
            light.dims.extend(weight.dims)
    for node in source.node:
        if node.op_type != "If":
            target.node.append(node)
            continue
        branches = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        branch = _without_shadowing(max(branches, key=_count_nodes), source)
        n_ifs += 1 + _flatten(branch, target)
        for inner, outer in zip(branch.output, node.output, strict=True):
            target.node.append(onnx.helper.make_node("Identity", [inner.name], [outer], name=f"{node.name}:out"))
    return n_ifs


def _without_shadowing(branch: onnx.GraphProto, outer: onnx.GraphProto) -> onnx.GraphProto:
    """Rename what a branch makes under a name that the graph around it uses for something else."""
    taken = {name for node in outer.node for name in node.output}
    clashes = taken & {name for node in branch.node for name in node.output}
    if not clashes:
        return branch
    renamed = onnx.GraphProto()
    renamed.CopyFrom(branch)
    for node in renamed.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                if name in clashes:
                    names[k] = f"{name}:inner"
    for output in renamed.output:
        output.name = f"{output.name}:inner" if output.name in clashes else output.name
    return renamed


def _count_nodes(graph: onnx.GraphProto) -> int:
    return sum(
        1 + max((_count_nodes(a.g) for a in node.attribute if a.type == onnx.AttributeProto.GRAPH), default=0)
        for node in graph.node
    )


def _restrict(graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
    producer = {name: node for node in graph.node for name in node.output}
    known = set(producer) | {value.name for value in graph.input}
    missing = [name for name in outputs if name not in known]
    if missing or not outputs:
        have = ", ".join(value.name for value in graph.output)
        raise InputError(f"the graph has no tensor {missing[0] if missing else ''!r}; its outputs are: {have}.")
    needed: set[str] = set()
    stack = list(outputs)
    while stack:
        name = stack.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in producer:
            stack.extend(n for n in producer[name].input if n)
    kept = [node for node in graph.node if any(name in needed for name in node.output)]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.output[:]
    for name in outputs:
        graph.output.add().name = name


class _Counter:
    """Turns the fused graph into forms and follows which tensors are alive."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.fusion = Fusion(net)
        self.root: dict[str, str] = {}
        self.itemsize: dict[str, int] = {}
        """Bytes per element of every tensor that is in memory."""
        self.blocked: dict[str, str] = {}
        """Tensors in the channel order of a convolution: "float32", in blocks of channels, or "int8", channels last."""
        self.ops: list[OpForm] = []
        self.slow: list[str] = []
        """Convolutions that the runtime cannot put into blocks of channels, as their weights are no constants."""
        self.unsure: list[str] = []
        """Interpolations beside int8 kernels: in channels-last order they are four times faster."""

    def forms(self, n_ifs: int) -> Forms:
        for value in self.net.graph_inputs:
            self.itemsize[value] = self.net.itemsize(value)
        for index in range(len(self.net.nodes)):
            self._visit(index)
        for output in self.net.graph_outputs:
            self._to_plain(output, f"{output}:layout")
        ends = [self._resolve(name) for name in self.net.graph_outputs]
        ops = with_lives(self.ops, self.net.graph_inputs, ends, self._buffer)
        ops.extend(OpForm("if", "float32", f"if_{k}") for k in range(n_ifs))
        return Forms(tuple(ops), self.net.shapes, self._assumptions())

    def _assumptions(self) -> tuple[str, ...]:
        found = {
            "float convolutions may be slower, as their weights are dequantised at every call": self.slow,
            "the channel order of linear resizing beside int8 kernels is not known": self.unsure,
        }
        more = {text: f" and {len(names) - 1} more" if len(names) > 1 else "" for text, names in found.items()}
        return tuple(f"{text}: {names[0]!r}{more[text]}" for text, names in found.items() if names)

    def _resolve(self, name: str) -> str:
        return self.root.get(name, name)

    def _alias(self, node: onnx.NodeProto, source: str) -> None:
        for output in node.output:
            self.root[output] = self._resolve(source)

    def _visit(self, index: int) -> None:
        net, fusion = self.net, self.fusion
        node = net.nodes[index]
        op_type = node.op_type
        if index in fusion.absorbed:
            self._alias(node, fusion.absorbed[index])
        elif op_type == "DequantizeLinear" and node.input[0] in net.static:
            if index in fusion.costly_dequantize:
                self._emit(node, "dequantize", "float32", [])
        elif all(name in net.static for name in node.output if name):
            return
        elif op_type in _FREE or (op_type in _VIEWS and (op_type != "Cast" or not net.is_float(node.output[0]))):
            self._leave_blocked(node, node.input[0])
            self._alias(node, node.input[0])
            if op_type in _VIEWS:
                self.ops.append(OpForm("view", "float32", node.name or node.output[0]))
        elif op_type == "Transpose" and self._is_change_of_order(node):
            return
        elif op_type in _CONVS:
            self._conv(index)
        elif op_type in {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}:
            self._matmul(index)
        elif op_type in _RECURRENT:
            self._emit(node, op_type.lower(), "float32", self._activations(node), tuple(node.input[:3]))
        elif op_type == "Einsum" and len(node.input) == 2:
            equation = next((a.s.decode() for a in node.attribute if a.name == "equation"), "")
            product = (node.input[0], node.input[1], node.output[0])
            self._emit(node, _kind(op_type), "float32", self._activations(node), product, equation=equation)
        elif op_type in {"Resize", "Upsample"}:
            self._resize(index)
        elif self._is_look_up(node):
            self._emit(node, "embedding", "float32", self._activations(node))
        else:
            self._emit(node, _kind(op_type), self._dtype(index), self._activations(node))

    def _is_look_up(self, node: onnx.NodeProto) -> bool:
        """Tell if rows of a constant table of floats, or of the codes of a quantised one, are picked."""
        table = node.input[0] if node.op_type == "Gather" else ""
        is_table = table in self.net.static and self.net.holds_weights(table) and len(self.net.shape(table)) > 1
        return is_table and self.net.attribute(node, "axis", 0) == 0

    def _dtype(self, index: int) -> str:
        return "int8" if index in self.fusion.int8 else "float32"

    def _activations(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.input if name and name not in self.net.static]

    def _buffer(self, root: str) -> Buffer:
        return root, self.itemsize.get(root, 0)

    def _to_plain(self, name: str, label: str) -> None:
        """Count the change to the plain channel order once per tensor."""
        root = self._resolve(name)
        if self.blocked.pop(root, ""):
            self._layout_op(label, root)

    def _layout_op(self, label: str, root: str) -> None:
        buffer = self._buffer(root)
        dtype = "int8" if buffer[1] == 1 else "float32"
        self.ops.append(OpForm("layout", dtype, label, (buffer,), (buffer,)))

    def _leave_blocked(self, node: onnx.NodeProto, source: str) -> None:
        if len(self.net.shape(source)) == 4:
            self._to_plain(source, f"{node.name}:layout")

    def _is_change_of_order(self, node: onnx.NodeProto) -> bool:
        """Tell if a Transpose to or from channels-last merges with what the runtime does to the order of channels."""
        order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), ())
        root = self._resolve(node.input[0])
        if order == _TO_LAST and root in self.blocked:
            if self.blocked.pop(root) == "float32":
                self._layout_op(f"{node.name}:layout", root)
        elif order == _FROM_LAST and self._meets_integer_conv(node.output[0]):
            self.blocked[root] = "int8"
        else:
            return False
        self._alias(node, root)
        return True

    def _meets_integer_conv(self, name: str) -> bool:
        """Tell if the tensor reaches an int8 convolution through what works on any order of channels."""
        for index in self.net.users(name):
            node = self.net.nodes[index]
            if node.op_type == "Conv" and index in self.fusion.int8:
                return True
            keeps = _kind(node.op_type) in _KEEP_ORDER_KINDS
            if keeps and any(map(self._meets_integer_conv, node.output)):
                return True
        return False

    def _conv(self, index: int) -> None:
        net, node = self.net, self.net.nodes[index]
        weight, out = net.shape(node.input[1]), net.shape(node.output[0])
        source = node.input[0]
        transposed = node.op_type == "ConvTranspose"
        groups = net.attribute(node, "group", 1)
        cin = weight[0] // groups if transposed and weight else (weight[1] if len(weight) > 1 else 1)
        cout = out[1] if len(out) > 1 else 1
        kind = "conv_transpose" if transposed else _conv_kind(tuple(weight[2:]) or (1,), groups, cin, cout)
        root = self._resolve(source)
        order, own = self.blocked.get(root, ""), self._dtype(index)
        if transposed:
            self._leave_blocked(node, source)
        elif len(net.shape(source)) == 4 and order != own and (order or cin * groups > 4):
            self._layout_op(f"{node.name}:layout", root)
        reads = [source, *self.fusion.extra_inputs.get(index, ())]
        product = (source, node.input[1], node.output[0])
        if (
            own == "float32"
            and len(net.shape(source)) == 4
            and net.producer.get(node.input[1]) in (self.fusion.costly_dequantize)
        ):
            self.slow.append(node.name or node.output[0])
        self._emit(node, kind, own, reads, product, groups, transposed)
        if index in self.fusion.epilogues:
            result = self._buffer(self._resolve(node.output[0]))
            self.ops.append(OpForm("epilogue", "float32", f"{node.name}:epilogue", (result,), (result,)))

    def _resize(self, index: int) -> None:
        """By constant scales it works on blocks of channels as they are, by sizes (they hold the batch) it does not."""
        net, node = self.net, self.net.nodes[index]
        kind = _resize_kind(node)
        by_scales = len(node.input) == 3 and node.input[2] in net.static
        order = self.blocked.get(self._resolve(node.input[0]))
        if by_scales and kind != "other" and order == "float32":
            kind += _BLOCKED
        beside = [net.nodes[user].op_type for user in net.users(node.output[0])]
        if kind == "resize_linear" and (order == "int8" or "QuantizeLinear" in beside or self._is_dequantised(node)):
            self.unsure.append(node.name or node.output[0])
        self._emit(node, kind, self._dtype(index), self._activations(node))

    def _is_dequantised(self, node: onnx.NodeProto) -> bool:
        producer = self.net.producer.get(node.input[0])
        return producer is not None and self.net.nodes[producer].op_type == "DequantizeLinear"

    def _matmul(self, index: int) -> None:
        net, node = self.net, self.net.nodes[index]
        kind = "linear" if node.input[1] in net.static else "attention"
        product = (node.input[0], node.input[1], node.output[0])
        transposed = bool(net.attribute(node, "transA", 0))
        self._emit(node, kind, self._dtype(index), self._activations(node), product, transposed=transposed)

    def _emit(
        self,
        node: onnx.NodeProto,
        kind: str,
        dtype: str,
        reads: list[str],
        product: tuple[str, str, str] | None = None,
        groups: int = 1,
        transposed: bool = False,
        equation: str = "",
    ) -> None:
        net = self.net
        roots = list(dict.fromkeys(self._resolve(name) for name in reads))
        orders = {self.blocked.get(root, "") for root in roots}
        keeps_order = kind in _KEEP_ORDER_KINDS or node.op_type in _KEEP_ORDER
        if "int8" in orders:  # a tensor in plain order is turned, too
            keeps_order = keeps_order or kind in _KEEP_LAST_KINDS or node.op_type in _KEEP_LAST
        elif node.op_type not in {"Conv", "Concat"}:
            keeps_order = keeps_order and len(orders) == 1 and len({net.elements(name) for name in reads}) == 1
        keeps_order = keeps_order or kind.endswith(_BLOCKED)
        if not keeps_order and node.op_type not in _CONVS:
            for name in reads:
                self._leave_blocked(node, name)
        itemsize = 1 if dtype == "int8" else 4
        if kind == "embedding":  # a quantised table stays as it is
            itemsize = net.itemsize(node.input[0])
        outputs = [name for name in node.output if name]
        for output in outputs:
            self.itemsize[output] = self.fusion.out_itemsize(output, kind, dtype)
            if node.op_type == "Conv" and len(net.shape(output)) == 4:
                self.blocked[output] = dtype
            elif keeps_order and orders != {""}:
                self.blocked[output] = "int8" if "int8" in orders else "float32"
        form = OpForm(
            kind,
            dtype,
            node.name or next(iter(node.output), ""),
            reads=tuple(self._buffer(root) for root in roots),
            writes=tuple(self._buffer(output) for output in outputs),
            weights=tuple((name, itemsize) for name in node.input if name in net.static),
            product=product,
            groups=groups,
            transposed=transposed,
            equation=equation,
        )
        self.ops.append(form)


def _conv_kind(kernel: tuple[int, ...], groups: int, cin: int, cout: int) -> str:
    if groups > 1:
        return "depthwise" if cin == 1 and cout == groups else "grouped"
    return "conv1x1" if elements(kernel) == 1 else "conv"


def _resize_kind(node: onnx.NodeProto) -> str:
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
    return {b"nearest": "resize", b"linear": "resize_linear"}.get(mode, "other")


def _kind(op_type: str) -> str:
    if op_type == "QuantizeLinear":
        return "quantize"
    if op_type == "DequantizeLinear":
        return "dequantize"
    groups = (
        (_POOLS, "pool"),
        (_GELUS, "gelu"),
        (_ACTIVATIONS, "activation"),
        (_SOFTMAXES, "softmax"),
        (_NORMS, "norm"),
        ({"BatchNormalization"}, "batch_norm"),
        ({"InstanceNormalization"}, "instance_norm"),
        ({"GroupNormalization"}, "group_norm"),
        (_ELEMENTWISE, "elementwise"),
        (_MOVEMENT | PASSABLE, "movement"),
    )
    return next((kind for members, kind in groups if op_type in members), "other")
