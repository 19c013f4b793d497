"""Networks of the zoo as files, quantised without training."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import onnx

from autocompress.graphs.export import INPUT, export, strip
from autocompress.graphs.observe import ActivationRange, observe
from autocompress.graphs.qdq import WeightQuant, quantize_weights, write_qdq
from autocompress.graphs.quantizable import QuantPlan, QuantSpec, plan, quantizable_layers
from helpers.onnx_files import Builder
from helpers.zoo import ZOO, synthetic_classification


@dataclass(frozen=True)
class Quantised:
    """A file, what it was made from and what was decided on the way."""

    graph: onnx.ModelProto
    floats: onnx.ModelProto
    plan: QuantPlan
    ranges: dict[str, ActivationRange]
    weights: dict[str, WeightQuant]
    samples: np.ndarray
    """Not those that set the ranges."""


@functools.cache
def float_graph(name: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """The exported network and some samples."""
    model, example = ZOO[name]()
    inputs = synthetic_classification(example)[0]
    return export(model.eval(), inputs[:2], ("logits",)).proto, inputs.numpy()


@functools.cache
def quantised(name: str, weight_bits: int = 8, activation_bits: int = 8) -> Quantised:
    """A network of the zoo, as `quantise` says."""
    return quantise(*float_graph(name), weight_bits, activation_bits)


def quantise(floats: onnx.ModelProto, inputs: np.ndarray, weight_bits: int, activation_bits: int) -> Quantised:
    """The same formats in all layers; the first 64 inputs set the ranges."""
    layers = [layer.name for layer in quantizable_layers(floats)]
    spec = plan(floats, QuantSpec(dict.fromkeys(layers, weight_bits), dict.fromkeys(layers, activation_bits)))
    ranges, weights = observe(floats, spec, [{INPUT: inputs[:64]}], "minmax"), quantize_weights(floats, spec)
    graph = strip(write_qdq(floats, spec, ranges, weights))
    return Quantised(graph, floats, spec, ranges, weights, inputs[64:])


def embedding(bits: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """A table of 50 rows of 8 numbers, quantised, and ids to look up."""
    b = Builder()
    b.node("Gather", [b.weight("table", 50, 8), "ids"], "y", "look_up")
    floats = b.model({"ids": ["batch", 6]}, {"y": ["batch", 6, 8]}, 21, ids=onnx.TensorProto.INT64)
    layers = [layer.name for layer in quantizable_layers(floats)]
    graph = write_qdq(floats, plan(floats, QuantSpec(dict.fromkeys(layers, bits), {})), {})
    return graph, np.array([[0, 49, 7, 7, 3, 20]])
