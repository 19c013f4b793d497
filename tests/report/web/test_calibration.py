"""Predicted against measured of a profile, for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.devices.profile import Calibration, DeviceProfile
from autocompress.errors import DeviceError
from autocompress.report.web.calibration import (
    calibration_figure,
    degree_text,
    points_text,
    worst_table,
    write_calibration_html,
)


@pytest.fixture
def profile() -> DeviceProfile:
    points = {"a/fp32": (1.0, 1.01), "b/int8": (1.0, 1.3), "c<script>": (2.0, 1.0), "d/fp32": (4.0, 4.0)}
    calibration = Calibration(
        degree="full",
        points=4,
        median_error=0.155,
        p90_error=0.44,
        date="2026-11-22",
        held_out_ms=points,
        split="halves",
    )
    return DeviceProfile.load("raspberry-pi-4").model_copy(update={"calibration": calibration, "name": "mine"})


def test_the_histogram_counts_every_graph(profile: DeviceProfile) -> None:
    lines = points_text(profile).splitlines()
    assert lines[0].startswith("predicted against measured, 4 graphs")
    assert [int(line.replace("#", "").split()[-1]) for line in lines[1:]] == [2, 0, 0, 0, 1, 1]


def test_the_worst_come_first(profile: DeviceProfile) -> None:
    table = worst_table(profile)
    assert list(table.columns[0].cells)[:2] == ["c<script>", "b/int8"]
    assert list(table.columns[3].cells)[:2] == ["-50%", "+30%"]


def test_the_degree_says_the_error_and_where_it_comes_from(profile: DeviceProfile) -> None:
    assert degree_text(profile) == (
        "full: the whole plan was measured on the device; expect a median error of 15.5%, 90 % within 44.0% (halves)"
    )
    assert "unknown" in degree_text(profile.model_copy(update={"calibration": None}))


def test_the_figure_holds_every_graph_by_format(profile: DeviceProfile, tmp_path: Path) -> None:
    traces = {trace.name: trace for trace in calibration_figure(profile).data}
    assert {"+-10 %", "equal", "fp32", "int8", "other"} == set(traces)
    assert list(traces["int8"].x) == [1.0] and list(traces["int8"].y) == [1.3]
    write_calibration_html(profile, tmp_path / "c.html")
    text = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "c<script>" not in text and "https://cdn" not in text.split("Plotly.newPlot")[-1]


def test_without_points_there_is_nothing_to_draw(profile: DeviceProfile, tmp_path: Path) -> None:
    bare = profile.model_copy(update={"calibration": None})
    assert points_text(bare) == ""
    with pytest.raises(DeviceError, match="'mine' keeps no calibration points"):
        write_calibration_html(bare, tmp_path / "c.html")
    assert not list(tmp_path.iterdir())
