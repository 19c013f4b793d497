"""The front as a table for the terminal, and the study in a few honest sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table
from rich.text import Text

from autocompress.report.against import alternative, difference_text, fastest_within, ratios_text, tolerance
from autocompress.report.formatting import (
    accuracy_text,
    compare,
    description,
    is_percentage,
    limits,
    mj_text,
    ms_text,
    plural,
    size_text,
)
from autocompress.studies.choice import Rule, difference
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks.kind import of_study


@dataclass(frozen=True)
class Row:
    """One line of the front table, in words."""

    trial: int
    mark: str
    recipe: str
    accuracy: str
    """On the study's `split`, like the accuracy in `versus`."""
    latency: str
    source: str
    worst_case: str
    size: str
    memory: str
    energy: str
    versus: str


def front_rows(study: Study) -> list[Row]:
    """Return the baselines, then the points of the front from fast to slow, in words."""
    on_front = {e.trial for e in study.front}
    shown = [*study.baselines, *(e for e in study.front if e.kind == "candidate")]
    return [_row(study, e, e.trial in on_front) for e in shown]


def _row(study: Study, e: Evaluation, on_front: bool) -> Row:
    base, percent, score = study.reference, is_percentage(study), e.score_on(study.split)
    mark = "front" if e.kind == "candidate" else "baseline, front" if on_front else "baseline"
    versus = compare(e, base, percent, study.split)
    text = versus.text() if versus else "the reference" if base and e.trial == base.trial else ""
    return Row(
        trial=e.trial,
        mark=mark,
        recipe=description(e),
        accuracy=accuracy_text(score, percent) if score else e.reason or f"no {study.split} score",
        latency=ms_text(e.latency_ms) if e.latency_ms is not None else "",
        source=e.latency_source if e.latency_ms is not None else "",
        worst_case=ms_text(e.worst_case_latency_ms) if e.exits and e.worst_case_latency_ms else "",
        size=size_text(e.size_bytes) if e.size_bytes is not None else "",
        memory=size_text(e.peak_memory_bytes) if e.peak_memory_bytes is not None else "",
        energy=mj_text(e.energy_mj) if e.energy_mj is not None else "",
        versus=text,
    )


