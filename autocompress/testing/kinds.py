"""Conformance checks for kinds of tasks: what every one of them must do, for their authors to run in a test.

    from autocompress.testing.kinds import CHECKS, Case

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conforms(check):
        check(Case(task))

Each check raises AssertionError with the rule that was broken.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from autocompress.compression.analysis import analyze
from autocompress.compression.techniques._usual import quantised
from autocompress.devices.profile import DeviceProfile
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.interface import arrays, each, n_samples, take, tensors
from autocompress.tasks.kind import TaskKind, get, names
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import outputs_of, tensors_in
from autocompress.testing._rules import require, require_docstrings

_NOISE = 0.5
"""Of weights that are changed: relative to their standard deviation."""


@dataclass(frozen=True)
class Case:
    """A kind under test."""

    task: Task
    """A small one of this kind, its network trained a little, with train and validation data."""

    @property
    def kind(self) -> TaskKind:
        """It."""
        return self.task.traits

    @cached_property
    def batch(self) -> tuple[Any, Any]:
        """Inputs and targets of some validation samples."""
        inputs, targets = self.task.split("validation")[0]
        return tensors(inputs), tensors(targets)

    @cached_property
    def other(self) -> nn.Module:
        """The network with other weights."""
        changed = copy.deepcopy(self.task.model).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in changed.parameters():
                spread = parameter.std() if parameter.numel() > 1 else parameter.abs().sum()
                parameter.add_(_NOISE * spread * torch.randn(parameter.shape, generator=generator))
        return changed

    def outputs(self, model: nn.Module | None = None) -> Any:
        """Tensors, in the structure of the network."""
        return self.task.own(outputs_of(model or self.task.model, self.batch[0]))

    def trained(self, model: nn.Module) -> Any:
        """The same with gradients."""
        return self.task.own([*tensors_in(model(*self.batch[0].values()))])


def is_found_by_its_name(case: Case) -> None:
    """Check that it says what it is, and that those of the package are found by their names."""
    require(bool(case.kind.title) and bool(case.kind.differs), "it has no title, or does not say what differs")
    ours = type(case.kind).__module__.startswith("autocompress.")
    name = case.kind.name
    require(not ours or (name in names() and type(get(name)) is type(case.kind)), "it is not found")


def is_documented(case: Case) -> None:
    """Check that module, class and own methods have docstrings."""
    cls = type(case.kind)
    own = {name: value for name, value in vars(cls).items() if inspect.isfunction(value) and not name.startswith("__")}
    require_docstrings(cls, {name: value.__doc__ for name, value in own.items()})


def accepts_its_own_tasks(case: Case) -> None:
    """Check that network and data of the kind are accepted."""
    require(case.task.trainable, "the task of the case brings no training data")
    case.task.validate()


def has_a_loss(case: Case) -> None:
    """Check that the loss is a finite number, and that some steps along its gradient lower it."""
    model = copy.deepcopy(case.other)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-3), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = case.task.loss(case.trained(model), case.batch[1])
        require(loss.numel() == 1 and bool(torch.isfinite(loss)), "the loss is not one finite number")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    require(min(losses[1:]) < losses[0], "steps along the gradient of the loss do not lower it")


def distils(case: Case) -> None:
    """Check that the distance to the teacher is 0 for the teacher, above it for others, and has a gradient."""
    teacher = case.outputs()
    same = case.kind.distillation(case.outputs(), teacher, 2.0)
    require(abs(float(same)) < 1e-5, f"the teacher is {float(same):.2g} away from itself")
    student = copy.deepcopy(case.other)
    loss = case.kind.distillation(case.trained(student), teacher, 2.0)
    require(float(loss.detach()) > 1e-5, "another network is as near to the teacher as the teacher itself")
    loss.backward()  # type: ignore[no-untyped-call]
    require(any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters()), "it has no gradient")


def agrees_with_itself(case: Case) -> None:
    """Check that agreement is 1 and damage 0 for equal outputs, and worse for others."""
    ours, theirs = arrays(case.outputs()), arrays(case.outputs(case.other))
    require(case.kind.agreement(ours, ours) == 1.0, "equal outputs do not agree")
    require(0.0 <= case.kind.agreement(theirs, ours) < 1.0, "other outputs agree, or agreement is not from 0 to 1")
    require(abs(case.kind.damage(*(each(ours, np.float64),) * 2)) < 1e-9, "equal outputs are damaged")
    require(case.kind.damage(each(theirs, np.float64), each(ours, np.float64)) > 0, "other outputs are not damaged")


def ranks_the_network_above_shuffled_outputs(case: Case) -> None:
    """Check that the metric is better for the network than for its outputs given to other samples."""
    model = case.task.model

    def predict(inputs: Any) -> Any:
        return dict(zip(case.task.outputs.names, arrays(outputs_of(model, tensors(inputs))), strict=True))

    def shuffled(inputs: Any) -> Any:
        order = np.random.default_rng(0).permutation(n_samples(inputs))
        return take(predict(inputs), order)

    mine, chance = (case.task.score(function, "validation").value for function in (predict, shuffled))
    require(mine > chance, f"the metric is {mine:.4g} for the network and {chance:.4g} for shuffled outputs")


def exits_only_where_it_is_sure(case: Case) -> None:
    """Check that a kind with exits gives a confidence per sample, and that one without gets no places for them."""
    if not case.kind.exits:
        require(not analyze(case.task).places, "early exits are offered for a kind without")
        return
    confidence = case.kind.confidence(arrays(case.outputs()))
    require(confidence.shape == (n_samples(case.batch[0]),), "the confidence is not one number per sample")
    require(bool(((confidence >= 0) & (confidence <= 1)).all()), "the confidence is not from 0 to 1")


def goes_into_a_file(case: Case) -> None:
    """Check that float and int8 files are written, agree with the network and are judged."""
    evaluator = Evaluator(case.task, DeviceProfile.load("raspberry-pi-4"))
    for stages, least in (((), 0.99), ((quantised(),), 0.5)):
        outcome = evaluator.evaluate(Recipe(stages=stages))[0]
        parity = outcome.evaluation.parity
        require(parity is not None and parity >= least, f"{stages}: the file agrees with the network by {parity}")
        require(np.isfinite(evaluator.score(outcome.file, "validation").value), f"{stages}: the file has no score")


CHECKS: tuple[Callable[[Case], None], ...] = (
    is_found_by_its_name,
    is_documented,
    accepts_its_own_tasks,
    has_a_loss,
    distils,
    agrees_with_itself,
    ranks_the_network_above_shuffled_outputs,
    exits_only_where_it_is_sure,
    goes_into_a_file,
)
"""All of them; each takes a `Case`."""
