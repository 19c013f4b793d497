from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
import torch
from helpers.zoo import ZOO, synthetic_classification
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress.graphs.equalize import equalize, joins
from autocompress.graphs.export import INPUT, export
from autocompress.graphs.observe import observe
from autocompress.graphs.qdq import write_qdq
from autocompress.graphs.quantizable import Graph, QuantSpec, plan, quantizable_layers
from autocompress.runtimes.adapters.onnxruntime.session import Session

torch.set_num_threads(1)


class Chains(nn.Module):
    """Joins of all kinds, and places that look like joins and are none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.dw, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)
        self.clipped, self.added, self.grouped = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, groups=2)
        self.flat, self.norm, self.fc = nn.Linear(8 * 9, 12), nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.dw(F.leaky_relu(self.a(x)))), 2)  # a to dw, dw to b
        x = F.relu6(self.b(x))  # no: clipped
        y = F.relu(self.clipped(x))  # no: read by an addition
        x = self.grouped(y + self.added(y))  # no
        x = F.relu(x).flatten(1)  # grouped to flat
        return self.fc(self.norm(torch.tanh(self.flat(x))))  # norm to fc


def with_outliers(model: nn.Module) -> nn.Module:
    """Some channels of norms a hundred times as large as others, as large transformers have them."""
    for norm, linear in ((model.norm, model.fc),):
        norm.weight.data[::4] *= 100
        norm.bias.data[::4] *= 100
        linear.weight.data[:, ::4] /= 100
    return model


@functools.cache
def chains() -> tuple[onnx.ModelProto, np.ndarray]:
    torch.manual_seed(0)
    x = torch.randn(64, 3, 10, 10)
    return export(with_outliers(Chains()).eval(), x[:2], ("logits",)).proto, x.numpy()


def outputs(graph: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    found: np.ndarray = Session(graph.SerializeToString())({INPUT: x})["logits"]
    return found


def int8_error(graph: onnx.ModelProto, x: np.ndarray, wanted: np.ndarray) -> float:
    names = [layer.name for layer in quantizable_layers(graph)]
    spec = plan(graph, QuantSpec(dict.fromkeys(names, 8), dict.fromkeys(names, 8)))
    return float(np.square(outputs(write_qdq(graph, spec, observe(graph, spec, [x], "minmax")), x) - wanted).mean())


def test_joins_are_found_where_scaling_is_exact() -> None:
    found = [(join.made_by[0][0], [name for name, _ in join.read_by]) for join in joins(Graph(chains()[0].graph))]
    assert [made for made, _ in found] == ["a.weight", "dw.weight", "grouped.weight", "norm.weight"]
    assert [read for _, (read,) in found] == ["dw.weight", "b.weight", "flat.weight", "fc.weight"]


def test_the_network_stays_the_same_and_loses_less_by_int8() -> None:
    graph, x = chains()
    even, wanted = equalize(graph, [{INPUT: x}]), outputs(graph, x)
    assert np.allclose(outputs(even, x), wanted, atol=1e-4 * np.abs(wanted).max())
    changed = [a.name for a, b in zip(graph.graph.initializer, even.graph.initializer, strict=True) if a != b]
    assert "clipped.weight" not in changed and "norm.weight" in changed
    assert int8_error(even, x, wanted) < 0.3 * int8_error(graph, x, wanted)


@pytest.mark.parametrize("name", ["mobilenetv2", "vit", "shared", "dscnn"])
def test_networks_that_nobody_built_it_on_stay_the_same(name: str) -> None:
    model, example = ZOO[name]()
    x = synthetic_classification(example)[0]
    graph = export(model.eval(), x[:2], ("logits",)).proto
    wanted = outputs(graph, x.numpy())
    assert np.allclose(outputs(equalize(graph, [{INPUT: x.numpy()}]), x.numpy()), wanted, atol=1e-4)


def test_dead_channels_are_left_alone() -> None:
    graph, x = onnx.ModelProto(), chains()[1]
    graph.CopyFrom(chains()[0])
    weight = next(i for i in graph.graph.initializer if i.name == "grouped.weight")
    weight.CopyFrom(numpy_helper.from_array(np.zeros(tuple(weight.dims), np.float32), weight.name))
    assert np.isfinite(outputs(equalize(graph, [{INPUT: x}]), x)).all()
