"""A study seen from several devices: tables for the terminal, sentences, and one self-contained HTML page."""

from __future__ import annotations

from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from autocompress.files import write_atomically
from autocompress.report._words import (
    accuracy_text,
    description,
    is_percentage,
    mj_text,
    ms_text,
    plural,
    points_text,
    size_text,
)
from autocompress.report.figures._drawing import BLUE, GREY, VERMILLION, error_bars, layout, log_axis
from autocompress.report.web._page import own_file, render_page
from autocompress.studies.results import Evaluation
from autocompress.studies.retarget import Crossing, Projection, Retargeted
from autocompress.tasks.metric import Score

_CAPTION = (
    "row: best choice for that device; column: where it runs. Latency against the column's own best choice, "
    "difference of the metric (validation); * the accuracy may be another one there"
)


def front_headings(projection: Projection, metric: str) -> list[str]:
    """Headings of `front_rows`; quantities that no point has are left out."""
    points = list(projection.front)
    return [
        *("trial", "", "recipe", f"{metric}, validation"),
        *([f"{metric}, test"] if any(p.test for p in points) else []),
        "latency",
        *(["worst case"] if any(p.exits for p in points) else []),
        *("size", "memory"),
        *(["energy"] if any(p.energy_mj is not None for p in points) else []),
    ]


def front_rows(projection: Projection, metric: str, percent: bool) -> list[list[str]]:
    """The front on one device in words, fastest first."""
    headings = front_headings(projection, metric)
    rows = []
    for e in projection.front:
        cells = {
            "trial": str(e.trial),
            "": _marks(projection, e),
            "recipe": description(e),
            f"{metric}, validation": _value(e.validation, percent),
            f"{metric}, test": _value(e.test, percent),
            "latency": ms_text(e.latency_ms or 0.0),
            "worst case": ms_text(e.worst_case_latency_ms) if e.worst_case_latency_ms is not None else "",
            "size": size_text(e.size_bytes or 0),
            "memory": size_text(e.peak_memory_bytes) if e.peak_memory_bytes is not None else "",
            "energy": mj_text(e.energy_mj) if e.energy_mj is not None else "",
        }
        rows.append([cells[heading] for heading in headings])
    return rows


def _value(score: Score | None, percent: bool) -> str:
    return accuracy_text(score, percent).partition(" [")[0] if score else ""


def _marks(projection: Projection, e: Evaluation) -> str:
    words = ["best choice"] if projection.choice and e.trial == projection.choice.trial else []
    words += ["knee"] if projection.knee and e.trial == projection.knee.trial else []
    words += ["*"] if e.trial in projection.doubts else []
    words += ["rough"] if e.trial in projection.outside else []
    return ", ".join(words)


def front_table(result: Retargeted, projection: Projection) -> Table:
    """The front on one device."""
    name = f"{result.study.settings.task_name} on {projection.device.name}"
    error = f"latency predicted, +-{projection.device.expected_error:.0%}"
    table = Table(title=Text(f"{name} ({error})"), title_justify="left")
    metric = result.study.settings.metric
    for heading in front_headings(projection, metric):
        right = heading not in ("", "recipe")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in front_rows(projection, metric, is_percentage(result.study)):
        table.add_row(*map(Text, row), style="bold" if "best choice" in row[1] else None)
    return table


def cross_rows(result: Retargeted) -> list[list[str]]:
    """One row for each device chosen for, one cell for each device run on, in words."""
    percent = is_percentage(result.study)
    found = {(c.chosen_for, c.device): c for c in result.crossings()}
    return [
        [
            f"{a.device.name} (trial {a.choice.trial})" if a.choice else f"{a.device.name} (nothing runs)",
            *(_cell(found[a.device.name, b.device.name], b, percent) for b in result.projections),
        ]
        for a in result.projections
    ]


def _cell(crossing: Crossing, there: Projection, percent: bool) -> str:
    if crossing.latency_ms is None or crossing.latency_cost is None or crossing.accuracy_difference is None:
        return "does not run"
    doubt = " *" if crossing.trial in there.doubts else ""
    if crossing.trial == crossing.own_trial:
        return f"{ms_text(crossing.latency_ms)}{doubt}"
    points = points_text(crossing.accuracy_difference, percent, digits=2)
    return f"{100 * crossing.latency_cost:+.0f} %, {points}{doubt}"


def cross_table(result: Retargeted) -> Table:
    """What the best choice for one device costs on another one."""
    table = Table(title=Text("what a choice costs elsewhere"), title_justify="left", caption=Text(_CAPTION))
    table.add_column("best for")
    for projection in result.projections:
        table.add_column(Text(f"on {projection.device.name}"), justify="right")
    for row in cross_rows(result):
        table.add_row(*map(Text, row))
    return table


def sentences(result: Retargeted) -> list[str]:
    """What to know about the tables."""
    study = result.study
    lines = [
        f"Accuracies are those of the study (searched for {study.settings.device['name']}); "
        "all latencies are predicted."
    ]
    for p in result.projections:
        lines.extend(f"{p.device.name}: {line}" for line in _about(p))
    if result.lost:
        lines.append(
            f"{plural(len(result.lost), 'trial')} could not be projected: operators and file are gone "
            f"(trial {', '.join(map(str, result.lost[:8]))})."
        )
    return lines


