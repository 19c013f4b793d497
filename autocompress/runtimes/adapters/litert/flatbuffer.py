"""A .tflite file while it is written: tensors, constants and operators, by the schema that ai-edge-litert brings.

The schema is described in https://ai.google.dev/edge/litert and in schema.fbs of LiteRT's sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autocompress.runtimes.quantized_graph import Code

_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_SHIFT = 128
"""Codes are uint8 in our files and int8 here: the same scale, and a zero point that is so much lower."""
_OPTIONS = {
    "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "PADV2": "PadV2Options",
}
"""Options that are not called as their operator."""
_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "TRANSPOSE_CONV": 3, "RESIZE_BILINEAR": 3}
_VERSIONS |= {
    "RESIZE_NEAREST_NEIGHBOR": 3,
    "GATHER": 2,
    "BROADCAST_TO": 2,
    "STRIDED_SLICE": 2,
    "QUANTIZE": 2,
    "BATCH_MATMUL": 2,
}
_VERSIONS |= dict.fromkeys(("ADD", "SUB", "MUL", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "PAD", "PADV2"), 2)
_VERSIONS |= dict.fromkeys(("MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION", "SOFTMAX", "TRANSPOSE", "SLICE"), 2)
_VERSIONS |= dict.fromkeys(("RELU", "RELU6", "LOGISTIC", "TANH", "LEAKY_RELU", "MAXIMUM", "MINIMUM", "DEQUANTIZE"), 2)
"""Least versions of operators that know int8, or the option that we use."""


class File:
    """One sub-graph. A tensor is known by its number."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated

        self._schema: Any = schema_py_generated
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}
        self._buffers: list[Any] = [self._schema.BufferT()]
        self._constants: dict[tuple[Any, ...], int] = {}

    @property
    def has_floats(self) -> bool:
        """Whether a tensor holds floats."""
        return any(tensor.type == self._schema.TensorType.FLOAT32 for tensor in self._tensors)

    def tensor(self, shape: Sequence[int], dtype: np.dtype[Any], code: Code | None = None) -> int:
        """A tensor that an operator writes; int8 if it has a code."""
        made = self._schema.TensorT()
        made.shape = [int(size) for size in shape]
        made.type = getattr(self._schema.TensorType, np.dtype(np.int8 if code else dtype).name.upper())
        if code is not None:
            made.quantization = self._quantization([code.scale], code.zero_point - _SHIFT, 0)
        self._tensors.append(made)
        return len(self._tensors) - 1

    def constant(self, data: NDArray[Any], scale: ArrayLike | None = None, zero_point: int = 0, axis: int = 0) -> int:
        """A constant, stored once however often it is asked for.

        Args:
            data: as it is stored.
            scale: of integers that stand for floats, one or one for each index of `axis`.
            zero_point: of all of them.
            axis: see `scale`.
        """
        scales = [] if scale is None else np.atleast_1d(np.asarray(scale, np.float32)).tolist()
        key = (data.dtype.str, data.shape, data.tobytes(), tuple(scales), zero_point, axis)
        if key not in self._constants:
            self._constants[key] = number = self.tensor(data.shape, data.dtype)
            self._tensors[number].buffer = self._buffer(data.tobytes())
            if scales:
                self._tensors[number].quantization = self._quantization(scales, zero_point, axis)
        return self._constants[key]

    def coded(self, data: NDArray[Any], code: Code) -> int:
        """Floats as a constant of codes."""
        values = np.clip(np.rint(data / code.scale) + code.zero_point, 0, 255) - _SHIFT
        return self.constant(values.astype(np.int8), code.scale, code.zero_point - _SHIFT)

    def operator(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """An operator; its options are called as in the schema, text for a value of an enumeration."""
        made = self._schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(kind, len(self._codes))
        made.inputs, made.outputs = list(inputs), list(outputs)
        name = _OPTIONS.get(kind) or "".join(_capitalised(part) for part in kind.split("_")) + "Options"
        if hasattr(self._schema, f"{name}T"):
            made.builtinOptions = getattr(self._schema, f"{name}T")()
            made.builtinOptionsType = getattr(self._schema.BuiltinOptions, name)
        for option, value in options.items():
            setattr(made.builtinOptions, option, self._number(option, value))
        self._operators.append(made)

    def finish(
        self, inputs: Mapping[str, int], outputs: Mapping[str, int], metadata: Mapping[str, str], description: str
    ) -> bytes:
        """The bytes of the file; inputs and outputs get their names."""
        import flatbuffers

        for name, number in (*inputs.items(), *outputs.items()):
            self._tensors[number].name = name.encode()
        graph = self._schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = list(inputs.values()), list(outputs.values())
        model = self._schema.ModelT()
        model.version, model.description, model.subgraphs = _SCHEMA_VERSION, description.encode(), [graph]
        model.operatorCodes = [self._operator_code(kind) for kind in self._codes]
        model.metadata = [self._metadata(name, text) for name, text in metadata.items()]
        model.buffers = self._buffers
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def _number(self, option: str, value: Any) -> Any:
        if option == "padding":
            return getattr(self._schema.Padding, value)
        return getattr(self._schema.ActivationFunctionType, value) if option == "fusedActivationFunction" else value

    def _quantization(self, scales: Sequence[float], zero_point: int, axis: int) -> Any:
        made = self._schema.QuantizationParametersT()
        made.scale, made.zeroPoint, made.quantizedDimension = list(scales), [zero_point] * len(scales), axis
        return made

    def _buffer(self, data: bytes) -> int:
        made = self._schema.BufferT()
        made.data = np.frombuffer(data, np.uint8)
        self._buffers.append(made)
        return len(self._buffers) - 1

    def _operator_code(self, kind: str) -> Any:
        made = self._schema.OperatorCodeT()
        made.builtinCode = getattr(self._schema.BuiltinOperator, kind)
        made.deprecatedBuiltinCode = min(made.builtinCode, 127)
        made.version = _VERSIONS.get(kind, 1)
        return made

    def _metadata(self, name: str, text: str) -> Any:
        made = self._schema.MetadataT()
        made.name, made.buffer = name.encode(), self._buffer(text.encode())
        return made


def _capitalised(part: str) -> str:
    return part if part[0].isdigit() else part.capitalize()
