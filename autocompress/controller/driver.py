"""A search from its first check to its final figures: validates the inputs, then runs the search loop."""

from __future__ import annotations

import importlib.util
import math
import pickle
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FunctionType

import torch

from autocompress.controller.elastic_start import check_evaluator, check_trainable, train_shared_weights
from autocompress.controller.executors.base import EvaluatorSpec, Executor, Source, Workers
from autocompress.controller.executors.in_process import InProcess
from autocompress.controller.executors.processes import Processes
from autocompress.controller.finish import finish
from autocompress.controller.journal import exclusive
from autocompress.controller.loop import Loop
from autocompress.controller.plan import Budget, Plan
from autocompress.controller.samplers import DEFAULT, check_name
from autocompress.controller.storage import database_errors
from autocompress.controller.store import Store, check_folder, remarks
from autocompress.controller.warm_start import WarmStart
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import AutocompressError, InputError, InternalError, keep_traceback, where
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.space import SearchSpace
from autocompress.studies.constraints import Constraint
from autocompress.studies.folder import is_final
from autocompress.studies.reporter import Reporter, Silent
from autocompress.studies.settings import EvaluatorName
from autocompress.studies.study import Study
from autocompress.tasks.task import Task


def search(
    task: Task,
    device: DeviceProfile,
    space: SearchSpace,
    *,
    budget: Budget,
    out: str | Path,
    constraints: Iterable[Constraint] = (),
    sampler: str = DEFAULT,
    evaluator: EvaluatorName = "standalone",
    seed: int = 0,
    reference: Source = "",
    start_from: str | Path | None = None,
    workers: Workers = Workers(),  # noqa: B008  frozen
    storage: str | None = None,
    reporter: Reporter | None = None,
) -> Study:
    """Search for the Pareto front of accuracy, latency and size; with the same `out` again it goes on.

    Args:
        task: model and data. Nothing of it is changed.
        device: what to compress for; the profile "host" is this machine, whose final front is measured.
        space: the recipes to choose from; what network or device cannot use is left out.
        budget: evaluated candidates, hours, or both; over all sessions of this study.
        out: folder of the study.
        constraints: see `autocompress.at_most` and its kin. They guide the sampler, and recipes that are
            predicted to break one are not trained.
        sampler: ehvi, which knows latency and size beforehand, or one of Optuna's: tpe, nsga2, gp, random.
        evaluator: "standalone" trains every candidate from the pruned original; "elastic" first trains weights that
            all of them share (a third of the hours at most) and starts from those.
        seed: of everything that is random.
        reference: where the task comes from: "my_task.py:task", or a function that returns it. Worker processes
            load it from there; without them it is for the record only.
        start_from: folder of an earlier study, also of other code or data. Its best recipes that this
            space has are tried first; what was trained for them is not trained again where it would be the same.
        workers: who evaluates the candidates; by default this process, one after the other.
        storage: URL of a database for Optuna's record of the trials ("postgresql://..."), instead of a file in `out`;
            everything else stays in `out`.
        reporter: is told about the progress.

    Raises:
        InputError: something given is wrong; nothing was evaluated.
        StudyError: `out` belongs to another study, or another search works on it.
        InternalError: a bug of autocompress; the study is as it was when the last candidate was finished.
    """
    check_choices(sampler, evaluator, Path(out))
    check_trainable(evaluator, task)
    _check_reference(reference, workers)
    reporter = reporter or Silent()
    out = Path(out).absolute()  # wherever workers and the user's code go
    reporter.status("looking at the network and its data")
    task.validate()
    judge = Evaluator(task, device, seed=seed, cache=out / "cache", progress=reporter.status)
    plan = Plan.make(judge, space, constraints, device)
    for note in (*task.notes, *plan.space.notes, device.transfer_note):
        if note:
            reporter.note(note)
    with exclusive(out), _bugs_leave_it_intact(out):
        settings = plan.settings(_text(reference) or task.name, sampler, seed, evaluator)
        earlier = WarmStart.open(start_from, out) if start_from else None
        for remark in remarks(out, settings):
            reporter.note(remark)
        store = Store(out, settings, storage)

        def start() -> Executor:
            if evaluator == "elastic":
                train_shared_weights(plan, budget, seed)
            return _start(workers, judge, reference, reporter)

        with closing(store), database_errors(storage):
            judged_more = Loop(plan, store, budget, start, reporter, earlier).run()
        if judged_more or not is_final(out):
            finish(out, judge, reporter)
    return Study.open(out)


def check_choices(sampler: str, evaluator: str, out: Path) -> None:
    """Refuse unknown names and a folder with other things in it: all that can be said before a task is loaded.

    Raises:
        InputError: saying what is possible.
    """
    check_name(sampler)
    check_evaluator(evaluator)
    check_folder(out)


@contextmanager
def _bugs_leave_it_intact(out: Path) -> Iterator[None]:
    """A bug ends the search with one sentence, and with its traceback in the folder of the study."""
    try:
        yield
    except (AutocompressError, OSError):  # a full disk names its file and is no bug
        raise
    except Exception as error:
        log = keep_traceback(error, out / "bug.log")
        raise InternalError(
            f"a bug of autocompress stopped the search: {where(error)}; the study is intact and nothing that was "
            f"finished is lost: run the same command again to go on; please report {log}"
        ) from error


def _text(reference: Source) -> str:
    """What the study keeps as the origin of its task."""
    if isinstance(reference, FunctionType):
        return f"{reference.__module__}:{reference.__qualname__}"
    return str(reference)


def _is_this_process(workers: Workers) -> bool:
    return workers.executor == "local" and workers.count in (None, 1) and math.isinf(workers.timeout_s)


def _check_reference(reference: Source, workers: Workers) -> None:
    if _is_this_process(workers):
        return
    if workers.executor == "ray" and importlib.util.find_spec("ray") is None:
        raise InputError("Ray is not installed; install it with: pip install 'autocompress[ray]'")
    rule = "worker processes load the task themselves: give reference='my_task.py:task', or a function that returns it"
    if not reference:
        raise InputError(f"{rule}, got nothing")
    try:
        pickle.dumps(reference)
    except Exception as error:  # whatever the user's object raises
        raise InputError(f"{rule} and can be pickled, got {reference!r}: {error}") from None


def _start(workers: Workers, evaluator: Evaluator, reference: Source, reporter: Reporter) -> Executor:
    if _is_this_process(workers):
        return InProcess(evaluator)
    if workers.executor == "ray":
        from autocompress.controller.executors.ray_tune import RayTune

        return RayTune(EvaluatorSpec.of(evaluator, reference, workers.threads or 1), workers, reporter)
    count = workers.count or 1
    threads = workers.threads or max(1, torch.get_num_threads() // count)
    return Processes(EvaluatorSpec.of(evaluator, reference, threads), count, workers.timeout_s, reporter)
