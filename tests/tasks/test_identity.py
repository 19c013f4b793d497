"""Which changes of code and data make another task, and which do not."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch

from autocompress.studies.settings import changes
from autocompress.tasks.task import Task

HELPERS = """
LIMIT = 0.5


def soften(x):
    return x * 0.9
"""
SOURCE = '''
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate
import helpers_NAME as helpers
from helpers_NAME import soften
from autocompress import Metric, Task

SHARPNESS = 2.0
WEIGHTS = torch.tensor([1.0, 2.0, 1.0, 1.0])
right = lambda o, t: (o.argmax(-1) == t).astype(float); other = lambda o, t: o[:, 0]


def activation(x):
    return torch.relu(x)


class Base(nn.Module):
    scale = 1.0

    def scaled(self, x):
        return x * self.scale


class Net(Base):
    def __init__(self, act=activation):
        super().__init__()
        self.a, self.b, self.act, self.power = nn.Linear(6, 8), nn.Linear(8, 4), act, 1

    def forward(self, x):
        """What it computes."""
        return self.scaled(self.b(self.act(self.a(x)) ** self.power))


def per_sample(outputs, targets, margin=0.1):
    # a comment
    hits = right(outputs * SHARPNESS, targets)
    return np.where(hits > helpers.LIMIT, 1.0, margin)


def loss(outputs, targets):
    return nn.functional.cross_entropy(soften(outputs), targets, weight=WEIGHTS)


def collate(rows):
    return default_collate(rows)


def task():
    torch.manual_seed(0)
    net = Net()
    x, y = torch.randn(90, 6), torch.arange(90) % 4
    train = DataLoader(TensorDataset(x[:40], y[:40]), 8, shuffle=True, num_workers=0, collate_fn=collate)
    val = DataLoader(TensorDataset(x[40:70], y[40:70]), 10)
    test = TensorDataset(x[70:], y[70:])
    return Task.classification(
        net, train=train, val=val, test=test, example_input=torch.zeros(1, 6), loss=loss, metric=Metric("m", per_sample)
    )
'''
COUNT = itertools.count()


def load(folder: Path, source: str, helpers: str = HELPERS, name: str | None = None) -> Task:
    name = name or f"user_task_{next(COUNT)}"
    sys.path.insert(0, str(folder))
    try:
        (folder / f"helpers_{name}.py").write_text(helpers)
        path = folder / f"{name}.py"
        path.write_text(source.replace("NAME", name))
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made = module.task()
        assert isinstance(made, Task)
        made.identity  # noqa: B018  read now, as a search does
        return made
    finally:
        sys.path.remove(str(folder))


def changed(folder: Path, old: str, new: str) -> list[str]:
    assert (old in SOURCE) != (old in HELPERS)
    before = load(folder, SOURCE).identity
    return changes(before, load(folder, SOURCE.replace(old, new), HELPERS.replace(old, new)).identity)


METRIC, LOSS, NET = "the code of the metric changed", "the code of the loss changed", "the code of the network changed"
NOTICED = [
    ("argmax(-1) == t)", "argmax(-1) != t)", METRIC),
    ("hits > helpers", "hits >= helpers", METRIC),
    ("margin=0.1", "margin=0.2", METRIC),
    ("SHARPNESS = 2.0", "SHARPNESS = 3.0", METRIC),
    ("LIMIT = 0.5", "LIMIT = 0.6", METRIC),
    ("x * 0.9", "x * 0.8", LOSS),
    ("[1.0, 2.0, 1.0, 1.0]", "[1.0, 3.0, 1.0, 1.0]", LOSS),
    ("weight=WEIGHTS", "weight=WEIGHTS * 2", LOSS),
    ("cross_entropy(", "multi_margin_loss(", LOSS),
    ("torch.relu(x)", "torch.tanh(x)", NET),
    ("scale = 1.0", "scale = 1.1", NET),
    ("x * self.scale", "x + self.scale", NET),
    ("nn.Linear(8, 4), act, 1", "nn.Linear(8, 4), act, 2", NET),
    ("(x)) ** self.power)", "(x)))", NET),
    ("net = Net()", "net = Net(torch.tanh)", NET),
    ("net = Net()", "net = Net(lambda x: x)", NET),
    ("return default_collate(rows)", "return default_collate(rows[:7])", "the collate function of the train"),
    ("x[:40], y[:40]", "x[:40], y[:40].flip(0)", "the train data changed"),
    ("x[:40], y[:40]", "x[:39], y[:39]", "the train data changed"),
    ("x[:40], y[:40]", "x[:40] + 1e-3 * (torch.arange(40) == 20)[:, None], y[:40]", "the train data changed"),
    ("x[40:70], y[40:70]", "x[41:70], y[41:70]", "the validation data changed"),
    ("x[40:70], y[40:70]", "x[40:70], (y[40:70] + 1) % 4", "the validation data changed"),
    ("x[70:], y[70:]", "x[70:], y[70:].clamp(max=2)", "the test data changed"),
]  # fmt: skip
UNNOTICED = [
    ("# a comment", "# another one,\n    # of two lines"),
    ('"""What it computes."""', '"""Something else."""'),
    ('        """What it computes."""\n', ""),
    ("hits = right(outputs * SHARPNESS, targets)", "hits = right(\n        outputs * SHARPNESS, targets\n    )"),
    ("(outputs, targets, margin=0.1)", "(outputs: np.ndarray, targets: object, margin: float = 0.1) -> np.ndarray"),
    ("def activation", "\n\n\nUNUSED = 3\n\n\ndef unused(x):\n    return x\n\n\ndef activation"),
    ("return torch.relu(x)", "return (torch.relu((x)))"),
    ("other = lambda o, t: o[:, 0]", "other = lambda o, t: o[:, 1]"),
    ("y[40:70]), 10)", "y[40:70]), 15)"),
    ("num_workers=0", "num_workers=0, prefetch_factor=None, pin_memory=False"),
    ("TensorDataset(x[:40], y[:40])", "TensorDataset(x[:40].flip(0), y[:40].flip(0))"),
    ("0.9", "0.90"),
    ("test = TensorDataset(x[70:], y[70:])", "test = [(x[70:], y[70:])]"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), NOTICED, ids=range(len(NOTICED)))
def test_a_change_that_matters_is_named(old: str, new: str, said: str, tmp_path: Path) -> None:
    texts = changed(tmp_path, old, new)
    assert texts[0].startswith(said) and len(texts) == 1 + ("rows[:7]" in new)
    assert "code" not in said or ".py:" in texts[0] or new in ("net = Net(torch.tanh)", "scale = 1.1")


@pytest.mark.parametrize(("old", "new"), UNNOTICED, ids=range(len(UNNOTICED)))
def test_a_change_that_does_not_matter_is_none(old: str, new: str, tmp_path: Path) -> None:
    assert changed(tmp_path, old, new) == []


def test_another_file_name_is_no_change(tmp_path: Path) -> None:
    assert changes(load(tmp_path, SOURCE, name="one").identity, load(tmp_path, SOURCE, name="two").identity) == []


def test_a_file_that_was_edited_after_it_was_loaded_is_not_taken_for_what_runs(tmp_path: Path) -> None:
    name = "edited"
    made = load(tmp_path, SOURCE, name=name)
    path = tmp_path / f"{name}.py"
    path.write_text(path.read_text().replace("hits > helpers", "hits < helpers"))
    stale = Task.classification(
        made.model, val=made.val, example_input=torch.zeros(1, 6), metric=made.metric, loss=made.loss
    ).identity["the code of the metric: per_sample"]
    assert stale.startswith("b") and made.identity["the code of the metric: per_sample"].startswith("s:")


def test_what_evaluate_closes_over_counts(tmp_path: Path) -> None:
    def made(targets: torch.Tensor) -> dict[str, str]:
        def evaluate(predict: object) -> float:
            return float(targets.sum())

        return Task.classification(torch.nn.Linear(6, 4), evaluate=evaluate, example_input=torch.zeros(1, 6)).identity

    assert changes(made(torch.zeros(5)), made(torch.zeros(5))) == []
    assert changes(made(torch.zeros(5)), made(torch.ones(5)))[0].startswith("the code of evaluate changed")
