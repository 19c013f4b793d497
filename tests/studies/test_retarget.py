from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.small import EXITS, device, small_task, space

from autocompress.controller import Budget, search
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import InputError, StudyError
from autocompress.report.text.retarget import cross_rows, sentences
from autocompress.report.web.retarget import render
from autocompress.studies.constraints import at_most, max_accuracy_drop
from autocompress.studies.results import Evaluation
from autocompress.studies.retarget import Retargeted, retarget
from autocompress.studies.study import Study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Baselines and the thresholds of a network with an exit; an energy limit that is relative to fp32."""
    out = tmp_path_factory.mktemp("retarget") / "study"
    target = device().model_copy(update={"active_power_mw": 3000.0})
    limits = [max_accuracy_drop(0.9), at_most("energy_mj", 2.0, relative_to_baseline=True)]
    search(small_task("resnet"), target, space(EXITS), budget=Budget(1), out=out, constraints=limits)
    return out


@pytest.fixture
def study(folder: Path) -> Study:
    return Study.open(folder)


def other(name: str = "other", **changes: Any) -> DeviceProfile:
    """A device whose costs do not depend on the number format."""
    costs = {"us_per_mmac": 100.0, "us_per_mb_in": 10.0}
    data = {"name": name, "latency": {"any": {"float32": costs, "int8": costs}}}
    return DeviceProfile.parse({**data, "provenance": {"kind": "measured", "source": "a test"}, **changes})


def complete(study: Study) -> list[Evaluation]:
    return [e for e in study.evaluations if e.state == "complete"]


def test_the_device_of_the_study_gets_the_figures_of_the_study(study: Study) -> None:
    own = DeviceProfile.parse(study.settings.device)
    [projection] = retarget(study, [own]).projections
    assert any(e.exits for e in complete(study))
    for e in complete(study):
        point = projection.point(e.trial)
        assert point is not None and point.predicted_latency_ms == pytest.approx(e.predicted_latency_ms)
        assert point.worst_case_latency_ms == pytest.approx(e.worst_case_latency_ms)
        assert point.peak_memory_bytes == e.peak_memory_bytes and point.energy_mj == pytest.approx(e.energy_mj)
        assert [x.latency_ms for x in point.exits] == pytest.approx([x.latency_ms for x in e.exits])
        low, high = projection.intervals[e.trial]
        assert low < (point.latency_ms or 0) < high
    assert [p.trial for p in projection.front] == [p.trial for p in study.front]


def test_files_stand_in_for_what_was_not_kept(study: Study, folder: Path, tmp_path: Path) -> None:
    expected = retarget(study, [other()]).projections[0]
    copy = tmp_path / "old"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "workloads")
    from_files = retarget(Study.open(copy), [other()]).projections[0]
    assert [p.latency_ms for p in from_files.points] == pytest.approx([p.latency_ms for p in expected.points], rel=0.02)
    assert [p.trial for p in from_files.points] == [p.trial for p in expected.points]

    file = copy / str(complete(study)[0].artifact)
    file.unlink()
    assert retarget(Study.open(copy), [other()]).lost == (complete(study)[0].trial,)
    for path in copy.glob("trials/*/*.onnx"):
        path.unlink()
    with pytest.raises(StudyError, match="neither workloads/ nor the ONNX files of its trials are left"):
        retarget(Study.open(copy), [other()])


def test_nothing_but_text_files_is_needed(study: Study, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "light"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.onnx", "cache"))
    result = retarget(Study.open(copy), [other()])
    assert not result.lost and len(result.projections[0].points) == len(complete(study))


def test_what_a_runtime_cannot_execute_is_excluded_with_its_reason(study: Study) -> None:
    [npu] = retarget(study, [other("npu", runtime="rknn")]).projections
    by_label = {e.label: e.trial for e in study.baselines}
    formats = {e.trial: {(x.weight_bits, x.activation_bits) for x in e.layers} for e in complete(study)}
    executed = {(8, 8), (32, 32)}
    assert set(npu.excluded) == {e.trial for e in complete(study) if e.exits or formats[e.trial] - executed}
    assert npu.excluded[by_label["fp16"]] == "npu (rknn) executes weights of 8 and 32 bits only"
    assert "If operators" in next(npu.excluded[e.trial] for e in complete(study) if e.exits)
    assert "rknn quantises again" in npu.doubts[by_label["int8"]] and by_label["fp32"] not in npu.doubts

    [tpu] = retarget(
        study, [other("tpu", runtime="edgetpu", latency={"any": {"int8": {"us_per_mmac": 1.0}}})]
    ).projections
    assert {p.trial for p in tpu.points} == {t for t, found in formats.items() if found == {(8, 8)}} - set(npu.excluded)
    assert by_label["int8"] in {p.trial for p in tpu.points}
    assert any("energy_mj" in note and "not checked" in note for note in tpu.notes)


def test_what_does_not_fit_is_excluded(study: Study) -> None:
    sizes = sorted(e.size_bytes or 0 for e in complete(study))
    [small] = retarget(study, [other(flash_bytes=sizes[1], active_power_mw=1.0)]).projections
    assert sorted(p.size_bytes or 0 for p in small.points) == [s for s in sizes if s <= sizes[1]]
    assert all(reason.startswith("does not fit: size_bytes must be at most") for reason in small.excluded.values())
    [none] = retarget(study, [other(ram_bytes=1)]).projections
    assert not none.points and len(none.front) == 0 and none.choice is None


def test_saturating_arithmetic_is_flagged(study: Study) -> None:
    [projection] = retarget(study, [other(int8_arithmetic="saturating")]).projections
    flagged = {e.trial for e in complete(study) if any(x.weight_bits == x.activation_bits == 8 for x in e.layers)}
    assert flagged and set(projection.doubts) == flagged
    assert "saturating" in projection.doubts[min(flagged)]
    assert not retarget(study, [other()]).projections[0].doubts


def test_constraints_hold_against_the_baseline_of_each_device(study: Study) -> None:
    [powered] = retarget(study, [other(active_power_mw=500.0)]).projections
    fp32 = next(p for p in powered.points if p.label == "fp32")
    limit = {c.quantity: c.limit for c in powered.constraints}
    assert limit["energy_mj"] == pytest.approx(2 * (fp32.energy_mj or 0)) and powered.constraints_met
    assert powered.choice is powered.knee  # accuracy and energy are limited, so neither is free
    [unknown] = retarget(study, [other()]).projections
    assert [c.quantity for c in unknown.constraints] == ["accuracy"]
    assert "does not say what the device draws" in unknown.notes[0]
    assert unknown.choice is not None  # accuracy is limited, so the fastest point is best
    assert unknown.choice.latency_ms == min(p.latency_ms or 0 for p in unknown.front)


def two(study: Study) -> Retargeted:
    return retarget(study, [device(), other("tight", ram_bytes=1), other(int8_arithmetic="saturating")])


def test_cross_table(study: Study) -> None:
    result = two(study)
    found = {(c.chosen_for, c.device): c for c in result.crossings()}
    assert len(found) == 9
    own = found["other", "other"]
    assert own.latency_cost == 0 and own.accuracy_difference == 0 and own.trial == own.own_trial
    there = found["raspberry-pi-4", "other"]
    a, b = (next(p for p in result.projections if p.device.name == n) for n in ("raspberry-pi-4", "other"))
    assert a.choice is not None and b.choice is not None
    point = b.point(a.choice.trial)
    assert point is not None
    assert there.latency_cost == pytest.approx((point.latency_ms or 0) / (b.choice.latency_ms or 1) - 1)
    assert (there.slower_at_its_accuracy or 0) >= 0
    assert found["raspberry-pi-4", "tight"].reason.startswith("does not fit")
    assert found["tight", "other"].reason == "nothing runs on tight"
    frame = result.cross_frame()
    assert frame.loc["other", "other"] == 0 and frame.loc["raspberry-pi-4", ["tight"]].isna().all()


def test_frame_and_dictionary(study: Study) -> None:
    result = two(study)
    frame = result.frame()
    assert len(frame) == 3 * len(complete(study))
    assert frame.groupby("device")["runs"].sum().to_dict()["tight"] == 0
    assert frame[frame["choice"] == True]["device"].tolist() == ["raspberry-pi-4", "other"]  # noqa: E712  may be NaN
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [d["device"] for d in data["devices"]] == ["raspberry-pi-4", "tight", "other"]
    assert data["devices"][2]["front"] and not data["devices"][1]["front"]


def test_tables_and_page(study: Study) -> None:
    result = two(study)
    rows = cross_rows(result)
    assert [row[0].split(" (")[0] for row in rows] == ["raspberry-pi-4", "tight", "other"]
    assert rows[0][2] == "does not run"
    text = "\n".join(sentences(result))
    assert "all latencies are predicted" in text and "excluded: does not fit" in text and "saturating" in text
    page = render(result)
    assert "http" not in page.split("<script", 1)[0] and "tight" in page and "No trial runs here" in page


def test_bad_input_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name at least one device"):
        retarget(study, [])
    with pytest.raises(InputError, match="device 'other' is given twice"):
        retarget(study, [other(), other()])
    shutil.copy(study.path / "study.json", tmp_path / "study.json")
    with pytest.raises(StudyError, match="no trial was completed yet, so there is nothing to project"):
        retarget(Study.open(tmp_path), [other()])
