"""The Pareto front of a study, and its hypervolume."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import ConstraintError
from autocompress.studies.results import Evaluation
from autocompress.tasks.metric import Split
from autocompress.validation import suggestion

Pick = Literal["knee", "fastest", "smallest", "most-accurate"]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is at least as good as `b` everywhere and better somewhere; (accuracy, latency, size)."""
    no_worse = a[0] >= b[0] and a[1] <= b[1] and a[2] <= b[2]
    return no_worse and tuple(a) != tuple(b)


def best_of(values: NDArray[np.float64], pick: Pick) -> int:
    """Index of the point that `pick` names; of equal ones the first.

    Of several that are equally fast or small the most accurate counts, of equally accurate ones the fastest.

    Args:
        values: accuracy, latency and size of each point, shape (points, 3).
        pick: see `ParetoFront.knee` for the knee.
    """
    if pick != "knee":
        order = {"fastest": (1, 0, 2), "smallest": (2, 0, 1)}.get(pick, (0, 1, 2))
        signed = values * np.array([-1.0, 1.0, 1.0])
        return int(np.lexsort([signed[:, i] for i in reversed(order)])[0])
    costs = np.column_stack([-values[:, 0], np.log(values[:, 1:])])
    span = np.ptp(costs, axis=0)
    scaled = (costs - costs.min(axis=0)) / np.where(span > 0, span, 1.0)
    return int(np.argmin(np.linalg.norm(scaled, axis=1)))


class ParetoFront:
    """The evaluations that no other one dominates, fastest first.

    Reference: K. Deb, "Multi-Objective Optimization Using Evolutionary Algorithms", 2001.
    """

    def __init__(self, points: Iterable[Evaluation]) -> None:
        self.points = tuple(sorted(points, key=lambda point: (point.latency_ms or 0.0, point.trial)))

    @classmethod
    def of(cls, evaluations: Iterable[Evaluation]) -> ParetoFront:
        """Return the non-dominated ones among the complete evaluations; of equals, the first trial stays."""
        complete = [e for e in evaluations if e.state == "complete"]
        unique: dict[tuple[float, float, float], Evaluation] = {}
        for evaluation in sorted(complete, key=lambda e: e.trial):
            unique.setdefault(evaluation.objectives(), evaluation)
        return cls(e for values, e in unique.items() if not any(dominates(other, values) for other in unique))

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Evaluation:
        return self.points[index]

    def select(
        self,
        pick: Pick | None = None,
        *,
        trial: int | None = None,
        max_latency_ms: float | None = None,
        max_size_bytes: float | None = None,
        max_memory_bytes: float | None = None,
        max_energy_mj: float | None = None,
        min_accuracy: float | None = None,
    ) -> Evaluation:
        """Choose one point by its validation accuracy, latency, size, memory and energy.

        Of the points that meet the limits, the one that `pick` names; without `pick` the most accurate one. Of
        several that are equally fast or small the most accurate counts, of equally accurate ones the fastest; of
        equally good knees the fastest.

        Raises:
            ConstraintError: no point of the front meets the limits, or `trial` is not on the front.
        """
        if pick is not None and pick not in get_args(Pick):
            known = get_args(Pick)
            raise ConstraintError(f"no point called {pick!r}{suggestion(pick, known)}; known: {', '.join(known)}")
        points = [
            p
            for p in self.points
            if (trial is None or p.trial == trial)
            and (max_latency_ms is None or p.objectives()[1] <= max_latency_ms)
            and (max_size_bytes is None or p.objectives()[2] <= max_size_bytes)
            and _within(p.peak_memory_bytes, max_memory_bytes)
            and _within(p.energy_mj, max_energy_mj)
            and (min_accuracy is None or p.objectives()[0] >= min_accuracy)
        ]
        if not points:
            raise ConstraintError(self._nothing_found(trial))
        return points[best_of(np.array([p.objectives() for p in points]), pick or "most-accurate")]

    def _nothing_found(self, trial: int | None) -> str:
        if not self.points:
            return "the front is empty: no candidate was completed; run the search for longer"
        if trial is not None and all(p.trial != trial for p in self.points):
            known = ", ".join(str(p.trial) for p in self.points)
            return f"trial {trial} is not on the front; the front holds the trials {known}"
        accuracy, latency, size = zip(*(p.objectives() for p in self.points), strict=True)
        reached = [f"accuracy {max(accuracy):.4f}", f"latency {min(latency):.3f} ms", f"size {min(size):,.0f} bytes"]
        memory = [p.peak_memory_bytes for p in self.points if p.peak_memory_bytes is not None]
        energy = [p.energy_mj for p in self.points if p.energy_mj is not None]
        reached += [f"memory {min(memory):,} bytes"] if memory else []
        reached += [f"energy {min(energy):.3g} mJ"] if energy else []
        return (
            f"no point of the front meets these limits; it reaches {', '.join(reached)} "
            "(each on its own): loosen a limit or search for longer"
        )

    def knee(self) -> Evaluation:
        """Return the point closest to the ideal one, each objective scaled to the front's own range.

        Latency and size are compared by their logarithms, since they span orders of magnitude.
        """
        if not self.points:
            raise ConstraintError(self._nothing_found(None))
        return self.points[best_of(np.array([p.objectives() for p in self.points]), "knee")]

    def hypervolume(self, reference: tuple[float, float, float]) -> float:
        """Volume dominated by the front up to `reference`, in accuracy x ln(latency) x ln(size).

        Args:
            reference: accuracy, latency_ms and size_bytes of the worst point that counts. State it
                with the figure: volumes with different references cannot be compared.
        """
        return hypervolume([p.objectives() for p in self.points], reference)

    def rows(self, split: Split | None = None) -> list[dict[str, Any]]:
        """One flat dictionary per point, fastest first; see `Evaluation.as_row`."""
        return [point.as_row(split) for point in self.points]


def _within(value: float | None, limit: float | None) -> bool:
    """Whether a limit is kept; an unknown value keeps none."""
    return limit is None or (value is not None and value <= limit)


def hypervolume(points: Iterable[tuple[float, float, float]], reference: tuple[float, float, float]) -> float:
    """Volume that points of (accuracy, latency, size) dominate up to `reference` (see `ParetoFront.hypervolume`)."""
    worst = _costs(reference)
    costs = map(_costs, points)
    return _hypervolume([c for c in costs if all(x < limit for x, limit in zip(c, worst, strict=True))], worst)


def _costs(objectives: tuple[float, float, float]) -> tuple[float, ...]:
    accuracy, latency, size = objectives
    return -accuracy, math.log(latency), math.log(size)


def _hypervolume(costs: list[tuple[float, ...]], worst: tuple[float, ...]) -> float:
    """Sum slabs along the last axis; exact, for the small fronts of a study (any number of axes)."""
    if not costs:
        return 0.0
    if len(worst) == 1:
        return worst[0] - min(c[0] for c in costs)
    ordered = sorted(costs, key=lambda c: c[-1])
    edges = [*(c[-1] for c in ordered), worst[-1]]
    return sum(
        (edges[i + 1] - edges[i]) * _hypervolume([c[:-1] for c in ordered[: i + 1]], worst[:-1])
        for i in range(len(ordered))
        if edges[i + 1] > edges[i]
    )
