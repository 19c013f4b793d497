"""Structured pruning: whole channels and attention heads are removed, the network really becomes smaller.

The search dimension is the group of channels that must go together (all layers of a residual stage share one width).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from autocompress.compression.effects import RemovesChannels
from autocompress.compression.gains import PAYS, Knob
from autocompress.compression.stage import Number, Phase, TableField
from autocompress.compression.tables import Table, lookup, table_changes, unknown_keys
from autocompress.compression.techniques._lazy import lazy
from autocompress.compression.techniques.ptq import Ptq
from autocompress.errors import CandidateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from autocompress.compression import channels, probe
    from autocompress.compression.candidate import Candidate, Context
    from autocompress.compression.gains import Bench
    from autocompress.compression.structure import NetworkStructure
    from autocompress.devices.profile import DeviceProfile
    from autocompress.tasks.interface import Inputs
else:
    channels = lazy("autocompress.compression.channels")
    probe = lazy("autocompress.compression.probe")

Importance = Literal["l1", "l2", "lamp", "fpgm", "taylor", "bn_scale", "random"]


class Prune(RemovesChannels):
    """Remove a share of the channels of each group."""

    technique: Literal["prune"] = "prune"
    ratio: Annotated[Number, Field(ge=0, lt=1)] | Table[Annotated[Number, Field(ge=0, lt=1)]] = 0.5
    """Share of channels removed: one for all groups, or a table by group or stage of the network."""
    importance: Importance = "l2"
    """Which channels go first: by magnitude (l1, l2), lamp, geometric median (fpgm), Taylor expansion, BatchNorm
    scale, or at random."""
    round_to: Annotated[int, Field(ge=1, le=128)] = 8
    """Widths are multiples of it: kernels compute whole vectors, 63 channels are slower than 64."""

    phase: ClassVar[Phase] = Phase.STRUCTURE
    label: ClassVar[str] = "pruning"
    width_fields: ClassVar[tuple[str, ...]] = ("round_to",)
    tables: ClassVar[Mapping[str, TableField]] = {"ratio": TableField("groups", neutral=0.0, strongest="high")}
    references: ClassVar[tuple[str, ...]] = (
        "Fang et al., DepGraph, CVPR 2023, arXiv 2301.12900",
        "Li et al. (L1), arXiv 1608.08710",
        "Lee et al. (LAMP), arXiv 2010.07611",
        "He et al. (FPGM), arXiv 1811.00250",
        "Molchanov et al. (Taylor), arXiv 1906.10771",
        "Liu et al. (BatchNorm scale), arXiv 1708.06519",
    )

    @field_validator("ratio", mode="after")
    @classmethod
    def _same_text(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        return dict(sorted(value.items())) if isinstance(value, dict) else value

    @classmethod
    def unusable(cls, network: NetworkStructure, device: DeviceProfile, *, trainable: bool) -> str:
        """Where nothing can be removed, or what is left could not be trained."""
        if not network.groups:
            return "the network has no channels that can be removed"
        return "" if trainable else "a pruned network needs training, and the task brings no training data"

    @classmethod
    def units_kept(cls, group: channels.ChannelGroup, **settings: Any) -> int:
        """The rounded rest of a group; heads are not rounded."""
        step = 1 if group.n_heads else int(settings["round_to"])
        return channels.channels_to_keep(group.n_units, settings["ratio"], step, group.n_parts)

    @classmethod
    def gains(cls, bench: Bench) -> Iterator[Knob]:
        """All groups by half, those of each stage of the network by half, and what one channel more than a step brings.

        Widths go in steps of the device, of 8 channels at least.
        """
        device, groups = bench.device, bench.analysis.groups
        if not groups:
            return
        step = max(8, device.channel_block)
        half = cls(ratio=0.5, round_to=step)
        yield bench.knob("pruning every group by half", half)
        if {8, 32} <= device.weight_bits and "int8" in device.dtypes:
            yield bench.knob("pruning by half and int8", half, Ptq())
        if not bench.rebinds:
            yield Knob("pruning one part by half", note="not predicted: each would take an export of its own")
            return
        shares = bench.time_shares()
        stages = list(dict.fromkeys(groups.values()))
        for stage in stages if len(stages) > 1 else ():
            note = f"its layers take {shares.get(stage, 0.0):.0%} of the time"
            yield bench.knob(f"pruning {stage} by half", cls(ratio={stage: 0.5}, round_to=step), note=note)
        yield from _steps(bench)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Prune a copy of the model.

        Raises:
            CandidateError: the table names a group that does not exist, the pruned network does not run, or nothing was
                removed although a ratio is above 0.
        """
        analysis = context.analysis
        if not analysis.groups and (not isinstance(self.ratio, dict) or any(self.ratio.values())) and self.ratio:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in analysis.unprunable.items())
            raise CandidateError(f"prune: nothing can be removed from this network ({reasons or 'it has no layers'})")
        if unknown := unknown_keys(self.ratio, analysis.groups, analysis.groups.values()):
            if reason := analysis.unprunable.get(unknown[0]):
                raise CandidateError(f"prune.ratio: {unknown[0]!r} cannot be pruned: {reason}")
            raise CandidateError(
                f"prune.ratio: no group or stage {unknown[0]!r}; stages: "
                f"{', '.join(dict.fromkeys(analysis.groups.values()))}; groups: {', '.join(analysis.groups)}"
            )
        ratios = {
            candidate.path_of(name): lookup(self.ratio, name, stage, 0.0) for name, stage in analysis.groups.items()
        }
        import torch

        from autocompress.tasks.interface import take

        model = candidate.copy_model()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)  # for importance "random"
            removed = prune_channels(
                model,
                take(context.task.inputs, slice(1)),
                ratios,
                importance=self.importance,
                round_to=self.round_to,
                order=[candidate.path_of(name) for name in analysis.layers],
                prepare=lambda m: _gradients(m, context) if self.importance == "taylor" else None,
            )
        total = sum(map(len, removed.values()))
        note = f"prune: {total} channels of {len(removed)} groups removed" if total else "prune: nothing removed"
        if total:
            note += f" ({analysis.prunable})"
        return candidate.evolve(note, model=model, removed=removed, whole=candidate.model)

    def _change(self, name: str, before: Any, after: Any) -> list[str]:
        if name != "ratio":
            return super()._change(name, before, after)
        return [
            f"{where or 'every group'} keeps {100 * (1 - new):.4g} % of its channels instead of {100 * (1 - old):.4g} %"
            for where, old, new in table_changes(before, after, 0.0)
        ]

    def summary(self) -> str:
        """A few words for tables."""
        if not isinstance(self.ratio, dict):
            return f"prune {self.ratio:.0%}"
        values = self.ratio.values()
        return f"prune {min(values, default=0):.0%}-{max(values, default=0):.0%}"


