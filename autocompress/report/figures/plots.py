"""The front and its company as plotly figures, for notebooks and for the HTML report.

Every point carries its trial number as customdata.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from autocompress.report.figures.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    error_bars,
    layout,
    log_axis,
    wrapped,
)
from autocompress.report.formatting import (
    accuracy_text,
    compare,
    description,
    is_percentage,
    limits,
    ms_text,
    size_text,
)
from autocompress.report.ties import TIE, score_of, ties
from autocompress.studies.ablation import Ablation
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks.metric import Split

_SIZE_SCALE = [[0.0, ORANGE], [0.5, "#A08A62"], [1.0, BLUE]]
_SYMBOLS = {"fp32": "diamond", "fp16": "square", "int8": "triangle-up"}
_PLACES = {"fp32": "top right", "fp16": "bottom right"}


def front_figure(study: Study, split: Split = "validation", ablation: Ablation | None = None) -> go.Figure:
    """Accuracy over latency: the front, the baselines and all other complete trials.

    Filled symbols have a measured latency, hollow ones a predicted one. The line joins the points that no
    other point of the front beats in both latency and accuracy; points below it are there for their size.
    Horizontal bars reach from the first early exit to the worst case. A point marked as a tie has an accuracy
    interval that overlaps that of a faster point of the front.

    Args:
        study: what to show.
        split: of the accuracies. The search selects on validation; only front and baselines have test scores.
        ablation: its hand-made pipelines are shown for comparison.
    """
    figure = go.Figure()
    groups = _groups(study, split)
    sizes = [math.log10(e.size_bytes or 1) for group in groups for e in group]
    scale = _size_scale(sizes)
    others, front, baselines = groups
    on_line = _best_by_latency([e for e in study.front if score_of(e, split)], split)
    percent = is_percentage(study)
    figure.add_scatter(
        x=[e.latency_ms for e in on_line],
        y=[_value(e, split, percent) for e in on_line],
        mode="lines",
        line={"shape": "hv", "color": GREY, "width": 1.5},
        name="best accuracy at a latency",
        hoverinfo="skip",
    )
    figure.add_trace(_points(study, others, split, "other trials", scale, size=7, opacity=0.55))
    figure.add_trace(_points(study, front, split, "front", scale, size=13, opacity=1.0, bars=True))
    for baseline in baselines:
        figure.add_trace(_baseline(study, baseline, split))
    if ablation and (pipelines := _pipelines(study, ablation, split)):
        figure.add_trace(pipelines)
    _add_limits(figure, study, percent)
    unit = "%, " if percent else ""
    latencies = [e.latency_ms or 0.0 for group in groups for e in group]
    constraints = [limit.constraint for limit in limits(study)]
    latencies += [c.limit for c in constraints if c.quantity == "latency_ms"]
    figure.update_layout(
        layout(
            xaxis=log_axis(latencies, 1.35) | {"title": {"text": _latency_title(study)}},
            yaxis={"title": {"text": f"{escape(study.settings.metric)} ({unit}{split} split)"}},
        )
    )
    figure.update_layout(hovermode="closest", margin={"t": 50})
    return figure


def front_figure_3d(study: Study, split: Split = "validation") -> go.Figure:
    """Accuracy over latency and file size: the front, the baselines and all other complete trials."""
    figure = go.Figure()
    percent = is_percentage(study)
    others, front, baselines = _groups(study, split)
    looks = (("other trials", others, GREY, 3, "circle"), ("front", front, BLUE, 7, "circle"))
    for name, group, colour, size, symbol in (*looks, ("baselines", baselines, VERMILLION, 7, "diamond")):
        figure.add_scatter3d(
            x=[e.latency_ms for e in group],
            y=[(e.size_bytes or 0) / 1e6 for e in group],
            z=[_value(e, split, percent) for e in group],
            mode="markers+text" if name == "baselines" else "markers",
            text=[escape(e.label) for e in group] if name == "baselines" else None,
            hovertext=_hovers(study, group),
            hovertemplate="%{hovertext}<extra></extra>",
            customdata=[e.trial for e in group],
            marker={"size": size, "color": colour, "symbol": symbol, "line": {"width": 0}},
            name=name,
        )
    shown = [*others, *front, *baselines]
    grid = {"gridcolor": "#bbbbbb", "showbackground": False, "zeroline": False}
    megabytes = [(e.size_bytes or 0) / 1e6 for e in shown]
    axes = {
        "xaxis": log_axis([e.latency_ms or 0.0 for e in shown]) | {"title": {"text": "latency (ms)"}},
        "yaxis": log_axis(megabytes) | {"title": {"text": "file size (MB)"}},
        "zaxis": {"title": {"text": f"{escape(study.settings.metric)} ({'%, ' if percent else ''}{split})"}},
    }
    heights = [_value(e, split, percent) for e in shown]
    if heights:
        margin = 0.05 * (max(heights) - min(heights)) or 1e-3
        axes["zaxis"]["range"] = [min(heights) - margin, max(heights) + margin]
    scene = {name: grid | axis for name, axis in axes.items()}
    scene["camera"] = {"eye": {"x": -1.45, "y": -1.45, "z": 0.7}, "center": {"x": 0, "y": 0, "z": -0.12}}
    figure.update_layout(layout(), scene=scene, margin={"l": 0, "r": 0, "t": 10, "b": 0})
    return figure


def _groups(study: Study, split: Split) -> tuple[list[Evaluation], list[Evaluation], list[Evaluation]]:
    """Return the complete trials with a score of the split: others, candidates of the front, baselines."""
    on_front = {e.trial for e in study.front}
    shown = [e for e in study.evaluations if e.state == "complete" and score_of(e, split) and e.latency_ms]
    others = [e for e in shown if e.kind == "candidate" and e.trial not in on_front]
    front = [e for e in shown if e.kind == "candidate" and e.trial in on_front]
    return others, front, [e for e in shown if e.kind == "baseline"]


def _value(evaluation: Evaluation, split: Split, percent: bool) -> float:
    score = score_of(evaluation, split)
    assert score is not None
    return score.value * (100 if percent else 1)


def _best_by_latency(points: Iterable[Evaluation], split: Split) -> list[Evaluation]:
    line: list[Evaluation] = []
    for point in sorted(points, key=lambda p: p.latency_ms or 0.0):
        if not line or _value(point, split, False) > _value(line[-1], split, False):
            line.append(point)
    return line


def _points(
    study: Study,
    group: Sequence[Evaluation],
    split: Split,
    name: str,
    scale: dict[str, Any],
    size: int,
    opacity: float,
    bars: bool = False,
) -> go.Scatter:
    percent = is_percentage(study)
    tied = ties(study.front, split) if bars else {}
    measured = [e.latency_source == "measured" for e in group]
    marker = {
        "size": size,
        "opacity": [opacity] * len(group),
        "color": [math.log10(e.size_bytes or 1) for e in group],
        "symbol": ["circle" if m else "circle-open" for m in measured],
        "line": {"width": [1.0 if m else 2.0 for m in measured]},
        **scale,
        "showscale": bars and bool(group),
    }
    return go.Scatter(
        x=[e.latency_ms for e in group],
        y=[_value(e, split, percent) for e in group],
        error_y=_interval(group, split, percent) if bars else None,
        error_x=_paths(group) if bars and any(e.exits for e in group) else None,
        mode="markers+text" if bars else "markers",
        text=[TIE if tied.get(e.trial) else "" for e in group] if bars else None,
        textposition="middle right",
        marker=marker,
        customdata=[e.trial for e in group],
        hovertext=_hovers(study, group, tied),
        hovertemplate="%{hovertext}<extra></extra>",
        name=name,
    )


def _baseline(study: Study, baseline: Evaluation, split: Split) -> go.Scatter:
    percent = is_percentage(study)
    symbol = _SYMBOLS.get(baseline.label, "star")
    symbol += "" if baseline.latency_source == "measured" else "-open"
    return go.Scatter(
        x=[baseline.latency_ms],
        y=[_value(baseline, split, percent)],
        error_y=_interval([baseline], split, percent),
        mode="markers+text",
        text=[escape(baseline.label)],
        textposition=_PLACES.get(baseline.label, "middle right"),
        textfont={"color": VERMILLION, "size": 13},
        marker={"size": [15], "color": VERMILLION, "symbol": symbol, "opacity": [1.0], "line": {"width": 2}},
        customdata=[baseline.trial],
        hovertext=_hovers(study, [baseline]),
        hovertemplate="%{hovertext}<extra></extra>",
        name=f"{escape(baseline.label)} baseline",
    )


def _pipelines(study: Study, ablation: Ablation, split: Split) -> go.Scatter | None:
    """Hand-made pipelines; latencies of another session are taken relative to that of fp32."""
    base = study.reference
    if base is None or not base.latency_ms or len(ablation.pipelines) < 2:
        return None
    percent, first = is_percentage(study), ablation.pipelines[0].evaluation
    scale = base.latency_ms / (first.latency_ms or base.latency_ms)
    if base.latency_source != first.latency_source:
        return None
    shown = [s for s in ablation.pipelines[1:] if s.evaluation.state == "complete" and score_of(s.evaluation, split)]
    return go.Scatter(
        x=[(s.evaluation.latency_ms or 0.0) * scale for s in shown],
        y=[_value(s.evaluation, split, percent) for s in shown],
        mode="markers",
        marker={"size": 10, "color": GREEN, "symbol": "x-thin", "line": {"width": 2.5, "color": GREEN}},
        hovertext=[f"<b>{wrapped(s.label)}</b><br>{_facts(s.evaluation, first, percent)}" for s in shown],
        hovertemplate="%{hovertext}<extra></extra>",
        name="put together by hand",
    )


def _paths(group: Sequence[Evaluation]) -> dict[str, Any]:
    """Bars from the latency of the first exit to the worst case; none where there is no exit."""
    ends = [(e.latency_ms or 0.0, e.exits[0].latency_ms, e.worst_case_latency_ms) if e.exits else None for e in group]
    more = [max(0.0, (end[2] or end[0]) - end[0]) if end else 0.0 for end in ends]
    less = [max(0.0, end[0] - end[1]) if end else 0.0 for end in ends]
    return error_bars(more, less, width=0)


def _interval(group: Sequence[Evaluation], split: Split, percent: bool) -> dict[str, Any]:
    unit = 100 if percent else 1
    scores = [s for e in group if (s := score_of(e, split))]
    more, less = [(s.high - s.value) * unit for s in scores], [(s.value - s.low) * unit for s in scores]
    return error_bars(more, less, width=3)


def _size_scale(logs: Sequence[float]) -> dict[str, Any]:
    low, high = (min(logs), max(logs)) if logs else (0.0, 1.0)
    if high - low < 0.01:
        low, high = low - 0.1, high + 0.1
    ticks = [low + (high - low) * i / 4 for i in range(5)]
    bar = {
        "title": {"text": "file size", "side": "top"},
        "tickvals": ticks,
        "ticktext": [size_text(10**tick) for tick in ticks],
        "thickness": 12,
        "len": 0.8,
        "outlinewidth": 0,
    }
    return {"cmin": low, "cmax": high, "colorscale": _SIZE_SCALE, "colorbar": bar}


def _add_limits(figure: go.Figure, study: Study, percent: bool) -> None:
    """Constraint lines; an annotation on a log axis is placed by the logarithm, a shape by the value."""
    for limit in limits(study):
        line = {"dash": "dot", "color": PURPLE, "width": 1.5}
        text: dict[str, Any] = {"text": escape(limit.text), "showarrow": False, "font": {"color": PURPLE}}
        quantity, value = limit.constraint.quantity, limit.constraint.limit
        if quantity == "accuracy":
            y = value * (100 if percent else 1)
            figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=y, y1=y, line=line)
            figure.add_annotation(xref="paper", x=1, xanchor="right", y=y, yanchor="top", **text)
        elif quantity == "latency_ms":
            x = value
            figure.add_shape(type="line", yref="paper", y0=0, y1=1, x0=x, x1=x, line=line)
            right = all(x >= v for trace in figure.data for v in trace.x)
            side = {"xanchor": "right" if right else "left", "xshift": -3 if right else 3}
            figure.add_annotation(yref="paper", y=0, yanchor="bottom", x=math.log10(x), **side, **text)


def _latency_title(study: Study) -> str:
    sources = sorted({e.latency_source for e in study.evaluations if e.latency_ms is not None})
    return f"latency (ms, log scale; {' or '.join(sources) or 'none yet'})"


def _hovers(study: Study, group: Iterable[Evaluation], tied: Mapping[int, Sequence[int]] | None = None) -> list[str]:
    """Return what is known of each trial, in lines; user text is escaped since plotly reads HTML tags."""
    base, percent = study.reference, is_percentage(study)
    texts = []
    for e in group:
        text = f"<b>trial {e.trial}</b> {wrapped(description(e))}<br>{_facts(e, base, percent)}"
        if trials := (tied or {}).get(e.trial):
            who = f"the faster trial{'s' if len(trials) > 1 else ''} {_some(trials)}"
            text += f"<br>{escape(study.settings.metric)}: a tie with {who}"
        texts.append(text)
    return texts


def _some(trials: Sequence[int]) -> str:
    return ", ".join(map(str, trials[:6])) + (", ..." if len(trials) > 6 else "")


def _facts(e: Evaluation, base: Evaluation | None, percent: bool) -> str:
    lines = [f"{s.split}: {accuracy_text(s, percent)}" for s in (e.validation, e.test) if s]
    if e.predicted_latency_ms is not None:
        lines.append(f"predicted: {ms_text(e.predicted_latency_ms)}")
    if e.measured_latency_ms is not None:
        lines.append(f"measured: {ms_text(e.measured_latency_ms)}")
    if e.exits and e.worst_case_latency_ms is not None:
        lines.append(f"worst case ({e.latency_source}): {ms_text(e.worst_case_latency_ms)}")
    if e.size_bytes is not None:
        lines.append(f"size: {size_text(e.size_bytes)}")
    versus = compare(e, base, percent)
    if versus:
        lines.append(f"against fp32: {versus.text()} ({versus.basis()})")
    return "<br>".join(lines)
