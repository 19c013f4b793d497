"""Techniques that nothing in the package knows: their candidates are told apart, built to be costed, and recorded."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small import DEVICE, device, small_task, space, write_space, write_task
from helpers.tasks import make_task

from autocompress import Study, cli
from autocompress.compression.analysis import analyze
from autocompress.compression.candidate import Context
from autocompress.compression.catalogue import enable, technique
from autocompress.compression.training import Schedule
from autocompress.controller.executors.base import EvaluatorSpec
from autocompress.controller.untouched import UntouchedNetwork
from autocompress.errors import CandidateError
from autocompress.evaluation.elastic import Elastic
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.screening import Screen
from autocompress.recipes.recipe import Recipe
from autocompress.studies.results import Evaluation
from autocompress.tasks.task import Task
from autocompress.testing import CHECKS, Case

TRAIN = {"technique": "distill", "epochs": 1}
DROP = {"technique": "own_techniques.drop_block", "block": "blocks.0"}


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    """What `--techniques` does, for the tests of this module."""
    before = set(sys.modules)
    for name in ("drop_block", "shrink", "skip_blocks"):
        enable(f"own_techniques.{name}")
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_techniques"):
            del sys.modules[name]


def recipe(*stages: dict[str, Any]) -> Recipe:
    return Recipe.parse({"stages": list(stages)})


def shrunk(factor: float) -> Recipe:
    return recipe({"technique": "own_techniques.shrink", "factor": factor}, {**TRAIN, "epochs": 0})


def test_trained_weights_are_those_of_the_recipe(tmp_path: Path) -> None:
    """The example of docs/extend.md: with one key for all factors the weights of another recipe came back."""
    evaluator = Evaluator(small_task("mlp"), device(), cache=tmp_path)
    recipes = [recipe(TRAIN), shrunk(1.0), shrunk(0.5), shrunk(0.01)]
    assert len({evaluator.forecast(r).key for r in recipes}) == 4
    files = [evaluator.evaluate(r)[0].evaluation for r in recipes]
    assert len({e.sha256 for e in files}) == 4 == len(list(tmp_path.glob("*.pt")))
    assert not any("found in the cache" in note for e in files for note in e.notes)


def test_equal_candidates_of_other_recipes_share_weights_and_key(tmp_path: Path) -> None:
    evaluator = Evaluator(small_task("mlp"), device(), cache=tmp_path)
    same = [
        recipe({"technique": "own_techniques.drop_block"}, TRAIN),
        recipe({"technique": "prune", "ratio": 0.0}, TRAIN),
    ]
    assert {evaluator.forecast(r).key for r in same} == {evaluator.forecast(recipe(TRAIN)).key}
    evaluator.evaluate(recipe(TRAIN))
    assert all(evaluator.is_trained(r) for r in same) and not evaluator.is_trained(recipe({**TRAIN, "epochs": 2}))
    assert any("found in the cache" in note for note in evaluator.evaluate(same[0])[0].evaluation.notes)


def test_costs_of_unknown_stages_are_not_guessed() -> None:
    evaluator = Evaluator(small_task("resnet", n=64), device())
    with pytest.raises(CandidateError, match=r"what own_techniques.drop_block does to the costs is not known before"):
        Screen(evaluator, space({"version": 1, "stages": [{**DROP, "block": {"choice": ["none", "blocks.0"]}}]}))
    dropped = evaluator.forecast(recipe(DROP))
    assert dropped.worst_case_ms < evaluator.forecast(recipe()).worst_case_ms


def test_shared_weights_carry_what_consists_of_them(tmp_path: Path) -> None:
    context = Evaluator(small_task("resnet", n=64), device()).context
    pruned = {"technique": "prune", "ratio": 0.5, "round_to": 2}
    replaced = recipe({**DROP, "by": "two"})
    with pytest.raises(CandidateError, match=r"blocks.0.0.weight is not a parameter of the original network"):
        Elastic.train(context, [replaced])
    elastic = Elastic.train(context, [recipe(DROP, pruned), recipe(pruned)], schedule=Schedule(1, 0.05))
    smaller, other = (
        elastic.start(Evaluator(context.task, device()).structure(r)) for r in (recipe(DROP, pruned), replaced)
    )
    whole = dict(elastic.shared.backbone.named_parameters())
    kept = [i for i in range(8) if i not in smaller.removed["stem.0"]]
    assert torch.equal(smaller.model.stem[0].weight, whole["stem.0.weight"][kept])
    assert not [name for name, _ in smaller.model.named_parameters() if name.startswith("blocks.0")]
    assert "starts from the original's weights" in other.notes[-1]


def test_layers_that_are_gone_and_new_ones_are_recorded() -> None:
    evaluator = Evaluator(small_task("resnet", n=64), device())
    for by, new in (("nothing", set()), ("two", {"blocks.0.0", "blocks.0.1"})):
        layers = evaluator.evaluate(recipe({**DROP, "by": by}))[0].evaluation.layers
        assert {x.name for x in layers if not x.channels_after} == {"blocks.0.conv1", "blocks.0.conv2"}
        assert {x.name for x in layers if not x.channels_before} == new


# ------------------------------------------------------------- a technique that changes the depth, known to no source

SKIP = "own_techniques.skip_blocks"
SKIPPING = {
    "version": 1,
    "stages": [
        {"technique": SKIP, "skip": {"per": "layer", "choice": [0, 1]}},
        {"technique": "prune", "ratio": {"choice": [0.25, 0.5]}, "round_to": 2},
        {"technique": "distill", "epochs": 1},
        {"technique": "ptq", "weight_bits": {"choice": [8, 4]}},
    ],
}


@pytest.fixture(scope="module")
def context() -> Context:
    task = make_task("resnet")
    return Context(task, analyze(task))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_conforms(check: Callable[[Case], None], context: Context) -> None:
    cls = technique(SKIP)
    check(Case(cls.model_validate({"skip": {"blocks.0": 1}}), context, identity=cls()))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Searched by two workers with the default sampler, from the command line."""
    folder = tmp_path_factory.mktemp("depth")
    task = write_task(folder, body='    return small_task("resnet", n=64)')
    write_space(folder, SKIPPING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UntouchedNetwork, "next", lambda self, judged: None)
        run(
            "search",
            task,
            "--space",
            folder / "space.yaml",
            "--workers",
            2,
            "--trials",
            5,
            *ON,
            "--out",
            folder / "out",
        )
    return folder / "out"


