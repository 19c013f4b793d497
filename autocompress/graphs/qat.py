"""The trainable twin of an ONNX graph, for quantisation-aware training.

One `torch.onnx.export` gives both an ONNX graph and the fx graph it was made from, with the same value names.
The twin is that fx graph with fake quantisers at the places of the plan; what it learns goes back by name.
The twin's forward pass is that of the exported file: dropout is off and batch normalisation is frozen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, fx, nn

from autocompress.errors import CandidateError
from autocompress.graphs.qdq import ActivationRange, WeightQuant, quantize_weights
from autocompress.graphs.quantizable import (
    Graph,
    PlannedActivation,
    PlannedLayer,
    QuantPlan,
    quantizable_layers,
    scopes,
    weight_of,
)

_SMALLEST_SCALE = 1e-12
_UINT8_MAX = 255


class ActivationQuantizer(nn.Module):
    """Fake uint8 quantiser of a tensor with a learnable scale and a fixed zero point.

    Reference: Esser et al., "Learned Step Size Quantization", ICLR 2020.
    """

    zero_point: Tensor

    def __init__(self, code: ActivationRange, maximum: float | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([code.scale], dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor([float(code.zero_point)]))
        # A range wider than the Clip before it would keep that Clip, and the layer, out of the int8 kernel.
        self._limit = float("inf") if maximum is None else maximum / _UINT8_MAX

    def step(self) -> Tensor:
        """Return the scale in use, shape (1,), positive."""
        return self.scale.abs().clamp(_SMALLEST_SCALE, self._limit)

    def code(self) -> ActivationRange:
        """Return the learned code."""
        return ActivationRange(float(self.step().item()), int(self.zero_point.item()))

    def forward(self, x: Tensor) -> Tensor:
        """Round `x`, any shape with the batch first, to the values the code can hold."""
        per_sample = max(x.numel() // max(x.shape[0], 1), 1) if x.dim() else 1
        factor = float((per_sample * _UINT8_MAX) ** -0.5)
        quantized: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
            x, self.step(), self.zero_point, 0, _UINT8_MAX, factor
        )
        return quantized


class WeightQuantizer(nn.Module):
    """Fake symmetric quantiser of a weight with one learnable scale per output channel, or per row of a table."""

    zero_point: Tensor

    def __init__(self, scale: NDArray[np.float32], axis: int, bits: int, limits: tuple[int, int]) -> None:
        super().__init__()
        self.axis, self.bits, self.limits = axis, bits, limits
        self.scale = nn.Parameter(torch.from_numpy(np.array(scale, dtype=np.float32)))
        self.register_buffer("zero_point", torch.zeros(len(scale)))

    def step(self) -> Tensor:
        """Return the scales in use, shape (output channels,) or (rows,), positive."""
        return self.scale.abs().clamp_min(_SMALLEST_SCALE)

    def forward(self, weight: Tensor) -> Tensor:
        """Round `weight` to its grid, scales along `axis`."""
        low, high = self.limits
        factor = float((weight.numel() / weight.shape[self.axis] * high) ** -0.5)
        quantized: Tensor = torch._fake_quantize_learnable_per_channel_affine(
            weight, self.step(), self.zero_point, self.axis, low, high, factor
        )
        return quantized

    @torch.no_grad()
    def integers(self, weight: Tensor) -> NDArray[np.int8]:
        """Return the integer code of `weight`, computed as `forward` does."""
        shape = [-1 if k == self.axis else 1 for k in range(weight.dim())]
        codes = (weight * (1.0 / self.step()).view(shape)).round().clamp(*self.limits)
        values: NDArray[np.int8] = codes.to(torch.int8).numpy()
        return values


@dataclass(frozen=True, slots=True)
class _Binding:
    """An initialiser of the template and the parameter it holds."""

    initializer: str
    parameter: str
    transposed: bool


@dataclass
class Twin:
    """A trainable network that computes what the quantised file will compute."""

    module: nn.Module
    """forward(x) -> logits, or a tuple of logits when the graph has several outputs."""
    skipped: tuple[str, ...]
    """Tensors and layers without a counterpart (not fake-quantised) and parameters that cannot be put back
    (frozen); each with its kind, such as "activation val_3"."""
    _template: onnx.ModelProto
    _ranges: dict[str, ActivationRange]
    _bindings: list[_Binding]
    _activations: dict[str, ActivationQuantizer] = field(default_factory=dict)
    _weights: dict[str, tuple[WeightQuantizer, str, bool]] = field(default_factory=dict)

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the trainable weights, biases and other parameters of the network itself."""
        scales = {id(p) for p in self.scale_parameters()}
        return [p for p in self.module.parameters() if p.requires_grad and id(p) not in scales]

    def scale_parameters(self) -> list[nn.Parameter]:
        """Return the learnable scales; they want a learning rate well below that of the weights."""
        quantizers = (m for m in self.module.modules() if isinstance(m, ActivationQuantizer | WeightQuantizer))
        return [quantizer.scale for quantizer in quantizers]

    def extract(self) -> tuple[onnx.ModelProto, dict[str, ActivationRange], dict[str, WeightQuant]]:
        """Return what `write_qdq` needs: the graph with the trained float weights, the ranges, the integers.

        Raises:
            CandidateError: training left a parameter that is not finite.
        """
        parameters = {n: p.detach() for n, p in self.module.named_parameters(remove_duplicate=False)}
        bad = [name for name, value in parameters.items() if not bool(torch.isfinite(value).all())]
        if bad:
            raise CandidateError(f"training diverged: {bad[0]!r} is not finite; lower the learning rate")
        model = onnx.ModelProto()
        model.CopyFrom(self._template)
        initializers = {i.name: i for i in model.graph.initializer}
        for binding in self._bindings:
            value = parameters[binding.parameter]
            array = (value.T if binding.transposed else value).contiguous().cpu().numpy()
            initializers[binding.initializer].CopyFrom(numpy_helper.from_array(array, binding.initializer))
        ranges = {**self._ranges, **{name: q.code() for name, q in self._activations.items()}}
        weights = {
            name: _weight_quant(quantizer, parameters[parameter], transposed)
            for name, (quantizer, parameter, transposed) in self._weights.items()
        }
        return model, ranges, weights


