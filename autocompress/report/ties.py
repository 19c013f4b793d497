"""Which points of a front cannot be told apart by their accuracy."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress.studies.results import Evaluation
from autocompress.tasks.metric import Score, Split

TIE = "\u2248"
"""Marks points whose accuracy interval overlaps that of a faster point of the front."""


def score_of(evaluation: Evaluation, split: Split | None) -> Score | None:
    """The score of a split; of the test split where there is one, when no split is given."""
    if split is None:
        return evaluation.score
    return evaluation.score_on(split)


def ties(points: Iterable[Evaluation], split: Split | None = None) -> dict[int, tuple[int, ...]]:
    """For each point, the trials of the faster points whose accuracy interval overlaps its own, fastest first.

    A point with ties costs time for an accuracy that may be chance: it is worth having for its size, or not at all.
    Scores without an interval tie with nothing, and scores of different splits are not compared.
    """
    ordered = sorted((p for p in points if score_of(p, split)), key=lambda p: (p.latency_ms or 0.0, p.trial))
    found: dict[int, tuple[int, ...]] = {}
    for i, point in enumerate(ordered):
        mine = score_of(point, split)
        assert mine is not None
        found[point.trial] = tuple(
            other.trial for other in ordered[:i] if (theirs := score_of(other, split)) and mine.overlaps(theirs)
        )
    return found
