from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.quantised_files import quantised
from onnx import numpy_helper
from own_runtimes.toy import Toy

from autocompress.errors import CandidateError
from autocompress.graphs.export import INPUT
from autocompress.runtimes.base import reference
from autocompress.runtimes.conversion import converted

Change = Callable[[onnx.ModelProto], None]


class Careless(Toy):
    """Writes another graph than it was given."""

    def __init__(self, change: Change) -> None:
        self.change = change

    def convert(self, graph: onnx.ModelProto) -> bytes:
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        self.change(copy)
        return super().convert(copy)


def nothing(graph: onnx.ModelProto) -> None:
    pass


def no_relu(graph: onnx.ModelProto) -> None:
    for node in graph.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Neg"


def one_value_is_nan(graph: onnx.ModelProto) -> None:
    weight = next(i for i in graph.graph.initializer if i.name.endswith("weight"))
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def samples(name: str) -> dict[str, np.ndarray]:
    shape = [d.dim_value or 3 for d in quantised(name).floats.graph.input[0].type.tensor_type.shape.dim]
    return {INPUT: np.random.default_rng(0).normal(size=shape).astype(np.float32)}


def graph_of(name: str, integers: bool) -> onnx.ModelProto:
    return quantised(name).graph if integers else quantised(name).floats


@pytest.mark.parametrize("integers", [False, True])
def test_a_right_file_is_loaded(integers: bool) -> None:
    graph = graph_of("resnet", integers)
    file, model = converted(Careless(nothing), graph, samples("resnet"))
    assert file == Toy().convert(graph)
    assert model(samples("resnet"))["logits"].shape[0] == 3


@pytest.mark.parametrize(("change", "integers"), [(no_relu, False), (no_relu, True), (one_value_is_nan, False)])
def test_a_file_that_computes_something_else_is_refused(change: Change, integers: bool) -> None:
    with pytest.raises(CandidateError, match=r"Toy computes something else .* output 'logits' is off by"):
        converted(Careless(change), graph_of("resnet", integers), samples("resnet"))


def test_the_reference_is_not_compared_with_itself(tmp_path: Path) -> None:
    file, _ = converted(reference(), graph_of("resnet", False), {})
    assert file