def _steps(bench: Bench) -> Iterator[Knob]:
    """What one more channel than a whole step brings."""
    block = bench.device.channel_block
    wide = {name: n for name, n in bench.analysis.widths.items() if n >= 2 * block}
    if block == 1 or not wide:
        return
    keep = {name: channels.channels_to_keep(n, 0.5, block) for name, n in wide.items()}
    with suppress(CandidateError):
        aligned, beyond = (
            bench.speedups(Prune(ratio={name: 1 - (keep[name] - more) / n for name, n in wide.items()}, round_to=1))[-1]
            for more in (0, 1)
        )
        gain = beyond / aligned
        verdict = "makes it slower" if gain < 1 / PAYS else "gains nothing" if gain < PAYS else "gains"
        note = f"in steps of {block}; removing 1 channel more than a step {verdict} ({gain:.2f}x)"
        yield Knob("widths", note=note)


def prune_channels(
    model: nn.Module,
    example: Inputs,
    ratios: dict[str, float],
    *,
    importance: Importance = "l2",
    round_to: int = 8,
    order: Sequence[str] = (),
    prepare: object = None,
) -> dict[str, tuple[int, ...]]:
    """Prune `model` in place.

    Args:
        model: pruned in place.
        example: inputs, each (1, ...). What makes the outputs is left alone.
        ratios: share of channels (attention: heads) to remove, by group name; groups not named are left alone.
        importance: the channels of least importance are removed.
        round_to: widths become multiples of it.
        order: names of all layers in order of execution; a group is named after its first one.
        prepare: called with the model before the importances are taken, for criteria that need gradients.

    Returns:
        For each group that lost something, the indices of the channels (attention: heads) it lost.

    Raises:
        CandidateError: the network cannot be followed, does not run any more, or nothing would be removed although
            something was asked for.
    """
    if not any(ratio > 0 for ratio in ratios.values()):
        return {}
    if callable(prepare):
        prepare(model)
    doing = "the structure of the network cannot be followed"
    try:
        pruner = channels.ChannelPruner(model, example, order)
        doing = f"importance {importance!r} cannot be computed"
        plan = [(group, _doomed(pruner, group, ratios, importance, round_to)) for group in pruner.groups]
        doing = "channels cannot be removed"
        with probe.compared(pruner, plan, example):
            for group, units in plan:
                pruner.remove(group, units)
            doing = "the pruned network does not run"
    except CandidateError as error:
        raise CandidateError(f"prune: {error}") from error
    except Exception as error:  # the user's code, run in other ways than usual, raises anything
        raise CandidateError(f"prune: {doing}: {type(error).__name__}: {error}") from error
    model.zero_grad(set_to_none=True)
    lost = {g.name: units if g.n_heads else tuple(g.channels(units)) for g, units in plan if units}
    if not lost:
        raise CandidateError(f"prune: nothing was removed: {_why_nothing(pruner, ratios, importance, round_to)}")
    return lost


