"""The confidence at which each early exit answers: swept after training, free of training and of export.

An exit fires when the largest softmax probability of its logits is above its threshold. The thresholds are
initialisers of the file that can be fed at run time as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from autocompress.compression.stage import Number, Phase, Stage
from autocompress.compression.techniques.early_exit import not_executed
from autocompress.errors import CandidateError

if TYPE_CHECKING:
    from autocompress.compression.candidate import Candidate, Context
    from autocompress.compression.structure import NetworkStructure
    from autocompress.devices.profile import DeviceProfile


class ExitThreshold(Stage):
    """Set the threshold of each exit, in order of execution."""

    technique: Literal["exit_threshold"] = "exit_threshold"
    thresholds: tuple[Annotated[Number, Field(ge=0, le=2)], ...]
    """One for each exit, from 0 (always taken) to above 1 (never taken)."""

    phase: ClassVar[Phase] = Phase.RUNTIME
    requires: ClassVar[frozenset[str]] = frozenset({"early_exit"})
    label: ClassVar[str] = "thresholds of exits"

    @classmethod
    def unusable(cls, network: NetworkStructure, device: DeviceProfile, *, trainable: bool) -> str:
        """Where no exit can be executed."""
        return not_executed(device)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Note the thresholds for the deployment.

        Raises:
            CandidateError: their number is not that of the exits.
        """
        if len(self.thresholds) != len(candidate.exits):
            raise CandidateError(
                f"exit_threshold: the network has {len(candidate.exits)} exits, got {len(self.thresholds)} thresholds"
            )
        return candidate.evolve(thresholds=self.thresholds)

    def added(self) -> list[str]:
        """One line for each exit."""
        return [f"exit {i + 1} answers above a confidence of {t:g}" for i, t in enumerate(self.thresholds)]

    def removed(self) -> list[str]:
        """Nothing to say of exits that are gone as well."""
        return []

    def _change(self, name: str, before: Any, after: Any) -> list[str]:
        if name != "thresholds" or len(before) != len(after):
            return super()._change(name, before, after)
        return [
            f"exit {i + 1} answers above a confidence of {new:g} instead of {old:g}"
            for i, (old, new) in enumerate(zip(before, after, strict=True))
            if old != new
        ]

    def summary(self) -> str:
        """A few words for tables."""
        return "at " + "/".join(f"{t:g}" for t in self.thresholds)
