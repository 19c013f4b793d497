from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.errors import TaskError
from autocompress.tasks.kinds.segmentation import Segmentation
from autocompress.tasks.task import Task

IMAGES, LABELS = torch.rand(4, 3, 6, 6), torch.randint(0, 3, (4, 6, 6))


def task(data: Any = None, out: int = 3, **settings: Any) -> Task:
    data = [(IMAGES, LABELS)] if data is None else data
    return Task.segmentation(nn.Conv2d(3, out, 1).eval(), example_input=IMAGES[:1], val=data, **settings)


def test_the_score_is_intersection_over_union_of_the_classes_in_the_image() -> None:
    truth = np.array([[[0, 0, 1, 255]], [[2, 2, 2, 2]]])
    answer = np.array([[[0, 1, 1, 2]], [[2, 2, 2, 2]]])
    logits = np.eye(3)[answer].transpose(0, 3, 1, 2)
    assert Segmentation.metric is not None
    assert Segmentation.metric.scores(logits, truth).tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: task(out=1), r"returns logits \(N, classes, H, W\) of two or more classes, got \(1, 1, 6, 6\)"),
        (
            lambda: task([(IMAGES, LABELS + 1)]),
            "labels must be from 0 to 2 .* or 255 for pixels without one, got 3: subtr",
        ),
        (lambda: task([(IMAGES, LABELS.float())]), r"integers, got \(4, 6, 6\) of torch.float32"),
        (lambda: task([(IMAGES, LABELS[:, 0, 0])]), r"targets must be class indices \(N, H, W\), integers, got \(4,\)"),
        (lambda: task(classes=["a", "b"]), "classes must name the model's 3 outputs, got 2 names"),
    ],
)
def test_what_is_no_segmentation_is_refused(made: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        made().validate()
