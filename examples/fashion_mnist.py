"""The quickstart's task: a residual network on the part of Fashion-MNIST kept in this repository.

autocompress search examples/fashion_mnist.py:task
"""

from __future__ import annotations

import torch
from datasets import fashion_mnist_batches
from train import JOBS, fast_dtype, trained

from autocompress import Task

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def task() -> Task:
    train, val, test = fashion_mnist_batches()
    return Task.classification(
        trained(JOBS["fashion-mnist"]),
        train=train,
        val=val,
        test=test,
        example_input=torch.zeros(1, 1, 28, 28),
        autocast=fast_dtype(),
        channels_last=True,
        name="fashion-mnist",
        classes=CLASSES,
        preprocessing="grey values / 255, minus 0.286, divided by 0.353",
    )
