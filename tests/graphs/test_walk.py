from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers.tasks import make_workshop
from onnx import TensorProto, helper, numpy_helper

from autocompress.compression.candidate import Candidate
from autocompress.graphs import walk as walking
from autocompress.graphs.export import INPUT, export
from autocompress.graphs.observe import observe
from autocompress.graphs.quantizable import QuantPlan, QuantSpec, plan, quantizable_layers
from autocompress.graphs.walk import Array, Stop, walk
from autocompress.runtimes.adapters.onnxruntime.session import Session

BATCHES = [np.random.default_rng(k).standard_normal((4, 3, 16, 16)).astype(np.float32) for k in range(2)]


def planned(model: onnx.ModelProto, bits: int) -> QuantPlan:
    names = [layer.name for layer in quantizable_layers(model)]
    return plan(model, QuantSpec(dict.fromkeys(names, bits), dict.fromkeys(names, 8)))


def graph_of(name: str) -> onnx.ModelProto:
    context = make_workshop(name)
    model = Candidate(context.task.model).copy_model().eval()
    return export(model, context.task.example_input.repeat(2, 1, 1, 1), ("logits",)).proto


def led(model: onnx.ModelProto, spec: QuantPlan, repair: walking.Repair) -> None:
    walk(model, spec, observe(model, spec, BATCHES, "minmax"), [{INPUT: batch} for batch in BATCHES], repair)


@pytest.mark.parametrize("name", ["resnet", "vit", "shared"])
def test_each_layer_gets_what_the_float_network_computes_and_what_the_quantised_one_does(name: str) -> None:
    model = graph_of(name)
    spec, stops = planned(model, 8), list[Stop]()
    led(model, spec, lambda stop: stops.append(stop) or {})  # type: ignore[func-returns-value]
    assert [stop.layer for stop in stops] == list(spec.layers)
    inputs = {node.output[0]: node.input[0] for node in model.graph.node}
    names = [inputs[stop.layer.node] for stop in stops]
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    extra = {n for n in names if n != INPUT} - {o.name for o in model.graph.output}
    tapped.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in extra)
    session = Session(tapped.SerializeToString())
    for batch, k in zip(BATCHES, range(2), strict=True):
        for stop, tensor in zip(stops, names, strict=True):
            truth = batch if tensor == INPUT else session({INPUT: batch})[tensor]
            assert np.allclose(stop.reference[k], truth, atol=1e-4)
            assert 0 < np.abs(stop.inputs[k] - truth).max() < 0.3 * np.abs(truth).max()


def test_what_is_changed_at_a_layer_reaches_the_next_one() -> None:
    model, seen = graph_of("resnet"), list[float]()

    def silence(stop: Stop) -> dict[str, Array]:
        seen.append(float(np.abs(stop.inputs[0]).max()))
        weight = next(i for i in model.graph.initializer if i.name == stop.layer.weight)
        return {stop.layer.weight: np.zeros_like(numpy_helper.to_array(weight))}

    led(model, planned(model, 8), silence)
    assert seen[0] > 1.0 > max(seen[-3:])


def test_samples_are_left_out_where_they_would_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "_MEMORY_BYTES", 1)
    monkeypatch.setattr(walking, "_FEWEST", 6)
    model, counts = graph_of("resnet"), set[tuple[int, ...]]()
    led(model, planned(model, 8), lambda stop: counts.add(tuple(map(len, stop.inputs))) or {})  # type: ignore[func-returns-value]
    assert counts == {(4, 2)}


def test_sub_graphs_may_read_tensors_of_the_graph_around_them() -> None:
    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["a"], ["b"])], op, [], [out])

    weights = [numpy_helper.from_array(np.eye(6, dtype=np.float32), name) for name in ("v", "w")]
    nodes = [
        helper.make_node("MatMul", ["input", "v"], ["a"]),
        helper.make_node("ReduceMax", ["a"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "zero"], ["large"]),
        helper.make_node("If", ["large"], ["c"], then_branch=branch("Relu"), else_branch=branch("Neg")),
        helper.make_node("MatMul", ["c", "w"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("input", 1, ["N", 6])], [value("logits", 1, ["N", 6])],
        [*weights, numpy_helper.from_array(np.float32(0), "zero")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x, last = np.arange(12, dtype=np.float32).reshape(2, 6) - 3, list[Stop]()
    spec = planned(model, 8)
    ranges = observe(model, spec, [x], "minmax")
    walk(model, spec, ranges, [{"input": x}], lambda stop: last.append(stop) or {})  # type: ignore[func-returns-value]
    assert np.allclose(last[-1].reference[0], np.maximum(x, 0))
