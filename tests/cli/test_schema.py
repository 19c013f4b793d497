from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from autocompress.cli.schema import KINDS, schema
from autocompress.compression.catalogue import own_names
from autocompress.errors import InputError
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.space import SearchSpace

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).parents[2]
SPACES = [*sorted((ROOT / "search_spaces").glob("*.yaml")), *sorted((ROOT / "benchmarks").glob("*space*.yaml"))]
PROFILES = sorted((ROOT / "hardware_profiles").glob("*.yaml"))


VALIDATORS = {what: jsonschema.Draft202012Validator(schema(what)) for what in KINDS}


def valid(what: str, data: Any) -> bool:
    return bool(VALIDATORS[what].is_valid(data))


@pytest.mark.parametrize("what", KINDS)
def test_the_copies_in_the_docs_are_current(what: str) -> None:
    text = json.dumps(schema(what), indent=1) + "\n"
    assert (ROOT / "docs" / "schemas" / f"{what}.json").read_text() == text, (
        f"run: autocompress schema {what} > docs/schemas/{what}.json"
    )
    jsonschema.Draft202012Validator.check_schema(schema(what))


@pytest.mark.parametrize("path", [*SPACES, *PROFILES], ids=lambda p: p.stem)
def test_shipped_files_are_valid_and_name_their_schema(path: Path) -> None:
    what = "device" if path in PROFILES else "space"
    text = path.read_text()
    assert valid(what, yaml.safe_load(text))
    assert text.splitlines()[0] == f"# yaml-language-server: $schema=../docs/schemas/{what}.json"


def test_recipes_that_are_written_are_valid() -> None:
    stages = [{"technique": "early_exit"}, {"technique": "prune", "ratio": {"stage1": 0.5}}, {"technique": "distill"}]
    stages += [{"technique": "ptq", "weight_bits": {"default": 8}}, {"technique": "exit_threshold", "thresholds": [1]}]
    assert valid("recipe", Recipe.parse({"stages": stages}).to_dict())


@pytest.mark.parametrize(
    "stage",
    [
        {"technique": "prun"},
        {"technique": "prune", "ratoi": 0.5},
        {"technique": "prune", "ratio": 1.5},
        {"technique": "prune", "importance": "best"},
        {"technique": "exit_threshold"},
        {"ratio": 0.5},
    ],
)
def test_what_cannot_be_read_is_not_valid(stage: dict[str, Any]) -> None:
    assert not valid("recipe", {"stages": [stage]})
    assert not valid("space", {"stages": [stage]})


def test_spaces_know_domains_tables_and_alternatives() -> None:
    ratio = {"low": 0.0, "high": 0.5, "per": "layer"}
    bits = {"default": 8, "stage3": {"choice": [8, 4]}}
    several = {"one_of": [{"technique": "ptq", "weight_bits": bits}, {"technique": "qat"}], "optional": True}
    data = {"stages": [{"technique": "prune", "optional": True, "ratio": ratio}, several]}
    assert valid("space", data) and SearchSpace.parse(data)
    assert not valid("recipe", data)
    assert not valid("space", {"stages": [{"technique": "prune", "ratio": {"low": 0.0}}]})


def test_every_technique_is_in_the_schema_with_its_words() -> None:
    stages = schema("recipe")["properties"]["stages"]["items"]["oneOf"]
    assert {s["properties"]["technique"]["const"] for s in stages} == set(own_names())
    [prune] = [s for s in stages if s["properties"]["technique"]["const"] == "prune"]
    assert prune["properties"]["round_to"]["description"].startswith("Widths are multiples of it")
    assert prune["description"].startswith("Remove a share of the channels")


def test_an_unknown_schema_is_refused() -> None:
    with pytest.raises(InputError, match=r"no schema 'recipes' \(did you mean 'recipe'\?\); known: recipe, space"):
        schema("recipes")
