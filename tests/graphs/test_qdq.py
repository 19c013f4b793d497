"""Quantised files: int8 kernels, sizes, ranges, and graphs that are not as expected."""

from __future__ import annotations

import contextlib
import functools
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from autocompress.errors import CandidateError, RecipeError
from autocompress.graphs import qdq
from autocompress.graphs.export import INPUT
from autocompress.graphs.export import export as export_graph
from autocompress.graphs.qdq import QuantSpec, observe, quantizable_layers, write_qdq
from autocompress.runtimes.adapters.onnxruntime.inside import optimized_op_counts

pytestmark = pytest.mark.filterwarnings("ignore")
torch.set_num_threads(1)


class Residual(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1)
        self.down = nn.Conv2d(n_in, n_out, 1, stride) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.down(x))


class ResNet(nn.Module):
    """Two residual blocks, max pooling, and an exit after the first block."""

    def __init__(self, exits: bool) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 16, 3, 1, 1), nn.MaxPool2d(2)
        self.blocks = nn.ModuleList([Residual(16, 16, 1), Residual(16, 32, 2)])
        self.fc, self.exit = nn.Linear(32, 10), nn.Linear(16, 10) if exits else None

    def forward(self, x: Tensor) -> Any:
        first = self.blocks[0](self.pool(F.relu(self.stem(x))))
        logits = self.fc(F.adaptive_avg_pool2d(self.blocks[1](first), 1).flatten(1))
        return logits if self.exit is None else (self.exit(first.mean((2, 3))), logits)


class Inverted(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        wide, self.add = 4 * n_in, n_in == n_out
        self.body = nn.Sequential(
            nn.Conv2d(n_in, wide, 1),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, 1, 1, groups=wide),
            nn.ReLU6(),
            nn.Conv2d(wide, n_out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.add else self.body(x)


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), Inverted(16, 16), Inverted(16, 24), nn.AdaptiveAvgPool2d(1)
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class ViT(nn.Module):
    """Patches, one pre-norm attention block, a head; the two norms start out equal and are merged."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patch, self.pos = nn.Conv2d(3, width, 4, 4), nn.Parameter(torch.randn(1, 16, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        n, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.proj(mixed)
        return self.head((x + self.mlp(self.norm2(x))).mean(1))


class Audio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(8, 16, 9, 2, 4), nn.Conv1d(16, 16, 9, 1, 4, groups=16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean(-1))


class Shared(nn.Module):
    """One convolution and one linear layer, each called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.linear, self.fc = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.conv(F.relu(self.stem(x))))))
        return self.fc(torch.tanh(self.linear(torch.tanh(self.linear(x.mean((2, 3)))))))


class Dead(nn.Module):
    """Constantly zero channels and activations, a layer of zeros, and a bias far above its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 4)
        with torch.no_grad():
            self.a.weight[:3] = 0.0
            self.a.bias.fill_(-100.0)
            self.b.weight.zero_()
            self.b.bias.fill_(0.7)
            self.c.weight.mul_(1e-9)
            self.c.bias.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.c(self.b(F.relu(self.a(x))))).mean((2, 3)))


class Odd(nn.Module):
    """Recurrence, transposed convolution, gating, normalisation that cannot be folded, functional weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 3, 1, 1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.bn, self.gate = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.lstm, self.w1 = nn.LSTM(8, 8, batch_first=True), nn.Parameter(torch.randn(8, 8))
        self.w2, self.last = nn.Parameter(torch.randn(8, 8)), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.hardswish(self.conv(x))
        x = self.bn(x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1))))
        y = F.avg_pool2d(self.up(x), 4).flatten(2).transpose(1, 2)
        y = F.linear(self.lstm(y)[0], self.w1).relu() @ self.w2
        return F.linear(y, self.w2).sum(1) @ self.w1, self.last(x)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.out, self.fc = nn.Conv2d(16, 8, 3), nn.Linear(8 * 2 * 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.out(torch.cat([F.relu(self.a(x)), self.b(x)], 1))
        return self.fc(F.max_pool2d(F.relu(x), 2).flatten(1))


class MLP(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "resnet": (lambda: ResNet(False), (3, 16, 16), 1),
    "exits": (lambda: ResNet(True), (3, 16, 16), 2),
    "mobilenet": (MobileNet, (3, 16, 16), 1),
    "vit": (ViT, (3, 16, 16), 1),
    "audio": (Audio, (8, 64), 1),
    "mlp": (MLP, (3, 4, 4), 1),
    "shared": (Shared, (3, 8, 8), 1),
    "dead": (Dead, (3, 10, 10), 1),
    "odd": (Odd, (3, 8, 8), 2),
    "branches": (Branches, (3, 8, 8), 1),
}


@functools.cache
def export(name: str) -> tuple[torch.onnx.ONNXProgram, nn.Module]:
    torch.manual_seed(0)
    make, shape, outputs = NETS[name]
    model = make().eval()
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            model,
            (torch.randn(2, *shape),),
            dynamo=True,
            opset_version=21,
            input_names=["input"],
            output_names=[f"logits{k}" for k in range(outputs)],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            optimize=True,
            verbose=False,
        )
    assert program is not None
    return program, model


