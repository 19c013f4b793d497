"""What quantisation took from a network, given back to the layers behind it: codes of the weights, and biases.

Layer by layer each is fitted to what the float layer computes, with the inputs that the quantised network has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from autocompress.graphs.observe import ActivationRange, outlying
from autocompress.graphs.qdq import WeightQuant, quantize_weights
from autocompress.graphs.quantizable import Graph, QuantPlan
from autocompress.graphs.rounding import Moments, least_squares
from autocompress.graphs.unfold import Unfolding
from autocompress.graphs.walk import Stop, bias_of, walk

Array = NDArray[Any]
Rounding = Literal["nearest", "least_squares"]
Correction = Literal["none", "coarse", "all"]

_ROWS = 8192
"""So many rows of a layer's input are looked at."""
_WIDEST = 8192
"""Weights with more inputs for each output are rounded to the nearest code: their products would fill the memory."""
_COARSE_BITS = 4
"""Finer codes lose nothing worth a repair."""


def repair(
    model: onnx.ModelProto,
    plan: QuantPlan,
    ranges: Mapping[str, ActivationRange],
    batches: Sequence[Mapping[str, Array]],
    *,
    rounding: Rounding,
    bias_correction: Correction,
) -> tuple[onnx.ModelProto, dict[str, WeightQuant]]:
    """Round the weights and correct the biases of the planned layers.

    Args:
        model: the fp32 graph the plan was made for.
        plan: from `plan`.
        ranges: one per planned activation.
        batches: calibration inputs by input name.
        rounding: "least_squares" fits the codes of weights of 4 bits and fewer, see `autocompress.graphs.rounding`.
        bias_correction: whether the mean of each output channel becomes that of the float network again (Nagel et al.,
            "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2): "coarse"
            only in networks that have such weights.

    Returns:
        The graph with other biases, and the codes of all planned weights, both for `write_qdq`.
    """
    work = _Repair(model, plan, rounding, bias_correction)
    if work.is_needed:
        walk(model, plan, ranges, batches, work)
    return work.finished()


@dataclass(frozen=True)
class _Seen:
    """Of one layer: its moments, and the mean of each input (g, d) in the float network and in the quantised one."""

    moments: Moments
    reference: Array
    inputs: Array

    def centred(self, rows: Array) -> Moments:
        """The moments around the means, for a layer whose bias takes up what the means differ by."""
        wanted = np.einsum("god,gd->go", rows, self.reference)
        return replace(
            self.moments,
            inputs=self.moments.inputs - self.inputs[:, :, None] * self.inputs[:, None, :],
            outputs=self.moments.outputs - wanted[:, :, None] * self.inputs[:, None, :],
        )


