"""Training that fits the network and does no harm: the best weights are kept, the peak rate is found by trying.

The weights before training, those at its end and their average over its last steps are compared on the validation
split. Averaging: Izmailov et al., arXiv 1803.05407, with the exponential weights of Polyak averaging.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.exit_heads import MultiExit
from autocompress.compression.training import (
    Distillation,
    Schedule,
    check_trainable,
    fit,
    held_out_loss,
    steps_of,
    train_candidate,
)
from autocompress.errors import CandidateError
from autocompress.tasks.interface import Arrays, arrays, tensors
from autocompress.tasks.torch_utils import outputs_of

Optimizer = Literal["sgd", "adamw"]

RATES: dict[Optimizer, tuple[float, ...]] = {
    "sgd": (0.0015, 0.005, 0.015, 0.05, 0.15),
    "adamw": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
"""Peak rates, lowest first; the search for the best begins in the middle."""
_STEPS = 100
"""Of the training that tells one rate from another."""
_AVERAGED = 0.1
"""Share of the steps over which weights are averaged."""


@dataclass(frozen=True)
class Trained:
    """A trained network, and which of its weights were the best."""

    model: nn.Module
    kept: Literal["start", "end", "average"]
    scores: dict[str, float]
    """On the validation split, in float32."""


class Average:
    """Exponential average of the weights and buffers of a model over about `horizon` steps."""

    def __init__(self, model: nn.Module, horizon: float) -> None:
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self._share = 1 / max(1.0, horizon)

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        for name, tensor in model.state_dict().items():
            mine = self.state[name]
            if mine.device != tensor.device:
                mine = self.state[name] = mine.to(tensor.device)
            if mine.is_floating_point():
                mine.lerp_(tensor, self._share)
            else:
                mine.copy_(tensor)


def fine_tune(candidate: Candidate, context: Context, schedule: Schedule, distillation: Distillation) -> Trained:
    """Train a copy of the candidate's model, and keep the best of its weights; of equal ones the later.

    Raises:
        CandidateError: the loss became infinite or NaN.
        TaskError: there is no training data.
    """
    start = candidate.model.state_dict()
    if not schedule.epochs:  # BatchNorm only, which needs no training data
        model = train_candidate(candidate, context, schedule, distillation)
        return _best(model, {"start": start, "end": model.state_dict()}, context)
    check_trainable(context)
    average = Average(candidate.model, _AVERAGED * steps_of(schedule, context))
    model = train_candidate(candidate, context, schedule, distillation, average)
    return _best(model, {"start": start, "average": average.state, "end": model.state_dict()}, context)


def fit_and_keep_best(model: nn.Module, context: Context, schedule: Schedule, *args: Any, **settings: Any) -> Trained:
    """`training.fit`, after which the model has the best of its weights."""
    before = copy.deepcopy(model.state_dict())
    average = Average(model, _AVERAGED * steps_of(schedule, context))
    fit(model, context, schedule, *args, after_step=average, **settings)
    return _best(model, {"start": before, "average": average.state, "end": model.state_dict()}, context)


def _best(model: nn.Module, states: dict[str, Any], context: Context) -> Trained:
    states = {name: {key: value.detach().clone() for key, value in state.items()} for name, state in states.items()}
    scores: dict[str, float] = {}
    for name, state in states.items():
        context.progress(f"weights of the {name} on the validation split")
        model.load_state_dict(state)
        scores[name] = score(model, context)
    kept: Any = max(reversed(scores), key=lambda name: scores[name])
    model.load_state_dict(states[kept])
    return Trained(model, kept, scores)


def score(model: nn.Module, context: Context) -> float:
    """The metric of a torch model on the validation split, the mean over its exits; minus infinity without one."""
    n, names = len(model.places) + 1 if isinstance(model, MultiExit) else 1, context.task.outputs.names

    def predict(i: int, inputs: Arrays) -> Arrays:
        outputs = arrays(outputs_of(model, tensors(inputs)))
        first = len(outputs) - (n - i) * len(names)
        return dict(zip(names, outputs[first : first + len(names)], strict=True))

    try:
        return sum(context.task.score(partial(predict, i), "validation").value for i in range(n)) / n
    except CandidateError:  # outputs that are no numbers
        return -math.inf


def optimizer_for(model: nn.Module) -> Optimizer:
    """SGD for networks with BatchNorm, AdamW for all others, transformers among them."""
    return "sgd" if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()) else "adamw"


@dataclass(frozen=True)
class Ladder:
    """The peak rate of a network's fine-tuning, and what was tried to find it."""

    optimizer: Optimizer
    rate: float
    scores: dict[float, float]
    """By rate: minus the loss on held-out samples after a short training, or the metric where no loss can be taken
    there; minus infinity where the training failed. Of a thousand samples a loss says more than the metric."""
    start: float
    """Of the network before any training."""
    seconds: float

    def __str__(self) -> str:
        tried = ", ".join(f"{rate:g}: {value:.4g}" for rate, value in sorted(self.scores.items()))
        return (
            f"peak rate of {self.optimizer}: {self.rate:g}, found in {self.seconds:.0f} s by short trainings "
            f"(minus the loss, untrained {self.start:.4g}; {tried})"
        )


def find_rate(candidate: Candidate, context: Context, optimizer: Optimizer, distillation: Distillation) -> Ladder:
    """Try peak rates on a candidate that compression has damaged, from the middle up or down while that gains.

    Three to four short trainings. Of rates that are equally good the lower one is taken: it does less harm where
    there is less to repair.
    """
    rates, scores, started = RATES[optimizer], dict[float, float](), time.monotonic()

    def value(model: nn.Module) -> float:
        loss = held_out_loss(model, context, distillation)
        return score(model, context) if math.isnan(loss) and context.task.val is None else -loss

    def at(i: int) -> float:
        if rates[i] not in scores:
            context.progress(f"trying the peak rate {rates[i]:g} of {optimizer}")
            schedule = Schedule(1_000, rates[i], optimizer, max_steps=_steps(context))
            try:
                scores[rates[i]] = value(train_candidate(candidate, context, schedule, distillation))
            except CandidateError:  # the loss is no number any more
                scores[rates[i]] = -math.inf
            if math.isnan(scores[rates[i]]):
                scores[rates[i]] = -math.inf
        return scores[rates[i]]

    best = _climb(at, len(rates))
    return Ladder(optimizer, rates[best], scores, value(candidate.model), time.monotonic() - started)


def _steps(context: Context) -> int:
    """A slice of the training data, less than one epoch where an epoch is long."""
    return min(_STEPS, 3 * steps_of(Schedule(1, 1.0), context))


def _climb(value: Callable[[int], float], n: int) -> int:
    """Index of the best of n values that rise and then fall, asking for few of them; of equal ones the lower."""
    best = n // 2
    while best > 0 and value(best - 1) >= value(best):
        best -= 1
    while best == n // 2 and best + 1 < n and value(best + 1) > value(best):
        best += 1
        while best + 1 < n and value(best + 1) > value(best):
            best += 1
    return best