def front_table(study: Study) -> Table:
    """Return the baselines and the front as a table: accuracies of one split, latencies with their source."""
    rows = front_rows(study)
    settings = study.settings
    table = Table(
        title=Text(f"{settings.task_name} on {settings.device['name']}"),
        caption=Text(f"{settings.metric} on the {study.split} split with its 95 % interval; ratios refer to fp32"),
    )
    table.add_column("trial", justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("recipe", overflow="fold", min_width=12)
    table.add_column(Text(f"{settings.metric}\n{study.split}"), justify="right", min_width=14)
    table.add_column("latency", justify="right")
    exits = any(row.worst_case for row in rows)
    if exits:
        table.add_column("worst case", justify="right")
    table.add_column("size", justify="right", no_wrap=True)
    memory, energy = any(row.memory for row in rows), any(row.energy for row in rows)
    if memory:
        table.add_column("memory", justify="right", no_wrap=True)
    if energy:
        table.add_column("energy", justify="right", no_wrap=True)
    table.add_column("against fp32")
    for i, row in enumerate(rows):
        value, _, interval = row.accuracy.partition(" [")
        accuracy = f"{value}\n[{interval}" if interval else value
        cells = [str(row.trial), row.mark, row.recipe, accuracy]
        cells += [f"{row.latency}\n{row.source}".strip()]
        cells += [f"{row.worst_case}\n{row.source if row.worst_case else ''}".strip()] if exits else []
        cells += [row.size] + [row.memory] * memory + [row.energy] * energy + [row.versus]
        last_baseline = "baseline" in row.mark and i + 1 < len(rows) and "baseline" not in rows[i + 1].mark
        style = "bold" if "baseline" in row.mark else None
        table.add_row(*(Text(cell) for cell in cells), style=style, end_section=last_baseline)
    return table


def headline(study: Study) -> list[str]:
    """Say what the study found, and what it did not, in a few sentences."""
    return [*_best_trade(study), *_front(study), *_progress(study), *_latency(study), *_warnings(study)]


def _progress(study: Study) -> list[str]:
    judged = [e for e in study.candidates if not e.is_repeat]
    repeats = len(study.candidates) - len(judged)
    count = {s: sum(e.state == s for e in judged) for s in ("complete", "rejected", "failed")}
    sentence = (
        f"{plural(len(judged), 'candidate')} judged: {count['complete']:,} completed, "
        f"{count['rejected']:,} rejected before training on predicted figures, {count['failed']:,} failed."
    )
    if repeats:
        sentence += f" {plural(repeats, 'further proposal')} gave the same file as an earlier one."
    if study.final:
        return [sentence]
    return [
        sentence,
        "The search is not finished: all scores are from the validation split, which the search selects on, so the "
        "best ones are optimistic; there is no test score yet.",
    ]


def _front(study: Study) -> list[str]:
    if not len(study.front):
        return ["Nothing was completed yet, so there is no front."]
    candidates = [e for e in study.front if e.kind == "candidate"]
    front = f"The front has {plural(len(study.front), 'point')} ({plural(len(candidates), 'candidate')}"
    front += f", {plural(len(study.front) - len(candidates), 'baseline')})."
    return [front, *_against_baselines(study), *_constraints(study)]


def _against_baselines(study: Study) -> list[str]:
    names = ", ".join(b.label for b in study.baselines if b.state == "complete")
    if not names:
        return ["No baseline was completed to compare the front with."]
    winners = study.beats_all_baselines()
    if not winners:
        return [
            f"Nothing beats the baselines ({names}): no point is as accurate ({study.split} split), as fast and as "
            "small as all of them at once; each one is a trade."
        ]
    verb = "is" if len(winners) == 1 else "are"
    return [
        f"{plural(len(winners), 'point')} of the front ({_trials(winners)}) {verb} at least as accurate ({study.split} "
        f"split), fast and small as every baseline ({names})."
    ]


def _trials(points: Sequence[Evaluation]) -> str:
    return "trial " + ", ".join(str(e.trial) for e in points[:8]) + (", ..." if len(points) > 8 else "")


def _constraints(study: Study) -> list[str]:
    fixed = limits(study)
    if not fixed:
        return []
    accuracy = [limit.text for limit in fixed if limit.constraint.quantity == "accuracy"]
    listed = "; ".join(f"{x.text} on the validation split" if x.text in accuracy else x.text for x in fixed)
    if not study.constraints_met:
        return [f"No point keeps all constraints ({listed}): the front is that of all points."]
    said = [f"All points of the front keep the constraints ({listed})."]
    if accuracy and study.split == "test":
        said.append(_kept_on_test(study))
    return said


def _kept_on_test(study: Study) -> str:
    """How many points keep the limits of accuracy on the split that nothing was chosen on."""
    base = study.reference
    assert base is not None and base.test is not None
    scored = [(e, e.test.value) for e in study.front if e.test]
    bars = [
        base.test.value - c.limit if c.relative_to_baseline else c.limit
        for c in study.settings.constraints
        if c.quantity == "accuracy" and c.sense == "at least"
    ]
    lost = [e for e, value in scored if any(value < bar for bar in bars)]
    words = f": not {_trials(lost)}" if lost else ""
    return f"On the test split {len(scored) - len(lost)} of {len(scored)} keep the limit of accuracy{words}."


def _best_trade(study: Study) -> list[str]:
    """The fastest point near the accuracy of fp32; what is said of it is of one split."""
    base, percent = study.reference, is_percentage(study)
    if base is None or base.validation is None:
        return []
    best = fastest_within(study, tolerance(study))
    bound = "1 point" if percent else "1 %"
    if best is None:
        return [f"No candidate of the front is faster than fp32 and within {bound} of it (validation split)."]
    versus, rule = compare(best, base, percent), Rule("fastest", max_drop=tolerance(study), faster=True)
    found = difference(study, best, rule)
    assert versus is not None and found is not None
    said = [f"Recommended: trial {best.trial}, {ratios_text(versus)}, {difference_text(found, percent)}."]
    if found.split == "test":
        said.append(f"It was chosen as the fastest point within {bound} of fp32 on the validation split.")
        if found.value < -tolerance(study):
            said.append(f"On the test split it loses more than {bound}{_instead(study, best)}.")
    return said


def _instead(study: Study, lost: Evaluation) -> str:
    base, percent = study.reference, is_percentage(study)
    other = alternative(study, "fastest", tolerance(study))
    versus = compare(other, base, percent, study.split) if other else None
    if other is None or versus is None or other.trial == lost.trial:
        return "; no faster candidate of the front loses less"
    return f"; the fastest that does not is trial {other.trial}: {versus.text()}"


def _latency(study: Study) -> list[str]:
    pairs = [
        (e.predicted_latency_ms, e.measured_latency_ms)
        for e in study.evaluations
        if e.state == "complete" and e.predicted_latency_ms and e.measured_latency_ms
    ]
    device = study.settings.device
    if pairs:
        errors = [abs(predicted / measured - 1) for predicted, measured in pairs]
        near = sum(error <= 0.1 for error in errors)
        return [
            f"Predicted against measured latency on {device['name']}: median error {median(errors):.1%}, "
            f"{near} of {len(errors)} within 10 %."
        ]
    if not any(e.state == "complete" for e in study.evaluations):
        return []
    error = (device.get("calibration") or {}).get("p90_error")
    known = f", expected error +-{error:.0%} (90th percentile)" if isinstance(error, (int, float)) else ""
    return [f"All latencies are predicted for {device['name']}{known}; nothing was measured on the device yet."]


def _warnings(study: Study) -> list[str]:
    base = study.reference
    sentences = []
    if base is not None:
        slower = [e for e in study.front if e.kind == "candidate" and e.objectives()[1] >= base.objectives()[1]]
        if slower:
            trials = ", ".join(str(e.trial) for e in slower[:8])
            count = plural(len(slower), "candidate")
            sentences.append(f"Not faster than fp32: {count} of the front (trial {trials}).")
    off = [e for e in study.front if e.parity is not None and e.parity < 0.99]
    if off:
        trials = ", ".join(f"{e.trial} ({1 - (e.parity or 0):.1%})" for e in off[:8])
        what = of_study(study.settings.task_kind).differs
        sentences.append(f"The file {what} in trial {trials}; scores are those of the files.")
    return sentences