class _Repair:
    """The repair of one network on its way; called at each layer."""

    def __init__(
        self, model: onnx.ModelProto, plan: QuantPlan, rounding: Rounding, bias_correction: Correction
    ) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph, self._plan = Graph(self._model.graph), plan
        self._weights = quantize_weights(model, plan)
        coarse = any(weight.bits <= _COARSE_BITS for weight in self._weights.values())
        self._fits = coarse and rounding == "least_squares"
        self._corrects = bool(self._weights) and (bias_correction == "all" or (coarse and bias_correction == "coarse"))
        self._uses = Counter(layer.weight for layer in plan.layers)
        self._done: dict[str, Array] = {}
        self._rng = np.random.default_rng(0)

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to fit or to correct."""
        return self._fits or self._corrects

    def finished(self) -> tuple[onnx.ModelProto, dict[str, WeightQuant]]:
        """The graph with its new biases, and the weights."""
        return self._model, self._weights

    def __call__(self, stop: Stop) -> Mapping[str, Array]:
        """Choose weight and bias of a layer. A weight that several nodes share is fitted at the first of them."""
        layer = stop.layer
        if layer.weight in self._done:
            return {layer.weight: self._done[layer.weight]}
        if not any(batch.size for batch in stop.inputs):
            return {}
        weight = numpy_helper.to_array(self._graph.initializers[layer.weight])
        unfolding = Unfolding(self._graph.producer[layer.node], layer, weight.shape)
        rows = unfolding.rows(weight)
        bias = bias_of(self._graph, layer) if self._corrects and self._uses[layer.weight] == 1 else None
        fits = self._is_fitted(layer.weight, rows)
        seen = self._look(stop, unfolding, rows if fits else rows[:, :0]) if fits or bias else None
        if seen and fits:
            self._fit(layer.weight, unfolding, rows, seen.centred(rows) if bias else seen.moments)
        values = self._done[layer.weight] = self._stored(layer.weight, layer.weight_bits, weight)
        if not seen or not bias:
            return {layer.weight: values}
        return {layer.weight: values, bias: self._corrected(bias, rows, unfolding.rows(values), seen)}

    def _is_fitted(self, name: str, rows: Array) -> bool:
        coarse = name in self._weights and self._weights[name].bits <= _COARSE_BITS
        return self._fits and coarse and rows.shape[-1] <= _WIDEST

    def _look(self, stop: Stop, unfolding: Unfolding, rows: Array) -> _Seen:
        """Means of the inputs, and moments of the outputs of `rows`; samples far beyond all others do not count."""
        groups, outputs, d = rows.shape
        pairs = _usual(stop)
        total, n = sum(len(pair[1]) for pair in pairs), 0
        means, inputs = np.zeros((2, groups, d)), np.zeros((groups, d if outputs else 0, d))
        wanted = np.zeros((groups, outputs, d))
        for pair in pairs:
            most = max(1, _ROWS * len(pair[1]) // total)
            reference, seen = unfolding.inputs(pair, most, self._rng)
            n += seen.shape[1]
            means += reference.sum(1), seen.sum(1)
            if outputs:
                inputs += seen.transpose(0, 2, 1) @ seen
                wanted += rows @ reference.transpose(0, 2, 1) @ seen
        return _Seen(Moments(inputs / n, wanted / n, n), *means / n)

    def _fit(self, name: str, unfolding: Unfolding, rows: Array, moments: Moments) -> None:
        old = self._weights[name]
        limits, start = self._plan.weight_limits(old.bits), old.scale.astype(np.float64).reshape(*rows.shape[:2], 1)
        codes, scale = least_squares(rows.astype(np.float64), start, moments, *limits)
        values = unfolding.weight(codes.astype(np.int8))
        self._weights[name] = replace(old, values=values, scale=scale.reshape(-1).astype(np.float32))

    def _stored(self, name: str, bits: int, weight: Array) -> Array:
        """The values that the file will hold."""
        if name in self._weights:
            return self._weights[name].floats()
        return weight.astype(np.float16).astype(np.float32) if bits == 16 else weight

    def _corrected(self, name: str, rows: Array, stored: Array, seen: _Seen) -> Array:
        initializer = self._graph.initializers[name]
        wanted, got = np.einsum("god,gd->go", rows, seen.reference), np.einsum("god,gd->go", stored, seen.inputs)
        bias: Array = (numpy_helper.to_array(initializer) + (wanted - got).reshape(-1)).astype(np.float32)
        initializer.CopyFrom(numpy_helper.from_array(bias, name))
        return bias


def _usual(stop: Stop) -> list[tuple[Array, Array]]:
    """The inputs of a layer in both networks, by batch, without the samples that the observers leave out."""
    reach = [np.abs(batch).reshape(len(batch), -1).max(1, initial=0.0) for batch in stop.reference]
    kept = np.split(~outlying(np.concatenate(reach)), np.cumsum([len(batch) for batch in reach])[:-1])
    pairs = zip(stop.reference, stop.inputs, kept, strict=True)
    return [(reference[rows], inputs[rows]) for reference, inputs, rows in pairs if rows.any()]
