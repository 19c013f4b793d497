"""A task whose loss misbehaves in worker processes, once for each file in the folder that $FAULTS names."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from autocompress.tasks.task import Task
from helpers.small import small_task

DRIVER = "FAULTS_DRIVER"
"""Environment variable with the process that behaves."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(1e6)


def memory() -> None:
    torch.empty(2**60)


def bug() -> None:
    raise ZeroDivisionError("a bug in the user's loss")


def leave() -> None:
    sys.exit(3)


def nan() -> float:
    return float("nan")


FAULTS: dict[str, Callable[[], float | None]] = {f.__name__: f for f in (die, hang, memory, bug, leave, nan)}


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    factor = 1.0
    if os.environ.get(DRIVER) not in (None, str(os.getpid())):
        for file in sorted(Path(os.environ["FAULTS"]).glob("*")):
            try:
                file.unlink()  # only one worker gets it
            except FileNotFoundError:
                continue
            factor = FAULTS[file.name.split("-")[0]]() or 1.0
    return nn.functional.cross_entropy(outputs, targets) * factor


loss.__qualname__ = nn.functional.cross_entropy.__qualname__  # what small_task trains with: one study can have both


def task() -> Task:
    return small_task(loss=loss)


def drifting() -> Task:
    """Another model each time."""
    made = small_task()
    with torch.no_grad():
        next(made.model.parameters()).add_(os.getpid())
    return made


def fatal() -> Task:
    """A process that ends while it loads the task."""
    os._exit(7)
