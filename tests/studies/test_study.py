from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from helpers.studies import SETTINGS, TRIALS

from autocompress.errors import StudyError
from autocompress.files import Folder
from autocompress.studies.constraints import at_most, met_by
from autocompress.studies.folder import (
    read_artifact,
    read_evaluation,
    read_settings,
    trial_folder,
    trial_name,
    write_evaluation,
    write_final,
)
from autocompress.studies.study import Study, resolved


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "study"
    path.mkdir()
    (path / "study.json").write_text(SETTINGS.model_dump_json())
    for e in TRIALS:
        write_evaluation(path, e)
    return path


def test_open_reads_back_what_was_written(folder: Path) -> None:
    study = Study.open(folder)
    assert study.evaluations == TRIALS and study.settings == SETTINGS and not study.final
    assert [e.label for e in study.baselines] == ["fp32", "int8"]
    assert [e.trial for e in study.candidates] == [2, 3, 4, 5]
    assert [e.trial for e in study.front] == [3, 2]
    assert [e.trial for e in study.beats_all_baselines()] == [2]
    assert read_evaluation(folder, 3) == TRIALS[3] and read_evaluation(folder, 77) is None


def test_final_figures_replace_the_first_ones(folder: Path) -> None:
    finals = [e.model_copy(update={"measured_latency_ms": 1.1 * e.predicted_latency_ms}) for e in TRIALS[:3]]  # type: ignore[operator]
    write_final(folder, finals, {"threads": 1})
    study = Study.open(folder)
    assert study.final and study.evaluation(2).measured_latency_ms == pytest.approx(1.65)
    assert [e.trial for e in study.front] == [2]  # trial 3 is faster, but as a prediction only


def test_relative_limits_refer_to_figures_of_the_same_kind() -> None:
    half = [at_most("latency_ms", 0.5, relative_to_baseline=True)]
    predicted = [e for e in TRIALS if e.state == "complete"]
    slower = [e.model_copy(update={"measured_latency_ms": 3 * (e.predicted_latency_ms or 0)}) for e in predicted]
    (before,), (after,) = resolved(half, predicted), resolved(half, slower)
    assert before.limit == pytest.approx(0.5 * (predicted[0].predicted_latency_ms or 0))
    assert after.limit == pytest.approx(3 * before.limit)
    assert [met_by(e, [before]) for e in predicted] == [met_by(e, [after]) for e in slower]
    assert resolved(half, predicted[1:]) == ()


def test_files_of_the_front_that_are_gone_or_others_are_told(folder: Path) -> None:
    for trial in (2, 3):
        name, right = f"{trial_name(trial)}/model.onnx", hashlib.sha256(b"right").hexdigest()
        Folder(folder).write(name, b"right")
        write_evaluation(folder, TRIALS[trial].model_copy(update={"artifact": name, "sha256": right}))
    study = Study.open(folder)
    assert [p.trial for p in study.front] == [3, 2] and study.altered() == []
    Folder(folder).write(f"{trial_name(3)}/model.onnx", b"wrong")
    Folder(folder).remove(f"{trial_name(2)}/model.onnx")
    gone, changed = study.altered()
    assert gone.endswith("are gone: 2") and "trials/000003/model.onnx: not the file that was evaluated" in changed


def test_frame_and_dictionary_agree(folder: Path) -> None:
    study = Study.open(folder)
    frame, data = study.frame(), study.to_dict()
    assert list(frame.index) == [0, 1, 2, 3, 4, 5] and frame["on_front"].sum() == len(data["front"]) == 2
    assert (data["n_trials"], data["n_complete"], data["n_rejected"], data["n_failed"]) == (6, 5, 1, 0)
    assert data["n_beating_all_baselines"] == 1
    json.dumps(data, allow_nan=False)


def test_missing_trial_is_named(folder: Path) -> None:
    with pytest.raises(StudyError, match="there is no trial 99; it has 6 of them"):
        Study.open(folder).evaluation(99)


def test_a_study_without_trials_opens(folder: Path) -> None:
    shutil.rmtree(folder / "trials")
    study = Study.open(folder)
    assert study.evaluations == () and len(study.front) == 0 and study.beats_all_baselines() == []
    assert list(study.frame().columns) == ["on_front"] and study.frame().empty


