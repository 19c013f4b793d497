from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
import torch
from helpers.zoo import ZOO, synthetic_classification

from autocompress.graphs.export import INPUT, export
from autocompress.graphs.observe import observe
from autocompress.graphs.qdq import write_qdq
from autocompress.graphs.quantizable import QuantSpec, plan, quantizable_layers
from autocompress.graphs.repair import Correction, Rounding, repair
from autocompress.runtimes.adapters.onnxruntime.session import Session

NAMES = ["mobilenetv2", "vit_matmul", "shared", "grouped"]


@functools.cache
def network(name: str) -> tuple[onnx.ModelProto, list[np.ndarray], np.ndarray]:
    """Its graph, calibration batches and other inputs."""
    model, example = ZOO[name]()
    inputs = synthetic_classification(example)[0]
    graph = export(model.eval(), inputs[:2], ("logits",)).proto
    return graph, [x.numpy() for x in inputs[:128].split(64)], inputs[128:].numpy()


def quantised(name: str, bits: int, rounding: Rounding, bias_correction: Correction) -> onnx.ModelProto:
    model, batches, _ = network(name)
    names = [layer.name for layer in quantizable_layers(model)]
    spec = plan(model, QuantSpec(dict.fromkeys(names, bits), dict.fromkeys(names, 8)))
    ranges = observe(model, spec, batches, "minmax")
    feeds = [{INPUT: batch} for batch in batches]
    repaired, weights = repair(model, spec, ranges, feeds, rounding=rounding, bias_correction=bias_correction)
    return write_qdq(repaired, spec, ranges, weights)


def error(name: str, graph: onnx.ModelProto) -> float:
    model, _, inputs = network(name)
    got, wanted = (Session(m.SerializeToString())({INPUT: inputs})["logits"] for m in (graph, model))
    return float(((got - wanted) ** 2).mean() / wanted.var(0).mean())


@pytest.mark.parametrize("name", NAMES)
def test_repaired_networks_compute_more_nearly_what_the_float_network_does(name: str) -> None:
    plain = error(name, quantised(name, 4, "nearest", "none"))
    assert error(name, quantised(name, 4, "least_squares", "none")) < 0.7 * plain
    assert error(name, quantised(name, 4, "least_squares", "coarse")) < 0.5 * plain


@pytest.mark.parametrize("name", ["vit_matmul", "shared"])
def test_files_keep_their_tensors_and_repeat(name: str) -> None:
    plain, first, second = (
        quantised(name, 4, *how)
        for how in (("nearest", "none"), ("least_squares", "coarse"), ("least_squares", "coarse"))
    )
    assert first.SerializeToString() == second.SerializeToString()
    shapes = [[(i.name, i.data_type, tuple(i.dims)) for i in m.graph.initializer] for m in (plain, first)]
    assert shapes[0] == shapes[1]


def test_means_of_channels_are_those_of_the_float_network() -> None:
    graph, _, inputs = network("mlp")
    wanted = Session(graph.SerializeToString())({INPUT: inputs})["logits"].mean(0)
    off = [
        np.abs(Session(model.SerializeToString())({INPUT: inputs})["logits"].mean(0) - wanted).max()
        for model in (quantised("mlp", 4, "nearest", "none"), quantised("mlp", 4, "nearest", "all"))
    ]
    assert off[1] < 0.3 * off[0]


def test_a_broken_sample_costs_the_others_nothing() -> None:
    model, batches, _ = network("mlp")
    names = [layer.name for layer in quantizable_layers(model)]
    spec = plan(model, QuantSpec(dict.fromkeys(names, 4), dict.fromkeys(names, 8)))
    broken = [batch.copy() for batch in batches]
    broken[0][3] *= 1e6
    ranges = observe(model, spec, broken, "minmax")
    feeds = [{INPUT: batch} for batch in broken]
    repaired, weights = repair(model, spec, ranges, feeds, rounding="least_squares", bias_correction="coarse")
    whole = error("mlp", quantised("mlp", 4, "least_squares", "coarse"))
    assert error("mlp", write_qdq(repaired, spec, ranges, weights)) < 1.5 * whole


def test_nothing_is_run_where_nothing_is_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("autocompress.graphs.repair.walk")
    assert error("mlp", quantised("mlp", 32, "least_squares", "coarse")) == 0.0
    assert error("mlp", quantised("mlp", 8, "least_squares", "none")) < 0.1


torch.set_num_threads(1)
