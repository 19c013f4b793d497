"""Tasks and workshops on the nets of the zoo, with synthetic data."""

from __future__ import annotations

from torch.utils.data import TensorDataset

from autocompress.compression.anatomy import dissect
from autocompress.compression.candidate import Workshop
from autocompress.tasks.task import Task
from helpers.zoo import ZOO, synthetic_classification


def make_task(name: str, n: int = 128, **settings: object) -> Task:
    """A task on an untrained net."""
    model, example = ZOO[name]()
    train = TensorDataset(*synthetic_classification(example, n=n))
    val = TensorDataset(*synthetic_classification(example, n=n, seed=1))
    given = {"example_input": example, "train": train, "val": val, "name": name, **settings}
    return Task.classification(model, **given)


def make_workshop(name: str, **settings: object) -> Workshop:
    task = make_task(name, **settings)
    return Workshop(task, dissect(task))
