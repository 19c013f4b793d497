"""The finished files of a study in another runtime: converted for it, and judged as it runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import onnx

from autocompress.devices.profile import DeviceProfile
from autocompress.errors import CandidateError, StudyError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.runtimes.base import names
from autocompress.runtimes.conversion import converted
from autocompress.studies.folder import read_artifact
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks.interface import take
from autocompress.tasks.task import Task

_COMPARED = 4
"""Samples on which a converted file is compared with the one of the study."""


def can_judge(study: Study, device: DeviceProfile) -> bool:
    """Whether the runtime of a device is another one than that of the study, and executes files on this machine."""
    return device.runtime in names() and device.runtime != study.settings.device.get("runtime")


def judged(
    study: Study, task: Task, device: DeviceProfile, progress: Callable[[str], None] = lambda text: None
) -> dict[int, Evaluation]:
    """Convert the complete trials of a study for the runtime of a device, and score what it makes of them.

    Returns:
        By trial: scores on the splits that the study used, size and digest are those of the converted file. What the
        runtime refuses has failed, with the reason.

    Raises:
        StudyError: the files of the study are no ONNX files, or are gone.
        DeviceError: the runtime is not installed.
    """
    evaluator = Evaluator(task, device)
    evaluator.runtime.version()  # says how to install it
    found = {}
    for evaluation in (e for e in study.evaluations if e.state == "complete"):
        progress(f"trial {evaluation.trial} in {evaluator.runtime.title}")
        try:
            found[evaluation.trial] = _judged(study, evaluation, evaluator)
        except CandidateError as error:
            found[evaluation.trial] = evaluation.model_copy(update={"state": "failed", "reason": str(error)})
    return found


def _judged(study: Study, evaluation: Evaluation, evaluator: Evaluator) -> Evaluation:
    content = read_artifact(study.path, evaluation)
    if not str(evaluation.artifact).endswith(".onnx"):
        raise StudyError(f"{study.path}: its files are no ONNX files, and only these can be converted")
    samples = take(evaluator.task.parity_batches(evaluator.context.seed)[0], slice(_COMPARED))
    file, _ = converted(evaluator.runtime, onnx.load_from_string(content), samples)
    return evaluation.model_copy(
        update={
            "validation": evaluator.score(file, "validation"),
            "test": evaluator.score(file, "test") if evaluation.test else None,
            "size_bytes": len(file),
            "sha256": hashlib.sha256(file).hexdigest(),
        }
    )