def data(name: str, n: int = 256) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, *NETS[name][1])).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})


def spec(model: onnx.ModelProto, weight: int, activation: int = 8, reduce_range: bool = False) -> QuantSpec:
    names = [layer.name for layer in quantizable_layers(model)]
    return QuantSpec(dict.fromkeys(names, weight), dict.fromkeys(names, activation), reduce_range)


def quantized(name: str, bits: QuantSpec | None = None, observer: qdq.Observer = "minmax") -> onnx.ModelProto:
    model = export(name)[0].model_proto
    plan = qdq.plan(model, bits or spec(model, 8))
    result = write_qdq(model, plan, observe(model, plan, [data(name)[:64], data(name)[64:128]], observer))
    onnx.checker.check_model(result)
    return result


def distance(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Root mean square of the difference, relative to the spread of the logits."""
    return max(float(np.sqrt(((x - y) ** 2).mean()) / x.std()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet", {"QLinearConv": 6, "QLinearAdd": 2, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
        ("exits", {"QLinearConv": 6, "QLinearAdd": 2, "QLinearGlobalAveragePool": 2, "QGemm": 2}),
        ("mobilenet", {"QLinearConv": 7, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
        ("vit", {"QLinearConv": 1, "MatMulIntegerToFloat": 4, "QGemm": 1}),
        ("audio", {"QLinearConv": 2, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
        ("mlp", {"QGemm": 3}),
        ("shared", {"QLinearConv": 3, "QGemm": 3}),
        ("branches", {"QLinearConv": 4, "QLinearConcat": 1, "QGemm": 1}),
    ],
)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_layers_run_as_int8_kernels(name: str, expected: dict[str, int], bits: int) -> None:
    counts = optimized_op_counts(quantized(name, spec(export(name)[0].model_proto, bits)))
    assert {op: counts[op] for op in expected} == expected
    assert not counts["Conv"] + counts["FusedConv"] + counts["Gemm"] + counts["Relu"] + counts["Clip"]
    if name != "vit":
        # Quantise at the entrance and, at most, around tanh: everything between stays uint8.
        assert counts["QuantizeLinear"] <= (3 if name == "shared" else 1)
        assert counts["DequantizeLinear"] == 0


@pytest.mark.parametrize("name", ["resnet", "exits", "mobilenet", "vit", "audio", "mlp", "shared", "branches"])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_eight_bits_stay_close_to_fp32(name: str, reduce_range: bool) -> None:
    model, x = export(name)[0].model_proto, data(name)
    file = quantized(name, spec(model, 8, reduce_range=reduce_range))
    assert distance(run(model, x), run(file, x)) < 0.08


def test_averages_do_not_count_what_is_beyond_the_image() -> None:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(8, 8, 3), nn.Flatten()]
    x = torch.randn(64, 3, 5, 5)
    model = export_graph(nn.Sequential(*body, nn.Linear(8, 4)).eval(), x[:2], ("logits",)).proto
    plan = qdq.plan(model, spec(model, 8))
    file = write_qdq(model, plan, observe(model, plan, [{INPUT: x.numpy()}], "minmax"))
    assert optimized_op_counts(file)["QLinearAveragePool"] == 1
    assert distance(run(model, x.numpy()), run(file, x.numpy())) < 0.08


@pytest.mark.parametrize("observer", ["minmax", "percentile", "entropy", "mse"])
def test_every_observer_gives_usable_ranges(observer: qdq.Observer) -> None:
    model, x = export("resnet")[0].model_proto, data("resnet")
    assert distance(run(model, x), run(quantized("resnet", observer=observer), x)) < 0.35


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("value", [1e6, -1e6, 100.0])
def test_one_broken_sample_costs_the_others_no_resolution(observer: qdq.Observer, value: float) -> None:
    model = export("mlp")[0].model_proto
    plan = qdq.plan(model, spec(model, 8))
    x = data("mlp", 256)
    clean = observe(model, plan, [x], observer)
    x[17, 0, 0, 0] = value
    notes: list[str] = []
    broken = observe(model, plan, [x], observer, notes)
    assert all(broken[t].scale == pytest.approx(clean[t].scale, rel=0.15) for t in clean)
    assert len(notes) == 1 and "1 of the samples set no ranges" in notes[0] and f"up to {abs(value):.3g}" in notes[0]


def test_what_many_samples_reach_is_no_outlier() -> None:
    model = export("mlp")[0].model_proto
    plan = qdq.plan(model, spec(model, 8))
    x = data("mlp", 256)
    x[::10] *= 50
    notes: list[str] = []
    first = plan.activations[0].tensor
    ranges = observe(model, plan, [x], "minmax", notes)
    assert ranges[first].scale == pytest.approx((x.max() - x.min()) / 255, rel=1e-3) and notes == []


@pytest.mark.parametrize(("bits", "kind"), [(4, TensorProto.INT4), (2, TensorProto.INT2)])
def test_weights_of_few_bits_take_so_many_in_the_file(bits: int, kind: int) -> None:
    model = export("mlp")[0].model_proto
    file = quantized("mlp", spec(model, bits))
    stored = [i for i in file.graph.initializer if i.data_type == kind]
    weights = {layer.weight for layer in quantizable_layers(model)}
    floats = sum(4 * math.prod(i.dims) for i in model.graph.initializer if i.name in weights)
    assert len(stored) == 3
    assert sum(len(i.raw_data) for i in stored) == floats * bits // 32
    assert not [i for i in file.graph.initializer if i.name.endswith(".weight")]
    assert file.ByteSize() < 0.3 * model.ByteSize()  # of this tiny net; the scales and biases weigh most


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("shape", [(5, 3), (3, 1, 1), (2, 2)])
def test_packed_weights_are_read_as_they_were_written(bits: int, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int8)
    kind = {2: TensorProto.INT2, 4: TensorProto.INT4}[bits]
    stored = TensorProto(data_type=kind, dims=shape, raw_data=qdq._packed(values, bits))
    assert (numpy_helper.to_array(stored).astype(np.int8) == values).all()


def test_bits_can_differ_by_layer() -> None:
    model, x = export("resnet")[0].model_proto, data("resnet")
    names = [layer.name for layer in quantizable_layers(model)]
    assert names[:3] == ["stem", "blocks.0.conv1", "blocks.0.conv2"]
    bits = {**dict.fromkeys(names, 8), "stem": 32, "blocks.0.conv1": 4, "blocks.1.down": 2, "fc": 16}
    file = quantized("resnet", QuantSpec(bits, dict.fromkeys(names, 8)))
    kinds = {i.name: i.data_type for i in file.graph.initializer}
    assert kinds["stem.weight"] == TensorProto.FLOAT
    assert kinds["blocks.0.conv1.weight/q"] == TensorProto.INT4
    assert kinds["blocks.0.conv2.weight/q"] == TensorProto.INT8
    assert kinds["blocks.1.down.weight/q"] == TensorProto.INT2
    assert kinds["fc.weight/h"] == TensorProto.FLOAT16
    counts = optimized_op_counts(file)
    assert (counts["QLinearConv"], counts["Conv"] + counts["FusedConv"], counts["Gemm"]) == (5, 1, 1)
    assert distance(run(model, x), run(file, x)) < 0.3


@pytest.mark.parametrize(("weight", "activation", "limit"), [(16, 8, 0.01), (8, 32, 0.05), (4, 32, 0.6)])
def test_storage_only_formats_compute_in_fp32_without_run_time_unpacking(
    weight: int, activation: int, limit: float
) -> None:
    for name in ("resnet", "vit"):
        model, x = export(name)[0].model_proto, data(name)
        file = quantized(name, spec(model, weight, activation))
        assert optimized_op_counts(file) == optimized_op_counts(model)
        assert distance(run(model, x), run(file, x)) < limit
        assert file.ByteSize() < model.ByteSize() * (weight / 32 + 0.25)


def test_layers_that_are_not_named_stay_fp32() -> None:
    model, x = export("vit")[0].model_proto, data("vit")
    file = quantized("vit", QuantSpec({}, {}))
    assert distance(run(model, x), run(file, x)) < 1e-5


def test_a_shared_module_is_one_layer_and_stored_once() -> None:
    model = export("shared")[0].model_proto
    layers = {layer.name: layer for layer in quantizable_layers(model)}
    assert list(layers) == ["stem", "conv", "linear", "fc"]
    assert len(layers["conv"].nodes) == len(layers["linear"].nodes) == 2
    names = [i.name for i in quantized("shared").graph.initializer]
    assert names.count("conv.weight/q") == 1
    assert len(names) == len(set(names))


def test_every_consumer_has_its_own_dequantizer() -> None:
    file = quantized("exits")
    dequantized = {n.output[0] for n in file.graph.node if n.op_type == "DequantizeLinear"}
    read = [name for node in file.graph.node for name in node.input if name in dequantized]
    assert sorted(read) == sorted(dequantized)


def test_outputs_keep_their_names_and_type() -> None:
    file = quantized("exits")
    assert [o.name for o in file.graph.output] == ["logits0", "logits1"]
    assert {o.type.tensor_type.elem_type for o in file.graph.output} == {TensorProto.FLOAT}


def test_transformer_layers_carry_module_names() -> None:
    names = [layer.name for layer in quantizable_layers(export("vit")[0].model_proto)]
    assert names == ["patch", "qkv", "proj", "mlp.0", "mlp.2", "head"]


def test_zero_channels_and_zero_activations_give_finite_scales() -> None:
    model, x = export("dead")[0].model_proto, data("dead")
    for bits, tolerance in ((8, 0.01), (4, 0.1)):
        file = quantized("dead", spec(model, bits))
        for initializer in file.graph.initializer:
            if initializer.data_type == TensorProto.FLOAT:
                values = numpy_helper.to_array(initializer)
                assert np.isfinite(values).all()
                assert not initializer.name.endswith("/s") or (values > 0).all()
        np.testing.assert_allclose(run(file, x)[0], run(model, x)[0], atol=tolerance)


@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 8), (4, 32), (2, 8), (16, 8)])
def test_unknown_structure_is_left_alone(weight: int, activation: int) -> None:
    model, x = export("odd")[0].model_proto, data("odd")
    file = quantized("odd", spec(model, weight, activation))
    assert all(np.isfinite(y).all() for y in run(file, x))
    if (weight, activation) == (8, 8):
        assert distance(run(model, x), run(file, x)) < 0.1
        # Its output is the network's output, which stays fp32.
        layer = next(p for p in qdq.plan(model, spec(model, 8)).layers if p.layer == "last")
        assert layer.activation_bits == 32


def test_the_input_model_is_not_changed() -> None:
    model = export("resnet")[0].model_proto
    before = model.SerializeToString(deterministic=True)
    quantized("resnet")
    assert model.SerializeToString(deterministic=True) == before


def test_wrong_use_is_explained() -> None:
    model = export("mlp")[0].model_proto
    with pytest.raises(RecipeError, match="must be one of"):
        qdq.plan(model, QuantSpec({"1": 5}, {}))
    plan = qdq.plan(model, spec(model, 8))
    with pytest.raises(CandidateError, match="no batch"):
        observe(model, plan, [], "minmax")
    with pytest.raises(CandidateError, match="not finite"):
        observe(model, plan, [np.full((1, 3, 4, 4), np.nan, np.float32)], "minmax")
    with pytest.raises(CandidateError, match="no activation range"):
        write_qdq(model, plan, {})
