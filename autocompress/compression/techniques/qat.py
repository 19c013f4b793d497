"""Quantisation-aware training: weights and scales are trained with the rounding of the deployed file in the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from autocompress.compression.quantize import Quantize
from autocompress.compression.stage import Number

if TYPE_CHECKING:
    from autocompress.compression.training import Distillation, Schedule


class Qat(Quantize):
    """Start from a post-training quantisation and train on, with the original network as the teacher."""

    technique: Literal["qat"] = "qat"
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    learning_rate: Annotated[Number, Field(gt=0, le=1)] = 2e-3
    """Of the weights; that of the scales is a hundredth of it."""
    temperature: Annotated[Number, Field(gt=0, le=100)] = 4.0
    weight: Annotated[Number, Field(ge=0, le=1)] = 0.7
    exit_weight: Annotated[Number, Field(ge=0, le=10)] = 0.5

    label: ClassVar[str] = "quantisation-aware training"
    effort: ClassVar[str] = "epochs"
    conflicts: ClassVar[frozenset[str]] = frozenset({"ptq"})
    references: ClassVar[tuple[str, ...]] = ("Esser et al., Learned Step Size Quantization, arXiv 1902.08153",)

    @property
    def training(self) -> tuple[Schedule, Distillation]:
        """How the quantised network is trained."""
        from autocompress.compression.training import Distillation, Schedule

        return (
            Schedule(self.epochs, self.learning_rate, weight_decay=1e-4, clip=1.0),
            Distillation(self.temperature, self.weight, exit_weight=self.exit_weight),
        )

    def summary(self) -> str:
        """A few words for tables."""
        return f"{super().summary()} {self.epochs} ep"
