"""An ONNX file of any maker, made like the graphs that our own export writes.

That is: opset 21, nothing inside of functions, constants as initialisers, BatchNorm folded, a batch of one or a free
one. What the graph computes is compared with what the file computes before anything else is done with it.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import TensorProto
from onnxscript import optimizer, rewriter, version_converter
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from autocompress.errors import CandidateError, TaskError, first_line
from autocompress.files import MODEL_BYTES, read_file
from autocompress.graphs.quantizable import SCOPES_KEY, quantizable_layers
from autocompress.runtimes.adapters.onnxruntime.inside import all_nodes
from autocompress.runtimes.base import Model, pieces, reference

OPSET, _IR_VERSION = 21, 10
TOLERANCE = 1e-3
"""Largest relative error of an output, prepared graph against file."""
_DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.BOOL: "bool",
}
_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_FOLDS = (fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule, fuse_batchnorm_into_gemm_rule)
_FOLDED_BYTES = 2**26
"""A constant that is larger is not computed beforehand."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class InputSpec:
    """What the file takes under one name."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    """Of one sample; None where any size is taken."""


@dataclass(frozen=True)
class GivenFile:
    """A file of the user's with the graph that stands for it."""

    path: Path
    sha256: str
    """Of the file's bytes; what lies beside it (external data) is in the graph."""
    original: onnx.ModelProto
    graph: onnx.ModelProto
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def sized(self, shapes: Mapping[str, tuple[int, ...]]) -> GivenFile:
        """The same with the sizes of the data in the place of those that the file leaves free.

        Args:
            shapes: of one sample of each input.
        """
        if not (free := [spec.name for spec in self.inputs if None in spec.shape]):
            return self
        graph = onnx.ModelProto()
        graph.CopyFrom(self.graph)
        for value in graph.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim[1:], shapes[value.name], strict=True):
                dim.dim_value = size
        sizes = ", ".join(f"{name} {shapes[name]}" for name in free)
        note = f"the files take one size of sample, that of the data ({sizes}), where the given one leaves it free"
        return replace(self, graph=graph, notes=(*self.notes, note))

    def checked(self, samples: Arrays) -> dict[str, NDArray[Any]]:
        """Compare graph and file; return the outputs of the file by name.

        Args:
            samples: inputs by name, two real ones.

        Raises:
            TaskError: the runtime cannot run the file on them, the outputs have no dimension of samples, or the graph
                computes something else.
        """
        expected, got = (self._run(proto, samples) for proto in (self.original, self.graph))
        n = len(next(iter(samples.values())))
        for name, values in expected.items():
            if not values.ndim or len(values) != n:
                raise TaskError(
                    f"{self.path}: every output must have one row for each sample, {name!r} has the shape "
                    f"{values.shape} for {n} samples; cut the file before what joins samples or picks some, such as "
                    "a non-maximum suppression"
                )
            if not np.isfinite(values).all():
                raise TaskError(
                    f"{self.path}: the output {name!r} is not finite on these data; check how they are scaled"
                )
            scale = max(1e-6, float(np.abs(values).max(initial=0)))
            error = float(np.abs(values.astype(np.float64) - got[name]).max(initial=0)) / scale
            if not error <= TOLERANCE:
                raise TaskError(
                    f"{self.path}: brought to opset {OPSET} the network computes something else: relative error of "
                    f"{name!r} {error:.2g}, allowed {TOLERANCE:g}; export it again with opset 18 or newer"
                )
        return expected

    def _run(self, proto: onnx.ModelProto, samples: Arrays) -> dict[str, NDArray[Any]]:
        try:
            model = load(proto)
            found = [model(piece) for piece in pieces(model, samples)]
        except CandidateError as error:
            raise TaskError(f"{self.path}: {first_line(error)}") from None
        ranks = {name: [np.ndim(outputs[name]) for outputs in found] for name in self.outputs}
        if any(0 in each for each in ranks.values()):
            return {name: np.asarray(found[0][name]) for name in self.outputs}
        return {name: np.concatenate([outputs[name] for outputs in found]) for name in self.outputs}


def load(proto: onnx.ModelProto) -> Model:
    """The graph in the reference runtime, on all cores."""
    return reference().load(proto.SerializeToString(), 0)


def read(path: str | Path) -> GivenFile:
    """Read an ONNX file and bring its graph into our form.

    Raises:
        TaskError: it is no ONNX file, cannot be used, or is quantised already; the message says what to do.
    """
    path = Path(path)
    content = read_file(path, TaskError, MODEL_BYTES)
    original = _parsed(path, content)
    _refuse_quantised(path, original)
    _drop_constant_inputs(original)
    inputs, outputs = _inputs(path, original), _outputs(path, original)
    graph = _prepared(path, original)
    return GivenFile(path, hashlib.sha256(content).hexdigest(), original, graph, inputs, outputs)


def _parsed(path: Path, content: bytes) -> onnx.ModelProto:
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf has its own kinds
        raise TaskError(f"{path}: is not an ONNX file: {first_line(error)}") from None
    if not proto.graph.node:
        raise TaskError(f"{path}: is not an ONNX file with a network: its graph has no nodes")
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except Exception as error:  # whatever onnx finds wrong with the other file
        raise TaskError(f"{path}: its weights lie in another file, which cannot be read: {first_line(error)}") from None
    if proto.ByteSize() > MODEL_BYTES - 1:
        raise TaskError(f"{path}: with its weights it has {proto.ByteSize():,} bytes; at most 2 GiB fit into one file")
    return proto


