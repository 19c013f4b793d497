"""Whether the file of a runtime computes what the graph computes that it was written from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import CandidateError
from autocompress.runtimes.base import Model, Runtime, pieces, reference

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]

FLOAT_TOLERANCE = 0.01
"""Largest |file - graph| / |graph| (L2 norms of an output over all samples) of a network in floats."""
QUANTIZED_TOLERANCE = 0.5
"""The same of a quantised one: runtimes round in ways of their own, some code activations symmetrically. A layer that
is converted wrongly is further off."""


def converted(runtime: Runtime, graph: onnx.ModelProto, samples: Mapping[str, Array]) -> tuple[bytes, Model]:
    """The file of a runtime for a graph, and the same loaded; both were compared on samples.

    Args:
        runtime: the reference is not compared with itself.
        graph: as for `Runtime.convert`.
        samples: inputs by name, each (N, ...); a few are enough.

    Raises:
        CandidateError: there is no file for this graph, or it computes something else.
    """
    file = runtime.convert(graph)
    model = runtime.load(file)
    if runtime is not reference():
        _compare(runtime, graph, model, samples)
    return file, model


def _compare(runtime: Runtime, graph: onnx.ModelProto, model: Model, samples: Mapping[str, Array]) -> None:
    original = reference().load(graph.SerializeToString())
    quantized = any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.graph.node)
    allowed = QUANTIZED_TOLERANCE if quantized else FLOAT_TOLERANCE
    found = [(original(piece), model(piece)) for piece in pieces(model, samples)]
    for name in original.outputs:
        theirs, ours = ([np.asarray(outputs[name]) for outputs in side] for side in zip(*found, strict=True))
        shapes = [[array.shape for array in side] for side in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise _refusal(runtime, name, f"has the shape {shapes[1][0]} instead of {shapes[0][0]}")
        error = _error(*(np.concatenate([array.reshape(-1) for array in side]) for side in (theirs, ours)))
        if not error <= allowed:
            raise _refusal(runtime, name, f"is off by {error:.2g} (relative L2 norm), allowed {allowed:g}")


def _error(graph: Array, file: Array) -> float:
    if graph.dtype.kind != "f":  # classes, say: they may differ where two scores are nearly equal
        return 0.0
    graph, file = graph.astype(np.float64), file.astype(np.float64)
    return float(np.linalg.norm(file - graph) / max(float(np.linalg.norm(graph)), 1e-6))


def _refusal(runtime: Runtime, output: str, what: str) -> CandidateError:
    return CandidateError(
        f"{runtime.title} computes something else than the graph that its file was written from: the output "
        f"{output!r} {what}; an operator of the network is converted wrongly"
    )
