"""Early exits: heads inside the network that answer easy inputs before the rest is computed.

The heads are attached here, trained together with the network by the TRAINING stages, and deployed as nested
`If` operators: the file really stops when an exit fires. The thresholds are no part of this stage: they are swept
after training (see exit_threshold).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from autocompress.compression.effects import Variant
from autocompress.compression.gains import Knob, verdict
from autocompress.compression.stage import Number, Phase
from autocompress.compression.techniques._lazy import lazy
from autocompress.errors import CandidateError

if TYPE_CHECKING:
    from autocompress.compression import analysis
    from autocompress.compression.candidate import Candidate, Context
    from autocompress.compression.gains import Bench
    from autocompress.compression.structure import NetworkStructure
    from autocompress.devices.profile import DeviceProfile
else:
    analysis = lazy("autocompress.compression.analysis")


_TRIED = (0.25, 0.5, 0.75)
"""Shares of the network's MACs near which exits are tried for their gain."""


class EarlyExit(Variant):
    """Attach exit heads at some places of the network."""

    technique: Literal["early_exit"] = "early_exit"
    places: tuple[str, ...] = ()
    """Names of the modules to exit after; empty: chosen by `count` and `first`."""
    count: Annotated[int, Field(ge=1, le=4)] = 1
    first: Annotated[Number, Field(gt=0, lt=1)] = 0.33
    """Share of the MACs before the first exit; the others are spread evenly over the rest."""
    head: Literal["linear", "conv"] = "conv"
    """Pooling and a linear layer, or a strided 3x3 convolution in front of them (feature maps only)."""
    hidden: Annotated[int, Field(ge=8, le=1024)] = 64
    """Channels of the convolution of the head."""

    phase: ClassVar[Phase] = Phase.STRUCTURE
    label: ClassVar[str] = "early exits"
    thresholds_by: ClassVar[str] = "exit_threshold"
    precedes: ClassVar[frozenset[str]] = frozenset({"prune"})
    references: ClassVar[tuple[str, ...]] = ("Teerapittayanon et al., BranchyNet, ICPR 2016, arXiv 1709.01686",)

    @classmethod
    def unusable(cls, network: NetworkStructure, device: DeviceProfile, *, trainable: bool) -> str:
        """Where no exit can be attached, trained or executed."""
        if not network.places:
            return "the network has no place for an exit, or its task is not a classification"
        if not trainable:
            return "the heads of exits need training, and the task brings no training data"
        return not_executed(device)

    @classmethod
    def gains(cls, bench: Bench) -> Iterator[Knob]:
        """Exits that all samples take, and the network for those that take none."""
        places = bench.analysis.places
        if not places:
            return
        if not bench.device.support.early_exits:
            note = f"not possible: {bench.device.runtime} does not execute If operators"
            yield Knob("early exits", note=note)
            return
        near = [min(places, key=lambda p, w=wanted: abs(p.fraction - w)) for wanted in _TRIED]  # type: ignore[misc]
        names = tuple(dict.fromkeys(place.name for place in sorted(near, key=lambda p: p.fraction)))
        try:
            *leaving, whole = bench.speedups(cls(places=names))
        except CandidateError as error:
            yield Knob("early exits", note=f"cannot be attached: {error}")
            return
        through = f"{verdict(whole, 'faster', 'slower')} for samples that take none of the {len(names)}"
        for i, (name, speedup) in enumerate(zip(names, leaving, strict=True)):
            yield Knob(f"an exit after {name} that all samples take", speedup, note="" if i else through)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Attach the heads; the network itself is not changed.

        Raises:
            CandidateError: a named place does not exist, or the network has none that fits.
        """
        import torch

        from autocompress.compression.exit_heads import ExitHead, MultiExit

        hidden = self.hidden if self.head == "conv" else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            heads = {
                place.name: ExitHead(place.channels, context.task.n_outputs, place.layout, hidden)
                for place in self.places_in(context.analysis)
            }
        note = f"early_exit: heads at {', '.join(heads)}"
        return candidate.evolve(note, model=MultiExit(candidate.copy_model(), heads).eval())

    def variant(self, network: analysis.NetworkAnalysis) -> object:
        """Where the heads are, and of which kind."""
        places = [place.name for place in self.places_in(network)]
        return [places, self.head, self.hidden if self.head == "conv" else 0]

    def places_in(self, network: analysis.NetworkAnalysis) -> list[analysis.ExitPoint]:
        """Where the exits go in a network, in order of execution.

        Raises:
            CandidateError: a named place does not exist, or the network has none that fits.
        """
        found = network.places
        if not found:
            raise CandidateError("early_exit: the network has no place for an exit (see `autocompress check`)")
        if self.places:
            by_name = {place.name: place for place in found}
            if missing := [name for name in self.places if name not in by_name]:
                raise CandidateError(
                    f"early_exit: no exit can be attached at {missing[0]!r}; places: {', '.join(by_name)}"
                )
            return sorted((by_name[name] for name in self.places), key=lambda p: p.fraction)
        wanted = [self.first + i * (1 - self.first) / self.count for i in range(self.count)]
        chosen = {min(found, key=lambda p, w=w: abs(p.fraction - w)).name: 0 for w in wanted}  # type: ignore[misc]
        return [place for place in found if place.name in chosen]

    def added(self) -> list[str]:
        """One line for each exit whose place is known."""
        return [f"early exit after {place} added" for place in self.places] or super().added()

    def _change(self, name: str, before: Any, after: Any) -> list[str]:
        if name != "places":
            return super()._change(name, before, after)
        lines = [f"early exit after {place} added" for place in after if place not in before]
        return lines + [f"early exit after {place} removed" for place in before if place not in after]

    def summary(self) -> str:
        """A few words for tables."""
        n = len(self.places) or self.count
        return f"{n} early exit{'s' if n > 1 else ''}"


def not_executed(device: DeviceProfile) -> str:
    """Why a device executes no exits, or nothing."""
    return "" if device.support.early_exits else f"{device.runtime} does not execute the If operators of early exits"
