"""How figures of a study are put into words: the same for the terminal, the plots and the HTML report."""

from __future__ import annotations

from dataclasses import dataclass

from autocompress.constraints import Constraint
from autocompress.results import Evaluation, LatencySource, Score, Split
from autocompress.study import Study


def is_percentage(study: Study) -> bool:
    """Whether the metric is shown in percent: all its values lie between 0 and 1."""
    scores = [s.value for e in study.evaluations for s in (e.validation, e.test) if s]
    return all(0.0 <= value <= 1.0 for value in scores)


def accuracy_text(score: Score, percent: bool) -> str:
    """Return the value and its 95 % interval, such as "93.4 % [92.1, 94.6]"."""
    if percent:
        return f"{100 * score.value:.2f} % [{100 * score.low:.2f}, {100 * score.high:.2f}]"
    return f"{score.value:.4g} [{score.low:.4g}, {score.high:.4g}]"


def ms_text(value: float) -> str:
    """Milliseconds with three significant digits."""
    return f"{value:,.0f} ms" if value >= 100 else f"{float(f'{value:.3g}'):g} ms"


def size_text(size: float) -> str:
    """Bytes in decimal units: 1 kB is 1,000 bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 100 * factor else f"{size / factor:,.0f} {unit}"
    return f"{size:.0f} B"


def mj_text(value: float) -> str:
    """Millijoules with three significant digits."""
    return f"{value:,.0f} mJ" if value >= 100 else f"{float(f'{value:.3g}'):g} mJ"


def plural(count: int, noun: str) -> str:
    """Return the count with its noun: "1 point", "2 points"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def description(evaluation: Evaluation) -> str:
    """Return the label of a baseline, the summary of the recipe otherwise."""
    if evaluation.kind == "baseline":
        return evaluation.label
    return evaluation.label or evaluation.recipe.summary()


def reference(study: Study) -> Evaluation | None:
    """Return the completed fp32 baseline that ratios refer to, or None."""
    return next((b for b in study.baselines if b.label == "fp32" and b.state == "complete"), None)


@dataclass(frozen=True)
class Comparison:
    """One evaluation against the fp32 baseline; only figures of the same split and source are compared."""

    speedup: float | None
    source: LatencySource | None
    shrink: float | None
    points: float | None
    """Difference of the metric; in points (hundredths) where the metric is a share."""
    split: Split | None
    overlap: bool
    """Whether the 95 % intervals of the two scores overlap."""
    percent: bool

    def text(self) -> str:
        """Return the ratios, such as "5.2x faster, 12.1x smaller, -0.6 points"."""
        parts = []
        if self.speedup is not None:
            parts.append(ratio_text(self.speedup, "faster", "slower"))
        if self.shrink is not None:
            parts.append(ratio_text(self.shrink, "smaller", "larger"))
        if self.points is not None:
            parts.append(f"{self.points:+.1f} points" if self.percent else f"{self.points:+.3g}")
        return ", ".join(parts)

    def basis(self) -> str:
        """Return the split and the source of the compared figures, such as "test, measured"."""
        return ", ".join(word for word in (self.split, self.source) if word)


def compare(evaluation: Evaluation, base: Evaluation | None, percent: bool) -> Comparison | None:
    """Compare with the fp32 baseline; None without one, or for the baseline itself."""
    if base is None or base.trial == evaluation.trial or evaluation.state != "complete":
        return None
    speedup, source = _speedup(evaluation, base)
    mine, theirs = evaluation.validation, base.validation
    if evaluation.test and base.test:
        mine, theirs = evaluation.test, base.test
    shrink = base.size_bytes / evaluation.size_bytes if base.size_bytes and evaluation.size_bytes else None
    if mine is None or theirs is None:
        return Comparison(speedup, source, shrink, None, None, False, percent)
    points = (mine.value - theirs.value) * (100 if percent else 1)
    overlap = mine.low <= theirs.high and theirs.low <= mine.high
    return Comparison(speedup, source, shrink, points, mine.split, overlap, percent)


def _speedup(evaluation: Evaluation, base: Evaluation) -> tuple[float | None, LatencySource | None]:
    if evaluation.measured_latency_ms and base.measured_latency_ms:
        return base.measured_latency_ms / evaluation.measured_latency_ms, "measured"
    if evaluation.predicted_latency_ms and base.predicted_latency_ms:
        return base.predicted_latency_ms / evaluation.predicted_latency_ms, "predicted"
    return None, None


def ratio_text(ratio: float, better: str, worse: str) -> str:
    """Return a ratio in words, such as "5.2x faster"."""
    word, value = (better, ratio) if ratio >= 1 else (worse, 1 / ratio)
    if value < 1.005:
        return f"not {better}"
    digits = f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 1.05 else f"{value:.2f}"
    return f"{digits}x {word}"


@dataclass(frozen=True)
class Limit:
    """A constraint of the study with its absolute limit: a line in the plots."""

    constraint: Constraint
    text: str
    """As the user gave it."""


def limits(study: Study) -> list[Limit]:
    """Return the constraints as absolute limits; none as long as the fp32 baseline is missing."""
    texts = map(str, study.settings.constraints)
    return [Limit(constraint, text) for constraint, text in zip(study.constraints, texts, strict=False)]
