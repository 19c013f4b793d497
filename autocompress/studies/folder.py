"""The files of a study folder: written all or nothing, and read back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autocompress.errors import RecipeError, StudyError
from autocompress.files import MODEL_BYTES, Folder, json_object
from autocompress.runtimes.workload import Workload
from autocompress.studies.results import Evaluation
from autocompress.studies.settings import Settings
from autocompress.validation import check_version, explain

STUDY_VERSION = 1


_SETTINGS, _FINAL = "study.json", "final.json"


_TRIAL_FOLDER = re.compile(r"[0-9]{6,9}", re.ASCII)


_MOST_MISSING = 10_000
"""So many trials in a row may have no folder: those that were under way when a search died, and deleted ones."""


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


def invalidate_final(study: Path) -> None:
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
