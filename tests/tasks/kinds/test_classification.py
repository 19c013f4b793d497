from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.errors import TaskError
from autocompress.tasks.kinds.classification import Classification
from autocompress.tasks.task import Task

INPUTS, LABELS = torch.randn(40, 6), torch.arange(40) % 3


def task(*last: nn.Module, **settings: Any) -> Task:
    return Task.classification(
        nn.Sequential(nn.Linear(6, 3), *last).eval(), example_input=INPUTS[:1], val=[(INPUTS, LABELS)], **settings
    )


def figure(name: str, answers: list[int], labels: list[int]) -> float:
    metric = Classification().named_metric(name)
    return metric.figure((np.eye(4)[answers], np.array(labels)))


def test_macro_recall_and_f1_count_every_class_alike() -> None:
    labels, answers = [0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 3, 2]
    assert figure("macro recall", answers, labels) == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert figure("macro F1", answers, labels) == pytest.approx((6 / 7 + 1 / 2 + 1 + 0) / 4)


@pytest.mark.parametrize("name", ["macro recall", "macro_recall", "Macro-Recall"])
def test_a_metric_is_asked_for_by_its_name(name: str) -> None:
    made = task(metric=name)
    assert made.figure == "macro recall" and made.metric.unit == "share"
    made.validate()


def test_an_unknown_name_of_a_metric_is_told_with_those_that_are_known() -> None:
    with pytest.raises(
        TaskError, match=r"has no metric 'macro_recal' \(did you mean 'macro recall'\?\); known: accuracy, mac"
    ):
        task(metric="macro_recal")


def test_probabilities_in_the_place_of_logits_are_told() -> None:
    for made, told in ((task(nn.Softmax(-1)), True), (task(), False)):
        made.validate()
        assert any("outputs are probabilities" in note for note in made.notes) == told
