"""How the search went, as plotly figures: predictions against measurements, compute, hypervolume, knobs, exits.

Every point carries its trial number as customdata.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autocompress.report.figures.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    add_equality,
    layout,
    log_axis,
    wrapped,
)
from autocompress.report.formatting import description, ms_text
from autocompress.report.hypervolume import Volumes, hypervolume_reference, in_order
from autocompress.report.importance import Importance
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study

PHASES = {"structure": ORANGE, "training": BLUE, "numerics": GREEN, "evaluation": PURPLE}
"""Colour of each phase of a trial."""
_EXITS = (ORANGE, GREEN, PURPLE, SKY)
_KNOBS = 12
"""Knobs shown, the most important ones."""


def measured_figure(study: Study) -> go.Figure:
    """Measured over predicted latency, with the line of equality and a band of +-10 %."""
    both = [e for e in study.evaluations if e.predicted_latency_ms and e.measured_latency_ms]
    figure = go.Figure()
    values = [v for e in both for v in (e.predicted_latency_ms, e.measured_latency_ms) if v]
    add_equality(figure, values)
    for name, colour, symbol in (("candidate", BLUE, "circle"), ("baseline", VERMILLION, "diamond")):
        group = [e for e in both if e.kind == name]
        figure.add_scatter(
            x=[e.predicted_latency_ms for e in group],
            y=[e.measured_latency_ms for e in group],
            mode="markers",
            marker={"color": colour, "size": 9, "symbol": symbol},
            customdata=[e.trial for e in group],
            hovertext=[_error_hover(e) for e in group],
            hovertemplate="%{hovertext}<extra></extra>",
            name=f"{name}s",
        )
    axis = log_axis(values, 1.25)
    figure.update_layout(
        layout(
            xaxis=axis | {"title": {"text": "predicted latency (ms)"}},
            yaxis=axis | {"title": {"text": "measured latency (ms)"}},
        )
    )
    return figure


def budget_figure(study: Study) -> go.Figure:
    """Seconds of each phase: per trial in the order of the search, and in total."""
    phases = [*PHASES, *sorted({p for e in study.evaluations for p in e.seconds} - set(PHASES))]
    figure = make_subplots(rows=1, cols=2, column_widths=[0.72, 0.28], horizontal_spacing=0.12)
    trials = [e for e in study.evaluations if e.seconds]
    for phase in phases if trials else ():
        colour = PHASES.get(phase, GREY)
        bar = {
            "name": escape(phase),
            "marker": {"color": colour, "line": {"width": 0}},
            "legendgroup": escape(phase),
        }
        seconds = [e.seconds.get(phase, 0.0) for e in trials]
        figure.add_bar(
            x=[e.trial for e in trials],
            y=seconds,
            customdata=[e.trial for e in trials],
            hovertemplate=f"trial %{{x}}: {escape(phase)} %{{y:.1f}} s<extra></extra>",
            row=1,
            col=1,
            **bar,
        )
        total = sum(seconds) / 60
        figure.add_bar(
            x=[escape(phase)],
            y=[total],
            text=[f"{total:.3g} min"],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x}: %{y:.2f} min<extra></extra>",
            showlegend=False,
            row=1,
            col=2,
            **bar,
        )
    figure.update_layout(layout(), barmode="stack", bargap=0.1)
    figure.update_xaxes(title_text="trial", row=1, col=1)
    figure.update_yaxes(title_text="wall time (s)", row=1, col=1)
    figure.update_yaxes(title_text="total wall time (min)", row=1, col=2)
    return figure


def progress_figure(study: Study) -> go.Figure:
    """Hypervolume of the front over the compute spent; the reference point is written on the axis."""
    worst, words = hypervolume_reference(study)
    figure = go.Figure()
    x, y, trials = _hypervolumes(study, worst) if worst else ([], [], [])
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers" if len(x) < 80 else "lines",
        line={"shape": "hv", "color": BLUE, "width": 2},
        marker={"size": 5},
        customdata=trials,
        hovertemplate="after trial %{customdata}: hypervolume %{y:.4g}<extra></extra>",
        name=escape(words),
    )
    timed = any(e.seconds for e in study.evaluations)
    figure.update_layout(
        layout(
            xaxis={"title": {"text": "compute spent (min)" if timed else "trials"}},
            yaxis={"title": {"text": "hypervolume"}, "rangemode": "tozero"},
        ),
        showlegend=False,
    )
    return figure


def importance_figure(found: Sequence[Importance]) -> go.Figure:
    """Share of each knob in being among the best, per objective; pale bars could as well be chance."""
    names = list(dict.fromkeys(i.objective for i in found))
    best: dict[str, float] = {}
    for i in found:
        best[i.knob] = max(best.get(i.knob, 0.0), i.share)
    knobs = sorted(best, key=lambda knob: best[knob])[-_KNOBS:]
    figure = make_subplots(rows=1, cols=max(1, len(names)), shared_yaxes=True, horizontal_spacing=0.03)
    colours = {"accuracy": BLUE, "latency": ORANGE, "size": GREEN}
    for column, name in enumerate(names, 1):
        of = {i.knob: i for i in found if i.objective == name}
        shown = [knob for knob in knobs if knob in of]
        sure = [of[knob].beyond_chance for knob in shown]
        figure.add_bar(
            x=[100 * of[knob].share for knob in shown],
            y=[escape(knob) for knob in shown],
            orientation="h",
            marker={"color": colours.get(name, GREY), "opacity": [1.0 if s else 0.25 for s in sure]},
            hovertext=["beyond chance (p < 0.05)" if s else "no more than chance" for s in sure],
            hovertemplate="%{y}: %{x:.0f} %<br>%{hovertext}<extra></extra>",
            name=name,
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text=f"{name}: share of importance (%)", rangemode="tozero", row=1, col=column)
    figure.update_layout(layout(), showlegend=False, bargap=0.25, margin={"t": 15})
    figure.update_yaxes(automargin=True)
    return figure


def exits_figure(study: Study) -> go.Figure:
    """Share of the validation samples that leave at each way out, for the points of the front with early exits."""
    points = [e for e in study.front if e.exits]
    figure = go.Figure()
    most = max((len(e.exits) - 1 for e in points), default=0)
    ways = [(f"exit {i + 1}", _EXITS[i % len(_EXITS)], i) for i in range(most)]
    for name, colour, i in [*ways, ("output of the network", BLUE, -1)] if points else ():
        shown = [(e, e.exits[i]) for e in points if i < len(e.exits) - 1]
        figure.add_bar(
            x=[100 * out.rate for _, out in shown],
            y=[f"trial {e.trial}" for e, _ in shown],
            orientation="h",
            customdata=[e.trial for e, _ in shown],
            hovertext=[
                f"<b>trial {e.trial}, {escape(out.place)}</b><br>{out.rate:.1%} of the samples leave here"
                f"<br>latency there ({e.latency_source}): {ms_text(out.latency_ms)}"
                + (f"<br>score of them: {out.accuracy:.4g}" if out.accuracy >= 0 else "")
                for e, out in shown
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            marker={"color": colour, "line": {"width": 0}},
            name=name,
        )
    figure.update_layout(
        layout(
            xaxis={"title": {"text": "validation samples that leave there (%)"}, "range": [0, 100]},
            yaxis={"title": {"text": ""}, "type": "category", "autorange": "reversed"},
        ),
        barmode="stack",
        bargap=0.3,
        legend_traceorder="normal",
    )
    return figure


def _hypervolumes(study: Study, worst: tuple[float, float, float]) -> tuple[list[float], list[float], list[int]]:
    volumes, ordered = Volumes(worst), in_order(study.evaluations)
    for e in ordered:
        volumes.add(e)
    timed = any(e.seconds for e in ordered)
    spent = volumes.minutes if timed else [float(i) for i in range(1, len(ordered) + 1)]
    return spent, volumes.volume, [e.trial for e in ordered]


def _error_hover(e: Evaluation) -> str:
    predicted, measured = e.predicted_latency_ms or 0.0, e.measured_latency_ms or 1.0
    return (
        f"<b>trial {e.trial}</b> {wrapped(description(e))}<br>predicted: {ms_text(predicted)}<br>"
        f"measured: {ms_text(measured)}<br>prediction error: {predicted / measured - 1:+.1%}"
    )
