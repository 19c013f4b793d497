"""Where quantisers go: outputs of a network, and what no integer kernel reads, stay float."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from helpers.running import load
from torch import Tensor, nn

from autocompress.graphs.export import INPUT, export
from autocompress.graphs.observe import observe
from autocompress.graphs.qdq import write_qdq
from autocompress.graphs.quantizable import QuantSpec, plan, quantizable_layers
from autocompress.runtimes.adapters.onnxruntime.inside import optimized_op_counts
from autocompress.tasks.torch_utils import outputs_of

RATIO = 110.0
"""Between the ranges of box and class values, as detectors have it."""


class Detector(nn.Module):
    """Boxes of a range of 110 and classes of a range of 1, joined in one way or another."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())
        self.box, self.cls, self.join = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1), join

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.join(self.box(x), self.cls(x))


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4)


JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda box, cls: torch.cat([box, cls], 1),
    "concat, reshape": lambda box, cls: torch.cat([box, cls], 1).flatten(2),
    "concat, reshape, permute": lambda box, cls: torch.cat([box, cls], 1).flatten(2).transpose(1, 2),
    "rows, concat": lambda box, cls: torch.cat([_rows(box), _rows(cls)], 2),
    "rows, concat, permute, slice": lambda box, cls: torch.cat([_rows(box), _rows(cls)], 2).transpose(1, 2)[:, :, 1:],
    "concat twice": lambda box, cls: torch.cat([torch.cat([box, cls], 1), cls], 1).flatten(2),
    "stack": lambda box, cls: torch.stack([box, cls], 1).flatten(1),
    "shuffled pixels": lambda box, cls: nn.functional.pixel_shuffle(torch.cat([box, cls], 1), 2),
    "concat, split, activation": lambda box, cls: torch.cat([box, cls], 1)[:, 4:].sigmoid(),
    "classes behind an activation": lambda box, cls: torch.cat([box, cls.sigmoid()], 1).flatten(2),
    "pooled between": lambda box, cls: nn.functional.max_pool2d(torch.cat([box, cls], 1), 2).flatten(2),
}


def detector(join: str) -> nn.Module:
    model = Detector(JOINS[join]).eval()
    with torch.no_grad():
        model.box.weight.mul_(RATIO)
        model.box.bias.mul_(RATIO)
    return model


def int8(model: nn.Module, inputs: Tensor, floats: tuple[str, ...] = ()) -> onnx.ModelProto:
    proto = export(model, inputs[:1], ["y"]).proto
    bits = {x.name: 32 if x.name in floats else 8 for x in quantizable_layers(proto)}
    spec = plan(proto, QuantSpec(bits, dict.fromkeys(bits, 8)))
    return write_qdq(proto, spec, observe(proto, spec, [inputs.numpy()], "minmax"))


def run(proto: onnx.ModelProto, inputs: Tensor) -> np.ndarray:
    return next(iter(load(proto.SerializeToString())({INPUT: inputs.numpy()}).values()))


@pytest.mark.parametrize("join", JOINS)
def test_values_of_a_small_range_survive_beside_large_ones(join: str) -> None:
    model, inputs = detector(join), torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    (expected,) = outputs_of(model, inputs)
    got = run(int8(model, inputs), inputs)
    small = np.abs(expected.numpy()) < 1.0
    assert small.sum() > 200 and len(np.unique(got[small])) > 100  # one scale for all leaves five
    assert np.abs(got - expected.numpy())[small].mean() < 0.02 * RATIO / 10


def test_the_layers_before_the_head_compute_in_integers() -> None:
    inputs = torch.randn(8, 3, 16, 16)
    counts = optimized_op_counts(int8(detector("concat, reshape, permute"), inputs))
    assert counts["QLinearConv"] == 2 and not counts["QLinearConcat"]


class Tail(nn.Module):
    """A residual sum and a concatenation that only a last layer reads."""

    def __init__(self, join: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.fc, self.join = nn.Conv2d(8 if join == "Add" else 16, 4, 3, 1, 1), join

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        b, c = self.b(x), self.c(x)
        x = b + c if self.join == "Add" else torch.cat([b, c], 1)
        return self.fc(nn.functional.max_pool2d(x, 2)).mean((2, 3))


@pytest.mark.parametrize("join", ["Add", "Concat"])
def test_a_join_is_int8_only_where_an_integer_kernel_reads_it(join: str) -> None:
    inputs = torch.randn(8, 3, 8, 8)
    assert optimized_op_counts(int8(Tail(join).eval(), inputs))[f"QLinear{join}"] == 1
    counts = optimized_op_counts(int8(Tail(join).eval(), inputs, floats=("fc",)))
    assert counts[f"QLinear{join}"] == 0 and counts["QLinearConv"] == 3


def test_a_linear_layer_with_a_relu_is_int8_only_where_its_result_is_quantised() -> None:
    """ONNX Runtime computes the two as one float kernel otherwise, and unpacks the weights at every call."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU6(), nn.Linear(8, 4)).eval()
    inputs = torch.randn(16, 8)
    for floats, integer in (((), 3), (("4",), 0), (("2",), 1), (("0",), 2)):
        counts = optimized_op_counts(int8(model, inputs, floats))
        assert counts["QGemm"] == integer and not counts["DequantizeLinear"], floats
