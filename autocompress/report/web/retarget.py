"""A study seen from several devices, as one self-contained HTML page."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from autocompress.files import write_atomically
from autocompress.report.figures.plot_style import BLUE, GREY, VERMILLION, error_bars, layout, log_axis
from autocompress.report.formatting import (
    accuracy_text,
    description,
    is_percentage,
    mj_text,
    ms_text,
    size_text,
)
from autocompress.report.text.retarget import CAPTION, cross_rows, front_headings, front_rows, sentences
from autocompress.report.web._page import own_file, render_page
from autocompress.studies.results import Evaluation
from autocompress.studies.retarget import Projection, Retargeted


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
        caption=CAPTION,
        fronts=fronts,
        plot=Markup(figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})),
        style=own_file("report.css"),
    )
