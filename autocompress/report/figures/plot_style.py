"""What all figures have in common: colours, axes, bars of an interval, and the band around a perfect prediction.

Colours: Okabe and Ito, "Color Universal Design", 2008.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#888888"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def layout(**parts: Any) -> dict[str, Any]:
    """The look of a figure; `parts` are its axes, by their names in plotly's layout."""
    axis: dict[str, Any] = {"gridcolor": "#dddddd", "zeroline": False, "automargin": True, "showline": True}
    look: dict[str, Any] = {
        "template": "none",
        "font": {"family": FONT, "size": 13, "color": "#222222"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}},
    }
    return look | {key: axis | value for key, value in parts.items()}


def log_axis(values: Iterable[float], margin: float = 1.15) -> dict[str, Any]:
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


def error_bars(more: Sequence[float], less: Sequence[float], width: float) -> dict[str, Any]:
    """Thin grey bars that reach so far above and below each point; `width` is that of their ends, in pixels."""
    return {
        "type": "data",
        "symmetric": False,
        "array": more,
        "arrayminus": less,
        "color": GREY,
        "thickness": 1,
        "width": width,
    }


def add_equality(figure: go.Figure, values: Sequence[float]) -> None:
    """Draw the line on which two latencies are equal and a band of +-10 % around it, as long as the values reach."""
    if not values:
        return
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


def wrapped(text: str, width: int = 60) -> str:
    """User text for a hover label, in lines and escaped, since plotly reads HTML tags there."""
    words, lines = text.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()[:400]
    return "<br>".join(escape(line) for line in lines[:8] if line)
