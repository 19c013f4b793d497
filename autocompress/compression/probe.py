"""Tries every group of channels: it can be pruned if removing channels gives what setting them to zero gives.

Every group loses its first unit, its last one, two in the middle, then every other group its first and the rest their
last one, all groups at once; where the outputs
differ from those of the network without these channels (`absent.absent`), halves of the groups are tried, down to
those that are to blame. All of it is done on one copy, in float64, in which an error in one of a thousand channels is
far above rounding.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autocompress.compression.absent import absent
from autocompress.compression.channels import ChannelGroup, ChannelPruner
from autocompress.errors import CandidateError, first_line
from autocompress.tasks.interface import Inputs, replaced, values
from autocompress.tasks.torch_utils import outputs_of

WHOLE = "(whole network)"
_CPU_S = 50.0
"""What the trials of a network may take; a group that was not tried until then is left alone."""
_LARGE = 200_000
"""Elements of two samples from which on one has to do, for time: two of 3 x 183 x 183."""
_FLOAT64_PARAMS = 60_000_000
"""Larger networks are compared in float32, for memory and time."""
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference, relative to the largest output."""
_WORST = 1e-2
"""The same for a candidate, whose rounding in float32 may add up over many layers; a wrong channel makes far more."""
_ALMOST_NOTHING = 1e-2
"""Scales of branches that are trained from zero (LayerScale, zero-initialised BatchNorm) hide what they multiply."""


@dataclass(frozen=True)
class Prunable:
    """What can be pruned, and why the rest cannot."""

    groups: tuple[ChannelGroup, ...]
    refused: Mapping[str, str]
    """Layers whose channels cannot be removed, with the reason."""
    touched: frozenset[str]
    """Names of the parameters that get smaller."""
    n_params: int
    """Elements of parameters that belong to a channel that can be removed."""


def probe_groups(model: nn.Module, example: Inputs, order: Sequence[str], samples: Inputs | None = None) -> Prunable:
    """Find the channel groups of a model and try each of them.

    Args:
        model: not changed.
        example: inputs, each (1, ...).
        order: names of the layers in order of execution, to name groups by.
        samples: inputs to compare outputs on, each (N, ...), best real ones; the example without them.
    """
    samples = example if samples is None else samples
    if sum(tensor.numel() for tensor in values(samples)) > _LARGE:
        samples = replaced(samples, lambda tensor: tensor[:1])
    try:
        probe = _Probe(model, example, order, samples)
    except Exception as error:  # of the user's own code, which is run in other ways than it usually is
        return Prunable((), {WHOLE: f"its structure cannot be followed: {_short(error)}"}, frozenset(), 0)
    bad = dict(probe.pruner.fixed)
    for group in probe.pruner.groups:
        if len(group.parts) < 2:
            bad[group.name] = "it has a single unit"
    left = [group for group in probe.pruner.groups if len(group.parts) >= 2]
    for which in range(4):
        failed = probe.failures(left, which)
        bad.update(failed)
        left = [group for group in left if group.name not in failed]
    sizes = {name: _reached(p.shape, name, left) for name, p in model.named_parameters()}
    refused = {name: reason for name, reason in bad.items() if name not in {g.name for g in left}}
    return Prunable(tuple(left), refused, frozenset(n for n, size in sizes.items() if size), sum(sizes.values()))


def _reached(shape: Sequence[int], name: str, groups: Sequence[ChannelGroup]) -> int:
    """Elements of a parameter that lie in a channel of one of the groups."""
    left = math.prod(shape)
    for axis, width in enumerate(shape):
        mine = sum(len(part) for group in groups for part in group.axes.get((name, axis), ()))
        left = left * (width - mine) // max(width, 1)
    return math.prod(shape) - left


@contextmanager
def compared(
    pruner: ChannelPruner, plan: Sequence[tuple[ChannelGroup, Sequence[int]]], samples: Inputs
) -> Iterator[None]:
    """Compare what is removed inside with the same units set to zero before.

    Args:
        pruner: of the network.
        plan: the units that every group is going to lose.
        samples: inputs, each (N, ...).

    Raises:
        CandidateError: the pruned network is another one.
    """
    expected = outputs_of(pruner.model, samples)
    with absent(pruner.model, [mark for group, units in plan if units for mark in pruner.marks(group, units)]):
        wanted = outputs_of(pruner.model, samples)
    yield
    got = outputs_of(pruner.model, samples)
    if [t.shape for t in got] != [t.shape for t in expected]:
        raise CandidateError("the shapes of the outputs would change")
    difference = max(_difference(*tensors) for tensors in zip(got, wanted, expected, strict=True))
    if difference > _WORST:
        raise CandidateError(f"removing these channels is not the same as setting them to zero (by {difference:.1g})")


