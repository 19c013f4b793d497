from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.synthetic import make_study

from autocompress.report.figures import diagnostics, plots
from autocompress.report.ties import TIE, ties
from autocompress.studies.study import Study

FIGURES = (
    *(plots.front_figure, plots.front_figure_3d),
    *(diagnostics.measured_figure, diagnostics.budget_figure, diagnostics.progress_figure, diagnostics.exits_figure),
)


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
        assert (mark == TIE) == bool(tied[n]) == ("a tie with the faster trial" in hover)
    assert front.text[0] == ""  # nothing is faster


@pytest.mark.parametrize("draw", FIGURES)
def test_every_figure_copes_with_every_kind_of_study(
    draw: Callable[[Study], Any], empty_study: Study, running_study: Study, finished_study: Study
) -> None:
    for study in (empty_study, running_study, finished_study):
        figure = draw(study)
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
