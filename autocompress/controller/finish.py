"""The end of a search: the points that matter are measured on the device and scored once on the test split."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.controller.doubts import contradictions, is_repeated
from autocompress.controller.plan import now, versions
from autocompress.errors import AutocompressError, CandidateError, StudyError, failing_as
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.timing import ways_through
from autocompress.runtimes import timing
from autocompress.runtimes.base import Model
from autocompress.studies.confusion import Confusion, write_confusions
from autocompress.studies.constraints import Constraint, met_by
from autocompress.studies.folder import invalidate_final, read_artifact, write_final
from autocompress.studies.reporter import Reporter
from autocompress.studies.results import Evaluation
from autocompress.studies.sample_scores import write_sample_scores
from autocompress.studies.study import Study, front_of, resolved
from autocompress.tasks.interface import Arrays
from autocompress.tasks.metric import ACCURACY, Score

_SLACK = 1.25
"""Points that are this factor slower than predicted to be on the front are measured too."""
_DOUBT = "latency: two passes differed by more than 5 %; measure it again"
_MANY = 24
_ROUNDS = 3
"""A thorough measurement can move the front; the points that enter it then are measured thoroughly as well."""


def finish(folder: Path, evaluator: Evaluator, reporter: Reporter) -> None:
    """Measure, then score, then write final.json; baselines are treated like the front."""
    invalidate_final(folder)
    study = Study.open(folder)
    complete = [e for e in study.evaluations if e.state == "complete" and e.artifact]
    allowed = [e for e in complete if met_by(e, study.constraints)]
    contenders = [
        e
        for e in complete
        if e.kind == "baseline" or _near_front(e, complete) or (e in allowed and _near_front(e, allowed))
    ]
    conditions: dict[str, Any] = {
        "finished_at": now(),
        "versions": versions(evaluator.runtime),
        "load_average": os.getloadavg(),
    }
    if evaluator.device.is_this_machine:
        protocol = timing.THOROUGH
        contenders = _measure_contenders(folder, contenders, evaluator, study.settings.constraints, reporter)
        conditions["timing"] = {
            "protocol": "smallest of all calls, round-robin with a reference net, batch 1",
            "clock": "CPU time of the thread" if evaluator.device.threads == 1 else "wall time",
            "threads": evaluator.device.threads,
            "rounds": protocol.rounds,
            "runs": protocol.runs,
            "passes": protocol.passes,
        }
    front = {e.trial for e in front_of(contenders, resolved(study.settings.constraints, contenders))}
    final = []
    confusions: dict[int, Confusion] = {}
    for evaluation in contenders:
        scored = evaluation
        if evaluator.task.has("test") and (evaluation.trial in front or evaluation.kind == "baseline"):
            reporter.status(f"scoring trial {evaluation.trial} on the test split")
            try:
                with failing_as(CandidateError, "scoring the file on the test split"):
                    score, confusion = _test(folder, evaluation, evaluator)
            except AutocompressError as error:
                scored = evaluation.model_copy(update={"notes": (*evaluation.notes, f"no test score: {error}")})
            else:
                confusions |= {evaluation.trial: confusion} if confusion else {}
                scored = evaluation.model_copy(update={"test": score})
        final.append(scored)
    write_confusions(folder, confusions)
    write_final(folder, final, conditions)


def _test(folder: Path, evaluation: Evaluation, evaluator: Evaluator) -> tuple[Score, Confusion | None]:
    """Score a file on the test split, and count its answers by class where that is what the score counts.

    The scores of the samples are kept beside the file.
    """
    file = read_artifact(folder, evaluation)
    task, answers = evaluator.task, list[Any]()
    counted = task.metric is ACCURACY and task.evaluate_test is None

    def watch(outputs: Arrays) -> None:
        if counted:
            answers.append(task.traits.classes(next(iter(outputs.values()))))

    score, samples = evaluator.judge(file, "test", watch)
    if samples is not None:
        write_sample_scores(folder, str(evaluation.artifact), "test", samples)
    if not counted:
        return score, None
    truth = np.concatenate([targets for _, targets in task.split("test")])
    return score, Confusion.count(np.concatenate(answers), truth, task.n_outputs, "test")


def _measure_contenders(
    folder: Path,
    contenders: Sequence[Evaluation],
    evaluator: Evaluator,
    constraints: Sequence[Constraint],
    reporter: Reporter,
) -> list[Evaluation]:
    """Measure all, many of them quickly at first; those of the front and the baselines always thoroughly.

    Relative constraints refer to the baseline as measured, like the front of the finished study.
    """
    contenders, broken = _those_that_run(folder, contenders, evaluator)
    quick = len(contenders) > _MANY
    reporter.status(f"measuring {len(contenders)} files on this machine")
    measured = {e.trial: e for e in measure(folder, contenders, evaluator, timing.FAST if quick else timing.THOROUGH)}
    measured |= _settled(folder, contenders, measured, evaluator, reporter)
    sure: set[int] = {n for n, e in measured.items() if e.latency_doubt} if quick else set(measured)
    for _ in range(_ROUNDS):
        points = list(measured.values())
        front = {e.trial for e in front_of(points, resolved(constraints, points))}
        front |= {e.trial for e in contenders if e.kind == "baseline"}
        if doubtful := sorted(front - sure):
            reporter.status(f"measuring {len(doubtful)} files of the front on this machine")
            again = measure(folder, [measured[n] for n in doubtful], evaluator, timing.THOROUGH)
            measured.update({e.trial: e for e in again})
            measured |= _settled(folder, contenders, measured, evaluator, reporter)
            sure |= front
    return [*measured.values(), *broken]


def _those_that_run(
    folder: Path, evaluations: Sequence[Evaluation], evaluator: Evaluator
) -> tuple[list[Evaluation], list[Evaluation]]:
    """Those whose files run here, and the others with a note: one that does not costs the others no figure."""
    able, broken = [], []
    for evaluation in evaluations:
        try:
            with failing_as(CandidateError, "running the file"):
                model, inputs = _paths(folder, evaluation, evaluator)[-1]
                model(inputs)
            able.append(evaluation)
        except (CandidateError, StudyError) as error:
            notes = (*evaluation.notes, f"latency: predicted, not measured: {error}")
            broken.append(evaluation.model_copy(update={"notes": notes}))
    return able, broken


def _settled(
    folder: Path,
    contenders: Sequence[Evaluation],
    measured: Mapping[int, Evaluation],
    evaluator: Evaluator,
    reporter: Reporter,
) -> dict[int, Evaluation]:
    """Measure alone what contradicts its prediction and its twins; what stays doubtful counts as predicted again."""
    error = evaluator.device.expected_error
    suspects = contradictions(list(measured.values()), error)
    predicted = {e.trial: e for e in contenders}
    again: dict[int, Evaluation] = {}
    for trial in suspects:
        reporter.status(f"measuring trial {trial} again, alone: {suspects[trial].reason}")
        (again[trial],) = measure(folder, [predicted[trial]], evaluator, timing.THOROUGH)
    still = contradictions(list({**measured, **again}.values()), error)
    settled = {}
    for trial, alone in again.items():
        confirmed = is_repeated(measured[trial], alone)
        if trial not in still or (confirmed and not still[trial].by_twin):
            settled[trial] = alone
            continue
        doubt = f"measured twice and not believed: {suspects[trial].reason}; alone {still[trial].reason}"
        notes = (*predicted[trial].notes, f"latency: {doubt}")
        settled[trial] = predicted[trial].model_copy(update={"latency_doubt": doubt, "notes": notes})
    return settled


def measure(
    folder: Path, evaluations: Sequence[Evaluation], evaluator: Evaluator, protocol: timing.TimingProtocol
) -> list[Evaluation]:
    """Time the files side by side on this machine, every path of those with exits."""
    jobs: list[tuple[Model, dict[str, Any]]] = []
    spans = []
    for evaluation in evaluations:
        ways = _paths(folder, evaluation, evaluator)
        spans.append((len(jobs), len(jobs) + len(ways)))
        jobs += ways
    timings = timing.measure(jobs, evaluator.runtime, threads=evaluator.device.threads, protocol=protocol)
    return [
        _with_timing(evaluation, [t.latency_ms for t in timings[start:end]], all(t.trusted for t in timings[start:end]))
        for evaluation, (start, end) in zip(evaluations, spans, strict=True)
    ]


def _paths(folder: Path, evaluation: Evaluation, evaluator: Evaluator) -> list[tuple[Model, dict[str, Any]]]:
    """Every way through a file, with the inputs that force a sample to take it."""
    file = read_artifact(folder, evaluation)
    return ways_through(
        evaluator.runtime, file, evaluator.device.threads, evaluator.task.sample(evaluator.context.seed)
    )


def _with_timing(evaluation: Evaluation, path_ms: Sequence[float], trusted: bool) -> Evaluation:
    changes: dict[str, Any] = {"measured_latency_ms": path_ms[-1]}
    if evaluation.exits:
        exits = tuple(e.model_copy(update={"latency_ms": ms}) for e, ms in zip(evaluation.exits, path_ms, strict=True))
        expected = sum(e.rate * e.latency_ms for e in exits)
        changes = {"measured_latency_ms": expected, "worst_case_latency_ms": path_ms[-1], "exits": exits}
    notes = tuple(note for note in evaluation.notes if note != _DOUBT)
    changes["notes"] = notes if trusted else (*notes, _DOUBT)
    return evaluation.model_copy(update=changes)


def _near_front(evaluation: Evaluation, others: Sequence[Evaluation]) -> bool:
    accuracy, latency, size = evaluation.objectives()
    return not any(
        a >= accuracy and ms * _SLACK <= latency and s <= size for a, ms, s in (o.objectives() for o in others)
    )
