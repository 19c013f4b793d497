from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.errors import TaskError
from autocompress.tasks.kinds.embedding import Embedding, contrastive_loss, recall_at, tar_at
from autocompress.tasks.metric import Metric
from autocompress.tasks.task import Task

INPUTS, LABELS = torch.randn(60, 6), torch.arange(60) % 10
RNG = np.random.default_rng(0)


def task(labels: torch.Tensor = LABELS, *last: nn.Module, out: int = 4, **settings: Any) -> Task:
    network = nn.Sequential(nn.Linear(6, out), *last).eval()
    return Task.embedding(network, example_input=INPUTS[:1], val=[(INPUTS, labels)], **settings)


def figure(metric: Metric | str, vectors: Any, labels: Any) -> float:
    metric = Embedding().named_metric(metric) if isinstance(metric, str) else metric
    return metric.figure((np.asarray(vectors, np.float32), np.asarray(labels)))


def angles(*degrees: float) -> np.ndarray:
    """Vectors of different lengths: only the angles count."""
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], 1) * np.arange(1, len(degrees) + 1)[:, None]


def test_recall_is_that_of_the_nearest_others() -> None:
    vectors, labels = angles(0, 10, 12, 30, 90), [0, 0, 1, 1, 2]  # label 2 is alone: not asked for
    assert figure("recall@1", vectors, labels) == 2 / 4
    assert figure(recall_at(2), vectors, labels) == 3 / 4


@pytest.mark.parametrize("n", [40, 1500])
def test_verification_figures_are_those_of_all_pairs(n: int) -> None:
    """Against the definitions, with every pair in memory."""
    labels = RNG.integers(8, size=n)
    vectors = RNG.normal(size=(8, 16))[labels] + 1.2 * RNG.normal(size=(n, 16))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    i, j = np.triu_indices(n, 1)
    cosines, same = (unit[i] * unit[j]).sum(1), labels[i] == labels[j]
    threshold = np.quantile(cosines[~same], 0.99, method="inverted_cdf")
    assert figure(tar_at(0.01), vectors, labels) == pytest.approx((cosines[same] > threshold).mean(), abs=0.01)
    thresholds = np.quantile(cosines, np.linspace(0, 1, 400))
    false_accepts, false_rejects = (
        np.array([(cosines[kind] > t).mean() for t in thresholds]) for kind in (~same, same)
    )
    false_rejects = 1 - false_rejects
    best = np.argmin(np.abs(false_accepts - false_rejects))
    assert figure("EER", vectors, labels) == pytest.approx(-(false_accepts[best] + false_rejects[best]) / 2, abs=0.01)


def test_a_network_that_gives_all_the_same_is_no_good_at_verification() -> None:
    vectors, labels = np.ones((30, 4)), np.arange(30) % 5
    assert figure("TAR at FAR 0.001", vectors, labels) == 0
    assert figure("EER", vectors, labels) == pytest.approx(-0.5)


def test_the_interval_of_recall_does_not_find_a_sample_that_was_drawn_twice() -> None:
    """Random vectors are found by chance only, in every resample."""
    vectors, labels = RNG.normal(size=(300, 8)), np.arange(300) % 10
    score = recall_at(1).split_score((vectors, labels), "validation")
    assert score.low <= score.value <= score.high and score.high < 0.2


def test_the_loss_pulls_samples_of_one_label_together() -> None:
    vectors = nn.Parameter(torch.randn(24, 3))
    labels = torch.arange(24) % 4
    labels[0] = 99  # alone
    optimizer = torch.optim.Adam([vectors], 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        contrastive_loss(vectors, labels).backward()
        optimizer.step()
    assert figure("recall@1", vectors.detach(), labels) == 1
    assert float(contrastive_loss(vectors[:4].detach(), torch.arange(4))) == 0  # nothing to pull


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: task(torch.arange(60)), "validation data: no two samples have the same label"),
        (lambda: task(torch.zeros(60).long()), "validation data: all samples have the same label"),
        (
            lambda: task(LABELS.float()),
            r"must be a label of each sample \(N,\), integers, got \(60,\) of torch.float32",
        ),
        (lambda: task(nn.functional.one_hot(LABELS)), r"must be a label of each sample .* got \(60, 10\)"),
        (lambda: task(LABELS, nn.Unflatten(1, (2, 2))), r"returns vectors \(N, dimensions\), got \(1, 2, 2\)"),
        (lambda: task(metric="TAR at FAR 0.5"), "no metric 'TAR at FAR 0.5'.*known: recall@1, recall@5"),
    ],
)
def test_what_is_no_embedding_is_refused(made: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        made().validate()


class Normalised(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x, dim=-1)


def test_vectors_that_are_not_normalised_are_told_and_calibration_needs_no_labels() -> None:
    unlabelled = [(INPUTS, torch.full((60,), -1.0))]
    for last, told in (((), True), ((Normalised(),), False)):
        made = task(LABELS, *last, calibration=unlabelled)
        made.validate()
        assert any("not normalised (lengths from" in note for note in made.notes) == told
