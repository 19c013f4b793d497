"""Worker processes: the same study as without them, and nothing but the running trial lost when they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import faults
from helpers.small import device, small_task
from test_driver import found, own, run, states

from autocompress.controller import Workers
from autocompress.controller.executors.base import EvaluatorSpec, Job, Reply
from autocompress.controller.executors.processes import Processes
from autocompress.errors import InputError, StudyError, TaskError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe
from autocompress.studies.reporter import Silent
from autocompress.studies.study import Study

TESTS = Path(__file__).parents[1]
TRAINED = Recipe.parse({"stages": [{"technique": "distill", "epochs": 1}]})
QUICK = Recipe.parse({"stages": [{"technique": "ptq"}]})


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(faults.task(), device())


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have trainings in workers misbehave, each fault once."""
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv("FAULTS", str(folder))
    monkeypatch.setenv(faults.DRIVER, str(os.getpid()))

    def arm(*names: str) -> None:
        for i, name in enumerate(names):
            (folder / f"{name}-{i}").touch()

    return arm


def collect(executor: Processes, n: int) -> dict[int, Reply]:
    replies: list[Reply] = []
    end = time.monotonic() + 300
    while len(replies) < n:
        assert time.monotonic() < end
        replies += executor.collect(1.0)
    assert len({reply.trial for reply in replies}) == n
    return {reply.trial: reply for reply in replies}


# ------------------------------------------------------------------------------------------------- one executor


def test_faults_cost_their_own_job_only(evaluator: Evaluator, arm: Callable[..., None]) -> None:
    executor = Processes(EvaluatorSpec.of(evaluator, faults.task, 1), 2, 30.0, Silent())
    try:
        assert executor.free() == 3  # the third is there when one of the two ends
        executor.submit(Job(0, QUICK))
        assert collect(executor, 1)[0].outcomes[0].evaluation.state == "complete"
        arm("die", "hang", "memory", "nan")
        for trial in range(4):
            executor.submit(Job(trial, TRAINED))
        executor.submit(Job(4, QUICK))
        replies = collect(executor, 5)
        failures = sorted(reply.failure for reply in replies.values())
        assert failures[0] == "" and not replies[4].failure
        assert failures[1:] == [
            "the stage distill ran out of memory; use a smaller batch size, or fewer workers",
            "the worker process died (SIGKILL, perhaps for want of memory)",
            "took longer than the time limit of 0.5 minutes",
            failures[4],
        ]
        assert "the loss became nan" in failures[4]
        assert [reply.lost for reply in replies.values()].count(True) == 1
        executor.submit(Job(5, TRAINED))
        [outcome] = collect(executor, 1)[5].outcomes
        assert outcome.evaluation.state == "complete" and outcome.file
        arm("bug")
        executor.submit(Job(6, TRAINED))
        failure = collect(executor, 1)[6].failure
        assert failure.startswith(
            "the stage distill raised ZeroDivisionError: a bug in the user's loss (faults.py, line "
        )
    finally:
        executor.close()
    assert not any(worker.process.is_alive() for worker in executor._workers)


def test_a_worker_that_gets_another_task_is_refused(evaluator: Evaluator) -> None:
    executor = Processes(EvaluatorSpec.of(evaluator, faults.drifting, 1), 1, 60.0, Silent())
    try:
        executor.submit(Job(0, QUICK))
        with pytest.raises(
            TaskError, match=r"a worker got another model than the search has: .*seed whatever is drawn"
        ):
            collect(executor, 1)
    finally:
        executor.close()


def test_workers_that_cannot_start_end_the_search(evaluator: Evaluator) -> None:
    executor = Processes(EvaluatorSpec.of(evaluator, faults.fatal, 1), 1, 60.0, Silent())
    try:
        executor.submit(Job(0, QUICK))
        with pytest.raises(StudyError, match=r"the worker processes die while they load the task \(exit code 7\)"):
            collect(executor, 1)
    finally:
        executor.close()


# ----------------------------------------------------------------------------------------------------- searches


