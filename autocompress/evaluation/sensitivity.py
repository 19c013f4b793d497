"""How much each layer of the untouched network suffers from 4-bit weights, measured once per network.

One session serves all layers: the weights are inputs of the graph, so that only their values change from run to run.
The damage of several layers is close to the sum of theirs (Dong et al., HAWQ-V2, arXiv 1911.03852), so that layers can
be ranked without trying their combinations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from autocompress.compression.candidate import Candidate
from autocompress.errors import StudyError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.files import Folder
from autocompress.graphs.qdq import WeightQuant, quantize_weights
from autocompress.graphs.quantizable import QuantSpec, plan, quantizable_layers
from autocompress.runtimes.base import Model, pieces, reference
from autocompress.tasks.interface import Arrays

Array = NDArray[Any]

SENSITIVITY = "sensitivity-"
"""How the names of the files in the cache begin."""
_BITS = 4
_SAMPLES = 256
_MOST_MACS = 4e11
"""Of all runs together: some ten seconds of one core. A large network is looked at on fewer samples."""
_FEWEST = 16


@dataclass(frozen=True)
class LayerDamage:
    """What 4 bits do to one layer of the untouched network."""

    name: str
    damage: float
    """Mean divergence of the outputs from those of the network: KL for a classification, else squared error."""
    n_weights: int


class _Kept(BaseModel):
    """The file in the cache."""

    damage: dict[str, FiniteFloat] = Field(default_factory=dict)
    n_weights: dict[str, int] = Field(default_factory=dict)


def weight_sensitivity(evaluator: Evaluator) -> tuple[LayerDamage, ...]:
    """The layers of the network, those first that lose least for each weight that shrinks to 4 bits.

    Measured on calibration samples in the runtime, or read from the evaluator's cache.

    Raises:
        CandidateError: the network cannot be exported or run.
    """
    name = f"{SENSITIVITY}{evaluator.context.origin}.json"
    kept = _read(evaluator, name)
    if kept is None:
        kept = _measure(evaluator)
        if evaluator.cache:
            Folder(evaluator.cache).write_json(name, kept.model_dump())
    layers = [LayerDamage(layer, damage, kept.n_weights[layer]) for layer, damage in kept.damage.items()]
    return tuple(sorted(layers, key=lambda layer: (layer.damage / layer.n_weights, layer.name)))


def _read(evaluator: Evaluator, name: str) -> _Kept | None:
    if evaluator.cache is None:
        return None
    try:
        found = _Kept.model_validate_json(Folder(evaluator.cache).read(name) or b"")
    except (StudyError, ValidationError):
        return None
    return found if found.damage.keys() == found.n_weights.keys() and all(found.n_weights.values()) else None


def _measure(evaluator: Evaluator) -> _Kept:
    proto = evaluator.deployer.float_graph(Candidate(evaluator.task.model))
    layers = quantizable_layers(proto)
    spec = QuantSpec({layer.name: _BITS for layer in layers}, {})
    coarse = quantize_weights(proto, plan(proto, spec))
    model = reference().load(_with_open_weights(proto, list(coarse)).SerializeToString())
    batches = _samples(evaluator, len(layers))
    before = _outputs(model, batches, {})
    kept = _Kept()
    for i, layer in enumerate(layers):
        evaluator.context.progress(f"sensitivity of layer {i + 1} of {len(layers)}")
        after = _outputs(model, batches, {layer.weight: _values(coarse[layer.weight])})
        kept.damage[layer.name] = evaluator.task.damage(after, before)
        kept.n_weights[layer.name] = coarse[layer.weight].values.size
    return kept


def _samples(evaluator: Evaluator, n_layers: int) -> list[Arrays]:
    most = _MOST_MACS / max(1, evaluator.analysis.macs * n_layers)
    n = int(min(_SAMPLES, max(_FEWEST, most)))
    return evaluator.task.calibration_batches(n, evaluator.context.seed)


def _with_open_weights(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The graph with some of its weights as inputs, whose stored values hold where none are fed."""
    opened = onnx.ModelProto()
    opened.CopyFrom(proto)
    known = {value.name for value in opened.graph.input}
    shapes = {i.name: list(i.dims) for i in opened.graph.initializer}
    opened.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in names if name not in known
    )
    return opened


def _values(weight: WeightQuant) -> Array:
    shape = [-1 if axis == weight.axis else 1 for axis in range(weight.values.ndim)]
    values: Array = weight.values.astype(np.float32) * weight.scale.reshape(shape)
    return values


def _outputs(model: Model, batches: Sequence[Arrays], weights: Mapping[str, Array]) -> list[list[Array]]:
    """The network's own outputs for each batch."""
    found = [model({**piece, **weights}) for batch in batches for piece in pieces(model, batch)]
    return [[outputs[name] for name in model.outputs] for outputs in found]