def damage(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


OLD = SETTINGS.model_dump_json().replace('"version":1', '"version":9').encode()
EXTRA = SETTINGS.model_dump_json().replace('"seed":0', '"seed":0,"sed":1').encode()
TRIAL = "trials/000003/evaluation.json"
NAMELESS = SETTINGS.model_copy(update={"device": {}}).model_dump_json().encode()
FUTURE = TRIALS[3].model_dump_json().replace('"technique":"ptq"', '"technique":"ptqx"').encode()
FINAL2 = b'{"version": 2, "points": []}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("study.json", OLD, "study.json: version must be 1, got 9; it was written by another version of autocompress"),
        ("study.json", EXTRA, "study.json: sed: unknown key (did you mean 'seed'?)"),
        ("study.json", NAMELESS, "study.json: device: must be a device profile, with its name"),
        ("study.json", b'{"version": 1', "study.json: cannot be read"),
        ("study.json", b"\xff\xfe", "study.json: cannot be read"),
        ("study.json", b"[]", "study.json: damaged: it must hold a JSON object, got list"),
    ],
)
def test_damaged_or_foreign_folder_is_one_clear_error(folder: Path, name: str, content: bytes, message: str) -> None:
    Study.open(folder)
    damage(folder, name, content)
    with pytest.raises(StudyError) as caught:
        Study.open(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


NULLS = b'{"trial": 3, "recipe": {}, "recipe_digest": "x", "state": "complete"}'
HUGE = TRIALS[3].model_dump_json().replace('"size_bytes":100', f'"size_bytes":{10**400}').encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRIAL, b"", "trial 3 is left out: {}/trials/000003/evaluation.json: damaged: Invalid JSON"),
        (TRIAL, b"\xff\xfe", "000003/evaluation.json: damaged"),
        (TRIAL, b"[" * 100_000, "000003/evaluation.json: damaged: Invalid JSON: recursion limit exceeded"),
        (TRIAL, b'{"trial": 3}', "000003/evaluation.json: damaged: recipe: Field required"),
        (TRIAL, NULLS, "damaged: complete, but without a score, a latency or a size"),
        (TRIAL, HUGE, "damaged"),
        (TRIAL, TRIALS[4].model_dump_json().encode(), "damaged: it is the result of trial 4"),
        (TRIAL, FUTURE, "000003/evaluation.json: its recipe cannot be read: stages.1: unknown technique 'ptqx'"),
        (TRIAL, TRIALS[3].model_dump_json().replace('"notes"', '"remarks"').encode(), "written by another version"),
        ("final.json", b"{}", "no final figures: {}/final.json: damaged: it must hold 'points' and 'conditions'"),
        ("final.json", b"[1]", "final.json: damaged"),
        ("final.json", FINAL2, "final.json: version must be 1, got 2; it was written by another version"),
        ("final.json", b'{"points": [{}], "conditions": {}}', "final.json: damaged: trial: Field required"),
    ],
)
def test_what_is_damaged_costs_only_itself_and_is_named(folder: Path, name: str, content: bytes, message: str) -> None:
    before = Study.open(folder)
    damage(folder, name, content)
    study = Study.open(folder)
    (problem,) = study.problems
    assert message.format(folder) in problem and "\n" not in problem and "delete" not in problem
    assert [e.trial for e in study.evaluations] == [
        e.trial for e in before.evaluations if name != TRIAL or e.trial != 3
    ]
    assert not study.final


@pytest.mark.parametrize("name", ["9999999", "000020000", "²", "12"])
def test_folders_that_no_search_makes_are_named_or_ignored(folder: Path, name: str) -> None:
    (folder / "trials" / name).mkdir()
    if name.isascii() and int(name) > 10_000:
        with pytest.raises(StudyError, match="no trial of this study: the one before it is 5; move this folder out"):
            Study.open(folder)
    else:
        assert len(Study.open(folder).evaluations) == len(TRIALS)


@pytest.mark.parametrize(
    "artifact", ["/etc/passwd", "../../etc/passwd", "trials/../../secret", "link.onnx", "a\0b", ""]
)
def test_a_file_of_a_trial_lies_inside_the_study(folder: Path, artifact: str) -> None:
    (folder / "link.onnx").symlink_to("/etc/passwd")
    with pytest.raises(StudyError, match=r"no name of a file inside this folder|is a link"):
        read_artifact(folder, TRIALS[3].model_copy(update={"artifact": artifact, "sha256": None}))


def test_a_file_that_was_changed_is_not_the_one_of_the_figures(folder: Path) -> None:
    trial = TRIALS[3].model_copy(update={"artifact": "trials/000003/model.onnx", "sha256": "0" * 64})
    (folder / "trials/000003/model.onnx").write_bytes(b"other")
    with pytest.raises(StudyError, match=r"not the file that was evaluated: its sha256 is d9298a10d1b0"):
        read_artifact(folder, trial)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StudyError, match=r"not a study folder \(it has no study.json\); give the --out"):
            read_settings(path)


def test_differences_name_the_inputs_that_changed() -> None:
    assert SETTINGS.differences(SETTINGS) == []
    assert SETTINGS.differences(SETTINGS.model_copy(update={"created_at": "later", "task": "x.py"})) == []
    other = SETTINGS.model_copy(update={"seed": 1, "device": {"name": "pi", "threads": 1}})
    assert SETTINGS.differences(other) == ["seed: the study has 0, now 1", "device: the study has host, now pi"]
    changed = SETTINGS.model_copy(update={"device": {"name": "host", "threads": 2}})
    assert SETTINGS.differences(changed) == ["device: the profile of host has changed since"]
    longer = SETTINGS.model_copy(update={"space": {"stages": [{"technique": "prune", "ratio": 0.123456789}] * 5}})
    assert len(SETTINGS.differences(longer)[0]) < 180


def test_trial_folders_sort_as_their_numbers(folder: Path) -> None:
    names = [trial_folder(folder, n).name for n in (2, 10, 100)]
    assert names == sorted(names) == ["000002", "000010", "000100"]
