"""Search spaces: which recipes are allowed. Data only: no torch, no optuna.

A space is a list of stage spaces. Each field of a stage is a value or a domain; a stage may be `optional`;
`one_of` chooses between stages. Fields that accept a table (pruning ratios, bit widths) take a domain with
`per: stage` or `per: layer`, which is drawn for each part of the user's own network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import yaml

from autocompress.compression.stage import Phase, Stage, parse_stage, technique
from autocompress.compression.structure import Outline
from autocompress.compression.tables import lookup
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import RecipeError, SpaceError
from autocompress.files import read_yaml
from autocompress.recipes.domains import Choice, Domain, Scoped, Suggester, Value, parse_domain
from autocompress.recipes.recipe import Recipe
from autocompress.validation import check_version, suggestion

_SHIPPED = (Path(__file__).parents[1] / "search_spaces", Path(__file__).parents[2] / "search_spaces")
_SWITCH = ("off", "on")
TABLES = ("ratio", "weight_bits", "activation_bits")
"""Fields that take a value per layer or stage."""
_BITS = ("weight_bits", "activation_bits")


@dataclass(frozen=True)
class StageSpace:
    """The settings that one stage may take."""

    technique: str
    fixed: Mapping[str, Any]
    domains: Mapping[str, Scoped]
    tables: Mapping[str, Mapping[str, Scoped]] = field(default_factory=dict)
    """Table fields of which single entries have a domain; the entries with a value are in `fixed`."""

    def knobs(self, outline: Outline) -> Iterator[tuple[str, Domain]]:
        """Names and domains of everything that is drawn for this stage."""
        for name, scoped in self.domains.items():
            key = f"{self.technique}.{name}"
            if scoped.per == "model":
                yield key, scoped.domain
            else:
                for part in outline.parts(name, scoped.per):
                    yield f"{key}[{part}]", scoped.domain
        for name, entries in self.tables.items():
            for part, scoped in entries.items():
                yield f"{self.technique}.{name}[{part}]", scoped.domain

    @property
    def fixed_epochs(self) -> int:
        """Epochs of training where the space does not draw them; 0 for a stage that does not train."""
        known = technique(self.technique).model_fields.get("epochs")
        return int(self.fixed.get("epochs", known.default)) if known else 0

    def draws(self, knob: str, field_name: str) -> bool:
        """Whether a knob is the one of a field, or of one of its entries."""
        return knob.partition("[")[0] == f"{self.technique}.{field_name}"

    def build(self, values: Mapping[str, Value], outline: Outline) -> Stage:
        """Build the stage from one value per knob."""
        settings: dict[str, Any] = {"technique": self.technique, **self.fixed}
        for name, scoped in self.domains.items():
            key = f"{self.technique}.{name}"
            if scoped.per == "model":
                settings[name] = values[key]
            else:
                settings[name] = {p: values[f"{key}[{p}]"] for p in outline.parts(name, scoped.per)}
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
            return Choice((*((_SWITCH[0],) if self.optional else ()), *names))
        return Choice(_SWITCH) if self.optional else None

    def chosen(self, value: Value) -> StageSpace | None:
        """The alternative that a value of the switch stands for."""
        if value == _SWITCH[0]:
            return None
        return next((a for a in self.alternatives if a.technique == value), self.alternatives[0])

    def strongest(self, outline: Outline) -> Iterator[dict[str, Value]]:
        """The part of this slot in the settings of `SearchSpace.strongest`."""
        if self.optional:
            yield {self.name: _SWITCH[0]}
        for alternative in self.alternatives:
            knobs = dict(alternative.knobs(outline))
            usual = {key: _usual(key, domain, lambda: 1.0) for key, domain in knobs.items()}
            if self.switch:
                usual[self.name] = self.on(alternative)
            yield from (usual | bits for bits in _extreme_bits(alternative, knobs))

    def on(self, alternative: StageSpace) -> str:
        """The value of the switch that stands for an alternative."""
        return alternative.technique if len(self.alternatives) > 1 else _SWITCH[1]


def _extreme_bits(alternative: StageSpace, knobs: Mapping[str, Domain]) -> Iterator[dict[str, Value]]:
    """Every pair of bits of weights and of activations that a search can draw, the same wherever it is offered."""
    drawn = ({key: d.corners() for key, d in knobs.items() if alternative.draws(key, name)} for name in _BITS)
    tables = [table for table in drawn if table]
    for bits in itertools.product(*(dict.fromkeys(itertools.chain(*table.values())) for table in tables)):
        yield {key: b for b, table in zip(bits, tables, strict=True) for key, corners in table.items() if b in corners}


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
        slots = tuple(_parse_slot(item, f"{source}: stages.{i}") for i, item in enumerate(stages))
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
            entries = [_dump(a) for a in slot.alternatives]
            item = entries[0] if len(entries) == 1 else {"one_of": entries}
            items.append({**item, "optional": True} if slot.optional else item)
        return {"version": 1, "description": self.description, "stages": items}

    def to_yaml(self) -> str:
        """The text that `load` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def knobs(self, outline: Outline) -> dict[str, Domain]:
        """All knobs of the space for one network, those of alternatives included."""
        result: dict[str, Domain] = {}
        for slot in self.slots:
            if slot.switch:
                result[slot.name] = slot.switch
            for alternative in slot.alternatives:
                result.update(alternative.knobs(outline))
        return result

    def size(self, outline: Outline) -> float:
        """Number of different settings; infinite with a continuous range."""
        total = 1.0
        for slot in self.slots:
            options = sum(math.prod(d.size for _, d in a.knobs(outline)) for a in slot.alternatives)
            total *= options + (1 if slot.optional else 0)
        return total

    def sample(self, suggester: Suggester, outline: Outline) -> Recipe:
        """Draw a recipe; `suggester` is an `optuna.Trial` or anything with its suggest methods."""
        stages = []
        for slot in self.slots:
            value = slot.switch.suggest(slot.name, suggester) if slot.switch else _SWITCH[1]
            chosen = slot.chosen(value)
            if chosen is not None:
                values = {key: domain.suggest(key, suggester) for key, domain in chosen.knobs(outline)}
                stages.append(chosen.build(values, outline))
        return Recipe(stages=tuple(_drop_unmet(stages)))

    def setting(self, outline: Outline, strength: Callable[[], float], *, optional: bool) -> dict[str, Value]:
        """One value per knob: pruning ratios at a share of their way, everything else at its first or middle value.

        Args:
            outline: the parts of the network.
            strength: called for each pruning ratio, from 0 (its lowest value) to 1.
            optional: whether the optional stages are in.
        """
        values: dict[str, Value] = {}
        for slot in self.slots:
            chosen = slot.alternatives[0]
            if slot.switch:
                values[slot.name] = slot.on(chosen) if optional or not slot.optional else _SWITCH[0]
            values |= {key: _usual(key, domain, strength) for key, domain in chosen.knobs(outline)}
        return values

    def strongest(self, outline: Outline) -> list[dict[str, Value]]:
        """Settings that prune as much as they can, one for each combination of stages and of bits for all layers.

        One of them is the smallest or the fastest of the space, or close to it: which bits that are depends on device
        and network.
        """
        parts = itertools.product(*(list(slot.strongest(outline)) for slot in self.slots))
        return [dict(itertools.chain(*(part.items() for part in one))) for one in parts]

    def setting_of(self, recipe: Recipe, outline: Outline) -> dict[str, Value] | None:
        """The setting of this space that comes closest to a recipe of another one; fields it fixes are not looked at.

        Returns:
            One value per knob of the stages that are on, or None where a stage of the recipe is not in the space, a
            stage of the space that is not optional is not in the recipe, or a choice does not offer the value.
        """
        known = {a.technique for slot in self.slots for a in slot.alternatives} | {"exit_threshold"}  # or it is swept
        if not {stage.technique for stage in recipe.stages} <= known:
            return None
        values: dict[str, Value] = {}
        for slot in self.slots:
            chosen = next((a for a in slot.alternatives if recipe.get(a.technique)), None)
            if chosen is None and not slot.optional:
                return None
            if slot.switch:
                values[slot.name] = slot.on(chosen) if chosen else _SWITCH[0]
            for key, domain in chosen.knobs(outline) if chosen else ():
                value = domain.nearest(_value_at(recipe, key, outline))
                if value is None:
                    return None
                values[key] = value
        return values

    def restrict(self, device: DeviceProfile, outline: Outline, *, trainable: bool = True) -> SearchSpace:
        """Drop what this device, this network or this task cannot use, and say so in `notes`."""
        notes: list[str] = []
        slots = []
        for slot in self.slots:
            kept = []
            for alternative in slot.alternatives:
                reason = _unusable(alternative, device, outline, trainable)
                if reason:
                    notes.append(f"{alternative.technique}: left out: {reason}")
                else:
                    kept.append(_executable(alternative, device, notes))
            if kept:
                slots.append(Slot(slot.name, tuple(kept), slot.optional))
        if not slots:
            raise SpaceError("nothing of the search space can be used here: " + "; ".join(notes))
        if 32 not in device.weight_bits:
            slots = _always_quantized(slots, device, notes)
        return SearchSpace(tuple(slots), self.description, (*self.notes, *notes))

    def _check(self, source: str) -> None:
        outline = Outline(groups={"layer": "stage1"}, layers={"layer": "stage1"})
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


