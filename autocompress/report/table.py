"""The front as a table for the terminal, and the study in a few honest sentences."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from rich.table import Table
from rich.text import Text

from autocompress.report._words import (
    accuracy_text,
    compare,
    description,
    is_percentage,
    limits,
    mj_text,
    ms_text,
    plural,
    reference,
    size_text,
)
from autocompress.results import Evaluation
from autocompress.study import Study

TOLERANCE_POINTS = 1.0
"""Loss, in points, up to which the headline calls a point nearly as accurate as fp32."""


@dataclass(frozen=True)
class Row:
    """One line of the front table, in words."""

    trial: int
    mark: str
    recipe: str
    accuracy: str
    split: str
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
    base, percent = reference(study), is_percentage(study)
    shown = [*study.baselines, *(e for e in study.front if e.kind == "candidate")]
    return [_row(e, base, percent, e.trial in on_front) for e in shown]


def _row(evaluation: Evaluation, base: Evaluation | None, percent: bool, on_front: bool) -> Row:
    e, score = evaluation, evaluation.score
    mark = "front" if e.kind == "candidate" else "baseline, front" if on_front else "baseline"
    versus = compare(e, base, percent)
    text = versus.text() if versus else "the reference" if base and e.trial == base.trial else ""
    return Row(
        trial=e.trial,
        mark=mark,
        recipe=description(e),
        accuracy=accuracy_text(score, percent) if score else e.reason or e.state,
        split=score.split if score else "",
        latency=ms_text(e.latency_ms) if e.latency_ms is not None else "",
        source=e.latency_source if e.latency_ms is not None else "",
        worst_case=ms_text(e.worst_case_latency_ms) if e.exits and e.worst_case_latency_ms else "",
        size=size_text(e.size_bytes) if e.size_bytes is not None else "",
        memory=size_text(e.peak_memory_bytes) if e.peak_memory_bytes is not None else "",
        energy=mj_text(e.energy_mj) if e.energy_mj is not None else "",
        versus=text,
    )


def front_table(study: Study) -> Table:
    """Return the baselines and the front as a table; every figure says which split or source it is from."""
    rows = front_rows(study)
    settings = study.settings
    table = Table(
        title=Text(f"{settings.task_name} on {settings.device['name']}"),
        caption=Text(f"{settings.metric} with 95 % confidence interval; ratios refer to fp32"),
    )
    table.add_column("trial", justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("recipe", overflow="fold", min_width=12)
    table.add_column(Text(settings.metric), justify="right", min_width=14)
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
        accuracy = f"{value} {row.split}\n[{interval}" if interval else value
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
        "The search is not finished: accuracies are from the validation split only, which the search itself "
        "selects on, so the best ones are optimistic; there is no test score yet.",
    ]


def _front(study: Study) -> list[str]:
    if not len(study.front):
        return ["Nothing was completed yet, so there is no front."]
    sentences = []
    candidates = [e for e in study.front if e.kind == "candidate"]
    names = ", ".join(b.label for b in study.baselines if b.state == "complete")
    winners = study.beats_all_baselines()
    front = f"The front has {plural(len(study.front), 'point')} ({plural(len(candidates), 'candidate')}"
    front += f", {plural(len(study.front) - len(candidates), 'baseline')})"
    if not names:
        sentences.append(f"{front}; no baseline was completed to compare them with.")
    elif winners:
        trials = ", ".join(str(e.trial) for e in winners[:8]) + (", ..." if len(winners) > 8 else "")
        verb = "is" if len(winners) == 1 else "are"
        sentences.append(
            f"{front}; {len(winners)} of them (trial {trials}) {verb} at least as accurate (validation), "
            f"fast and small as every baseline ({names})."
        )
    else:
        sentences.append(
            f"{front}; none of them beats every baseline ({names}) in accuracy, latency and size at once: "
            "each one is a trade."
        )
    fixed = limits(study)
    if fixed:
        listed = "; ".join(limit.text for limit in fixed)
        sentences.append(
            f"All points of the front keep the constraints ({listed})."
            if study.constraints_met
            else f"No point keeps all constraints ({listed}): the front is that of all points."
        )
    return sentences


def _best_trade(study: Study) -> list[str]:
    base, percent = reference(study), is_percentage(study)
    if base is None or base.validation is None:
        return []
    allowed = TOLERANCE_POINTS * (0.01 if percent else 0.01 * abs(base.validation.value))
    near = [e for e in study.front if e.kind == "candidate" and e.objectives()[0] >= base.validation.value - allowed]
    bound = "1 point" if percent else "1 %"
    if not near:
        return [f"No candidate of the front is within {bound} of fp32 (validation)."]
    best = min(near, key=lambda e: e.objectives()[1])
    versus = compare(best, base, percent)
    assert versus is not None
    overlap = "; the two 95 % intervals overlap" if versus.overlap else ""
    return [
        f"The fastest point within {bound} of fp32 (validation) is trial {best.trial}: {versus.text()} "
        f"({study.settings.metric} on the {versus.split} split, latency {versus.source}{overlap})."
    ]


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
    base = reference(study)
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
        what = "answers otherwise than its torch model on more than 1 % of the samples"
        if study.settings.task_kind != "classification":
            what = "gives outputs that are more than 1 % off those of its torch model"
        sentences.append(f"The file {what} in trial {trials}; accuracies are those of the files.")
    return sentences
