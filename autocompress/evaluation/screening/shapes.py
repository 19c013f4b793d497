"""How the shapes of a network's tensors follow from the channels that its groups keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.compression.candidate import Candidate
from autocompress.compression.quantize import Quantize
from autocompress.compression.techniques import _usual as usual
from autocompress.errors import CandidateError
from autocompress.evaluation.deploy import Deployment
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.screening.knobs import Ints, Knobs
from autocompress.runtimes.kernels import Dims, Forms

Shape = Callable[[str], Dims]
"""From the name of a tensor to its shape; with widths as arrays, its dimensions are arrays."""
Lookup = Callable[[Any], Any]
"""From rows (indices, or a slice) to their values."""

_MANY = 2**16
"""Combinations of widths of which no table is kept."""
_MANY_CODES = 2**62
"""So many of them have no number of 64 bits each."""


class Positions:
    """Where the widths of N rows stand among all widths that were ever asked for.

    Args:
        widths: of each group, sorted.
        where: of each group, N indices into them.
    """

    def __init__(self, widths: Sequence[Ints], where: Sequence[Ints]) -> None:
        self._widths, self._where = widths, where
        self._codes: dict[tuple[int, ...], Ints] = {}

    def sizes(self, groups: tuple[int, ...]) -> tuple[int, ...]:
        """How many widths each of the groups has."""
        return tuple(len(self._widths[k]) for k in groups)

    def every(self, groups: tuple[int, ...]) -> dict[int, Ints]:
        """All combinations of widths of some groups, by group; the code of a row is an index into them."""
        return self._at(groups, np.indices(self.sizes(groups)).reshape(len(groups), -1))

    def code(self, groups: tuple[int, ...]) -> Ints:
        """Which combination each row has, (N,)."""
        if groups not in self._codes:
            code = np.zeros_like(self._where[groups[0]])
            for k in groups:
                code = code * len(self._widths[k]) + self._where[k]
            self._codes[groups] = code
        return self._codes[groups]

    def occurring(self, groups: tuple[int, ...]) -> tuple[dict[int, Ints], Ints]:
        """The combinations that some row has, and which of them each row has."""
        sizes = self.sizes(groups)
        if math.prod(sizes) < _MANY_CODES:
            packed, place = np.unique(self.code(groups), return_inverse=True)
            return self._at(groups, np.array(np.unravel_index(packed, sizes))), place.ravel()
        used, place = np.unique(np.stack([self._where[k] for k in groups]), axis=1, return_inverse=True)
        return self._at(groups, used), place.ravel()

    def _at(self, groups: tuple[int, ...], indices: Ints) -> dict[int, Ints]:
        return {k: self._widths[k][row] for k, row in zip(groups, indices, strict=True)}


@dataclass(frozen=True)
class _Table:
    """What was computed for all combinations of the widths of some groups."""

    groups: tuple[int, ...]
    sizes: tuple[int, ...]
    """Widths of each group that were known then."""
    values: tuple[Any, ...]


class Versions:
    """Pruned and quantised versions of one network, deployed to learn from; nothing is trained.

    Args:
        evaluator: of the network.
        base: the network, unpruned, with its exits.
        knobs: its groups.
    """

    def __init__(self, evaluator: Evaluator, base: Candidate, knobs: Knobs) -> None:
        self.base = base
        self.full = knobs.full
        self._evaluator = evaluator
        self.groups = [group.name for group in knobs.groups]
        whole = len(base.gone(self.groups)) == len(self.groups)
        self.narrow = base if whole else self.pruned(dict.fromkeys(self.groups, 0.75))
        """A small twin with the same kernels: quick to quantise."""

    def pruned(self, ratios: Mapping[str, float], round_to: int = 8) -> Candidate:
        """The network with shares of its groups' channels removed."""
        return usual.narrowed(ratios, round_to).apply(self.base, self._evaluator.context)

    def deploy(self, candidate: Candidate, stage: Quantize | None) -> Deployment:
        """Its graph after a quantisation, without training or observation."""
        return self._evaluator.deployer.build(candidate.evolve(quantization=stage), final=False)

    def kernels(self, deployment: Deployment, outputs: Sequence[str] | None = None) -> Forms:
        """What the device's runtime makes of a graph, of the part that some of its outputs need."""
        return self._evaluator.runtime.kernels(deployment.proto, outputs)

    def lost(self, candidate: Candidate) -> list[int]:
        """Channels that each group has lost."""
        return [len(candidate.removed.get(candidate.path_of(name), ())) for name in self.groups]


