"""How the shapes of a network's tensors follow from the channels that its groups keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress._workload_reader import Dims, read_forms
from autocompress.candidate import Candidate
from autocompress.deploy import Deployment
from autocompress.errors import CandidateError
from autocompress.evaluate import Evaluator
from autocompress.screening.knobs import Ints, Knobs
from autocompress.techniques.prune import Prune
from autocompress.techniques.ptq import Ptq

Shape = Callable[[str], Dims]
"""From the name of a tensor to its shape; with widths as arrays, its dimensions are arrays."""
Distinct = Sequence[tuple[Ints, Ints]]
"""For each group, the distinct widths among N rows, and which of them each row has."""
Lookup = Callable[[Any], Any]
"""From rows (indices, or a slice) to their values."""

_MANY_CODES = 2**62
"""So many combinations of widths have no number of 64 bits each."""


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
        self.narrow = self.pruned(dict.fromkeys(self.groups, 0.75)) if self.groups else base
        """A small twin with the same kernels: quick to quantise."""

    def pruned(self, ratios: Mapping[str, float], round_to: int = 8) -> Candidate:
        """The network with shares of its groups' channels removed."""
        return Prune(ratio=dict(ratios), importance="l1", round_to=round_to).apply(self.base, self._evaluator.workshop)

    def deploy(self, candidate: Candidate, stage: Ptq | None) -> Deployment:
        """Its graph after a quantisation, without training or observation."""
        return self._evaluator.deployer.build(candidate.evolve(quantization=stage), final=False)

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
        self._slopes: dict[str, dict[int, NDArray[np.float64]]] = {}
        """By tensor and group: how every dimension falls with a lost channel, exactly linearly or not at all."""
        for k, name in enumerate(versions.groups):
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

    def tabulate(
        self, names: Sequence[str], distinct: Distinct, compute: Callable[[Shape], tuple[Any, ...]]
    ) -> list[Lookup]:
        """Compute for every combination of widths that occurs and matters to these tensors; look up by row."""
        groups = self.groups_of(names)
        if not groups:
            return [partial(_constant, value) for value in compute(self.at({}))]
        used, place = _combinations([distinct[k] for k in groups])
        widths = {k: distinct[k][0][row] for k, row in zip(groups, used, strict=True)}
        tables = [np.broadcast_to(value, used.shape[1]) for value in compute(self.at(widths))]
        return [partial(_looked_up, table, place) for table in tables]

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
    for stage in (None, Ptq()):
        shapes |= read_forms(versions.deploy(candidate, stage).proto).shapes
    return shapes


def _combinations(distinct: Distinct) -> tuple[Ints, Ints]:
    """Combinations of widths among N rows: their indices, (groups, combinations), and which one each row has, (N,).

    Where there are few possible ones all are listed, which is quicker than to find those that occur.
    """
    sizes = [len(values) for values, _ in distinct]
    if math.prod(sizes) >= _MANY_CODES:
        used, place = np.unique(np.stack([where for _, where in distinct]), axis=1, return_inverse=True)
        return used, place.ravel()
    code = np.zeros_like(distinct[0][1])
    for (_, where), size in zip(distinct, sizes, strict=True):
        code = code * size + where
    if math.prod(sizes) <= 4 * len(code):
        return np.indices(sizes).reshape(len(sizes), -1), code
    packed, place = np.unique(code, return_inverse=True)
    return np.array(np.unravel_index(packed, sizes)), place.ravel()


def _constant(value: Any, rows: Any) -> Any:
    return value


def _looked_up(table: NDArray[Any], place: Ints, rows: Any) -> Any:
    return table[place[rows]]
