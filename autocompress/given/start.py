"""A task from an ONNX file and samples of what it will see."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import TaskError
from autocompress.given.file import GivenFile, read
from autocompress.given.network import GraphNetwork
from autocompress.given.samples import Samples, read_samples
from autocompress.tasks.images import ImageOptions
from autocompress.tasks.interface import joined, leaves, n_samples, take, tensors
from autocompress.tasks.kinds.detection import Detection, size_of
from autocompress.tasks.metric import ACCURACY, Metric
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import outputs_of

Array = NDArray[Any]
Kind = Literal["auto", "classification", "generic"]

KINDS: tuple[Kind, ...] = get_args(Kind)
_MOST_CALIBRATION = 512
_BATCH = 64


def _same_class(outputs: Array, original: Array) -> Array:
    same: Array = (outputs.argmax(-1) == original).astype(np.float64)
    return same


def _closeness(outputs: Any, original: Any) -> Array:
    """1 - |a - b| / |b| for each sample and output, not below 0; the mean over the outputs."""
    found = []
    for a, b in zip(leaves(outputs), leaves(original), strict=True):
        a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (a, b))
        length = np.maximum(np.linalg.norm(b, axis=1), 1e-12)
        found.append(np.clip(1 - np.linalg.norm(a - b, axis=1) / length, 0, 1))
    mean: Array = np.mean(found, axis=0)
    return mean


SAME_CLASS = Metric("agreement with the original", _same_class, unit="share")
"""Share of samples with the same largest output as the given file; no labels are needed."""
CLOSENESS = Metric("agreement with the original (1 - relative L2 distance)", _closeness, unit="share", counts=False)
"""1 - |a - b| / |b| of the outputs of a sample, for outputs that are no classes."""


@dataclass(frozen=True)
class OnnxStart:
    """What a task is made from; worker processes make theirs by calling a copy of it."""

    path: str
    data: str = ""
    kind: Kind = "auto"
    images: ImageOptions = field(default_factory=ImageOptions)
    ignore_labels: bool = False
    words: tuple[str, ...] = ()
    """File and options as they were typed, for the command that repeats a study."""
    decode: str | None = None

    def __call__(self) -> Task:
        """Read file and samples; raises what `task_from_onnx` raises."""
        if not self.data:
            raise TaskError(
                f"{self.path}: bring samples of what the network will see: --data with a folder of images, of .npy or "
                ".npz files, or module.py:function; random numbers are no data"
            )
        return task_from_onnx(
            self.path,
            self.data,
            kind=self.kind,
            images=self.images,
            ignore_labels=self.ignore_labels,
            decode=self.decode,
        )

    def __str__(self) -> str:
        """The arguments of the command line."""
        return shlex.join(self.words or (self.path, "--data", self.data))


def task_from_onnx(
    path: str | Path,
    data: str | Path | Mapping[str, Any],
    *,
    kind: Kind = "auto",
    metric: Metric | None = None,
    images: ImageOptions = ImageOptions(),  # noqa: B008  frozen
    ignore_labels: bool = False,
    decode: str | Callable[[Any], Any] | None = None,
    split_seed: int = 0,
    name: str = "",
) -> Task:
    """Make a task of an ONNX file in float32 and samples, with labels or without.

    The samples are shuffled and cut into those that ranges are observed on (a quarter, 512 at most), validation and
    test data. With labels a classification is judged by accuracy; without, every file is judged by its agreement with
    the given one. Nothing can be trained or pruned.

    Args:
        path: the file; opset 11 or newer.
        data: a folder of images (with one sub-folder per class, or without), a folder or file of .npy and .npz
            arrays with the names of the inputs, "module.py:function", or arrays by name; labels are called "labels".
        kind: "classification" if the largest of the outputs (N, classes) is the answer; "auto": if there is one
            output with two dimensions.
        metric: of outputs and labels, higher is better; for labels that are no classes.
        images: how images become inputs.
        ignore_labels: judge by agreement although there are labels, as where they are not those of the network.
        decode: how the outputs of a detector become boxes (see `Task.detection`); files are judged by mAP against the
            boxes that the given one finds.
        split_seed: of the shuffle.
        name: of the task; by default that of the file.

    Raises:
        TaskError: the file or the data cannot be used; the message says why and what to do.
    """
    file = read(path)
    samples = read_samples(data, file, images, split_seed)
    samples = replace(samples, labels=None) if ignore_labels else samples
    file = file.sized({name: array.shape[1:] for name, array in samples.inputs.items()})
    name = name or Path(path).stem
    if decode is not None:
        return _detector(file, samples, decode, _parts(len(samples), split_seed), name)
    two = take(samples.inputs, slice(2))
    shapes = [values.shape for values in file.checked(two).values()]
    classifies = len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] > 1 if kind == "auto" else kind == KINDS[1]
    unusable = _why_no_accuracy(samples, classifies, shapes[0]) if metric is None else ""
    metric = metric or (ACCURACY if not unusable else SAME_CLASS if classifies else CLOSENESS)
    parts = _parts(len(samples), split_seed)
    told = f"judged by {metric.name}{unusable and f', since {unusable}'}; {_told(parts)}"
    network = GraphNetwork(file.graph, file.sha256, (*file.notes, *samples.notes, told))
    targets = samples.labels
    if metric in (SAME_CLASS, CLOSENESS):
        targets = _answers(network, samples.inputs, classifies)
    elif metric is ACCURACY:
        network.notes += _doubts(network, samples, shapes[0][1])
    kind = "classification" if classifies else "generic"
    classes = samples.classes if classifies and len(samples.classes) == shapes[0][1] else ()
    return _task(network, samples, targets, parts, metric=metric, kind=kind, name=name, classes=classes)


def _detector(file: GivenFile, samples: Samples, decode: Any, parts: Mapping[str, Array], name: str) -> Task:
    """A detector, judged by the boxes that the given file finds: no labels are needed."""
    kind = Detection(decode, size=size_of(samples.inputs))
    assert kind.metric is not None
    metric = replace(kind.metric, name=f"{kind.metric.name} against the boxes of the original")
    told = f"judged by {metric.name}; {_told(parts)}"
    network = GraphNetwork(file.graph, file.sha256, (*file.notes, *samples.notes, told))
    targets = kind.shown(_answers(network, samples.inputs, False))
    return _task(network, samples, targets, parts, metric=metric, kind=kind, name=name)


def _task(network: GraphNetwork, samples: Samples, targets: Any, parts: Mapping[str, Array], **settings: Any) -> Task:
    calibration, validation, test = (_batches(samples.inputs, targets, rows) for rows in parts.values())
    return Task(
        model=network,
        example_input=tensors(take(samples.inputs, slice(1))),
        calibration=calibration,
        val=validation,
        test=test,
        preprocessing=samples.preprocessing,
        **settings,
    )


def _why_no_accuracy(samples: Samples, classifies: bool, shape: tuple[int, ...]) -> str:
    """Why labels cannot judge the files, or nothing."""
    if samples.labels is None:
        return "the data have no labels"
    if not classifies:
        return "the outputs are no classes; a metric for other labels is given to task_from_onnx in a task file"
    if samples.labels.ndim != 1 or samples.labels.dtype.kind not in "iub":
        return f"labels must be one whole number for each sample, got {samples.labels.dtype} {samples.labels.shape[1:]}"
    if samples.classes and len(samples.classes) != shape[1]:
        return f"the data have {len(samples.classes)} folders and the network {shape[1]} outputs"
    return ""


def _doubts(network: GraphNetwork, samples: Samples, n_classes: int) -> tuple[str, ...]:
    """That the given network is hardly ever right, which is more often a mistake in the data."""
    right = float((_answers(network, samples.inputs, True) == samples.labels).mean())
    if right >= 2 / n_classes:
        return ()
    return (
        f"the given network is right on {right:.1%} of the samples only, where chance is {1 / n_classes:.1%}: check "
        "how inputs are scaled (--image-scale, --image-mean, --image-std) and the order of the classes, or judge by "
        "agreement with the original (--ignore-labels)",
    )


def _parts(n: int, seed: int) -> dict[str, Array]:
    """Which samples serve for what."""
    order = np.random.default_rng(seed).permutation(n)
    first = min(_MOST_CALIBRATION, n // 4)
    middle = first + (n - first) // 2
    return {"calibration": order[:first], "validation": order[first:middle], "test": order[middle:]}


def _told(parts: Mapping[str, Array]) -> str:
    return ", ".join(f"{len(rows)} {name}" for name, rows in parts.items()) + " samples, shuffled"


def _answers(network: GraphNetwork, inputs: Mapping[str, Array], classifies: bool) -> Any:
    """What the given network says: the class, or all outputs by name or the lone one."""
    found = []
    for start in range(0, n_samples(inputs), _BATCH):
        batch = tensors(take(inputs, slice(start, start + _BATCH)))
        outputs = [tensor.numpy() for tensor in outputs_of(network, batch)]
        found.append(dict(zip(network.structure.names, outputs, strict=True)))
    answers = joined(found)
    if classifies:
        return answers[network.structure.names[0]].argmax(-1)
    return network.structure.pack(answers)


def _batches(inputs: Mapping[str, Array], targets: Any, rows: Array) -> list[tuple[Any, Any]]:
    parts = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    return [(tensors(take(inputs, part)), tensors(take(targets, part))) for part in parts]
