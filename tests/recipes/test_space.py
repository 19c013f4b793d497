from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from autocompress.compression.structure import NetworkStructure
from autocompress.controller.plan import Fixed
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import SpaceError
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.space import SearchSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)

OUTLINE = NetworkStructure(
    groups={"stem": "stage1", "a": "stage1", "b": "stage2"},
    layers={"stem": "stage1", "a": "stage1", "b": "stage2", "fc": "stage2"},
    places=("a",),
)
SPACE: dict[str, Any] = {
    "version": 1,
    "description": "for tests",
    "stages": [
        {"technique": "early_exit", "first": {"choice": [0.3, 0.5]}, "optional": True},
        {"technique": "prune", "ratio": {"low": 0.0, "high": 0.75, "step": 0.25, "per": "stage"}},
        {"technique": "distill", "epochs": 1, "optional": True},
        {
            "one_of": [
                {"technique": "ptq", "weight_bits": {"choice": [8, 4], "per": "layer"}},
                {"technique": "qat", "weight_bits": {"choice": [8, 4]}},
            ],
            "optional": True,
        },
    ],
}
SHIPPED = sorted(p.stem for p in (Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


def sampled(space: SearchSpace, n: int = 60, outline: NetworkStructure = OUTLINE) -> list[Recipe]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [space.sample(study.ask(), outline) for _ in range(n)]


def device() -> DeviceProfile:
    return DeviceProfile.load("raspberry-pi-4")


def test_sample_reaches_every_alternative_and_scope() -> None:
    recipes = sampled(SearchSpace.parse(SPACE))
    seen = {s.technique for r in recipes for s in r.stages}
    assert seen == {"early_exit", "prune", "distill", "ptq", "qat"}
    assert any(r.get("ptq") is None and r.get("qat") is None for r in recipes)
    for recipe in recipes:
        ratio = recipe.get("prune").ratio  # type: ignore[union-attr]
        assert set(ratio) == {"stage1", "stage2"} and set(ratio.values()) <= {0, 0.25, 0.5, 0.75}
        if ptq := recipe.get("ptq"):
            assert set(ptq.weight_bits) == set(OUTLINE.layers)  # type: ignore[attr-defined]
        if qat := recipe.get("qat"):
            assert qat.weight_bits in (4, 8)  # type: ignore[attr-defined]
    assert len({r.digest() for r in recipes}) > 40


def test_knobs_name_what_optuna_is_asked_for() -> None:
    space = SearchSpace.parse(SPACE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked: set[str] = set()
    for _ in range(30):
        trial = study.ask()
        space.sample(trial, OUTLINE)
        asked |= set(trial.params)
    assert asked == set(space.knobs(OUTLINE))
    assert "prune.ratio[stage2]" in asked and "ptq.weight_bits[fc]" in asked and "ptq+qat" in asked


def test_size_counts_the_settings() -> None:
    space = SearchSpace.parse(SPACE)
    assert space.size(OUTLINE) == (2 + 1) * 4**2 * 2 * (2**4 + 2 + 1)
    continuous = {"stages": [{"technique": "distill", "learning_rate": {"low": 0.01, "high": 0.1, "log": True}}]}
    assert math.isinf(SearchSpace.parse(continuous).size(OUTLINE))


def test_space_survives_yaml(tmp_path: Path) -> None:
    space = SearchSpace.parse(SPACE)
    path = tmp_path / "space.yaml"
    path.write_text(space.to_yaml())
    again = SearchSpace.load(path)
    assert again == space and yaml.safe_load(again.to_yaml()) == space.to_dict()
    assert [r.digest() for r in sampled(again)] == [r.digest() for r in sampled(space)]


def test_a_setting_has_the_strength_it_is_asked_for() -> None:
    space = SearchSpace.parse(SPACE)
    settings = [space.setting(OUTLINE, lambda s=s: s, optional=True) for s in (0.0, 0.5, 1.0)]
    recipes = [space.sample(optuna.trial.FixedTrial(setting), OUTLINE) for setting in settings]
    ratios = [r.get("prune").ratio["stage1"] for r in recipes]  # type: ignore[union-attr]
    assert ratios == [0.0, 0.5, 0.75]
    assert all([s.technique for s in r.stages] == ["early_exit", "prune", "distill", "ptq"] for r in recipes)


def test_a_setting_can_leave_the_optional_stages_out() -> None:
    space = SearchSpace.parse(SPACE)
    setting = space.setting(OUTLINE, lambda: 1.0, optional=False)
    recipe = space.sample(optuna.trial.FixedTrial(setting), OUTLINE)
    optional = {slot.alternatives[0].technique for slot in space.slots if slot.optional}
    assert optional and not optional & {stage.technique for stage in recipe.stages}


def test_every_sampled_recipe_has_its_setting_back() -> None:
    space = SearchSpace.parse(SPACE)
    for recipe in sampled(space):
        setting = space.setting_of(recipe, OUTLINE)
        assert setting is not None
        assert space.sample(Fixed(setting), OUTLINE) == recipe


def test_a_recipe_of_another_space_comes_as_close_as_it_can() -> None:
    space = SearchSpace.parse(SPACE)
    recipe = Recipe.parse({"stages": [{"technique": "prune", "ratio": 0.9}, {"technique": "ptq"}]})
    setting = space.setting_of(recipe, OUTLINE)
    assert setting is not None
    assert setting["prune.ratio[stage1]"] == setting["prune.ratio[stage2]"] == 0.75
    assert setting["ptq.weight_bits[fc]"] == 8
    assert setting["early_exit"] == setting["distill"] == "off"


@pytest.mark.parametrize(
    "stages",
    [
        [{"technique": "ptq"}],
        [{"technique": "prune"}, {"technique": "ptq", "weight_bits": 16}],
    ],
    ids=["lacks the stage that must be on", "bits that are no choice"],
)
def test_a_recipe_that_the_space_cannot_give_has_no_setting(stages: list[dict[str, Any]]) -> None:
    assert SearchSpace.parse(SPACE).setting_of(Recipe.parse({"stages": stages}), OUTLINE) is None


def test_restrict_drops_what_cannot_be_used_and_says_so() -> None:
    space = SearchSpace.parse(SPACE)
    flat = NetworkStructure(groups={}, layers=OUTLINE.layers)
    restricted = space.restrict(device(), flat, trainable=False)
    assert {s.technique for r in sampled(restricted, 40, flat) for s in r.stages} == {"ptq"}
    assert [note.partition(":")[0] for note in restricted.notes] == ["early_exit", "prune", "distill, qat"]
    assert "the task brings no training data" in restricted.notes[2]
    assert space.restrict(device(), OUTLINE).slots == space.slots


def test_restrict_refuses_when_nothing_is_left() -> None:
    space = SearchSpace.parse({"stages": [{"technique": "prune", "ratio": 0.5}]})
    with pytest.raises(SpaceError, match="prune: left out: the network has no channels that can be removed"):
        space.restrict(device(), NetworkStructure())


def test_stages_that_need_another_are_dropped_with_it() -> None:
    space = SearchSpace.parse(
        {
            "stages": [
                {"technique": "early_exit", "optional": True},
                {"technique": "exit_threshold", "thresholds": [0.9]},
            ]
        }
    )
    lengths = {tuple(s.technique for s in r.stages) for r in sampled(space, 20)}
    assert lengths == {(), ("early_exit", "exit_threshold")}


def stage(**settings: Any) -> dict[str, Any]:
    return {"stages": [settings]}


BAD: list[tuple[Any, str]] = [
    ([], "space: must be a mapping with the key 'stages', got list"),
    ({"stages": []}, "space: stages: must be a list of one or more stages, got []"),
    ({"stage": []}, "space: stage: unknown key (did you mean 'stages'?)"),
    ({"version": 3, "stages": []}, "space: version must be 1, got 3; it was written by another version"),
    (stage(technique="prun"), "stages.0: unknown technique 'prun' (did you mean 'prune'?)"),
    (stage(technique="prune", ration=0.5), "stages.0.ration: unknown key (did you mean 'ratio'?)"),
    (stage(technique="prune", ratio={"low": 0.0, "high": 1.0}), "ratio"),
    (stage(technique="prune", ratio={"low": 0.5, "high": 0.1}), "stages.0.ratio: low must not be above high"),
    (stage(technique="prune", importance={"choice": ["l2", "l3"]}), "importance: input should be 'l1', 'l2'"),
    (stage(technique="distill", epochs={"low": 1, "high": 5}), "epochs: input should be a valid integer"),
    (stage(technique="distill", epochs={"low": 1, "high": 5, "step": 0.5}), "epochs: input should be a valid int"),
    (
        stage(technique="ptq", weight_bits={"low": 4, "high": 16, "step": 4}),
        "weight_bits: its values are a choice, such as",
    ),
    (
        stage(technique="distill", epochs={"choice": [1], "per": "stage"}),
        "per: stage is for settings per part of a network; here no field",
    ),
    (stage(technique="ptq", optional="yes"), "stages.0.optional: must be true or false, got 'yes'"),
    (stage(one_of=[]), "stages.0: one_of must be a list of stages"),
    (stage(one_of=[{"technique": "ptq"}], technique="qat"), "one_of must be a list of stages and stand alone"),
    (stage(one_of=[{"technique": "ptq"}, {"technique": "prune"}]), "must be of one phase, got numerics, structure"),
    ({"stages": [{"technique": "ptq"}, {"technique": "prune"}]}, "prune (structure) comes after ptq (numerics)"),
    ({"stages": [{"technique": "ptq"}, {"technique": "ptq"}]}, "ptq appears twice"),
    ({"stages": [{"technique": "ptq"}, {"technique": "qat"}]}, "ptq cannot be combined with qat"),
    ({"stages": [{"technique": "prune"}, {"technique": "early_exit"}]}, "early_exit must come before prune"),
    ({"stages": ["prune"]}, "stages.0: must be a mapping with the key 'technique' or 'one_of', got 'prune'"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=range(len(BAD)))
def test_bad_space_fails_at_load(data: Any, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.parse(data)
    assert message in str(caught.value)


def test_unknown_space_is_named_with_the_nearest() -> None:
    with pytest.raises(SpaceError, match=r"no search space 'cn' \(did you mean 'cnn'\?\); shipped ones: "):
        SearchSpace.load("cn")
    with pytest.raises(SpaceError, match=r"nothing\.yaml: cannot be read"):
        SearchSpace.load("nothing.yaml")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_spaces_load_and_sample(name: str) -> None:
    space = SearchSpace.load(name)
    assert space.description
    assert len({r.digest() for r in sampled(space, 20)}) > 10
    assert SearchSpace.parse(yaml.safe_load(space.to_yaml())) == space


def target(runtime: str, *formats: str) -> DeviceProfile:
    latency = {"any": {dtype: {"us_per_mmac": 1.0} for dtype in formats}}
    provenance = {"kind": "measured", "source": "a test"}
    return DeviceProfile.parse({"name": "d", "runtime": runtime, "latency": latency, "provenance": provenance})


def test_restrict_keeps_to_what_the_runtime_executes() -> None:
    restricted = SearchSpace.parse(SPACE).restrict(target("qnn", "float32", "int8"), OUTLINE)
    recipes = sampled(restricted)
    assert {s.technique for r in recipes for s in r.stages} == {"prune", "distill", "ptq", "qat"}
    assert restricted.notes[0] == "early_exit: left out: qnn does not execute the If operators of early exits"
    assert "ptq.weight_bits: 4 left out: d (qnn) executes 8 and 32 bits" in restricted.notes
    bits = [b for r in recipes if (ptq := r.get("ptq")) for b in ptq.weight_bits.values()]  # type: ignore[attr-defined]
    assert set(bits) == {8}
    assert any(r.get("ptq") is None and r.get("qat") is None for r in recipes)


def test_restrict_always_quantises_for_an_int8_only_device() -> None:
    restricted = SearchSpace.parse(SPACE).restrict(target("edgetpu", "int8"), OUTLINE)
    assert all(r.get("ptq") or r.get("qat") for r in sampled(restricted))
    assert restricted.notes[-1] == "ptq+qat: always on: d computes in int8 only"
    with pytest.raises(SpaceError, match="d computes in int8 only; add a ptq or qat stage"):
        SearchSpace.parse({"stages": [{"technique": "prune", "ratio": 0.5}]}).restrict(
            target("edgetpu", "int8"), OUTLINE
        )


def test_restrict_does_not_quantise_for_a_float_only_device() -> None:
    restricted = SearchSpace.parse(SPACE).restrict(target("rknn", "float32"), OUTLINE)
    assert {s.technique for r in sampled(restricted) for s in r.stages} == {"prune", "distill"}
    assert "ptq, qat: left out: d computes in float only" in restricted.notes


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight_bits", 4), ("weight_bits", {"choice": [4, 16]}), ("activation_bits", 32), ("weight_bits", {"fc": 4})],
)
def test_restrict_leaves_a_stage_out_that_has_no_executable_bits(field: str, value: Any) -> None:
    space = SearchSpace.parse({"stages": [{"technique": "prune", "ratio": 0.5}, {"technique": "ptq", field: value}]})
    restricted = space.restrict(target("rknn", "float32", "int8"), OUTLINE)
    assert [slot.name for slot in restricted.slots] == ["prune"]
    assert restricted.notes[0].startswith(f"ptq: left out: {field}: d (rknn) executes 8")
