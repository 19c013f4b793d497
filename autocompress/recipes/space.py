"""Search spaces: which recipes are allowed. Data only: no torch, no optuna.

A space is a list of stage spaces. Each field of a stage is a value or a domain; a stage may be `optional`;
`one_of` chooses between stages. Fields that accept a table (pruning ratios, bit widths) take a domain with
`per: stage` or `per: layer`, which is drawn for each part of the user's own network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from autocompress.compression.catalogue import technique, technique_names
from autocompress.compression.stage import Limit, Phase, Stage
from autocompress.compression.structure import NetworkStructure
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import RecipeError, SpaceError
from autocompress.files import read_yaml
from autocompress.recipes.domains import Choice, Domain, Scoped, Suggester, Value
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.stage_space import SWITCH, Slot, StageSpace, dump_stage, parse_slot
from autocompress.validation import check_version, suggestion

_SHIPPED = (Path(__file__).parents[1] / "search_spaces", Path(__file__).parents[2] / "search_spaces")


@dataclass(frozen=True)
class SearchSpace:
    """The recipes a search may try."""

    slots: tuple[Slot, ...]
    description: str = ""
    notes: tuple[str, ...] = ()
    """What `restrict` took away, and why."""

    @classmethod
    def parse(cls, data: object, source: str = "space") -> SearchSpace:
        """Build a space from plain data; every corner of it is built once, so that a bad bound fails now.

        Raises:
            SpaceError: it is not valid; the message names the field by its path.
        """
        if not isinstance(data, Mapping):
            raise SpaceError(f"{source}: must be a mapping with the key 'stages', got {type(data).__name__}")
        check_version(data, source, SpaceError)
        known = ("version", "description", "stages")
        for key in data:
            if key not in known:
                raise SpaceError(f"{source}: {key}: unknown key{suggestion(str(key), known)}")
        stages = data.get("stages")
        if not isinstance(stages, list) or not stages:
            raise SpaceError(f"{source}: stages: must be a list of one or more stages, got {stages!r}")
        slots = tuple(parse_slot(item, f"{source}: stages.{i}") for i, item in enumerate(stages))
        space = cls(slots, str(data.get("description", "")))
        space._check(source)
        return space

    @classmethod
    def load(cls, name_or_path: str | Path) -> SearchSpace:
        """Read a space from a YAML file, or one of the shipped ones by its name.

        Raises:
            SpaceError: there is no such space, or it is not valid.
        """
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            shipped = {p.stem: p for folder in _SHIPPED for p in sorted(folder.glob("*.yaml"))}
            if str(name_or_path) not in shipped:
                raise SpaceError(
                    f"no search space {str(name_or_path)!r}{suggestion(str(name_or_path), list(shipped))}; "
                    f"shipped ones: {', '.join(sorted(shipped))}; or give the path of a YAML file"
                )
            path = shipped[str(name_or_path)]
        return cls.parse(read_yaml(path, SpaceError), str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `parse` reads."""
        items = []
        for slot in self.slots:
            entries = [dump_stage(a) for a in slot.alternatives]
            item = entries[0] if len(entries) == 1 else {"one_of": entries}
            items.append({**item, "optional": True} if slot.optional else item)
        return {"version": 1, "description": self.description, "stages": items}

    def to_yaml(self) -> str:
        """The text that `load` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def knobs(self, outline: NetworkStructure) -> dict[str, Domain]:
        """All knobs of the space for one network, those of alternatives included."""
        result: dict[str, Domain] = {}
        for slot in self.slots:
            if slot.switch:
                result[slot.name] = slot.switch
            for alternative in slot.alternatives:
                result.update(alternative.knobs(outline))
        return result

    def strengths(self, outline: NetworkStructure, phase: Phase | None = None) -> dict[str, Domain]:
        """The knobs whose values go from weak to strong compression, of the stages of one phase or of all."""
        return {
            key: domain
            for slot in self.slots
            for alternative in slot.alternatives
            if phase in (None, alternative.cls.phase)
            for key, domain in alternative.knobs(outline)
            if alternative.is_strength(key)
        }

    def size(self, outline: NetworkStructure) -> float:
        """Number of different settings; infinite with a continuous range."""
        total = 1.0
        for slot in self.slots:
            options = sum(math.prod(d.size for _, d in a.knobs(outline)) for a in slot.alternatives)
            total *= options + (1 if slot.optional else 0)
        return total

    def sample(self, suggester: Suggester, outline: NetworkStructure) -> Recipe:
        """Draw a recipe; `suggester` is an `optuna.Trial` or anything with its suggest methods."""
        stages = []
        for slot in self.slots:
            value = slot.switch.suggest(slot.name, suggester) if slot.switch else SWITCH[1]
            chosen = slot.chosen(value)
            if chosen is not None:
                values = {key: domain.suggest(key, suggester) for key, domain in chosen.knobs(outline)}
                stages.append(chosen.build(values, outline))
        return Recipe(stages=tuple(_drop_unmet(stages)))

    def setting(self, outline: NetworkStructure, strength: Callable[[], float], *, optional: bool) -> dict[str, Value]:
        """One value per knob: strengths at a share of their way, everything else at its first or middle value.

        Args:
            outline: the parts of the network.
            strength: called for each strength, such as a pruning ratio, from 0 (its weakest value) to 1.
            optional: whether the optional stages are in.
        """
        values: dict[str, Value] = {}
        for slot in self.slots:
            chosen = slot.alternatives[0]
            if slot.switch:
                values[slot.name] = slot.on(chosen) if optional or not slot.optional else SWITCH[0]
            values |= {key: chosen.usual(key, domain, strength) for key, domain in chosen.knobs(outline)}
        return values

    def strongest(self, outline: NetworkStructure) -> list[dict[str, Value]]:
        """Settings that compress as much as they can, one for each combination of stages and of bits for all layers.

        One of them is the smallest or the fastest of the space, or close to it: which bits that are depends on device
        and network.
        """
        parts = itertools.product(*(list(slot.strongest(outline)) for slot in self.slots))
        return [dict(itertools.chain(*(part.items() for part in one))) for one in parts]

    def setting_of(self, recipe: Recipe, outline: NetworkStructure) -> dict[str, Value] | None:
        """The setting of this space that comes closest to a recipe of another one; fields it fixes are not looked at.

        Returns:
            One value per knob of the stages that are on, or None where a stage of the recipe is not in the space, a
            stage of the space that is not optional is not in the recipe, or a choice does not offer the value.
        """
        known = {a.technique for slot in self.slots for a in slot.alternatives}
        unknown = [stage for stage in recipe.stages if stage.technique not in known]
        if any(stage.phase is not Phase.RUNTIME for stage in unknown):  # what can be set in the file is found again
            return None
        values: dict[str, Value] = {}
        for slot in self.slots:
            found = next(((a, s) for a in slot.alternatives if (s := recipe.get(a.technique))), None)
            if found is None and not slot.optional:
                return None
            if slot.switch:
                values[slot.name] = slot.on(found[0]) if found else SWITCH[0]
            for chosen, stage in (found,) if found else ():
                for key, domain in chosen.knobs(outline):
                    value = domain.nearest(chosen.value_of(stage, key, outline))
                    if value is None:
                        return None
                    values[key] = value
        return values

    def corner_stages(self, outline: NetworkStructure) -> Iterator[Stage]:
        """Stages of the space in which every value of every choice, and both ends of every range, occurs once."""
        for slot in self.slots:
            for alternative in slot.alternatives:
                yield from (alternative.build(values, outline) for values in _corners(alternative, outline))

    def restrict(self, device: DeviceProfile, outline: NetworkStructure, *, trainable: bool = True) -> SearchSpace:
        """Drop what this device, this network or this task cannot use, and say so in `notes`."""
        notes: list[str] = []
        left_out: dict[str, list[str]] = {}
        slots = []
        for slot in self.slots:
            kept = []
            for alternative in slot.alternatives:
                reason = _unusable(alternative, device, outline, trainable)
                if reason:
                    left_out.setdefault(reason, []).append(alternative.technique)
                else:
                    kept.append(_executable(alternative, device, notes))
            if kept:
                slots.append(Slot(slot.name, tuple(kept), slot.optional))
        notes[:0] = [f"{', '.join(names)}: left out: {reason}" for reason, names in left_out.items()]
        if not slots:
            raise SpaceError("nothing of the search space can be used here: " + "; ".join(notes))
        if 32 not in device.weight_bits:
            slots = _always_quantized(slots, device, notes)
        return SearchSpace(tuple(slots), self.description, (*self.notes, *notes))

    def _check(self, source: str) -> None:
        part = {"layer": "stage1"}
        outline = NetworkStructure(groups=part, layers=part, places=("layer",), blocks=part)
        names = [a.technique for slot in self.slots for a in slot.alternatives]
        for name in names:
            if names.count(name) > 1:
                raise SpaceError(f"{source}: {name} appears twice; merge the two into one stage with domains")
        defaults = [slot.alternatives[0] for slot in self.slots]
        try:
            Recipe(stages=tuple(_first(default, outline) for default in defaults))
            for i, slot in enumerate(self.slots):
                for alternative in slot.alternatives:
                    for values in _corners(alternative, outline):
                        stages = [_first(default, outline) for default in defaults]
                        stages[i] = alternative.build(values, outline)
                        Recipe(stages=tuple(_drop_unmet(stages)))
        except RecipeError as error:
            raise SpaceError(f"{source}: {error}") from None


def _first(space: StageSpace, outline: NetworkStructure) -> Stage:
    return space.build({key: domain.corners()[0] for key, domain in space.knobs(outline)}, outline)


def _corners(space: StageSpace, outline: NetworkStructure) -> Iterator[dict[str, Value]]:
    knobs = dict(space.knobs(outline))
    first = {key: domain.corners()[0] for key, domain in knobs.items()}
    yield first
    for key, domain in knobs.items():
        for corner in domain.corners()[1:]:
            yield {**first, key: corner}


def _drop_unmet(stages: Sequence[Stage]) -> list[Stage]:
    """Leave out stages whose required technique was switched off."""
    names = {stage.technique for stage in stages}
    return [stage for stage in stages if stage.requires <= names]


def _unusable(space: StageSpace, device: DeviceProfile, outline: NetworkStructure, trainable: bool) -> str:
    if outline.unchangeable and space.cls.needs_layers():
        return outline.unchangeable
    if reason := space.cls.unusable(outline, device, trainable=trainable):
        return reason
    limits = space.cls.limits(device).items()
    return next((f"{name}: {limit.reason}" for name, limit in limits if not _executable_values(space, name, limit)), "")


def _executable_values(space: StageSpace, name: str, limit: Limit) -> bool:
    """Whether some value of the field can be executed, in every entry if it is a table."""
    table = space.cls.tables.get(name)
    default = table.default if table else space.cls.model_fields[name].default
    given = space.fixed.get(name, default)
    fixed = set(given.values() if isinstance(given, Mapping) else [given]) if name not in space.domains else set()
    drawn = [scoped.domain.corners() for scoped in _scoped(space, name)]
    return fixed <= limit.values and all(limit.values & set(values) for values in drawn)


def _scoped(space: StageSpace, name: str) -> list[Scoped]:
    return [*([space.domains[name]] if name in space.domains else []), *space.tables.get(name, {}).values()]


def _executable(space: StageSpace, device: DeviceProfile, notes: list[str]) -> StageSpace:
    """The stage space without values that the device's runtime cannot execute."""

    def trim(scoped: Scoped, name: str, limit: Limit) -> Scoped:
        kept = tuple(v for v in scoped.domain.corners() if v in limit.values)
        dropped = [str(v) for v in scoped.domain.corners() if v not in kept]
        if not dropped:
            return scoped
        note = f"{space.technique}.{name}: {', '.join(dropped)} left out: {limit.reason}"
        notes.extend([note] if note not in notes else [])
        return replace(scoped, domain=Choice(kept))

    domains, tables = dict(space.domains), dict(space.tables)
    for name, limit in space.cls.limits(device).items():
        if name in domains:
            domains[name] = trim(domains[name], name, limit)
        if name in tables:
            tables[name] = {part: trim(scoped, name, limit) for part, scoped in tables[name].items()}
    return replace(space, domains=domains, tables=tables)


def _always_quantized(slots: Sequence[Slot], device: DeviceProfile, notes: list[str]) -> list[Slot]:
    """On a device without float arithmetic the quantising stage is no option.

    Raises:
        SpaceError: there is no such stage.
    """
    numerics = [s for s in slots if s.alternatives[0].cls.phase is Phase.NUMERICS]
    if not numerics:
        known = " or ".join(name for name in technique_names() if technique(name).phase is Phase.NUMERICS)
        raise SpaceError(f"{device.name} computes in int8 only; add a {known} stage to the search space")
    notes.extend(f"{s.name}: always on: {device.name} computes in int8 only" for s in numerics if s.optional)
    return [replace(s, optional=False) if s in numerics else s for s in slots]
