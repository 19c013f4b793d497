from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import yaml

from autocompress.compression.catalogue import own_names, parse_stage, technique
from autocompress.compression.stage import Phase
from autocompress.compression.tables import lookup, unknown_keys
from autocompress.errors import AutocompressError, RecipeError
from autocompress.files import write_atomically, write_json
from autocompress.recipes.recipe import Recipe

FULL = {
    "version": 1,
    "stages": [
        {"technique": "early_exit", "count": 2},
        {"technique": "prune", "ratio": {"stage2": 0.5, "stage1": 0.25}},
        {"technique": "distill", "epochs": 5},
        {"technique": "ptq", "weight_bits": {"fc": 4, "default": 8}},
        {"technique": "exit_threshold", "thresholds": [0.9, 0.8]},
    ],
}


def parse(*stages: dict[str, object]) -> Recipe:
    return Recipe.parse({"stages": list(stages)})


def test_recipe_survives_a_file(tmp_path: Path) -> None:
    recipe = Recipe.parse(FULL)
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
    assert [s.technique for s in recipe.stages] == [s["technique"] for s in FULL["stages"]]  # type: ignore[index]


def test_yaml_holds_what_is_not_default_only() -> None:
    text = parse({"technique": "prune", "ratio": 0.25, "round_to": 8}).to_yaml()
    assert yaml.safe_load(text) == {"version": 1, "stages": [{"technique": "prune", "ratio": 0.25}]}


def test_digest_is_pinned() -> None:
    """Caches and studies on disk are keyed by it: a change must be deliberate."""
    assert Recipe().digest() == "4f53cda18c2baa0c"
    ptq = parse({"technique": "ptq"})
    assert ptq.digest() == parse({"technique": "ptq", "weight_bits": 8, "observer": "minmax"}).digest()
    assert ptq.digest() != parse({"technique": "ptq", "weight_bits": 4}).digest()


def test_digest_ignores_the_order_of_a_table_and_float_noise() -> None:
    a = parse({"technique": "prune", "ratio": {"stage1": 0.1 + 0.2, "stage2": 0.5}})
    b = parse({"technique": "prune", "ratio": {"stage2": 0.5, "stage1": 0.3}})
    assert a.digest() == b.digest() and a.to_yaml() == b.to_yaml()


def test_digest_of_a_beginning_ignores_what_follows() -> None:
    a = Recipe.parse(FULL)
    b = parse(*FULL["stages"][:3])  # type: ignore[index]
    assert a.digest(Phase.TRAINING) == b.digest(Phase.TRAINING) == b.digest()
    assert a.digest(Phase.NUMERICS) != b.digest(Phase.NUMERICS)
    assert [s.technique for s in a.upto(Phase.STRUCTURE).stages] == ["early_exit", "prune"]


def test_replace_swaps_the_stages_of_a_phase() -> None:
    recipe = Recipe.parse(FULL)
    replaced = recipe.replace(parse_stage({"technique": "qat", "epochs": 2}, "x"))
    assert [s.technique for s in replaced.stages] == [
        "early_exit",
        "prune",
        "distill",
        "qat",
        "exit_threshold",
    ]
    assert recipe.get("qat") is None and replaced.get("ptq") is None


def test_diff_names_every_difference() -> None:
    a = parse({"technique": "prune", "ratio": 0.5}, {"technique": "ptq"})
    b = parse({"technique": "prune", "ratio": 0.25}, {"technique": "distill"})
    assert a.diff(b).splitlines() == [
        "every group keeps 75 % of its channels instead of 50 %",
        "distill 3 ep added",
        "ptq w8a8 removed",
    ]
    assert a.diff(a) == "no difference"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            {"technique": "prune", "ratio": {"stage1": 0.25, "stage2": 0.5}},
            {"technique": "prune", "ratio": {"stage1": 0.5, "stage2": 0.5}},
            ["stage1 keeps 50 % of its channels instead of 75 %"],
        ),
        (
            {"technique": "prune", "ratio": 0.5},
            {"technique": "prune", "ratio": {"stage1": 0.25}},
            [
                "stage1 keeps 75 % of its channels instead of 50 %",
                "everything else keeps 100 % of its channels instead of 50 %",
            ],
        ),
        (
            {"technique": "ptq", "weight_bits": 8},
            {"technique": "ptq", "weight_bits": {"default": 8, "stage4": 4}},
            ["weights of stage4: 4 bits instead of 8"],
        ),
        (
            {"technique": "ptq"},
            {"technique": "ptq", "weight_bits": 16, "observer": "mse"},
            ["weights: 16 bits instead of 8", "ptq: observer minmax -> mse"],
        ),
        ({"technique": "ptq"}, {"technique": "qat", "epochs": 2}, ["qat w8a8 2 ep instead of ptq w8a8"]),
        ({"technique": "distill"}, {"technique": "distill", "temperature": 2}, ["distill: temperature 4 -> 2"]),
        (
            {"technique": "early_exit", "places": ["stage1"]},
            {"technique": "early_exit", "places": ["stage2", "stage3"]},
            [
                "early exit after stage2 added",
                "early exit after stage3 added",
                "early exit after stage1 removed",
            ],
        ),
    ],
)
def test_diff_speaks_the_language_of_each_technique(
    before: dict[str, object], after: dict[str, object], words: list[str]
) -> None:
    assert parse(before).diff(parse(after)).splitlines() == words