def _why_nothing(
    pruner: channels.ChannelPruner, ratios: dict[str, float], importance: Importance, round_to: int
) -> str:
    asked = [group for group in pruner.groups if ratios.get(group.name, 0) > 0]
    if not asked:
        return "none of the groups asked for is in the network any more"
    if all(_kept(group, ratios, round_to) >= group.n_units for group in asked):
        widest = max(asked, key=lambda g: g.n_units)
        return (
            f"all widths stay as they are when they are rounded to multiples of {round_to} (the largest one is "
            f"{widest.n_units}, the largest ratio {max(ratios.values()):g}); use a larger ratio or a smaller round_to"
        )
    return f"importance {importance!r} has no meaning for these layers; use 'l2'"


def _doomed(
    pruner: channels.ChannelPruner,
    group: channels.ChannelGroup,
    ratios: dict[str, float],
    importance: Importance,
    round_to: int,
) -> tuple[int, ...]:
    """The units of a group (channels of one part, or heads) to be removed."""
    keep = _kept(group, ratios, round_to)
    if keep >= group.n_units:
        return ()
    scores = pruner.importance(group, channels.criterion(importance))
    if scores is None:
        return ()
    return tuple(sorted(scores.argsort(stable=True)[: len(scores) - keep // group.n_parts].tolist()))


def _kept(group: channels.ChannelGroup, ratios: dict[str, float], round_to: int) -> int:
    return Prune.units_kept(group, ratio=ratios.get(group.name, 0.0), round_to=round_to)


def _gradients(model: nn.Module, context: Context) -> None:
    """Accumulate gradients of the task's loss over a few batches, in evaluation mode."""
    from autocompress.tasks.torch_utils import evaluating, seed_everything

    if not context.task.trainable:
        raise CandidateError("prune: importance 'taylor' needs training data; use 'l2'")
    seed_everything(context.seed)
    model.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    with evaluating(model):
        for i, (inputs, targets) in enumerate(context.task.train_batches()):
            answers = context.task.answers(model(*inputs.values()))
            sum(context.task.loss(answer, targets) for answer in answers).backward()  # type: ignore[union-attr]
            if i == 3:
                break
