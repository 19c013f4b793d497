"""A task, a space and a device that a search is through with in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.data import TensorDataset

from autocompress.devices.profile import DeviceProfile
from autocompress.recipes.space import SearchSpace
from autocompress.tasks.task import Task
from helpers.zoo import ZOO, synthetic_classification

DEVICE = "raspberry-pi-4"
SPACE: dict[str, Any] = {
    "version": 1,
    "stages": [
        {"technique": "prune", "ratio": {"per": "stage", "low": 0.0, "high": 0.5, "step": 0.125}, "round_to": 2},
        {"technique": "distill", "epochs": 1, "learning_rate": {"choice": [0.05, 0.01]}},
        {"technique": "ptq", "weight_bits": {"choice": [8, 4]}},
    ],
}
EXITS: dict[str, Any] = {
    "version": 1,
    "stages": [
        {"technique": "early_exit", "first": {"choice": [0.3, 0.5]}, "hidden": 8},
        {"technique": "distill", "epochs": 2},
        {"technique": "ptq"},
    ],
}
NUMERICS: dict[str, Any] = {
    "version": 1,
    "stages": [{"technique": "ptq", "weight_bits": {"choice": [8, 4, 16]}}],
}


def device() -> DeviceProfile:
    return DeviceProfile.load(DEVICE)


def space(data: dict[str, Any] = SPACE) -> SearchSpace:
    return SearchSpace.parse(data)


def small_task(net: str = "mlp", n: int = 192, **settings: Any) -> Task:
    """A net of the zoo after a few steps of training, with all three splits."""
    model, example = ZOO[net]()
    train, val, test = (TensorDataset(*synthetic_classification(example, n=n, seed=i)) for i in range(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        model.train()
        for batch in torch.arange(n).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train.tensors[0][batch]), train.tensors[1][batch]).backward()
            optimizer.step()
    given = {"example_input": example, "train": train, "val": val, "test": test, "name": net, **settings}
    return Task.classification(model.eval(), **given)


def write_task(folder: Path, name: str = "my_task", body: str = "    return small_task()") -> str:
    """Write a task module and return what the command line calls it."""
    path = folder / f"{name}.py"
    path.write_text(
        "import torch\nfrom torch import nn\nfrom helpers.small import small_task\n"
        f"from autocompress import Task\n\n\ndef task():\n{body}\n"
    )
    return f"{path}:task"


def write_space(folder: Path, data: dict[str, Any] = SPACE, name: str = "space") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    return path
