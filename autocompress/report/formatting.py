"""How figures of a study are put into words: the same for the terminal, the plots and the HTML report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from autocompress.studies.constraints import Constraint
from autocompress.studies.results import Evaluation, LatencySource
from autocompress.studies.study import Study
from autocompress.tasks.metric import Score, Split


def is_percentage(study: Study) -> bool:
    """Whether the metric is a share, shown in percent: as the task says, else by the fp32 baseline alone."""
    if study.settings.metric_unit:
        return study.settings.metric_unit == "share"
    base = study.reference
    return base is None or base.validation is None or 0.0 <= base.validation.value <= 1.0


def accuracy_text(score: Score, percent: bool) -> str:
    """Return the value and its 95 % interval, such as "93.4 % [92.1, 94.6]", or "[no interval known]"."""
    value = f"{100 * score.value:.2f} %" if percent else f"{score.value:.4g}"
    if score.interval is None:
        return f"{value} [no interval known]"
    low, high = (f"{100 * x:.2f}" if percent else f"{x:.4g}" for x in score.interval)
    return f"{value} [{low}, {high}]"


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


@dataclass(frozen=True)
class Comparison:
    """One evaluation against the fp32 baseline; only figures of the same split and source are compared."""

    speedup: float | None
    source: LatencySource | None
    shrink: float | None
    gained: float | None
    """Difference of the metric."""
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
        if self.gained is not None:
            parts.append(points_text(self.gained, self.percent))
        elif self.speedup is not None or self.shrink is not None:
            parts.append("accuracy not scored")
        return ", ".join(parts)

    def basis(self) -> str:
        """Return the split and the source of the compared figures, such as "test, measured"."""
        return ", ".join(word for word in (self.split, self.source) if word)


def compare(
    evaluation: Evaluation, base: Evaluation | None, percent: bool, split: Split | None = None
) -> Comparison | None:
    """Compare with the fp32 baseline; None without one, or for the baseline itself.

    Args:
        evaluation: what is compared.
        base: the fp32 baseline.
        percent: whether the metric is a share.
        split: of the scores; by default the test split where both were scored there, else validation.
    """
    if base is None or base.trial == evaluation.trial or evaluation.state != "complete":
        return None
    speedup, source = _speedup(evaluation, base)
    split = split or ("test" if evaluation.test and base.test else "validation")
    mine, theirs = evaluation.score_on(split), base.score_on(split)
    shrink = base.size_bytes / evaluation.size_bytes if base.size_bytes and evaluation.size_bytes else None
    if mine is None or theirs is None:
        return Comparison(speedup, source, shrink, None, None, False, percent)
    return Comparison(speedup, source, shrink, mine.value - theirs.value, mine.split, mine.overlaps(theirs), percent)


def _speedup(evaluation: Evaluation, base: Evaluation) -> tuple[float | None, LatencySource | None]:
    if evaluation.measured_latency_ms and base.measured_latency_ms:
        return base.measured_latency_ms / evaluation.measured_latency_ms, "measured"
    if evaluation.predicted_latency_ms and base.predicted_latency_ms:
        return base.predicted_latency_ms / evaluation.predicted_latency_ms, "predicted"
    return None, None


def points_text(difference: float, percent: bool, digits: int = 1) -> str:
    """Return a difference of the metric, such as "+0.4 points"; `digits` after the point where it is a share."""
    return f"{signed(100 * difference, f'+.{digits}f')} points" if percent else signed(difference, "+.3g")


def signed(value: float, form: str) -> str:
    """Format a difference; what rounds to zero is "+0.0", never "-0.0"."""
    text = format(value, form)
    return text if any(digit in text for digit in "123456789") else text.replace("-", "+")


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


def reasons(study: Study) -> list[tuple[str, str, int, list[int]]]:
    """Return state, reason, count and first trials of what was rejected or failed.

    Reasons that differ in their numbers only are counted as one.
    """
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], tuple[str, list[int]]] = {}
    for e in study.evaluations:
        if e.state == "complete":
            continue
        first_line = (e.reason or "no reason given").strip().splitlines()[0]
        key = (e.state, "".join("#" if c.isdigit() else c for c in first_line).replace("##", "#"))
        counts[key] += 1
        examples.setdefault(key, (first_line, []))[1].append(e.trial)
    return [(key[0], examples[key][0], n, examples[key][1][:12]) for key, n in counts.most_common()]
