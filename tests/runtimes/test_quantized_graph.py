from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers.quantised_files import embedding, quantised
from onnx import numpy_helper

from autocompress.errors import CandidateError
from autocompress.graphs.export import INPUT
from autocompress.runtimes.adapters.onnxruntime.session import Session
from autocompress.runtimes.quantized_graph import Code, read

NETS = ["mobilenetv2", "vit", "audio1d", "shared"]


def answers(graph: onnx.ModelProto, samples: np.ndarray) -> np.ndarray:
    return Session(graph.SerializeToString(), 1)({INPUT: samples})["logits"]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integers_are_those_that_were_written(name: str, bits: int) -> None:
    file = quantised(name, bits)
    taken = read(file.graph)
    for activation in file.plan.activations:
        if activation.consumers:
            code = file.ranges[activation.tensor]
            assert taken.codes[activation.tensor] == Code(code.scale, code.zero_point)
    for name, weight in file.weights.items():
        found = taken.weights[f"{name}/q"]
        assert (found.values == weight.values).all() and (found.scale == weight.scale).all()
        assert (found.axis, found.bits) == (weight.axis, bits)


@pytest.mark.parametrize("name", NETS)
def test_nodes_read_integers_where_the_plan_says(name: str) -> None:
    file = quantised(name)
    taken = read(file.graph)
    nodes = {node.output[0]: node for node in taken.floats.graph.node}
    rounded = {(output, nodes[output].input[k]) for output, k in taken.integer_reads}
    planned = {(node, a.tensor) for a in file.plan.activations for node in a.consumers}
    assert planned - {(pool, name) for pool in file.plan.pools for _, name in planned} <= rounded


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("weight", "activation"), [(16, 8), (8, 32), (4, 32), (2, 32)])
def test_what_is_only_stored_small_computes_the_same_without_the_integers(
    name: str, weight: int, activation: int
) -> None:
    file = quantised(name, weight, activation)
    taken = read(file.graph)
    onnx.checker.check_model(taken.floats, full_check=True)
    assert not {"Cast", "QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in taken.floats.graph.node}
    assert np.allclose(answers(taken.floats, file.samples), answers(file.graph, file.samples), atol=1e-5)
    assert bool(taken.halves) == (weight == 16) and bool(taken.weights) == (weight < 16)


@pytest.mark.parametrize("name", NETS)
def test_the_network_of_floats_has_the_rounded_weights_and_biases(name: str) -> None:
    file = quantised(name)
    taken = read(file.graph)
    onnx.checker.check_model(taken.floats, full_check=True)
    floats = {tensor.name: numpy_helper.to_array(tensor) for tensor in taken.floats.graph.initializer}
    for name, weight in file.weights.items():
        assert np.array_equal(floats[f"{name}/q"], weight.floats())
    for node in taken.floats.graph.node:
        if len(node.input) > 2 and node.input[2] in taken.biases:
            unit = taken.weights[node.input[1]].scale * np.float32(taken.codes[node.input[0]].scale)
            assert np.allclose(floats[node.input[2]], taken.biases[node.input[2]] * unit)


def test_early_exits_are_refused() -> None:
    branch = onnx.helper.make_graph([], "branch", [], [])
    node = onnx.helper.make_node("If", ["condition"], ["out"], then_branch=branch, else_branch=branch)
    with pytest.raises(CandidateError, match="early exits"):
        read(onnx.helper.make_model(onnx.helper.make_graph([node], "graph", [], [])))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_tables_are_looked_up_in_the_network_of_floats(bits: int) -> None:
    graph, ids = embedding(bits)
    taken = read(graph)
    (weight,) = taken.weights.values()
    assert (weight.axis, weight.bits, weight.values.shape, weight.scale.shape) == (0, bits, (50, 8), (50,))
    ours, theirs = (Session(m.SerializeToString(), 1)({"ids": ids})["y"] for m in (taken.floats, graph))
    assert np.array_equal(ours, theirs) and [n.op_type for n in taken.floats.graph.node] == ["Gather"]
