from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_study

from autocompress.report import plots
from autocompress.report.importance import Importance
from autocompress.report.ties import ties
from autocompress.results import ParetoFront
from autocompress.study import Study

FIGURES = ("front_figure", "front_figure_3d", "measured_figure", "budget_figure", "progress_figure", "exits_figure")


def traces(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def test_front_points_have_the_figures_of_the_study(finished_study: Study) -> None:
    front = traces(plots.front_figure(finished_study))["front"]
    assert list(front.customdata) == [
        e.trial for e in finished_study.evaluations if e in list(finished_study.front) and e.kind == "candidate"
    ]
    for n, x, y, up, down in zip(
        front.customdata, front.x, front.y, front.error_y.array, front.error_y.arrayminus, strict=True
    ):
        e = finished_study.evaluation(n)
        assert e.validation is not None
        assert x == e.measured_latency_ms
        assert y == pytest.approx(100 * e.validation.value)
        assert (y + up, y - down) == pytest.approx((100 * e.validation.high, 100 * e.validation.low))


def test_the_test_split_shows_test_scores_only(finished_study: Study) -> None:
    figure = plots.front_figure(finished_study, "test")
    assert "test split" in figure.layout.yaxis.title.text
    front = traces(figure)["front"]
    for n, y in zip(front.customdata, front.y, strict=True):
        test = finished_study.evaluation(n).test
        assert test is not None and y == pytest.approx(100 * test.value)
    assert not traces(figure)["other trials"].x


def test_baselines_have_their_own_labelled_symbols(finished_study: Study) -> None:
    found = traces(plots.front_figure(finished_study))
    symbols = {found[f"{name} baseline"].marker.symbol for name in ("fp32", "fp16", "int8")}
    assert len(symbols) == 3
    assert found["int8 baseline"].text == ("int8",)


def test_all_complete_trials_are_shown_once(finished_study: Study) -> None:
    for figure in (plots.front_figure(finished_study), plots.front_figure_3d(finished_study)):
        shown = sorted(n for trace in figure.data for n in trace.customdata or ())
        assert shown == [e.trial for e in finished_study.evaluations if e.state == "complete"]


def test_hollow_symbols_are_predictions(finished_study: Study, running_study: Study) -> None:
    found = traces(plots.front_figure(finished_study))
    assert set(found["front"].marker.symbol) == {"circle"}
    assert set(found["other trials"].marker.symbol) == {"circle-open"}
    found = traces(plots.front_figure(running_study))
    assert set(found["front"].marker.symbol) == {"circle-open"}
    assert found["fp32 baseline"].marker.symbol == "diamond-open"


def test_constraints_are_lines_with_their_text(finished_study: Study) -> None:
    layout = plots.front_figure(finished_study).layout
    assert len(layout.shapes) == 2
    assert {a.text for a in layout.annotations} == {"latency_ms at most 3", "accuracy at least 0.9"}


def test_prediction_error_has_one_point_per_measured_trial(finished_study: Study) -> None:
    found = traces(plots.measured_figure(finished_study))
    shown = [n for name in ("candidates", "baselines") for n in found[name].customdata]
    assert sorted(shown) == [e.trial for e in finished_study.evaluations if e.measured_latency_ms]
    x, y = found["candidates"].x[0], found["candidates"].y[0]
    e = finished_study.evaluation(found["candidates"].customdata[0])
    assert (x, y) == (e.predicted_latency_ms, e.measured_latency_ms)


def test_budget_adds_up_to_the_seconds_of_the_study(finished_study: Study) -> None:
    figure = plots.budget_figure(finished_study)
    per_trial = sum(sum(trace.y) for trace in figure.data if trace.customdata)
    totals = sum(sum(trace.y) for trace in figure.data if not trace.customdata)
    expected = sum(sum(e.seconds.values()) for e in finished_study.evaluations)
    assert (per_trial, totals * 60) == pytest.approx((expected, expected))


def test_hypervolume_never_falls_and_ends_at_the_front_s(running_study: Study) -> None:
    volumes = plots.progress_figure(running_study).data[0].y
    assert list(volumes) == sorted(volumes)
    worst, words = plots.hypervolume_reference(running_study)
    assert worst is not None and "fp32" in words
    complete = [e for e in running_study.evaluations if e.state == "complete"]
    assert volumes[-1] == pytest.approx(ParetoFront.of(complete).hypervolume(worst))


def test_bars_reach_from_the_first_exit_to_the_worst_case(exiting_study: Study) -> None:
    front = traces(plots.front_figure(exiting_study))["front"]
    seen = 0
    for n, x, more, less in zip(front.customdata, front.x, front.error_x.array, front.error_x.arrayminus, strict=True):
        e = exiting_study.evaluation(n)
        seen += bool(e.exits)
        if e.exits:
            assert (x - less, x + more) == pytest.approx((e.exits[0].latency_ms, e.worst_case_latency_ms))
        else:
            assert (more, less) == (0, 0)
    assert seen


def test_a_tie_is_marked_and_said(finished_study: Study) -> None:
    front = traces(plots.front_figure(finished_study, "test"))["front"]
    tied = ties(finished_study.front, "test")
    for n, mark, hover in zip(front.customdata, front.text, front.hovertext, strict=True):
        assert (mark == plots.TIE) == bool(tied[n]) == ("a tie with the faster trial" in hover)
    assert front.text[0] == ""  # nothing is faster


def test_exit_rates_add_up(exiting_study: Study) -> None:
    points = [e for e in exiting_study.front if e.exits]
    shares = dict.fromkeys((f"trial {e.trial}" for e in points), 0.0)
    for trace in plots.exits_figure(exiting_study).data:
        for name, share in zip(trace.y, trace.x, strict=True):
            shares[name] += share
    assert list(shares.values()) == pytest.approx([100] * len(points))


def test_importance_is_drawn_pale_where_it_is_chance() -> None:
    found = [Importance("accuracy", "prune.ratio", 0.9, True), Importance("accuracy", "ptq.weight_bits", 0.1, False)]
    [trace] = plots.importance_figure(found).data
    assert list(trace.y) == ["ptq.weight_bits", "prune.ratio"] and list(trace.marker.opacity) == [0.25, 1.0]


def test_colours_are_those_of_okabe_and_ito() -> None:
    known = {"#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#888888"}
    script = (Path(plots.__file__).parent / "report.js").read_text()
    used = set(re.findall(r"#[0-9A-Fa-f]{6}", script)) - {"#dddddd"}
    assert used <= known and set(plots.PHASES.values()) <= known


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_copes_with_every_kind_of_study(
    name: str, empty_study: Study, running_study: Study, finished_study: Study
) -> None:
    for study in (empty_study, running_study, finished_study):
        figure = getattr(plots, name)(study)
        assert json.loads(figure.to_json())["layout"]["paper_bgcolor"] == "white"


def test_axes_have_units(finished_study: Study) -> None:
    layout = plots.front_figure(finished_study).layout
    assert "ms" in layout.xaxis.title.text and "%" in layout.yaxis.title.text
    scene = plots.front_figure_3d(finished_study).layout.scene
    assert "(ms)" in scene.xaxis.title.text and "(MB)" in scene.yaxis.title.text


def test_hostile_names_are_escaped_for_plotly(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 3, final=False, metric="<a href='http://x'>acc</a>")
    text = plots.front_figure(study).to_json()
    assert "<a href" not in text.replace("\\u003c", "<")
