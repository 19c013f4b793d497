"""Settings of a search space as numbers: channels per group and bits per layer."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.compression.channels import ChannelGroup, ChannelPruner, channels_to_keep
from autocompress.compression.stage import Phase, Stage, technique
from autocompress.compression.tables import lookup
from autocompress.compression.techniques.early_exit import EarlyExit
from autocompress.compression.techniques.prune import Prune
from autocompress.compression.techniques.ptq import Ptq
from autocompress.compression.techniques.qat import Qat
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.space import SearchSpace
from autocompress.recipes.stage_space import StageSpace

Ints = NDArray[np.int64]

FORMATS = ((32, 32), (16, 32), (8, 32), (4, 32), (8, 8), (4, 8))
"""Bits of weights and activations of a layer; a code is an index into this."""
COMPUTES_INT8 = np.array([activations == 8 for _, activations in FORMATS])
"""Whether a layer of each code computes in int8."""

_QUANTISERS = (Ptq, Qat)
_WITHOUT_COST = (Phase.TRAINING, Phase.RUNTIME)
"""Phases whose stages change neither shapes nor number formats."""


@dataclass(frozen=True)
class Rows:
    """Settings as numbers."""

    widths: Ints
    """(N, groups): channels (heads) kept."""
    codes: Ints
    """(N, parts): index into `FORMATS`; see `Knobs.parts`."""
    exits: list[str]
    """N keys into `stages`."""
    stages: dict[str, Stage | None]


class Knobs:
    """Turns columns of knob values into channels per group and bits per layer.

    Raises:
        CandidateError: the network cannot be pruned, or the space has a stage whose costs only a built network shows.
    """

    def __init__(self, evaluator: Evaluator, space: SearchSpace) -> None:
        self.anatomy = evaluator.anatomy
        self.outline = evaluator.anatomy.outline
        self.space = space
        _refuse_unknown(space)
        layers = self.anatomy.layers
        stages = dict.fromkeys([*layers.values(), "exits"])
        self.parts: list[tuple[str, str]] = [*layers.items(), *(("", stage) for stage in stages)]
        """What has bits of its own: every layer, with its stage, and of each stage the layers that have no name."""
        task = evaluator.task
        pruner = ChannelPruner(copy.deepcopy(task.model), task.example_input[:1], tuple(self.anatomy.layers))
        by_name = {group.name: group for group in pruner.groups}
        self.groups: list[ChannelGroup] = [by_name[name] for name in self.anatomy.groups]
        self.full: Ints = np.array([group.n_units for group in self.groups], np.int64)

    def rows(self, columns: Mapping[str, NDArray[Any]]) -> Rows:
        """Read N settings, given as N values for each knob; those of stages that are off are ignored."""
        n = max((len(column) for column in columns.values()), default=1)
        widths = np.tile(self.full, (n, 1))
        codes = np.zeros((n, len(self.parts)), np.int64)
        exits, stages = [""] * n, dict[str, Stage | None]()
        for slot in self.space.slots:
            for alternative in slot.alternatives:
                on = np.ones(n, bool)
                if slot.switch:
                    values, where = np.unique(columns[slot.name], return_inverse=True)
                    on = np.array([slot.chosen(str(v)) is alternative for v in values])[where]
                if not on.any():
                    continue
                kind = technique(alternative.technique)
                if kind is Prune:
                    widths[on] = self._widths(alternative, columns, n)[on]
                elif kind in _QUANTISERS:
                    codes[on] = self._codes(alternative, columns, n)[on]
                elif kind is EarlyExit:
                    self._exits(alternative, columns, on, exits, stages)
                else:
                    assert kind.phase in _WITHOUT_COST
        if "" in exits:
            stages[""] = None
        return Rows(widths, codes, exits, stages)

    def _table(self, space: StageSpace, name: str, columns: Mapping[str, NDArray[Any]], default: Any) -> Any:
        """A field's table, or its one value, with columns in place of the values that are drawn."""
        key = f"{space.technique}.{name}"
        if name in space.domains:
            scoped = space.domains[name]
            if scoped.per == "model":
                return columns[key]
            return {part: columns[f"{key}[{part}]"] for part in space.parts(name, scoped, self.outline)}
        if name in space.tables:
            return {**space.fixed.get(name, {}), **{p: columns[f"{key}[{p}]"] for p in space.tables[name]}}
        return space.fixed.get(name, default)

    def _widths(self, space: StageSpace, columns: Mapping[str, NDArray[Any]], n: int) -> Ints:
        ratio = self._table(space, "ratio", columns, Prune().ratio)
        round_to = np.broadcast_to(self._table(space, "round_to", columns, Prune().round_to), n)
        widths = np.empty((n, len(self.groups)), np.int64)
        for k, group in enumerate(self.groups):
            ratios = np.broadcast_to(lookup(ratio, group.name, self.anatomy.groups[group.name], 0.0), n)
            pairs, where = np.unique(ratios + 1j * round_to, return_inverse=True)  # many times faster than by axis
            kept = [
                channels_to_keep(group.n_units, pair.real, 1 if group.n_heads else int(pair.imag), group.n_parts)
                for pair in pairs.tolist()
            ]
            widths[:, k] = np.array(kept)[where]
        return widths

    def _codes(self, space: StageSpace, columns: Mapping[str, NDArray[Any]], n: int) -> Ints:
        weights = self._table(space, "weight_bits", columns, 8)
        activations = self._table(space, "activation_bits", columns, 8)

        def code(name: str, stage: str) -> Ints:
            own = np.broadcast_to(lookup(weights, name, stage, 8), n).astype(np.int64)
            data = np.where(own > 8, 32, np.broadcast_to(lookup(activations, name, stage, 8), n))
            result = np.zeros(n, np.int64)
            for k, (w, a) in enumerate(FORMATS):
                result[(own == w) & (data == a)] = k
            return result

        return np.stack([code(name, stage) for name, stage in self.parts], 1)

    def _exits(
        self,
        space: StageSpace,
        columns: Mapping[str, NDArray[Any]],
        on: NDArray[np.bool_],
        exits: list[str],
        stages: dict[str, Stage | None],
    ) -> None:
        names = [name for name, _ in space.knobs(self.outline)]
        known: dict[tuple[Any, ...], str] = {}
        for i in np.flatnonzero(on):
            values = tuple(columns[name][i].item() for name in names)
            if values not in known:
                stage = space.build(dict(zip(names, values, strict=True)), self.outline)
                assert isinstance(stage, EarlyExit)
                places = [place.name for place in stage.places_in(self.anatomy)]
                key = json.dumps([places, stage.head, stage.hidden if stage.head == "conv" else 0])
                known[values] = key
                stages.setdefault(key, stage)
            exits[i] = known[values]


def _refuse_unknown(space: SearchSpace) -> None:
    """Refuse stages whose costs cannot be read off their settings."""
    for name in (alternative.technique for slot in space.slots for alternative in slot.alternatives):
        kind = technique(name)
        if kind not in (Prune, EarlyExit, *_QUANTISERS) and kind.phase not in _WITHOUT_COST:
            raise CandidateError(f"screening: what {name} does to the costs is not known before the network is built")