def _value_at(recipe: Recipe, knob: str, outline: Outline) -> Value:
    """What a recipe has where a knob, such as `prune.ratio[stage1]`, would have its value."""
    technique_name, _, rest = knob.partition(".")
    name, _, part = rest.rstrip("]").partition("[")
    value: Any = getattr(recipe.get(technique_name), name)
    if not isinstance(value, Mapping):
        return cast(Value, value)
    stages = outline.groups if name == "ratio" else outline.layers
    neutral = 0.0 if name == "ratio" else 8
    return cast(Value, lookup(value, part, stages.get(part, part), neutral))


def _first(space: StageSpace, outline: Outline) -> Stage:
    return space.build({key: domain.corners()[0] for key, domain in space.knobs(outline)}, outline)


def _corners(space: StageSpace, outline: Outline) -> Iterator[dict[str, Value]]:
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


def _dump(space: StageSpace) -> dict[str, Any]:
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


def _parse_slot(item: object, path: str) -> Slot:
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
            if key in _BITS and not isinstance(domains[key].domain, Choice):
                raise SpaceError(f"{path}.{key}: bits are a choice, such as {{choice: [4, 8]}}, got a range")
            if domains[key].per != "model" and key not in TABLES:
                raise SpaceError(f"{path}.{key}: per: {domains[key].per} is for {', '.join(TABLES)}")
        else:
            drawn = {p: _parse_scoped(v, f"{path}.{key}.{p}") for p, v in value.items() if isinstance(v, Mapping)}
            fixed[key] = {part: v for part, v in value.items() if part not in drawn}
            tables |= {key: drawn} if drawn else {}
            if any(scoped.per != "model" for scoped in drawn.values()):
                raise SpaceError(f"{path}.{key}: an entry of a table is one part already; leave out its 'per'")
    return StageSpace(name, fixed, domains, tables)


