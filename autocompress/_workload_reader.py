"""Reads the kernels of an ONNX graph for `Workload.from_onnx`: flatten, infer shapes, fuse, count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from autocompress._workload_fusion import PASSABLE, Fusion, Net
from autocompress.errors import InputError
from autocompress.workload import Op, Workload

_SMALL_ELEMENTS = 1024
_FREE = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"}
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
_NORMS = {"LayerNormalization", "BatchNormalization", "GroupNormalization", "InstanceNormalization"}
_NORMS |= {"RMSNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "LRN"}
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
_MOVEMENT = {"Transpose", "Concat", "Slice", "Gather", "Split", "Pad", "Expand", "Tile", "Resize", "Shape"}
_MOVEMENT |= {"DepthToSpace", "SpaceToDepth", "ScatterND", "GatherND", "GatherElements", "ConstantOfShape"}
_CONVS = {"Conv", "ConvTranspose"}
_BLOCKED_PRODUCERS = {"Conv", "MaxPool", "AveragePool"}


def read_workload(model_or_path: onnx.ModelProto | str | Path, outputs: Sequence[str] | None, batch: int) -> Workload:
    """See `Workload.from_onnx`."""
    if isinstance(model_or_path, onnx.ModelProto):
        model = model_or_path
    else:
        try:
            model = onnx.load(str(model_or_path), load_external_data=False)
        except Exception as error:  # protobuf raises its own kinds
            raise InputError(f"{model_or_path}: this file cannot be read as ONNX: {error}") from None
    light, n_ifs = _light_copy(model, batch)
    if outputs is not None:
        _restrict(light.graph, outputs)
    symbolic = any(not d.HasField("dim_value") for i in model.graph.input for d in _dims(i))
    net = Net(_inferred(light), symbolic)
    return _Counter(net).workload(n_ifs)


def _dims(value: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


def _light_copy(model: onnx.ModelProto, batch: int) -> tuple[onnx.ModelProto, int]:
    """Copy without weights and value_info, nested `If` flattened, symbolic input dimensions fixed."""
    graph = onnx.GraphProto(name=model.graph.name or "graph")
    n_ifs = _flatten(model.graph, graph)
    for value in model.graph.input:
        kept = graph.input.add()
        kept.CopyFrom(value)
        for index, dim in enumerate(_dims(kept)):
            if not dim.HasField("dim_value"):
                dim.dim_value = batch if index == 0 else 1
    taken = {value.name for value in graph.input}
    weights = [w for w in graph.initializer if _elements(w.dims) > _SMALL_ELEMENTS]
    for weight in weights:
        if weight.name not in taken:
            graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    small = [w for w in graph.initializer if _elements(w.dims) <= _SMALL_ELEMENTS]
    del graph.initializer[:]
    graph.initializer.extend(small)
    for output in model.graph.output:
        kept = graph.output.add()
        kept.name = output.name
        kept.type.tensor_type.elem_type = output.type.tensor_type.elem_type
    light = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    light.opset_import.extend(model.opset_import)
    light.metadata_props.add(key="weights", value="\n".join(w.name for w in weights))
    return light, n_ifs


def _flatten(source: onnx.GraphProto, target: onnx.GraphProto) -> int:
    """Append nodes and initialisers of `source`, taking the longer branch of each If; returns how many."""
    n_ifs = 0
    for weight in source.initializer:
        light = target.initializer.add()
        if _elements(weight.dims) <= _SMALL_ELEMENTS and weight.data_location != onnx.TensorProto.EXTERNAL:
            light.CopyFrom(weight)
        else:
            light.name, light.data_type = weight.name, weight.data_type
            light.dims.extend(weight.dims)
    for node in source.node:
        if node.op_type != "If":
            target.node.append(node)
            continue
        branches = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        branch = max(branches, key=_count_nodes)
        n_ifs += 1 + _flatten(branch, target)
        for inner, outer in zip(branch.output, node.output, strict=True):
            target.node.append(onnx.helper.make_node("Identity", [inner.name], [outer], name=f"{node.name}:out"))
    return n_ifs


def _count_nodes(graph: onnx.GraphProto) -> int:
    return sum(
        1 + max((_count_nodes(a.g) for a in node.attribute if a.type == onnx.AttributeProto.GRAPH), default=0)
        for node in graph.node
    )


def _elements(dims: Sequence[int]) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count


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


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    untyped = [o for o in model.graph.output if not o.type.tensor_type.elem_type]
    for output in untyped:
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    except Exception:  # a custom operator or an inconsistent file: count what is known
        return onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=False)


class _Counter:
    """Turns the fused graph into ops and follows which tensors are alive."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.fusion = Fusion(net)
        self.root: dict[str, str] = {}
        self.size: dict[str, int] = {}
        self.blocked: set[str] = set()
        self.ops: list[Op] = []
        self.touched: list[tuple[list[str], list[str]]] = []

    def workload(self, n_ifs: int) -> Workload:
        for value in self.net.graph_inputs:
            self.size[value] = self.net.elements(value) * self.net.itemsize(value)
        for index in range(len(self.net.nodes)):
            self._visit(index)
        for output in self.net.graph_outputs:
            self._to_plain(output, f"{output}:layout")
        self.ops.extend(Op("if", "float32", f"if_{k}") for k in range(n_ifs))
        return Workload(tuple(self.ops), self._peak())

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
        elif op_type in _FREE or (op_type == "Cast" and not net.is_float(node.output[0])):
            self._leave_blocked(node, node.input[0])
            self._alias(node, node.input[0])
        elif op_type in _CONVS:
            self._conv(index)
        elif op_type in {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}:
            self._matmul(index)
        else:
            self._emit(node, _kind(op_type), self._dtype(index), self._activations(node))

    def _dtype(self, index: int) -> str:
        return "int8" if index in self.fusion.int8 else "float32"

    def _activations(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.input if name and name not in self.net.static]

    def _to_plain(self, name: str, label: str) -> None:
        """Count the change from the blocked to the plain channel order once per tensor."""
        root = self._resolve(name)
        if root in self.blocked:
            self.blocked.discard(root)
            self._layout_op(label, root)

    def _layout_op(self, label: str, root: str) -> None:
        size = self.size.get(root, 0)
        dtype = "int8" if size == self.net.elements(root) else "float32"
        self.ops.append(Op("layout", dtype, label, bytes_in=size, bytes_out=size))
        self.touched.append(([root], []))

    def _leave_blocked(self, node: onnx.NodeProto, source: str) -> None:
        if len(self.net.shape(source)) == 4:
            self._to_plain(source, f"{node.name}:layout")

    def _conv(self, index: int) -> None:
        net, node = self.net, self.net.nodes[index]
        weight, out = net.shape(node.input[1]), net.shape(node.output[0])
        source = node.input[0]
        transposed = node.op_type == "ConvTranspose"
        groups = net.attribute(node, "group", 1)
        cin = weight[0] // groups if transposed and weight else (weight[1] if len(weight) > 1 else 1)
        cout = out[1] if len(out) > 1 else 1
        kernel = tuple(weight[2:]) or (1,)
        out_hw = _elements(out) // max(1, cout)
        window = net.elements(source) // max(1, cin * groups) if transposed else out_hw
        kind = _conv_kind(kernel, groups, cin, cout)
        root = self._resolve(source)
        if len(net.shape(source)) == 4 and root not in self.blocked and cin * groups > 4:
            self._layout_op(f"{node.name}:layout", root)
        shape = {"cin": groups if kind == "depthwise" else cin, "cout": cout, "out_hw": out_hw}
        self._emit(
            node,
            kind,
            self._dtype(index),
            [source, *self.fusion.extra_inputs.get(index, ())],
            macs=window * cout * cin * _elements(kernel),
            kernel=kernel,
            groups=groups,
            **shape,
        )

    def _matmul(self, index: int) -> None:
        net, node = self.net, self.net.nodes[index]
        a, b, out = (net.shape(name) for name in (node.input[0], node.input[1], node.output[0]))
        constant = node.input[1] in net.static
        columns = out[-1] if out else 1
        inner = a[0] if net.attribute(node, "transA", 0) else (a[-1] if a else 1)
        rows = _elements(out) // max(1, columns)
        groups = 1
        if not constant and len(b) > 2:
            groups = _elements(out[:-2])
            rows //= max(1, groups)
        self._emit(
            node,
            "linear" if constant else "attention",
            self._dtype(index),
            self._activations(node),
            macs=groups * rows * inner * columns,
            kernel=(),
            groups=groups,
            cin=inner,
            cout=columns,
            out_hw=rows,
        )

    def _emit(
        self,
        node: onnx.NodeProto,
        kind: str,
        dtype: str,
        reads: list[str],
        *,
        macs: int = 0,
        cin: int = 0,
        cout: int = 0,
        kernel: tuple[int, ...] = (),
        groups: int = 1,
        out_hw: int = 0,
    ) -> None:
        net = self.net
        agnostic = kind in {"elementwise", "quantize", "dequantize"} or node.op_type in _BLOCKED_PRODUCERS
        if not agnostic and kind not in {"conv", "conv1x1", "depthwise", "grouped"}:
            for name in reads:
                self._leave_blocked(node, name)
        roots = list(dict.fromkeys(self._resolve(name) for name in reads))
        itemsize = 1 if dtype == "int8" else 4
        weights = sum(net.elements(name) for name in node.input if name in net.static) * itemsize
        written = 0
        for output in (name for name in node.output if name):
            size = net.elements(output) * self.fusion.out_itemsize(output, kind, dtype)
            self.size[output] = size
            written += size
            if node.op_type == "Conv" or (agnostic and any(root in self.blocked for root in roots)):
                self.blocked.add(output)
        bytes_in = sum(self.size.get(root, 0) for root in roots)
        name = node.name or next(iter(node.output), "")
        self.ops.append(Op(kind, dtype, name, macs, bytes_in, written, weights, cin, cout, kernel, groups, out_hw))
        self.touched.append((roots, [name for name in node.output if name]))

    def _peak(self) -> int:
        last: dict[str, int] = {}
        for step, (reads, writes) in enumerate(self.touched):
            for name in (*reads, *writes):
                last[name] = step
        for name in self.net.graph_outputs:
            last[self._resolve(name)] = len(self.touched)
        alive = {name for name in self.net.graph_inputs if name in last}
        peak = 0
        for step, (_, writes) in enumerate(self.touched):
            alive.update(writes)
            peak = max(peak, sum(self.size.get(name, 0) for name in alive))
            alive = {name for name in alive if last.get(name, -1) > step}
        return peak


def _conv_kind(kernel: tuple[int, ...], groups: int, cin: int, cout: int) -> str:
    if groups > 1:
        return "depthwise" if cin == 1 and cout == groups else "grouped"
    return "conv1x1" if _elements(kernel) == 1 else "conv"


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
        (_ELEMENTWISE, "elementwise"),
        (_MOVEMENT | PASSABLE, "movement"),
    )
    return next((kind for members, kind in groups if op_type in members), "other")
