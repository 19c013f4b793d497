"""Files that version 2987b94 wrote are still read: a space, a profile, a study with its recipes and models."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from helpers.small import small_task
from typer.testing import CliRunner

import autocompress as ac
from autocompress.cli import app
from autocompress.errors import AutocompressError

FILES = Path(__file__).parent / "earlier_version"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FILES / "study", tmp_path / "study"))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_space_and_a_profile_load() -> None:
    stages = ac.SearchSpace.load(FILES / "space.yaml").to_dict()["stages"]
    assert [stage["technique"] for stage in stages] == ["early_exit", "prune", "distill", "ptq"]
    assert ac.DeviceProfile.load(FILES / "profile.yaml").name == "raspberry-pi-4"


def test_a_study_opens_whole(study: Path) -> None:
    opened = ac.Study.open(study)
    assert not opened.problems
    assert not opened.altered()
    assert len(opened.frame()) == 5
    assert len(opened.front) == 3


def test_its_recipes_say_what_they_said(study: Path) -> None:
    """Then, a label left out the bits of activations that were 8."""
    labels = {e.trial: e.label for e in ac.Study.open(study).evaluations if e.kind == "candidate"}
    assert labels == {3: "prune 25%-25% + distill 1 ep + ptq w8", 4: "prune 50%-50% + distill 1 ep + ptq w8"}
    for trial, label in labels.items():
        assert ac.Study.open(study).evaluation(trial).recipe.summary() == f"{label}a8"


def test_it_is_shown_compared_and_moved_to_another_device(study: Path) -> None:
    assert "The front has 3 points" in run("show", study)
    run("show", study, "--html", study.parent / "report.html")
    assert "same hypervolume" in run("compare", study, study)
    assert "2 on the front" in run("retarget", study, "--device", "raspberry-pi-5")


def test_its_file_is_exported_unchanged(study: Path, tmp_path: Path) -> None:
    run("export", study, "--trial", 4, "--out", tmp_path / "package")
    exported = (tmp_path / "package" / "model.onnx").read_bytes()
    assert hashlib.sha256(exported).hexdigest() == ac.Study.open(study).evaluation(4).sha256


def test_a_search_starts_from_it_but_does_not_mix_with_it(study: Path, tmp_path: Path) -> None:
    device, space = ac.DeviceProfile.load("raspberry-pi-4"), ac.SearchSpace.parse(ac.Study.open(study).settings.space)
    with pytest.raises(AutocompressError, match="--start-from"):
        ac.search(small_task(), device, space, budget=ac.Budget(trials=1), out=study)
    found = ac.search(small_task(), device, space, budget=ac.Budget(trials=1), out=tmp_path / "new", start_from=study)
    tried = {e.recipe.summary() for e in found.evaluations}
    assert tried & {e.recipe.summary() for e in ac.Study.open(study).evaluations if e.kind == "candidate"}
