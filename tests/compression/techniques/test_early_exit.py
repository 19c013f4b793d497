from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.tasks import predicting
from helpers.zoo import ZOO

from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.exit_heads import MultiExit
from autocompress.compression.techniques.distill import Distill
from autocompress.compression.techniques.early_exit import EarlyExit
from autocompress.compression.techniques.exit_threshold import ExitThreshold
from autocompress.errors import CandidateError
from autocompress.tasks.torch_utils import outputs_of

Get = Callable[[str], Context]


def attach(context: Context, **settings: object) -> Candidate:
    return EarlyExit.model_validate(settings).apply(Candidate(context.task.model), context)


@pytest.mark.parametrize("head", ["linear", "conv"])
@pytest.mark.parametrize("name", sorted(n for n in ZOO if n != "mlp"))
def test_heads_answer_and_the_network_keeps_its_own_answer(name: str, head: str, workshop_of: Get) -> None:
    context = workshop_of(name)
    multi = attach(context, count=2, head=head, hidden=8)
    inputs = torch.randn(3, *context.task.example_input.shape[1:])
    *exits, last = outputs_of(multi.model, inputs)
    assert 1 <= len(exits) == len(multi.exits) <= 2 and all(e.shape == (3, 4) for e in exits)
    assert torch.equal(last, outputs_of(context.task.model, inputs)[0])
    assert multi.backbone is not context.task.model and multi.notes == (
        f"early_exit: heads at {', '.join(multi.exits)}",
    )


def test_places_are_chosen_by_their_share_of_the_work(workshop_of: Get) -> None:
    context = workshop_of("resnet")  # stem.2 at 7 %, blocks.0 at 43 %, blocks.1 at 72 %
    assert attach(context, first=0.1).exits == ("stem.2",)
    assert attach(context, first=0.33).exits == ("blocks.0",)
    assert attach(context, count=2, first=0.33).exits == ("blocks.0", "blocks.1")
    assert attach(context, count=4, first=0.05).exits == ("stem.2", "blocks.0", "blocks.1")


def test_named_places_come_in_order_of_execution(workshop_of: Get) -> None:
    context = workshop_of("resnet")
    assert attach(context, places=["blocks.1", "stem.2"]).exits == ("stem.2", "blocks.1")
    with pytest.raises(CandidateError, match=r"no exit can be attached at 'blocks\.7'; places: stem\.2, blocks\.0"):
        attach(context, places=["blocks.7"])
    with pytest.raises(CandidateError, match="early_exit: the network has no place for an exit"):
        attach(workshop_of("mlp"))


def test_heads_are_drawn_by_the_seed_and_leave_the_global_generator(workshop_of: Get) -> None:
    context = workshop_of("resnet")
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first, second = attach(context), attach(context)
    assert torch.equal(torch.get_rng_state(), state)
    a, b = (dict(c.model.heads.named_parameters()) for c in (first, second))  # type: ignore[union-attr]
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_copy_of_a_network_with_exits_is_independent(workshop_of: Get) -> None:
    candidate = attach(workshop_of("resnet"))
    copied = candidate.copy_model()
    assert isinstance(copied, MultiExit)
    copied.backbone.stem[0].weight.data.zero_()
    inputs = workshop_of("resnet").task.example_input
    assert not torch.equal(outputs_of(copied, inputs)[0], outputs_of(candidate.model, inputs)[0])
    assert not any(m._forward_hooks for m in candidate.model.modules())


def test_exits_learn(trained_workshop: Context) -> None:
    context, task = trained_workshop, trained_workshop.task
    untrained = attach(context, hidden=16)
    trained = Distill(epochs=3, learning_rate=0.05, exit_weight=1.0).apply(untrained, context)

    def accuracy(candidate: Candidate, i: int) -> float:
        return task.score(predicting(candidate.model, i), "validation").value

    assert accuracy(untrained, 0) < 0.6 < 0.8 < accuracy(trained, 0)
    assert accuracy(trained, 1) > 0.9 and trained.exits == untrained.exits


def test_thresholds_must_be_one_for_each_exit(workshop_of: Get) -> None:
    context = workshop_of("resnet")
    candidate = attach(context, count=2)
    assert ExitThreshold(thresholds=(0.9, 0.5)).apply(candidate, context).thresholds == (0.9, 0.5)
    with pytest.raises(CandidateError, match="the network has 2 exits, got 1 thresholds"):
        ExitThreshold(thresholds=(0.9,)).apply(candidate, context)
    with pytest.raises(ValueError, match="less than or equal to 2"):
        ExitThreshold(thresholds=(3.0,))
