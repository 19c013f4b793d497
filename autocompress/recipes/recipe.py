"""Recipes: what to do to a model, as data.

A recipe is an ordered tuple of stages; each stage is one technique with its settings. The order is fixed by
phase (structure, training, numerics, runtime) and checked, never searched. No torch is imported here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError, field_validator

from autocompress.compression.catalogue import parse_stage
from autocompress.compression.stage import Phase, Stage
from autocompress.errors import RecipeError
from autocompress.files import read_yaml, write_atomically
from autocompress.validation import check_version, explain


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
            if early := stage.follows.intersection(names[i + 1 :]):
                raise RecipeError(f"stages.{i}: {stage.technique} must come after {min(early)}; swap the two")
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
