from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.tasks import make_task, predicting
from torch import nn

from autocompress.compression.analysis import analyze
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.techniques.distill import Distill
from autocompress.compression.techniques.prune import Prune
from autocompress.errors import CandidateError, TaskError
from autocompress.tasks.interface import tensors
from autocompress.tasks.torch_utils import outputs_of


def accuracy(candidate: Candidate, context: Context) -> float:
    return context.task.score(predicting(candidate.model), "validation").value


def test_distillation_recovers_a_pruned_network(trained_workshop: Context) -> None:
    pruned = Prune(ratio=0.5, round_to=2).apply(Candidate(trained_workshop.task.model), trained_workshop)
    healed = Distill(epochs=6, learning_rate=0.1).apply(pruned, trained_workshop)
    assert accuracy(pruned, trained_workshop) < 0.85 < 0.9 < accuracy(healed, trained_workshop)
    assert healed.notes == (*pruned.notes, "distill: 6 epochs") and healed.removed == pruned.removed


def test_feature_and_relation_terms_fit_pruned_networks(trained_workshop: Context) -> None:
    pruned = Prune(ratio=0.5, round_to=2).apply(Candidate(trained_workshop.task.model), trained_workshop)
    healed = Distill(epochs=6, learning_rate=0.1, feature_weight=10, relation_weight=5).apply(pruned, trained_workshop)
    assert accuracy(healed, trained_workshop) > accuracy(pruned, trained_workshop)


def test_no_epochs_re_estimate_batchnorm_only(trained_workshop: Context) -> None:
    start = Candidate(trained_workshop.task.model)
    done = Distill(epochs=0).apply(start, trained_workshop)
    assert done.notes == ("distill: BatchNorm re-estimated",)
    assert torch.equal(done.model.fc.weight, start.model.fc.weight)


def test_another_teacher_is_followed() -> None:
    class Opposite(nn.Module):
        """Always says class 2."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 0.0, 9.0, 0.0]]).repeat(len(x), 1)

    task = make_task("mlp", teacher=Opposite())
    inputs, _ = task.split("validation")[0]
    (samples,) = inputs.values()
    always = [(torch.from_numpy(samples), torch.full((len(samples),), 2))]
    task = replace(task, val=always)  # by labels that disagree with the teacher its weights would not be kept
    context = Context(task, analyze(task))
    taught = Distill(epochs=5, weight=1.0, learning_rate=0.1).apply(Candidate(task.model), context)
    predictions = outputs_of(taught.model, tensors(task.split("validation")[0][0]))[0].argmax(-1)
    assert (predictions == 2).float().mean() > 0.95
    with pytest.raises(CandidateError, match="no place in common"):
        Distill(epochs=1, feature_weight=1).apply(Candidate(task.model), context)


def test_training_needs_data(trained_workshop: Context) -> None:
    bare = replace(trained_workshop, task=replace(trained_workshop.task, train=None), memo={})
    with pytest.raises(TaskError, match="training needs training data"):
        Distill(epochs=1).apply(Candidate(bare.task.model), bare)
