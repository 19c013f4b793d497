"""Changes the depth of a network: one of its blocks is gone, or is another kind of layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from autocompress.compression.stage import Phase, Stage

if TYPE_CHECKING:
    from autocompress.compression.candidate import Candidate, Context


class DropBlock(Stage):
    """Replace a block that keeps the shape of its input."""

    technique: Literal["own_techniques.drop_block"] = "own_techniques.drop_block"
    block: str = "none"
    """Path of the module; "none" changes nothing."""
    by: Literal["nothing", "two"] = "nothing"
    """Two convolutions in a row, of which no layer of the network has the name."""
    phase: ClassVar[Phase] = Phase.STRUCTURE
    precedes: ClassVar[frozenset[str]] = frozenset({"prune"})

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Replace it in a copy of the model."""
        import torch
        from torch import nn

        if self.block == "none":
            return candidate.evolve("drop_block: nothing dropped")
        model = candidate.copy_model()
        new: nn.Module = nn.Identity()
        if self.by == "two":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(context.seed)
                width = next(model.get_submodule(self.block).parameters()).shape[0]
                new = nn.Sequential(nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 3, padding=1))
        model.set_submodule(self.block, new)
        return candidate.evolve(f"drop_block: {self.block} is now {self.by}", model=model)
