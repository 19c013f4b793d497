from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.small import device
from helpers.taggers import Batch, Tagger, tagging, texts

from autocompress.errors import TaskError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.sensitivity import weight_sensitivity
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.kinds.token_classification import TokenClassification

KIND = TokenClassification()


def test_only_tokens_with_a_class_count() -> None:
    truth = np.array([[0, 1, -100, -100], [2, 2, 2, 1]])
    logits = np.eye(3)[np.array([[0, 0, 2, 2], [2, 2, 1, 1]])]
    matrices = KIND.metric.kept(logits, truth)
    assert KIND.metric.figure(matrices) == 4 / 6
    assert KIND.named_metric("macro F1").figure(matrices) == pytest.approx((2 / 3 + 1 / 2 + 4 / 5) / 3)


def test_texts_without_any_class_are_no_number_alone() -> None:
    nothing = KIND.metric.kept(np.zeros((1, 4, 3)), np.full((1, 4), -100))
    assert np.isnan(KIND.metric.figure(nothing))
    one = KIND.metric.kept(np.eye(3)[[[0]]], np.array([[0]]))
    assert KIND.metric.figure([*nothing, *one]) == 1.0


def test_distillation_leaves_padding_out() -> None:
    targets = torch.tensor([[0, 1, -100]])
    student, teacher = torch.randn(1, 3, 3), torch.randn(1, 3, 3)
    changed = teacher.clone()
    changed[0, 2] += 5.0

    def distance(teacher: torch.Tensor) -> float:
        return float(KIND.distillation(KIND.counted(student, targets), KIND.counted(teacher, targets), 2.0))

    assert (
        distance(teacher)
        == distance(changed)
        == pytest.approx(float(KIND.distillation(student[:, :2], teacher[:, :2], 2.0)))
    )


@pytest.mark.parametrize("metric", ["accuracy of tokens", "macro F1"])
def test_texts_of_several_lengths_go_from_training_to_the_file(metric: str) -> None:
    evaluator = Evaluator(tagging(metric=metric), device())
    evaluator.task.validate()
    before = evaluator.evaluate(Recipe())[0].evaluation.validation
    stages = [
        {"technique": "prune", "ratio": 0.25, "round_to": 4},
        {"technique": "distill", "epochs": 2, "learning_rate": 0.01, "weight": 0.5},
        {"technique": "ptq", "weight_bits": {"embeddings": 4, "default": 8}},
    ]
    (outcome,) = evaluator.evaluate(Recipe.parse({"stages": stages}))
    after = outcome.evaluation.validation
    assert before.value > 0.8 and after.value > before.value - 0.1
    assert after.low < after.value < after.high and after.n_samples == 96
    assert evaluator.score(outcome.file, "test").n_samples == 96
    assert {layer.damage > 0 for layer in weight_sensitivity(evaluator)} == {True}


def changed(**values: Any) -> list[Batch]:
    return [{**batch, **{key: change(batch[key]) for key, change in values.items()}} for batch in texts(1)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"val": changed(labels=lambda y: y + (y >= 0) * 1)},
            "labels must be from 0 to 2 .* or -100 for tokens .*got 3",
        ),
        ({"val": changed(labels=lambda y: y[:, 0])}, r"targets must be class indices \(N, L\), integers, got \(32,\)"),
        ({"val": changed(labels=lambda y: y.float())}, "integers, got .*float32"),
        ({"free_axes": ()}, r"samples of 'input_ids' must have the shape of example_input \(12,\), got \(6,\)"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        tagging(**settings).validate()


def test_logits_of_whole_texts_are_no_token_classification() -> None:
    class Whole(Tagger):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return super().forward(input_ids, attention_mask).mean(1)

    task = tagging()
    wrong = type(task)(Whole().eval(), task.example_input, val=texts(1), kind="token_classification", free_axes=(1,))
    with pytest.raises(TaskError, match=r"returns logits \(N, L, classes\) of two or more classes, got \(1, 3\)"):
        wrong.validate()
