from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from helpers.synthetic import baseline, candidate, make_study, settings
from rich.console import Console

from autocompress.errors import StudyError
from autocompress.report.comparison import Comparison, load
from autocompress.report.hypervolume import Volumes
from autocompress.report.text.comparison import sentences, table
from autocompress.report.web.compare import front_figure, render
from autocompress.studies.front import ParetoFront
from autocompress.studies.study import Study

OTHER = {**settings().device, "name": "raspberry-pi-4"}
REFERENCE = (0.8, 4.2, 1_180_000.0)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, ...]:
    """Two seeds of one sampler and a third study on another device."""
    folder = tmp_path_factory.mktemp("three")
    return (
        make_study(folder / "a", 30, seed=0),
        make_study(folder / "b", 20, seed=1),
        make_study(folder / "c", 20, seed=2, device=OTHER),
    )


def test_volumes_agree_with_the_front_at_every_step() -> None:
    volumes, seen = Volumes(REFERENCE), []
    for evaluation in [baseline(0, "fp32"), *(candidate(i, 1) for i in range(3, 40))]:
        seen.append(evaluation)
        volumes.add(evaluation)
        assert volumes.last() == pytest.approx(ParetoFront.of(seen).hypervolume(REFERENCE))
    done = [e for e in seen if e.kind == "candidate" and e.state != "rejected"]
    assert volumes.evaluated[-1] == len(done) < len(seen) - 1
    assert volumes.minutes[-1] == pytest.approx(sum(sum(e.seconds.values()) for e in seen) / 60)
    assert volumes.at(volumes.evaluated[-1]) == volumes.last() and volumes.at(-1) == 0
    assert volumes.at(volumes.minutes[5], "minutes") == volumes.volume[5]


def test_repeats_and_derived_points_are_free() -> None:
    volumes = Volumes(REFERENCE)
    first = candidate(3, 1)
    again = first.model_copy(update={"trial": 4, "derived_from": 3})
    for evaluation in (first, again, again.model_copy(update={"trial": 5})):
        volumes.add(evaluation)
    assert volumes.evaluated == [1, 1, 1]


def test_studies_on_one_device(three: tuple[Study, ...]) -> None:
    a, b, _ = three
    comparison = Comparison((a, b))
    data = comparison.to_dict()
    assert data["latencies_comparable"] and data["front_latency_source"] == "measured"
    rows = data["studies"]
    assert [row["name"] for row in rows] == ["a", "b"]
    for row, study in zip(rows, (a, b), strict=True):
        assert row["front_points"] == len(study.front)
        assert 0 <= row["joint_points"] <= row["front_points"]
        assert row["hypervolume"] >= row["hypervolume_equal_candidates"] > 0
    assert rows[0]["evaluated"] > rows[1]["evaluated"]
    assert rows[1]["hypervolume"] == rows[1]["hypervolume_equal_candidates"]
    fp32 = next(e for e in a.baselines if e.label == "fp32")
    assert data["reference"]["latency_ms"] == fp32.predicted_latency_ms
    assert data["reference"]["size_bytes"] == fp32.size_bytes
    assert data["groups"][0]["n"] == 2
    text = " ".join(sentences(comparison))
    assert "largest hypervolume" in text and "nsga2 on host: median hypervolume" in text


def test_other_devices_are_compared_relative_to_their_own_fp32(three: tuple[Study, ...], tmp_path: Path) -> None:
    a, _, c = three
    comparison = Comparison((a, c))
    data = comparison.to_dict()
    assert not data["latencies_comparable"] and data["reference"]["latency_relative_to_own_fp32"] == 1.0
    assert any("not comparable: different devices (host, raspberry-pi-4)" in said for said in data["cautions"])
    assert all(row["joint_points"] is None for row in data["studies"])
    assert "relative to the study's own fp32" in front_figure(comparison).layout.xaxis.title.text


def test_a_device_of_half_the_speed_is_as_good_relative_to_its_fp32(tmp_path: Path) -> None:
    fast = make_study(tmp_path / "fast", 20, final=False)
    slow = make_study(tmp_path / "slow", 0, device=OTHER)
    twice = (e.model_copy(update={"predicted_latency_ms": 2 * (e.predicted_latency_ms or 0)}) for e in fast.evaluations)
    slow = Study(slow.path, slow.settings, tuple(twice), False)
    one, other = (v.last() for v in Comparison((fast, slow)).volumes.values())
    assert one == pytest.approx(other) and one > 0


def test_a_study_that_goes_on_is_compared_by_predictions(three: tuple[Study, ...], tmp_path: Path) -> None:
    running = make_study(tmp_path / "running", 10, seed=3, final=False)
    comparison = Comparison((three[0], running))
    assert comparison.source == "predicted" and "Not finished: running." in comparison.cautions
    for front in comparison.fronts:
        assert {p.latency_source for p in front} == {"predicted"}


def test_names_tell_studies_apart(tmp_path: Path) -> None:
    paths = [tmp_path / side / "study" for side in ("x", "y")]
    for path in paths:
        make_study(path, 5)
    assert load(paths).names == ("x/study", "y/study")


def test_what_was_judged_differently_is_refused(three: tuple[Study, ...], tmp_path: Path) -> None:
    a = three[0]
    other = make_study(tmp_path / "other", 5, data_sha256="b2" * 32)
    with pytest.raises(
        StudyError, match=r"cannot be compared: data a1a1a1a1\.\.\. and b2b2b2b2\.\.\.; studies must be"
    ):
        Comparison((a, other))
    with pytest.raises(StudyError, match="metric accuracy and F1"):
        Comparison((a, make_study(tmp_path / "f1", 5, metric="F1")))
    with pytest.raises(StudyError, match="two or more"):
        Comparison((a,))
    with pytest.raises(StudyError, match="no completed fp32 baseline"):
        Comparison((a, make_study(tmp_path / "empty", 0)))


def test_other_models_spaces_and_constraints_are_said(three: tuple[Study, ...], tmp_path: Path) -> None:
    other = make_study(tmp_path / "other", 5, model_sha256="00" * 32, space={"stages": []}, constraints=())
    said = " ".join(Comparison((three[0], other)).cautions)
    assert "different models" in said and "different constraints" in said and "different spaces" in said


def test_the_page_is_one_file_and_hostile_text_stays_text(tmp_path: Path) -> None:
    bad = "</script><img src=x onerror=alert(1)>"
    studies = []
    for name in ("a", "b"):
        make_study(tmp_path / name, 8, seed=len(name), sampler=bad, metric=bad)
        studies.append(Study.open(tmp_path / name))
    text = render(Comparison(tuple(studies)))
    assert "<img" not in text.replace("&lt;img", "") and text.count("<script") == 3
    assert "default-src 'none'" in text
    assert len(text) < 3_000_000


def test_the_table_has_every_study(three: tuple[Study, ...]) -> None:
    comparison = Comparison(three)
    console = Console(width=160, file=StringIO())
    console.print(table(comparison))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("hypervolume", "at equal candidates", "fastest within 1 point", *comparison.names):
        assert words in text
    assert json.loads(json.dumps(comparison.to_dict()))["studies"][0]["path"] == str(three[0].path)
