"""From a torch module to an fp32 ONNX graph: BatchNorm folded, one export per architecture, then only rebound.

Exporting takes seconds; putting the weights of a pruned copy into the graph of the original takes milliseconds.
The rebound graph is checked against the torch module and exported anew where they differ.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import fusion

from autocompress.errors import CandidateError, first_line, user_line
from autocompress.graphs.quantizable import quantizable_layers
from autocompress.runtimes.base import reference
from autocompress.runtimes.input_shapes import USUAL_SHAPE
from autocompress.tasks.interface import INPUT, Inputs, arrays, n_samples, replaced, values
from autocompress.tasks.torch_utils import evaluating, outputs_of

OPSET = 21
_OWN = "_output"
"""Ending of outputs whose names the exporter may have given to other values."""
TOLERANCE = 1e-3  # largest relative error of the logits, file against torch, before any quantisation

BatchNormPairs = tuple[tuple[str, str], ...]
FreeAxes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Exported:
    """An exported network."""

    proto: onnx.ModelProto
    program: torch.export.ExportedProgram
    dynamic_batch: bool


def export(
    model: nn.Module, samples: Inputs, output_names: Sequence[str], free: FreeAxes = MappingProxyType({})
) -> Exported:
    """Export with a free batch dimension, or a fixed batch of one where the network does not allow it.

    Args:
        model: in float32.
        samples: real inputs, each (N, ...), best two: a network that looks up embeddings takes no others.
        output_names: one for each output; one that is taken gets an ending.
        free: other axes of inputs, by name, along which the graph is to take any size.

    The exporter merges equal tensors and drops zero biases, which a graph that is to be trained or rebound must
    keep: a copy with random parameters is exported and the real ones are put back. Where parameters were folded
    into other constants, so that this fails, the model itself is exported.

    Raises:
        CandidateError: the network cannot be exported at all, or not with these free axes.
    """
    exported = _export(_randomised(model), samples, output_names, free)
    proto = rebind(exported.proto, model)
    if disagreement(proto, model, _two(samples)) > TOLERANCE:
        return _export(model, samples, output_names, free)
    with torch.no_grad():
        real = model.state_dict()
        for name, tensor in exported.program.state_dict.items():
            tensor.copy_(real[name])
    return Exported(proto, exported.program, exported.dynamic_batch)


def _randomised(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.is_floating_point():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return copied


def _export(model: nn.Module, samples: Inputs, output_names: Sequence[str], free: FreeAxes) -> Exported:
    errors = []
    for dynamic in (True, False):
        batch = _doubled(samples) if dynamic else replaced(samples, lambda tensor: tensor[:1])
        shapes = _dynamic_shapes(model, _named(batch), free, batch=dynamic)
        try:
            with _silence(), evaluating(model):
                program = torch.onnx.export(
                    model,
                    values(batch),
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=[*_named(samples)],
                    output_names=[f"{name}{_OWN}" for name in output_names],
                    dynamic_shapes=shapes,
                    verbose=False,
                )
            assert program is not None
            proto = copy.deepcopy(program.model_proto)
            _name_outputs(proto)
            assert program.exported_program is not None
            if dynamic and not _takes_batches(proto):
                raise ValueError("the exporter fixed the batch at that of the example")
            if fixed := _fixed_axes(proto, free):
                raise ValueError(f"the network takes one size only along {fixed}; leave it out of free_axes")
            return Exported(proto, program.exported_program, dynamic)
        except Exception as error:  # the exporter raises anything on code it cannot follow
            errors.append(error)
    raise CandidateError(f"the model cannot be exported to ONNX: {_reason(errors[-1])}") from errors[-1]


def _name_outputs(proto: onnx.ModelProto) -> None:
    """Give the outputs their names; one that an input or another value has too keeps the ending."""
    graph = proto.graph
    outputs = [value.name for value in graph.output]
    taken = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    taken |= {initializer.name for initializer in graph.initializer}
    renamed = {name: name.removesuffix(_OWN) for name in outputs if name.removesuffix(_OWN) not in taken}
    for node in graph.node:
        for side in (node.input, node.output):
            for i, name in enumerate(side):
                side[i] = renamed.get(name, name)
    for value in (*graph.output, *graph.value_info):
        value.name = renamed.get(value.name, value.name)


def _named(inputs: Inputs) -> dict[str, Tensor]:
    return {INPUT: inputs} if isinstance(inputs, Tensor) else dict(inputs)


def _dynamic_shapes(model: nn.Module, inputs: Mapping[str, Tensor], free: FreeAxes, *, batch: bool) -> Any:
    """The free axes of each input; those that `forward(*inputs)` takes together are one argument to torch."""
    first: dict[int, Any] = {0: torch.export.Dim("batch")} if batch else {}
    axes = tuple({**first, **{k: f"size{k}" for k in free.get(name, ())}} for name in inputs)
    parameter = next(iter(inspect.signature(model.forward).parameters.values()), None)
    if not any(axes):
        return None
    return (axes,) if parameter and parameter.kind is parameter.VAR_POSITIONAL else axes


def _fixed_axes(proto: onnx.ModelProto, free: FreeAxes) -> str:
    """Axes of inputs that should be free and are not."""
    dims = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
    fixed = [f"axis {k} of {name}" for name in free for k in free[name] if dims[name][k].HasField("dim_value")]
    return " and ".join(fixed)


def _reason(error: BaseException) -> str:
    """What torch found, and where in the user's code: the innermost cause, below torch's advice to its developers."""
    place = user_line(error)
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}{place}"


def batchnorm_pairs(model: nn.Module, samples: Inputs) -> BatchNormPairs:
    """Names of (convolution or linear layer, BatchNorm) that can be merged without a change of what the model computes.

    All that feed each other and nothing else, if they hold together; else those that hold one after the other.

    `samples` are real inputs, each (N, ...), as for `export`.
    """
    pairs = _traced_pairs(model, samples)
    if not pairs:
        return ()
    uneven, samples = _with_uneven_norms(model), _two(samples)
    if _holds(uneven, pairs, samples):
        return pairs
    kept: BatchNormPairs = ()
    for pair in pairs:
        if _holds(uneven, (*kept, pair), samples):
            kept = (*kept, pair)
    return kept


def _traced_pairs(model: nn.Module, samples: Inputs) -> BatchNormPairs:
    """Candidates, read off the graph that torch.export traces, so that functional code is followed too.

    The graph has one name for all calls of a module and no axes: not all of them can be folded.
    """
    try:
        with _silence(), evaluating(model):
            program = torch.export.export(model, values(_doubled(samples)), strict=False)
    except Exception:  # not exportable: `export` will say why; nothing is folded
        return ()
    owners = {
        spec.arg.name: spec.target.rpartition(".")[0]
        for spec in program.graph_signature.input_specs
        if spec.target is not None
    }
    pairs: list[tuple[str, str]] = []
    for node in program.graph.nodes:
        if "batch_norm" not in str(node.target) or node.op != "call_function":
            continue
        source = node.args[0]
        foldable = str(source.target).startswith(("aten.conv", "aten.linear"))
        weight = owners.get(source.args[1].name) if foldable and len(source.users) == 1 else None
        norm = next((owners[a.name] for a in node.args[1:] if getattr(a, "name", None) in owners), None)
        if weight is not None and norm is not None:
            pairs.append((weight, norm))
    shared = [name for pair in dict.fromkeys(pairs) for name in pair]
    return tuple(p for p in dict.fromkeys(pairs) if all(shared.count(name) == 1 for name in p))


def _with_uneven_norms(model: nn.Module) -> nn.Module:
    """A copy in which every BatchNorm changes its input: in a fresh network they do not, and any fold would hold."""
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for module in copied.modules():
        variance = getattr(module, "running_var", None)
        if isinstance(variance, Tensor):
            variance.mul_(0.5 + torch.rand(variance.shape, generator=generator))
    return copied


def _holds(model: nn.Module, pairs: BatchNormPairs, samples: Inputs) -> bool:
    """Whether the model computes the same with these pairs folded."""
    try:
        expected, got = outputs_of(model, samples), outputs_of(fold_batchnorm(model, pairs), samples)
    except Exception:  # torch asserts, or misses attributes, where it cannot fuse
        return False
    return all(bool((a - b).abs().max() <= TOLERANCE * a.abs().max()) for a, b in zip(expected, got, strict=True))


def fold_batchnorm(model: nn.Module, pairs: BatchNormPairs) -> nn.Module:
    """A copy of the model, in evaluation mode, with every pair merged into its convolution or linear layer.

    What a BatchNorm holds besides its statistics stays in its place: the activation of timm's norm-act blocks.
    """
    model = copy.deepcopy(model).eval()
    for layer_name, norm_name in pairs:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        model.set_submodule(layer_name, _fused(layer, norm))
        model.set_submodule(norm_name, nn.Sequential(*norm.children()))
    return model


def _fused(layer: nn.Module, norm: Any) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return fusion.fuse_linear_bn_eval(layer, norm)
    fuse: Any = fusion.fuse_conv_bn_eval
    return cast(nn.Module, fuse(layer, norm, transpose=isinstance(layer, _ConvTransposeNd)))


def rebind(template: onnx.ModelProto, model: nn.Module) -> onnx.ModelProto:
    """Put the parameters of a pruned copy into the exported graph of the original.

    Correct for networks whose graph holds no widths besides the weights; check with `disagreement`.
    """
    proto = copy.deepcopy(template)
    graph = proto.graph
    tensors = dict(model.state_dict())
    modules = dict(model.named_modules())
    for layer in quantizable_layers(template):  # the exporter transposes the weights of MatMul into constants
        if layer.op_type == "MatMul" and layer.weight not in tensors and f"{layer.name}.weight" in tensors:
            tensors[layer.weight] = tensors[f"{layer.name}.weight"].T
    for initializer in graph.initializer:
        if initializer.name in tensors:
            value = tensors[initializer.name].detach().contiguous().numpy()
            initializer.CopyFrom(numpy_helper.from_array(value, initializer.name))
    shapes = {value.name: _dims(value) for value in (*graph.value_info, *graph.input)}
    del graph.value_info[:]
    constants = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv":
            module = modules.get(node.input[1].rpartition(".")[0])
            for attribute in node.attribute:
                if attribute.name == "group" and isinstance(module, (nn.Conv1d, nn.Conv2d)):
                    attribute.i = module.groups
        elif node.op_type == "Reshape" and _flattens(shapes.get(node.input[0], []), constants.get(node.input[1])):
            # the constant holds the width of the original
            data = node.input[0]
            del node.input[:], node.attribute[:]
            node.input.append(data)
            node.op_type = "Flatten"
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
    return proto


def _dims(value: onnx.ValueInfoProto) -> list[int | None]:
    return [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]


def _flattens(dims: Sequence[int | None], target: onnx.TensorProto | None) -> bool:
    """Whether a Reshape to `target` keeps the first dimension and joins all others."""
    if target is None or list(target.dims) != [2] or len(dims) < 2:
        return False
    known = [d for d in dims[1:] if d is not None]
    return len(known) == len(dims) - 1 and math.prod(known) == int(numpy_helper.to_array(target)[1])


def disagreement(proto: onnx.ModelProto, model: nn.Module, inputs: Inputs) -> float:
    """Largest difference of any output between file and torch, relative to the largest output.

    Only the first sample counts where the file takes one at a time. One sample alone says little of a file that takes
    more: what mixes up batch and tokens is right for it. Infinite where the file does not run or gives no numbers.
    """
    if not _takes_batches(proto):
        inputs = replaced(inputs, lambda tensor: tensor[:1])
    expected = outputs_of(model, inputs)
    try:
        got = reference().load(proto.SerializeToString())(arrays(_named(inputs))).values()
    except Exception:  # of protobuf, or the graph does not fit
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, got, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel():
            expected_values = a.numpy().astype(np.float64)
            scale = max(1.0, float(np.abs(expected_values).max()))
            worst = max(worst, float(np.nan_to_num(np.abs(expected_values - b).max(), nan=np.inf)) / scale)
    return worst


def _takes_batches(proto: onnx.ModelProto) -> bool:
    return not any(value.type.tensor_type.shape.dim[0].HasField("dim_value") for value in proto.graph.input)


def strip(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what only debuggers read: shapes of intermediate values, doc strings, traces of the exporter."""
    proto = copy.deepcopy(proto)
    del proto.graph.value_info[:], proto.metadata_props[:], proto.functions[:]
    del proto.graph.metadata_props[:]
    proto.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.doc_string = ""
        kept = [prop for prop in value.metadata_props if prop.key == USUAL_SHAPE]
        del value.metadata_props[:]
        value.metadata_props.extend(kept)
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return proto


def _doubled(samples: Inputs) -> Inputs:
    """Two samples of the first: a batch of one is taken for a constant."""
    return replaced(samples, lambda tensor: tensor[:1].repeat(2, *(1 for _ in tensor.shape[1:])))


def _two(samples: Inputs) -> Inputs:
    """Two samples to compare networks on; noise instead of floats that are one number only, which tell nothing."""
    if n_samples(samples) < 2:
        samples = _doubled(samples)
    return replaced(samples, _told_apart)


def _told_apart(samples: Tensor) -> Tensor:
    if not samples.is_floating_point() or samples.min() < samples.max():
        return samples[:2]
    return torch.rand((2, *samples.shape[1:]), generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def _nowhere() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter prints, logs and warns; errors still come as exceptions."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), _nowhere():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
