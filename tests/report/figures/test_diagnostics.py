from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_plots import traces

from autocompress.report.figures import diagnostics, plot_style
from autocompress.report.hypervolume import hypervolume_reference
from autocompress.report.importance import Importance
from autocompress.studies.front import ParetoFront
from autocompress.studies.study import Study


def test_prediction_error_has_one_point_per_measured_trial(finished_study: Study) -> None:
    found = traces(diagnostics.measured_figure(finished_study))
    shown = [n for name in ("candidates", "baselines") for n in found[name].customdata]
    assert sorted(shown) == [e.trial for e in finished_study.evaluations if e.measured_latency_ms]
    x, y = found["candidates"].x[0], found["candidates"].y[0]
    e = finished_study.evaluation(found["candidates"].customdata[0])
    assert (x, y) == (e.predicted_latency_ms, e.measured_latency_ms)


def test_budget_adds_up_to_the_seconds_of_the_study(finished_study: Study) -> None:
    figure = diagnostics.budget_figure(finished_study)
    per_trial = sum(sum(trace.y) for trace in figure.data if trace.customdata)
    totals = sum(sum(trace.y) for trace in figure.data if not trace.customdata)
    expected = sum(sum(e.seconds.values()) for e in finished_study.evaluations)
    assert (per_trial, totals * 60) == pytest.approx((expected, expected))


def test_hypervolume_never_falls_and_ends_at_the_front_s(running_study: Study) -> None:
    volumes = diagnostics.progress_figure(running_study).data[0].y
    assert list(volumes) == sorted(volumes)
    worst, words = hypervolume_reference(running_study)
    assert worst is not None and "fp32" in words
    complete = [e for e in running_study.evaluations if e.state == "complete"]
    assert volumes[-1] == pytest.approx(ParetoFront.of(complete).hypervolume(worst))


def test_exit_rates_add_up(exiting_study: Study) -> None:
    points = [e for e in exiting_study.front if e.exits]
    shares = dict.fromkeys((f"trial {e.trial}" for e in points), 0.0)
    for trace in diagnostics.exits_figure(exiting_study).data:
        for name, share in zip(trace.y, trace.x, strict=True):
            shares[name] += share
    assert list(shares.values()) == pytest.approx([100] * len(points))


def test_importance_is_drawn_pale_where_it_is_chance() -> None:
    found = [Importance("accuracy", "prune.ratio", 0.9, True), Importance("accuracy", "ptq.weight_bits", 0.1, False)]
    [trace] = diagnostics.importance_figure(found).data
    assert list(trace.y) == ["ptq.weight_bits", "prune.ratio"] and list(trace.marker.opacity) == [0.25, 1.0]


def test_colours_are_those_of_okabe_and_ito() -> None:
    known = {"#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#888888"}
    script = "".join(path.read_text() for path in (Path(plot_style.__file__).parents[1] / "web").glob("*.js"))
    used = set(re.findall(r"#[0-9A-Fa-f]{6}", script)) - {"#dddddd"}
    assert used <= known and set(diagnostics.PHASES.values()) <= known
