"""What all executors have in common: jobs, replies, and how a worker gets its evaluator."""

from __future__ import annotations

import math
import pickle
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

from autocompress._process import prepare_training
from autocompress.compression.catalogue import enable, outside_names
from autocompress.compression.finetuning import Ladder, Optimizer
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import AutocompressError, InputError, TaskError, told
from autocompress.evaluation.elastic import Elastic, KeptElastic
from autocompress.evaluation.evaluator import Evaluator, Outcome
from autocompress.recipes.recipe import Recipe
from autocompress.studies.settings import changes
from autocompress.tasks.loading import load_task
from autocompress.tasks.task import Task
from autocompress.validation import suggestion

Source = str | Callable[[], Task]
"""Where a worker gets the task from: "module.py:name", or a function that can be pickled."""
ExecutorName = Literal["local", "ray"]


@dataclass(frozen=True)
class Workers:
    """Who evaluates the candidates.

    One local worker without a time limit is the process of the search itself.
    """

    count: int | None = None
    """Candidates at the same time; by default one on this machine, as many as there are CPUs on a Ray cluster."""
    threads: int | None = None
    """Of each worker; by default the processors of this machine shared out, one CPU on a Ray cluster."""
    trial_timeout_minutes: float | None = None
    """A candidate that takes longer is stopped and recorded as failed."""
    executor: ExecutorName = "local"
    address: str | None = None
    """Of a Ray cluster: "auto" is the one that runs here, None starts one on this machine."""

    def __post_init__(self) -> None:
        for name in ("count", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(
                    f"the number of {'workers' if name == 'count' else name} must be at least 1, got {value}"
                )
        limit = self.trial_timeout_minutes
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise InputError(f"the time limit of a trial must be above 0 minutes, got {limit}")
        known = get_args(ExecutorName)
        if self.executor not in known:
            raise InputError(
                f"unknown executor {self.executor!r}{suggestion(self.executor, known)}; known: {', '.join(known)}"
            )
        if self.address is not None and self.executor != "ray":
            raise InputError("an address is that of a Ray cluster: use it with the executor 'ray'")

    @property
    def timeout_s(self) -> float:
        """The time limit of a trial; infinite where there is none."""
        return 60 * self.trial_timeout_minutes if self.trial_timeout_minutes else math.inf


@dataclass(frozen=True)
class Job:
    """One candidate to evaluate."""

    trial: int
    recipe: Recipe


@dataclass(frozen=True)
class Reply:
    """What became of a job."""

    trial: int
    outcomes: tuple[Outcome, ...] = ()
    failure: str = ""
    """Why there are no outcomes."""
    lost: bool = False
    """The worker died, which need not be the candidate's fault: it may be tried again."""


class Executor(Protocol):
    """Evaluates jobs. A worker that dies costs its own job only."""

    def free(self) -> int:
        """How many more jobs it would like to have now."""

    def submit(self, job: Job) -> None:
        """Take a job."""

    def collect(self, timeout_s: float) -> list[Reply]:
        """Wait for replies, at most `timeout_s` (may be infinite); empty when there are none.

        Raises:
            Exception: what is no failure of a candidate: a bug, or workers that cannot load the task.
        """

    def close(self) -> None:
        """Stop all workers at once."""


@dataclass(frozen=True)
class EvaluatorSpec:
    """What a worker needs to make an evaluator like that of the driver."""

    source: Source
    device: DeviceProfile
    seed: int
    cache: Path | None
    threads: int
    model_sha256: str
    data_sha256: str
    elastic: KeptElastic | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    ladders: Mapping[Optimizer, Ladder] = field(default_factory=dict)
    techniques: tuple[str, ...] = ()
    """Modules of the user's with techniques that the driver has imported."""

    @classmethod
    def of(cls, evaluator: Evaluator, source: Source, threads: int) -> EvaluatorSpec:
        """Describe an evaluator."""
        task = evaluator.task
        hashes = task.model_sha256, task.data_sha256
        elastic = evaluator.elastic.keep() if evaluator.elastic else None
        return cls(
            source,
            evaluator.device,
            evaluator.context.seed,
            evaluator.cache,
            threads,
            *hashes,
            elastic,
            task.identity,
            dict(evaluator.findings.ladders),
            outside_names(),
        )

    def pack(self) -> bytes:
        """Pickle it, so that what a worker cannot import is reported by the worker."""
        return pickle.dumps(self)

    def build(self, progress: Callable[[str], None] = lambda message: None) -> Evaluator:
        """Load the task and make the evaluator.

        Raises:
            TaskError: the task cannot be loaded, or is not the one that the driver has.
            InputError: a technique of the user's cannot be imported here.
        """
        prepare_training(self.threads)
        task = load_task(self.source) if isinstance(self.source, str) else self.source()
        for module in self.techniques:
            enable(module)
        for name in ("model_sha256", "data_sha256"):
            if getattr(task, name) != getattr(self, name):
                raise TaskError(
                    f"a worker got another {name.partition('_')[0]} than the search has: {name} "
                    f"{getattr(task, name)[:12]} instead of {getattr(self, name)[:12]}; the task must give the same "
                    "each time it is loaded: read the trained weights from a file, seed whatever is drawn"
                )
        if different := changes(self.identity, task.identity):
            raise TaskError(
                f"a worker got another task than the search has: {'; '.join(different)}; the task must give the same "
                "each time it is loaded, and its files must be the same on all machines"
            )
        evaluator = Evaluator(task, self.device, seed=self.seed, cache=self.cache, progress=progress)
        evaluator.findings.ladders.update(self.ladders)
        if self.elastic:
            evaluator.elastic = Elastic.of(evaluator.context, self.elastic)
        return evaluator


def attempt(evaluator: Evaluator, job: Job) -> Reply:
    """Evaluate a job; a failure of the candidate becomes a reply, a bug is raised."""
    try:
        return Reply(job.trial, tuple(evaluator.evaluate(job.recipe)))
    except AutocompressError as error:
        return Reply(job.trial, failure=str(error))


def to_send(error: Exception, who: str) -> Exception:
    """What a worker tells the driver of an error that is no candidate's: ours as it is, a bug with its traceback."""
    if isinstance(error, AutocompressError):
        return error
    bug = RuntimeError(f"{who} {told(error)}")
    bug.add_note("".join(traceback.format_exception(error)))
    return bug
