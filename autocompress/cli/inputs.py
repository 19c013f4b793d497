"""From what was typed to tasks and device profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from autocompress.cli.devices import calibrate_this_machine

if TYPE_CHECKING:
    from autocompress.devices.profile import DeviceProfile
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


def checked_task(reference: str, threads: int | None) -> Task:
    """Load a task and check its data; training uses `threads` threads from here on.

    Raises:
        TaskError: it cannot be loaded or used.
    """
    from autocompress._process import prepare_training

    prepare_training(threads)
    from autocompress.tasks.loading import load_task

    task = load_task(reference)
    task.validate()
    return task
