"""Post-training quantisation: number formats chosen per layer, ranges observed on a few batches, no training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from autocompress.compression.stage import Phase
from autocompress.compression.techniques._quantize import Quantize

if TYPE_CHECKING:
    from autocompress.compression.candidate import Candidate, Workshop


class Ptq(Quantize):
    """Quantise the exported graph: per-channel weights of 4, 8 or 16 bits, activations of 8 bits."""

    technique: Literal["ptq"] = "ptq"
    observer: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    """How the range of an activation is found from what was observed."""
    observer_samples: Annotated[int, Field(ge=1, le=100_000)] = 256

    phase: ClassVar[Phase] = Phase.NUMERICS
    conflicts: ClassVar[frozenset[str]] = frozenset({"qat"})
    references: ClassVar[tuple[str, ...]] = ("Nagel et al., A White Paper on Quantization, arXiv 2106.08295",)

    def apply(self, candidate: Candidate, workshop: Workshop) -> Candidate:
        """Note what is to be done with the exported graph.

        Raises:
            CandidateError: a table names a layer that does not exist.
        """
        self.check_names(workshop)
        return candidate.evolve(quantization=self)
