"""A runtime from another package: the evaluator of the ONNX standard, slow on purpose, with files of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx.reference import ReferenceEvaluator

from autocompress.runtimes.base import Model, Runtime, TensorSpec, reference
from autocompress.runtimes.capabilities import Support
from autocompress.runtimes.kernels import Forms

MARK = b"toy\0"
"""First bytes of its files, which no other runtime reads."""


class Toy(Runtime):
    """Every operator in numpy, one after the other."""

    name = "toy"
    title = "Toy"
    suffix = ".toy"
    library = "onnx"
    capabilities = Support(
        way="the file with a mark in front",
        weight_bits=frozenset({8, 32}),
        activation_bits=frozenset({8}),
        early_exits=True,
        reads_quantized=True,
    )

    def convert(self, graph: onnx.ModelProto) -> bytes:
        """The mark and the graph."""
        return MARK + graph.SerializeToString(deterministic=True)

    def open(self, file: bytes | Path, threads: int) -> Model:
        """An evaluator of the graph."""
        content = file if isinstance(file, bytes) else file.read_bytes()
        if not content.startswith(MARK):
            raise ValueError("not a file of this runtime")
        return _Evaluated(onnx.load_from_string(content.removeprefix(MARK)))

    def kernels(self, graph: onnx.ModelProto, outputs: Sequence[str] | None = None) -> Forms:
        """Those of ONNX Runtime."""
        return reference().kernels(graph, outputs)


class _Evaluated:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = ReferenceEvaluator(model)
        stored = {tensor.name for tensor in model.graph.initializer}
        specs = {value.name: _spec(value) for value in model.graph.input}
        self.inputs: Mapping[str, TensorSpec] = {name: specs[name] for name in specs if name not in stored}
        self.options: Mapping[str, TensorSpec] = {name: specs[name] for name in specs if name in stored}
        self.outputs: Sequence[str] = [value.name for value in model.graph.output]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(self.outputs, self._evaluator.run(None, dict(inputs)), strict=True))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
    return TensorSpec(shape, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
