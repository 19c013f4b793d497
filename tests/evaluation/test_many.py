"""Networks with several inputs and outputs, from the recipe to the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.many import MANY, Sentences, many
from helpers.running import load, run
from helpers.small import device
from torch import Tensor, nn

from autocompress.errors import CandidateError, TaskError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe
from autocompress.runtimes.input_shapes import noted_shapes
from autocompress.tasks.interface import arrays, tensors
from autocompress.tasks.metric import Metric
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import outputs_of

PRUNE: dict[str, Any] = {"technique": "prune", "ratio": 0.25, "round_to": 2}
TRAIN: dict[str, Any] = {"technique": "distill", "epochs": 1, "learning_rate": 0.01, "weight": 0.5}
RECIPES = {
    "float": [],
    "ptq": [{"technique": "ptq"}],
    "pruned": [PRUNE, TRAIN, {"technique": "ptq"}],
    "qat": [{"technique": "qat", "epochs": 1}],
}


@pytest.fixture(scope="module", params=sorted(MANY))
def evaluator(request: pytest.FixtureRequest) -> Evaluator:
    task = many(request.param)
    task.validate()
    return Evaluator(task, device())


class Clashing(nn.Module):
    """Names of outputs that an input and values inside the graph have too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = self.fc(x).relu()
        answer = self.out(hidden)
        return {"x": answer * mask[:, None], "linear": hidden, "relu": answer}


def test_outputs_called_like_other_values_get_an_ending() -> None:
    torch.manual_seed(0)
    inputs, targets = {"x": torch.randn(32, 6), "mask": torch.ones(32).bool()}, torch.zeros(32)
    same = Metric("same", lambda outputs, targets: np.isclose(outputs.x, outputs["relu"]).all(1) * 1.0)
    example = {name: tensor[:1] for name, tensor in inputs.items()}
    task = Task(Clashing().eval(), example, val=[(inputs, targets)], kind="generic", metric=same)
    for stages in ([], [{"technique": "ptq"}]):
        outcome = Evaluator(task, device()).evaluate(Recipe.parse({"stages": stages}))[0]
        assert [*load(outcome.file).outputs] == ["x_output", "linear_output", "relu"]
        assert outcome.evaluation.validation.value == 1.0


def test_early_exits_of_a_network_with_several_inputs(exits_of: Evaluator) -> None:
    stages = [{"technique": "early_exit", "hidden": 8}, TRAIN, {"technique": "ptq"}]
    first, *_ = exits_of.evaluate(Recipe.parse({"stages": stages}))
    assert [*load(first.file).inputs] == ["image", "age"]
    assert first.evaluation.exits and sum(e.rate for e in first.evaluation.exits) == pytest.approx(1.0)
    assert exits_of.score(first.file, "validation") == first.evaluation.validation


@pytest.fixture(scope="module")
def exits_of() -> Evaluator:
    return Evaluator(many("image and scalar"), device())


def texts(seed: int) -> list[dict[str, Tensor]]:
    """Batches that are padded to their longest text each, as collators of Hugging Face make them."""
    data = Sentences(96, seed)
    batches = [
        {key: torch.stack([data[i][key] for i in range(k, k + 16)]) for key in data[0]} for k in range(0, 96, 16)
    ]
    return [{k: v[:, : 12 - i] if v.dim() > 1 else v for k, v in batch.items()} for i, batch in enumerate(batches)]


@pytest.fixture(scope="module")
def of_any_length() -> Evaluator:
    task = many("ids and mask", train=texts(0), val=texts(1), test=texts(2), free_axes=(1,))
    task.validate()
    return Evaluator(task, device())


