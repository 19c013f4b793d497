"""Settings of a search space as numbers: channels per group and bits per layer."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.compression.channels import ChannelGroup, ChannelPruner
from autocompress.compression.effects import RemovesChannels, Variant
from autocompress.compression.quantize import Quantize
from autocompress.compression.stage import Phase, Stage
from autocompress.compression.tables import lookup
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.space import SearchSpace
from autocompress.recipes.stage_space import StageSpace
from autocompress.tasks.interface import take

Ints = NDArray[np.int64]

FORMATS = ((32, 32), (16, 32), (8, 32), (4, 32), (2, 32), (8, 8), (4, 8), (2, 8))
"""Bits of weights and activations of a layer; a code is an index into this."""
COMPUTES_INT8 = np.array([activations == 8 for _, activations in FORMATS])
"""Whether a layer of each code computes in int8."""
STORES_INTEGERS = np.array([weights <= 8 for weights, _ in FORMATS])
"""The same for an embedding, whose table is in memory as it is stored, whatever is done with its rows."""

_WITHOUT_COST = (Phase.TRAINING, Phase.RUNTIME)
"""Phases whose stages change neither shapes nor number formats."""


@dataclass(frozen=True)
class Rows:
    """Settings as numbers."""

    widths: Ints
    """(N, groups): channels (heads) kept."""
    codes: Ints
    """(N, parts): index into `FORMATS`; see `Knobs.parts`."""
    variants: list[str]
    """N keys into `stages`."""
    stages: dict[str, tuple[Stage, ...]]
    """What makes each variant of the network from the original."""


class Knobs:
    """Turns columns of knob values into channels per group and bits per layer.

    Raises:
        CandidateError: the network cannot be pruned, or the space has a stage whose costs only a built network shows.
    """

    def __init__(self, evaluator: Evaluator, space: SearchSpace) -> None:
        self.analysis = evaluator.analysis
        self.outline = evaluator.analysis.outline
        self.space = space
        _refuse_unknown(space)
        layers = self.analysis.layers
        stages = dict.fromkeys([*layers.values(), "exits"])
        self.parts: list[tuple[str, str]] = [*layers.items(), *(("", stage) for stage in stages)]
        """What has bits of its own: every layer, with its stage, and of each stage the layers that have no name."""
        task = evaluator.task
        self.groups: list[ChannelGroup] = []
        if self.analysis.groups:
            pruner = ChannelPruner(copy.deepcopy(task.model), take(task.inputs, slice(1)), tuple(self.analysis.layers))
            by_name = {group.name: group for group in pruner.groups}
            self.groups = [by_name[name] for name in self.analysis.groups]
        self.full: Ints = np.array([group.n_units for group in self.groups], np.int64)

    def rows(self, columns: Mapping[str, NDArray[Any]]) -> Rows:
        """Read N settings, given as N values for each knob; those of stages that are off are ignored."""
        n = max((len(column) for column in columns.values()), default=1)
        widths = np.tile(self.full, (n, 1))
        codes = np.zeros((n, len(self.parts)), np.int64)
        variants, stages = [""] * n, dict[str, tuple[Stage, ...]]({"": ()})
        for slot in self.space.slots:
            for alternative in slot.alternatives:
                on = np.ones(n, bool)
                if slot.switch:
                    values, where = np.unique(columns[slot.name], return_inverse=True)
                    on = np.array([slot.chosen(str(v)) is alternative for v in values])[where]
                if not on.any():
                    continue
                kind = alternative.cls
                if issubclass(kind, RemovesChannels):
                    widths[on] = self._widths(alternative, kind, columns, n)[on]
                elif issubclass(kind, Quantize):
                    codes[on] = self._codes(alternative, columns, n)[on]
                elif issubclass(kind, Variant):
                    self._variants(alternative, columns, on, variants, stages)
                elif kind.phase not in _WITHOUT_COST:
                    raise _unknown(alternative.technique)
        return Rows(widths, codes, variants, stages)

    def _table(self, space: StageSpace, name: str, columns: Mapping[str, NDArray[Any]]) -> Any:
        """A field's table, or its one value, with columns in place of the values that are drawn."""
        key = f"{space.technique}.{name}"
        if name in space.domains:
            scoped = space.domains[name]
            if scoped.per == "model":
                return columns[key]
            return {part: columns[f"{key}[{part}]"] for part in space.parts(name, scoped, self.outline)}
        if name in space.tables:
            return {**space.fixed.get(name, {}), **{p: columns[f"{key}[{p}]"] for p in space.tables[name]}}
        return space.fixed.get(name, space.cls.model_fields[name].default)

    def _widths(
        self, space: StageSpace, kind: type[RemovesChannels], columns: Mapping[str, NDArray[Any]], n: int
    ) -> Ints:
        (name,) = (name for name, table in kind.tables.items() if table.over == "groups")
        names = (name, *kind.width_fields)
        table, *others = (self._table(space, field, columns) for field in names)
        widths = np.empty((n, len(self.groups)), np.int64)
        for k, group in enumerate(self.groups):
            own = lookup(table, group.name, self.analysis.groups[group.name], kind.tables[name].default)
            values, where = _distinct([own, *others])
            kept = [kind.units_kept(group, **dict(zip(names, each, strict=True))) for each in values]
            widths[:, k] = np.array(kept)[where]
        return widths

    def _codes(self, space: StageSpace, columns: Mapping[str, NDArray[Any]], n: int) -> Ints:
        weights = self._table(space, "weight_bits", columns)
        activations = self._table(space, "activation_bits", columns)

        def code(name: str, stage: str) -> Ints:
            own = np.broadcast_to(lookup(weights, name, stage, 8), n).astype(np.int64)
            data = np.where(own > 8, 32, np.broadcast_to(lookup(activations, name, stage, 8), n))
            result = np.full(n, -1, np.int64)
            for k, (w, a) in enumerate(FORMATS):
                result[(own == w) & (data == a)] = k
            if (result < 0).any():
                raise CandidateError(f"screening: {space.technique} has number formats that were never costed")
            return result

        return np.stack([code(name, stage) for name, stage in self.parts], 1)

    def _variants(
        self,
        space: StageSpace,
        columns: Mapping[str, NDArray[Any]],
        on: NDArray[np.bool_],
        variants: list[str],
        stages: dict[str, tuple[Stage, ...]],
    ) -> None:
        """Add a stage to the variants of some rows."""
        names = [name for name, _ in space.knobs(self.outline)]
        known: dict[tuple[Any, ...], tuple[str, Stage]] = {}
        for i in np.flatnonzero(on):
            values = tuple(columns[name][i].item() for name in names)
            if values not in known:
                stage = space.build(dict(zip(names, values, strict=True)), self.outline)
                assert isinstance(stage, Variant)
                known[values] = json.dumps([stage.technique, stage.variant(self.analysis)]), stage
            before, (key, stage) = variants[i], known[values]
            variants[i] = before + key
            stages.setdefault(variants[i], (*stages[before], stage))


