from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from helpers.small import EXITS, NUMERICS, SPACE, device, small_task, space, write_space, write_task
from torch import Tensor, nn

from autocompress.compression import training
from autocompress.compression.candidate import Candidate
from autocompress.compression.stage import Phase
from autocompress.controller import Budget, search
from autocompress.controller.journal import SafeJournalBackend, exclusive
from autocompress.controller.store import remarks
from autocompress.errors import CandidateError, ConstraintError, InputError, InternalError, StudyError
from autocompress.evaluation.deploy import Deployer, Deployment
from autocompress.evaluation.evaluator import Evaluator, Outcome
from autocompress.recipes.recipe import Recipe
from autocompress.studies.constraints import at_most
from autocompress.studies.folder import write_evaluation
from autocompress.studies.reporter import Silent
from autocompress.studies.results import Evaluation
from autocompress.studies.settings import Settings
from autocompress.studies.study import Study
from autocompress.tasks.metric import Metric
from autocompress.tasks.task import Task

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def task() -> Task:
    return small_task()


def run(task: Task, out: Path, trials: int = 4, data: dict[str, Any] = SPACE, **settings: Any) -> Study:
    return search(task, device(), space(data), budget=Budget(trials), out=out, **settings)


def found(study: Study) -> list[tuple[object, ...]]:
    """What must not depend on interruptions."""
    return [
        (
            e.trial,
            e.kind,
            e.recipe_digest,
            e.state,
            e.validation.value if e.validation else None,
            e.size_bytes,
            e.sha256,
        )
        for e in study.evaluations
    ]


def own(study: Study) -> list[Evaluation]:
    """What counts in the budget: neither points that share a network, nor repeats."""
    return [e for e in study.candidates if e.derived_from is None and e.state != "rejected"]


