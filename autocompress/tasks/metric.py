"""What accuracy means for a task: a score per sample or a figure of a whole split, with a confidence interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import TaskError
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
    """A figure of merit: the mean of a score per sample, or one figure of a whole split such as mAP or mIoU.

    The functions get outputs and targets: arrays (N, ...) in the structures of network and data.
    """

    name: str
    per_sample: Callable[[Any, Any], Array] | None = None
    """To scores (N,)."""
    unit: MetricUnit | None = None
    """"share": from 0 to 1, told in percent and points; "number": told as it is. None: a share if the score of the
    unchanged network lies between 0 and 1."""
    over_split: Callable[..., float] | None = None
    """To one figure; instead of `per_sample`. The outputs of the whole split are in memory for it."""
    records: Callable[[Any, Any], list[Any]] | None = None
    """What `over_split` needs of each sample of a batch, such as its counts or matches: `over_split` then gets a list
    of them and nothing else. They are made once, however often samples are drawn, and outputs are not kept."""
    lower_is_better: bool = False
    """As of an error: what is maximised and told is then the figure times -1, called "minus" and its name."""
    resamples: int = 200
    """How often `over_split` is called for its 95 % interval, each time on samples drawn with replacement."""
    counts: bool = True
    """Whether scores that are all 0 or 1 count what is wrong and right, which gives Wilson's interval. False for a
    distance, where all samples can be at 1 and nothing follows about others."""
    pairs: bool = False
    """Whether `over_split` compares samples with one another, as in retrieval. One that is drawn twice would be found
    again, so resamples are halves of the split without replacement, whose spread is the same (Shao and Wu, A general
    theory for jackknife variance estimation, Ann. Stat. 17 (1989) 1176-1197)."""

    def __post_init__(self) -> None:
        if (self.per_sample is None) == (self.over_split is None):
            raise TaskError(f"the metric {self.name} must have one function: per_sample=... or over_split=...")
        if self.records and self.over_split is None:
            raise TaskError(f"the metric {self.name} must have over_split=..., a figure of what records=... returns")

    @property
    def title(self) -> str:
        """The name of what is maximised."""
        return f"minus {self.name}" if self.lower_is_better else self.name

    @property
    def functions(self) -> object:
        """What the user wrote: a function, or two."""
        return self.per_sample or ((self.records, self.over_split) if self.records else self.over_split)

    @property
    def _sign(self) -> float:
        return -1.0 if self.lower_is_better else 1.0

    def kept(self, outputs: Any, targets: Any) -> Any:
        """What a figure of the split needs of a batch: its records, else the batch itself."""
        from autocompress.tasks.interface import each  # loads torch

        return self.records(each(outputs, np.copy), each(targets, np.copy)) if self.records else (outputs, targets)

    def figure(self, kept: Any) -> float:
        """`over_split` of some samples (see `kept`), times -1 where lower is better."""
        from autocompress.tasks.interface import each

        assert self.over_split is not None
        given = (kept,) if self.records else each(kept, np.copy)
        return self._sign * float(self.over_split(*given))

    def split_score(self, kept: Any, split: Split) -> Score:
        """`figure` of all samples of a split (see `kept`), with the percentile interval of a bootstrap over samples.

        Resamples on which it is no number, as that of a class without samples, do not count.
        """
        from autocompress.tasks.interface import n_samples, take

        n, rng = n_samples(kept), np.random.default_rng(0)
        value, found = self.figure(kept), []
        for _ in range(self.resamples):
            rows = rng.permutation(n)[: n // 2] if self.pairs else rng.integers(n, size=n)
            found.append(self.figure(take(kept, rows)))
        drawn = np.asarray(found)[np.isfinite(found)]
        if not len(drawn):
            return Score(value=value, low=value, high=value, n_samples=n, split=split)
        drawn += value - drawn.mean() if self.pairs else 0.0  # fewer samples are easier to tell apart
        tails = (1 - _CONFIDENCE) / 2
        low, high = (float(x) for x in np.quantile(drawn, (tails, 1 - tails)))
        return Score(value=value, low=min(low, value), high=max(high, value), n_samples=n, split=split)

    def scores(self, outputs: Any, targets: Any) -> Array:
        """The score of each sample, times -1 where lower is better; the function gets copies."""
        from autocompress.tasks.interface import each  # loads torch

        assert self.per_sample is not None
        return np.asarray(self._sign * np.asarray(self.per_sample(each(outputs, np.copy), each(targets, np.copy))))

    def score(self, scores: Array, split: Split) -> Score:
        """Mean with its 95 % interval: Wilson's for 0/1 scores, else the percentile bootstrap.

        Reference: E. B. Wilson, JASA 22 (1927) 209-212.
        """
        from scipy import stats

        scores = np.asarray(scores, dtype=np.float64)
        mean, n = float(scores.mean()), len(scores)
        if self.counts and np.isin(scores, (0.0, 1.0)).all():
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
