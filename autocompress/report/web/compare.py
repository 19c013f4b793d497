"""Several studies side by side, as one page that needs no network."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import plotly.graph_objects as go

from autocompress.files import write_atomically
from autocompress.report.comparison import Comparison
from autocompress.report.figures.plot_style import GREY, layout, log_axis
from autocompress.report.figures.volumes import line_of, volumes_figure
from autocompress.report.formatting import accuracy_text, ms_text, size_text
from autocompress.report.text.comparison import COLUMNS, sentences
from autocompress.report.web._page import embedded, own_file, packed_plotly, render_page
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")


def render(comparison: Comparison) -> str:
    """The comparison as one page that needs no network."""
    figures = {
        "fronts": front_figure(comparison),
        "evaluated": volumes_figure(comparison.volumes, "evaluated"),
        "minutes": volumes_figure(comparison.volumes, "minutes"),
    }
    return render_page(
        "compare.html.j2",
        comparison=comparison,
        sentences=sentences(comparison),
        columns=[(name, right) for name, _, right in COLUMNS],
        rows=[[cell(row, comparison) for _, cell, _ in COLUMNS] for row in comparison.rows],
        data=embedded({name: json.loads(f.to_json()) for name, f in figures.items()}),
        plotly=packed_plotly(),
        style=own_file("report.css"),
        scripts=own_file("figures.js", "compare.js"),
    )


def write_html(comparison: Comparison, path: Path) -> None:
    """Write the comparison as one file, all or nothing."""
    write_atomically(path, render(comparison))


def front_figure(comparison: Comparison) -> go.Figure:
    """All fronts over latency; relative to each study's own fp32 where devices differ."""
    figure = go.Figure()
    latencies: list[float] = []
    unit = 100 if comparison.percent else 1
    for i, (name, study) in enumerate(zip(comparison.names, comparison.studies, strict=True)):
        scale = _scale(comparison, i)
        points = list(comparison.fronts[i])
        x = [p.objectives()[1] / scale for p in points]
        latencies += x
        colour = line_of(i)["color"]
        figure.add_scatter(
            x=x,
            y=[unit * p.objectives()[0] for p in points],
            mode="markers",
            marker={"color": colour, "symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 10, "opacity": 0.85},
            customdata=[p.trial for p in points],
            hovertext=[_hover(comparison, name, p, p.objectives()[1] / scale) for p in points],
            hovertemplate="%{hovertext}<extra></extra>",
            name=escape(name),
        )
        if i == 0 or not comparison.same_device:
            latencies += _add_baselines(comparison, figure, study, scale, colour)
    title = (
        f"latency (ms, log scale; {comparison.source} on {escape(str(comparison.studies[0].settings.device['name']))})"
        if comparison.same_device
        else f"latency relative to the study's own fp32 (log scale; {comparison.source})"
    )
    metric = escape(comparison.studies[0].settings.metric)
    axis = f"{metric} ({'%, ' if comparison.percent else ''}validation split)"
    figure.update_layout(
        layout(xaxis=log_axis(latencies, 1.35) | {"title": {"text": title}}, yaxis={"title": {"text": axis}}),
        hovermode="closest",
    )
    return figure


def _scale(comparison: Comparison, i: int) -> float:
    if comparison.same_device:
        return 1.0
    base = comparison.studies[i].reference
    assert base is not None
    own = base.measured_latency_ms if comparison.source == "measured" else base.predicted_latency_ms
    return own or 1.0


def _add_baselines(comparison: Comparison, figure: go.Figure, study: Study, scale: float, colour: str) -> list[float]:
    found = []
    for b in study.baselines:
        latency = b.measured_latency_ms if comparison.source == "measured" else b.predicted_latency_ms
        if b.state == "complete" and b.validation and latency:
            found.append((latency / scale, b.validation.value * (100 if comparison.percent else 1), b.label))
    figure.add_scatter(
        x=[x for x, _, _ in found],
        y=[y for _, y, _ in found],
        text=[escape(label) for *_, label in found],
        mode="markers+text",
        textposition=["bottom center" if label == "fp16" else "top center" for *_, label in found],
        marker={"color": GREY if comparison.same_device else colour, "symbol": "x-thin-open", "size": 11},
        hovertemplate="%{text}<extra></extra>",
        name="baselines",
        showlegend=comparison.same_device,
    )
    return [x for x, _, _ in found]


def _hover(comparison: Comparison, name: str, p: Evaluation, x: float) -> str:
    assert p.validation is not None and p.size_bytes
    latency = ms_text(x) if comparison.same_device else f"{x:.3g} of fp32's latency"
    return (
        f"<b>{escape(name)}, trial {p.trial}</b><br>{escape(p.label)[:120]}<br>"
        f"{accuracy_text(p.validation, comparison.percent)}<br>{latency} ({comparison.source})<br>"
        f"{size_text(p.size_bytes)}"
    )
