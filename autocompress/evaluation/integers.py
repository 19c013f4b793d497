"""A file for targets that compute in integers only: microcontrollers, Ethos-U, Edge TPU."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from autocompress.errors import StudyError
from autocompress.evaluation.evaluator import Predictor
from autocompress.graphs.observe import activation_range
from autocompress.runtimes.adapters.litert import LiteRt
from autocompress.runtimes.adapters.litert.integers import IntegerSession, arena_bytes
from autocompress.runtimes.base import reference
from autocompress.runtimes.quantized_graph import Code
from autocompress.studies.folder import read_artifact
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks.metric import Score, Split
from autocompress.tasks.task import Task

_SAMPLES = 512
"""Of the training data, whose outputs give the range of the outputs."""


@dataclass(frozen=True)
class IntegerFile:
    """A .tflite file with int8 inputs and outputs, images with their channels last."""

    content: bytes
    score: Score
    """As LiteRT computes it."""
    arena_bytes: int | None
    """Working memory in TensorFlow Lite Micro; None where tflite-micro is not installed."""


def integer_file(study: Study, point: Evaluation, task: Task) -> IntegerFile:
    """Write a point of a study as a file that computes in integers only, and judge it.

    Its weights, scales and biases are those of the point; its outputs, which the point has in floats, are rounded to
    the range that they have on training data.

    Raises:
        CandidateError: a node computes in floats, or LiteRT has no operator for it.
        DeviceError: LiteRT is not installed.
        StudyError: the file of the point is no ONNX file, or gone.
    """
    content = read_artifact(study.path, point)
    if not str(point.artifact).endswith(".onnx"):
        raise StudyError(f"{study.path}: its files are no ONNX files, and only these can be converted")
    file = LiteRt().integers_only(onnx.load_from_string(content), _codes(content, task))
    split: Split = "test" if point.test else "validation"
    return IntegerFile(file, task.judge(Predictor(IntegerSession(file)), split)[0], arena_bytes(file))


def _codes(content: bytes, task: Task) -> dict[str, Code]:
    predict = Predictor(reference().load(content))
    reach: dict[str, tuple[float, float]] = {}
    for batch in task.calibration_batches(_SAMPLES, 0):
        for name, values in predict(batch).items():
            low, high = reach.get(name, (0.0, 0.0))
            reach[name] = min(low, float(values.min())), max(high, float(values.max()))
    ranges = {name: activation_range(*ends) for name, ends in reach.items()}
    return {name: Code(found.scale, found.zero_point) for name, found in ranges.items()}
