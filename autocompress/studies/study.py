"""The study folder: what a search leaves on disk, and how it is read back.

study.json        the inputs: task, device, space, constraints, seed, hashes, versions
study.journal     the Optuna study (see controller/journal.py)
trials/000012/    evaluation.json, model.onnx of trial 12, and the score of every sample (see `sample_scores`)
workloads/        what a file executes, by content, so that any trial can be projected onto any device
progress.json     what a search of the command line does right now, for `watch`
final.json        written at the end: front and baselines, measured on the device and scored on the test split
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.errors import StudyError
from autocompress.files import Folder
from autocompress.studies.constraints import Constraint, met_by
from autocompress.studies.folder import read_artifact, read_evaluation, read_final, read_settings, trial_numbers
from autocompress.studies.front import ParetoFront
from autocompress.studies.results import Evaluation
from autocompress.studies.settings import Settings
from autocompress.tasks.metric import Split

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Study:
    """A study folder, read."""

    path: Path
    settings: Settings
    evaluations: tuple[Evaluation, ...]
    """All judged recipes by trial number; those of the final front with their final figures."""
    final: bool
    """Whether the search came to its end: front measured on the device and scored on the test split."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """How the final figures were taken: when, with what versions, how it was timed; empty before the end."""
    problems: tuple[str, ...] = ()
    """What of the folder cannot be read, a sentence each; the rest is as if it were not there."""

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Read a study folder, also one whose search still runs or was interrupted.

        Raises:
            StudyError: it is not a study folder, or one of another version, or its inputs are damaged. What else is
                damaged costs only itself, and is named in `problems`.
        """
        folder = Path(path)
        settings, problems = read_settings(folder), list[str]()
        evaluations: dict[int, Evaluation] = {}
        for number in trial_numbers(folder):
            try:
                evaluation = read_evaluation(folder, number)
            except StudyError as error:
                problems.append(f"trial {number} is left out: {error}")
            else:
                evaluations |= {number: evaluation} if evaluation else {}
        try:
            finals, conditions = read_final(folder)
        except StudyError as error:
            finals, conditions = [], {}
            problems.append(f"no final figures: {error}; the same search again takes them again")
        evaluations |= {e.trial: e for e in finals}
        ordered = tuple(evaluations[n] for n in sorted(evaluations))
        return cls(folder, settings, ordered, bool(finals), conditions, tuple(problems))

    @cached_property
    def baselines(self) -> tuple[Evaluation, ...]:
        """fp32, fp16 and uniform int8."""
        return tuple(e for e in self.evaluations if e.kind == "baseline")

    @cached_property
    def candidates(self) -> tuple[Evaluation, ...]:
        """Everything that is not a baseline, rejected and failed ones included."""
        return tuple(e for e in self.evaluations if e.kind == "candidate")

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        """The constraints of the study with absolute limits; none as long as the fp32 baseline is missing."""
        return resolved(self.settings.constraints, self.evaluations)

    @property
    def constraints_met(self) -> bool:
        """Whether the points of the front keep all constraints."""
        return all(met_by(point, self.constraints) for point in self.front)

    @cached_property
    def front(self) -> ParetoFront:
        """The points that no other one dominates, on the validation split, among those that keep the constraints.

        When none keeps them it is the front of all points, and `constraints_met` is false: a search never ends
        with nothing.

        After the end of a search all of them are measured where the device is this machine, so that measured
        and predicted latencies are never compared with each other.
        """
        return front_of(self.comparable, self.constraints)

    @cached_property
    def comparable(self) -> tuple[Evaluation, ...]:
        """The complete evaluations whose latencies are all measured, or all predicted: the front is chosen of them."""
        complete = tuple(e for e in self.evaluations if e.state == "complete")
        if self.final and any(e.measured_latency_ms is not None for e in complete):
            return tuple(e for e in complete if e.measured_latency_ms is not None)
        return complete

    @cached_property
    def reference(self) -> Evaluation | None:
        """The complete fp32 baseline that ratios and differences refer to, or None."""
        return next((b for b in self.baselines if b.label == "fp32" and b.state == "complete"), None)

    def altered(self) -> list[str]:
        """What is wrong with the files of the front: those that are gone, and each that is not the one evaluated."""
        here = [p for p in self.front if p.artifact is not None and Folder(self.path).has(p.artifact)]
        gone = [str(p.trial) for p in self.front if p not in here]
        problems = [f"{self.path}: the files of these trials of the front are gone: {', '.join(gone)}"] if gone else []
        for point in here:
            try:
                read_artifact(self.path, point)
            except StudyError as error:
                problems.append(str(error))
        return problems

    def evaluation(self, trial: int) -> Evaluation:
        """The evaluation of one trial.

        Raises:
            StudyError: there is no such trial.
        """
        for evaluation in self.evaluations:
            if evaluation.trial == trial:
                return evaluation
        raise StudyError(f"{self.path}: there is no trial {trial}; it has {len(self.evaluations)} of them")

    @property
    def split(self) -> Split:
        """The split that the final figures are of: test where fp32 was scored there, else validation."""
        return "test" if self.reference and self.reference.test else "validation"

    def beats_all_baselines(self) -> list[Evaluation]:
        """Points of the front that are at least as accurate (on `split`), fast and small as every baseline."""
        bars = [self._final_objectives(b) for b in self.baselines if b.state == "complete"]
        return [
            p
            for p in self.front
            if p.kind == "candidate"
            and (mine := self._final_objectives(p))
            and all(mine[0] >= bar[0] and mine[1] <= bar[1] and mine[2] <= bar[2] for bar in bars if bar)
        ]

    def _final_objectives(self, evaluation: Evaluation) -> tuple[float, float, float] | None:
        score = evaluation.score_on(self.split)
        return (score.value, *evaluation.objectives()[1:]) if score else None

    def frame(self) -> pd.DataFrame:
        """All evaluations as a pandas frame, one row per trial; the columns "accuracy..." are of `split`."""
        import pandas as pd

        on_front = {e.trial for e in self.front}
        rows = [{**e.as_row(self.split), "on_front": e.trial in on_front} for e in self.evaluations]
        return pd.DataFrame(rows, columns=None if rows else ["trial", "on_front"]).set_index("trial")

    def to_dict(self) -> dict[str, Any]:
        """What `show --json` prints."""
        return {
            "study": str(self.path),
            "final": self.final,
            "task": self.settings.task_name,
            "metric": self.settings.metric,
            "device": self.settings.device["name"],
            "constraints": list(map(str, self.settings.constraints)),
            "constraints_met": self.constraints_met,
            "n_trials": len(self.evaluations),
            "n_complete": sum(e.state == "complete" for e in self.evaluations),
            "n_rejected": sum(e.state == "rejected" for e in self.evaluations),
            "n_failed": sum(e.state == "failed" for e in self.evaluations),
            "accuracy_split": self.split,
            "n_beating_all_baselines": len(self.beats_all_baselines()),
            "baselines": [e.as_row(self.split) for e in self.baselines],
            "front": self.front.rows(self.split),
        }


def resolved(constraints: Sequence[Constraint], among: Sequence[Evaluation]) -> tuple[Constraint, ...]:
    """The constraints with absolute limits, relative ones from the fp32 baseline among the evaluations.

    Where latencies were measured it must be the measured baseline, where they are predicted the predicted one.
    Without a complete one there are no constraints yet.
    """
    base = next((e for e in among if e.kind == "baseline" and e.label == "fp32" and e.state == "complete"), None)
    return tuple(c.resolve(base) for c in constraints) if base else ()


def front_of(complete: Sequence[Evaluation], constraints: Sequence[Constraint]) -> ParetoFront:
    """The front among the points that keep the constraints, or among all where none does."""
    return ParetoFront.of([e for e in complete if met_by(e, constraints)] or complete)