@pytest.mark.parametrize("name", RECIPES)
def test_texts_of_any_length_reach_the_file(name: str, of_any_length: Evaluator) -> None:
    task = of_any_length.task
    recipe = Recipe.parse({"stages": RECIPES[name]})
    (outcome,) = of_any_length.evaluate(recipe)
    model, e = load(outcome.file), outcome.evaluation
    assert {spec.shape[1] for spec in model.inputs.values()} == {"size1"}
    lengths = {inputs["input_ids"].shape[1] for inputs, _ in task.split("validation")}
    assert lengths == {7, 8, 9, 10, 11, 12}
    for inputs, _ in task.split("validation") if name == "float" else ():
        np.testing.assert_allclose(*run(model, inputs), *arrays(outputs_of(task.model, tensors(inputs))), atol=1e-4)
    assert of_any_length.score(outcome.file, "validation") == e.validation
    assert e.parity is not None and e.parity > 0.9
    bits = {layer.name: layer.weight_bits for layer in e.layers}
    assert bits["embed"] == bits["place"] == (32 if name == "float" else 8)  # no length is known beforehand
    assert e.predicted_latency_ms == pytest.approx(of_any_length.forecast(recipe).worst_case_ms, rel=0.01)


def test_a_group_that_is_called_after_a_table_can_be_pruned() -> None:
    """Nothing but the table and attention makes the channels of this one."""

    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 3)
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.words(ids)
            return self.head((x + self.attention(x, x, x)[0]).mean(1))

    data = [(torch.randint(0, 50, (16, 9)), torch.arange(16) % 3)]
    evaluator = Evaluator(Task.classification(Attentive().eval(), example_input=data[0][0], val=data), device())
    assert [*evaluator.analysis.groups] == ["words"]
    (outcome,) = evaluator.evaluate(Recipe.parse({"stages": [PRUNE]}))
    assert {layer.name: layer.channels_after for layer in outcome.evaluation.layers}["words"] == 12


def test_a_free_file_is_timed_at_the_usual_size(of_any_length: Evaluator, tmp_path: Path) -> None:
    (outcome,) = of_any_length.evaluate(Recipe())
    (tmp_path / "free.onnx").write_bytes(outcome.file)
    assert noted_shapes(tmp_path / "free.onnx") == {"input_ids": (1, 12), "attention_mask": (1, 12)}
    assert of_any_length.runtime.kernels(onnx.load_from_string(outcome.file)).workload().macs == outcome.evaluation.macs
    assert {array.shape for array in of_any_length.task.sample(0).values()} == {(1, 12)}


@pytest.mark.parametrize(
    ("free", "wrong"),
    [((0,), "axis 0"), ((2,), "axis 2"), ({"ids": (1,)}, "the input 'ids'"), ({"input_ids": (3,)}, "3")],
)
def test_axes_that_cannot_be_free_are_refused(free: Any, wrong: str) -> None:
    with pytest.raises(TaskError, match=f"free_axes must be axes from 1 on.* got .*{wrong}"):
        many("ids and mask", free_axes=free)


def test_a_network_of_one_size_says_so() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 4), nn.Linear(48, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.embed(input_ids).flatten(1))

    data = [(torch.randint(0, 50, (8, 12)), torch.zeros(8).long())]
    task = Task.classification(Flat().eval(), example_input=data[0][0], val=data, free_axes=(1,))
    with pytest.raises(CandidateError, match="cannot be exported"):
        Evaluator(task, device()).evaluate(Recipe())


@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_carries_them_into_the_file(name: str, evaluator: Evaluator) -> None:
    task = evaluator.task
    (outcome,) = evaluator.evaluate(Recipe.parse({"stages": RECIPES[name]}))
    e = outcome.evaluation
    model = load(outcome.file)
    assert [*model.inputs] == [*task.inputs] and [*model.outputs] == [*task.outputs.names]
    inputs, _ = task.split("validation")[0]
    for mine, theirs in zip(run(model, inputs), outputs_of(task.model, tensors(inputs)), strict=True):
        assert mine.shape == tuple(theirs.shape)
        if name == "float":
            np.testing.assert_allclose(mine, arrays(theirs), atol=1e-4)
    assert e.parity is not None and e.parity > (0.99 if name == "float" else 0.8 if "p" in name else 0.6), e.parity
    assert e.parity > 0.98 or name != "qat"
    assert evaluator.score(outcome.file, "test").n_samples == 96
    assert name == "float" or any(layer.weight_bits == 8 for layer in e.layers)
