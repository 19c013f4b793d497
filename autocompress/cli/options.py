"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from autocompress.errors import InputError
from autocompress.studies.constraints import Constraint, at_least, at_most
from autocompress.studies.constraints import max_accuracy_drop as drop_at_most


def _above_0(parameter: typer.CallbackParam, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"{parameter.opts[0]} must be a number above 0, got {value}")
    return value


TaskArgument = Annotated[str, typer.Argument(help="module.py:name of a Task, or of a function that returns one.")]
StudyArgument = Annotated[Path, typer.Argument(help="Folder of a study (--out of a search).")]
DeviceOption = Annotated[str, typer.Option(help="Name or path of a device profile; 'host' is this machine.")]
SpaceOption = Annotated[str, typer.Option(help="Name of a shipped search space, or path of a YAML file.")]
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


def with_constraints(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_constraints` instead of its parameter `constraints`.

    Typer reads options off the signature and has no groups of them: the signature that it sees is put together here.
    """
    options = inspect.signature(_constraints, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def gathered(**values: Any) -> None:
        limits = {name: values.pop(name) for name in options}
        command(constraints=_constraints(**limits), **values)

    parameters = [q for p in own.parameters.values() for q in (options.values() if p.name == "constraints" else [p])]
    gathered.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return gathered
