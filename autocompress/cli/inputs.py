"""From what was typed to tasks and device profiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autocompress.cli.devices import calibrate_this_machine
from autocompress.cli.options import Given
from autocompress.errors import TaskError

if TYPE_CHECKING:
    from autocompress.controller.executors.base import Source
    from autocompress.devices.profile import DeviceProfile
    from autocompress.recipes.space import SearchSpace
    from autocompress.tasks.task import Task


def profile_if_known(name: str) -> DeviceProfile | None:
    """Load a profile; None stands for this machine as long as it is not calibrated.

    Raises:
        DeviceError: there is no such profile, or it is not valid.
    """
    from autocompress.devices.profile import HOST, DeviceProfile, list_profiles

    return None if name == HOST and HOST not in list_profiles() else DeviceProfile.load(name)


def profile_of_this_machine() -> DeviceProfile:
    """Calibrate, once everything else that was given is known to be right."""
    typer.echo("this machine has no profile yet: calibrating it once, about a minute", err=True)
    return calibrate_this_machine()


def with_power(profile: DeviceProfile, active_power_mw: float | None) -> DeviceProfile:
    """Return the profile with `active_power_mw` replaced."""
    return profile if active_power_mw is None else profile.model_copy(update={"active_power_mw": active_power_mw})


def source_of(task: str, given: Given) -> Source:
    """Where the task comes from: a task module, or an ONNX file with samples.

    Raises:
        TaskError: options for an ONNX file were given for a task module, or cannot be understood.
    """
    if not task.endswith(".onnx"):
        if given != Given(None, "auto", False, {}):
            names = "--data, --kind, --ignore-labels, --decode and --image-..."
            raise TaskError(f"{names} go with an ONNX file, got {task}; a task brings its own data")
        return task
    from autocompress.given.start import KINDS, OnnxStart
    from autocompress.tasks.images import ImageOptions

    if given.kind not in KINDS:
        raise TaskError(f"--kind must be {', '.join(KINDS)}, got {given.kind}")
    images = {name: _IMAGE_VALUES[name](f"--image-{name}", value) for name, value in given.images.items()}
    options = [
        *(("--data", given.data) if given.data else ()),
        *(("--kind", given.kind) if given.kind != KINDS[0] else ()),
    ]
    options += ["--ignore-labels"] if given.ignore_labels else []
    options += ["--decode", given.decode] if given.decode else []
    for name, value in given.images.items():
        options += [f"--image-{name}"] if value is True else [f"--image-{name}", str(value)]
    # a task may change the working directory
    path, data = str(Path(task).absolute()), _absolute(given.data or "")
    how = ImageOptions(**images)
    return OnnxStart(path, data, given.kind, how, given.ignore_labels, (task, *options), given.decode)


def space_of(name: str | None, source: Source) -> SearchSpace:
    """Load a space, the default one for this kind of task where none was named.

    Raises:
        SpaceError: there is no such space, or it is not valid.
    """
    from autocompress.recipes.space import SearchSpace

    return SearchSpace.load(name or ("auto" if isinstance(source, str) else "formats"))


def _absolute(data: str) -> str:
    return str(Path(data).absolute()) if data and Path(data).exists() else data


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise TaskError(f"{option} must be numbers with commas between them, got {text!r}") from None


def _size(option: str, text: str) -> tuple[int, int]:
    height, separator, width = text.partition("x")
    if not (separator and height.isdigit() and width.isdigit()):
        raise TaskError(f"{option} must be height and width, such as 224x224, got {text!r}")
    return int(height), int(width)


def _as_it_is(option: str, value: Any) -> Any:
    return value


_IMAGE_VALUES = {"size": _size, "scale": _as_it_is, "mean": _numbers, "std": _numbers, "crop": _as_it_is}


def checked_task(source: Source, threads: int | None) -> Task:
    """Load a task and check its data; training uses `threads` threads from here on.

    Raises:
        TaskError: it cannot be loaded or used.
    """
    from autocompress._process import prepare_training

    prepare_training(threads)
    from autocompress.tasks.loading import load_task

    task = load_task(source) if isinstance(source, str) else source()
    task.validate()
    return task
