"""Fields that may differ between the parts of a network, as a technique declares them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autocompress.compression.structure import NetworkStructure
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import SpaceError
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.space import SearchSpace

STAGE = """
from typing import ClassVar, Literal
from autocompress import Number, Phase, Stage, TableField
from autocompress.compression.stage import Limit
from autocompress.compression.tables import Table


class Made(Stage):
    technique: Literal["made_up"] = "made_up"
    keep: Number | Table[Number] = 1.0
    rank: int | Table[int] = 4
    form: Literal["a", "b", "c"] | Table[Literal["a", "b", "c"]] = "a"
    phase: ClassVar[Phase] = Phase.STRUCTURE
    tables: ClassVar[dict[str, TableField]] = {
        "keep": TableField("blocks", neutral=1.0, strongest="low"),
        "rank": TableField("places", neutral=8, strongest="low", unnamed=4),
        "form": TableField("layers", neutral="a", strongest="any"),
    }

    @classmethod
    def limits(cls, device):
        return {"form": Limit(frozenset("ab"), "the device executes a and b")}
"""
OUTLINE = NetworkStructure(
    blocks={"x": "stage1", "y": "stage2"}, places=("p", "q"), layers={"l": "stage1", "m": "stage1"}, groups={}
)
DEVICE = DeviceProfile.load("raspberry-pi-4")


@pytest.fixture(autouse=True)
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "made_up.py").write_text(STAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("made_up")
    yield
    del sys.modules["made_up"]


def space(**fields: Any) -> SearchSpace:
    return SearchSpace.parse({"stages": [{"technique": "made_up", **fields}]})


def test_a_table_ranges_over_the_parts_that_it_declares() -> None:
    drawn = space(
        keep={"per": "layer", "low": 0.25, "high": 1.0}, rank={"per": "layer", "choice": [8, 4]}, form={"choice": ["a"]}
    )
    assert [*drawn.knobs(OUTLINE)] == [
        *(f"made_up.keep[{block}]" for block in "xy"),
        *(f"made_up.rank[{place}]" for place in "pq"),
        "made_up.form",
    ]
    assert [*space(keep={"per": "stage", "choice": [1.0]}).knobs(OUTLINE)] == [
        "made_up.keep[stage1]",
        "made_up.keep[stage2]",
    ]


def test_the_strongest_end_may_be_the_lower_one() -> None:
    drawn = space(keep={"per": "layer", "low": 0.25, "high": 1.0}, rank={"choice": [2, 8]})
    assert drawn.setting(OUTLINE, lambda: 1.0, optional=False)["made_up.keep[x]"] == 0.25
    assert drawn.setting(OUTLINE, lambda: 0.0, optional=False)["made_up.keep[x]"] == 1.0
    assert drawn.strongest(OUTLINE) == [{"made_up.keep[x]": 0.25, "made_up.keep[y]": 0.25, "made_up.rank": 2}]


def test_where_no_end_is_the_strongest_each_value_is_tried_and_ranges_are_refused() -> None:
    drawn = space(form={"per": "layer", "choice": ["c", "b"]})
    assert [set(setting.values()) for setting in drawn.strongest(OUTLINE)] == [{"c"}, {"b"}]
    with pytest.raises(SpaceError, match="form: its values are a choice"):
        space(form={"low": 1, "high": 2})


def test_parts_that_a_table_does_not_name_have_what_the_technique_says() -> None:
    drawn = space(keep={"per": "layer", "low": 0.0, "high": 1.0}, rank={"per": "layer", "choice": [4, 8]})
    recipe = Recipe.parse({"stages": [{"technique": "made_up", "keep": {"x": 0.5}, "rank": {"p": 8}}]})
    assert drawn.setting_of(recipe, OUTLINE) == {
        "made_up.keep[x]": 0.5,
        "made_up.keep[y]": 1.0,
        "made_up.rank[p]": 8,
        "made_up.rank[q]": 4,
    }


def test_what_the_device_does_not_execute_is_left_out() -> None:
    left = space(form={"per": "layer", "choice": ["a", "c"]}).restrict(DEVICE, OUTLINE)
    assert left.knobs(OUTLINE)["made_up.form[l]"].corners() == ("a",)
    assert left.notes == ("made_up.form: c left out: the device executes a and b",)
    with pytest.raises(SpaceError, match="made_up: left out: form: the device executes a and b"):
        space(form="c").restrict(DEVICE, OUTLINE)
