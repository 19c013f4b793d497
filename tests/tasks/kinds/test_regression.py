from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.techniques._usual import quantised
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import TaskError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.kinds.regression import Regression
from autocompress.tasks.task import Task

SERIES = torch.sin(torch.arange(600.0) / 7) + 0.1 * torch.randn(600, generator=torch.Generator().manual_seed(0))
PAST = torch.stack([SERIES[i : i + 24] for i in range(500)])[..., None]
FUTURE = torch.stack([SERIES[i + 24 : i + 32] for i in range(500)])


class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(1, 16, batch_first=True), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0][:, -1])


def task(targets: Tensor = FUTURE, model: nn.Module | None = None, **settings: Any) -> Task:
    return Task.regression(model or Forecaster(), example_input=PAST[:1], val=[(PAST, targets)], **settings)


def value(name: str, outputs: Any, targets: Any) -> float:
    metric = Regression().named_metric(name)
    arrays = np.array(outputs, np.float32), np.array(targets, np.float32)
    return float(metric.scores(*arrays).mean()) if metric.per_sample else metric.figure(metric.kept(*arrays))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("MAE", -1.0), ("RMSE", -np.sqrt(2.5)), ("sMAPE", -(2 / 3 + 6 / 5) / 4), ("R2", 1 - 10 / 0.5)],
)
def test_figures_are_told_so_that_more_is_better(name: str, expected: float) -> None:
    assert value(name, [[1.0, 2.0], [2.0, 4.0]], [[1.0, 1.0], [2.0, 1.0]]) == pytest.approx(expected)


def test_a_recurrent_forecaster_goes_into_int8_files() -> None:
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(PAST), FUTURE).backward()
        optimizer.step()
    made = task(model=model, metric="RMSE", train=[(PAST, FUTURE)])
    made.validate()
    evaluator = Evaluator(made, DeviceProfile.load("raspberry-pi-4"))
    fp32, int8 = (evaluator.evaluate(Recipe(stages=stages))[0] for stages in ((), (quantised(),)))
    scores = [evaluator.score(outcome.file, "validation").value for outcome in (fp32, int8)]
    assert scores[0] < 0 and scores[1] == pytest.approx(scores[0], rel=0.05)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (FUTURE[..., None], r"must have the shape of the outputs \(8,\), got \(8, 1\); reshape"),
        (FUTURE[:, :4], r"must have the shape of the outputs \(8,\), got \(4,\)"),
        ((FUTURE * 100).int(), "targets must be floats, got torch.int32"),
    ],
)
def test_targets_that_the_metric_would_broadcast_are_refused(targets: Tensor, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(targets).validate()


def test_targets_on_another_scale_than_the_outputs_are_told() -> None:
    made = task(20 + 5 * FUTURE)
    made.validate()
    assert any("further from the targets than the mean" in note and "targets from 1" in note for note in made.notes)
