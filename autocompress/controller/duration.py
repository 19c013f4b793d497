"""How long a trial takes here, told before the first one."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from autocompress.compression.training import Distillation, seconds_per_epoch
from autocompress.controller.plan import Plan
from autocompress.errors import CandidateError, failing_as
from autocompress.recipes.stage_space import StageSpace
from autocompress.studies.results import Evaluation


@dataclass(frozen=True)
class TrialTime:
    """Wall seconds of a trial of the unpruned network; pruned ones take less."""

    epoch_s: float | None
    """None without training data."""
    epochs: int
    """At most, in this space."""
    rest_s: float
    """Export, quantisation and validation, as the fp32 baseline took it."""

    @property
    def total_s(self) -> float:
        """Of the whole trial."""
        return (self.epoch_s or 0.0) * self.epochs + self.rest_s

    def exceeds(self, hours: float) -> str:
        """That a budget of hours is shorter than one trial, or nothing."""
        if self.total_s <= 3600 * hours:
            return ""
        training = f"{self.epochs} epochs of {self.epoch_s:.2g} s and " if self.epoch_s and self.epochs else ""
        return (
            f"the budget of {hours:g} hours ({3600 * hours:.3g} s) is shorter than one trial, about "
            f"{self.total_s:.2g} s here ({training}{self.rest_s:.2g} s for export and validation): the search ends "
            f"after the first one, later than asked for; a trial takes about {self.total_s / 3600:.2g} hours"
        )


def trial_time(plan: Plan, base: Evaluation) -> TrialTime:
    """Time a few steps of training; nothing is changed.

    Args:
        plan: of the search.
        base: the fp32 baseline.

    Raises:
        CandidateError: the network cannot be trained.
    """
    task, epoch_s = plan.evaluator.task, None
    epochs = sum(max(map(most_epochs, slot.alternatives)) for slot in plan.space.slots)
    if task.trainable:
        with failing_as(CandidateError, "timing a few steps of training"):
            model = copy.deepcopy(task.model).to(task.train_device)
            epoch_s = seconds_per_epoch(model, plan.evaluator.context, Distillation())
    return TrialTime(epoch_s, epochs, sum(base.seconds.values()))


def most_epochs(stage: StageSpace) -> int:
    """Epochs that a stage trains for at most."""
    if stage.cls.effort in stage.domains:
        return int(max(map(float, stage.domains[stage.cls.effort].domain.corners())))
    return stage.fixed_effort
