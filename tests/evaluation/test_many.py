"""Networks with several inputs and outputs, from the recipe to the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.many import MANY, many
from helpers.running import load, run
from helpers.small import device
from torch import Tensor, nn

from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe
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