def states(folder: Path) -> set[str]:
    storage = optuna.storages.JournalStorage(SafeJournalBackend(folder / "study.journal"))
    return {trial.state.name for trial in optuna.load_study(study_name="autocompress", storage=storage).trials}


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of all recipes that are evaluated."""
    digests: list[str] = []
    evaluate = Evaluator.evaluate

    def spy(self: Evaluator, recipe: Recipe) -> list[Outcome]:
        digests.append(recipe.digest())
        return evaluate(self, recipe)

    monkeypatch.setattr(Evaluator, "evaluate", spy)
    return digests


class Watcher:
    """A reporter that calls back after each judged candidate."""

    def __init__(self, after: Callable[[Evaluation], None] = lambda evaluation: None) -> None:
        self.after = after
        self.notes: list[str] = []
        self.shares: list[float] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def status(self, message: str) -> None:
        pass

    def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
        self.shares.append(share)
        if evaluation.kind == "candidate":
            self.after(evaluation)


# ---------------------------------------------------------------------------------------------- a plain search


def test_a_search_judges_baselines_then_candidates(task: Task, tmp_path: Path) -> None:
    watcher = Watcher()
    study = run(task, tmp_path / "study", 4, reporter=watcher)
    assert [b.label for b in study.baselines] == ["fp32", "fp16", "int8"]
    assert len(own(study)) == 4
    assert [e.trial for e in study.evaluations] == list(range(len(study.evaluations)))
    assert all(e.state == "complete" for e in study.evaluations)
    assert study.final and len(study.front) >= 2
    assert watcher.shares == sorted(watcher.shares) and watcher.shares[-1] == 1.0
    assert all((study.path / str(e.artifact)).stat().st_size == e.size_bytes for e in study.evaluations)
    assert states(study.path) <= {"COMPLETE", "WAITING"}


def test_the_same_seed_finds_the_same_and_another_one_something_else(task: Task, tmp_path: Path) -> None:
    first, second = (run(task, tmp_path / name, 7, sampler="random", seed=5) for name in ("a", "b"))
    other = run(task, tmp_path / "c", 7, sampler="random", seed=6)
    assert found(first) == found(second)
    recipes = {e.recipe_digest for e in first.candidates}
    assert recipes != {e.recipe_digest for e in other.candidates}


def test_a_longer_budget_goes_on_where_the_search_ended(task: Task, tmp_path: Path, evaluated: list[str]) -> None:
    short = found(run(task, tmp_path / "study", 2))
    n = len(evaluated)
    long = run(task, tmp_path / "study", 6)
    assert set(short) < set(found(long)) and len(own(long)) == 6
    assert len(set(evaluated)) == len(evaluated) == n + len(long.evaluations) - len(short)
    assert found(long) == found(run(task, tmp_path / "whole", 6))


def test_points_found_after_the_end_get_their_final_figures_too(task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    before = run(task, folder, 2)
    assert before.final

    def stop(evaluation: Evaluation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(task, folder, 6, reporter=Watcher(stop))
    stopped = Study.open(folder)
    assert not stopped.final and len(stopped.evaluations) > len(before.evaluations)
    ended = run(task, folder, len(own(stopped)))  # which are judged already
    assert ended.final and found(ended) == found(stopped) and all(e.test for e in ended.front)


def test_nothing_is_done_when_the_budget_is_used(task: Task, tmp_path: Path, evaluated: list[str]) -> None:
    first = found(run(task, tmp_path / "study", 2))
    evaluated.clear()
    assert found(run(task, tmp_path / "study", 2)) == first and not evaluated


def test_a_budget_of_hours_ends_the_search(task: Task, tmp_path: Path) -> None:
    study = search(task, device(), space(), budget=Budget(hours=1e-9), out=tmp_path / "study")
    assert len(study.candidates) == 1


def test_a_budget_shorter_than_one_trial_is_told_before_the_first_one(task: Task, tmp_path: Path) -> None:
    told: list[str] = []

    class Listener(Silent):
        def note(self, message: str) -> None:
            told.append(message)

        def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
            if evaluation.kind == "candidate":
                told.append("trial")

    search(task, device(), space(), budget=Budget(hours=1e-6), out=tmp_path / "short", reporter=Listener())
    before = " ".join(told[: told.index("trial")])
    assert "the budget of 1e-06 hours (0.0036 s) is shorter than one trial" in before
    told.clear()
    search(task, device(), space(NUMERICS), budget=Budget(1, hours=5), out=tmp_path / "long", reporter=Listener())
    assert "trial" in told and not any("shorter than one trial" in message for message in told)


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_settings_of_exits_become_points_of_their_own(tmp_path: Path) -> None:
    study = run(small_task("resnet"), tmp_path / "study", 1, EXITS)
    parent, *derived = study.candidates
    assert derived and all(e.derived_from == parent.trial for e in derived)
    assert len({e.recipe.get("exit_threshold") for e in study.candidates}) == len(study.candidates)
    assert len({e.artifact for e in study.candidates}) == len(study.candidates)


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_a_trained_network_is_tried_in_other_formats_without_training_and_without_budget(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *a, **k: (trained.append("once"), fit(*a, **k))[1])
    study = run(task, tmp_path / "study", 3)
    others = [e for e in study.candidates if e.derived_from is not None and not e.is_repeat]
    assert len(own(study)) == len(trained) == 3
    assert others
    by_trial = {e.trial: e for e in own(study)}
    for other in others:
        source = by_trial[int(other.derived_from or 0)]
        assert other.recipe.upto(Phase.TRAINING) == source.recipe.upto(Phase.TRAINING)
        assert other.recipe.get("ptq") != source.recipe.get("ptq")
        assert other.sha256 != source.sha256


def test_another_format_that_fails_takes_none_of_the_budget(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, networks = Evaluator.evaluate, set()

    def only_the_first_format(self: Evaluator, recipe: Recipe) -> list[Outcome]:
        network = recipe.digest(Phase.TRAINING)
        if recipe.get("prune") and network in networks:
            raise CandidateError("no luck")
        networks.add(network)
        return evaluate(self, recipe)

    monkeypatch.setattr(Evaluator, "evaluate", only_the_first_format)
    study = run(task, tmp_path / "study", 3)
    failed = [e for e in study.candidates if e.state == "failed"]
    assert failed and all(e.derived_from is not None for e in failed)
    assert [e.state for e in own(study)] == ["complete"] * 3


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_a_space_may_leave_nothing_to_choose(task: Task, tmp_path: Path) -> None:
    study = run(task, tmp_path / "study", 1, {"stages": [{"technique": "ptq"}]})
    assert len(study.candidates) == 1 and study.final


@pytest.mark.parametrize("sampler", ["ehvi", "tpe", "nsga2", "gp", "random"])
def test_every_sampler_gets_beyond_the_first_proposals(task: Task, tmp_path: Path, sampler: str) -> None:
    assert len(run(task, tmp_path / "study", 10, sampler=sampler).candidates) >= 10


# ------------------------------------------------------------------------------------ what is not evaluated


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_rejected_candidates_cost_no_training(task: Task, tmp_path: Path, evaluated: list[str]) -> None:
    study = run(task, tmp_path / "study", 12, constraints=[at_most("size_bytes", 6000)], sampler="random")
    rejected = [e for e in study.candidates if e.state == "rejected"]
    assert rejected and not set(evaluated) & {e.recipe_digest for e in rejected}
    assert len(evaluated) == 3 + 12  # rejected ones are not counted by the budget
    assert all("size_bytes must be at most 6000, predicted" in e.reason for e in rejected)
    assert all(e.artifact is None and not e.seconds for e in rejected)
    assert "PRUNED" in states(study.path)


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_a_recipe_is_evaluated_once(task: Task, tmp_path: Path, evaluated: list[str]) -> None:
    study = run(task, tmp_path / "study", 3, NUMERICS, sampler="random")
    assert len(evaluated) == 3 + 3  # baselines, and each of the three recipes
    assert len(set(evaluated[3:])) == 3
    repeated = [e for e in study.candidates if e.reason.startswith("gives the same file as trial")]
    twins = {e.trial: e for e in study.candidates}
    for e in repeated:
        assert e.derived_from is not None
        assert e.validation == twins[e.derived_from].validation and e.sha256 == twins[e.derived_from].sha256


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_recipes_that_give_the_same_file_are_evaluated_once(tmp_path: Path, evaluated: list[str]) -> None:
    # both shares lead to the only place of this space's network that lies between them
    data = {"stages": [{**EXITS["stages"][0], "first": {"choice": [0.3, 0.31]}}, *EXITS["stages"][1:]]}
    watcher = Watcher()
    run(small_task("resnet"), tmp_path / "study", 2, data, reporter=watcher)
    assert len(evaluated) == 3 + 1


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_a_search_ends_when_there_is_nothing_left_to_try(task: Task, tmp_path: Path) -> None:
    watcher = Watcher()
    study = run(task, tmp_path / "study", 50, NUMERICS, reporter=watcher)
    assert any("stopped before the budget was used" in note for note in watcher.notes)
    assert len({e.sha256 for e in study.candidates}) == 3
    assert study.final and len(study.candidates) < 100


# --------------------------------------------------------------------------------------------- refused at once


def test_two_searches_on_one_study_are_refused(task: Task, tmp_path: Path) -> None:
    with exclusive(tmp_path / "study"), pytest.raises(StudyError, match="another search is running"):
        run(task, tmp_path / "study", 1)


def test_impossible_constraints_are_refused_before_anything_is_trained(
    task: Task, tmp_path: Path, evaluated: list[str]
) -> None:
    with pytest.raises(ConstraintError, match=r"impossible: latency_ms must be at most 1e-05"):
        run(task, tmp_path / "study", 1, constraints=[at_most("latency_ms", 1e-5)])
    assert len(evaluated) == 3


def test_other_inputs_are_refused_by_name(task: Task, tmp_path: Path) -> None:
    run(task, tmp_path / "study", 1)
    with pytest.raises(StudyError, match=r"other inputs: seed: the study has 0, now 1\."):
        run(task, tmp_path / "study", 2, seed=1)
    with pytest.raises(StudyError, match="other inputs: space: the study has"):
        run(task, tmp_path / "study", 2, NUMERICS)
    with pytest.raises(StudyError, match="model_sha256"):
        run(small_task("resnet"), tmp_path / "study", 2)


def test_another_metric_is_refused_and_named_and_starting_from_the_study_is_the_way_out(
    task: Task, tmp_path: Path
) -> None:
    def other(outputs: Any, targets: Any) -> Any:
        return (outputs.argmax(-1) == targets) * 0.5

    run(task, tmp_path / "study", 1)
    changed = dataclasses.replace(task, metric=Metric("accuracy", other))
    with pytest.raises(StudyError, match=r"the code of the metric changed.*--start-from"):
        run(changed, tmp_path / "study", 2)
    assert run(changed, tmp_path / "new", 1, start_from=tmp_path / "study").candidates


def test_a_study_of_before_code_was_known_goes_on_with_a_note(task: Task, tmp_path: Path) -> None:
    run(task, tmp_path / "study", 1)
    path = tmp_path / "study" / "study.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "identity"}))
    assert "could not be checked" in remarks(tmp_path / "study", Settings.model_validate(settings))[0]
    run(task, tmp_path / "study", 2)
    newer = {**settings, "versions": {**settings["versions"], "torch": "99.0.0"}}
    path.write_text(json.dumps(newer))
    with pytest.raises(StudyError, match=r"torch 99.0.0 was used, now it is"):
        run(task, tmp_path / "study", 3)


def test_a_folder_with_something_else_in_it_is_refused(task: Task, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StudyError, match="is not empty and not a study"):
        run(task, tmp_path, 1)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_unknown_sampler_is_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown sampler 'tpee' \(did you mean 'tpe'\?\)"):
        run(task, tmp_path / "study", 1, sampler="tpee")


# ------------------------------------------------------------------------------------------------- failures


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_a_loss_that_is_not_a_number_is_a_recorded_failure(tmp_path: Path) -> None:
    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets) * torch.tensor(float("nan"))

    study = run(small_task(loss=broken), tmp_path / "study", 2)
    assert [e.state for e in study.candidates] == ["failed", "failed"]
    assert all("the loss became nan in epoch 1; lower its learning_rate" in e.reason for e in study.candidates)
    assert study.final and {e.kind for e in study.front} == {"baseline"}
    assert "FAIL" in states(study.path)


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_a_candidate_that_fails_does_not_end_the_search(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, calls = Evaluator.evaluate, []

    def fails_once(self: Evaluator, recipe: Recipe) -> list[Outcome]:
        calls.append(recipe)
        if len(calls) == 5:  # the second candidate
            raise CandidateError("no luck")
        return evaluate(self, recipe)

    monkeypatch.setattr(Evaluator, "evaluate", fails_once)
    study = run(task, tmp_path / "study", 3, sampler="tpe")
    assert [(e.state, e.reason) for e in study.candidates] == [
        ("complete", ""),
        ("failed", "no luck"),
        ("complete", ""),
    ]


def test_a_bug_stops_the_search_and_leaves_a_study_to_go_on_with(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(task, tmp_path / "whole", 3, sampler="tpe")
    evaluate, calls = Evaluator.evaluate, []

    def has_a_bug(self: Evaluator, recipe: Recipe) -> list[Outcome]:
        calls.append(recipe)
        if len(calls) == 5:
            raise RuntimeError("a bug")
        return evaluate(self, recipe)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", has_a_bug)
        with pytest.raises(InternalError, match=r"RuntimeError: a bug .*the study is intact.*bug\.log"):
            run(task, tmp_path / "study", 3, sampler="tpe")
    assert "in has_a_bug" in (tmp_path / "study" / "bug.log").read_text()
    interrupted = Study.open(tmp_path / "study")
    assert not interrupted.final and len(interrupted.candidates) == 1
    assert found(run(task, tmp_path / "study", 3, sampler="tpe")) == found(whole)
    assert "RUNNING" not in states(tmp_path / "study")


def test_a_trial_that_kills_the_process_each_time_is_given_up(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Evaluator.evaluate
    fatal = run(task, tmp_path / "whole", 2, sampler="tpe").candidates[1].recipe.digest()

    def dies(self: Evaluator, recipe: Recipe) -> list[Outcome]:
        if recipe.digest() == fatal:
            raise SystemExit("killed")
        return evaluate(self, recipe)

    monkeypatch.setattr(Evaluator, "evaluate", dies)
    monkeypatch.setattr("autocompress.controller.store._TRIES", 3)
    for _ in range(3):
        with pytest.raises(SystemExit):
            run(task, tmp_path / "study", 2, sampler="tpe")
    study = run(task, tmp_path / "study", 3, sampler="tpe")
    assert [e.state for e in study.candidates][:2] == ["complete", "failed"]
    assert study.candidates[1].reason == "the process died each time this was evaluated"
    assert study.candidates[-1].state == "complete"


@pytest.mark.usefixtures("nothing_of_the_untouched")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_objectives_that_are_not_finite_are_a_recorded_failure(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    evaluate, calls = Evaluator.evaluate, []

    def once(self: Evaluator, recipe: Recipe) -> list[Outcome]:
        calls.append(recipe)
        [outcome] = evaluate(self, recipe)
        return [outcome.evolve(predicted_latency_ms=value) if len(calls) == 4 else outcome]  # the first candidate

    monkeypatch.setattr(Evaluator, "evaluate", once)
    study = run(task, tmp_path / "study", 2)
    assert [e.state for e in study.candidates] == ["failed", "complete"] and study.final
    assert study.candidates[0].reason == f"not a finite number: latency_ms is {value}"


@pytest.mark.usefixtures("nothing_of_the_untouched")
def test_out_of_memory_is_a_recorded_failure(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, calls = Deployer.build, []

    def once(self: Deployer, candidate: Candidate, *, final: bool = True) -> Deployment:
        calls.append(final)
        if calls.count(True) == 4 and final:
            torch.empty(2**60)
        return build(self, candidate, final=final)

    monkeypatch.setattr(Deployer, "build", once)
    study = run(task, tmp_path / "study", 2)
    assert [e.state for e in study.candidates] == ["failed", "complete"]
    assert study.candidates[0].reason.startswith("writing the file ran out of memory; use a smaller batch size")


def test_a_search_whose_candidates_all_fail_ends_with_its_baselines(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: Evaluator, candidate: Candidate, recipe: Recipe) -> Candidate:
        if recipe.get("distill"):
            raise ValueError("the data are gone")
        return candidate

    shown = Watcher()
    monkeypatch.setattr(Evaluator, "_train", gone)
    study = run(task, tmp_path / "study", 100, reporter=shown)
    failure = "training raised ValueError: the data are gone (test_driver.py, line "
    assert all(e.reason.startswith(failure) for e in study.candidates if e.state == "failed" and not e.is_repeat)
    assert len(own(study)) == 20 and study.final and len(study.baselines) == 3
    assert "the last 20 candidates failed" in shown.notes[-1]


def test_a_clock_that_jumps_does_not_use_up_the_budget(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr("time.time", lambda: now() + 1e7 * (-1) ** next(jumps))
    study = search(task, device(), space(), budget=Budget(trials=3, hours=50), out=tmp_path / "study")
    assert len(own(study)) == 3 and study.final


def test_a_full_disk_is_reported_and_loses_nothing(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(task, tmp_path / "whole", 4)
    write, full = os.write, []

    def limited(file: int, data: bytes) -> int:
        if full and os.readlink(f"/proc/self/fd/{file}").endswith("study.journal"):
            full.append(1)
            if len(full) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, bytes(data)[:10])
        return write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr("autocompress.controller.journal.os.write", limited)
        with pytest.raises(StudyError, match="No space left on device; nothing that was finished is lost, make room"):
            run(task, tmp_path / "study", 4, reporter=Watcher(lambda evaluation: full.append(1)))
    assert found(Study.open(tmp_path / "study")) == found(whole)[:4]
    assert found(run(task, tmp_path / "study", 4)) == found(whole)


# ------------------------------------------------------------------------------------------- interruptions

_KILLS = """
import os, random, signal, sys, time, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)
import onnxscript, torch.onnx  # once, and not in every fork
from helpers.small import device, small_task, space
from autocompress.controller import Budget, search

root, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(0)
studies, died = 0, 0
while True:
    folder = root / str(studies)
    if (pid := os.fork()) == 0:
        try:
            search(small_task(), device(), space(), budget=Budget(8), out=folder, seed=3)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    finished = lambda: len(list(folder.glob("trials/*/evaluation.json")))
    further = rng.randint(0, 2)
    enough, ended, end = finished() + further, 0, time.monotonic() + 300
    while died < kills and finished() < enough and not ended and time.monotonic() < end:
        time.sleep(0.005)
        ended, status = os.waitpid(pid, os.WNOHANG)
    if died < kills and not ended:
        time.sleep(rng.uniform(0, 0.3 if further else 2.0))
        os.kill(pid, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        died += 1
        continue
    assert os.WEXITSTATUS(status) == 0
    studies += 1
    if died == kills:
        break
"""


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}


def _finished(folder: Path) -> int:
    return len(list(folder.glob("trials/*/evaluation.json")))


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "the search does not get on"
        time.sleep(0.005)


def test_a_baseline_that_was_left_half_written_keeps_its_number(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(task, tmp_path / "whole", 1)

    def dies(folder: Path, evaluation: Evaluation) -> None:
        if evaluation.label == "int8":
            raise KeyboardInterrupt
        write_evaluation(folder, evaluation)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("autocompress.controller.store.write_evaluation", dies)
        run(task, tmp_path / "study", 1)
    assert (tmp_path / "study/trials/000002/model.onnx").exists()
    assert found(run(task, tmp_path / "study", 1)) == found(whole)


_SOAK = pytest.mark.skipif("SOAK" not in os.environ, reason="takes minutes: set SOAK=1")


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=[pytest.mark.slow, _SOAK])])
def test_kill_9_loses_and_doubles_nothing(task: Task, tmp_path: Path, kills: int) -> None:
    whole = run(task, tmp_path / "whole", 8, seed=3)
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", _KILLS, str(folder), str(kills)]
    done = subprocess.run(command, env=_environment(), stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    studies = list(folder.iterdir())
    assert studies
    for study in studies:
        assert found(Study.open(study)) == found(whole)
        assert states(study) <= {"COMPLETE", "WAITING"}


def _hears_ctrl_c() -> None:
    """Undo what a background job of a shell, or nohup, hands down: signals that are ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def test_a_second_signal_ends_at_once_and_a_closed_pipe_with_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "autocompress.cli", "search", write_task(tmp_path), "--out", str(folder)]
    command += ["--space", str(write_space(tmp_path)), "--device", "raspberry-pi-4", "--trials", "100000"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=_environment(), preexec_fn=_hears_ctrl_c, **pipes) as process:
        _wait_for(lambda: _finished(folder) >= 4, process)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode in (130, 143) and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: ") and "nothing that was finished is lost" in errors
    before = _finished(folder)
    with subprocess.Popen([*command, "--json-lines"], env=_environment(), **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait()
        errors = process.stderr.read() if process.stderr else ""
    assert process.returncode == 1 and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: the output was closed; nothing that was finished is lost")
    assert len(Study.open(folder).evaluations) >= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "autocompress.cli", "search", write_task(tmp_path), "--out", str(folder)]
    command += ["--space", str(write_space(tmp_path)), "--device", "raspberry-pi-4", "--trials", "100000"]
    with subprocess.Popen(
        command,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hears_ctrl_c,
    ) as process:
        _wait_for(lambda: _finished(folder) >= 4, process)
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("error: interrupted; nothing that was finished is lost, run the same")
    assert "Traceback" not in errors
    kept = found(Study.open(folder))
    assert len(kept) >= 4
    n = len(own(Study.open(folder)))
    resumed = run(small_task(), folder, n + 1)
    assert set(kept) < set(found(resumed)) and len(own(resumed)) == n + 1
