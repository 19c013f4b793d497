from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from helpers.tasks import make_workshop
from torch import nn

from autocompress.compression import finetuning
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.exit_heads import ExitHead, MultiExit
from autocompress.compression.finetuning import Average, find_rate, fine_tune, fit_and_keep_best, optimizer_for, score
from autocompress.compression.techniques.prune import Prune
from autocompress.compression.training import Distillation, Schedule, held_out_loss

TERMS = Distillation(weight=0.5)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(a.state_dict()[k], v) for k, v in b.state_dict().items())


def test_a_rate_that_destroys_the_network_leaves_it_as_it_was(trained_workshop: Context) -> None:
    start = Candidate(trained_workshop.task.model)
    trained = fine_tune(start, trained_workshop, Schedule(1, 8.0), TERMS)
    assert trained.kept == "start" and trained.scores["end"] < trained.scores["start"]
    assert same(trained.model, start.model)


def test_weights_that_gain_are_kept_and_score_what_they_say(trained_workshop: Context) -> None:
    pruned = Prune(ratio=0.5, round_to=2).apply(Candidate(trained_workshop.task.model), trained_workshop)
    trained = fine_tune(pruned, trained_workshop, Schedule(3, 0.05), TERMS)
    assert trained.kept != "start"
    assert score(trained.model, trained_workshop) == trained.scores[trained.kept] == max(trained.scores.values())
    assert trained.scores["start"] == score(pruned.model, trained_workshop) < trained.scores["end"]


def test_re_estimated_statistics_are_kept_only_where_they_gain(trained_workshop: Context) -> None:
    pruned = Prune(ratio=0.5, round_to=2).apply(Candidate(trained_workshop.task.model), trained_workshop)
    trained = fine_tune(pruned, trained_workshop, Schedule(0, 0.05), TERMS)
    assert set(trained.scores) == {"start", "end"}
    assert trained.scores[trained.kept] == max(trained.scores.values())


def test_the_model_itself_ends_with_the_best_weights(trained_workshop: Context) -> None:
    model = copy.deepcopy(trained_workshop.task.model)
    before = copy.deepcopy(model)
    assert fit_and_keep_best(model, trained_workshop, Schedule(1, 8.0), TERMS).kept == "start"
    assert same(model, before)


def test_the_average_forgets_what_lies_behind_its_horizon() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    average = Average(model, horizon=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
        model[1].num_batches_tracked.fill_(7)
    for _ in range(50):
        average(model)
    assert torch.allclose(average.state["0.weight"], torch.tensor(3.0), atol=1e-3)
    assert average.state["1.num_batches_tracked"] == 7


def test_exits_count_as_much_as_the_output(trained_workshop: Context) -> None:
    backbone = copy.deepcopy(trained_workshop.task.model)
    model = MultiExit(backbone, {"blocks.0": ExitHead(8, 4, "nchw")}).eval()
    alone = score(backbone, trained_workshop)
    assert score(model, trained_workshop) < alone - 0.1  # nobody has trained the head


def test_outputs_that_are_no_numbers_score_below_everything() -> None:
    context = make_workshop("mlp")
    model = copy.deepcopy(context.task.model)
    next(model.parameters()).data.fill_(math.nan)
    assert score(model, context) == -math.inf


@pytest.mark.parametrize(("net", "expected"), [("resnet", "sgd"), ("vit", "adamw")])
def test_the_optimizer_fits_the_kind_of_network(net: str, expected: str) -> None:
    assert optimizer_for(make_workshop(net).task.model) == expected


@pytest.mark.parametrize("best", range(5))
@pytest.mark.parametrize("n", [5])
def test_the_search_for_a_peak_finds_it(best: int, n: int) -> None:
    values = [-abs(i - best) for i in range(n)]
    asked: set[int] = set()
    assert finetuning._climb(lambda i: (asked.add(i), values[i])[1], n) == best
    assert len(asked) <= 4


@pytest.mark.parametrize(("values", "expected"), [([1, 1, 1], 0), ([0, 1, 1], 1), ([-math.inf] * 3, 0)])
def test_of_equally_good_rates_the_lower_one_is_taken(values: Sequence[float], expected: int) -> None:
    assert finetuning._climb(lambda i: values[i], 3) == expected


def test_the_rate_is_found_by_short_trainings(trained_workshop: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    context = replace(trained_workshop, progress=steps.append, memo={})
    monkeypatch.setattr(finetuning, "_STEPS", 5)
    pruned = Prune(ratio=0.5, round_to=2).apply(Candidate(context.task.model), context)
    ladder = find_rate(pruned, context, "sgd", TERMS)
    assert ladder.scores[ladder.rate] == max(ladder.scores.values()) and 2 <= len(ladder.scores) <= 4
    assert len([s for s in steps if s.startswith("training: step")]) == 5 * len(ladder.scores)
    assert ladder.start == -held_out_loss(pruned.model, context, TERMS) < ladder.scores[ladder.rate] < 0


def test_a_rate_at_which_the_loss_is_no_number_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(finetuning.RATES, "sgd", (0.01, 1e30, 1e31))
    context = make_workshop("mlp")
    ladder = find_rate(Candidate(context.task.model), context, "sgd", TERMS)
    assert ladder.rate == 0.01 and ladder.scores[1e30] == -math.inf
