"""Hypervolume as a search goes on: over evaluated candidates and over compute."""

from __future__ import annotations

from typing import Literal

from autocompress.report.formatting import is_percentage, ms_text, size_text
from autocompress.studies.front import dominates, hypervolume
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study

Axis = Literal["evaluated", "minutes"]
Point = tuple[float, float, float]
"""Accuracy, latency_ms, size_bytes."""


class Volumes:
    """The hypervolume after each trial, brought up to date trial by trial.

    Accuracies are those of the validation split, latencies the predicted ones where there are any, so that the
    last measurements do not mix with the predictions before them.
    """

    def __init__(self, reference: Point, unit_ms: float = 1.0) -> None:
        """Start empty; latencies are counted in `unit_ms`, in the reference too."""
        self.reference = reference
        self.unit_ms = unit_ms
        self.front: list[Point] = []
        self.evaluated: list[int] = []
        """Candidates that had to be evaluated; rejected, repeated and derived ones are free."""
        self.minutes: list[float] = []
        """Compute, summed over all trials and workers."""
        self.volume: list[float] = []

    def add(self, e: Evaluation) -> None:
        """Take in the next trial."""
        costs = e.kind == "candidate" and e.state != "rejected" and not e.is_repeat and e.derived_from is None
        self.evaluated.append((self.evaluated[-1] if self.evaluated else 0) + costs)
        self.minutes.append((self.minutes[-1] if self.minutes else 0.0) + sum(e.seconds.values()) / 60)
        volume = self.volume[-1] if self.volume else 0.0
        if e.state == "complete" and e.validation and e.size_bytes:
            latency_ms = e.predicted_latency_ms or e.latency_ms or self.unit_ms
            point = (e.validation.value, latency_ms / self.unit_ms, float(e.size_bytes))
            if not any(other == point or dominates(other, point) for other in self.front):
                self.front = [p for p in self.front if not dominates(point, p)] + [point]
                volume = hypervolume(self.front, self.reference)
        self.volume.append(volume)

    def last(self) -> float:
        """The hypervolume now."""
        return self.volume[-1] if self.volume else 0.0

    def at(self, limit: float, axis: Axis = "evaluated") -> float:
        """The hypervolume when `evaluated` or `minutes` had reached at most `limit`."""
        reached = [v for x, v in zip(getattr(self, axis), self.volume, strict=True) if x <= limit]
        return reached[-1] if reached else 0.0


def in_order(evaluations: tuple[Evaluation, ...]) -> list[Evaluation]:
    """Evaluations as they were finished."""
    return sorted(evaluations, key=lambda e: (e.finished_at, e.trial))


def hypervolume_reference(study: Study) -> tuple[tuple[float, float, float] | None, str]:
    """Return the worst point that counts, and the same in words; None without a completed fp32 baseline."""
    base = study.reference
    if base is None or base.validation is None or not base.size_bytes:
        return None, "no completed fp32 baseline to refer to"
    latency = base.predicted_latency_ms or base.latency_ms or 1.0
    percent = is_percentage(study)
    accuracy = base.validation.value - (0.1 if percent else 0.1 * abs(base.validation.value))
    words = "10 points" if percent else "10 %"
    size, metric = size_text(base.size_bytes), study.settings.metric
    text = (
        "the volume is in metric x ln ms x ln bytes up to the reference of fp32's latency "
        f"({ms_text(latency)}), size ({size}) and {metric} less {words}"
    )
    return (accuracy, latency, float(base.size_bytes)), text
