from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.synthetic import baseline, candidate, make_study, score

from autocompress.errors import ConstraintError
from autocompress.report.against import costs_text, loss_text, pick_point, ship_option
from autocompress.report.text.table import headline
from autocompress.studies.choice import Pool, Rule
from autocompress.studies.constraints import at_most, max_accuracy_drop
from autocompress.studies.folder import write_evaluation, write_final
from autocompress.studies.front import Pick
from autocompress.studies.results import Evaluation
from autocompress.studies.sample_scores import write_sample_scores
from autocompress.studies.study import Study


def figures(trial: int, validation: float, test: float | None, latency_ms: float, size_bytes: int) -> Evaluation:
    made = candidate(trial, 1) if trial > 2 else baseline(trial, ("fp32", "fp16", "int8")[trial])
    changes = {
        "state": "complete",
        "reason": "",
        "validation": score(validation),
        "test": None if test is None else score(test, "test"),
        "predicted_latency_ms": latency_ms,
        "size_bytes": size_bytes,
        "exits": (),
        "artifact": f"trials/{trial:06d}/model.onnx",
    }
    return made.model_copy(update=changes)


def study_of(folder: Path, *points: Evaluation, final: bool = True, **settings: object) -> Study:
    make_study(folder, 0, **{"constraints": (), **settings})  # type: ignore[arg-type]
    for point in points:
        write_evaluation(folder, point)
    if final:
        write_final(folder, points, {})
    return Study.open(folder)


FP32 = figures(0, 0.93, 0.93, 4.0, 1_000_000)
NEAR = figures(3, 0.928, 0.926, 2.0, 300_000)
FAR = figures(4, 0.77, 0.77, 1.0, 50_000)


def test_a_pick_that_loses_much_is_refused_with_its_cost_and_another_point(tmp_path: Path) -> None:
    study = study_of(tmp_path / "s", FP32, NEAR, FAR)
    with pytest.raises(ConstraintError) as refused:
        pick_point(study, "fastest", None, {})
    for words in ("trial 4: -16.0 points on the test split", "where 1 point may be lost", "--trial 3", "2.0x faster"):
        assert words in str(refused.value)
    assert str(refused.value).endswith("or accept the loss: --max-accuracy-drop 0.16")


def test_a_loss_that_is_accepted_is_told(tmp_path: Path) -> None:
    study = study_of(tmp_path / "s", FP32, NEAR, FAR)
    point, rule = pick_point(study, "fastest", 0.17, {})
    assert point.trial == 4 and loss_text(study, point, rule, 0.17) == ""
    text = costs_text(study, point, rule)
    assert text.startswith("accuracy -16.0 points on the test split (95 % interval -19")
    assert text.endswith("4.0x faster (predicted) and 20.0x smaller than fp32")
    assert "loses more than allowed" in loss_text(study, point, None, None)
    assert pick_point(study, "fastest", 0.05, {})[0].trial == 3


def test_the_limit_of_the_search_is_the_limit_of_its_picks(tmp_path: Path) -> None:
    study = study_of(tmp_path / "s", FP32, NEAR, FAR, constraints=(max_accuracy_drop(0.2),))
    assert pick_point(study, "smallest", None, {})[0].trial == 4


def test_no_fastest_point_is_slower_than_fp32(tmp_path: Path) -> None:
    slow = figures(3, 0.93, 0.93, 5.0, 100_000)
    study = study_of(tmp_path / "s", FP32.model_copy(update={"size_bytes": 99_999_999}), slow)
    only_slow = study_of(tmp_path / "t", FP32, slow, constraints=(max_accuracy_drop(0.5),))
    assert pick_point(study, "fastest", None, {})[0].trial == 0
    with pytest.raises(ConstraintError, match="no candidate of the front is faster than fp32"):
        pick_point(only_slow, "fastest", None, {"max_size_bytes": 200_000})


def test_what_is_worse_but_not_surely_is_noted(tmp_path: Path) -> None:
    near = figures(3, 0.925, 0.917, 2.0, 300_000)
    study = study_of(tmp_path / "s", FP32, near)
    point, rule = pick_point(study, "knee", None, {})
    assert "loses more than allowed: -1.3 points on the test split" in loss_text(study, point, rule, None)


