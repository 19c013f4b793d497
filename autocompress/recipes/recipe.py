"""Recipes: what to do to a model, as data.

A recipe is an ordered tuple of stages; each stage is one technique with its settings. The order is fixed by
phase (structure, training, numerics, runtime) and checked, never searched. No torch is imported here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Iterable, Mapping
from enum import IntEnum
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, SerializeAsAny, ValidationError, field_validator

from autocompress.errors import RecipeError
from autocompress.files import read_yaml, write_atomically
from autocompress.validation import check_version, explain, suggestion

if TYPE_CHECKING:
    from autocompress.compression.candidate import Candidate, Workshop

T = TypeVar("T")


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

Table = dict[str, T]
"""A setting per layer: keys are names of layers or stages, patterns such as "blocks.0.*", or "default"."""


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


class Recipe(BaseModel):
    """Stages in the order of their phases. The empty recipe is the unchanged model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    stages: tuple[SerializeAsAny[Stage], ...] = ()

    @field_validator("stages", mode="before")
    @classmethod
    def _parse(cls, value: object) -> tuple[Stage, ...]:
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a list of stages")
        return tuple(parse_stage(item, f"stages.{i}") for i, item in enumerate(value))

    @field_validator("stages")
    @classmethod
    def _check(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        names = [stage.technique for stage in stages]
        for i, stage in enumerate(stages):
            if names.index(stage.technique) != i:
                raise RecipeError(f"stages.{i}: {stage.technique} appears twice; merge the two stages")
            if clash := stage.conflicts.intersection(names):
                raise RecipeError(f"stages.{i}: {stage.technique} cannot be combined with {min(clash)}")
            if missing := stage.requires.difference(names):
                raise RecipeError(f"stages.{i}: {stage.technique} needs a stage {min(missing)}")
            if late := stage.precedes.intersection(names[:i]):
                raise RecipeError(f"stages.{i}: {stage.technique} must come before {min(late)}; swap the two")
            if i and stage.phase < stages[i - 1].phase:
                raise RecipeError(
                    f"stages.{i}: {stage.technique} ({stage.phase.name.lower()}) comes after "
                    f"{names[i - 1]} ({stages[i - 1].phase.name.lower()}); the order of phases is "
                    f"{', '.join(p.name.lower() for p in Phase)}"
                )
        return stages

    @classmethod
    def parse(cls, data: object, source: str = "recipe") -> Recipe:
        """Build a recipe from plain data.

        Raises:
            RecipeError: it is not valid; the message names the field by its path.
        """
        if not isinstance(data, Mapping):
            raise RecipeError(f"{source}: must be a mapping with the key 'stages', got {type(data).__name__}")
        check_version(data, source, RecipeError)
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise RecipeError(explain(error, source, list(cls.model_fields))) from None
        except RecipeError as error:
            raise RecipeError(f"{source}: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe from YAML.

        Raises:
            RecipeError: the file cannot be read or is not a valid recipe.
        """
        return cls.parse(read_yaml(path, RecipeError), str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the fields that are at their defaults."""
        stages = [
            {
                "technique": s.technique,
                **s.model_dump(mode="json", exclude_defaults=True, exclude={"technique"}),
            }
            for s in self.stages
        ]
        return {"version": self.version, "stages": stages}

    def to_yaml(self) -> str:
        """The text that `load` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML, all or nothing."""
        write_atomically(path, self.to_yaml())

    def upto(self, phase: Phase) -> Recipe:
        """The recipe without the stages behind `phase`."""
        return Recipe(stages=tuple(s for s in self.stages if s.phase <= phase))

    def replace(self, *stages: Stage) -> Recipe:
        """The recipe with its stages of the same phases as `stages` replaced by them."""
        phases = {stage.phase for stage in stages}
        kept = [stage for stage in self.stages if stage.phase not in phases]
        return Recipe(stages=tuple(sorted([*kept, *stages], key=lambda s: s.phase)))

    def get(self, name: str) -> Stage | None:
        """The stage of the technique `name`, if there is one."""
        return next((stage for stage in self.stages if stage.technique == name), None)

    def digest(self, upto: Phase | None = None) -> str:
        """Stable id (16 hex digits) of the recipe, or of its beginning up to and including a phase."""
        recipe = self if upto is None else self.upto(upto)
        full = [stage.model_dump(mode="json") for stage in recipe.stages]
        return hashlib.sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()[:16]

    def summary(self) -> str:
        """One line for tables."""
        return " + ".join(stage.summary() for stage in self.stages) or "unchanged"

    def diff(self, other: Recipe) -> str:
        """Say in words what `other` does differently, one line per difference."""
        lines: list[str] = []
        names = {s.technique: s.phase for s in (*self.stages, *other.stages)}
        for name in sorted(names, key=lambda n: names[n]):
            mine, theirs = self.get(name), other.get(name)
            if mine is not None and theirs is not None:
                lines += mine.changes(theirs)
            elif theirs is not None:
                replaced = next((s for s in self.stages if s.technique in theirs.conflicts), None)
                lines += [f"{theirs.summary()} instead of {replaced.summary()}"] if replaced else theirs.added()
            elif mine is not None and not any(s.technique in mine.conflicts for s in other.stages):
                lines += mine.removed()
        return "\n".join(lines) or "no difference"


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


def lookup(table: Mapping[str, T] | T, name: str, stage: str, default: T) -> T:
    """The setting for one layer: by its name, then by pattern, then by its stage, then "default"."""
    if not isinstance(table, Mapping):
        return table
    if name in table:
        return table[name]
    for pattern, value in table.items():
        if fnmatchcase(name, pattern):
            return value
    return table.get(stage, table.get("default", default))


def table_changes(before: Any, after: Any, default: Any) -> list[tuple[str, Any, Any]]:
    """Where two settings differ: name of the layer or stage, before, after.

    The name is "" where both hold for all layers, and "everything else" for what a table does not name.
    """
    if not isinstance(before, Mapping) and not isinstance(after, Mapping):
        return [("", before, after)] if before != after else []
    tables = [t if isinstance(t, Mapping) else {"default": t} for t in (before, after)]
    rows = []
    for key in dict.fromkeys([*(k for table in tables for k in table if k != "default"), "default"]):
        old, new = (table.get(key, table.get("default", default)) for table in tables)
        if old != new:
            rows.append(("everything else" if key == "default" else key, old, new))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "unset" if value is None else str(value)


def unknown_keys(table: object, names: Iterable[str], stages: Iterable[str]) -> list[str]:
    """Keys of a table that match no layer and no stage."""
    if not isinstance(table, Mapping):
        return []
    known = [*names, *stages, "default"]
    return [key for key in table if not any(fnmatchcase(name, key) for name in known)]
