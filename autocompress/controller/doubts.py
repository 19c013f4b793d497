"""Which measured latencies contradict what else is known of them: their prediction and files with the same kernels.

A timing can be wrong although its passes agree, when other work slowed all of them. What a study has measured shows how
far its predictions are off, by one common factor and a scatter around it; a point far outside that scatter is suspect,
unless a twin (a file that makes the same kernel calls) took as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.studies.results import Evaluation

SAME = 0.2
"""Largest relative difference between two timings of the same kernels that raises no doubt."""
_ENOUGH = 5
"""Points from which on the study's own scatter counts, not the error that the profile states."""
_SIGMAS = 4.0
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True)
class Contradiction:
    """What speaks against a measured latency."""

    reason: str
    by_twin: bool
    """Whether it is a file with the same kernels, not only the prediction."""


def contradictions(points: Sequence[Evaluation], expected_error: float) -> dict[int, Contradiction]:
    """Why the measured latency of some of these points is suspect, by trial.

    Args:
        points: of one study; those without a measurement are not judged.
        expected_error: of a prediction, as a share.
    """
    measured = {e.trial: e for e in points if e.measured_latency_ms and e.predicted_latency_ms}
    far = _far_from_prediction(list(measured.values()), expected_error)
    twins = _twins_ms(measured.values())
    found = {}
    for trial, e in measured.items():
        others = [ms for other, ms in twins.get(e.workloads, {}).items() if other != trial]
        whole_ms = _whole_ms(e)
        if others and whole_ms > (1 + SAME) * min(others):
            reason = f"{whole_ms:.4g} ms, a file with the same kernels took {min(others):.4g} ms"
            found[trial] = Contradiction(reason, by_twin=True)
        elif trial in far and not others:
            found[trial] = Contradiction(far[trial], by_twin=False)
    return found


def is_repeated(first: Evaluation, second: Evaluation) -> bool:
    """Whether two measurements of a file agree."""
    a, b = first.measured_latency_ms, second.measured_latency_ms
    return a is not None and b is not None and max(a, b) <= (1 + SAME) * min(a, b)


def _far_from_prediction(points: Sequence[Evaluation], expected_error: float) -> dict[int, str]:
    """Points whose ratio of measured to predicted latency is far outside the scatter of all of them."""
    logs = {e.trial: math.log((e.measured_latency_ms or 1) / (e.predicted_latency_ms or 1)) for e in points}
    centre, limit = 0.0, math.log(1 + 2 * expected_error)
    if len(points) >= _ENOUGH:
        values = np.array(list(logs.values()))
        centre = float(np.median(values))
        scatter = _MAD_TO_SIGMA * float(np.median(np.abs(values - centre)))
        limit = max(_SIGMAS * scatter, math.log(1 + SAME))
    expected_ms = {e.trial: math.exp(centre) * (e.predicted_latency_ms or 0) for e in points}
    return {
        e.trial: f"{e.measured_latency_ms:.4g} ms, other points and its prediction say {expected_ms[e.trial]:.4g} ms"
        for e in points
        if abs(logs[e.trial] - centre) > limit
    }


def _twins_ms(points: Iterable[Evaluation]) -> dict[tuple[str, ...], dict[int, float]]:
    """Latency of the longest path, by kernel calls and trial."""
    found: dict[tuple[str, ...], dict[int, float]] = {}
    for e in points:
        if e.workloads:
            found.setdefault(e.workloads, {})[e.trial] = _whole_ms(e)
    return found


def _whole_ms(e: Evaluation) -> float:
    whole_ms = e.worst_case_latency_ms if e.exits else e.measured_latency_ms
    return whole_ms or 0.0
