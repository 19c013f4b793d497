"""The example of docs/extend.md."""

from typing import ClassVar, Literal

from autocompress import Candidate, Context, Number, Phase, Stage


class Shrink(Stage):
    """Multiply all weights by a factor."""

    technique: Literal["own_techniques.shrink"] = "own_techniques.shrink"
    factor: Number = 1.0
    phase: ClassVar[Phase] = Phase.STRUCTURE

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Shrink a copy of the model."""
        model = candidate.copy_model()
        for parameter in model.parameters():
            parameter.data.mul_(self.factor)
        return candidate.evolve(f"shrink: by {self.factor:g}", model=model)
