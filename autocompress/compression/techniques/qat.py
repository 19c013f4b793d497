"""Quantisation-aware training: weights and scales are trained with the rounding of the deployed file in the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from autocompress.compression.stage import Number, Phase
from autocompress.compression.techniques._quantize import Quantize

if TYPE_CHECKING:
    from autocompress.compression.candidate import Candidate, Workshop


class Qat(Quantize):
    """Start from a post-training quantisation and train on, with the original network as the teacher."""

    technique: Literal["qat"] = "qat"
    observer: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    observer_samples: Annotated[int, Field(ge=1, le=100_000)] = 256
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    learning_rate: Annotated[Number, Field(gt=0, le=1)] = 2e-3
    """Of the weights; that of the scales is a hundredth of it."""
    temperature: Annotated[Number, Field(gt=0, le=100)] = 4.0
    weight: Annotated[Number, Field(ge=0, le=1)] = 0.7
    exit_weight: Annotated[Number, Field(ge=0, le=10)] = 0.5

    phase: ClassVar[Phase] = Phase.NUMERICS
    conflicts: ClassVar[frozenset[str]] = frozenset({"ptq"})
    references: ClassVar[tuple[str, ...]] = ("Esser et al., Learned Step Size Quantization, arXiv 1902.08153",)

    def apply(self, candidate: Candidate, workshop: Workshop) -> Candidate:
        """Note what is to be done with the exported graph.

        Raises:
            CandidateError: a table names a layer that does not exist.
        """
        self.check_names(workshop)
        return candidate.evolve(quantization=self)

    def summary(self) -> str:
        """A few words for tables."""
        return f"{super().summary()} {self.epochs} ep"
