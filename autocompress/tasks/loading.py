"""The user's task module: the only code of theirs that is run, and only because they name it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from autocompress.errors import TaskError, where
from autocompress.tasks.task import Task


def load_task(reference: str) -> Task:
    """Load "module.py:name" (or "package.module:name"); the name is a Task or a function that returns one.

    Raises:
        TaskError: the module cannot be found or raises, or does not give a Task.
    """
    value = load_value(
        reference if ":" in reference else f"{reference}:task", "task() that returns autocompress.Task(...)"
    )
    if not isinstance(value, Task):
        raise TaskError(f"{reference}: must be a Task or a function that returns one, got {type(value).__name__}")
    return value


def load_value(reference: str, wanted: str) -> Any:
    """Load "module.py:name"; a function is called, and what it returns is the value.

    Args:
        reference: module and name.
        wanted: the function that should be there, for the message that it is not.

    Raises:
        TaskError: the module cannot be found, has no such name, or raises.
    """
    source, _, name = reference.rpartition(":")
    module = _import(source, reference)
    if not hasattr(module, name):
        raise TaskError(f"{source}: has no {name!r}; write a function {wanted}")
    value = getattr(module, name)
    if not callable(value) or isinstance(value, Task):
        return value
    try:
        return value()
    except TaskError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code: any error of it is an input error
        raise TaskError(f"{reference}: {name}() raised {where(error)}") from error


def _import(source: str, reference: str) -> Any:
    path = Path(source)
    try:
        if path.suffix != ".py":
            if os.getcwd() not in sys.path:
                sys.path.insert(0, os.getcwd())
            return importlib.import_module(source)
        if not path.exists():
            raise TaskError(f"{reference}: there is no file {source}")
        sys.path.insert(0, str(path.parent.resolve()))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    except TaskError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code: any error of it is an input error
        raise TaskError(f"{reference}: importing it raised {where(error)}") from error
