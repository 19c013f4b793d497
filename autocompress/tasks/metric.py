"""What accuracy means for a task: a score per sample, and its mean with a confidence interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autocompress.validation import Data

Split = Literal["validation", "test"]


MetricUnit = Literal["share", "number"]


class Score(Data):
    """The metric of one artefact on one split, with its 95 % confidence interval."""

    value: float
    low: float
    """Equal to `high` where no interval is known; see `interval`."""
    high: float
    n_samples: int
    """0 where one figure was given for the whole split."""
    split: Split

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None where none is known: no scores of samples, or all of them equal."""
        return (self.low, self.high) if self.n_samples and self.low < self.high else None

    def overlaps(self, other: Score) -> bool:
        """Whether both intervals are known, of one split, and overlap.

        A careful test: scores whose intervals do not overlap differ at well below 5 %.
        """
        known = self.interval and other.interval and self.split == other.split
        return bool(known) and self.low <= other.high and other.low <= self.high


Array = NDArray[Any]


_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Metric:
    """A figure of merit: the mean of a score per sample. Higher must be better."""

    name: str
    per_sample: Callable[[Any, Any], Array]
    """Outputs and targets, arrays (N, ...) in the structures of network and data, to scores (N,)."""
    unit: MetricUnit | None = None
    """"share": from 0 to 1, told in percent and points; "number": told as it is. None: a share if the score of the
    unchanged network lies between 0 and 1."""

    def scores(self, outputs: Any, targets: Any) -> Array:
        """The score of each sample; what the function writes into its arguments reaches nobody else."""
        from autocompress.tasks.interface import each  # loads torch

        return self.per_sample(each(outputs, np.copy), each(targets, np.copy))

    def score(self, scores: Array, split: Split) -> Score:
        """Mean with its 95 % interval: Wilson's for 0/1 scores, else the percentile bootstrap.

        Reference: E. B. Wilson, JASA 22 (1927) 209-212.
        """
        from scipy import stats

        scores = np.asarray(scores, dtype=np.float64)
        mean, n = float(scores.mean()), len(scores)
        if np.isin(scores, (0.0, 1.0)).all():
            interval = stats.binomtest(int(scores.sum()), n).proportion_ci(_CONFIDENCE, method="wilson")
        elif np.ptp(scores) == 0:
            return Score(value=mean, low=mean, high=mean, n_samples=n, split=split)
        else:
            interval = stats.bootstrap(
                (scores,),
                np.mean,
                n_resamples=999,
                batch=100,
                confidence_level=_CONFIDENCE,
                method="percentile",
                rng=0,
            ).confidence_interval
        return Score(value=mean, low=float(interval.low), high=float(interval.high), n_samples=n, split=split)


def _correct(outputs: Array, labels: Array) -> Array:
    correct: Array = (outputs.argmax(-1) == labels).astype(np.float64)
    return correct


ACCURACY = Metric("accuracy", _correct, unit="share")