def _about(p: Projection) -> list[str]:
    calibration = p.device.calibration
    error = (
        f"expected error {calibration.median_error:.0%} (median), +-{calibration.p90_error:.0%} (9 of 10), "
        f"on {calibration.split}"
        if calibration
        else "the error of this profile is not known"
    )
    lines = [f"{plural(len(p.points), 'trial')} run, {len(p.front)} on the front; {error}."]
    lines += [f"{plural(count, 'trial')} excluded: {reason}." for reason, count in _grouped(p.excluded)]
    lines += [f"* {plural(count, 'trial')}: {reason}." for reason, count in _grouped(p.doubts)]
    if p.outside:
        kinds = ", ".join(sorted({kind for missing in p.outside.values() for kind in missing}))
        lines.append(
            f"rough: {plural(len(p.outside), 'trial')} with operators that the profile does not know: {kinds}."
        )
    if p.constraints and not p.constraints_met:
        listed = "; ".join(map(str, p.constraints))
        lines.append(f"no trial keeps all constraints ({listed}): the front is that of all trials.")
    return lines + [f"{note}." for note in p.notes]


def _grouped(reasons: Any) -> list[tuple[str, int]]:
    """Reasons that differ in their figures only count as one; the first of each stands for all."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason in reasons.values():
        key = "".join("#" if c.isdigit() else c for c in reason).replace("##", "#")
        first.setdefault(key, reason)
        counts[key] += 1
    return [(first[key], count) for key, count in counts.most_common()]


def front_figure(result: Retargeted) -> go.Figure:
    """Accuracy over predicted latency, one device at a time; a menu chooses the device."""
    percent = is_percentage(result.study)
    figure = go.Figure()
    counts: list[int] = []
    for p in result.projections:
        before = len(figure.data)
        _add_device(figure, p, percent, visible=not counts)
        counts.append(len(figure.data) - before)
    buttons = []
    for i, p in enumerate(result.projections):
        shown = [j == i for j, count in enumerate(counts) for _ in range(count)]
        axis = log_axis([q.latency_ms or 0.0 for q in p.points], 1.35)
        changes = {f"xaxis.{key}": value for key, value in axis.items()}
        buttons.append({"label": escape(p.device.name), "method": "update", "args": [{"visible": shown}, changes]})
    first = log_axis([q.latency_ms or 0.0 for q in result.projections[0].points], 1.35)
    unit = " (%)" if percent else ""
    figure.update_layout(
        layout(
            xaxis=first | {"title": {"text": "predicted latency (ms, log scale)"}},
            yaxis={"title": {"text": f"{escape(result.study.settings.metric)}, validation{unit}"}},
        )
    )
    menu = {"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.15, "yanchor": "top", "showactive": True}
    figure.update_layout(updatemenus=[menu], hovermode="closest", margin={"t": 70})
    return figure


def _add_device(figure: go.Figure, p: Projection, percent: bool, visible: bool) -> None:
    on_front = {e.trial for e in p.front}
    best = p.choice.trial if p.choice else None
    groups: list[tuple[str, list[Evaluation], dict[str, Any]]] = [
        ("other trials", [e for e in p.points if e.trial not in on_front], {"color": GREY, "size": 7}),
        ("front", [e for e in p.front if e.trial != best], {"color": BLUE, "size": 10}),
        ("best choice", [e for e in p.front if e.trial == best], {"color": VERMILLION, "size": 14}),
    ]
    for name, group, marker in groups:
        intervals = [p.intervals[e.trial] for e in group]
        latencies = [e.latency_ms or 0.0 for e in group]
        more = [high - x for (_, high), x in zip(intervals, latencies, strict=True)]
        less = [x - low for (low, _), x in zip(intervals, latencies, strict=True)]
        figure.add_scatter(
            x=latencies,
            y=[e.objectives()[0] * (100 if percent else 1) for e in group],
            error_x=None if name == "other trials" else error_bars(more, less, width=3),
            mode="markers",
            marker=marker,
            name=name,
            customdata=[e.trial for e in group],
            hovertext=[_hover(p, e, percent) for e in group],
            hovertemplate="%{hovertext}<extra></extra>",
            visible=visible,
        )


def _hover(p: Projection, e: Evaluation, percent: bool) -> str:
    lines = [f"<b>trial {e.trial}</b> {escape(description(e))[:200]}", f"{escape(p.device.name)}"]
    lines += [f"{s.split}: {accuracy_text(s, percent)}" for s in (e.validation, e.test) if s]
    lines += [f"latency: {ms_text(e.latency_ms or 0.0)}", f"size: {size_text(e.size_bytes or 0)}"]
    lines += [f"memory: {size_text(e.peak_memory_bytes)}"] if e.peak_memory_bytes is not None else []
    lines += [f"energy: {mj_text(e.energy_mj)}"] if e.energy_mj is not None else []
    lines += [escape(p.doubts[e.trial])] if e.trial in p.doubts else []
    return "<br>".join(lines)


def write_html(result: Retargeted, path: str | Path) -> None:
    """Write the page as one file that needs no network, all or nothing."""
    write_atomically(path, render(result))


def render(result: Retargeted) -> str:
    """The page as text."""
    metric, percent = result.study.settings.metric, is_percentage(result.study)
    fronts = [(p.device.name, front_headings(p, metric), front_rows(p, metric, percent)) for p in result.projections]
    figure = front_figure(result)
    return render_page(
        "retarget.html.j2",
        study=result.study,
        settings=result.study.settings,
        sentences=sentences(result),
        devices=[p.device.name for p in result.projections],
        cross=cross_rows(result),
        caption=_CAPTION,
        fronts=fronts,
        plot=Markup(figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})),
        style=own_file("report.css"),
    )
