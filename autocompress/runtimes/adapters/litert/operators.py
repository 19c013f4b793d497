"""Writes a graph as a .tflite file, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx

from autocompress.errors import CandidateError
from autocompress.runtimes.adapters.litert import arithmetic, layers, movement
from autocompress.runtimes.adapters.litert.lowering import Lowering
from autocompress.runtimes.adapters.litert.session import without_messages
from autocompress.runtimes.adapters.litert.table import OPERATORS
from autocompress.runtimes.quantized_graph import Code

FAMILIES = (layers, arithmetic, movement)
"""The modules that fill the table."""


def lower(model: onnx.ModelProto, description: str, output_codes: Mapping[str, Code] = MappingProxyType({})) -> bytes:
    """Write a graph as a .tflite file; its metadata goes along.

    Args:
        model: see `Runtime.convert`.
        description: what the file says of its maker.
        output_codes: of all outputs, for a file that computes in integers only: inputs and outputs are int8 then, and
            images have their channels last.

    Raises:
        CandidateError: LiteRT has no operator for a node, or the graph has early exits, or a node computes in floats
            where integers are asked for.
    """
    low = Lowering(model, output_codes)
    inputs = {value.name: low.feed(value) for value in low.graph.input if value.name not in low.constants}
    for node in low.nodes:
        if node.output[0] not in low.done:
            if node.op_type not in OPERATORS:
                raise low.refused(node)
            OPERATORS[node.op_type](low, node)
            if output_codes and low.file.has_floats:
                raise low.refused(node, "it computes in floats, and only integers are allowed")
    outputs = {name: low.own(name) for name in low.outputs}
    metadata = {item.key: item.value for item in model.metadata_props}
    content = low.file.finish(inputs, outputs, metadata, description)
    _check_shapes(content)
    return content


def _check_shapes(content: bytes) -> None:
    """Refuse a file where LiteRT works out other shapes than those written, which are the graph's.

    Operators of ONNX and LiteRT of the same name differ in details. Loading without XNNPACK takes less than 1 ms.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=plain)
    written = interpreter.get_tensor_details()
    try:
        with without_messages():
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise CandidateError(f"LiteRT cannot load the file: {' '.join(str(error).split())}") from None
    for before, after in zip(written, interpreter.get_tensor_details(), strict=False):  # its own memory comes after
        if before["shape"].tolist() != after["shape"].tolist():
            found, wanted = after["shape"].tolist(), before["shape"].tolist()
            raise CandidateError(f"LiteRT would make a tensor of shape {found} where the graph has {wanted}")