class _Probe:
    """A copy of a model that loses channels, and gets them back."""

    def __init__(self, model: nn.Module, example: Inputs, order: Sequence[str], samples: Inputs) -> None:
        self.deadline = time.process_time() + _CPU_S
        self.model = _copied(model, samples)
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        self.samples = _cast(samples, dtype)
        self.tolerance = _TOLERANCE[dtype]
        self.expected = outputs_of(self.model, self.samples)
        self.pruner = ChannelPruner(self.model, _cast(example, dtype), order)

    def failures(self, groups: Sequence[ChannelGroup], which: int) -> dict[str, str]:
        """Names of the groups that fail, with the reason."""
        reason = self.reason(groups, which) if groups else ""
        if not reason:
            return {}
        if len(groups) == 1:
            return {groups[0].name: reason}
        half = len(groups) // 2
        failed = {**self.failures(groups[:half], which), **self.failures(groups[half:], which)}
        return failed or self._together(groups, which)

    def _together(self, groups: Sequence[ChannelGroup], which: int) -> dict[str, str]:
        """Each half is fine alone: leave out what fails beside the others."""
        kept: list[ChannelGroup] = []
        failed: dict[str, str] = {}
        for group in groups:
            if reason := self.reason([*kept, group], which):
                failed[group.name] = f"with other groups: {reason}"
            else:
                kept.append(group)
        return failed

    def reason(self, groups: Sequence[ChannelGroup], which: int) -> str:
        """Why the groups cannot lose these units, or nothing."""
        if time.process_time() > self.deadline:
            return f"it was not tried: the trials of this network ended after {_CPU_S:.0f} s of processor time"
        units = [_units(len(group.parts), which, odd=bool(i % 2)) for i, group in enumerate(groups)]
        marks = [mark for group, own in zip(groups, units, strict=True) for mark in self.pruner.marks(group, own)]
        try:
            with self.pruner.undone():
                for group, own in zip(groups, units, strict=True):
                    self.pruner.remove(group, own)
                got = outputs_of(self.model, self.samples)
            shapes = [[tuple(t.shape) for t in outputs] for outputs in (got, self.expected)]
            if shapes[0] != shapes[1]:
                raise CandidateError(f"the output would become {shapes[0]} instead of {shapes[1]}")
            with absent(self.model, marks):
                wanted = outputs_of(self.model, self.samples)
        except Exception as error:  # any failure means the same: these cannot be removed
            return _short(error)
        difference = max(_difference(*tensors) for tensors in zip(got, wanted, self.expected, strict=True))
        if difference <= self.tolerance:
            return ""
        return f"removing channels is not the same as setting them to zero: the outputs differ by {difference:.1g}"


def _units(n: int, which: int, *, odd: bool) -> list[int]:
    """The first of n units, the last, two in the middle, or the first of some groups and the last of the others."""
    middle = [n // 2, n // 2 - 1] if n > 2 else [0]
    return ([0], [n - 1], middle, [n - 1 if odd else 0])[which]


def _copied(model: nn.Module, samples: Inputs) -> nn.Module:
    """A copy in float64 where that runs; branches that are scaled to almost nothing are not in it."""
    plain = copy.deepcopy(model).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in plain.parameters():
        small = parameter.is_floating_point() and parameter.dim() <= 1 and parameter.numel()
        if small and parameter.abs().max() < _ALMOST_NOTHING:
            parameter.data.uniform_(0.1, 0.5, generator=generator)
    if sum(p.numel() for p in plain.parameters()) <= _FLOAT64_PARAMS:
        with suppress(Exception):  # networks that make float32 tensors of their own
            double = copy.deepcopy(plain).double()
            outputs_of(double, _cast(samples, torch.float64))
            return double
    return plain


def _cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return replaced(inputs, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def _difference(got: Tensor, wanted: Tensor, whole: Tensor) -> float:
    """Largest difference, relative to the largest output, where the whole network's is finite."""
    finite = whole.isfinite()
    if not finite.any():
        return 0.0
    got, wanted = got[finite], wanted[finite]
    error = (got - wanted).abs().max() / whole[finite].abs().max().clamp(min=1e-30)
    return float(error.nan_to_num(float("inf")))


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"[:160]