def _weight_quant(quantizer: WeightQuantizer, weight: Tensor, transposed: bool) -> WeightQuant:
    values, axis = quantizer.integers(weight), quantizer.axis
    if transposed:
        values, axis = np.ascontiguousarray(values.T), 1 - axis
    return WeightQuant(values, quantizer.step().detach().numpy().copy(), axis, quantizer.bits)


def build_twin(
    program: torch.export.ExportedProgram,
    model: onnx.ModelProto,
    plan: QuantPlan,
    ranges: Mapping[str, ActivationRange],
) -> Twin:
    """Build the trainable twin of `model`.

    Args:
        program: `exported_program` of the `torch.onnx.export` call that made `model`. It is not changed.
        model: the fp32 graph, with the weights of that export.
        plan: the plan made for `model`.
        ranges: start values of the activation scales, from `observe`.

    Raises:
        CandidateError: a range is missing.
    """
    missing = [a.tensor for a in plan.activations if a.tensor not in ranges]
    if missing:
        raise CandidateError(f"no activation range for {', '.join(missing)}; observe the same plan first")
    return _Builder(program, model, plan, ranges).build()


def _trainable_graph(program: torch.export.ExportedProgram) -> tuple[fx.GraphModule, list[fx.Node]]:
    """Return an independent plain copy of the exported graph, and its output nodes.

    The exported module refuses train() and eval() and guards its input shapes; a rebuilt one does not.
    """
    exported = program.module(check_guards=False)
    module = copy.deepcopy(fx.GraphModule(exported, exported.graph))
    module.graph.set_codegen(fx.graph.CodeGen())
    for node in list(module.graph.nodes):
        if node.op == "call_module" and "guard" in str(node.target) and not node.users:
            module.graph.erase_node(node)
    output = next(node for node in module.graph.nodes if node.op == "output")
    values = list(output.all_input_nodes) if isinstance(output.args[0], fx.Node) else []
    if not values:
        assert isinstance(output.args[0], tuple | list)
        values = [v for v in output.args[0] if isinstance(v, fx.Node)]
    output.args = (values[0] if len(values) == 1 else tuple(values),)
    return module, values


