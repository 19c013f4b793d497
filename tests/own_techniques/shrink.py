"""The example of docs/extend.md."""

from typing import ClassVar, Literal

from autocompress.compression.candidate import Candidate, Workshop
from autocompress.compression.stage import Number, Phase, Stage


class Shrink(Stage):
    """Multiply all weights by a factor."""

    technique: Literal["shrink"] = "shrink"
    factor: Number = 1.0
    phase: ClassVar[Phase] = Phase.STRUCTURE

    def apply(self, candidate: Candidate, workshop: Workshop) -> Candidate:
        """Shrink a copy of the model."""
        model = candidate.copy_model()
        for parameter in model.parameters():
            parameter.data.mul_(self.factor)
        return candidate.evolve(f"shrink: by {self.factor:g}", model=model)
