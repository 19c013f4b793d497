"""What a study found: one `Evaluation` per judged recipe and the `ParetoFront` of those that are not dominated.

Data only: neither torch nor optuna is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from autocompress.errors import ConstraintError
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.metric import Score, Split
from autocompress.validation import Data, suggestion

Pick = Literal["knee", "fastest", "smallest", "most-accurate"]
LatencySource = Literal["predicted", "measured"]
State = Literal["complete", "rejected", "failed"]

_LARGEST = 1e15
"""No figure of a trial comes near it, in any unit used here."""
REPEATED = "gives the same file as trial"
"""How the reason of a repeated proposal begins."""


class LayerSummary(Data):
    """One layer with weights, read from the file that was written; or one of the original network that is gone."""

    name: str
    kind: str
    """In torch's words: Conv2d, Linear, Embedding, LSTM, ..."""
    channels_before: int
    """0 where the original network has no such layer."""
    channels_after: int
    """0 where the file has none."""
    weight_bits: int
    """Of a stored weight; 0 where the layer is gone."""
    activation_bits: int
    """8 where it computes in integers, else 32; 0 where the layer is gone."""
    weight_bytes: int = 0
    """Of the stored weights."""
    macs: int = 0
    """Multiply-accumulates for one sample."""
    latency_ms_before: float = 0.0
    """Predicted, in the fp32 original."""
    latency_ms: float = 0.0
    """Predicted, in this candidate."""


class ExitSummary(Data):
    """One way out of a network with early exits; the last one is the network's own output."""

    place: str
    threshold: float
    """Confidence at which the file stops here; 0 for the last."""
    rate: float
    """Share of the validation samples that leave here."""
    latency_ms: float
    """Latency of a sample that leaves here; same source as the evaluation's latency."""
    accuracy: float
    """Metric of the samples that leave here (validation split); NaN is stored as -1 when none does."""


