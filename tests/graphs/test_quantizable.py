"""Where quantisers go: outputs of a network, and what no integer kernel reads, stay float."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from helpers.running import load
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.graphs.export import INPUT, Exported, export
from autocompress.graphs.observe import observe
from autocompress.graphs.qat import build_twin
from autocompress.graphs.qdq import quantize_weights, write_qdq
from autocompress.graphs.quantizable import QuantPlan, QuantSpec, plan, quantizable_layers
from autocompress.runtimes.adapters.onnxruntime.inside import optimized_op_counts, with_inner_tensors
from autocompress.tasks.interface import arrays
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


class Distances(nn.Module):
    """The boxes of YOLOv8: the mean of a distribution over 16 distances, by a layer of the fixed numbers 0 to 15."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.box = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU()), nn.Conv2d(16, 64, 1)
        self.mean = nn.Conv2d(16, 1, 1, bias=False)
        self.mean.weight.data[:] = torch.arange(16.0).view(1, 16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = 9 * self.box(self.body(x)).reshape(len(x), 4, 16, -1)
        return 8 * self.mean(logits.transpose(1, 2).softmax(1))[:, 0]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_layer_of_a_few_fixed_numbers_stays_float(bits: int) -> None:
    proto = export(Distances().eval(), torch.zeros(1, 3, 16, 16), ["y"]).proto
    assert [layer.name for layer in quantizable_layers(proto)] == ["body.0", "box"]
    every = dict.fromkeys(("body.0", "box", "mean"), bits)
    assert [layer.layer for layer in plan(proto, QuantSpec(every, dict.fromkeys(every, 8))).layers] == ["body.0", "box"]


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


class Words(nn.Module):
    """A table for two inputs, one for known positions, and one with the head's own weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(40, 12, padding_idx=0), nn.Embedding(9, 12)
        self.marks, self.head = nn.Embedding(6, 12), nn.Linear(12, 6, bias=False)
        self.head.weight = self.marks.weight

    def forward(self, ids: Tensor, others: Tensor) -> Tensor:
        x = self.words(ids) + self.words(others) * 0.5 + self.places(torch.arange(ids.shape[1]))
        return self.head(x.tanh().mean(1) + self.marks(ids[:, 0] % 6))


def words(bits: int, activation_bits: int = 8) -> tuple[nn.Module, dict[str, Tensor], Exported, QuantPlan]:
    model, generator = Words().eval(), torch.Generator().manual_seed(1)
    feeds = {name: torch.randint(0, 40, (64, 9), generator=generator) for name in ("ids", "others")}
    exported = export(model, feeds, ["y"])
    names = [layer.name for layer in quantizable_layers(exported.proto)]
    spec = QuantSpec(dict.fromkeys(names, bits), dict.fromkeys(names, activation_bits))
    return model, feeds, exported, plan(exported.proto, spec)


def test_a_table_is_one_layer_however_often_rows_are_picked() -> None:
    layers = {layer.name: layer for layer in quantizable_layers(words(8)[2].proto)}
    assert {name: (layer.op_type, len(layer.nodes)) for name, layer in layers.items()} == {
        "head": ("Gemm", 2),  # whose weights are those of `marks`
        "words": ("Gather", 2),
    }


@pytest.mark.parametrize("activation_bits", [8, 32])
@pytest.mark.parametrize(("bits", "stored"), [(2, "INT2"), (4, "INT4"), (8, "INT8"), (16, "FLOAT16")])
def test_looked_up_rows_are_exactly_what_the_table_stands_for(bits: int, stored: str, activation_bits: int) -> None:
    model, feeds, exported, spec = words(bits, activation_bits)
    inputs = arrays(feeds)
    file = write_qdq(exported.proto, spec, observe(exported.proto, spec, [inputs], "minmax"))
    (table,) = (i for i in file.graph.initializer if i.name in ("words.weight/q", "words.weight/h"))
    assert table.data_type == onnx.TensorProto.DataType.Value(stored)
    assert len(table.raw_data) == 40 * 12 * bits // 8
    with torch.no_grad():
        weight = quantize_weights(exported.proto, spec).get("words.weight")
        model.words.weight.copy_(
            model.words.weight.half().float() if weight is None else torch.from_numpy(weight.floats())
        )
        expected = model.words(feeds["ids"])
    node = next(node.output[0] for node in exported.proto.graph.node if list(node.input) == ["words.weight", "ids"])
    rows = with_inner_tensors(file, [node])(inputs)[node]
    np.testing.assert_array_equal(rows, expected.numpy())
    assert not rows[inputs["ids"] == 0].any()


def test_few_bits_cost_a_table_little() -> None:
    """Each row has a scale of its own: rows of rare words are small beside those of frequent ones."""
    exported = words(8)[2]
    table = next(i for i in exported.proto.graph.initializer if i.name == "words.weight")
    values = numpy_helper.to_array(table) * np.logspace(-3, 1, 40, dtype=np.float32)[:, None]
    table.CopyFrom(numpy_helper.from_array(values, table.name))
    for bits, most in ((8, 0.01), (4, 0.12)):
        found = quantize_weights(exported.proto, plan(exported.proto, QuantSpec({"words": bits}, {})))["words.weight"]
        error = np.linalg.norm(found.floats() - values, axis=1)[1:] / np.linalg.norm(values, axis=1)[1:]
        assert error.max() < most


@pytest.mark.parametrize("bits", [4, 8])
def test_the_twin_of_a_table_is_the_file(bits: int) -> None:
    _, feeds, exported, spec = words(bits)
    twin = build_twin(exported.program, exported.proto, spec, observe(exported.proto, spec, [arrays(feeds)], "minmax"))
    assert not [name for name in twin.skipped if "places" not in name]
    optimizer = torch.optim.Adam(twin.module.parameters(), lr=0.01)
    for _ in range(3):
        loss = twin.module(*feeds.values()).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained, ranges, weights = twin.extract()
    assert not np.array_equal(
        weights["words.weight"].scale, quantize_weights(exported.proto, spec)["words.weight"].scale
    )
    file = load(write_qdq(trained, spec, ranges, weights).SerializeToString())
    with torch.no_grad():
        expected = twin.module(*feeds.values()).numpy()
    np.testing.assert_allclose(file(arrays(feeds))["y"], expected, atol=1e-5)


class Codebook(nn.Module):
    """Rows are mixed first, then one is picked."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, weights: Tensor, ids: Tensor) -> Tensor:
        return weights @ self.rows + self.rows[ids]


def test_a_table_that_is_multiplied_too_has_the_scales_of_the_layer() -> None:
    feeds = {"weights": torch.rand(3, 12), "ids": torch.tensor([0, 5, 11])}
    model = Codebook().eval()
    proto = export(model, feeds, ["y"]).proto
    (layer,) = quantizable_layers(proto)
    assert layer.op_type == "MatMul"
    spec = plan(proto, QuantSpec({layer.name: 8}, {}))
    file = load(write_qdq(proto, spec, {}).SerializeToString())
    with torch.no_grad():
        np.testing.assert_allclose(file(arrays(feeds))["y"], model(*feeds.values()), atol=0.05)
