"""What the conformance suites share."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping


def require(condition: bool, rule: str) -> None:
    """Fail with the rule that is broken."""
    if not condition:
        raise AssertionError(rule)


def require_docstrings(cls: type, texts: Mapping[str, str | None]) -> None:
    """Fail if the module of a class, the class itself, or one of further texts by name has no docstring."""
    own = {"the module": sys.modules[cls.__module__].__doc__, "the class": cls.__dict__.get("__doc__")}
    for what, text in (own | dict(texts)).items():
        require(bool(inspect.cleandoc(text or "")), f"{what} has no docstring")


def is_refused(attempt: Callable[[], object], error: type[Exception]) -> bool:
    """Whether an attempt ends in this error."""
    try:
        attempt()
    except error:
        return True
    return False