def test_diff_of_added_exits_and_thresholds() -> None:
    exits = {"technique": "early_exit", "places": ["stage2"]}
    assert parse().diff(parse(exits)) == "early exit after stage2 added"
    a, b = (parse(exits, {"technique": "exit_threshold", "thresholds": [t]}) for t in (0.8, 0.9))
    assert a.diff(b) == "exit 1 answers above a confidence of 0.9 instead of 0.8"


def test_summary_reads_well() -> None:
    assert Recipe().summary() == "unchanged"
    expected = "2 early exits + prune 25%-50% + distill 5 ep + ptq w4/8a8 + at 0.9/0.8"
    assert Recipe.parse(FULL).summary() == expected
    assert parse({"technique": "distill", "weight": 0}).summary() == "fine-tune 3 ep"


EXIT_AT = {"technique": "exit_threshold", "thresholds": [0.5]}
PRUNE, PTQ, QAT, EXIT = ({"technique": name} for name in ("prune", "ptq", "qat", "early_exit"))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"technique": "prunne"}], "stages.0: unknown technique 'prunne' (did you mean 'prune'?); known: "),
        ([PRUNE | {"ratios": 0.5}], "stages.0: ratios: unknown key (did you mean 'ratio'?)"),
        ([PRUNE | {"xyz": 0.5}], "stages.0: xyz: unknown key; allowed: technique, ratio, "),
        ([QAT | {"epochs": 0}], "stages.0: epochs: input should be greater than or equal to 1, got 0"),
        ([QAT | {"weight": float("nan")}], "stages.0: weight: input should be a finite number, got nan"),
        ([PTQ | {"weight_bits": 5}], "input should be 2, 4, 8, 16 or 32, got 5"),
        ([PTQ, PRUNE], "stages.1: prune (structure) comes after ptq (numerics); the order of phases is"),
        ([PTQ, QAT], "stages.0: ptq cannot be combined with qat"),
        ([PTQ, PTQ], "stages.1: ptq appears twice"),
        ([EXIT_AT], "stages.0: exit_threshold needs a stage early_exit"),
        ([PRUNE, EXIT], "stages.1: early_exit must come before prune; swap the two"),
        ([{"ratio": 0.5}], "stages.0: must be a mapping with the key 'technique'"),
        (["prune"], "stages.0: must be a mapping with the key 'technique', got 'prune'"),
    ],
)
def test_bad_recipe_is_named_by_its_path(stages: list[object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse({"stages": stages}, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "must be a mapping with the key 'stages', got list"),
        (None, "must be a mapping with the key 'stages', got NoneType"),
        ({"version": 2, "stagez": []}, "version must be 1, got 2; it was written by another version"),
        ({"stagez": []}, "stagez: unknown key (did you mean 'stages'?)"),
        ({"stages": {"technique": "ptq"}}, "stages: must be a list of stages"),
    ],
)
def test_bad_document_is_one_sentence(data: object, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(data)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_bad_files_are_explained(tmp_path: Path) -> None:
    broken, binary = tmp_path / "broken.yaml", tmp_path / "binary.yaml"
    broken.write_text("stages:\n  - technique: [prune\n")
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"broken.yaml: not valid YAML at line 3, column 1"):
        Recipe.load(broken)
    with pytest.raises(RecipeError, match=r"binary.yaml: cannot be read: it is not UTF-8 text"):
        Recipe.load(binary)
    with pytest.raises(RecipeError, match=r"missing.yaml: cannot be read: No such file"):
        Recipe.load(tmp_path / "missing.yaml")
    python = tmp_path / "python.yaml"
    python.write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(RecipeError, match="not valid YAML"):
        Recipe.load(python)


def test_stages_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse({"technique": "prune"}).stages[0].ratio = 0.1  # type: ignore[attr-defined]


def test_every_technique_is_found_by_its_name() -> None:
    assert {"distill", "early_exit", "exit_threshold", "prune", "ptq", "qat"} <= {*own_names()}
    assert all(technique(name).model_fields["technique"].default == name for name in own_names())


def test_lookup_prefers_the_more_specific_key() -> None:
    table = {"default": 1, "stage1": 2, "blocks.0.*": 3, "blocks.0.fc": 4}
    assert lookup(table, "blocks.0.fc", "stage1", 0) == 4
    assert lookup(table, "blocks.0.conv", "stage1", 0) == 3
    assert lookup(table, "stem", "stage1", 0) == 2
    assert lookup(table, "head", "stage9", 0) == 1
    assert lookup({"stage1": 2}, "head", "stage9", 7) == 7
    assert lookup(5, "anything", "stage1", 0) == 5


def test_unknown_keys_accepts_names_stages_and_patterns() -> None:
    table = {"default": 1, "stage1": 2, "blocks.*": 3, "bloks.*": 4, "stage9": 5}
    assert unknown_keys(table, ["blocks.0"], ["stage1"]) == ["bloks.*", "stage9"]
    assert unknown_keys(0.5, [], []) == []


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.yaml"
    Recipe.parse(FULL).save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AutocompressError, match=r"recipe.yaml: cannot be written: No space left on device"):
        Recipe().save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["recipe.yaml"]


def test_writing_is_refused_where_a_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AutocompressError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "recipe.yaml", "x")


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()
