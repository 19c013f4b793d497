"""Candidates as trials of Ray Tune, on this machine or on a cluster.

Tune places the trials, restarts nothing and decides nothing: a small search algorithm hands it the driver's jobs one
by one. Replies come back through an actor on the driver's node, so that no file system has to be shared; Tune's own
records stay in a folder that is thrown away.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints in spite of verbose=0
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autocompress.controller.executors.base import EvaluatorSpec, Job, Reply, Workers, attempt, to_send
from autocompress.errors import InputError, StudyError
from autocompress.recipes.recipe import Recipe
from autocompress.studies.reporter import Reporter

_POLL_S = 0.2
_STOP_S = 20.0
_START_ATTEMPTS = 5


class RayTune:
    """As many trials at a time as are asked for or as the cluster has room for, and one job in hand."""

    def __init__(self, evaluator_spec: EvaluatorSpec, workers: Workers, reporter: Reporter) -> None:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that dies is ours to report
        self._workers = workers
        self._ours = _connect(workers, evaluator_spec)
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        self._mailbox = ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self._feed = _Feed()
        self._pending: set[int] = set()
        self._started: dict[int, float] = {}
        self._in_vain = 0
        self._crash: list[BaseException] = []
        self._folder = tempfile.TemporaryDirectory(prefix="autocompress-ray-", ignore_cleanup_errors=True)
        reporter.status("waiting for Ray")
        bench = _StepEvaluator(evaluator_spec.pack(), os.getcwd(), tuple(sys.path), node, workers.timeout_s)
        self._thread = threading.Thread(target=self._run, args=(bench,), name="ray tune", daemon=True)
        self._thread.start()

    def free(self) -> int:
        """The cluster's room is asked for each time: nodes come and go."""
        return self._room() + 1 - len(self._pending)

    def submit(self, job: Job) -> None:
        """Queue the job for Tune."""
        self._pending.add(job.trial)
        self._feed.jobs.append(job)

    def collect(self, timeout_s: float) -> list[Reply]:
        """Look into the mailbox until there is something in it."""
        end = time.monotonic() + timeout_s
        while True:
            replies = self._replies()
            if replies or not self._pending or time.monotonic() >= end:
                return replies
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Have Tune stop its trials, and leave the cluster."""
        self._feed.closed = True
        with suppress(Exception):  # the cluster may be gone, each version of Ray says so in its own way
            ray.kill(self._mailbox)
        self._thread.join(0 if self._pending else _STOP_S)
        if self._ours:
            ray.shutdown()
        self._folder.cleanup()

    def _room(self) -> int:
        cpus = float(ray.cluster_resources().get("CPU", 0))
        room = int(cpus // (self._workers.threads or 1))
        return min(room, self._workers.count or room)

    def _replies(self) -> list[Reply]:
        if self._crash:
            raise self._crash[0]
        dead = [self._feed.dead.popleft() for _ in range(len(self._feed.dead))]
        found = []
        for kind, content in ray.get(self._mailbox.take.remote()):  # after `dead`: a reply that was sent counts
            if kind == "error":
                raise content
            if kind == "started":
                self._started[content], self._in_vain = time.monotonic(), 0
            elif content.trial in self._pending:
                self._pending.discard(content.trial)
                found.append(content)
        for trial in dead:
            if trial not in self._pending:
                continue
            self._pending.discard(trial)
            if trial not in self._started:
                self._in_vain += 1
                if self._in_vain >= _START_ATTEMPTS:
                    raise StudyError("the Ray workers die while they load the task; use --executor local to see why")
            took = time.monotonic() - self._started.pop(trial, math.inf)
            if took >= self._workers.timeout_s - 2 * _POLL_S:
                limit = self._workers.trial_timeout_minutes
                found.append(Reply(trial, failure=f"took longer than the time limit of {limit:g} minutes"))
            else:
                found.append(Reply(trial, failure="the Ray worker or its node died", lost=True))
        return found

    def _run(self, bench: _StepEvaluator) -> None:
        """Tune's own loop, in a thread: it ends when the feed is closed."""
        trainable = tune.with_parameters(_Trial, bench=bench, mailbox=self._mailbox)
        try:
            tune.Tuner(
                tune.with_resources(trainable, {"cpu": self._workers.threads or 1}),
                tune_config=tune.TuneConfig(
                    search_alg=self._feed,
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: trial.trial_id,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(name="tune", storage_path=self._folder.name, verbose=0),
            ).fit()
        except BaseException as error:  # raised again by the driver's thread, in `collect`
            if not self._feed.closed:
                self._crash.append(error)


@dataclass(frozen=True)
class _StepEvaluator:
    """What a trial needs besides its job."""

    evaluator_spec: bytes
    folder: str
    """Where the driver runs; relative paths of the task count from there, if the node has it."""
    path: tuple[str, ...]
    """Where the driver finds modules."""
    driver_node: str
    timeout_s: float


class _Mailbox:
    """An actor: keeps what trials send until the driver takes it."""

    def __init__(self) -> None:
        self._letters: list[tuple[str, Any]] = []

    def put(self, kind: str, content: Any) -> None:
        self._letters.append((kind, content))

    def take(self) -> list[tuple[str, Any]]:
        letters, self._letters = self._letters, []
        return letters


class _Feed(Searcher):  # type: ignore[misc]
    """A search algorithm that hands out the driver's jobs; the study file is its state."""

    def __init__(self) -> None:
        super().__init__(metric=None, mode=None)
        self.jobs: deque[Job] = deque()
        self.dead: deque[int] = deque()
        """Trials whose process ended before they did."""
        self.closed = False
        self._running: dict[str, int] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if self.closed:
            return Searcher.FINISHED
        if not self.jobs:
            return None
        job = self.jobs.popleft()
        self._running[trial_id] = job.trial
        return {"trial": job.trial, "recipe": job.recipe.model_dump_json()}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        trial = self._running.pop(trial_id)
        if error:
            self.dead.append(trial)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("{}")

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Trial(tune.Trainable):  # type: ignore[misc]
    """One job after the other in one process."""

    def setup(self, config: dict[str, Any], bench: _StepEvaluator, mailbox: Any) -> None:
        self._bench, self._mailbox = bench, mailbox
        self._evaluator: Any = None

    def step(self) -> dict[str, Any]:
        trial = self.config["trial"]
        try:
            evaluator = self._evaluator = self._evaluator or _evaluator(self._bench)
            self._send("started", trial)
            limit = self._bench.timeout_s
            signal.setitimer(signal.ITIMER_REAL, 0 if math.isinf(limit) else limit)  # SIGALRM ends this process
            try:
                reply = attempt(evaluator, Job(trial, Recipe.model_validate_json(self.config["recipe"])))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            self._send("reply", reply)
        except Exception as error:  # whatever it is, the driver ends the search with it
            self._send("error", to_send(error, "a Ray worker"))
        return {"done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep; but a trial that cannot be saved costs its process, which is to take the next job."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True

    def _send(self, kind: str, content: Any) -> None:
        ray.get(self._mailbox.put.remote(kind, content))


def _evaluator(bench: _StepEvaluator) -> Any:
    """The evaluator of this process; what it trains is cached on its own node."""
    with suppress(OSError):
        os.chdir(bench.folder)
    sys.path += [entry for entry in bench.path if entry not in sys.path]
    evaluator_spec: EvaluatorSpec = pickle.loads(bench.evaluator_spec)
    if ray.get_runtime_context().get_node_id() != bench.driver_node:
        evaluator_spec = replace(evaluator_spec, cache=None)
    if isinstance(evaluator_spec.source, str):
        source, _, name = evaluator_spec.source.rpartition(":")
        if source.endswith(".py") and not Path(source).exists():  # Ray has brought the file along as a module
            evaluator_spec = replace(evaluator_spec, source=f"{Path(source).stem}:{name}")
    return evaluator_spec.build()


def _connect(workers: Workers, evaluator_spec: EvaluatorSpec) -> bool:
    """Join the cluster, or start one on this machine."""
    if ray.is_initialized():
        return False
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if workers.address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # nobody else is to join it
        cpus = (workers.count or 1) * (workers.threads or 1) if workers.count else None
        settings |= {"address": "local", "include_dashboard": False, "num_cpus": cpus}
    else:
        settings["address"] = workers.address
        source = str(evaluator_spec.source).rpartition(":")[0]
        if isinstance(evaluator_spec.source, str) and source.endswith(".py"):
            settings["runtime_env"] = {"py_modules": [str(Path(source).resolve())]}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**settings)
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends the process at once
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster at {workers.address or 'this machine'}: {str(error).splitlines()[0]}; "
            "start one with `ray start --head`, or leave out --address to start one here"
        ) from None
    return True
