"""Conformance checks for techniques: what every one of them must do, for their authors to run in a test.

    from autocompress.testing.techniques import CHECKS, Case, small_workshop

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conforms(check):
        check(Case(MyStage(strength=0.5), small_workshop(), identity=MyStage(strength=0.0)))

Each check raises AssertionError with the rule that was broken.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress.compression.absent import absent
from autocompress.compression.analysis import analyze
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.catalogue import technique, technique_names
from autocompress.compression.channels import ChannelPruner
from autocompress.compression.fingerprint import architecture
from autocompress.compression.stage import Phase, Stage
from autocompress.compression.tables import lookup
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import CandidateError
from autocompress.evaluation.deploy import Deployer
from autocompress.graphs import export
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.interface import Inputs, joined, take, tensors
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import outputs_of, seed_everything
from autocompress.testing._rules import is_refused, require, require_docstrings

_SAMPLES = 8
"""On which outputs are compared."""
_ERROR = 1e-4
"""Largest difference of outputs that should be equal, relative to the largest one."""
_GROUPS = 3
"""Groups of channels that are pruned one at a time."""


@dataclass(frozen=True)
class Case:
    """A stage under test."""

    stage: Stage
    """With settings that change something."""
    context: Context
    """With a small task, best one that trains in less than a second."""
    identity: Stage | None = None
    """The same technique with settings that must change nothing; None where there are none."""
    before: tuple[Stage, ...] = ()
    """Stages that must be carried out first."""

    @cached_property
    def start(self) -> Candidate:
        """The candidate that the stage gets."""
        candidate = Candidate(self.context.task.model)
        for stage in self.before:
            candidate = stage.apply(candidate, self.context)
        return candidate

    def run(self, stage: Stage | None = None) -> Candidate:
        """Apply the stage (or another one); like the evaluator, seed before training only."""
        if self.stage.phase is Phase.TRAINING:
            seed_everything(self.context.seed)
        return (stage or self.stage).apply(self.start, self.context)

    def outputs(self, candidate: Candidate) -> tuple[Tensor, ...]:
        """Run a candidate on the task's example input: one tensor per exit."""
        return outputs_of(candidate.model, self.context.task.inputs)

    @cached_property
    def samples(self) -> Inputs:
        """Some real inputs of the task."""
        found: Inputs = tensors(joined(self.context.task.calibration_batches(_SAMPLES, self.context.seed)))
        return found

    @property
    def recipe(self) -> Recipe:
        """A recipe with the stage and those it needs."""
        return Recipe(stages=(*self.before, self.stage))


def survives_yaml(case: Case) -> None:
    """Check that a recipe with the stage is the same after writing and reading it."""
    again = Recipe.parse(yaml.safe_load(case.recipe.to_yaml()))
    require(again == case.recipe, "the recipe is another one after a round trip through YAML")
    require(type(again.stages[-1]) is type(case.stage), "the stage has another class after a round trip")


def has_a_stable_digest(case: Case) -> None:
    """Check that the digest depends on the settings, and on nothing else."""
    again = Recipe.parse(yaml.safe_load(case.recipe.to_yaml()))
    full = case.stage.model_validate(case.stage.model_dump())
    spelled_out = Recipe(stages=(*case.before, full))
    require(again.digest() == case.recipe.digest(), "equal recipes have different digests")
    require(spelled_out.digest() == case.recipe.digest(), "settings given at their defaults change the digest")
    if case.identity is not None and case.identity != case.stage:
        other = Recipe(stages=(*case.before, case.identity))
        require(other.digest() != case.recipe.digest(), "different settings have one digest")


def leaves_its_input_alone(case: Case) -> None:
    """Check that neither the given candidate nor the user's model is changed."""
    models = {"the candidate": case.start.model, "the task's model": case.context.task.model}
    before = {name: _state(model) for name, model in models.items()}
    outputs, fields = (
        case.outputs(case.start),
        (case.start.quantization, case.start.thresholds, case.start.notes),
    )
    result = case.run()
    for name, model in models.items():
        require(_same(before[name], _state(model)), f"{name} was changed")
    require(_equal(outputs, case.outputs(case.start)), "the candidate's outputs were changed")
    now = (case.start.quantization, case.start.thresholds, case.start.notes)
    require(fields == now and result is not case.start, "the candidate's fields were changed")