class Shapes:
    """Shapes of the tensors of the float graph and of the graph with all layers in int8, for any widths.

    Args:
        versions: of the network.
        weight_of: the weight of the float graph that a tensor of a quantised graph was made from, where names differ.

    Raises:
        CandidateError: a tensor changes its rank with the width of a group.
    """

    def __init__(self, versions: Versions, weight_of: Mapping[str, str]) -> None:
        self._full = versions.full
        self._weight_of = weight_of
        self._shapes = _all_shapes(versions, versions.base)
        self._seen: list[Ints] = [np.array([n]) for n in versions.full]
        self._tables: dict[Hashable, _Table] = {}
        self._slopes: dict[str, dict[int, NDArray[np.float64]]] = {}
        """By tensor and group: how every dimension falls with a lost channel, exactly linearly or not at all."""
        gone = versions.base.gone(versions.groups)
        for k, name in enumerate(versions.groups):
            if name not in gone:
                self._learn_slopes(versions, k, name)

    def _learn_slopes(self, versions: Versions, k: int, group: str) -> None:
        candidate = versions.pruned({group: 0.5}, round_to=1)
        lost = versions.lost(candidate)[k]
        if not lost:
            return
        for name, dims in _all_shapes(versions, candidate).items():
            before = self._shapes.get(name)
            if before is None or len(before) != len(dims):
                raise CandidateError(f"screening: tensor {name!r} changes its rank with the width of {group}")
            change = (np.array(dims) - np.array(before)) / lost
            if change.any():
                self._slopes.setdefault(name, {})[k] = change

    def groups_of(self, names: Sequence[str]) -> list[int]:
        """The groups whose widths change the shape of any of these tensors."""
        return sorted({k for name in names for k in self._slopes.get(self._known(name), ())})

    def at(self, widths: Mapping[int, Ints]) -> Shape:
        """Shapes for given widths, by group: of all groups that matter to the tensors asked for."""

        def shape(name: str) -> Dims:
            known = self._known(name)
            dims: list[Any] = list(self._shapes.get(known, (0,)))
            for k, slope in self._slopes.get(known, {}).items():
                lost = self._full[k] - widths[k]
                for axis in np.flatnonzero(slope):
                    dims[axis] = dims[axis] + np.rint(slope[axis] * lost).astype(np.int64)
            return tuple(dims)

        return shape

    def positions(self, widths: Ints) -> Positions:
        """Find N rows of widths, (N, groups), among those seen before; new ones are remembered."""
        where = []
        for k, column in enumerate(widths.T):
            at = np.searchsorted(self._seen[k], column)
            if not np.array_equal(self._seen[k][np.minimum(at, len(self._seen[k]) - 1)], column):
                self._seen[k] = np.union1d(self._seen[k], column)
                at = np.searchsorted(self._seen[k], column)
            where.append(at)
        return Positions(tuple(self._seen), where)

    def tabulate(
        self, what: Hashable, names: Sequence[str], positions: Positions, compute: Callable[[Shape], tuple[Any, ...]]
    ) -> list[Lookup]:
        """Compute for every combination of widths that matters to these tensors; look up by row.

        Args:
            what: stands for `names` and `compute`: a table is kept, until a new width is seen.
            names: tensors.
            positions: the widths of the rows.
            compute: from the shapes of the tensors to some numbers.
        """
        kept = self._tables.get(what)
        groups = kept.groups if kept else tuple(self.groups_of(names))
        if not groups:
            kept = self._tables[what] = kept or _Table((), (), compute(self.at({})))
            return [partial(_constant, value) for value in kept.values]
        sizes = positions.sizes(groups)
        if math.prod(sizes) > _MANY:
            widths, place = positions.occurring(groups)
            return [partial(_looked_up, table, place) for table in self._computed(compute, widths)]
        if kept is None or kept.sizes != sizes:
            kept = self._tables[what] = _Table(groups, sizes, self._computed(compute, positions.every(groups)))
        return [partial(_looked_up, table, positions.code(groups)) for table in kept.values]

    def _computed(self, compute: Callable[[Shape], tuple[Any, ...]], widths: dict[int, Ints]) -> tuple[Any, ...]:
        n = len(next(iter(widths.values())))
        return tuple(np.broadcast_to(value, n) for value in compute(self.at(widths)))

    def _known(self, name: str) -> str:
        """The tensor with a known shape that a tensor of a quantised graph was made from."""
        if name not in self._shapes:
            name = self._weight_of.get(name, name)
        while name not in self._shapes and "/" in name:
            name = name.rpartition("/")[0]
        return name


def count(dims: Dims) -> Any:
    """Elements of a tensor."""
    total: Any = 1
    for dim in dims:
        total = total * dim
    return total


def _all_shapes(versions: Versions, candidate: Candidate) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of the float graph and of the graph with all layers in int8."""
    shapes: dict[str, tuple[int, ...]] = {}
    for stage in (None, usual.quantised()):
        shapes |= versions.kernels(versions.deploy(candidate, stage)).shapes
    return shapes


def _constant(value: Any, rows: Any) -> Any:
    return value


def _looked_up(table: NDArray[Any], place: Ints, rows: Any) -> Any:
    return table[place[rows]]
