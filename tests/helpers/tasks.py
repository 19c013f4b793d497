"""Tasks and contexts on the nets of the zoo, with synthetic data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from autocompress.compression.analysis import analyze
from autocompress.compression.candidate import Context
from autocompress.tasks.interface import INPUT, OUTPUT, Arrays, arrays, joined, tensors
from autocompress.tasks.task import Predict, Task
from autocompress.tasks.torch_utils import outputs_of
from helpers.zoo import ZOO, synthetic_classification


def make_task(name: str, n: int = 128, **settings: object) -> Task:
    """A task on an untrained net."""
    model, example = ZOO[name]()
    train = TensorDataset(*synthetic_classification(example, n=n))
    val = TensorDataset(*synthetic_classification(example, n=n, seed=1))
    given = {"example_input": example, "train": train, "val": val, "name": name, **settings}
    return Task.classification(model, **given)


def make_workshop(name: str, **settings: object) -> Context:
    task = make_task(name, **settings)
    return Context(task, analyze(task))


def lone(batches: Any) -> Any:
    """The samples of the lone input of all batches."""
    return joined([*batches])[INPUT]


def predicting(model: nn.Module, exit_index: int = -1) -> Predict:
    """Predictions of a torch model with one input, at one of its exits."""

    def predict(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            return {OUTPUT: arrays(outputs_of(model, tensors(inputs))[exit_index])}

    return predict
