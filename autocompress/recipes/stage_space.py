"""One stage of a search space: what its fields may be, and how it is written as data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from autocompress.compression.catalogue import parse_stage, technique
from autocompress.compression.stage import Stage, TableField
from autocompress.compression.structure import NetworkStructure
from autocompress.compression.tables import lookup
from autocompress.errors import RecipeError, SpaceError
from autocompress.recipes.domains import Choice, Domain, Scoped, Value, parse_domain
from autocompress.validation import suggestion

SWITCH = ("off", "on")


@dataclass(frozen=True)
class StageSpace:
    """The settings that one stage may take."""

    technique: str
    fixed: Mapping[str, Any]
    domains: Mapping[str, Scoped]
    tables: Mapping[str, Mapping[str, Scoped]] = field(default_factory=dict)
    """Table fields of which single entries have a domain; the entries with a value are in `fixed`."""

    @property
    def cls(self) -> type[Stage]:
        """The class of its stages."""
        return technique(self.technique)

    def knobs(self, outline: NetworkStructure) -> Iterator[tuple[str, Domain]]:
        """Names and domains of everything that is drawn for this stage."""
        for name, scoped in self.domains.items():
            key = f"{self.technique}.{name}"
            if scoped.per == "model":
                yield key, scoped.domain
            else:
                for part in self.parts(name, scoped, outline):
                    yield f"{key}[{part}]", scoped.domain
        for name, entries in self.tables.items():
            for part, scoped in entries.items():
                yield f"{self.technique}.{name}[{part}]", scoped.domain

    def parts(self, name: str, scoped: Scoped, outline: NetworkStructure) -> tuple[str, ...]:
        """The parts of a network for which a table field draws values of their own."""
        return outline.parts(self.cls.tables[name].over, scoped.per)

    def field_of(self, knob: str) -> str:
        """The field that a knob of this stage, or a knob of one entry of its table, belongs to."""
        return knob.removeprefix(f"{self.technique}.").partition("[")[0]

    def table_of(self, knob: str) -> TableField | None:
        """What the technique says of the field of a knob, where that may be a table."""
        return self.cls.tables.get(self.field_of(knob))

    def is_strength(self, knob: str) -> bool:
        """Whether the values of a knob go from the weakest compression to the strongest, or the reverse."""
        table = self.table_of(knob)
        return table is not None and table.strongest != "any"

    def usual(self, knob: str, domain: Domain, strength: Callable[[], float]) -> Value:
        """A strength at a share of its way; the first one of another choice; the middle of another range."""
        table = self.table_of(knob)
        if table is not None and table.strongest != "any":
            share = strength()
            return domain.at(share if table.strongest == "high" else 1 - share)
        return domain.at(0.0 if isinstance(domain, Choice) else 0.5)

    def value_of(self, stage: Stage, knob: str, outline: NetworkStructure) -> Value:
        """What a stage has where a knob, `technique.field[part]`, would have its value."""
        value = getattr(stage, self.field_of(knob))
        table = self.table_of(knob)
        if not isinstance(value, Mapping) or table is None:
            return cast(Value, value)
        part = knob.partition("[")[2].removesuffix("]")
        return cast(Value, lookup(value, part, outline.stages_of(table.over).get(part, part), table.default))

    @property
    def fixed_effort(self) -> int:
        """Epochs of training where the space does not draw them; 0 for a stage that does not train."""
        name = self.cls.effort
        return int(self.fixed.get(name, self.cls.model_fields[name].default)) if name else 0

    def build(self, values: Mapping[str, Value], outline: NetworkStructure) -> Stage:
        """Build the stage from one value per knob."""
        settings: dict[str, Any] = {"technique": self.technique, **self.fixed}
        for name, scoped in self.domains.items():
            key = f"{self.technique}.{name}"
            if scoped.per == "model":
                settings[name] = values[key]
            else:
                settings[name] = {p: values[f"{key}[{p}]"] for p in self.parts(name, scoped, outline)}
        for name, entries in self.tables.items():
            drawn = {part: values[f"{self.technique}.{name}[{part}]"] for part in entries}
            settings[name] = {**self.fixed.get(name, {}), **drawn}
        return parse_stage(settings, self.technique)


@dataclass(frozen=True)
class Slot:
    """One place in the recipe: one of several stages, or none when it is optional."""

    name: str
    alternatives: tuple[StageSpace, ...]
    optional: bool

    @property
    def switch(self) -> Choice | None:
        """The choice between the alternatives, or None when there is nothing to choose."""
        names = tuple(a.technique for a in self.alternatives)
        if len(names) > 1:
            return Choice((*((SWITCH[0],) if self.optional else ()), *names))
        return Choice(SWITCH) if self.optional else None

    def chosen(self, value: Value) -> StageSpace | None:
        """The alternative that a value of the switch stands for."""
        if value == SWITCH[0]:
            return None
        return next((a for a in self.alternatives if a.technique == value), self.alternatives[0])

    def strongest(self, outline: NetworkStructure) -> Iterator[dict[str, Value]]:
        """The part of this slot in the settings of `SearchSpace.strongest`."""
        if self.optional:
            yield {self.name: SWITCH[0]}
        for alternative in self.alternatives:
            knobs = dict(alternative.knobs(outline))
            usual = {key: alternative.usual(key, domain, lambda: 1.0) for key, domain in knobs.items()}
            if self.switch:
                usual[self.name] = self.on(alternative)
            yield from (usual | listed for listed in _each_listed(alternative, knobs))

    def on(self, alternative: StageSpace) -> str:
        """The value of the switch that stands for an alternative."""
        return alternative.technique if len(self.alternatives) > 1 else SWITCH[1]


def _each_listed(space: StageSpace, knobs: Mapping[str, Domain]) -> Iterator[dict[str, Value]]:
    """Every combination of values of fields of which none is known to be the strongest, the same wherever offered."""
    names = [name for name, table in space.cls.tables.items() if table.strongest == "any"]
    drawn = ({key: d.corners() for key, d in knobs.items() if space.field_of(key) == name} for name in names)
    tables = [table for table in drawn if table]
    for each in itertools.product(*(dict.fromkeys(itertools.chain(*table.values())) for table in tables)):
        yield {key: v for v, table in zip(each, tables, strict=True) for key, corners in table.items() if v in corners}


def dump_stage(space: StageSpace) -> dict[str, Any]:
    """The plain data of a stage."""
    item: dict[str, Any] = {"technique": space.technique, **space.fixed}
    item |= {name: _dump_domain(scoped) for name, scoped in space.domains.items()}
    for name, entries in space.tables.items():
        item[name] = {**space.fixed.get(name, {}), **{part: _dump_domain(s) for part, s in entries.items()}}
    return item


def _dump_domain(scoped: Scoped) -> dict[str, Any]:
    domain = scoped.domain
    data: dict[str, Any]
    if isinstance(domain, Choice):
        data = {"choice": list(domain.values)}
    else:
        data = {"low": domain.low, "high": domain.high}
        data |= {"step": domain.step} if domain.step else {}
        data |= {"log": True} if domain.log else {}
    return data if scoped.per == "model" else {**data, "per": scoped.per}


def parse_slot(item: object, path: str) -> Slot:
    """Build a slot from plain data; errors name `path`."""
    if not isinstance(item, Mapping):
        raise SpaceError(f"{path}: must be a mapping with the key 'technique' or 'one_of', got {item!r}")
    rest = dict(item)
    optional = rest.pop("optional", False)
    if not isinstance(optional, bool):
        raise SpaceError(f"{path}.optional: must be true or false, got {optional!r}")
    if "one_of" in rest:
        entries = rest.pop("one_of")
        if rest or not isinstance(entries, list) or not entries:
            raise SpaceError(f"{path}: one_of must be a list of stages and stand alone beside 'optional'")
    else:
        entries = [rest]
    alternatives = tuple(_parse_stage_space(e, f"{path}") for e in entries)
    phases = {technique(a.technique).phase for a in alternatives}
    if len(phases) > 1:
        raise SpaceError(
            f"{path}.one_of: its stages must be of one phase, got {', '.join(sorted(p.name.lower() for p in phases))}"
        )
    return Slot("+".join(a.technique for a in alternatives), alternatives, optional)


def _parse_stage_space(entry: object, path: str) -> StageSpace:
    if not isinstance(entry, Mapping) or "technique" not in entry:
        raise SpaceError(f"{path}: must be a mapping with the key 'technique', got {entry!r}")
    name = str(entry["technique"])
    try:
        cls = technique(name)
    except RecipeError as error:
        raise SpaceError(f"{path}: {error}") from None
    fixed: dict[str, Any] = {}
    domains: dict[str, Scoped] = {}
    tables: dict[str, dict[str, Scoped]] = {}
    for key, value in entry.items():
        if key == "technique":
            continue
        if key not in cls.model_fields:
            raise SpaceError(f"{path}.{key}: unknown key{suggestion(str(key), list(cls.model_fields))}")
        if not isinstance(value, Mapping):
            fixed[key] = value
        elif _is_domain(value):
            domains[key] = _parse_scoped(value, f"{path}.{key}")
            _check_domain(domains[key], cls, key, f"{path}.{key}")
        else:
            drawn = {p: _parse_scoped(v, f"{path}.{key}.{p}") for p, v in value.items() if isinstance(v, Mapping)}
            fixed[key] = {part: v for part, v in value.items() if part not in drawn}
            tables |= {key: drawn} if drawn else {}
            if any(scoped.per != "model" for scoped in drawn.values()):
                raise SpaceError(f"{path}.{key}: an entry of a table is one part already; leave out its 'per'")
    return StageSpace(name, fixed, domains, tables)


def _check_domain(scoped: Scoped, cls: type[Stage], key: str, path: str) -> None:
    table = cls.tables.get(key)
    if table is None and scoped.per != "model":
        which = f"only {', '.join(cls.tables)} can be" if cls.tables else "no field of it can be"
        raise SpaceError(f"{path}: per: {scoped.per} is for settings per part of a network; here {which}")
    if table is not None and table.strongest == "any" and not isinstance(scoped.domain, Choice):
        raise SpaceError(f"{path}: its values are a choice, such as {{choice: [4, 8]}}, got a range")


def _is_domain(value: Mapping[str, Any]) -> bool:
    return bool({"choice", "low", "high", "per"} & set(value))


def _parse_scoped(value: Mapping[str, Any], path: str) -> Scoped:
    try:
        return parse_domain(dict(value))
    except (ValueError, TypeError) as error:
        raise SpaceError(f"{path}: {error}") from None