class Evaluation(Data):
    """One recipe and what was found about it.

    `accuracy` is the task's metric, computed by running the artefact in its runtime. A rejected recipe
    has only predicted figures and a `reason`; a failed one has a `reason`.
    """

    trial: int
    kind: Literal["baseline", "candidate"] = "candidate"
    label: str = ""
    """Name of a baseline ("fp32", "fp16", "int8"), otherwise a short description of the recipe."""
    recipe: Recipe
    recipe_digest: str
    state: State
    reason: str = ""

    validation: Score | None = None
    test: Score | None = None
    predicted_latency_ms: float | None = None
    """Expectation over the exits when there are any."""
    measured_latency_ms: float | None = None
    worst_case_latency_ms: float | None = None
    """Latency when no early exit is taken, from the same source as `latency_ms`."""
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    """Working memory: weights as the kernels read them (INT4 takes 1 byte, float16 takes 4) plus the most
    activation bytes alive at one time, by the deployed graph; on microcontrollers the activations only. A floor:
    the runtime's code, scratch buffers and copies are not in it."""
    active_power_mw: float | None = None
    """Power of the device while it computes, where the profile or the user says it."""
    workloads: tuple[str, ...] = ()
    """Fingerprints of the kernel calls on each path through the file, kept in the study (see `study.workloads`)."""
    artifact: str | None = None
    """The ONNX file, relative to the study folder; None when it was not kept."""
    sha256: str | None = None
    parity: float | None = None
    """Share of samples on which the file and the torch model it came from agree; 1 minus the relative error where the
    task is no classification (see the docs)."""
    n_params: int | None = None
    macs: int | None = None
    """Multiply-accumulates for one sample that takes no early exit: products, convolutions, attention, recurrences."""
    layers: tuple[LayerSummary, ...] = ()
    exits: tuple[ExitSummary, ...] = ()
    threshold_optimism: float = 0.0
    """By how much the validation score is expected to flatter because the thresholds were chosen by it; 0 where they
    were given, or in studies of before it was kept."""
    latency_doubt: str = ""
    """Why a measurement was set aside, so that `latency_ms` is the predicted one; empty if none was."""
    notes: tuple[str, ...] = ()
    """What the stages did, or that they did nothing."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall seconds by phase: structure, training, numerics, evaluation."""
    derived_from: int | None = None
    """Trial whose trained network this point shares: other thresholds of its exits, or other number formats."""
    finished_at: str = ""
    """UTC, ISO 8601."""

    @property
    def is_repeat(self) -> bool:
        """Whether it was answered from an earlier trial that gives the same file."""
        return self.reason.startswith(REPEATED)

    @property
    def score(self) -> Score | None:
        """The test score where there is one, else the validation score."""
        return self.test or self.validation

    def score_on(self, split: Split) -> Score | None:
        """The score of one split."""
        return self.test if split == "test" else self.validation

    @property
    def accuracy(self) -> float | None:
        """Value of `score`."""
        return self.score.value if self.score else None

    @property
    def latency_ms(self) -> float | None:
        """Measured where there is a measurement, else predicted."""
        return self.measured_latency_ms if self.measured_latency_ms is not None else self.predicted_latency_ms

    @property
    def latency_source(self) -> LatencySource:
        """Where `latency_ms` comes from."""
        return "measured" if self.measured_latency_ms is not None else "predicted"

    @property
    def energy_mj(self) -> float | None:
        """Energy of one inference, from `latency_ms` and `active_power_mw`; None where the power is not known."""
        return energy_mj(self.latency_ms, self.active_power_mw)

    def objectives(self) -> tuple[float, float, float]:
        """Validation accuracy (up), latency_ms (down), size_bytes (down): what the selection uses."""
        assert self.validation is not None and self.latency_ms is not None and self.size_bytes is not None
        return self.validation.value, self.latency_ms, float(self.size_bytes)

    def inconsistency(self) -> str:
        """Why this cannot be the result of a search, or nothing: for evaluations that were read from a file."""
        objectives = (self.validation, self.latency_ms, self.size_bytes)
        if self.state == "complete" and any(value is None for value in objectives):
            return "complete, but without a score, a latency or a size"
        scores = [x for s in (self.validation, self.test) if s for x in (s.value, s.low, s.high)]
        exits = [x for e in self.exits for x in (e.threshold, e.rate, e.latency_ms, e.accuracy)]
        layers = [x for layer in self.layers for x in (layer.latency_ms_before, layer.latency_ms)]
        positive = [self.latency_ms, self.size_bytes] if self.state == "complete" else []
        costs = [self.predicted_latency_ms, self.measured_latency_ms, self.worst_case_latency_ms, self.size_bytes]
        costs += [self.peak_memory_bytes, self.active_power_mw, self.n_params, self.macs]
        numbers = [*scores, *exits, *layers, *costs, self.parity, *self.seconds.values(), self.trial]
        for value in numbers:
            if value is not None and not abs(value) <= _LARGEST:
                return "a figure beyond anything that is measured"
        return "a latency or a size that is not positive" if any(x is not None and x <= 0 for x in positive) else ""

    def as_row(self, split: Split | None = None) -> dict[str, Any]:
        """The flat form used by `show --json`, `--csv` and the pandas frame.

        Args:
            split: of the columns "accuracy...", which are empty where it was not scored; by default that of `score`.
        """
        score = self.score_on(split) if split else self.score
        return {
            "trial": self.trial,
            "kind": self.kind,
            "label": self.label,
            "state": self.state,
            "reason": self.reason,
            "accuracy": score.value if score else None,
            "accuracy_split": score.split if score else None,
            "accuracy_low": score.interval[0] if score and score.interval else None,
            "accuracy_high": score.interval[1] if score and score.interval else None,
            "validation_accuracy": self.validation.value if self.validation else None,
            "test_accuracy": self.test.value if self.test else None,
            "latency_ms": self.latency_ms,
            "latency_source": self.latency_source,
            "predicted_latency_ms": self.predicted_latency_ms,
            "measured_latency_ms": self.measured_latency_ms,
            "latency_doubt": self.latency_doubt,
            "worst_case_latency_ms": self.worst_case_latency_ms,
            "size_bytes": self.size_bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "energy_mj": self.energy_mj,
            "n_params": self.n_params,
            "macs": self.macs,
            "parity": self.parity,
            "exit_rates": [exit_.rate for exit_ in self.exits],
            "artifact": self.artifact,
            "sha256": self.sha256,
            "derived_from": self.derived_from,
            "seconds": sum(self.seconds.values()),
            "recipe": self.recipe.to_dict(),
            "recipe_digest": self.recipe_digest,
        }


def energy_mj(latency_ms: float | None, active_power_mw: float | None) -> float | None:
    """Energy of one inference in millijoules: the device draws a constant power while it computes."""
    return None if latency_ms is None or active_power_mw is None else latency_ms * active_power_mw / 1000


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
