"""Networks written in unusual ways: the file that is deployed computes what they compute."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.running import load, run
from helpers.small import device
from torch import Tensor, nn

from autocompress.compression.candidate import Candidate
from autocompress.compression.techniques.early_exit import EarlyExit
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.screening import Screen
from autocompress.graphs.export import INPUT
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.space import SearchSpace
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import outputs_of

PTQ = {"technique": "ptq"}
QAT = {"technique": "qat", "epochs": 1}


def recipe(*stages: dict[str, Any]) -> Recipe:
    return Recipe.parse({"stages": list(stages)})


def task_of(model: nn.Module, shape: tuple[int, ...], n: int = 100, batch_size: int = 100) -> Task:
    """A network that is right on every sample of its random data."""
    inputs = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
    rows = inputs.split(batch_size)
    data = [(x, torch.cat([outputs_of(model, x[i : i + 1])[-1] for i in range(len(x))]).argmax(1)) for x in rows]
    return Task.classification(model.eval(), example_input=torch.zeros(1, *shape), train=data, val=data)


class Encoder(nn.Module):
    """Multi-head attention on (N, 8, 12), which torch computes in (tokens, N, features)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(12, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


@pytest.fixture(scope="module")
def encoder() -> Evaluator:
    return Evaluator(task_of(Encoder(), (8, 12)), device())


@pytest.mark.parametrize(
    ("stages", "accuracy"), [((), 1.0), ((PTQ,), 0.9), (({"technique": "prune", "ratio": 0.25}, QAT), 0.0)]
)
def test_attention_of_torch_is_deployed_for_any_batch(
    stages: tuple[dict[str, Any], ...], accuracy: float, encoder: Evaluator
) -> None:
    outcome = encoder.evaluate(recipe(*stages))[0]
    assert outcome.evaluation.validation.value >= accuracy and outcome.evaluation.parity >= 0.9
    session = load(outcome.file)
    inputs = encoder.task.split("validation")[0][0][INPUT][:9]
    alone = np.concatenate([run(session, {INPUT: x[None]})[0] for x in inputs])
    np.testing.assert_allclose(run(session, {INPUT: inputs})[0], alone, atol=1e-4)


def test_attention_of_torch_has_the_bits_of_the_stage_around_it(encoder: Evaluator) -> None:
    stages = sorted(set(encoder.analysis.layers.values()))
    space = SearchSpace.parse({"version": 1, "stages": [{**PTQ, "weight_bits": {"per": "stage", "choice": [8, 32]}}]})
    for bits in (8, 32):
        setting = {f"ptq.weight_bits[{stage}]": bits for stage in stages}
        outcome = encoder.evaluate(recipe({**PTQ, "weight_bits": dict.fromkeys(stages, bits)}))[0]
        weights = [i for i in onnx.load_from_string(outcome.file).graph.initializer if len(i.dims) == 2]
        assert {i.data_type == onnx.TensorProto.FLOAT for i in weights} == {bits == 32}
        costs = Screen(encoder, space).costs({name: [value] for name, value in setting.items()})
        assert costs.worst_case_ms[0] == pytest.approx(outcome.evaluation.predicted_latency_ms, rel=1e-9)
        assert costs.size_bytes[0] == pytest.approx(len(outcome.file), rel=0.03, abs=1500)


def test_heads_of_exits_are_in_no_stage_of_the_network(encoder: Evaluator) -> None:
    candidate = EarlyExit(first=0.5).apply(Candidate(encoder.task.model), encoder.context)
    stage_of = functools.partial(candidate.stage_of, analysis=encoder.analysis)
    assert stage_of("heads.0.classifier") == "exits"
    assert stage_of("backbone.encoder.self_attn.out_proj") == encoder.analysis.layers["encoder.linear2"]


class NormOverTokens(nn.Module):
    """BatchNorm over the tokens of (N, tokens, features), which the linear layer before it knows nothing of."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(12, features), nn.BatchNorm1d(8), nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.linear(x))).mean(1))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).amax((2, 3)))

    def features(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class NormUsedTwice(Convolutional):
    def features(self, x: Tensor) -> Tensor:
        return self.norm(torch.relu(self.norm(self.conv(x))))


class ConvUsedTwice(Convolutional):
    def features(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.norm(self.conv(x))))


class FunctionalConv(Convolutional):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 1, 1))

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(nn.functional.conv2d(self.conv(x), self.weight)))


def with_statistics(model: nn.Module) -> nn.Module:
    """With batch normalisations as training leaves them."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.1, 3.0, generator=generator)
            nn.init.normal_(module.weight, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: NormOverTokens(8), (8, 12)),
        (lambda: NormOverTokens(6), (8, 12)),
        (NormUsedTwice, (3, 4, 4)),
        (ConvUsedTwice, (3, 4, 4)),
        (FunctionalConv, (3, 4, 4)),
    ],
    ids=["norm over as many tokens", "norm over more tokens", "norm twice", "conv twice", "functional"],
)
def test_a_norm_that_cannot_be_folded_stays(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    task = task_of(with_statistics(make()), shape)
    outcome = Evaluator(task, device()).evaluate(recipe())[0]
    assert outcome.evaluation.validation.value == 1.0
    inputs = task.split("validation")[0][0][INPUT]
    (expected,) = outputs_of(task.model, torch.from_numpy(inputs))
    np.testing.assert_allclose(run(load(outcome.file), {INPUT: inputs})[0], expected, atol=1e-4)


class SampleBySample(nn.Module):
    """A loop over the batch, which the exporter unrolls for the batch that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.head(torch.relu(self.hidden(x[i : i + 1].flatten(1)))) for i in range(x.shape[0])])


class OneAtATime(SampleBySample):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(x.reshape(1, 8))))


@pytest.mark.parametrize(("make", "batch_size"), [(SampleBySample, 20), (OneAtATime, 1)])
def test_networks_of_a_fixed_batch_are_deployed_for_one_sample(make: type[nn.Module], batch_size: int) -> None:
    torch.manual_seed(0)
    evaluator = Evaluator(task_of(make(), (2, 4), batch_size=batch_size), device())
    for stages, accuracy in (((), 1.0), ((PTQ,), 0.9), (({**PTQ, "observer": "mse"},), 0.9)):
        outcome = evaluator.evaluate(recipe(*stages))[0]
        assert outcome.evaluation.validation.value >= accuracy
        assert load(outcome.file).inputs[INPUT].shape == (1, 2, 4)
    if batch_size > 1:
        with pytest.raises(CandidateError, match="takes one sample at a time; quantise without training"):
            evaluator.evaluate(recipe(QAT))


def test_agreement_of_a_dense_prediction_is_a_share() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    images = torch.randn(40, 3, 8, 8)
    train = [(images, outputs_of(net, images)[0].argmax(1))]

    def evaluate(predict: Callable[[Any], Any]) -> float:
        return float((predict(images.numpy()).argmax(1) == train[0][1].numpy()).mean())

    task = Task.classification(net, example_input=images[:1], train=train, evaluate=evaluate)
    evaluator = Evaluator(task, device())
    for stages in ((), (PTQ,)):
        evaluation = evaluator.evaluate(recipe(*stages))[0].evaluation
        assert evaluation.parity == pytest.approx(evaluation.validation.value, abs=0.05)  # of 10 of the 40 images
        assert evaluation.parity > 0.8
