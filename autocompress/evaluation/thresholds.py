"""Thresholds of early exits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


NEVER = 1.1
"""A threshold that no confidence reaches."""


_MAX_SWEEP_POINTS = 5


def sweep(confidence: Array, scores: Array, path_ms: Sequence[float]) -> list[tuple[float, ...]]:
    """Thresholds on the front of score against expected latency, thinned to a handful, best score first.

    Args:
        confidence: (N, n_exits), the largest softmax probability of each early exit.
        scores: (N, n_exits + 1), the metric per sample if it left there.
        path_ms: latency of leaving there, n_exits + 1 values.
    """
    grids = [
        sorted({round(float(q), 4) for q in np.quantile(column, np.linspace(0.0, 0.95, 16))} | {NEVER})
        for column in confidence.T
    ]
    rows = np.arange(len(scores))
    latency = np.asarray(path_ms)
    points = []
    for thresholds in itertools.product(*grids):
        fires = np.column_stack([confidence > np.array(thresholds), np.ones(len(rows), bool)])
        taken = fires.argmax(1)
        points.append((float(scores[rows, taken].mean()), float(latency[taken].mean()), thresholds))
    points.sort(key=lambda p: (-p[0], p[1]))
    front = []
    fastest = np.inf
    for point in points:
        if point[1] < fastest:
            front.append(point)
            fastest = point[1]
    chosen = np.unique(np.linspace(0, len(front) - 1, _MAX_SWEEP_POINTS).round().astype(int))
    return [front[i][2] for i in chosen]
