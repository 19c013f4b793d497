"""Finds techniques by their names: the package's own, those of installed packages, and those that the user imports.

A name in a file never has a module imported that the user did not choose: a technique from outside is found once its
module is imported, by the user's task or script or by `--techniques`, or if an installed package offers it as an entry
point. No torch is imported here.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, cast

from pydantic import ValidationError

from autocompress.compression.stage import Stage
from autocompress.errors import InputError, RecipeError, where
from autocompress.validation import explain, suggestion

ENTRY_POINTS = "autocompress.techniques"
"""Group of entry points; the name of one is the name of its technique, its value the module."""
_OWN = "autocompress.compression.techniques"


def technique(name: str) -> type[Stage]:
    """Return the stage class of the technique `name`.

    Raises:
        RecipeError: there is no such technique, or it is not enabled.
    """
    if name in own_names():
        return _own(name)
    if name in (installed := _installed()):
        return _loaded(installed[name])
    if found := _stage_in(sys.modules.get(name), name):
        return found
    known = technique_names()
    outside = all(part.isidentifier() for part in name.split(".")) and "." in name
    raise RecipeError(
        f"unknown technique {name!r}{suggestion(name, known)}; known: {', '.join(known)}"
        + (f"; if it is a module of yours, say so: autocompress --techniques {name} ..." if outside else "")
    )


def technique_names() -> tuple[str, ...]:
    """Names of all techniques that recipes can use here: the package's own ones first."""
    return tuple(dict.fromkeys((*own_names(), *sorted(_installed()), *outside_names())))


@cache
def own_names() -> tuple[str, ...]:
    """Names of the package's own techniques: its modules in `autocompress.compression.techniques`."""
    package = importlib.import_module(_OWN)
    return tuple(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def outside_names() -> tuple[str, ...]:
    """Names of the techniques in modules of the user's that are imported: the paths of these modules."""
    names = {name for cls in _below(Stage) if (name := _name_of(cls)) == cls.__module__}
    return tuple(sorted(name for name in names if _stage_in(sys.modules.get(name), name)))


def enable(module: str) -> None:
    """Import a module of the user's with a technique in it, which recipes can then name by the module's path.

    Raises:
        InputError: it cannot be imported, or has no such technique.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # the user's own code: any error of it is an input error
        raise InputError(f"the technique {module} cannot be imported: it raised {where(error)}") from error
    if module not in own_names() and _stage_in(found, module) is None:
        raise InputError(
            f"{module}: has no technique; write a subclass of autocompress.Stage whose field `technique` has the "
            f"default {module!r}, the path of its module"
        )


def parse_stage(data: object, path: str) -> Stage:
    """Build one stage from plain data or return it if it already is one; errors name `path`."""
    if isinstance(data, Stage):
        return data
    if not isinstance(data, Mapping) or "technique" not in data:
        raise RecipeError(f"{path}: must be a mapping with the key 'technique', got {data!r}")
    try:
        cls = technique(str(data["technique"]))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    try:
        return cls.model_validate(dict(data))
    except ValidationError as error:
        raise RecipeError(explain(error, path, list(cls.model_fields))) from None


@cache
def _own(name: str) -> type[Stage]:
    found = _stage_in(importlib.import_module(f"{_OWN}.{name}"), name)
    assert found is not None, f"{name} defines no stage of its name"
    return found


@cache
def _installed() -> Mapping[str, EntryPoint]:
    """What installed packages offer; none of the package's own can be replaced."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _loaded(point: EntryPoint) -> type[Stage]:
    package = point.dist.name if point.dist else "an installed package"
    try:
        module = importlib.import_module(point.module)
    except (Exception, SystemExit) as error:
        raise RecipeError(f"the technique {point.name!r} of {package} cannot be imported: {where(error)}") from error
    if found := _stage_in(module, point.name):
        return found
    raise RecipeError(f"{package}: {point.module} has no stage whose field `technique` has the default {point.name!r}")


def _stage_in(module: ModuleType | Any, name: str) -> type[Stage] | None:
    """The stage that a module defines under a name."""
    for value in list(vars(module).values()) if module else ():
        is_stage = isinstance(value, type) and issubclass(value, Stage) and value.__module__ == module.__name__
        if is_stage and _name_of(value) == name:
            return cast(type[Stage], value)
    return None


def _name_of(cls: type[Stage]) -> object:
    return cls.model_fields["technique"].default


def _below(cls: type[Stage]) -> Iterator[type[Stage]]:
    for other in cls.__subclasses__():
        yield other
        yield from _below(other)
