"""Makes a network shallower: blocks that keep the shape of their input are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from autocompress import Phase, Stage, TableField
from autocompress.compression.tables import Table, lookup, unknown_keys
from autocompress.errors import CandidateError

if TYPE_CHECKING:
    from autocompress.compression.candidate import Candidate, Context
    from autocompress.compression.gains import Bench, Knob
    from autocompress.compression.structure import NetworkStructure
    from autocompress.devices.profile import DeviceProfile


class SkipBlocks(Stage):
    """Leave out some blocks."""

    technique: Literal["own_techniques.skip_blocks"] = "own_techniques.skip_blocks"
    skip: Literal[0, 1] | Table[Literal[0, 1]] = 0
    """1 leaves a block out."""

    phase: ClassVar[Phase] = Phase.STRUCTURE
    precedes: ClassVar[frozenset[str]] = frozenset({"prune"})
    label: ClassVar[str] = "fewer blocks"
    tables: ClassVar[Mapping[str, TableField]] = {"skip": TableField("blocks", neutral=0, strongest="high")}
    references: ClassVar[tuple[str, ...]] = ("Huang et al., Deep Networks with Stochastic Depth, arXiv 1603.09382",)

    @classmethod
    def unusable(cls, network: NetworkStructure, device: DeviceProfile, *, trainable: bool) -> str:
        """Where every block changes the shape."""
        return "" if network.blocks else "the network has no block that can be left out"

    @classmethod
    def gains(cls, bench: Bench) -> Iterator[Knob]:
        """Each block on its own."""
        for block in bench.analysis.blocks:
            yield bench.knob(f"leaving out {block}", cls(skip={block: 1}))

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Put nothing in the place of each block.

        Raises:
            CandidateError: the table names what is no such block.
        """
        from torch import nn

        blocks = context.analysis.blocks
        if unknown := unknown_keys(self.skip, blocks, blocks.values()):
            raise CandidateError(f"{self.technique}: no block {unknown[0]!r}; blocks: {', '.join(blocks)}")
        skipped = [name for name, stage in blocks.items() if lookup(self.skip, name, stage, 0)]
        model = candidate.copy_model()
        for name in skipped:
            model.set_submodule(candidate.path_of(name), nn.Identity())
        return candidate.evolve(f"{self.technique}: left out: {', '.join(skipped) or 'nothing'}", model=model)

    def summary(self) -> str:
        """A few words for tables."""
        n = sum(self.skip.values()) if isinstance(self.skip, dict) else self.skip
        return f"without {n} blocks"