def keeps_the_output(case: Case) -> None:
    """Check that the network's own output keeps its shape and is finite."""
    expected = case.outputs(case.start)[-1]
    got = case.outputs(case.run())[-1]
    require(
        got.shape == expected.shape,
        f"the output has the shape {tuple(got.shape)}, not {tuple(expected.shape)}",
    )
    require(bool(torch.isfinite(got).all()), "the output is not finite")


def repeats(case: Case) -> None:
    """Check that the same seed gives the same result, whatever was drawn at random before."""
    first = case.run()
    torch.rand(7)
    second = case.run()
    require(_same(_state(first.model), _state(second.model)), "a second run gives other weights")
    require(first.notes == second.notes and first.removed == second.removed, "a second run reports something else")


def is_known_by_its_content(case: Case) -> None:
    """Check that a structure stage gives a candidate of its own fingerprint, and the same one every time.

    Candidates of one fingerprint share trained weights and files. What neither the modules nor their attributes show
    belongs into `Candidate.facts`.
    """
    if case.stage.phase is not Phase.STRUCTURE:
        return
    result = case.run()
    require(result.fingerprint == case.run().fingerprint, "a second run gives another fingerprint")
    for other in (case.start, *([case.run(case.identity)] if case.identity else [])):
        differs = not _equal(case.outputs(other), case.outputs(result))
        require(
            not differs or result.fingerprint != other.fingerprint,
            "a network that computes something else has the same fingerprint: name what makes it differ in `facts`",
        )


def keeps_to_its_phase(case: Case) -> None:
    """Check that only structure stages change modules and shapes: the costs of others are predicted without them."""
    if case.stage.phase is Phase.STRUCTURE:
        return
    before, after = case.start, case.run()
    shapes = [{name: t.shape for name, t in _state(c.model).items()} for c in (before, after)]
    same = shapes[0] == shapes[1] and architecture(before.model) == architecture(after.model)
    require(same, f"a stage of the phase {case.stage.phase.name.lower()} changes modules or shapes")


def does_nothing_at_zero_strength(case: Case) -> None:
    """Check that the network's own output stays as it is with the identity settings."""
    if case.identity is None:
        return
    expected, got = case.outputs(case.start)[-1], case.outputs(case.run(case.identity))[-1]
    require(torch.equal(expected, got), "the settings that should change nothing change the output")


def removes_what_it_reports(case: Case) -> None:
    """Check that without the channels it removed the network computes what it computes as if they did not exist.

    Tried as the case asks for, and for some groups alone where the technique has a table over them.
    """
    for stage in (case.stage, *_for_single_groups(case)):
        result = None
        with suppress(CandidateError):  # a group that this strength leaves as it is
            result = case.run(stage)
        if result is None or not result.removed:
            continue
        require(result.whole is not None, "it reports `removed` without `whole`, the network that had the channels")
        order = [result.path_of(name) for name in case.context.analysis.layers]
        pruner = ChannelPruner(copy.deepcopy(result.whole or nn.Identity()), take(case.samples, slice(1)), order)
        groups = {group.name: group for group in pruner.groups}
        if unknown := result.removed.keys() - groups.keys():
            raise AssertionError(f"`removed` names {min(unknown)!r}, which is no group of channels")
        lost = [(groups[name], groups[name].units_of(channels)) for name, channels in result.removed.items()]
        with absent(pruner.model, [mark for group, units in lost for mark in pruner.marks(group, units)]):
            wanted = outputs_of(pruner.model, case.samples)
        got = outputs_of(result.model, case.samples)
        require(
            all(a.shape == b.shape and _distance(a, b) <= _ERROR for a, b in zip(got, wanted, strict=True)),
            "the network computes something else than without the channels that it reports as `removed`",
        )


def exports(case: Case) -> None:
    """Check that a file can be written of the result, and that before quantisation it answers as torch does."""
    result = case.run()
    memo = case.context.memo
    deployer = memo.setdefault(exports, Deployer(case.context, DeviceProfile.load("raspberry-pi-4")))
    try:
        deployer.build(result)
        error = export.disagreement(deployer.float_graph(result), result.model, case.samples)
    except CandidateError as failure:
        raise AssertionError(f"no file can be written: {failure}") from failure
    require(error <= export.TOLERANCE, f"the file answers differently from torch, by {error:.2g}")