def test_any_number_of_workers_continues_a_study(tmp_path: Path) -> None:
    whole = run(small_task(), tmp_path / "whole", 7, seed=3)
    folder = tmp_path / "study"
    first = found(run(small_task(), folder, 2, seed=3))
    one = Workers(1, trial_timeout_minutes=10)  # in a process of its own, since it may have to be stopped
    second = run(small_task(), folder, 4, seed=3, workers=one, reference=small_task)
    assert set(first) < set(found(second)) < set(found(whole))
    third = run(small_task(), folder, 9, seed=3, workers=Workers(2), reference=small_task)
    assert set(found(second)) < set(found(third))
    assert len(own(third)) == 9 and third.final
    assert states(folder) <= {"COMPLETE", "WAITING"}
    assert all((folder / str(e.artifact)).stat().st_size == e.size_bytes for e in third.evaluations)


@pytest.mark.parametrize(
    ("workers", "reference", "words"),
    [
        (Workers(2), "", "worker processes load the task themselves: give reference='my_task.py:task'"),
        (Workers(2), lambda: small_task(), "and can be pickled, got <function"),
        (Workers(trial_timeout_minutes=1), "", "worker processes load the task themselves"),
    ],
)
def test_workers_need_to_know_the_task(tmp_path: Path, workers: Workers, reference: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(small_task(), tmp_path / "study", 1, workers=workers, reference=reference)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"count": 0}, "number of workers must be at least 1, got 0"),
        ({"threads": -1}, "number of threads must be at least 1, got -1"),
        ({"trial_timeout_minutes": 0.0}, "must be above 0 minutes, got 0"),
        ({"trial_timeout_minutes": float("nan")}, "must be above 0 minutes, got nan"),
        ({"executor": "rai"}, r"unknown executor 'rai' \(did you mean 'ray'\?\); known: local, ray"),
        ({"address": "auto"}, "an address is that of a Ray cluster"),
    ],
)
def test_workers_that_make_no_sense(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Workers(**settings)


def test_ray_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"Ray is not installed; install it with: pip install 'autocompress\[ray\]'"):
        run(small_task(), tmp_path / "study", 1, workers=Workers(executor="ray"), reference=small_task)


# ------------------------------------------------------------------------------------------------------- kill -9

_SEARCH = """
import sys
import torch
torch.set_num_threads(1)
from helpers.small import device, small_task, space
from autocompress.controller import Budget, Workers, search
if __name__ == "__main__":
    search(small_task(), device(), space(), budget=Budget(9), out=sys.argv[1], seed=3, reference=small_task,
           workers=Workers(2))
"""


def children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z" and b"spawn_main" in (status.parent / "cmdline").read_bytes():
            found.append(int(status.parent.name))
    return found


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_kill_9_of_workers_and_of_the_driver(tmp_path: Path) -> None:
    folder, script = tmp_path / "study", tmp_path / "script.py"
    script.write_text(_SEARCH)
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    n_finished = lambda: len(list(folder.glob("trials/*/evaluation.json")))  # noqa: E731
    kept: list[tuple[object, ...]] = []
    for victim in ("worker", "driver", "nobody"):
        with subprocess.Popen([sys.executable, str(script), str(folder)], env=environment) as driver:
            before = n_finished()
            wait_until(
                lambda n=before, d=driver: (n_finished() > max(n, 3) and children(d.pid)) or d.poll() is not None
            )
            workers = children(driver.pid)
            if victim == "worker":
                assert workers
                os.kill(workers[0], signal.SIGKILL)
                wait_until(lambda n=n_finished(): n_finished() > n + 1)  # noqa: B008
                workers = children(driver.pid)
            if victim != "nobody":
                driver.send_signal(signal.SIGKILL)
                driver.wait()
                wait_until(lambda pids=workers: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids))
        found_now = found(Study.open(folder))
        assert {one[0]: one for one in found_now}.items() >= {one[0]: one for one in kept}.items()
        kept = found_now
    study = Study.open(folder)
    assert study.final and len(own(study)) == 9
    assert {e.state for e in study.candidates} == {"complete"}
    assert states(folder) <= {"COMPLETE", "WAITING"}
