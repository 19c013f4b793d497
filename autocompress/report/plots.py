"""The front and its company as plotly figures, for notebooks and for the HTML report.

Every point carries its trial number as customdata. Colours: Okabe and Ito, "Color Universal Design", 2008.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autocompress.ablation import Ablation
from autocompress.report._words import (
    accuracy_text,
    compare,
    description,
    is_percentage,
    limits,
    ms_text,
    reference,
    size_text,
)
from autocompress.report.importance import Importance
from autocompress.report.ties import ties
from autocompress.results import Evaluation, Score, Split
from autocompress.study import Study

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#888888"
PHASES = {"structure": ORANGE, "training": BLUE, "numerics": GREEN, "evaluation": PURPLE}
"""Colour of each phase of a trial."""

_EXITS = (ORANGE, GREEN, PURPLE, SKY)
TIE = "\u2248"
"""Marks points whose accuracy interval overlaps that of a faster point of the front."""
_KNOBS = 12
"""Knobs shown, the most important ones."""
_SIZE_SCALE = [[0.0, ORANGE], [0.5, "#A08A62"], [1.0, BLUE]]
_SYMBOLS = {"fp32": "diamond", "fp16": "square", "int8": "triangle-up"}
_PLACES = {"fp32": "top right", "fp16": "bottom right"}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


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
    on_line = _best_by_latency([e for e in study.front if _score(e, split)], split)
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
        _layout(
            xaxis=_log_axis(latencies, 1.35) | {"title": {"text": _latency_title(study)}},
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
        "xaxis": _log_axis([e.latency_ms or 0.0 for e in shown]) | {"title": {"text": "latency (ms)"}},
        "yaxis": _log_axis(megabytes) | {"title": {"text": "file size (MB)"}},
        "zaxis": {"title": {"text": f"{escape(study.settings.metric)} ({'%, ' if percent else ''}{split})"}},
    }
    heights = [_value(e, split, percent) for e in shown]
    if heights:
        margin = 0.05 * (max(heights) - min(heights)) or 1e-3
        axes["zaxis"]["range"] = [min(heights) - margin, max(heights) + margin]
    scene = {name: grid | axis for name, axis in axes.items()}
    scene["camera"] = {"eye": {"x": -1.45, "y": -1.45, "z": 0.7}, "center": {"x": 0, "y": 0, "z": -0.12}}
    figure.update_layout(_layout(), scene=scene, margin={"l": 0, "r": 0, "t": 10, "b": 0})
    return figure


def measured_figure(study: Study) -> go.Figure:
    """Measured over predicted latency, with the line of equality and a band of +-10 %."""
    both = [e for e in study.evaluations if e.predicted_latency_ms and e.measured_latency_ms]
    figure = go.Figure()
    if both:
        values = [v for e in both for v in (e.predicted_latency_ms, e.measured_latency_ms) if v]
        low, high = min(values) / 1.25, max(values) * 1.25
        figure.add_scatter(
            x=[low, high, high, low],
            y=[low * 0.9, high * 0.9, high * 1.1, low * 1.1],
            fill="toself",
            mode="none",
            name="+-10 %",
            fillcolor="rgba(136, 136, 136, 0.3)",
            hoverinfo="skip",
        )
        line = {"color": GREY, "dash": "dash", "width": 1.5}
        figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line=line, name="equal", hoverinfo="skip")
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
    axis = _log_axis([v for e in both for v in (e.predicted_latency_ms, e.measured_latency_ms) if v], 1.25)
    figure.update_layout(
        _layout(
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
    figure.update_layout(_layout(), barmode="stack", bargap=0.1)
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
        _layout(
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
    figure.update_layout(_layout(), showlegend=False, bargap=0.25, margin={"t": 15})
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
        _layout(
            xaxis={"title": {"text": "validation samples that leave there (%)"}, "range": [0, 100]},
            yaxis={"title": {"text": ""}, "type": "category", "autorange": "reversed"},
        ),
        barmode="stack",
        bargap=0.3,
        legend_traceorder="normal",
    )
    return figure


def hypervolume_reference(study: Study) -> tuple[tuple[float, float, float] | None, str]:
    """Return the worst point that counts, and the same in words; None without a completed fp32 baseline."""
    base = reference(study)
    if base is None or base.validation is None or not base.size_bytes:
        return None, "no completed fp32 baseline to refer to"
    latency = base.predicted_latency_ms or base.latency_ms or 1.0
    percent = is_percentage(study)
    accuracy = base.validation.value - (0.1 if percent else 0.1 * abs(base.validation.value))
    words = "10 points" if percent else "10 %"
    size, metric = size_text(base.size_bytes), study.settings.metric
    text = (
        "the volume is in metric x ln ms x ln bytes up to the reference of fp32's latency "
        f"({ms_text(latency)}), size ({size}) and {metric} less {words}"
    )
    return (accuracy, latency, float(base.size_bytes)), text


def _hypervolumes(study: Study, worst: tuple[float, float, float]) -> tuple[list[float], list[float], list[int]]:
    from autocompress.report._volume import Volumes, in_order  # which draws with this module

    volumes, ordered = Volumes(worst), in_order(study.evaluations)
    for e in ordered:
        volumes.add(e)
    timed = any(e.seconds for e in ordered)
    spent = volumes.minutes if timed else [float(i) for i in range(1, len(ordered) + 1)]
    return spent, volumes.volume, [e.trial for e in ordered]


def _groups(study: Study, split: Split) -> tuple[list[Evaluation], list[Evaluation], list[Evaluation]]:
    """Return the complete trials with a score of the split: others, candidates of the front, baselines."""
    on_front = {e.trial for e in study.front}
    shown = [e for e in study.evaluations if e.state == "complete" and _score(e, split) and e.latency_ms]
    others = [e for e in shown if e.kind == "candidate" and e.trial not in on_front]
    front = [e for e in shown if e.kind == "candidate" and e.trial in on_front]
    return others, front, [e for e in shown if e.kind == "baseline"]


def _score(evaluation: Evaluation, split: Split) -> Score | None:
    return evaluation.validation if split == "validation" else evaluation.test


def _value(evaluation: Evaluation, split: Split, percent: bool) -> float:
    score = _score(evaluation, split)
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
    base = reference(study)
    if base is None or not base.latency_ms or len(ablation.pipelines) < 2:
        return None
    percent, first = is_percentage(study), ablation.pipelines[0].evaluation
    scale = base.latency_ms / (first.latency_ms or base.latency_ms)
    if base.latency_source != first.latency_source:
        return None
    shown = [s for s in ablation.pipelines[1:] if s.evaluation.state == "complete" and _score(s.evaluation, split)]
    return go.Scatter(
        x=[(s.evaluation.latency_ms or 0.0) * scale for s in shown],
        y=[_value(s.evaluation, split, percent) for s in shown],
        mode="markers",
        marker={"size": 10, "color": GREEN, "symbol": "x-thin", "line": {"width": 2.5, "color": GREEN}},
        hovertext=[f"<b>{_wrap(s.label)}</b><br>{_facts(s.evaluation, first, percent)}" for s in shown],
        hovertemplate="%{hovertext}<extra></extra>",
        name="put together by hand",
    )


def _paths(group: Sequence[Evaluation]) -> dict[str, Any]:
    """Bars from the latency of the first exit to the worst case; none where there is no exit."""
    ends = [(e.latency_ms or 0.0, e.exits[0].latency_ms, e.worst_case_latency_ms) if e.exits else None for e in group]
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, (end[2] or end[0]) - end[0]) if end else 0.0 for end in ends],
        "arrayminus": [max(0.0, end[0] - end[1]) if end else 0.0 for end in ends],
        "color": GREY,
        "thickness": 1,
        "width": 0,
    }


def _interval(group: Sequence[Evaluation], split: Split, percent: bool) -> dict[str, Any]:
    unit = 100 if percent else 1
    scores = [s for e in group if (s := _score(e, split))]
    return {
        "type": "data",
        "symmetric": False,
        "array": [(s.high - s.value) * unit for s in scores],
        "arrayminus": [(s.value - s.low) * unit for s in scores],
        "color": GREY,
        "thickness": 1,
        "width": 3,
    }


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
    base, percent = reference(study), is_percentage(study)
    texts = []
    for e in group:
        text = f"<b>trial {e.trial}</b> {_wrap(description(e))}<br>{_facts(e, base, percent)}"
        if trials := (tied or {}).get(e.trial):
            text += f"<br>accuracy: a tie with the faster trial{'s' if len(trials) > 1 else ''} {_some(trials)}"
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


def _wrap(text: str, width: int = 60) -> str:
    words, lines = text.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()[:400]
    return "<br>".join(escape(line) for line in lines[:8] if line)


def _error_hover(e: Evaluation) -> str:
    predicted, measured = e.predicted_latency_ms or 0.0, e.measured_latency_ms or 1.0
    return (
        f"<b>trial {e.trial}</b> {_wrap(description(e))}<br>predicted: {ms_text(predicted)}<br>"
        f"measured: {ms_text(measured)}<br>prediction error: {predicted / measured - 1:+.1%}"
    )


def _log_axis(values: Iterable[float], margin: float = 1.15) -> dict[str, Any]:
    """Return a logarithmic axis around the values; ticks read "0.5" where plotly would write "5"."""
    positive = [v for v in values if v > 0]
    if not positive:
        return {"type": "log"}
    low, high = min(positive) / margin, max(positive) * margin
    steps = (1, 2, 5) if high / low > 10 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [s * 10.0**x for x in exponents for s in steps if low <= s * 10.0**x <= high]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:,.4g}" if tick < 1000 else f"{tick:,.0f}" for tick in ticks],
    }


def _layout(**parts: Any) -> dict[str, Any]:
    axis: dict[str, Any] = {"gridcolor": "#dddddd", "zeroline": False, "automargin": True, "showline": True}
    layout: dict[str, Any] = {
        "template": "none",
        "font": {"family": _FONT, "size": 13, "color": "#222222"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"align": "left", "font": {"family": _FONT, "size": 12}},
    }
    return layout | {key: axis | value for key, value in parts.items()}
