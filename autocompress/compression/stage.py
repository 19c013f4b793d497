"""What a technique is: a stage of a recipe, its phase, and how it is found by its name.

No torch is imported here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from autocompress.compression.tables import table_changes
from autocompress.errors import RecipeError
from autocompress.validation import explain, suggestion

if TYPE_CHECKING:
    from autocompress.compression.candidate import Candidate, Workshop


class Phase(IntEnum):
    """When a stage runs: from expensive to cheap, so that recipes with a common beginning share its cost."""

    STRUCTURE = 0
    """Shapes: exits attached, channels removed."""
    TRAINING = 1
    """Weights: fine-tuning, distillation."""
    NUMERICS = 2
    """Number formats: quantisation, with or without training."""
    RUNTIME = 3
    """What can be set in the finished file: exit thresholds."""


def _round_number(value: float) -> float:
    """Six significant digits: 0.1 + 0.2 must not make another recipe than 0.3."""
    return float(f"{value:.6g}")


Number = Annotated[float, AfterValidator(_round_number)]
"""A float field of a stage."""


class Stage(BaseModel):
    """One step of a recipe. A subclass per technique; its `technique` field is the file name of its module."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    technique: str
    phase: ClassVar[Phase]
    conflicts: ClassVar[frozenset[str]] = frozenset()
    """Techniques that cannot be in the same recipe."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """Techniques that must be in the same recipe."""
    precedes: ClassVar[frozenset[str]] = frozenset()
    """Techniques of the same phase that must come later in the recipe."""
    references: ClassVar[tuple[str, ...]] = ()
    """Papers."""

    def apply(self, candidate: Candidate, workshop: Workshop) -> Candidate:
        """Return a new candidate; the given one is never changed.

        Raises:
            CandidateError: the technique cannot be applied to this candidate.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is applied")

    def summary(self) -> str:
        """A few words for tables and hover texts."""
        return self.technique

    def added(self) -> list[str]:
        """Say that a recipe has this stage and another one has not, a line per fact."""
        return [f"{self.summary()} added"]

    def removed(self) -> list[str]:
        """Say that a recipe has this stage no more, a line per fact."""
        return [f"{self.summary()} removed"]

    def changes(self, other: Self) -> list[str]:
        """Say what `other` does differently, a line per difference."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return [line for name in mine for line in self._change(name, mine[name], theirs[name])]

    def _change(self, name: str, before: Any, after: Any) -> list[str]:
        """Lines about one field."""
        words = name.replace("_", " ")
        return [
            f"{self.technique}: {words}{f' of {where}' if where else ''} {_plain(old)} -> {_plain(new)}"
            for where, old, new in table_changes(before, after, None)
        ]


@cache
def technique(name: str) -> type[Stage]:
    """Return the stage class of the technique `name`.

    Raises:
        RecipeError: there is no such technique.
    """
    known = technique_names()
    if name not in known:
        raise RecipeError(f"unknown technique {name!r}{suggestion(name, known)}; known: {', '.join(known)}")
    module = importlib.import_module(f"autocompress.compression.techniques.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Stage) and value.__module__ == module.__name__
    )


@cache
def technique_names() -> tuple[str, ...]:
    """Names of all techniques: the modules of `autocompress.compression.techniques`."""
    package = importlib.import_module("autocompress.compression.techniques")
    return tuple(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


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


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "unset" if value is None else str(value)
