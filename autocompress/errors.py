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
├── MeasurementError      a timing that cannot be trusted
└── InternalError         a bug of autocompress; what was finished is kept

`failing_as` is the net: whatever a library or the user's own code raises becomes one of these.
"""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

_HERE = str(Path(__file__).parent)
_INSTALLED = ("site-packages", "dist-packages")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300
_NO_MEMORY = ("allocate memory", "bad_alloc", "bad allocation")
"""What torch and C++ say when memory is short, in errors of no type of their own."""


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


class InternalError(AutocompressError):
    """A bug of autocompress; the message says where the traceback is and what is kept."""


@contextmanager
def failing_as(kind: type[AutocompressError], doing: str) -> Iterator[None]:
    """Whatever is raised inside becomes an error of ours: what was being done, the reason, the user's source line.

    What autocompress raises itself says so already and passes; so does what is to end the program: Ctrl-C, and a
    handler of a signal that exits. `sys.exit` in the user's code is a failure like any other.

    Raises:
        AutocompressError: of the given kind.
    """
    try:
        yield
    except (AutocompressError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # any library can raise anything; those in Rust panic outside of Exception
        if isinstance(error, SystemExit) and _is_from_a_signal(error.__traceback__):
            raise
        raise kind(f"{doing} {told(error)}") from error


def told(error: BaseException) -> str:
    """What a piece of work did, in words: it raised an exception, or there was not enough memory."""
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or any(words in first_line(error) for words in _NO_MEMORY):
        return "ran out of memory; use a smaller batch size, or fewer workers"
    return f"raised {where(error)}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 300 characters, without the colours of a terminal."""
    try:
        text = _COLOURS.sub("", str(error)).strip()
    except Exception:  # the user's own exception may fail to describe itself
        text = ""
    line = (text.splitlines() or ["(no message)"])[0]
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def where(error: BaseException) -> str:
    """The error's type and text with the innermost line of the user's code, of its own or of what caused it."""
    return f"{type(error).__name__}: {first_line(error)}{user_line(error)}"


def user_line(error: BaseException | None) -> str:
    """The innermost line of the user's code that an error went through, as " (file, line N)", or nothing."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        places = [f" ({Path(file).name}, line {line})" for file, line in _lines(error.__traceback__) if _is_users(file)]
        if places:
            return places[-1]
        error = error.__cause__ or error.__context__
    return ""


def keep_traceback(error: BaseException, path: Path | None = None) -> Path:
    """Write the traceback of a bug to a file, a temporary one by default, for a report."""
    if path is None:
        path = Path(tempfile.mkstemp(prefix="autocompress-", suffix=".log")[1])
    path.unlink(missing_ok=True)  # a link in a folder from a stranger is not followed
    path.write_text("".join(traceback.format_exception(error)))
    return path


def _lines(trace: TracebackType | None) -> list[tuple[str, int]]:
    return [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(trace)]


def _is_users(file: str) -> bool:
    ours = file.startswith(("<", _HERE, sys.base_prefix))
    return not ours and not any(folder in file for folder in _INSTALLED)


def _is_from_a_signal(trace: TracebackType | None) -> bool:
    handlers = [getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()]
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(trace))
