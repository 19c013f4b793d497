"""Whatever breaks in a candidate is a recorded failure with one sentence, and the search goes on."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small import device, small_task, space

from autocompress.controller import Budget, search
from autocompress.controller.dry_run import dry_run
from autocompress.controller.executors.base import Job, attempt
from autocompress.errors import CandidateError, StudyError, TaskError, failing_as
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.replay import apply
from autocompress.recipes.recipe import Recipe


class Panic(BaseException):
    """As extensions in Rust raise it."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError


ERRORS: list[BaseException] = [
    RuntimeError("no such kernel\nand a second line"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    ZeroDivisionError("division by zero"),
    SystemExit(3),
    KeyError("bias"),
    torch.OutOfMemoryError("tried to allocate 20 GiB"),
    AssertionError(),
    StopIteration(),
    OSError("no space left on device"),
    Panic("called unwrap on None"),
    Unspeakable(),
]
REASONS = {
    "RuntimeError": "raised RuntimeError: no such kernel",
    "MemoryError": "ran out of memory; use a smaller batch size",
    "OutOfMemoryError": "ran out of memory; use a smaller batch size",
    "SystemExit": "raised SystemExit: 3",
    "KeyError": "raised KeyError: 'bias'",
    "AssertionError": "raised AssertionError: (no message)",
    "Unspeakable": "raised Unspeakable: (no message)",
}

PRUNE, TRAIN = {"technique": "prune", "ratio": 0.25, "round_to": 2}, {"technique": "distill", "epochs": 1}
PTQ, QAT = {"technique": "ptq"}, {"technique": "qat", "epochs": 1}
EXITS = {"technique": "early_exit", "first": 0.4}
WRITE, RUN = "writing the file", "running the file"
PLACES: list[tuple[str, list[dict[str, Any]], str]] = [
    ("autocompress.compression.techniques.prune:Prune.apply", [PRUNE], "the stage prune"),
    ("autocompress.compression.techniques.early_exit:EarlyExit.apply", [EXITS], "the stage early_exit"),
    ("autocompress.compression.techniques.ptq:Ptq.apply", [PTQ], "the stage ptq"),
    ("autocompress.evaluation.evaluator:load_weights", [TRAIN], "training"),
    ("autocompress.compression.training:_Objective.__call__", [TRAIN], "the stage distill"),
    ("autocompress.tasks.task:Task.train_batches", [TRAIN], "the stage distill"),
    ("torch:Tensor.backward", [TRAIN], "the stage distill"),
    ("autocompress.graphs.export:fold_batchnorm", [], WRITE),
    ("autocompress.graphs.export:rebind", [], WRITE),
    ("autocompress.graphs.export:disagreement", [], WRITE),
    ("autocompress.graphs.export:strip", [], WRITE),
    ("autocompress.evaluation.deploy:plan", [PTQ], WRITE),
    ("autocompress.evaluation.deploy:observe", [PTQ], WRITE),
    ("autocompress.graphs.qdq:write_qdq", [PTQ], WRITE),
    ("autocompress.evaluation.deploy:build_twin", [QAT], WRITE),
    ("autocompress.graphs.qat:Twin.extract", [QAT], WRITE),
    ("autocompress.evaluation.deploy:outputs_of", [PTQ], WRITE),
    ("autocompress.runtimes.kernels:Forms.workload", [], WRITE),
    ("autocompress.devices.cost_model:predict", [], WRITE),
    ("autocompress.graphs.nested_if:to_nested_if", [EXITS], RUN),
    ("autocompress.evaluation.evaluator:Evaluator._layers", [], RUN),
    ("autocompress.evaluation.evaluator:Predictor.__call__", [], RUN),
    ("autocompress.tasks.task:Task.judge", [], RUN),
]
PAIRS = [
    pytest.param(place, ERRORS[(i + step) % len(ERRORS)], id=f"{place[0].partition(':')[2]}-{step}")
    for i, place in enumerate(PLACES)
    for step in (0, 4, 7)
]


def sentence(doing: str, error: BaseException) -> str:
    return f"{doing} {reason(error)}"


def reason(error: BaseException) -> str:
    name = type(error).__name__
    return next((text for key, text in REASONS.items() if key == name), None) or f"raised {name}: {error}"


def break_at(target: str, error: BaseException, patch: pytest.MonkeyPatch, once: list[bool] | None = None) -> None:
    """Have a function raise; with `once`, only while it is not empty, and then once."""
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *owners, name = path.split(".")
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, name)

    def broken(*args: Any, **settings: Any) -> Any:
        if once is None or once:
            if once:
                once.clear()
            raise error
        return original(*args, **settings)

    patch.setattr(owner, name, broken)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    judge = Evaluator(small_task("resnet", n=48), device(), cache=tmp_path_factory.mktemp("cache"))
    judge.evaluate(Recipe())  # so that the exported graph is there
    judge.evaluate(Recipe.parse({"stages": [EXITS]}))
    return judge


