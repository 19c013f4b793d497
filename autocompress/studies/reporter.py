"""What a search tells whoever watches it."""

from __future__ import annotations

from typing import Protocol

from autocompress.studies.results import Evaluation


class Reporter(Protocol):
    """Receives the progress of a search; the command line shows it, a script may ignore it."""

    def note(self, message: str) -> None:
        """Something worth reading once."""

    def status(self, message: str) -> None:
        """What is being done right now; replaces the last one."""

    def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
        """A trial is finished; `share` of the budget is used, the rest will take about `eta_s` seconds."""


class Silent:
    """Shows nothing."""

    def note(self, message: str) -> None:
        """Ignore it."""

    def status(self, message: str) -> None:
        """Ignore it."""

    def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
        """Ignore it."""
