from __future__ import annotations

from pathlib import Path

import pytest
from helpers.synthetic import make_study, settings

from autocompress.errors import ConstraintError, InputError, StudyError
from autocompress.recipes.recipe import Recipe
from autocompress.report.text.diff import Difference, load_side
from autocompress.studies.study import Study


def two(study: Study) -> tuple[int, int]:
    first, second, *_ = [p.trial for p in study.front if p.kind == "candidate"]
    return first, second


def test_two_trials_of_a_study(finished_study: Study) -> None:
    a, b = two(finished_study)
    found = Difference(load_side(f"{finished_study.path}:{a}"), load_side(f"{finished_study.path}#{b}"))
    before, after = finished_study.evaluation(a), finished_study.evaluation(b)
    assert before.latency_ms and after.latency_ms and before.test and after.test
    costs = found.costs()
    assert list(costs) == ["accuracy", "latency", "size"]
    assert f"{100 * (after.test.value - before.test.value):+.2f} points" in costs["accuracy"]
    assert "(test)" in costs["accuracy"] and "slower (measured)" in costs["latency"]
    text = found.to_text()
    assert text.startswith(f"{finished_study.path}:{a} -> {finished_study.path}:{b}")
    assert found.changes and all(f"  {line}" in text for line in found.changes)
    assert found.to_dict()["after"]["point"]["trial"] == b


def test_the_same_trial_costs_nothing(finished_study: Study) -> None:
    side = load_side(f"{finished_study.path}:knee")
    found = Difference(side, side)
    assert found.changes == [] and "the recipes are the same" in found.to_text()
    assert "+0.00 points" in found.costs()["accuracy"] and "not faster" in found.costs()["latency"]


def test_recipes_have_no_figures(finished_study: Study, tmp_path: Path) -> None:
    Recipe.parse({"stages": [{"technique": "ptq"}]}).save(tmp_path / "a.yaml")
    Recipe.parse({"stages": [{"technique": "ptq", "weight_bits": 4}]}).save(tmp_path / "b.yaml")
    a, b = load_side(str(tmp_path / "a.yaml")), load_side(str(tmp_path / "b.yaml"))
    assert Difference(a, b).to_text().splitlines()[1:] == ["  weights: 4 bits instead of 8"]
    mixed = Difference(a, load_side(f"{finished_study.path}:knee"))
    assert mixed.costs() == {} and "figures are known of" in mixed.to_text()


def test_what_cannot_be_compared_is_said(finished_study: Study, tmp_path: Path) -> None:
    device = {**settings().device, "name": "raspberry-pi-4"}
    other = make_study(tmp_path / "other", 20, device=device, data_sha256="00" * 32)
    found = Difference(load_side(f"{finished_study.path}:knee"), load_side(f"{other.path}:knee"))
    assert found.costs()["accuracy"].endswith("not comparable: other data")
    assert "not comparable: host and raspberry-pi-4 are different profiles" in found.costs()["latency"]
    running = make_study(tmp_path / "running", 20, final=False)
    mixed = Difference(load_side(f"{finished_study.path}:knee"), load_side(f"{running.path}:knee"))
    assert "(predicted)" in mixed.costs()["latency"] and "(validation)" in mixed.costs()["accuracy"]


def test_a_rejected_trial_says_why(finished_study: Study) -> None:
    rejected = next(e for e in finished_study.evaluations if e.state == "rejected")
    sides = [load_side(f"{finished_study.path}:{n}") for n in (rejected.trial, "knee")]
    assert f"was rejected: {rejected.reason}" in Difference(*sides).to_text()


def test_wrong_sides(finished_study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no trial 9999"):
        load_side(f"{finished_study.path}:9999")
    with pytest.raises(ConstraintError, match="no point called 'best'"):
        load_side(f"{finished_study.path}:best")
    with pytest.raises(InputError, match=r"name one trial of the study, such as .*:12 or .*:knee"):
        load_side(f"{finished_study.path}/")
    with pytest.raises(InputError, match="cannot be read"):
        load_side(str(tmp_path / "none.yaml"))
