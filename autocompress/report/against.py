"""What a point costs against fp32, in one sentence of one split, and what a pick that costs too much is answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

from autocompress.errors import ConstraintError
from autocompress.report.formatting import (
    Comparison,
    compare,
    is_percentage,
    ms_text,
    plural,
    points_text,
    ratio_text,
    signed,
)
from autocompress.studies.choice import Difference, Rule, difference
from autocompress.studies.constraints import Constraint, Quantity, at_least, at_most
from autocompress.studies.front import ParetoFront, Pick
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study

TOLERANCE = 0.01
"""Loss that is no news: one point where the metric is a share, else 1 % of the score of fp32."""


def tolerance(study: Study) -> float:
    """`TOLERANCE` in the unit of the metric."""
    base = study.reference
    return (
        TOLERANCE
        if base is None or base.validation is None or is_percentage(study)
        else abs(TOLERANCE * base.validation.value)
    )


def allowed_drop(study: Study) -> float:
    """The loss that the search allowed, or `tolerance` where it named none."""
    named = [c.limit for c in study.settings.constraints if c.quantity == "accuracy" and c.relative_to_baseline]
    return min(named, default=tolerance(study))


def fastest_within(study: Study, max_drop: float) -> Evaluation | None:
    """The fastest candidate of the front that is faster than fp32 and lost at most so much (validation split)."""
    base = study.reference
    if base is None or base.validation is None:
        return None
    bar = base.validation.value - max_drop - 1e-9
    near = [
        e
        for e in study.front
        if e.kind == "candidate"
        and e.objectives()[1] < base.objectives()[1]
        and e.objectives()[0] - e.threshold_optimism >= bar
    ]
    return ParetoFront(near).select("fastest") if near else None


def alternative(study: Study, pick: Pick, max_drop: float) -> Evaluation | None:
    """What `pick` names among the candidates of the front that lose at most so much on the study's split."""
    base = study.reference
    theirs = base.score_on(study.split) if base else None
    if base is None or theirs is None:
        return None
    near = [
        e
        for e in study.front
        if e.kind == "candidate" and (mine := e.score_on(study.split)) and mine.value >= theirs.value - max_drop - 1e-9
    ]
    if pick == "fastest":
        near = [e for e in near if e.objectives()[1] < base.objectives()[1]]
    return ParetoFront(near).select(pick) if near else None


def ratios_text(versus: Comparison) -> str:
    """Speed and size against fp32, such as "5.2x faster (measured) and 12.1x smaller than fp32"."""
    parts = [f"{ratio_text(versus.speedup, 'faster', 'slower')} ({versus.source})"] if versus.speedup else []
    parts += [ratio_text(versus.shrink, "smaller", "larger")] if versus.shrink else []
    return f"{' and '.join(parts)} than fp32"


def difference_text(found: Difference, percent: bool) -> str:
    """The difference of the metric with its interval and where it is from; of one split."""
    unit, form = (100.0, "+.1f") if percent else (1.0, "+.3g")
    value = points_text(found.value, percent)
    interval = "no interval known"
    if found.interval:
        interval = "95 % interval {} to {}".format(*(signed(unit * x, form) for x in found.interval))
    if found.corrected:
        return f"{value} expected on new data ({interval}; from the validation split, corrected for the choice)"
    caution = "" if found.split == "test" else ", not corrected for the choice"
    return f"{value} on the {found.split} split ({interval}{caution})"


def costs_text(study: Study, point: Evaluation, rule: Rule | None = None) -> str:
    """What a point costs against fp32: metric, latency, size; empty without a baseline or for fp32 itself."""
    percent = is_percentage(study)
    versus, found = compare(point, study.reference, percent), difference(study, point, rule)
    if versus is None or found is None:
        return ""
    return f"{study.settings.metric} {difference_text(found, percent)}; {ratios_text(versus)}"


