"""Weights rounded for what their layer computes on calibration data, not each to its nearest code.

The squared error of a layer's output is quadratic in its weights, so that the products of the layer's inputs with each
other and with the wanted output say all about it: no gradient, and no data are read again (Frantar et al., "GPTQ",
arXiv 2210.17323). The codes are found column by column, each the best one given all others, in several sweeps (Behdin
et al., "QuantEase", arXiv 2309.01885).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_SWEEPS = 3
_ROUNDS = 2
_BLOCK = 64
_DAMPING = 0.01
_TINY = 1e-30


@dataclass(frozen=True)
class Moments:
    """What is known about a layer, from n rows of calibration data, for each of g products of d inputs, o outputs."""

    inputs: Array
    """(g, d, d): mean product of each input with each other."""
    outputs: Array
    """(g, o, d): mean product of each wanted output with each input."""
    n: int

    def quadratic(self, rows: Array) -> tuple[Array, Array]:
        """H (g, d, d) and B (g, o, d) of the error Q H Q' - 2 Q B' that codes shall make small.

        The fewer rows there are for each input, the more the error also counts how far weights are from `rows`: with
        few data nearly each is rounded to its nearest code.
        """
        d = self.inputs.shape[-1]
        trust = self.n / (self.n + d)
        power = np.einsum("gii->gi", self.inputs)
        pull = (1 - trust) * power + _DAMPING * power.mean(1, keepdims=True) + _TINY
        quadratic = trust * self.inputs
        quadratic[:, range(d), range(d)] += pull
        return quadratic, trust * self.outputs + rows * pull[:, None, :]


def least_squares(rows: Array, scale: Array, moments: Moments, low: int, high: int) -> tuple[Array, Array]:
    """Codes and scales of a weight.

    Args:
        rows: the weight (g, o, d).
        scale: (g, o, 1), to start from; the result is at most a factor of two away.
        moments: of the layer.
        low: smallest code.
        high: largest code.

    Returns:
        Codes (g, o, d) as floats and scales (g, o, 1): the weight is their product.
    """
    quadratic, linear = moments.quadratic(rows)
    codes, fitted = np.clip(np.rint(rows / scale), low, high), scale
    for _ in range(_ROUNDS):
        _descend(codes, fitted, quadratic, linear, low, high)
        fitted = np.clip(_refitted(codes, fitted, quadratic, linear), scale / 2, scale * 2)
    return codes, fitted


def _descend(codes: Array, scale: Array, quadratic: Array, linear: Array, low: int, high: int) -> None:
    """Sweep over the columns of `codes`, in place; each takes its best values given the others.

    What a block of columns changes reaches the others in one product.
    """
    d = codes.shape[-1]
    unit, power = scale[..., 0], np.einsum("gii->gi", quadratic)
    gradient = linear - codes * scale @ quadratic
    for _ in range(_SWEEPS):
        before = codes.copy()
        for start in range(0, d, _BLOCK):
            block = slice(start, min(start + _BLOCK, d))
            old = codes[:, :, block].copy()
            for j in range(block.start, block.stop):
                wanted = codes[:, :, j] + gradient[:, :, j] / (power[:, None, j] * unit)
                step = np.clip(np.rint(wanted), low, high) - codes[:, :, j]
                codes[:, :, j] += step
                gradient[:, :, block] -= (step * unit)[:, :, None] * quadratic[:, None, j, block]
            moved = (codes[:, :, block] - old) * scale @ quadratic[:, block]
            moved[:, :, block] = 0.0
            gradient -= moved
        if (before == codes).all():
            return


def _refitted(codes: Array, scale: Array, quadratic: Array, linear: Array) -> Array:
    """The best scale for given codes, where it is a positive number."""
    over = (codes * linear).sum(-1, keepdims=True)
    under = (codes @ quadratic * codes).sum(-1, keepdims=True)
    return np.where((over > 0) & (under > 0), over / np.maximum(under, _TINY), scale)
