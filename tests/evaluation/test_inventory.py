"""The record of a file is what the file holds: counted here another way, over networks and recipes of many kinds."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from helpers.small import device, small_task
from helpers.zoo import ZOO
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress.compression.analysis import count_macs
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator, Outcome
from autocompress.evaluation.inventory import inventory
from autocompress.recipes.recipe import Recipe
from autocompress.runtimes.adapters.onnxruntime.inside import optimized_op_counts
from autocompress.tasks.metric import Metric
from autocompress.tasks.task import Task

BITS = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.INT2: 2,
}
FIRST = "(first layer)"
RECIPES: dict[str, list[dict[str, Any]]] = {
    "fp32": [],
    "w8a8": [{"technique": "ptq"}],
    "w4a32": [{"technique": "ptq", "weight_bits": 4, "activation_bits": 32}],
    "w2a8": [{"technique": "ptq", "weight_bits": 2}],
    "mixed": [{"technique": "ptq", "weight_bits": {FIRST: 8, "default": 16}}],
}


class Words(nn.Module):
    """Embeddings and a recurrent layer: ids come as floats."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, both: bool = False) -> None:
        super().__init__()
        self.words, self.fc = nn.Embedding(30, 12), nn.Linear(16 * (1 + both), 4)
        self.rnn = kind(12, 16, layers, batch_first=True, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(self.words((x.abs() * 7).long().clamp(max=29)))[0].mean(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down1(x))
        return self.out(torch.cat([x, self.up(F.relu(self.down2(x)))], 1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 16), nn.Linear(16, 4)
        self.encoder = nn.Sequential(*(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


class Functional(nn.Module):
    """No layer is a module: a convolution, an einsum with weights, one without, and a product from the left."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.mix = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8, 6))
        self.left = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("nct,cd->ntd", F.conv2d(x, self.kernel).flatten(2), self.mix)
        x = torch.einsum("ntd,ntd->nd", x, torch.einsum("ntd,nud->ntu", x, x) @ x)
        return (self.left @ x.unsqueeze(-1)).squeeze(-1)


def generator() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, 1, 0), nn.ReLU(), nn.ConvTranspose2d(16, 8, 4, 2, 1, groups=2), nn.Tanh()
    )


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Conv3d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 4)
    )


def gated() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 16, 5, padding=2), nn.GLU(1), nn.Conv1d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(112, 4)
    )


OWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "gru": (lambda: Words(nn.GRU, 2, True), (10,)),
    "lstm": (lambda: Words(nn.LSTM), (10,)),
    "rnn": (lambda: Words(nn.RNN), (10,)),
    "unet": (UNet, (3, 8, 8)),
    "encoder": (Encoder, (8, 12)),
    "functional": (Functional, (3, 6, 6)),
    "generator": (generator, (8, 2, 2)),
    "volumes": (volumes, (1, 8, 8, 8)),
    "gated": (gated, (4, 16)),
}


def net(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    if name in ZOO:
        model, example = ZOO[name]()
        return model, tuple(example.shape[1:])
    torch.manual_seed(0)
    make, shape = OWN[name]
    return make().eval(), shape


def evaluator_of(model: nn.Module, shape: tuple[int, ...]) -> Evaluator:
    data = [(torch.randn(16, *shape, generator=torch.Generator().manual_seed(0)), torch.zeros(16))]
    metric = Metric("mean", lambda outputs, targets: outputs.reshape(len(outputs), -1).mean(1))
    return Evaluator(Task(model, data[0][0][:1], val=data, kind="other", metric=metric), device())


def evaluate(evaluator: Evaluator, *stages: dict[str, Any]) -> Outcome:
    first = next(iter(evaluator.analysis.layers), "default")
    text = json.dumps({"stages": list(stages)}).replace(FIRST, first)
    return evaluator.evaluate(Recipe.parse(json.loads(text)))[0]


def stored(file: bytes) -> Counter[int]:
    """Bytes of the tensors of two and more dimensions, by the bits of one element."""
    found: Counter[int] = Counter()
    for tensor in onnx.load_from_string(file).graph.initializer:
        if len([d for d in tensor.dims if d > 1]) > 1 and tensor.data_type in BITS:
            bits = BITS[tensor.data_type]
            found[bits] += -(-math.prod(tensor.dims) * bits // 8)
    return found


SLOW = {"mobilenetv2", "dscnn", "shared", "grouped", "rnn", "vit"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in (*ZOO, *OWN)])
def test_the_record_is_the_file(name: str) -> None:
    model, shape = net(name)
    evaluator = evaluator_of(model, shape)
    added = ("pos_embed", "cls_token")
    weights = [t for n, t in model.named_parameters() if n not in added and len([d for d in t.shape if d > 1]) > 1]
    for label, stages in RECIPES.items():
        outcome = evaluate(evaluator, *stages)
        e, proto = outcome.evaluation, onnx.load_from_string(outcome.file)
        assert e.macs == count_macs(model, evaluator.task.example_input) == evaluator.analysis.macs, label
        recorded: Counter[int] = Counter()
        for layer in e.layers:
            recorded[layer.weight_bits] += layer.weight_bytes
        found = stored(outcome.file)
        for bits in (2, 4, 8, 16):
            assert recorded[bits] == found[bits], (label, bits)
        if not stages:
            assert recorded == {32: 4 * sum(t.numel() for t in weights)}
        assert recorded[32] <= found[32], label
        counts = optimized_op_counts(proto)
        kernels = counts["QLinearConv"] + counts["QGemm"] + counts["QLinearMatMul"] + counts["MatMulIntegerToFloat"]
        integer = [layer for layer in e.layers if layer.activation_bits == 8]
        assert len(integer) <= kernels and bool(integer) == bool(kernels), label
        assert all(layer.weight_bits <= 8 for layer in integer)
        assert sum(layer.macs for layer in e.layers) <= e.macs


def test_every_kind_of_layer_with_weights_is_listed() -> None:
    kinds = {
        "gru": {"words": "Embedding", "rnn": "GRU", "rnn#2": "GRU", "fc": "Linear"},
        "unet": {"down1": "Conv2d", "down2": "Conv2d", "up": "ConvTranspose2d", "out": "Conv2d"},
        "functional": {"kernel": "Conv2d", "mix": "Einsum", "left": "Linear"},
        "volumes": {"0": "Conv3d", "2": "Conv3d", "5": "Linear"},
    }
    for name, expected in kinds.items():
        layers = evaluate(evaluator_of(*net(name))).evaluation.layers
        assert {x.name: x.kind for x in layers} == expected
        assert all((x.channels_before == x.channels_after > 0 and x.macs > 0) or x.kind == "Embedding" for x in layers)


def test_quantisation_that_reaches_nothing_or_a_part_says_so() -> None:
    e = evaluate(evaluator_of(*net("generator")), {"technique": "ptq"}).evaluation
    assert e.label == "ptq w8a8 (nothing quantised)"
    assert "ptq: nothing was quantised; weights stay float32 in 0 (ConvTranspose2d), 2 (ConvTranspose2d)" in e.notes
    e = evaluate(evaluator_of(*net("lstm")), {"technique": "ptq"}).evaluation
    assert e.label == "ptq w8a8"
    (note,) = [note for note in e.notes if note.startswith("ptq")]
    assert note.startswith("ptq: weights stay float32 in rnn (LSTM): ")
    assert {layer.name: layer.weight_bits for layer in e.layers} == {"words": 8, "rnn": 32, "fc": 8}


def test_bits_for_a_layer_that_the_graph_lost_are_refused() -> None:
    class Dead(nn.Module):
        """The exporter drops what no output needs."""

        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.fc = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            return self.fc(self.used(x))

    evaluator = evaluator_of(Dead().eval(), (8,))
    assert "unused" in evaluator.analysis.layers
    for field in ("weight_bits", "activation_bits"):
        stage = {"technique": "ptq", field: {"unused": 8, "default": 8}}
        with pytest.raises(
            CandidateError, match=rf"ptq.{field}: 'unused' is not among the layers of the exported graph"
        ):
            evaluate(evaluator, stage)
        with pytest.raises(CandidateError, match=r"did you mean 'used'\?"):
            evaluator.forecast(Recipe.parse({"stages": [stage]}))


def test_a_file_that_is_only_known_by_its_path_is_read_too() -> None:
    """Names then come from the weights; with early exits the nodes lie in nested branches."""
    evaluator = Evaluator(small_task("resnet", n=64), device())
    exits = {"technique": "early_exit", "first": 0.5, "hidden": 8}
    outcome = evaluate(evaluator, exits, {"technique": "ptq"})
    layers = inventory(onnx.load_from_string(outcome.file), evaluator.runtime)
    recorded = outcome.evaluation.layers
    assert {x.name for x in recorded} >= {"heads.0.classifier", "heads.0.body.0"}
    assert sorted((x.channels, x.weight_bits, x.macs) for x in layers) == sorted(
        (x.channels_after, x.weight_bits, x.macs) for x in recorded
    )
    assert sum(x.macs for x in layers) == outcome.evaluation.macs