def pick_point(
    study: Study, pick: str | None, max_drop: float | None, limits: Mapping[str, float | None]
) -> tuple[Evaluation, Rule]:
    """Choose a point of the front, and say by which rule.

    Args:
        study: with its front.
        pick: as in `ParetoFront.select`.
        max_drop: largest loss against fp32; by default `allowed_drop`, which limits no choice but what is told.
        limits: the other arguments of `ParetoFront.select`.

    Raises:
        ConstraintError: nothing meets the limits; or the point is slower than fp32 and was to be the fastest, or it
            surely loses more than is allowed. The message says what it costs and names another one.
    """
    values = dict(limits)
    base = study.reference
    if max_drop is not None and base is not None and base.validation is not None:
        bar = base.validation.value - max_drop - 1e-9
        least = values.get("min_accuracy")
        values["min_accuracy"] = bar if least is None else max(bar, least)
    point = study.front.select(pick, **values)  # type: ignore[arg-type]
    rule = Rule(pick or "most-accurate", max_drop, _constraints(limits))  # type: ignore[arg-type]
    if reason := refusal(study, point, rule, allowed_drop(study) if max_drop is None else max_drop):
        raise ConstraintError(reason)
    return point, rule


def _constraints(limits: Mapping[str, float | None]) -> tuple[Constraint, ...]:
    names: dict[str, Quantity] = {
        "max_latency_ms": "latency_ms",
        "max_size_bytes": "size_bytes",
        "max_memory_bytes": "peak_memory_bytes",
        "max_energy_mj": "energy_mj",
    }
    found = [at_most(names[name], value) for name, value in limits.items() if name in names and value]
    least = limits.get("min_accuracy")
    return (*found, *([at_least("accuracy", least)] if least is not None else []))


def refusal(study: Study, point: Evaluation, rule: Rule, max_drop: float) -> str:
    """Why a pick needs a confirmation, or nothing: no faster than fp32, or surely beyond the allowed loss."""
    base = study.reference
    if base is None or point.trial == base.trial:
        return ""
    if rule.pick == "fastest" and point.kind == "candidate" and point.objectives()[1] >= base.objectives()[1]:
        return (
            f"no candidate of the front is faster than fp32 ({ms_text(base.objectives()[1])}): the fastest, trial "
            f"{point.trial}, takes {ms_text(point.objectives()[1])}; to have it all the same: --trial {point.trial}"
        )
    found = difference(study, point, rule)
    if found is None or (found.interval[1] if found.interval else found.value) >= -max_drop:
        return ""
    loss = max(-found.value, base.objectives()[0] - point.objectives()[0])  # the option refers to validation
    return (
        f"{rule.pick} is trial {point.trial}: {_beyond(study, found, max_drop)}; {_other(study, rule.pick, max_drop)}"
        f"or accept the loss: --max-accuracy-drop {_round_up(loss):g}"
    )


def loss_text(study: Study, point: Evaluation, rule: Rule | None, max_drop: float | None) -> str:
    """That a point loses more than is allowed, and what loses less; empty if it does not."""
    limit = allowed_drop(study) if max_drop is None else max_drop
    found = difference(study, point, rule) if point.state == "complete" else None
    if found is None or found.value >= -limit - 1e-9:
        return ""
    other = _other(study, rule.pick if rule else "fastest", limit).rstrip("; ")
    return f"trial {point.trial} loses more than allowed: {_beyond(study, found, limit)}; {other}"


def _beyond(study: Study, found: Difference, max_drop: float) -> str:
    percent = is_percentage(study)
    limit = plural_points(round(100 * max_drop, 6)) if percent else f"{max_drop:.3g}"
    return f"{difference_text(found, percent)}, where {limit} may be lost"


def _round_up(loss: float) -> float:
    """To two digits, never below the loss."""
    step = 10.0 ** (math.floor(math.log10(loss)) - 1)
    return math.ceil(loss / step - 1e-9) * step


def _other(study: Study, pick: Pick, max_drop: float) -> str:
    other = alternative(study, pick, max_drop)
    versus = compare(other, study.reference, is_percentage(study), study.split) if other else None
    if other is None or versus is None:
        return f"no candidate of the front loses less ({study.split} split); "
    return f"take instead trial {other.trial} ({versus.text()}; {versus.basis()}): --trial {other.trial}; "


def plural_points(points: float) -> str:
    """Return "1 point", "0.5 points"."""
    return plural(1, "point") if points == 1 else f"{points:g} points"


def ship_option(study: Study) -> str:
    """The option of `export` for a point worth having: the first pick that is not refused, else a trial."""
    limit = allowed_drop(study)
    for pick in get_args(Pick) if len(study.front) else ():
        if not refusal(study, study.front.select(pick), Rule(pick), limit):
            return f"--pick {pick}"
    best = fastest_within(study, limit) or study.reference
    return f"--trial {best.trial}" if best else "--pick most-accurate"
