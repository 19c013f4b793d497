"""A search space as integer codes, one column per knob, so that thousands of settings are one array."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Columns = Mapping[str, NDArray[Any]]
"""Settings by knob: under each name the values of all settings, shape (n,)."""
Condition = Callable[[Columns], NDArray[np.bool_]]
"""Which of n settings use a knob at all, shape (n,)."""
Codes = NDArray[np.intp]

_MAX_LEVELS = 65
"""So many values of a continuous range are tried."""


class Knobs:
    """The knobs of a space and the values that are tried for each.

    Args:
        space: Optuna distributions by name.
        conditions: for knobs that only some settings use.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], conditions: Mapping[str, Condition] | None = None):
        self.names = tuple(space)
        self.conditions = dict(conditions or {})
        self.values = [_values(name, distribution) for name, distribution in space.items()]
        self.positions = [_positions(*item) for item in zip(space.values(), self.values, strict=True)]
        """Where each value lies between the lowest (0) and the highest (1); None for unordered ones."""
        self.is_unordered = np.array([p is None for p in self.positions], bool)
        self.sizes: Codes = np.array([len(v) for v in self.values], np.intp)
        self._is_log = [bool(getattr(d, "log", False)) for d in space.values()]
        self._is_number = [not isinstance(d, CategoricalDistribution) for d in space.values()]
        self._arrays = [_array(v) for v in self.values]

    def __len__(self) -> int:
        return len(self.names)

    def random(self, n: int, rng: np.random.Generator) -> Codes:
        """Uniform settings, shape (n, knobs)."""
        codes: Codes = rng.integers(0, self.sizes, (n, len(self)), dtype=np.intp)
        return codes

    def every(self, held: Codes, most: int) -> Codes | None:
        """All settings, or None if there are more than `most`; a knob is held where `held` is below its size."""
        sizes = [1 if is_held else int(size) for is_held, size in zip(held < self.sizes, self.sizes, strict=True)]
        if math.prod(sizes) > most:
            return None
        codes: Codes = np.indices(sizes).reshape(len(sizes), -1).T
        return np.where(held < self.sizes, held, codes)

    def columns(self, codes: Codes) -> dict[str, NDArray[Any]]:
        """The values that codes stand for."""
        return {name: self._arrays[j][codes[:, j]] for j, name in enumerate(self.names)}

    def setting(self, codes: Codes) -> dict[str, Any]:
        """One setting as Optuna wants it, from codes of shape (knobs,)."""
        return {name: self.values[j][code] for j, (name, code) in enumerate(zip(self.names, codes, strict=True))}

    def encode(self, settings: Sequence[Mapping[str, Any]]) -> Codes:
        """Codes of given settings; numbers get the nearest value, knobs that are missing the code `sizes`."""
        codes = np.tile(self.sizes, (len(settings), 1))
        for j, name in enumerate(self.names):
            rows = [i for i, setting in enumerate(settings) if name in setting]
            codes[rows, j] = self._nearest(j, [settings[i][name] for i in rows])
        return codes

    def codes(self, columns: Columns) -> Codes:
        """Codes of settings that have all knobs; numbers get the nearest value."""
        return np.stack([self._nearest(j, columns[name].tolist()) for j, name in enumerate(self.names)], 1)

    def _nearest(self, j: int, given: list[Any]) -> Codes:
        if not self._is_number[j]:
            return np.array([self.values[j].index(value) for value in given], np.intp)
        grid = self._arrays[j].astype(float)
        middle = np.sqrt(grid[1:] * grid[:-1]) if self._is_log[j] else (grid[1:] + grid[:-1]) / 2
        codes: Codes = np.searchsorted(middle, np.array(given, float))
        return codes

    def used(self, codes: Codes) -> Codes:
        """The same codes with the code `sizes` where a setting does not use a knob.

        Settings that differ only in knobs they do not use get equal rows.
        """
        result = codes.copy()
        if self.conditions:
            columns = self.columns(np.minimum(codes, self.sizes - 1))
            for name, condition in self.conditions.items():
                j = self.names.index(name)
                result[~condition(columns), j] = self.sizes[j]
        return result

    def similarities(self) -> list[NDArray[np.float64]]:
        """Per knob, how alike the effects of two codes are a priori: 0 to 1, shape (size + 1, size + 1).

        Matern 5/2 over ordered values, equality over unordered ones; an inactive knob has zero similarity.
        """
        tables = []
        for size, positions in zip(self.sizes, self.positions, strict=True):
            table = np.eye(size + 1)
            if positions is not None:
                r = np.sqrt(5.0) * np.abs(positions[:, None] - positions)
                table[:size, :size] = (1 + r + r**2 / 3) * np.exp(-r)
            tables.append(table)
        return tables


def _values(name: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise ValueError(f"{name}: must be a float, integer or categorical distribution, got {distribution!r}")
    low, high, step = distribution.low, distribution.high, distribution.step
    n = _MAX_LEVELS if step is None or distribution.log else round((high - low) / step) + 1
    is_int = isinstance(distribution, IntDistribution)
    if n <= _MAX_LEVELS and step is not None and not distribution.log:
        grid = low + np.arange(n) * step
    elif distribution.log:
        grid = np.geomspace(low, high, _MAX_LEVELS)
    elif step is None:
        grid = np.linspace(low, high, _MAX_LEVELS)
    else:
        grid = low + np.linspace(0, n - 1, _MAX_LEVELS).round() * step
    if is_int:
        return [int(v) for v in np.unique(np.round(grid))]
    return [float(v) for v in np.unique(np.clip(grid, low, high))]


def _array(values: list[Any]) -> NDArray[Any]:
    if len({type(v) for v in values}) == 1 and isinstance(values[0], bool | int | float | str):
        return np.array(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _positions(distribution: BaseDistribution, values: Sequence[Any]) -> NDArray[np.float64] | None:
    if isinstance(distribution, CategoricalDistribution):
        return None
    x = np.log(values) if getattr(distribution, "log", False) else np.array(values, float)
    positions: NDArray[np.float64] = (x - x[0]) / max(float(x[-1] - x[0]), 1e-12)
    return positions
