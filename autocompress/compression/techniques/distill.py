"""Fine-tuning after pruning, with the original (or another) network as the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from autocompress.compression.stage import Findings, Number, Phase, Stage
from autocompress.errors import CandidateError

if TYPE_CHECKING:
    from autocompress.compression.candidate import Candidate, Context


_SHARES = {"auto": 1.0, "auto*3": 3.0, "auto/3": 1 / 3}


class Distill(Stage):
    """Train all weights, exit heads included, on labels and on the teacher's answers.

    With `weight: 0` it is plain fine-tuning; with `epochs: 0` only BatchNorm statistics are re-estimated.
    """

    technique: Literal["distill"] = "distill"
    epochs: Annotated[int, Field(ge=0, le=1000)] = 3
    learning_rate: Annotated[Number, Field(gt=0, le=10)] | Literal["auto", "auto*3", "auto/3"] = 0.05
    """Peak of the one-cycle schedule. "auto" is found once for each network, by short trainings of a version that lost
    half of its channels; one that lost more wants a higher rate, one that lost less a lower one."""
    optimizer: Literal["auto", "sgd", "adamw"] = "sgd"
    """"auto": sgd for networks with BatchNorm, adamw for all others."""
    weight_decay: Annotated[Number, Field(ge=0, le=1)] = 5e-4
    temperature: Annotated[Number, Field(gt=0, le=100)] = 4.0
    """Softens the teacher's answers."""
    weight: Annotated[Number, Field(ge=0, le=1)] = 0.7
    """Share of the teacher's answers in the loss; the rest is the task's own loss."""
    feature_weight: Annotated[Number, Field(ge=0, le=1e4)] = 0.0
    """Weight of attention transfer at the places of the network."""
    relation_weight: Annotated[Number, Field(ge=0, le=1e4)] = 0.0
    """Weight of the distances between samples."""
    exit_weight: Annotated[Number, Field(ge=0, le=10)] = 0.5
    """Weight of the loss of each early exit."""

    phase: ClassVar[Phase] = Phase.TRAINING
    label: ClassVar[str] = "distillation"
    effort: ClassVar[str] = "epochs"
    references: ClassVar[tuple[str, ...]] = (
        "Hinton et al., arXiv 1503.02531",
        "Zagoruyko and Komodakis, arXiv 1612.03928",
        "Park et al., arXiv 1904.05068",
    )

    def settled(self, findings: Findings) -> Distill:
        """Put the network's own optimizer and peak rate in the place of `auto`."""
        optimizer = findings.optimizer if self.optimizer == "auto" else self.optimizer
        rate = self.learning_rate
        if isinstance(rate, str):
            rate = findings.peak_rate(optimizer) * _SHARES[rate] if self.epochs else 0.05
        return Distill.model_validate(self.model_dump() | {"optimizer": optimizer, "learning_rate": rate})

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Train a copy of the model; the weights of before stay where training gains nothing.

        Raises:
            CandidateError: the loss became infinite or NaN, or a setting is still `auto`.
        """
        from autocompress.compression.finetuning import fine_tune
        from autocompress.compression.training import Distillation, Schedule

        if self.optimizer == "auto" or isinstance(self.learning_rate, str):
            raise CandidateError("distill: what is auto has to be settled first: see Stage.settled")
        schedule = Schedule(self.epochs, self.learning_rate, self.optimizer, self.weight_decay)
        terms = Distillation(self.temperature, self.weight, self.feature_weight, self.relation_weight, self.exit_weight)
        trained = fine_tune(candidate, context, schedule, terms)
        done = f"{self.epochs} epochs" if self.epochs else "BatchNorm re-estimated"
        kept = {"start": ", no better than before: undone", "average": ", weights averaged", "end": ""}[trained.kept]
        return candidate.evolve(f"distill: {done}{kept}", model=trained.model)

    def repair(self) -> Distill:
        """Only BatchNorm statistics are re-estimated."""
        return self.model_copy(update={"epochs": 0})

    def title(self) -> str:
        """Without a teacher it is fine-tuning."""
        return self.label if self.weight else "fine-tuning"

    def summary(self) -> str:
        """A few words for tables."""
        return f"{'distill' if self.weight else 'fine-tune'} {self.epochs} ep"
