"""Ablation chains and hand-made pipelines in words, for the terminal and for the HTML report."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.table import Table
from rich.text import Text

from autocompress.report.formatting import accuracy_text, compare, is_percentage, ms_text, points_text, size_text
from autocompress.studies.ablation import Ablation, Chain, Change, Step
from autocompress.studies.front import dominates
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study

_SMALL_RATIO, _SMALL_POINTS = 0.005, 0.0005
"""Changes below them are not worth a word: half a percent, a twentieth of a point."""


@dataclass(frozen=True)
class Line:
    """One step of a chain, or one pipeline, in words."""

    label: str
    recipe: str
    accuracy: str
    split: str
    accuracy_change: str
    tie: bool
    latency: str
    source: str
    latency_change: str
    latency_share: float
    """Of the latency of the unchanged model."""
    size: str
    size_change: str
    size_share: float
    """Of the size of the unchanged model."""
    versus: str = ""
    """Against the unchanged model."""
    remark: str = ""
    """Why a step failed, or what beats a pipeline."""


def chain_lines(chain: Chain, percent: bool) -> list[Line]:
    """Return the steps of a chain with what each changed against the step before."""
    first = chain.steps[0].evaluation
    changes = [None, *chain.changes()]
    return [_line(step, change, first, percent) for step, change in zip(chain.steps, changes, strict=True)]


def _line(step: Step, change: Change | None, first: Evaluation, percent: bool) -> Line:
    e, score = step.evaluation, step.evaluation.score
    return Line(
        label=step.label,
        recipe=e.recipe.summary(),
        accuracy=accuracy_text(score, percent) if score else "",
        split=score.split if score else "",
        accuracy_change=points_text(change.accuracy, percent) if change else "",
        tie=bool(change and change.tie),
        latency=ms_text(e.latency_ms) if e.latency_ms is not None else "",
        source=e.latency_source if e.latency_ms is not None else "",
        latency_change=_percent(change.latency) if change else "",
        latency_share=_share(e.latency_ms, first.latency_ms),
        size=size_text(e.size_bytes) if e.size_bytes is not None else "",
        size_change=_percent(change.size) if change else "",
        size_share=_share(e.size_bytes, first.size_bytes),
        remark=e.reason,
    )


def _percent(change: float) -> str:
    return "0 %" if abs(change) < _SMALL_RATIO else f"{100 * change:+.0f} %"


def _share(value: float | None, whole: float | None) -> float:
    return value / whole if value and whole else 0.0


def chain_sentence(chain: Chain, percent: bool, metric: str = "accuracy") -> str:
    """Return what each stage brought, such as "latency -31 % from pruning, -22 % from quantisation; ..."."""
    found = [(s.label, c) for s, c in zip(chain.steps[1:], chain.changes(), strict=True) if c]
    latency = [f"{_percent(c.latency)} from {label}" for label, c in found if abs(c.latency) >= _SMALL_RATIO]
    size = [f"{_percent(c.size)} from {label}" for label, c in found if abs(c.size) >= _SMALL_RATIO]
    accuracy = [
        f"{points_text(c.accuracy, percent)} from {label}{' (a tie)' if c.tie else ''}"
        for label, c in found
        if abs(c.accuracy) >= _SMALL_POINTS
    ]
    parts = (("latency", latency), ("size", size), (metric, accuracy))
    words = "; ".join(f"{name} {', '.join(texts)}" for name, texts in parts if texts) or "no stage changed anything"
    return f"{words[0].upper()}{words[1:]}."


def pipeline_lines(ablation: Ablation, study: Study) -> list[Line]:
    """Return the hand-made pipelines, each against the unchanged model and with a point of the front that beats it."""
    if not ablation.pipelines:
        return []
    percent, first = is_percentage(study), ablation.pipelines[0].evaluation
    lines = []
    for step in ablation.pipelines:
        line, versus = _line(step, None, first, percent), compare(step.evaluation, first, percent)
        if versus:
            beaten = ", ".join(map(str, better_points(step.evaluation, first, study)[:4]))
            line = replace(line, versus=versus.text(), remark=beaten or "none")
        lines.append(line)
    return lines


def better_points(pipeline: Evaluation, unchanged: Evaluation, study: Study) -> list[int]:
    """Return trials of the front that are at least as accurate, fast and small, and better in one of the three.

    Latencies are taken relative to the unchanged model of the same session, so that two sessions can be compared.
    """
    base = study.reference
    mine = _relative(pipeline, unchanged)
    if base is None or mine is None:
        return []
    found = []
    for point in study.front:
        theirs = _relative(point, base)
        same = point.score and pipeline.score and point.score.split == pipeline.score.split
        if point.kind == "candidate" and same and theirs and dominates(theirs, mine):
            found.append(point.trial)
    return found


def _relative(e: Evaluation, base: Evaluation) -> tuple[float, float, float] | None:
    if not (e.score and e.latency_ms and base.latency_ms and e.size_bytes) or e.latency_source != base.latency_source:
        return None
    return e.score.value, e.latency_ms / base.latency_ms, float(e.size_bytes)


def ablation_tables(ablation: Ablation, study: Study) -> list[Table]:
    """Return one table per chain, and one of the hand-made pipelines, for the terminal."""
    percent, metric = is_percentage(study), study.settings.metric
    tables = [
        _table(f"trial {chain.trial}: {chain_sentence(chain, percent, metric)}", chain_lines(chain, percent), metric)
        for chain in ablation.chains
    ]
    if ablation.pipelines:
        table = Table(title=Text("pipelines put together by hand"))
        for name in ("pipeline", metric, "latency", "size", "against unchanged", "beaten by trial"):
            table.add_column(name)
        for line in pipeline_lines(ablation, study):
            cells = (line.label, line.accuracy, line.latency, line.size, line.versus, line.remark)
            table.add_row(*map(Text, cells))
        tables.append(table)
    return tables


def _table(title: str, lines: list[Line], metric: str) -> Table:
    table = Table(title=Text(title), caption=Text("changes are against the step before"))
    table.add_column("step")
    for name in (metric, "", "latency", "", "size", ""):
        table.add_column(name, justify="right")
    for line in lines:
        change = f"{line.accuracy_change}{' (tie)' if line.tie and line.accuracy_change else ''}"
        cells = (line.label, line.accuracy or line.remark, change, line.latency, line.latency_change)
        table.add_row(*map(Text, (*cells, line.size, line.size_change)))
    return table