class _Builder:
    def __init__(
        self,
        program: torch.export.ExportedProgram,
        model: onnx.ModelProto,
        plan: QuantPlan,
        ranges: Mapping[str, ActivationRange],
    ) -> None:
        self.template = onnx.ModelProto()
        self.template.CopyFrom(model)
        self.graph = Graph(self.template.graph)
        self.plan, self.ranges = plan, ranges
        self.module, outputs = _trainable_graph(program)
        self.by_name = {node.name: node for node in self.module.graph.nodes}
        placeholders = [n for n in self.module.graph.nodes if n.op == "placeholder"]
        self.last_placeholder = placeholders[-1]
        # The caller names the graph's inputs and outputs; only in between do the names agree.
        self.by_name |= dict(zip(self.graph.inputs, placeholders, strict=False))
        names = [o.name for o in self.template.graph.output]
        self.by_name |= dict(zip(names, outputs, strict=False))
        self.parameters = dict(self.module.named_parameters(remove_duplicate=False))
        self.skipped: list[str] = []
        self.bound: dict[str, _Binding] = {}  # by initialiser
        self.sources: dict[str, tuple[fx.Node, fx.Node, bool]] = {}  # layer node -> call, get_attr, transposed

    def build(self) -> Twin:
        self._bind_by_name()
        self._bind_layers()
        self._bind_merged()
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in {b.parameter for b in self.bound.values()})
        weights = self._quantize_weights()
        activations = self._quantize_activations()
        self.module.graph.lint()
        self.module.recompile()
        return Twin(
            self.module,
            tuple(self.skipped),
            self.template,
            dict(self.ranges),
            list(self.bound.values()),
            activations,
            weights,
        )

    def _fx_node(self, node: onnx.NodeProto) -> fx.Node | None:
        """Return the torch call that became `node`; Linear on 3-D input, for one, becomes several nodes."""
        found = self.by_name.get(node.output[0])
        path = scopes(node)
        return found if found is not None or not path else self.by_name.get(path[-1])

    # -- which initialiser holds which parameter ------------------------------------------------------------

    def _bind_by_name(self) -> None:
        for name, initializer in self.graph.initializers.items():
            parameter = self.parameters.get(name)
            if parameter is not None and _equal(numpy_helper.to_array(initializer), parameter):
                self.bound[name] = _Binding(name, name, False)

    def _bind_layers(self) -> None:
        """Bind the weights of layers, which the exporter may have transposed into anonymous constants."""
        for layer in quantizable_layers(self.template):
            for output in layer.nodes:
                node = self.graph.producer[output]
                call = self._fx_node(node)
                found = None if call is None else self._weight_of(call, node)
                if call is None or found is None:
                    continue
                attr, transposed = found
                self.sources[output] = (call, attr, transposed)
                self._bind(node, list(node.input).index(weight_of(node)), str(attr.target), transposed)

    def _weight_of(self, call: fx.Node, node: onnx.NodeProto) -> tuple[fx.Node, bool] | None:
        array = numpy_helper.to_array(self.graph.initializers[weight_of(node)])
        # A symmetric matrix equals its transpose only until it is trained: ask the likelier layout first.
        flips = (True, False) if node.op_type == "MatMul" else (False, True)
        for attr in _constants_of(call):
            parameter = self.parameters.get(str(attr.target))
            for flip in flips if parameter is not None and array.ndim == 2 else (False,):
                if parameter is not None and _equal(array.T if flip else array, parameter):
                    return attr, flip
        return None

    def _bind(self, node: onnx.NodeProto, index: int, parameter: str, transposed: bool) -> None:
        """Let input `index` of `node` hold `parameter`, in an initialiser of its own where that is needed."""
        name = node.input[index]
        wanted = _Binding(name, parameter, transposed)
        known = self.bound.setdefault(name, wanted)
        if known.transposed == transposed and self._same(known.parameter, parameter):
            return
        # The exporter merges initialisers that hold equal values; training will make them different.
        own = f"{parameter}.T" if transposed else parameter
        if own not in self.graph.initializers:
            added = self.template.graph.initializer.add()
            added.CopyFrom(self.graph.initializers[name])
            added.name = own
            self.graph.initializers[own] = added
        node.input[index] = own
        self.bound[own] = _Binding(own, parameter, transposed)

    def _same(self, a: str, b: str) -> bool:
        return self.parameters[a] is self.parameters[b]

    def _bind_merged(self) -> None:
        """Give parameters that the exporter merged into an equal one their own initialiser again."""
        bound = {id(self.parameters[b.parameter]) for b in self.bound.values()}
        for name, parameter in self.parameters.items():
            if id(parameter) in bound:
                continue
            attrs = [n for n in self.module.graph.nodes if n.op == "get_attr" and n.target == name]
            uses = [self._uses(attr, user, parameter) for attr in attrs for user in attr.users]
            if uses and all(use is not None and len(use) == 1 for use in uses):
                for use in uses:
                    for node, index in use or ():
                        self._bind(node, index, name, False)
            elif uses:
                self.skipped.append(f"parameter {name}")
                if any(use != [] for use in uses):
                    self._unbind_equal(parameter)

    def _uses(self, attr: fx.Node, user: fx.Node, parameter: Tensor) -> list[tuple[onnx.NodeProto, int]] | None:
        """Return where the ONNX nodes of the torch call `user` read `parameter`; None without such nodes.

        The list is empty where the exporter left the parameter out, as it does with a bias of zeros.
        """
        nodes = [node for node in self.graph.nodes if self._fx_node(node) is user]
        matches = []
        for node in nodes:
            for index, name in enumerate(node.input):
                initializer = self.graph.initializers.get(name)
                if initializer is not None and _equal(numpy_helper.to_array(initializer), parameter):
                    matches.append((node, index))
        position = user.all_input_nodes.index(attr)
        exact = [match for match in matches if match[1] == position]
        return (exact or matches) if nodes else None

    def _unbind_equal(self, parameter: Tensor) -> None:
        """Freeze what shares an initialiser with a parameter that has to stay as it is."""
        for name, binding in list(self.bound.items()):
            other = self.parameters[binding.parameter]
            if other.shape == parameter.shape and torch.equal(other, parameter):
                del self.bound[name]
                self.skipped.append(f"parameter {binding.parameter}")

    # -- fake quantisers ------------------------------------------------------------------------------------

    def _quantize_weights(self) -> dict[str, tuple[WeightQuantizer, str, bool]]:
        initial = quantize_weights(self.template, self.plan)
        quantizers: dict[tuple[int, int, int], WeightQuantizer] = {}
        inserted: dict[tuple[fx.Node, WeightQuantizer], fx.Node] = {}
        result: dict[str, tuple[WeightQuantizer, str, bool]] = {}
        for layer in self.plan.layers:
            if layer.weight_bits > 8:
                continue
            if layer.node not in self.sources:
                self.skipped.append(f"layer {layer.layer}")
                continue
            call, attr, transposed = self.sources[layer.node]
            name, target = weight_of(self.graph.producer[layer.node]), str(attr.target)
            axis = 1 - layer.axis if transposed else layer.axis
            key = id(self.parameters[target]), layer.weight_bits, axis
            if key not in quantizers:
                quantizers[key] = self._new_weight_quantizer(layer, initial[name], axis, len(quantizers))
            quantizer = quantizers[key]
            if (attr, quantizer) not in inserted:
                inserted[attr, quantizer] = self._insert(attr, attr, quantizer)
            _redirect(call, attr, inserted[attr, quantizer])
            result[name] = quantizer, target, transposed
        return result

    def _new_weight_quantizer(
        self, layer: PlannedLayer, initial: WeightQuant, axis: int, count: int
    ) -> WeightQuantizer:
        limits = self.plan.weight_limits(layer.weight_bits)
        quantizer = WeightQuantizer(initial.scale, axis, layer.weight_bits, limits)
        self.module.add_submodule(f"quantize_weight_{count}", quantizer)
        return quantizer

    def _insert(self, value: fx.Node, after: fx.Node, quantizer: nn.Module) -> fx.Node:
        target = next(name for name, module in self.module.named_children() if module is quantizer)
        with self.module.graph.inserting_after(after):
            return self.module.graph.call_module(target, (value,))

    def _quantize_activations(self) -> dict[str, ActivationQuantizer]:
        by_source: dict[str, ActivationQuantizer] = {}
        result: dict[str, ActivationQuantizer] = {}
        for count, activation in enumerate(self.plan.activations):
            value = self.by_name.get(activation.tensor)
            if value is None:
                self.skipped.append(f"activation {activation.tensor}")
                continue
            quantizer = by_source.get(activation.source)
            if quantizer is None:
                quantizer = ActivationQuantizer(self.ranges[activation.tensor], activation.maximum)
                by_source[activation.source] = quantizer
                self.module.add_submodule(f"quantize_activation_{count}", quantizer)
            after = self.last_placeholder if value.op == "placeholder" else value
            self._redirect_consumers(activation, value, self._insert(value, after, quantizer))
            result[activation.tensor] = quantizer
        return result

    def _redirect_consumers(self, activation: PlannedActivation, value: fx.Node, quantized: fx.Node) -> None:
        if activation.exclusive:
            # What the graph returns stays fp32, as in the file.
            value.replace_all_uses_with(
                quantized, delete_user_cb=lambda user: user is not quantized and user.op != "output"
            )
            return
        for output in activation.consumers:
            call = self._fx_node(self.graph.producer[output])
            if call is None or not _redirect(call, value, quantized):
                self.skipped.append(f"activation {activation.tensor} at {output}")


def _equal(array: NDArray[Any], parameter: Tensor) -> bool:
    return tuple(array.shape) == tuple(parameter.shape) and np.array_equal(array, parameter.detach().cpu().numpy())


def _constants_of(call: fx.Node) -> Iterator[fx.Node]:
    """Yield the constants a call reads, also those behind a transpose or another one-input call."""
    for value in call.all_input_nodes:
        node = value
        for _ in range(3):
            if node.op == "call_function" and len(node.all_input_nodes) == 1:
                node = node.all_input_nodes[0]
        if node.op == "get_attr":
            yield node


def _redirect(call: fx.Node, old: fx.Node, new: fx.Node) -> bool:
    """Let `call` read `new` instead of `old`; between them may lie a transpose, or a dropout that is off."""
    if old in call.all_input_nodes:
        call.replace_input_with(old, new)
        return True
    for value in call.all_input_nodes:
        node = value
        while node.op == "call_function" and len(node.all_input_nodes) == 1 and len(node.users) == 1:
            if node.all_input_nodes[0] is old:
                node.replace_input_with(old, new)
                return True
            node = node.all_input_nodes[0]
    return False
