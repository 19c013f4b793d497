"""Every technique keeps the rules of `autocompress.testing`; the rules catch techniques that break them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.catalogue import own_names, parse_stage
from autocompress.compression.stage import Phase, Stage
from autocompress.compression.techniques.prune import Prune
from autocompress.testing import CHECKS, Case
from autocompress.testing import techniques as testing

EXIT = {"technique": "early_exit", "count": 2, "hidden": 8}
SETTINGS: dict[str, tuple[dict[str, object], dict[str, object] | None, tuple[dict[str, object], ...]]] = {
    "prune": ({"ratio": 0.5, "round_to": 2, "importance": "random"}, {"ratio": 0.0}, ()),
    "depth": ({"blocks": ["blocks.0"]}, {"ratio": 0.0}, ()),
    "low_rank": ({"share": 0.5, "round_to": 1}, {"share": 1.0}, ()),
    "sparsity": ({"ratio": 0.5, "group": 4}, {"ratio": 0.0}, ()),
    "early_exit": ({"count": 2, "hidden": 8}, {"count": 1, "head": "linear"}, ()),
    "distill": ({"epochs": 1, "feature_weight": 1.0, "relation_weight": 1.0}, None, ()),
    "ptq": ({"weight_bits": {"stage1": 8, "stage2": 4}}, {"weight_bits": 32}, ()),
    "qat": ({"weight_bits": 4}, {"weight_bits": 32}, ()),
    "exit_threshold": ({"thresholds": [0.8, 0.9]}, {"thresholds": [1.1, 1.1]}, (EXIT,)),
}


def case(name: str, context: Context) -> Case:
    settings, identity, before = SETTINGS[name]
    return Case(
        parse_stage({"technique": name, **settings}, name),
        context,
        identity=None if identity is None else parse_stage({"technique": name, **identity}, name),
        before=tuple(parse_stage(stage, "before") for stage in before),
    )


def test_every_technique_is_tested() -> None:
    assert set(SETTINGS) == set(own_names())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_technique_conforms(name: str, check: Callable[[Case], None], workshop_of: Callable[[str], Context]) -> None:
    check(case(name, workshop_of("resnet")))


FACTORS: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()


def multiplied(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return FACTORS.get(module, 1.0) * output


class Broken(Stage):
    """Breaks a rule."""

    technique: Literal["broken"] = "broken"
    how: str = "none"
    factor: float = 1.0
    phase: ClassVar[Phase] = Phase.STRUCTURE
    references: ClassVar[tuple[str, ...]] = ("Nobody et al., 2020",)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Do it wrongly."""
        if self.how == "in place":
            next(candidate.model.parameters()).data.add_(1)
            return candidate.evolve("done")
        model = candidate.copy_model()
        if self.how == "random":
            next(model.parameters()).data.add_(torch.randn(1, generator=torch.Generator().manual_seed(id(model))))
        elif self.how == "nan":
            next(model.parameters()).data.fill_(float("nan"))
        elif self.how in ("silent", "change"):
            next(model.parameters()).data.add_(1)
        elif self.how == "hidden":
            model.register_forward_hook(multiplied)
            FACTORS[model] = self.factor
        return candidate.evolve("" if self.how == "silent" else "done", model=model)


@pytest.mark.parametrize(
    ("how", "check"),
    [
        ("in place", testing.leaves_its_input_alone),
        ("nan", testing.keeps_the_output),
        ("random", testing.repeats),
        ("silent", testing.reports),
    ],
)
def test_check_refuses_what_breaks_it(
    how: str, check: Callable[[Case], None], workshop_of: Callable[[str], Context]
) -> None:
    own = copy.deepcopy(workshop_of("resnet"))
    check(Case(Broken(), own))
    with pytest.raises(AssertionError):
        check(Case(Broken(how=how), own))


def test_identity_check_refuses_a_change(workshop_of: Callable[[str], Context]) -> None:
    context = workshop_of("resnet")
    testing.does_nothing_at_zero_strength(Case(Broken(), context, identity=Broken()))
    with pytest.raises(AssertionError, match="change the output"):
        testing.does_nothing_at_zero_strength(Case(Broken(), context, identity=Broken(how="change")))


def test_fingerprint_check_refuses_what_no_module_shows(workshop_of: Callable[[str], Context]) -> None:
    case = Case(Broken(how="hidden", factor=3.0), workshop_of("resnet"), identity=Broken(how="hidden"))
    with pytest.raises(AssertionError, match="same fingerprint: name what makes it differ in `facts`"):
        testing.is_known_by_its_content(case)


class Misreporting(Prune):
    """Removes other channels than it says."""

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Shift what is reported by one."""
        pruned = super().apply(candidate, context)
        widths = context.analysis.widths
        removed = {name: tuple((c + 1) % widths[name] for c in lost) for name, lost in pruned.removed.items()}
        return replace(pruned, removed=removed)


def test_removal_check_refuses_other_channels_than_reported(workshop_of: Callable[[str], Context]) -> None:
    context, settings = workshop_of("resnet"), {"ratio": 0.25, "round_to": 1}
    testing.removes_what_it_reports(Case(Prune(**settings), context))
    with pytest.raises(AssertionError, match="something else than without the channels"):
        testing.removes_what_it_reports(Case(Misreporting(**settings), context))


class Unexportable(Stage):
    """Puts in what has no counterpart in a file."""

    technique: Literal["unexportable"] = "unexportable"
    phase: ClassVar[Phase] = Phase.STRUCTURE

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Branch on data."""
        return candidate.evolve("done", model=nn.Sequential(candidate.copy_model(), Branching()))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_export_check_refuses_what_no_file_can_hold(workshop_of: Callable[[str], Context]) -> None:
    with pytest.raises(AssertionError, match="no file can be written"):
        testing.exports(Case(Unexportable(), workshop_of("resnet")))


class Undocumented(Stage):
    technique: Literal["something_else"] = "something_else"
    phase: ClassVar[Phase] = Phase.STRUCTURE


def test_documentation_and_field_checks_refuse_a_bare_stage(workshop_of: Callable[[str], Context]) -> None:
    bare = Case(Undocumented(), workshop_of("resnet"))
    with pytest.raises(AssertionError, match="docstring"):
        testing.is_documented(bare)
    with pytest.raises(AssertionError, match="name that recipes find it by"):
        testing.has_valid_fields(bare)
