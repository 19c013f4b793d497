"""Looks inside of graphs as ONNX Runtime runs them: values of inner tensors, operators after its optimisation."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from autocompress.runtimes.adapters.onnxruntime.session import Session
from autocompress.runtimes.base import Guarded, Model

_WITHOUT_LAYOUTS = "ORT_ENABLE_EXTENDED"
"""Optimised, but for changes of the order of channels: tensors keep their shapes."""


def with_inner_tensors(graph: onnx.ModelProto, tensors: Sequence[str]) -> Model:
    """Load a graph that returns, besides its outputs, the float values of these tensors. It runs on all cores."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    known = {value.name for value in (*copy.graph.output, *copy.graph.input)}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors if name not in known
    )
    return Guarded(Session(copy.SerializeToString(), 0, _WITHOUT_LAYOUTS), "ONNX Runtime")


def as_written(graph: onnx.ModelProto) -> Model:
    """Load a graph in which no kernels are fused: every rounding is carried out where it is written."""
    return Guarded(Session(graph.SerializeToString(), 1, "ORT_DISABLE_ALL"), "ONNX Runtime")


def optimized_op_counts(model: onnx.ModelProto) -> Counter[str]:
    """Count the operators of `model` after ONNX Runtime's own optimisation, sub-graphs included.

    This proves which int8 kernels really run: QLinearConv, QGemm, MatMulIntegerToFloat, QLinearAdd and so on.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(str(path))
    return Counter(node.op_type for node in all_nodes(optimized.graph))


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of `graph` and of all its sub-graphs."""
    for node in graph.node:
        yield node
        for item in node.attribute:
            for inner in (item.g, *item.graphs):
                yield from all_nodes(inner)
