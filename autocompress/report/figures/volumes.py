"""Hypervolume as a search goes on, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import plotly.graph_objects as go

from autocompress.report.figures.plot_style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, layout
from autocompress.report.hypervolume import Axis, Volumes

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, GREY)


def volumes_figure(series: Mapping[str, Volumes], axis: Axis) -> go.Figure:
    """Hypervolume of one or several studies over evaluated candidates or over minutes of compute."""
    figure = go.Figure()
    for i, (name, volumes) in enumerate(series.items()):
        figure.add_scatter(
            x=getattr(volumes, axis),
            y=volumes.volume,
            mode="lines",
            line={"shape": "hv", "width": 2, **line_of(i)},
            hovertemplate=f"{escape(name)}<br>%{{x:.4g}}: %{{y:.4g}}<extra></extra>",
            name=escape(name),
        )
    title = "evaluated candidates" if axis == "evaluated" else "compute, all workers together (min)"
    figure.update_layout(
        layout(
            xaxis={"title": {"text": title}, "rangemode": "tozero"},
            yaxis={"title": {"text": "hypervolume"}, "rangemode": "tozero"},
        ),
        showlegend=len(series) > 1,
    )
    return figure


def line_of(i: int) -> dict[str, str]:
    """Colour and dash of the i-th study: told apart without colours too."""
    dashes = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
    return {"color": COLOURS[i % len(COLOURS)], "dash": dashes[i % len(dashes)]}
