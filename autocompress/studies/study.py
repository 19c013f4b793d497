"""The study folder: what a search leaves on disk, and how it is read back.

study.json        the inputs: task, device, space, constraints, budget, seed, hashes, versions
study.journal     the Optuna study (see controller/journal.py)
trials/000012/    evaluation.json, model.onnx of trial 12, and the score of every sample (see `sample_scores`)
workloads/        what a file executes, by content, so that any trial can be projected onto any device
progress.json     what a search of the command line does right now, for `watch`
final.json        written at the end: front and baselines, measured on the device and scored on the test split
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from autocompress.devices.workload import Workload
from autocompress.errors import RecipeError, StudyError
from autocompress.files import MODEL_BYTES, Folder, json_object
from autocompress.studies.constraints import Constraint, met_by
from autocompress.studies.front import ParetoFront
from autocompress.studies.results import Evaluation
from autocompress.tasks.metric import MetricUnit, Split
from autocompress.validation import check_version, explain

if TYPE_CHECKING:
    import pandas as pd

STUDY_VERSION = 1
_DECIDING = ("torch", "onnxruntime", "autocompress")
"""Another major or minor version of these makes another study."""
_SETTINGS, _FINAL = "study.json", "final.json"
_TRIAL_FOLDER = re.compile(r"[0-9]{6,9}", re.ASCII)
_MOST_MISSING = 10_000
"""So many trials in a row may have no folder: those that were under way when a search died, and deleted ones."""
EvaluatorName = Literal["standalone", "elastic"]


class Settings(BaseModel):
    """The inputs of a study. A resumed search must have the same ones, but for its budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    task: str
    """Reference as the user gave it, such as "my_task.py:task"."""
    task_name: str
    task_kind: Literal["classification", "other"] = "classification"
    classes: tuple[str, ...] = ()
    preprocessing: str = ""
    metric: str
    metric_unit: MetricUnit | None = None
    """None: a share if the score of the fp32 baseline lies between 0 and 1."""
    model_sha256: str
    data_sha256: str
    training_sha256: str = ""
    """Of teacher, loss and the like; empty in studies of before it was kept."""
    identity: dict[str, str] = {}
    """What else the figures depend on, by name: code and data (see `tasks.identity`); empty in older studies."""
    device: dict[str, Any]
    """The whole device profile."""
    space: dict[str, Any]
    constraints: tuple[Constraint, ...]
    sampler: str
    evaluator: EvaluatorName = "standalone"
    """Where training starts: at the pruned original, or at weights shared by all pruned versions."""
    seed: int
    notes: tuple[str, ...] = ()
    """What was done to the given network before anything else, such as a cast to float32."""
    outline: dict[str, Any]
    """Prunable groups, quantisable layers and exit places of the network."""
    unprunable: dict[str, str]
    """Groups that cannot be pruned, with the reason."""
    versions: dict[str, str]
    """Of Python and the libraries that matter."""
    created_at: str

    def differences(self, other: Settings) -> list[str]:
        """What in `other` would make another study, in words."""
        names = ["model_sha256", "metric", "space", "constraints", "sampler", "evaluator", "seed"]
        names += ["training_sha256"] if self.training_sha256 else []
        names += [] if self.identity else ["data_sha256"]
        texts = [
            f"{name}: the study has {_short(mine)}, now {_short(theirs)}"
            for name in names
            if (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]
        if self.identity:
            texts += changes(self.identity, other.identity)
            texts += [
                f"{name} {self.versions[name]} was used, now it is {other.versions[name]}"
                for name in _DECIDING
                if _release(self.versions.get(name)) != _release(other.versions.get(name))
            ]
        if self.device != other.device:
            texts.append(
                f"device: the study has {self.device['name']}, now {other.device['name']}"
                if self.device["name"] != other.device["name"]
                else f"device: the profile of {self.device['name']} has changed since"
            )
        return texts

    def remarks(self, other: Settings) -> list[str]:
        """What in `other` is different or cannot be compared, and lets the study go on."""
        if not self.identity:
            return [
                "this study is of a version that did not keep what its figures depend on; that the code of metric, "
                "loss and network and the training data are the same could not be checked"
            ]
        texts = [
            f"{name} {mine} was used, now it is {theirs}"
            for name in _DECIDING
            if (mine := self.versions.get(name)) != (theirs := other.versions.get(name))
        ]
        keys = [k for k, v in self.identity.items() if k in other.identity and not _comparable(v, other.identity[k])]
        if keys:
            parts = ", ".join(dict.fromkeys(key.partition(": ")[0] for key in keys))
            texts.append(f"whether it is the same could not be checked, for want of its source: {parts}")
        return texts


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, one clause for each part; what cannot be compared does not count."""
    found: dict[str, list[str]] = {}
    for key in (*before, *(key for key in now if key not in before)):
        old, new = before.get(key, ""), now.get(key, "")
        if old.split(" ")[0] != new.split(" ")[0] and _comparable(old, new):
            part, _, function = key.partition(": ")
            place = (new or old).partition(" ")[2]
            found.setdefault(part, []).append(", ".join(filter(None, [function, place])))
    return [f"{part} changed{_among(places)}" for part, places in found.items()]


def _comparable(old: str, new: str) -> bool:
    """Whether two digests were taken the same way, if they are there at all."""
    return not old or not new or old.partition(":")[0] == new.partition(":")[0]


def _among(places: Iterable[str]) -> str:
    named = [place for place in places if place]
    return f" ({'; '.join(named[:3])})" if named else ""


def _release(version: str | None) -> str:
    """Major and minor number."""
    return ".".join((version or "").split(".")[:2])


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


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


def trial_folder(study: Path, trial: int) -> Path:
    """Where a trial keeps its files."""
    return study / trial_name(trial)


def trial_name(trial: int) -> str:
    """The name of a trial's folder, inside that of the study."""
    return f"trials/{trial:06d}"


def trial_numbers(study: Path) -> list[int]:
    """Numbers of the trials that have a folder, in order.

    Raises:
        StudyError: a number is far beyond those before it, as no search makes it.
    """
    numbers = sorted(int(name) for name in Folder(study).names("trials") if _TRIAL_FOLDER.fullmatch(name))
    for before, number in zip([-1, *numbers], numbers, strict=False):
        if number - before > _MOST_MISSING:
            raise StudyError(
                f"{study}/{trial_name(number)}: no trial of this study: the one before it is {before}; "
                "move this folder out of the study"
            )
    return numbers


def write_evaluation(study: Path, evaluation: Evaluation) -> None:
    """Keep the result of a trial, all or nothing."""
    Folder(study).write(_evaluation_of(evaluation.trial), evaluation.model_dump_json(indent=1) + "\n")


def read_evaluation(study: Path, trial: int) -> Evaluation | None:
    """The kept result of a trial, or None.

    Raises:
        StudyError: it is damaged, or was written by another version.
    """
    name = _evaluation_of(trial)
    data = Folder(study).read(name)
    if data is None:
        return None
    evaluation = _parse(f"{study}/{name}", data)
    if evaluation.trial != trial:
        raise StudyError(f"{study}/{name}: damaged: it is the result of trial {evaluation.trial}")
    return evaluation


def has_evaluation(study: Path, trial: int) -> bool:
    """Whether a trial has a result, readable or not."""
    return Folder(study).has(_evaluation_of(trial))


def _evaluation_of(trial: int) -> str:
    return f"{trial_name(trial)}/evaluation.json"


def read_artifact(study: Path, evaluation: Evaluation) -> bytes:
    """The ONNX file of a trial, as it was when the trial was evaluated.

    Raises:
        StudyError: there is none, it lies outside the study, or it is not the one that was evaluated.
    """
    name = evaluation.artifact
    if name is None:
        raise StudyError(
            f"{study}: trial {evaluation.trial} has no file: it was {evaluation.state} ({evaluation.reason})"
        )
    data = Folder(study).read(name, MODEL_BYTES)
    if data is None:
        raise StudyError(f"{study}/{name}: the file of trial {evaluation.trial} is gone; {_REPEAT}")
    digest = hashlib.sha256(data).hexdigest()
    if evaluation.sha256 is not None and digest != evaluation.sha256:
        raise StudyError(
            f"{study}/{name}: not the file that was evaluated: its sha256 is {digest[:12]}..., that of trial "
            f"{evaluation.trial} {evaluation.sha256[:12]}...; no figure of the trial holds for it; {_REPEAT}"
        )
    return data


_REPEAT = "repeat it from its recipe with `autocompress apply`"


def write_workloads(study: Path, workloads: Iterable[Workload]) -> None:
    """Keep what a file executes; the same content is kept once."""
    for workload in workloads:
        name = f"workloads/{workload.fingerprint}.json"
        if not Folder(study).has(name):
            Folder(study).write(name, workload.to_json())


def read_workload(study: Path, fingerprint: str) -> Workload | None:
    """What was kept under a fingerprint, or None if it is gone or damaged."""
    try:
        data = Folder(study).read(f"workloads/{fingerprint}.json")
        workload = Workload.from_json(data or b"")
    except (StudyError, ValueError):
        return None
    return workload if workload.fingerprint == fingerprint else None


def write_final(study: Path, evaluations: Iterable[Evaluation], conditions: dict[str, Any]) -> None:
    """Keep the final figures of the front and of the baselines, and how they were taken."""
    points = [e.model_dump(mode="json") for e in evaluations]
    Folder(study).write_json(_FINAL, {"version": 1, "conditions": conditions, "points": points})


def is_final(study: Path) -> bool:
    """Whether the final figures of all that was judged are there."""
    return Folder(study).has(_FINAL)


def take_back_final(study: Path) -> None:
    """Remove the final figures: there is more to measure and to score than they speak of."""
    Folder(study).remove(_FINAL)


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a study."""
    return Folder(folder).has(_SETTINGS)


def write_settings(study: Path, settings: Settings) -> None:
    """Keep the inputs of a study."""
    Folder(study).write_json(_SETTINGS, settings.model_dump(mode="json"))


def read_settings(study: Path) -> Settings:
    """The inputs of a study.

    Raises:
        StudyError: there are none, or they are of another version.
    """
    path = f"{study}/{_SETTINGS}"
    data = Folder(study).read(_SETTINGS) if study.is_dir() else None
    if data is None:
        raise StudyError(f"{study}: not a study folder (it has no study.json); give the --out of a search")
    inputs = json_object(path, data)
    check_version(inputs, path, StudyError, STUDY_VERSION)
    try:
        return Settings.model_validate(inputs)
    except ValidationError as error:
        raise StudyError(explain(error, path, list(Settings.model_fields))) from None


def read_final(study: Path) -> tuple[list[Evaluation], dict[str, Any]]:
    """The final figures of the front and of the baselines, and their conditions; nothing before the end of a search.

    Raises:
        StudyError: they are damaged, or were written by another version.
    """
    path = f"{study}/{_FINAL}"
    data = Folder(study).read(_FINAL)
    if data is None:
        return [], {}
    final = json_object(path, data)
    check_version(final, path, StudyError, STUDY_VERSION)
    points, conditions = final.get("points"), final.get("conditions")
    if not isinstance(points, list) or not isinstance(conditions, dict):
        raise StudyError(f"{path}: damaged: it must hold 'points' and 'conditions'")
    return [_parse(path, json.dumps(point).encode()) for point in points], conditions


def _parse(path: str, data: bytes) -> Evaluation:
    try:
        evaluation = Evaluation.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            raise StudyError(f"{path}: it was written by another version of autocompress ({where})") from None
        raise StudyError(f"{path}: damaged: {where + ': ' if where else ''}{problem['msg']}") from None
    except RecipeError as error:  # of another version, or of a technique that is not installed here
        raise StudyError(f"{path}: its recipe cannot be read: {error}") from None
    if problem_text := evaluation.inconsistency():
        raise StudyError(f"{path}: damaged: {problem_text}")
    return evaluation
