"""The benchmarks' tasks: a residual network on CIFAR-10, tested on the official test set.

autocompress search benchmarks/cifar10_task.py:task
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from autocompress import Task

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from datasets import cifar10_batches
from train import JOBS, fast_dtype, trained


def task() -> Task:
    """All 45,000 training images."""
    return _task(45_000)


def small() -> Task:
    """The same network, fine-tuned on 9,000 of the images only: a search in which a training takes seconds."""
    return _task(9_000)


def _task(n_train: int) -> Task:
    train, val, test = cifar10_batches(n_train=n_train)
    return Task.classification(
        trained(JOBS["cifar10"]),
        train=train,
        val=val,
        test=test,
        example_input=torch.zeros(1, 3, 32, 32),
        autocast=fast_dtype(),
        channels_last=True,
        name="cifar10",
    )