@pytest.mark.parametrize("pick", ["knee", "fastest", "smallest", "most-accurate"])
def test_without_a_test_split_the_choice_is_corrected_for(tmp_path: Path, pick: Pick) -> None:
    rng = np.random.default_rng(0)
    base, points, scores = None, [], []
    for trial in range(12):
        right = rng.random(1000) < 0.9
        point = figures(trial if trial == 0 else trial + 2, right.mean(), None, 4.0 - 0.1 * trial, 10_000 - trial)
        base = base or point
        points.append(point)
        scores.append(right)
    study = study_of(tmp_path / "s", *points, final=False)
    plain, rule = costs_text(study, points[-1], None), pick_point(study, pick, 0.05, {})[1]
    assert "on the validation split" in plain and "not corrected for the choice" in plain
    assert "not corrected" in costs_text(study, points[-1], rule)
    for point, right in zip(points, scores, strict=True):
        write_sample_scores(study.path, str(point.artifact), "validation", right)
    assert "expected on new data" in costs_text(study, points[-1], rule)
    assert any("expected on new data" in sentence for sentence in headline(study))


def test_the_next_step_names_a_point_that_export_hands_out(tmp_path: Path) -> None:
    study = study_of(tmp_path / "s", FP32, NEAR, FAR)
    option = ship_option(study).split()
    point = study.evaluation(int(option[1])) if option[0] == "--trial" else pick_point(study, option[1], None, {})[0]
    assert point.trial == 3


def test_the_loss_that_the_advice_accepts_hands_out_the_point_that_it_names(tmp_path: Path) -> None:
    worse_before = figures(3, 0.70, 0.75, 1.0, 50_000)  # loses more on validation than on test
    study = study_of(tmp_path / "s", FP32, worse_before)
    with pytest.raises(ConstraintError) as refused:
        pick_point(study, "fastest", None, {})
    accepted = float(str(refused.value).rsplit(" ", 1)[1])
    assert pick_point(study, "fastest", accepted, {})[0].trial == 3


def test_an_accuracy_of_nought_as_a_limit_is_a_limit(tmp_path: Path) -> None:
    below = FP32.model_copy(update={"validation": score(-0.5), "test": score(-0.5, "test")})
    worse = figures(3, -0.6, -0.6, 2.0, 300_000)
    with pytest.raises(ConstraintError, match="accuracy"):
        pick_point(study_of(tmp_path / "s", below, worse), None, 1.0, {"min_accuracy": 0.0})


def test_scores_of_samples_that_cannot_be_read_leave_the_figure_with_its_interval(tmp_path: Path) -> None:
    points = [p.model_copy(update={"test": None}) for p in (FP32, NEAR)]
    study = study_of(tmp_path / "s", *points, final=False)
    for trial in (0, 3):
        write_sample_scores(study.path, f"trials/{trial:06d}/model.onnx", "validation", np.arange(1000) >= 70)
    (tmp_path / "s/trials/000003/model.validation.npz").write_bytes(b"damaged")
    assert "not corrected for the choice" in costs_text(study, study.evaluation(3), Rule("fastest"))


def test_a_point_that_breaks_a_constraint_pushes_no_other_out_of_the_choice(tmp_path: Path) -> None:
    forbidden = figures(4, 0.99, None, 1.0, 900_000)  # ahead of trial 3 in accuracy and speed, but too large
    near = figures(3, 0.80, None, 2.0, 900_001)
    limit = at_most("size_bytes", 1_000_000)
    rivals = {}
    for name, constraints in (("free", ()), ("bound", (at_most("latency_ms", 0.5), limit))):
        study = study_of(tmp_path / name, FP32, near, forbidden, final=False, constraints=constraints)
        for trial, wrong in ((0, 70), (3, 200), (4, 10)):
            path = f"trials/{trial:06d}/model.onnx"
            write_sample_scores(study.path, path, "validation", np.arange(1000) >= wrong)
        found = Pool.of(study)
        rivals[name] = [p.trial for p in found.points] if found else []
    assert 3 not in rivals["free"] and 3 in rivals["bound"]


def test_files_that_answer_alike_have_a_narrow_interval_of_the_difference(tmp_path: Path) -> None:
    study = study_of(tmp_path / "s", FP32, NEAR)
    wide = costs_text(study, study.evaluation(3))
    right = np.arange(1000) >= 70
    for trial, wrong in ((0, 70), (3, 74)):
        write_sample_scores(study.path, f"trials/{trial:06d}/model.onnx", "test", np.arange(1000) >= wrong)
    narrow = costs_text(study, study.evaluation(3))
    assert right.mean() == 0.93
    assert "interval -2.7 to +1.9" in wide and "interval -0.9 to +0.1" in narrow
