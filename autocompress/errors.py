"""Every exception that autocompress raises on purpose.

AutocompressError
├── InputError            the user's input is wrong: exit code 2, nothing was changed
│   ├── RecipeError       a recipe or one of its stages
│   ├── SpaceError        a search space
│   ├── DeviceError       a device profile
│   ├── TaskError         the task module, its data, loss or metric
│   ├── ConstraintError   a goal that cannot be understood or met
│   └── StudyError        a study folder that cannot be opened or continued
├── CandidateError        this one candidate failed: recorded with its reason, the search goes on
└── MeasurementError      a timing that cannot be trusted
"""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = str(Path(__file__).parent)


class AutocompressError(Exception):
    """Base of all errors raised on purpose; its message is meant for the user."""


class InputError(AutocompressError):
    """The input is wrong; the message says the rule, what was given, what is allowed and what to do."""


class RecipeError(InputError):
    """A recipe or one of its stages is not valid."""


class SpaceError(InputError):
    """A search space is not valid."""


class DeviceError(InputError):
    """A device profile is not valid or not known."""


class TaskError(InputError):
    """The task module, its data, loss or metric is not usable."""


class ConstraintError(InputError):
    """A constraint cannot be understood or cannot be met."""


class StudyError(InputError):
    """A study folder cannot be opened or continued."""


class CandidateError(AutocompressError):
    """One candidate cannot be built, trained or deployed; the search records the reason and goes on."""


class MeasurementError(AutocompressError):
    """A measurement is not trustworthy, for example interrupted or throttled."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().splitlines() or ["(no message)"])[0]


def where(error: BaseException) -> str:
    """The error's type and text with the innermost line of the user's code."""
    place, frame = "", error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if not file.startswith(("<", _HERE)) and "site-packages" not in file and not file.startswith(sys.base_prefix):
            place = f" ({Path(file).name}, line {frame.tb_lineno})"
        frame = frame.tb_next
    return f"{type(error).__name__}: {first_line(error)}{place}"
