"""Writes a graph as a .tflite file, operator by operator."""

from __future__ import annotations

import onnx

from autocompress.runtimes.adapters.litert import arithmetic, layers, movement
from autocompress.runtimes.adapters.litert.lowering import Lowering
from autocompress.runtimes.adapters.litert.table import OPERATORS

FAMILIES = (layers, arithmetic, movement)
"""The modules that fill the table."""


def lower(model: onnx.ModelProto, description: str) -> bytes:
    """Write a graph as a .tflite file; its metadata goes along.

    Raises:
        CandidateError: LiteRT has no operator for a node, or the graph has early exits.
    """
    low = Lowering(model)
    inputs = {value.name: low.feed(value) for value in low.graph.input if value.name not in low.constants}
    for node in low.nodes:
        if node.output[0] not in low.done:
            if node.op_type not in OPERATORS:
                raise low.refused(node)
            OPERATORS[node.op_type](low, node)
    outputs = {name: low.own(name) for name in low.outputs}
    metadata = {item.key: item.value for item in model.metadata_props}
    return low.file.finish(inputs, outputs, metadata, description)
