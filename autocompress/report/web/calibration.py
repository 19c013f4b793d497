"""How well a profile predicts the graphs it was calibrated with: for the terminal and as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import pairwise
from pathlib import Path

import plotly.graph_objects as go
from rich.table import Table

from autocompress.devices.profile import DeviceProfile
from autocompress.errors import DeviceError
from autocompress.files import write_atomically
from autocompress.report.figures.plot_style import BLUE, ORANGE, VERMILLION, add_equality
from autocompress.report.formatting import ms_text

_DEGREES = {
    "none": "none: public data of this device, nothing measured on yours",
    "one": "one measured latency moved the profile of a similar device",
    "few": "a few measured latencies moved the profile of a similar device",
    "full": "full: the whole plan was measured on the device",
}
_EDGES = (0.02, 0.05, 0.1, 0.2, 0.5)
_WORST = 5
_BAR = 40


def degree_text(profile: DeviceProfile) -> str:
    """Degree of calibration and the error to expect, with where that figure comes from."""
    c = profile.calibration
    if c is None:
        return "unknown: the profile says nothing about its calibration"
    error = f"expect a median error of {c.median_error:.1%}, 90 % within {c.p90_error:.1%}"
    return f"{_DEGREES[c.degree]}; {error} ({c.split})"


def points_text(profile: DeviceProfile) -> str:
    """Histogram of the held-out errors, one line per class, and the worst graphs; empty if there are no points."""
    errors = _errors(profile)
    if not errors:
        return ""
    bounds = (0.0, *_EDGES, float("inf"))
    classes = list(pairwise(bounds))
    counts = [sum(low <= abs(e) < high for e in errors.values()) for low, high in classes]
    lines = [f"predicted against measured, {len(errors)} graphs, each predicted by a fit that did not see it:"]
    for (low, high), count in zip(classes, counts, strict=True):
        label = f"{low:.0%} to {high:.0%}" if high < float("inf") else f"above {low:.0%}"
        lines.append(f"  {label:<12} {count:>4}  {'#' * -(-count * _BAR // max(counts))}")
    return "\n".join(lines)


def worst_table(profile: DeviceProfile) -> Table:
    """The graphs that are predicted worst."""
    table = Table(title="predicted worst", title_justify="left")
    table.add_column("graph")
    for column in ("measured", "predicted", "error"):
        table.add_column(column, justify="right")
    errors = _errors(profile)
    points = _points(profile)
    for name in sorted(errors, key=lambda n: abs(errors[n]), reverse=True)[:_WORST]:
        measured, predicted = points[name]
        table.add_row(name, ms_text(measured), ms_text(predicted), f"{errors[name]:+.0%}")
    return table


def calibration_figure(profile: DeviceProfile) -> go.Figure:
    """Predicted over measured latency of every held-out graph, with the line of equality and a band of +-10 %."""
    points, errors = _points(profile), _errors(profile)
    values = [v for pair in points.values() for v in pair if v > 0]
    figure = go.Figure()
    add_equality(figure, values)
    for group, colour in (("fp32", BLUE), ("int8", ORANGE), ("other", VERMILLION)):
        names = [name for name in points if _group(name) == group]
        if names:
            figure.add_scatter(
                x=[points[n][0] for n in names],
                y=[points[n][1] for n in names],
                mode="markers",
                marker={"color": colour, "size": 7, "opacity": 0.8},
                hovertext=[
                    f"<b>{escape(n)}</b><br>measured {ms_text(points[n][0])}<br>predicted {ms_text(points[n][1])}"
                    f"<br>error {errors[n]:+.1%}"
                    for n in names
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                name=group,
            )
    figure.update_layout(
        title={"text": f"{profile.name}: {degree_text(profile)}", "font": {"size": 13}},
        template="plotly_white",
        xaxis={"type": "log", "title": {"text": "measured latency (ms)"}},
        yaxis={"type": "log", "title": {"text": "predicted latency (ms), held out"}},
    )
    return figure


def write_calibration_html(profile: DeviceProfile, path: str | Path) -> None:
    """Write the figure as one file that needs no network, all or nothing.

    Raises:
        DeviceError: the profile keeps no calibration points.
    """
    if not _points(profile):
        raise DeviceError(f"profile {profile.name!r} keeps no calibration points; calibrate it again to get them.")
    write_atomically(path, calibration_figure(profile).to_html(include_plotlyjs=True, full_html=True))


def _points(profile: DeviceProfile) -> Mapping[str, tuple[float, float]]:
    return profile.calibration.held_out_ms if profile.calibration else {}


def _errors(profile: DeviceProfile) -> dict[str, float]:
    return {name: predicted / measured - 1 for name, (measured, predicted) in _points(profile).items()}


def _group(name: str) -> str:
    return "int8" if "int8" in name else "fp32" if "fp32" in name else "other"