def reports(case: Case) -> None:
    """Check that it leaves a note on what it did, or sets what is carried out later."""
    start, result = case.start, case.run()
    noted = result.notes[: len(start.notes)] == start.notes and len(result.notes) > len(start.notes)
    declared = (result.quantization, result.thresholds) != (start.quantization, start.thresholds)
    require(noted or declared, "it adds no note and sets nothing: say what was done, or that nothing was")
    changed = not _same(_state(start.model), _state(result.model))
    require(noted or not changed, "it changes the model without a note")


def has_valid_fields(case: Case) -> None:
    """Check that defaults are valid, unknown keys are refused, and recipes find the class by its name."""
    cls = type(case.stage)
    required = {name for name, field in cls.model_fields.items() if field.is_required()}
    defaults = cls.model_validate({name: getattr(case.stage, name) for name in required})
    require(cls.model_validate(defaults.model_dump()) == defaults, "the default of a field is not valid for it")
    require(isinstance(cls.phase, Phase), "it has no phase")
    found = technique(case.stage.technique) if case.stage.technique in technique_names() else None
    require(found is cls, "`technique` is not the name that recipes find it by: the path of its module")
    for attempt in (
        lambda: cls.model_validate({**defaults.model_dump(), "no_such_setting": 1}),
        lambda: setattr(case.stage, "technique", "other"),
    ):
        require(is_refused(attempt, ValidationError), "unknown keys, or changes of a stage, are not refused")
    require(bool(case.stage.summary()) and "\n" not in case.stage.summary(), "its summary is not one line")


def is_documented(case: Case) -> None:
    """Check that module, class and `apply` have docstrings, and that papers are named."""
    cls = type(case.stage)
    require_docstrings(cls, {"apply": cls.apply.__doc__})
    require(bool(cls.references) or cls.phase is Phase.RUNTIME, "it names no paper in `references`")
    for reference in cls.references:
        require(bool(re.search(r"\b(19|20)\d\d\b|arXiv \d{4}\.\d{4,5}", reference)), f"no year in {reference!r}")


CHECKS: tuple[Callable[[Case], None], ...] = (
    survives_yaml,
    has_a_stable_digest,
    leaves_its_input_alone,
    keeps_the_output,
    repeats,
    is_known_by_its_content,
    keeps_to_its_phase,
    does_nothing_at_zero_strength,
    removes_what_it_reports,
    exports,
    reports,
    has_valid_fields,
    is_documented,
)
"""All of them; each takes a `Case`."""


def check(stage: Stage, *, identity: Stage | None = None, before: tuple[Stage, ...] = ()) -> None:
    """Hold a technique to all checks, on a small network.

    Args:
        stage: see `Case`.
        identity: see `Case`.
        before: see `Case`.

    Raises:
        AssertionError: a rule is broken; the message says which.
    """
    for each in CHECKS:
        each(Case(stage, small_workshop(), identity, before))


@cache
def small_workshop() -> Context:
    """A residual network of three stages on random images: what a technique needs to be tried in seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = (_convolution(3, 16), _Residual(16), _convolution(16, 32, 2), _Residual(32), _convolution(32, 32, 2))
        model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)).eval()
        images, labels = torch.randn(64, 3, 16, 16), torch.arange(64) % 4
    data = TensorDataset(images + labels[:, None, None, None], labels)
    task = Task.classification(model, train=data, val=data, example_input=images[:1], name="small")
    return Context(task, analyze(task))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _for_single_groups(case: Case) -> Iterator[Stage]:
    """The stage for one group of channels at a time, as strong as it is for that one in the case."""
    groups = case.context.analysis.groups
    for name, table in type(case.stage).tables.items():
        for group in [*groups][:_GROUPS] if table.over == "groups" else ():
            value = lookup(getattr(case.stage, name), group, groups[group], table.default)
            yield case.stage.model_copy(update={name: {group: value}})


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _equal(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