ON = ("--device", DEVICE)


def run(*words: object) -> None:
    """What a user types, with the technique enabled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["autocompress", "--techniques", SKIP, *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code in (0, None), words


def skips(evaluation: Evaluation) -> bool:
    stage = evaluation.recipe.get(SKIP)
    return stage is not None and "without 1 " in stage.summary()


@pytest.mark.slow
def test_two_workers_search_it_with_the_default_sampler(study: Path) -> None:
    done = [e for e in Study.open(study).candidates if e.state == "complete"]
    assert {skips(e) for e in done} == {False, True}
    for e in done:
        assert [x.name for x in e.layers if not x.channels_after] == ["blocks.0.conv1", "blocks.0.conv2"] * skips(e)
    latencies = {skips(e): e.predicted_latency_ms for e in done}
    assert latencies[True] < latencies[False]


def test_workers_elsewhere_are_told_of_it() -> None:
    """Ray sends recipes as text: its workers must know the technique before the first one comes."""
    evaluator_spec = pickle.loads(
        EvaluatorSpec.of(Evaluator(small_task("resnet", n=64), device()), small_resnet, 1).pack()
    )
    assert SKIP in evaluator_spec.techniques
    forgotten = sys.modules.pop(SKIP)
    evaluator_spec.build()
    assert sys.modules[SKIP] is not forgotten and Recipe.parse({"stages": [{"technique": SKIP}]})
    sys.modules[SKIP] = forgotten


def small_resnet() -> Task:
    return small_task("resnet", n=64)


def test_it_is_ablated_compared_and_shown(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = [e for e in Study.open(study).candidates if e.state == "complete"]
    one, other = (next(e.trial for e in done if skips(e) is kind) for kind in (True, False))
    run("ablate", study, f"{study.parent / 'my_task.py'}:task", "--trial", one)
    assert "fewer blocks" in capsys.readouterr().out
    run("diff", f"{study}:{one}", f"{study}:{other}")
    assert f"{SKIP}: skip of blocks.0 1 -> 0" in capsys.readouterr().out
    run("show", study, "--html", tmp_path / "report.html")
    assert "without 1 blocks" in capsys.readouterr().out + (tmp_path / "report.html").read_text()


def test_it_is_exported_and_replayed(study: Path, tmp_path: Path) -> None:
    point = next(e for e in Study.open(study).candidates if e.state == "complete" and skips(e))
    run("export", study, "--trial", point.trial, "--out", tmp_path / "edge")
    task = f"{study.parent / 'my_task.py'}:task"
    run("apply", tmp_path / "edge" / "recipe.yaml", task, *ON, "--out", tmp_path / "again.onnx")
    assert hashlib.sha256((tmp_path / "again.onnx").read_bytes()).hexdigest() == point.sha256


@pytest.mark.slow
def test_it_is_searched_with_shared_weights_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = write_task(tmp_path, body='    return small_task("resnet", n=64)')
    write_space(tmp_path, SKIPPING)
    run("check", task, "--space", tmp_path / "space.yaml", *ON)
    assert "leaving out blocks.0: " in capsys.readouterr().out
    run(
        "search",
        task,
        "--space",
        tmp_path / "space.yaml",
        "--evaluator",
        "elastic",
        "--trials",
        3,
        *ON,
        "--out",
        tmp_path / "out",
    )
    done = [e for e in Study.open(tmp_path / "out").candidates if e.state == "complete" and e.recipe.get(SKIP)]
    assert any(skips(e) for e in done)
    assert all("elastic: starts from the shared weights" in e.notes for e in done if e.derived_from is None)
