"""Choosing a point of a study by its validation scores, and what the chosen one costs against fp32 on other data.

Of many points the one that looks best has been lucky, too: its validation score flatters. How much is learned by
repeating the choice: the validation samples are split into halves at random, again and again; the point is chosen on
one half and scored on the other. Such a difference of two halves of n / 2 samples has twice the variance of that
between this split and another one of n samples, so it is divided by the square root of two.

Reference: M. Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", JRSS B 36 (1974) 111-147.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autocompress.studies.constraints import Constraint, met_by
from autocompress.studies.front import Pick, best_of
from autocompress.studies.results import Evaluation
from autocompress.studies.sample_scores import read_sample_scores
from autocompress.studies.study import Study
from autocompress.tasks.metric import Score, Split

Array = NDArray[np.float64]
_SPLITS = 200
_Z = 1.96
_EXACT = 1e-9
_PLAUSIBLE = 4.0
"""Points that another one dominates by this many half-widths of an interval are chosen on no half."""


@dataclass(frozen=True)
class Difference:
    """The metric of a point minus that of fp32, on one split."""

    value: float
    interval: tuple[float, float] | None
    """95 %; None where none is known."""
    split: Split
    corrected: bool = False
    """Of a validation score: whether having chosen the point by it is allowed for. The interval is then that of the
    difference on another split of as many samples."""


@dataclass(frozen=True)
class Rule:
    """How a point is chosen: of the front's points within the limits, the one that `pick` names."""

    pick: Pick
    max_drop: float | None = None
    """Metric below that of fp32 at most."""
    limits: tuple[Constraint, ...] = ()
    """With absolute limits."""
    faster: bool = False
    """Only candidates that are faster than fp32."""


def difference(study: Study, point: Evaluation, rule: Rule | None = None) -> Difference | None:
    """What a point costs against fp32: on the test split where both were scored there, else on validation.

    Args:
        study: with its fp32 baseline.
        point: complete.
        rule: by which it was chosen, to correct its validation score for that.
    """
    base = study.reference
    if base is None:
        return None
    if base.test and point.test:
        return _paired(study, point, base, point.test, base.test)
    pool = Pool.of(study) if rule is not None else None
    if rule is not None and pool is not None and (found := pool.expected(rule, point.trial)) is not None:
        return found
    if base.validation and point.validation:
        return _paired(study, point, base, point.validation, base.validation)
    return None


def _paired(study: Study, point: Evaluation, base: Evaluation, mine: Score, theirs: Score) -> Difference:
    """Sample by sample where the scores are kept, else from the two intervals as if they were independent."""
    gap, split = mine.value - theirs.value, mine.split
    kept = [read_sample_scores(study.path, str(e.artifact), split) for e in (point, base)]
    if kept[0] is not None and kept[1] is not None and len(kept[0]) == len(kept[1]):
        return Difference(gap, paired_interval(kept[0] - kept[1]), split)
    if mine.interval is None or theirs.interval is None:
        return Difference(gap, None, split)
    half = float(np.hypot(np.ptp(mine.interval), np.ptp(theirs.interval))) / 2
    return Difference(gap, (gap - half, gap + half), split)


def paired_interval(differences: Array) -> tuple[float, float] | None:
    """95 % interval of the mean of differences per sample, shape (N,); None if it would have a width of zero.

    Differences of 0/1 scores get one more sample for and one against, so that no interval has a width of zero (D. G.
    Bonett and R. M. Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired
    Data", J. Educ. Behav. Stat. 37 (2012) 479-488); others are taken as normal.
    """
    if np.isin(differences, (-1.0, 0.0, 1.0)).all():
        differences = np.append(differences, (1.0, -1.0))
    mean, half = float(differences.mean()), _Z * float(differences.std()) / len(differences) ** 0.5
    return (mean - half, mean + half) if half else None