@pytest.mark.parametrize(("place", "error"), PAIRS)
def test_whatever_breaks_wherever_is_a_failure_of_the_candidate(
    evaluator: Evaluator, place: tuple[str, Any, str], error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, stages, doing = place
    recipe = Recipe.parse({"stages": stages})
    evaluator._structures.clear()
    evaluator.deployer._latest = None
    with monkeypatch.context() as patch:
        break_at(target, error, patch)
        reply = attempt(evaluator, Job(0, recipe))
    assert reply.failure.startswith(sentence(doing, error)) and "\n" not in reply.failure
    assert not reply.outcomes and not reply.lost


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["loss", "metric", "evaluate"])
def test_whatever_the_users_code_raises_comes_with_its_line(
    place: str, error: BaseException, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*_: object) -> float:
        raise error

    task = evaluator.task
    given = {"metric": ("metric", type(task.metric)("mine", raising))}.get(place, (place, raising))
    before = getattr(task, given[0])
    object.__setattr__(task, *given)
    try:
        reply = attempt(evaluator, Job(0, Recipe.parse({"stages": [TRAIN] if place == "loss" else []})))
    finally:
        object.__setattr__(task, given[0], before)
    assert reason(error) in reply.failure
    assert "memory" in reply.failure or "(test_failures.py, line " in reply.failure


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_a_search_goes_on_after_every_kind_of_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        "autocompress.evaluation.deploy:observe",
        "autocompress.graphs.export:fold_batchnorm",
        "torch:Tensor.backward",
    ]
    armed: dict[str, list[bool]] = {place: [] for place in places}
    for place, error in zip(places, (SystemExit(1), Panic("a panic"), RecursionError("too deep")), strict=True):
        break_at(place, error, monkeypatch, armed[place])

    class Saboteur:
        """Breaks the next thing whenever a candidate is finished."""

        def note(self, message: str) -> None: ...
        def status(self, message: str) -> None: ...
        def judged(self, evaluation: Any, share: float, eta_s: float | None) -> None:
            if evaluation.kind == "candidate" and evaluation.state == "complete" and places:
                armed[places.pop(0)].append(True)

    study = search(
        small_task(n=48), device(), space(), budget=Budget(9), out=tmp_path, sampler="random", reporter=Saboteur()
    )
    failed = [e.reason for e in study.candidates if e.state == "failed" and not e.is_repeat]
    assert len(failed) == 3 and all("raised" in reason for reason in failed) and study.final
    assert study.candidates[-1].state == "complete"


def test_ctrl_c_and_a_handler_that_exits_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: object) -> None:
        raise SystemExit(143)

    def interrupted() -> None:
        raise KeyboardInterrupt

    def terminated() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, leave)
    cases: list[tuple[Callable[[], None], type[BaseException]]] = [
        (interrupted, KeyboardInterrupt),
        (terminated, SystemExit),
    ]
    try:
        for ending, kind in cases:
            with pytest.raises(kind), failing_as(CandidateError, "training"):
                ending()
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_a_model_that_cannot_be_judged_is_said_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at("autocompress.graphs.export:fold_batchnorm", KeyError("bias"), monkeypatch)
    with pytest.raises(StudyError, match=r"the model itself cannot be deployed: writing the file raised KeyError"):
        search(small_task(n=48), device(), space(), budget=Budget(3), out=tmp_path)


def test_apply_and_check_have_the_same_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task(n=48)
    break_at("autocompress.graphs.export:fold_batchnorm", SystemExit(3), monkeypatch)
    with pytest.raises(CandidateError, match=r"^writing the file raised SystemExit: 3"):
        apply(Recipe(), task, device(), out=tmp_path / "model.onnx")
    with pytest.raises(TaskError, match=r"^the model itself cannot be deployed: writing the file raised SystemExit: 3"):
        dry_run(task, device(), space(), [])
    monkeypatch.undo()
    break_at("autocompress.controller.duration:seconds_per_epoch", Panic("a panic"), monkeypatch)
    with pytest.raises(TaskError, match=r"^timing a few steps of training raised Panic: a panic"):
        dry_run(task, device(), space(), [])