def _is_domain(value: Mapping[str, Any]) -> bool:
    return bool({"choice", "low", "high", "per"} & set(value))


def _parse_scoped(value: Mapping[str, Any], path: str) -> Scoped:
    try:
        return parse_domain(dict(value))
    except (ValueError, TypeError) as error:
        raise SpaceError(f"{path}: {error}") from None


def _unusable(space: StageSpace, device: DeviceProfile, outline: Outline, trainable: bool) -> str:
    cls = technique(space.technique)
    if not trainable and (cls.phase is Phase.TRAINING or space.technique == "qat"):
        return "the task brings no training data"
    if space.technique == "prune" and not outline.groups:
        return "the network has no channels that can be removed"
    if space.technique == "early_exit" and not outline.places:
        return "the network has no place for an exit, or its task is not a classification"
    if space.technique in ("early_exit", "exit_threshold") and not device.support.early_exits:
        return f"{device.runtime} does not execute the If operators of early exits"
    if cls.phase is Phase.NUMERICS:
        if not outline.layers:
            return "the network has no layer that can be quantised"
        if not device.weight_bits - {32}:
            return f"{device.name} computes in float only"
        for name in _BITS:
            if not _executable_bits(space, name, device):
                return f"{name}: {_executes(name, device)}"
    return ""


