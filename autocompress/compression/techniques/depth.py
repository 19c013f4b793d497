"""Fewer blocks: what has a way around it is left out as a whole, and with it the fixed cost of its kernels.

Narrower layers do not save that cost: on small quantised networks it is a good part of the time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from autocompress.compression.effects import Variant
from autocompress.compression.stage import Findings, Number, Phase, TableField
from autocompress.compression.tables import Table, lookup, unknown_keys
from autocompress.compression.techniques._lazy import lazy
from autocompress.errors import CandidateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autocompress.compression import blocks as blocks_of
    from autocompress.compression.analysis import NetworkAnalysis
    from autocompress.compression.candidate import Candidate, Context
    from autocompress.compression.gains import Bench, Knob
    from autocompress.compression.structure import NetworkStructure
    from autocompress.devices.profile import DeviceProfile
else:
    blocks_of = lazy("autocompress.compression.blocks")


_NAMED = 12
"""Blocks that a note names at most."""


class Depth(Variant):
    """Leave out some blocks of a residual network, an inverted-residual network or a transformer."""

    technique: Literal["depth"] = "depth"
    ratio: Annotated[Number, Field(ge=0, le=1)] | Table[Annotated[Number, Field(ge=0, le=1)]] = 0.0
    """Share of the blocks that is left out, those first that are missed least for the time they take. Or a table: for
    a stage of the network the share of its blocks, for a block 1 to leave it out."""
    blocks: tuple[str, ...] = ()
    """Names of the blocks that are left out; empty: chosen by `ratio`."""

    phase: ClassVar[Phase] = Phase.STRUCTURE
    precedes: ClassVar[frozenset[str]] = frozenset({"early_exit", "prune"})
    label: ClassVar[str] = "fewer blocks"
    tables: ClassVar[Mapping[str, TableField]] = {"ratio": TableField("blocks", neutral=0.0, strongest="high")}
    references: ClassVar[tuple[str, ...]] = (
        "Veit et al., Residual Networks Behave Like Ensembles of Relatively Shallow Networks, arXiv 1605.06431",
        "Elkerdawy et al., To Filter Prune, or to Layer Prune, That Is The Question, arXiv 2007.05667",
        "Men et al., ShortGPT, arXiv 2403.03853",
    )

    @classmethod
    def unusable(cls, network: NetworkStructure, device: DeviceProfile, *, trainable: bool) -> str:
        """Where no block can be left out, or what is left could not be trained."""
        if not network.blocks:
            return "the network has no block with a way around it that keeps the shape"
        return "" if trainable else "a network without some of its blocks needs training, and the task brings no data"

    @classmethod
    def gains(cls, bench: Bench) -> Iterator[Knob]:
        """Half of the blocks: each depth is an export of its own, which takes seconds."""
        blocks = [*bench.analysis.blocks]
        if blocks:
            named = ", ".join(blocks[:_NAMED]) + (", ..." if len(blocks) > _NAMED else "")
            name = f"leaving out {_count([0.5] * len(blocks))} of {len(blocks)} blocks"
            yield bench.knob(name, cls(ratio=0.5), note=f"blocks: {named}")

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Leave out the blocks of a copy of the model.

        Raises:
            CandidateError: a name is none of a block, or of a stage with blocks.
        """
        known = context.analysis.blocks
        wrong = [*(name for name in self.blocks if name not in known), *unknown_keys(self.ratio, known, known.values())]
        if wrong or (self.ratio and not known):
            what = f"no block {wrong[0]!r}" if wrong else "nothing can be left out"
            raise CandidateError(f"depth: {what}; blocks: {', '.join(known) or 'none'}")
        lost = self.blocks or (self._chosen(blocks_of.least_missed(context)) if self._chooses else ())
        model = candidate.copy_model()
        for name in lost:
            blocks_of.leave_out(model, candidate.path_of(name))
        note = f"{len(lost)} of {len(known)} blocks left out: {', '.join(lost)}" if lost else "nothing left out"
        return candidate.evolve(f"depth: {note}", model=model)

    @property
    def _chooses(self) -> bool:
        return any(self.ratio.values()) if isinstance(self.ratio, dict) else self.ratio > 0

    def _chosen(self, least_missed: Mapping[str, str]) -> tuple[str, ...]:
        """Of the whole network, or of each stage where there is a table, as many blocks as its values add up to."""
        values = {block: lookup(self.ratio, block, stage, 0.0) for block, stage in least_missed.items()}
        ranked = sorted(least_missed, key=lambda block: -values[block])
        chosen: list[str] = []
        for stage in dict.fromkeys(least_missed.values()) if isinstance(self.ratio, dict) else [None]:
            own = [block for block in ranked if stage in (None, least_missed[block])]
            chosen += own[: _count([values[block] for block in own])]
        return tuple(chosen)

    def settled(self, findings: Findings) -> Depth:
        """Name the blocks, so that the recipe leaves out the same ones everywhere."""
        if self.blocks or not self._chooses:
            return self
        return Depth(ratio=self.ratio, blocks=self._chosen(findings.least_missed))

    def variant(self, network: NetworkAnalysis) -> object:
        """How many blocks are left out, or which ones."""
        if self.blocks or isinstance(self.ratio, dict):
            return self.model_dump(mode="json", exclude={"technique"})
        return _count([self.ratio] * len(network.blocks))

    def summary(self) -> str:
        """A few words for tables."""
        if self.blocks:
            return f"without {len(self.blocks)} block{'s' if len(self.blocks) > 1 else ''}"
        return "fewer blocks in parts" if isinstance(self.ratio, dict) else f"{self.ratio:.0%} fewer blocks"


def _count(ratios: Sequence[float]) -> int:
    """Number of blocks that are left out, by the ratio of each: their sum, rounded, halves up."""
    return int(math.fsum(ratios) + 0.5)