def _distinct(columns: Sequence[Any]) -> tuple[list[tuple[Any, ...]], Any]:
    """The different rows of some columns, (N,) or one value for all rows, and which of them each row is."""
    parts = [np.unique(column, return_inverse=True) for column in columns]
    code: Ints = np.zeros((), np.int64)
    for column, (own, place) in zip(columns, parts, strict=True):
        code = code * len(own) + place.reshape(np.shape(column))
    used, where = np.unique(code, return_inverse=True)
    indices = np.unravel_index(used, [len(own) for own, _ in parts])
    return list(zip(*(own[i].tolist() for (own, _), i in zip(parts, indices, strict=True)), strict=True)), where


def _refuse_unknown(space: SearchSpace) -> None:
    """Refuse stages whose costs cannot be read off their settings, or not beside one another."""
    narrowing = False
    for slot in space.slots:
        for alternative in slot.alternatives:
            kind = alternative.cls
            known = kind.bits is Quantize.bits if issubclass(kind, Quantize) else kind.phase in _WITHOUT_COST
            if not known and not issubclass(kind, (RemovesChannels, Variant)):
                raise _unknown(alternative.technique)
        kinds = [alternative.cls for alternative in slot.alternatives]
        now_narrowing, varied = (any(issubclass(k, kind) for k in kinds) for kind in (RemovesChannels, Variant))
        if narrowing and (now_narrowing or varied):
            raise CandidateError(f"screening: what {slot.name} does after the stages before it is not known")
        narrowing = narrowing or now_narrowing


def _unknown(name: str) -> CandidateError:
    return CandidateError(f"screening: what {name} does to the costs is not known before the network is built")
