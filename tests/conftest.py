from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.tasks import make_task, make_workshop
from helpers.zoo import synthetic_classification
from torch import nn

from autocompress.compression.analysis import analyze
from autocompress.compression.candidate import Context
from autocompress.tasks.task import Task

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained_task() -> Task:
    """A small residual net that has learnt its task: about 98 % of 256 validation samples."""
    task = make_task("resnet", n=256)
    torch.manual_seed(0)
    inputs, labels = synthetic_classification(task.example_input, n=256)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.05, momentum=0.9)
    task.model.train()
    for _ in range(4):
        for i in torch.randperm(256).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(task.model(inputs[i]), labels[i]).backward()
            optimizer.step()
    optimizer.zero_grad()
    task.model.eval()
    return task


@pytest.fixture
def trained_workshop(trained_task: Task) -> Context:
    """A context of its own for every test; the task is shared."""
    return Context(trained_task, analyze(trained_task))


@pytest.fixture(scope="session")
def workshop_of() -> Callable[[str], Context]:
    """Workshops on untrained nets of the zoo, made once each; do not change what is in them."""
    made: dict[str, Context] = {}

    def get(name: str) -> Context:
        if name not in made:
            made[name] = make_workshop(name)
        return made[name]

    return get