@dataclass(frozen=True)
class Pool:
    """The points that a choice is made among, with the scores of all validation samples."""

    points: tuple[Evaluation, ...]
    """Fastest first."""
    scores: Array
    """Of each point on each sample, shape (points, samples)."""
    base: int
    """Index of fp32."""
    constraints: tuple[Constraint, ...] = ()
    """Those of the study, as given: relative ones refer to fp32 on the samples that a choice is made on."""
    _masks: dict[tuple[Constraint, ...], NDArray[np.bool_]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, study: Study) -> Pool | None:
        """The pool of a study; None if it has no fp32 baseline or keeps no scores of samples."""
        base = study.reference
        if base is None or base.validation is None:
            return None
        kept: list[tuple[Evaluation, Array]] = []
        for point in sorted(_plausible(study, base), key=lambda e: (e.latency_ms or 0.0, e.trial)):
            scores = read_sample_scores(study.path, str(point.artifact), "validation")
            if scores is not None and len(scores) == base.validation.n_samples:
                kept.append((point, scores))
        trials = [point.trial for point, _ in kept]
        if base.trial not in trials:
            return None
        scores = np.stack([scores for _, scores in kept])
        return cls(tuple(p for p, _ in kept), scores, trials.index(base.trial), study.settings.constraints)

    @cached_property
    def _costs(self) -> Array:
        return np.array([point.objectives()[1:] for point in self.points])

    @cached_property
    def _flattery(self) -> Array:
        """By how much the thresholds of each point's exits were fitted to the validation split."""
        return np.array([point.threshold_optimism for point in self.points])

    def choose(self, rule: Rule, accuracy: Array) -> int | None:
        """Index of the point that the rule chooses where these are the accuracies; None if none keeps its limits."""
        front = self._front(accuracy)
        base = accuracy[self.base]
        if rule.max_drop is not None:
            front = front[accuracy[front] >= base - rule.max_drop - _EXACT]
        if rule.faster:
            front = front[[self.points[i].kind == "candidate" for i in front]]
            front = front[self._costs[front, 0] < self._costs[self.base, 0]]
        front = self._within(rule.limits, front, accuracy)
        if not len(front):
            return None
        return int(front[best_of(np.column_stack([accuracy, self._costs])[front], rule.pick)])

    def _front(self, accuracy: Array) -> NDArray[np.intp]:
        every = np.arange(len(self.points))
        allowed = self._within(self.constraints, every, accuracy)
        if not len(allowed):
            allowed = every
        values = np.column_stack([-accuracy, self._costs])[allowed]
        no_worse = (values[:, None] <= values[None]).all(-1)
        return allowed[~(no_worse & ~no_worse.T).any(0)]

    def _within(
        self, constraints: tuple[Constraint, ...], indices: NDArray[np.intp], accuracy: Array
    ) -> NDArray[np.intp]:
        indices = indices[self._affordable(constraints)[indices]]
        for c in constraints:
            if c.quantity == "accuracy":
                limit = accuracy[self.base] - c.limit if c.relative_to_baseline else c.limit
                above = accuracy[indices] - limit
                indices = indices[(above if c.sense == "at least" else -above) >= -_EXACT]
        return indices

    def _affordable(self, constraints: tuple[Constraint, ...]) -> NDArray[np.bool_]:
        """Which points keep the constraints on latency, size and the like."""
        if constraints not in self._masks:
            fixed = [c.resolve(self.points[self.base]) for c in constraints if c.quantity != "accuracy"]
            self._masks[constraints] = np.array([met_by(point, fixed) for point in self.points], bool)
        return self._masks[constraints]

    def expected(self, rule: Rule, trial: int | None = None) -> Difference | None:
        """The difference to fp32 that the chosen point will show on other data, corrected for the choice.

        Args:
            rule: how it is chosen.
            trial: the point that was chosen, if not by the rule itself.
        """
        accuracy = self.scores.mean(1) - self._flattery
        trials = [point.trial for point in self.points]
        chosen = self.choose(rule, accuracy) if trial is None else trials.index(trial) if trial in trials else None
        if chosen is None:
            return None
        gaps = self.gaps(rule)
        if not len(gaps):
            return None
        found = float(accuracy[chosen] - accuracy[self.base])
        low, high = found - np.quantile(gaps, (0.975, 0.025))
        return Difference(found - float(gaps.mean()), (float(low), float(high)), "validation", corrected=True)

    def gaps(self, rule: Rule) -> Array:
        """By how much the chosen point's difference to fp32 shrinks from the samples it was chosen on to others.

        One value per half on which something could be chosen, scaled to splits of the size of this one.
        """
        gaps = []
        for mine, others in self._half_means:
            chosen = self.choose(rule, mine)
            if chosen is not None:
                gaps.append((mine[chosen] - mine[self.base]) - (others[chosen] - others[self.base]))
        return np.array(gaps) / 2**0.5

    @cached_property
    def _half_means(self) -> list[tuple[Array, Array]]:
        """Mean scores of all points on random halves and on the other halves."""
        rng, n = np.random.default_rng(0), self.scores.shape[1]
        picked = np.zeros((n, _SPLITS // 2), np.float32)
        for column in picked.T:
            column[rng.permutation(n)[: n // 2]] = 1
        sums = (self.scores.astype(np.float32) @ picked).astype(np.float64)
        mine = sums / max(1, n // 2) - self._flattery[:, None]
        others = (self.scores.sum(1, keepdims=True) - sums) / max(1, n - n // 2) - self._flattery[:, None]
        pairs = [(a, b) for a, b in zip(mine.T, others.T, strict=True)]
        return [*pairs, *((b, a) for a, b in pairs)]


def _plausible(study: Study, base: Evaluation) -> list[Evaluation]:
    """Without those that another point is so far ahead of that no half of the samples puts them on the front."""
    points, costs = study.comparable, [c for c in study.constraints if c.quantity != "accuracy"]
    rivals = [point.objectives() for point in points if met_by(point, costs)]  # others push nothing off the front
    values = np.array(rivals).reshape(-1, 3)
    widths = [point.validation.high - point.validation.low if point.validation else 0.0 for point in points]
    found = []
    for point, width in zip(points, widths, strict=True):
        accuracy, latency, size = point.objectives()
        ahead = (values[:, 0] > accuracy + _PLAUSIBLE * width / 2) & (values[:, 1] <= latency) & (values[:, 2] <= size)
        if point.trial == base.trial or not ahead.any():
            found.append(point)
    return found