def _usual(key: str, domain: Domain, strength: Callable[[], float]) -> Value:
    """A pruning ratio at a share of its way; the first one of a choice; the middle of another range."""
    if key.startswith("prune.ratio"):
        return domain.at(strength())
    return domain.at(0.0 if isinstance(domain, Choice) else 0.5)


def _executable_bits(space: StageSpace, name: str, device: DeviceProfile) -> bool:
    """Whether some value of the field can be executed, in every entry if it is a table."""
    allowed = _allowed_bits(name, device)
    given = space.fixed.get(name, 8)
    fixed = set(given.values() if isinstance(given, Mapping) else [given]) if name not in space.domains else set()
    drawn = [scoped.domain.corners() for scoped in _scoped(space, name)]
    return fixed <= allowed and all(allowed & set(values) for values in drawn)


def _scoped(space: StageSpace, name: str) -> list[Scoped]:
    return [*([space.domains[name]] if name in space.domains else []), *space.tables.get(name, {}).values()]


def _allowed_bits(name: str, device: DeviceProfile) -> frozenset[int]:
    return device.weight_bits if name == "weight_bits" else device.support.activation_bits


def _executes(name: str, device: DeviceProfile) -> str:
    bits = " and ".join(map(str, sorted(_allowed_bits(name, device))))
    return f"{device.name} ({device.runtime}) executes {bits} bits"


def _executable(space: StageSpace, device: DeviceProfile, notes: list[str]) -> StageSpace:
    """The stage space without bits that the device's runtime cannot execute."""

    def trim(scoped: Scoped, name: str) -> Scoped:
        kept = tuple(v for v in scoped.domain.corners() if v in _allowed_bits(name, device))
        dropped = [str(v) for v in scoped.domain.corners() if v not in kept]
        if not dropped:
            return scoped
        note = f"{space.technique}.{name}: {', '.join(dropped)} left out: {_executes(name, device)}"
        notes.extend([note] if note not in notes else [])
        return replace(scoped, domain=Choice(kept))

    domains, tables = dict(space.domains), dict(space.tables)
    for name in _BITS:
        if name in domains:
            domains[name] = trim(domains[name], name)
        if name in tables:
            tables[name] = {part: trim(scoped, name) for part, scoped in tables[name].items()}
    return replace(space, domains=domains, tables=tables)


def _always_quantized(slots: Sequence[Slot], device: DeviceProfile, notes: list[str]) -> list[Slot]:
    """On a device without float arithmetic the quantising stage is no option.

    Raises:
        SpaceError: there is no such stage.
    """
    numerics = [s for s in slots if technique(s.alternatives[0].technique).phase is Phase.NUMERICS]
    if not numerics:
        raise SpaceError(f"{device.name} computes in int8 only; add a ptq or qat stage to the search space")
    notes.extend(f"{s.name}: always on: {device.name} computes in int8 only" for s in numerics if s.optional)
    return [replace(s, optional=False) if s in numerics else s for s in slots]
