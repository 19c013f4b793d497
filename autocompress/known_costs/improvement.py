"""Expected hypervolume improvement when all objectives but one are known exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from optuna._hypervolume import get_non_dominated_box_bounds
from scipy.special import ndtr

Array = NDArray[np.float64]
_BLOCK = 4096


class ExpectedImprovement:
    """Expected hypervolume improvement over a front, everything minimised.

    The region that the front does not dominate is cut into boxes (Lacour et al. 2017). With the costs c known and the
    loss normal with mean m and standard deviation s, the expectation over one box [l, u] is

        prod_k max(0, u_k - max(l_k, c_k)) * s (psi((u_0 - m) / s) - psi((l_0 - m) / s)),   psi(z) = z Phi(z) + phi(z)

    since the improvement along the loss is the integral of P(loss < t) over t. No sampling, no approximation. A limit
    on the loss is the reference point's first value: what is beyond it improves nothing.

    Args:
        front: shape (n, 1 + costs), the loss first. Dominated rows are allowed.
        reference: shape (1 + costs,), the worst value of each objective that counts.
    """

    def __init__(self, front: Array, reference: Array) -> None:
        front = front[(front < reference).all(1)]
        if len(front):
            self._low, self._high = get_non_dominated_box_bounds(front, reference)
        else:
            self._low, self._high = np.full((1, len(reference)), -np.inf), reference[None].copy()
        levels, where = np.unique(np.concatenate([self._low[:, 0], self._high[:, 0]]), return_inverse=True)
        self._levels, (self._from, self._to) = levels, where.reshape(2, -1)

    def __call__(self, mean: Array, std: Array, costs: Array) -> Array:
        """The expectation for n settings: `mean` and `std` of shape (n,), costs of shape (n, costs)."""
        blocks = range(0, len(mean), _BLOCK)
        parts = [self._of(mean[i : i + _BLOCK], std[i : i + _BLOCK], costs[i : i + _BLOCK]) for i in blocks]
        return np.concatenate(parts) if parts else np.empty(0)

    def _of(self, mean: Array, std: Array, costs: Array) -> Array:
        z = (self._levels - mean[:, None]) / std[:, None]
        below = np.isneginf(z)
        z = np.where(below, 0.0, z)
        gained = std[:, None] * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
        gained[below] = 0.0
        volume = gained[:, self._to] - gained[:, self._from]
        for k in range(costs.shape[1]):
            c = costs[:, k, None]
            volume *= np.maximum(self._high[:, k + 1] - np.maximum(self._low[:, k + 1], c), 0.0)
        total: Array = np.maximum(volume.sum(1), 0.0)
        return total
