"""How large a file becomes, without writing it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.compression.techniques import _usual as usual
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.screening.knobs import FORMATS, Ints
from autocompress.evaluation.screening.shapes import Positions, Shape, Shapes, Versions, count
from autocompress.graphs.qdq import SCALES
from autocompress.graphs.quantizable import QuantizableLayer
from autocompress.recipes.recipe import Recipe

Stored = list[tuple[str, float]]
"""Tensors whose elements a file holds, with the bits of each element."""

_BITS = {1: 32, 6: 32, 10: 16, 22: 4, 26: 2}
"""Of an element, by the data type of an ONNX initializer (float, int32, float16, int4, int2); others have 8."""


class Files:
    """Sizes of the files of one network: what each layer stores in each format, and the rest of a file.

    Args:
        evaluator: of the network.
        versions: of the network.
        shapes: of its tensors.
        layers: those that can be quantised.
    """

    def __init__(
        self, evaluator: Evaluator, versions: Versions, shapes: Shapes, layers: Sequence[QuantizableLayer]
    ) -> None:
        self._evaluator = evaluator
        self._versions = versions
        self._shapes = shapes
        self._layers = layers
        self._stored: dict[int, list[Stored]] = {}
        """By code and layer."""
        self._rest_bytes: dict[int, float] = {}
        """Of a file whose layers all have one code: nodes, names, metadata."""

    def sizes(self, codes: Ints, positions: Positions) -> NDArray[np.float64]:
        """Bytes of N files, for the codes of their layers, (N, layers), and the widths of their groups."""
        for code in np.unique(codes).tolist() if codes.size else [0]:
            if code not in self._stored:
                self._learn(code)
        if not self._layers:
            return np.full(len(codes), self._rest_bytes[0])
        total = np.zeros(len(codes))
        for i in range(len(self._layers)):
            for code in np.unique(codes[:, i]).tolist():
                chosen = np.flatnonzero(codes[:, i] == code)
                stored = self._stored[code][i]
                names = [name for name, _ in stored]
                (size,) = self._shapes.tabulate(("stored", code, i), names, positions, partial(_size, stored))
                total[chosen] += size(chosen) + self._rest_bytes[code] / len(self._layers)
        return total

    def _learn(self, code: int) -> None:
        """What each layer stores in this format, and the rest of such a file, from one deployed file."""
        bits: Any = dict(zip(("weight_bits", "activation_bits"), FORMATS[code], strict=True))
        stage = usual.quantised(**bits) if code else None
        narrow, evaluator = self._versions.narrow, self._evaluator
        deployment = self._versions.deploy(narrow, stage)
        recipe = Recipe(stages=(stage,)) if stage else Recipe()
        thresholds = [0.5] * len(narrow.exits)
        file = evaluator.deployer.finish(deployment, thresholds, recipe, evaluator.provenance()).file
        initializers = {i.name: i for i in deployment.proto.graph.initializer}
        lost = self._versions.lost(narrow)
        shape = self._shapes.at({k: self._versions.full[k] - np.int64(n) for k, n in enumerate(lost)})
        self._stored[code] = [_stored_by(layer, initializers, shape) for layer in self._layers]
        known = sum(int(_bytes(stored, shape)) for stored in self._stored[code])
        self._rest_bytes[code] = float(len(file) - known)


def _bytes(stored: Stored, shape: Shape) -> Any:
    return sum(-(-count(shape(name)) * bits // 8) for name, bits in stored)


def _size(stored: Stored, shape: Shape) -> tuple[Any]:
    return (_bytes(stored, shape),)


def _stored_by(layer: QuantizableLayer, initializers: Mapping[str, Any], shape: Shape) -> Stored:
    """What the file holds for a layer: its weights, and what was made of them or has their names.

    A tensor with another number of elements than the weights (scales, biases) follows the layer's output channels; the
    scales of a table have its rows, of which none is ever removed.
    """
    items: Stored = []
    for name, tensor in initializers.items():
        own = name == layer.weight or name.startswith(f"{layer.weight}/")
        if not own and not any(name.startswith(f"{node}/") for node in layer.nodes):
            continue
        elements = math.prod(tensor.dims)
        bits = _BITS.get(tensor.data_type, 8)
        like = layer.weight if elements == count(shape(layer.weight)) else layer.nodes[0]
        like = name if name.endswith(SCALES) else like
        if elements == count(shape(like)):
            items.append((like, bits))
        else:
            pixels = count(shape(like)) // max(1, elements)
            items.append((like, bits / max(1, pixels)))
    return items