def _refuse_quantised(path: Path, proto: onnx.ModelProto) -> None:
    kinds = dict.fromkeys(node.op_type for node in all_nodes(proto.graph) if _is_quantised(node.op_type))
    if kinds:
        raise TaskError(
            f"{path}: is quantised already (it has {', '.join([*kinds][:3])}); give the float32 file that it was made "
            "from"
        )
    for tensor in (*proto.graph.initializer, *(v for node in all_nodes(proto.graph) for v in _values(node))):
        if tensor.data_type in _HALVES and len(tensor.dims) > 1:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise TaskError(f"{path}: holds weights in {kind}; export it in float32, the formats are chosen here")


def _is_quantised(op_type: str) -> bool:
    marks = ("Quantize", "QLinear", "NBits", "BnB4")
    return any(mark in op_type for mark in marks) or op_type.endswith("Integer") or op_type in ("QGemm", "QAttention")


def _values(node: onnx.NodeProto) -> Iterator[TensorProto]:
    return (a.t for a in node.attribute if a.type == onnx.AttributeProto.TENSOR)


def _drop_constant_inputs(proto: onnx.ModelProto) -> None:
    """Old files list their weights among the inputs."""
    constants = {i.name for i in proto.graph.initializer}
    kept = [value for value in proto.graph.input if value.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def _inputs(path: Path, proto: onnx.ModelProto) -> tuple[InputSpec, ...]:
    if not proto.graph.input:
        raise TaskError(f"{path}: the network has no inputs")
    found, batches = [], set()
    for value in proto.graph.input:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or kind.elem_type not in _DTYPES:
            got = (
                TensorProto.DataType.Name(kind.elem_type).lower() if value.type.HasField("tensor_type") else "no tensor"
            )
            raise TaskError(
                f"{path}: the input {value.name!r} must be a tensor of {', '.join(_DTYPES.values())}, got {got}"
            )
        dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
        if not kind.HasField("shape") or not dims:
            raise TaskError(
                f"{path}: the input {value.name!r} has no dimensions; every input must have the samples as its first"
            )
        batches.add(dims[0])
        found.append(InputSpec(value.name, _DTYPES[kind.elem_type], tuple(dims[1:])))
    if batches in ({None}, {1}):
        return tuple(found)
    sizes = " and ".join("any number" if b is None else str(b) for b in sorted(batches, key=lambda b: b or 0))
    raise TaskError(
        f"{path}: the first dimension of every input must be free or 1 (samples), got {sizes}; export it with a free "
        "batch, or for a batch of one"
    )


def _outputs(path: Path, proto: onnx.ModelProto) -> tuple[str, ...]:
    for value in proto.graph.output:
        if not value.type.HasField("tensor_type") or value.type.tensor_type.elem_type == TensorProto.STRING:
            raise TaskError(f"{path}: the output {value.name!r} is no tensor of numbers; cut the file before it")
    return tuple(value.name for value in proto.graph.output)


def _prepared(path: Path, original: onnx.ModelProto) -> onnx.ModelProto:
    versions = {o.domain: o.version for o in original.opset_import if o.domain in ("", "ai.onnx")}
    version = max(versions.values(), default=OPSET)
    try:
        with _quiet():
            model = onnx_ir.from_proto(original)
            optimizer.inline(model)
            if version != OPSET:
                version_converter.convert_version(model, OPSET, fallback=True)
            for _ in range(2):  # folding BatchNorm makes constants, and constants make BatchNorm foldable
                optimizer.optimize(model, input_size_limit=_FOLDED_BYTES, output_size_limit=_FOLDED_BYTES)
                rewriter.rewrite(model, pattern_rewrite_rules=_FOLDS)
            graph = onnx_ir.to_proto(model)
    except Exception as error:  # onnx and onnxscript raise their own kinds
        raise TaskError(
            f"{path}: cannot be brought from opset {version} to {OPSET}: {first_line(error)}; export it again with "
            "opset 18 to 21"
        ) from None
    got = next((o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")), None)
    if got != OPSET:
        raise TaskError(
            f"{path}: cannot be brought from opset {version} to {OPSET}; export it again with opset 18 to 21"
        )
    graph.ir_version = _IR_VERSION
    del graph.graph.value_info[:]
    _name_layers(graph, original)
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _name_layers(graph: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Name layers after their weights where these have names of a network, else after the nodes of the file."""
    known = {output: node.name for node in original.graph.node for output in node.output}
    taken: set[str] = set()
    names: dict[str, str] = {}
    for layer in quantizable_layers(graph):
        name = layer_name(layer.weight, [known.get(output, "") for output in layer.nodes]) or layer.name
        while name in taken:
            name += "_"
        taken.add(name)
        names |= dict.fromkeys(layer.nodes, name)
    for node in graph.graph.node:
        del node.metadata_props[:]
        if (first := node.output[0] if node.output else "") in names:
            node.metadata_props.add(key=SCOPES_KEY, value=repr(["", names[first], "layer"]))


def layer_name(weight: str, nodes: list[str]) -> str:
    """What people would call a layer, from the names of its weight and its nodes; nothing where neither says it.

    "features.0.weight" is features.0; the node "/layer1/layer1.0/conv1/Conv" is layer1.0.conv1; the node
    "StatefulPartitionedCall/model/conv/Conv2D" is model.conv.
    """
    if weight.endswith(".weight"):
        return weight.removesuffix(".weight")
    path: list[str] = []
    for part in next((name for name in nodes if "/" in name), "").strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        if part not in ("StatefulPartitionedCall", "PartitionedCall"):
            path.append(part)
    return ".".join(path)
