from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.errors import TaskError
from autocompress.tasks.loading import load_task

WRONG = "def task():\n    from autocompress import Task\n    return Task(None, None)\n"
GOOD = """
import torch
from autocompress import Task
def task():
    model = torch.nn.Linear(24, 4)
    return Task.classification(model, example_input=torch.zeros(1, 24), val=[(torch.zeros(4, 24), torch.arange(4))])
ready = task()
number = 5
def fails():
    helper()
def helper():
    raise KeyError("weights.pt")
def wrong():
    return torch.nn.Linear(1, 1)
def leaves():
    raise SystemExit(3)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("my_good_task", "bad_task"):
        monkeypatch.setitem(sys.modules, name, sys)  # so that it is taken out again afterwards
        del sys.modules[name]
    monkeypatch.chdir(tmp_path)

    def make(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return make


def test_load_task_by_file_and_by_module(write: Callable[[str, str], str]) -> None:
    path = write("my_good_task.py", GOOD)
    for reference in (path, f"{path}:task", f"{path}:ready", "my_good_task.py:task", "my_good_task:task"):
        loaded = load_task(reference)
        loaded.validate()
        assert loaded.output_shape == (1, 4)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "task", "there is no file"),
        (GOOD, "tusk", "has no 'tusk'; write a function task() that returns autocompress.Task(...)"),
        (GOOD, "number", "must be a Task or a function that returns one, got int"),
        (GOOD, "wrong", "must be a Task or a function that returns one, got Linear"),
        (GOOD, "fails", "fails() raised KeyError: 'weights.pt' (bad_task.py, line 12)"),
        (GOOD, "leaves", "leaves() raised SystemExit: 3 (bad_task.py, line 16)"),
        ("def task(:\n", "task", "importing it raised SyntaxError: invalid syntax (bad_task.py, line 1)"),
        ("import no_such_module_x\n", "task", "No module named 'no_such_module_x' (bad_task.py, line 1)"),
        ("import json\njson.loads('{')\n", "task", "(bad_task.py, line 2)"),
        (WRONG, "task", "model must be a torch"),
    ],
)  # fmt: skip
def test_bad_task_file_is_explained(
    write: Callable[[str, str], str], text: str | None, name: str, message: str
) -> None:
    path = write("bad_task.py", text) if text is not None else "nowhere.py"
    with pytest.raises(TaskError) as caught:
        load_task(f"{path}:{name}")
    assert message in str(caught.value)
    with pytest.raises(TaskError, match="importing it raised ModuleNotFoundError"):
        load_task("no_such_package_x.tasks:task")
