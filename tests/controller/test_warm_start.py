from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.small import SPACE, device, small_task, space

from autocompress.compression import training
from autocompress.controller import Budget, search
from autocompress.controller.untouched import UntouchedNetwork
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import InputError, StudyError
from autocompress.studies.constraints import at_most
from autocompress.studies.reporter import Silent
from autocompress.studies.study import Study
from autocompress.tasks.task import Task

pytestmark = pytest.mark.usefixtures("nothing_of_the_untouched")

WIDER: dict[str, Any] = {
    "version": 1,
    "stages": [
        {**SPACE["stages"][0], "ratio": {"per": "stage", "low": 0.0, "high": 0.75, "step": 0.125}},
        SPACE["stages"][1],
        {"technique": "ptq", "weight_bits": {"choice": [16, 8, 4]}, "optional": True},
    ],
}


@pytest.fixture(scope="module")
def task() -> Task:
    return small_task()


@pytest.fixture(scope="module")
def earlier(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UntouchedNetwork, "next", lambda self, judged: None)
        return search(task, device(), space(), budget=Budget(4), out=tmp_path_factory.mktemp("earlier") / "study")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry per training."""
    titles: list[str] = []
    fit = training.fit

    def spy(*args: Any, **kwargs: Any) -> float:
        titles.append(str(kwargs.get("title")))
        return fit(*args, **kwargs)

    monkeypatch.setattr(training, "fit", spy)
    return titles


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def without_baselines(study: Study) -> list[str]:
    return [e.recipe_digest for e in study.candidates if e.state == "complete"]


def test_a_wider_space_begins_with_the_earlier_front_and_trains_nothing_for_it(
    task: Task, earlier: Study, tmp_path: Path, trained: list[str]
) -> None:
    front = [p for p in earlier.front if p.kind == "candidate"]
    best = [p.recipe_digest for p in front if p.derived_from is None]  # their other formats come for free
    networks = {p.derived_from or p.trial for p in front}
    study = search(
        task, device(), space(WIDER), budget=Budget(len(networks)), out=tmp_path / "s", start_from=str(earlier.path)
    )
    assert best
    assert set(best) <= set(without_baselines(study))
    assert not trained


def test_another_device_begins_with_what_was_trained_for_the_first(
    task: Task, earlier: Study, tmp_path: Path, trained: list[str]
) -> None:
    other = DeviceProfile.load("raspberry-pi-5")
    study = search(task, other, space(), budget=Budget(1), out=tmp_path / "s", start_from=earlier.path)
    assert set(without_baselines(study)) <= set(without_baselines(earlier))
    assert study.settings.device["name"] == "raspberry-pi-5"
    assert not trained


def test_recipes_that_the_new_space_lacks_are_left_out(earlier: Study, task: Task, tmp_path: Path) -> None:
    notes = Notes()
    bits = {"stages": [{"technique": "ptq"}]}
    search(task, device(), space(bits), budget=Budget(1), out=tmp_path / "s", start_from=earlier.path, reporter=notes)
    assert f"recipes taken over from {earlier.path}: 0" in notes.said


def test_recipes_that_break_the_new_limits_are_left_out(earlier: Study, task: Task, tmp_path: Path) -> None:
    front = [p for p in earlier.front if p.kind == "candidate"]
    limit = min(p.size_bytes or 0 for p in front)
    notes = Notes()
    study = search(
        task, device(), space(), budget=Budget(1), out=tmp_path / "s", start_from=earlier.path, reporter=notes,
        constraints=[at_most("size_bytes", limit)],
    )  # fmt: skip
    assert f"recipes taken over from {earlier.path}: 1" in notes.said
    assert next(e.size_bytes for e in study.candidates if e.state == "complete") == limit


def test_other_data_begin_with_the_earlier_recipes_and_train_them_anew(
    earlier: Study, tmp_path: Path, trained: list[str]
) -> None:
    study = search(small_task(n=160), device(), space(), budget=Budget(1), out=tmp_path / "s", start_from=earlier.path)
    assert set(without_baselines(study)) & set(without_baselines(earlier)) and trained


def test_nothing_and_the_study_itself_are_refused(earlier: Study, task: Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot start from itself"):
        search(task, device(), space(), budget=Budget(9), out=earlier.path, start_from=earlier.path)
    with pytest.raises(StudyError, match="nothing"):
        search(task, device(), space(), budget=Budget(1), out=tmp_path / "s", start_from=tmp_path / "nothing")
    assert not (tmp_path / "s" / "study.json").exists()
