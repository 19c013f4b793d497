"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from autocompress.errors import InputError
from autocompress.studies.constraints import Constraint, at_least, at_most
from autocompress.studies.constraints import max_accuracy_drop as drop_at_most


@dataclass(frozen=True)
class Given:
    """What was typed about the samples for an ONNX file."""

    data: str | None
    kind: str
    ignore_labels: bool
    images: dict[str, Any]
    """By the fields of `ImageOptions`, as text."""
    decode: str | None = None


def _above_0(parameter: typer.CallbackParam, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"{parameter.opts[0]} must be a number above 0, got {value}")
    return value


TaskArgument = Annotated[
    str, typer.Argument(help="module.py:name of a Task, or of a function that returns one; or model.onnx with --data.")
]
StudyArgument = Annotated[Path, typer.Argument(help="Folder of a study (--out of a search).")]
DeviceOption = Annotated[str, typer.Option(help="Name or path of a device profile; 'host' is this machine.")]
SpaceOption = Annotated[
    str | None,
    typer.Option(help="Name of a shipped search space, or path of a YAML file; auto, for an ONNX file formats."),
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of everything that is random.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads for training, of each worker; all processors by default.")
]
PortOption = Annotated[
    int | None, typer.Option(help="Port of the web page (default 8642, or a free one; 0: any free port).")
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", help="Sizes of an input that leaves them free: NAME=1x3x640x640 (repeatable)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ActivePower = Annotated[
    float | None,
    typer.Option(
        callback=_above_0, help="What the device draws while it computes, in milliwatts; energy follows from it."
    ),
]
MaxLatency = Annotated[float | None, typer.Option(help="Largest latency, in milliseconds.")]
MaxSize = Annotated[float | None, typer.Option(help="Largest size of the file, in bytes.")]
MaxMemory = Annotated[float | None, typer.Option(help="Largest working memory (weights and activations), in bytes.")]
MaxEnergy = Annotated[float | None, typer.Option(help="Largest energy of one inference, in millijoules.")]
MinAccuracy = Annotated[float | None, typer.Option(help="Least accuracy (validation split).")]
MaxDrop = Annotated[float | None, typer.Option(help="Largest loss of accuracy against fp32; 0.01 is one point.")]
_MinSpeedup = Annotated[
    float | None, typer.Option(callback=_above_0, help="Least speed-up against fp32; 4 is four times faster.")
]
_MinCompression = Annotated[
    float | None, typer.Option(callback=_above_0, help="Least compression against fp32; 4 is four times smaller.")
]


def _constraints(
    max_latency_ms: MaxLatency = None,
    max_size_bytes: MaxSize = None,
    max_memory_bytes: MaxMemory = None,
    max_energy_mj: MaxEnergy = None,
    min_accuracy: MinAccuracy = None,
    max_accuracy_drop: MaxDrop = None,
    min_speedup: _MinSpeedup = None,
    min_compression: _MinCompression = None,
) -> list[Constraint]:
    found = [
        at_most("latency_ms", max_latency_ms) if max_latency_ms is not None else None,
        at_most("size_bytes", max_size_bytes) if max_size_bytes is not None else None,
        at_most("peak_memory_bytes", max_memory_bytes) if max_memory_bytes is not None else None,
        at_most("energy_mj", max_energy_mj) if max_energy_mj is not None else None,
        at_least("accuracy", min_accuracy) if min_accuracy is not None else None,
        drop_at_most(max_accuracy_drop) if max_accuracy_drop is not None else None,
        at_most("latency_ms", 1 / min_speedup, relative_to_baseline=True) if min_speedup else None,
        at_most("size_bytes", 1 / min_compression, relative_to_baseline=True) if min_compression else None,
    ]
    return [c for c in found if c is not None]


_Data = Annotated[
    str | None,
    typer.Option(
        help="For an ONNX file: folder of images, folder or file of .npy or .npz arrays, or module.py:function."
    ),
]
_Kind = Annotated[
    str,
    typer.Option(
        help="For an ONNX file: classification if the largest output is the answer, else generic; auto: by shape."
    ),
]
_IgnoreLabels = Annotated[
    bool, typer.Option("--ignore-labels", help="Judge an ONNX file by agreement with the original, labels or not.")
]
_Decode = Annotated[
    str | None,
    typer.Option(help="For the ONNX file of a detector: how outputs become boxes: yolo, detections, ... (see docs)."),
]
_ImageSize = Annotated[str | None, typer.Option(help="Height and width of images, such as 224x224; the network's own.")]
_ImageScale = Annotated[float | None, typer.Option(help="What the values of images (0 to 255) are divided by; 255.")]
_ImageMean = Annotated[str | None, typer.Option(help="Subtracted then: 0.5, or one per channel: 0.485,0.456,0.406.")]
_ImageStd = Annotated[str | None, typer.Option(help="Divided by then: 0.5, or one per channel: 0.229,0.224,0.225.")]
_ImageCrop = Annotated[
    bool, typer.Option("--image-crop", help="Cut the middle out of images instead of squeezing them.")
]


def _given(
    data: _Data = None,
    kind: _Kind = "auto",
    ignore_labels: _IgnoreLabels = False,
    decode: _Decode = None,
    image_size: _ImageSize = None,
    image_scale: _ImageScale = None,
    image_mean: _ImageMean = None,
    image_std: _ImageStd = None,
    image_crop: _ImageCrop = False,
) -> Given:
    """What was typed about the samples for an ONNX file."""
    images = {
        "size": image_size,
        "scale": image_scale,
        "mean": image_mean,
        "std": image_std,
        "crop": image_crop or None,
    }
    typed = {name: value for name, value in images.items() if value is not None}
    return Given(data, kind, ignore_labels, typed, decode)


def with_constraints(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_constraints` instead of its parameter `constraints`."""
    return _with_options(command, "constraints", _constraints)


def with_data(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_given` instead of its parameter `given`."""
    return _with_options(command, "given", _given)


def _with_options(command: Callable[..., None], name: str, gather: Callable[..., Any]) -> Callable[..., None]:
    """Give a command options instead of a parameter that is made of them.

    Typer reads options off the signature and has no groups of them: the signature that it sees is put together here.
    """
    options = inspect.signature(gather, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def gathered(**values: Any) -> None:
        chosen = {option: values.pop(option) for option in options}
        command(**{name: gather(**chosen)}, **values)

    named = inspect.Parameter.KEYWORD_ONLY  # so that those with a default may stand before those without
    parameters = [q for p in own.parameters.values() for q in (options.values() if p.name == name else [p])]
    signature = own.replace(parameters=[p.replace(kind=named) for p in parameters])
    gathered.__signature__ = signature  # type: ignore[attr-defined]
    return gathered
