"""Modules that are imported at their first use, so that a recipe can be checked without paying for torch."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class LazyModule(ModuleType):
    """Stands for module `name` until one of its attributes is asked for."""

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name__), attribute)


def lazy(name: str) -> Any:
    """Return module `name`, imported when first used; pair it with a real import under TYPE_CHECKING."""
    return LazyModule(name)
