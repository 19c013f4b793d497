"""Techniques from outside: found where the user chose them, and never imported because a file names them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress import cli
from autocompress.compression import catalogue
from autocompress.compression.catalogue import enable, own_names, technique, technique_names
from autocompress.errors import InputError, RecipeError
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.space import SearchSpace

STAGE = """
from pathlib import Path
from typing import ClassVar, Literal
from autocompress import Phase, Stage

Path(__file__).with_suffix(".ran").touch()


class Mine(Stage):
    technique: Literal["{name}"] = "{name}"
    size: int = 1
    phase: ClassVar[Phase] = Phase.STRUCTURE
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where modules of the user's can be imported from; forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "mine_pkg").mkdir()
    (tmp_path / "mine_pkg" / "own.py").write_text(STAGE.format(name="mine_pkg.own"))
    (tmp_path / "other_name.py").write_text(STAGE.format(name="something"))
    (tmp_path / "broken.py").write_text("raise ValueError('no licence')")
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    catalogue._installed.cache_clear()


OWN = {"stages": [{"technique": "mine_pkg.own", "size": 2}]}


@pytest.mark.parametrize("read", [Recipe.parse, SearchSpace.parse])
def test_a_name_in_a_file_has_nothing_imported(folder: Path, read: object) -> None:
    with pytest.raises(Exception, match=r"unknown technique 'mine_pkg.own'.*autocompress --techniques mine_pkg.own"):
        read(OWN)  # type: ignore[operator]
    assert not (folder / "mine_pkg" / "own.ran").exists()


def test_what_the_user_imports_is_found(folder: Path) -> None:
    module = importlib.import_module("mine_pkg.own")
    assert technique("mine_pkg.own") is module.Mine and "mine_pkg.own" in technique_names()
    assert Recipe.parse(Recipe.parse(OWN).to_dict()).stages[0].model_dump()["size"] == 2
    with pytest.raises(RecipeError, match="unknown technique 'mine_pkg'"):
        technique("mine_pkg")


def test_what_the_user_enables_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "recipe.yaml").write_text(Recipe().to_yaml())
    monkeypatch.setattr(sys, "argv", ["autocompress", "--techniques", "mine_pkg.own", "schema", "recipe"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert technique("mine_pkg.own").__name__ == "Mine"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no_such_module", "no_such_module cannot be imported: it raised ModuleNotFoundError"),
        ("broken", "broken cannot be imported: it raised ValueError: no licence"),
        ("other_name", "has no technique; write a subclass of autocompress.Stage whose field `technique` has the"),
        ("json", "json: has no technique"),
    ],
)
def test_what_is_no_technique_is_refused(folder: Path, module: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        enable(module)


def test_installed_packages_offer_techniques(folder: Path) -> None:
    info = folder / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    points = ("something = other_name", "prune = other_name", "spoilt = broken", "absent = mine_pkg.own")
    (info / "entry_points.txt").write_text("\n".join([f"[{catalogue.ENTRY_POINTS}]", *points]))
    catalogue._installed.cache_clear()
    assert set(technique_names()) >= {*own_names(), "something"} and not (folder / "other_name.ran").exists()
    assert technique("something").__module__ == "other_name"
    assert technique("prune").__module__.startswith("autocompress.")
    with pytest.raises(RecipeError, match=r"technique 'spoilt' of plugin cannot be imported: .*no licence"):
        technique("spoilt")
    with pytest.raises(RecipeError, match=r"plugin: mine_pkg.own has no stage whose field `technique` has the default"):
        technique("absent")
