"""What the versions of successive halving share: recipes on their way up, and which of them are the best."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Run:
    """A recipe on its way up the rungs."""

    setting: dict[str, Any]
    luck: float
    values: list[NDArray[np.float64]] = field(default_factory=list)
    """As measured at each rung that it reached."""


def ranked(runs: list[Run], rung: int, limits: tuple[float, float, float]) -> list[Run]:
    """By non-dominated rank at a rung, then from the most accurate on always the farthest from those before.

    Args:
        runs: that have reached the rung.
        rung: from 1 on.
        limits: what is beyond these values of the objectives counts as worse by much more.
    """
    left, order = list(runs), []
    while left:
        y = np.log([one.values[rung - 1] for one in left])
        y = y + 10 * np.maximum(y - np.log(limits), 0).sum(1, keepdims=True)
        dominated = ((y[:, None] >= y[None]).all(2) & (y[:, None] > y[None]).any(2)).any(1)
        front = np.flatnonzero(~dominated)
        picked = [int(np.argmin(y[front, 0]))]
        distance = np.linalg.norm(y[front] - y[front[picked[0]]], axis=1)
        while len(picked) < len(front):
            distance[picked] = -1
            picked.append(int(np.argmax(distance)))
            distance = np.minimum(distance, np.linalg.norm(y[front] - y[front[picked[-1]]], axis=1))
        order += [left[front[i]] for i in picked]
        left = [one for i, one in enumerate(left) if dominated[i]]
    return order
