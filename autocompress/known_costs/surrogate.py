"""A Gaussian process over coded settings whose effects mostly add up, with small exceptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, sparse

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

_PRIOR_WEIGHT = 2.0
"""Median weight of all knobs together a priori, in variances of the data."""
_PRIORS = {"run": (0.02, 1.0), "deviation": (0.3, 1.0), "sharpness": (8.0, 0.7), "noise": (0.01, 1.0)}
"""Median and standard deviation of the logarithm of the other parameters of the kernel a priori."""
_SPREAD_OF_WEIGHTS = 1.2
_PRIOR_FEATURES = (0.3, 1.5)
_CONSTANT = 1e-9
_MAX_STEPS = 40
_JITTER = 1e-6


class AdditiveGP:
    """Exact Gaussian process regression with effects that mostly add up.

        k(x, x') = A + v F + s exp(-r (1 - A / W)),   A = sum_j w_j C_j(x_j, x'_j),   W = sum_j w_j

    `C_j` is the similarity of two codes of knob j. A is the prior of a sum of one function per knob (Duvenaud et al.,
    Additive Gaussian Processes, NeurIPS 2011); its weights say which knobs matter. The last term allows for
    interactions; between settings that differ in knobs that matter it fades. F = f . f' are optional features of
    the user with a linear effect each. Noise has two parts: one that all points of a run share, and one of each point.
    All parameters are at their maximum a posteriori.

    The data are standardised; all of it is deterministic.
    """

    def __init__(self, similarities: Sequence[Array], n_features: int = 0) -> None:
        self._tables = list(similarities)
        self._offsets = np.cumsum([0, *(len(t) for t in similarities)])
        d = len(similarities)
        priors = [(_PRIOR_WEIGHT / d, _SPREAD_OF_WEIGHTS)] * d + [_PRIOR_FEATURES] * n_features + [*_PRIORS.values()]
        self._mean, self._sd = np.log([median for median, _ in priors]), np.array([spread for _, spread in priors])
        self.log_parameters: Array = self._mean.copy()
        self._d, self._f = d, n_features

    def fit(self, codes: Codes, features: Array, y: Array, runs: Codes) -> Self:
        """Find the parameters of the kernel; `condition` comes after.

        Args:
            codes: shape (n, knobs).
            features: shape (n, n_features).
            y: shape (n,).
            runs: equal numbers where points come from one run, shape (n,).
        """
        y = (y - y.mean()) / (y.std() + 1e-12)
        f = _standardise(features, features)
        parts = np.stack([t[np.ix_(c, c)] for t, c in zip(self._tables, codes.T, strict=True)])
        parts = np.concatenate([parts, f.T[:, :, None] * f.T[:, None, :], _same(runs)[None]]).reshape(
            len(parts) + self._f + 1, -1
        )
        result = optimize.minimize(
            self._loss, self._mean, (parts, y), jac=True, method="L-BFGS-B", options={"maxiter": _MAX_STEPS}
        )
        self.log_parameters = result.x
        return self

    def condition(self, codes: Codes, features: Array, y: Array, runs: Codes) -> Self:
        """Take in the data; shapes as for `fit`."""
        self._codes, self._features = codes, features
        self._shift, self._scale = y.mean(), y.std() + 1e-12
        self._train = np.concatenate([t[:, c] for t, c in zip(self._tables, codes.T, strict=True)])
        shared, noise = np.exp(self.log_parameters[[-4, -1]])
        k = self._kernel(codes, features) + shared * _same(runs) + (noise + _JITTER) * np.eye(len(y))
        self._cholesky = linalg.cholesky(k, lower=True, check_finite=False)
        self._alpha = linalg.cho_solve((self._cholesky, True), (y - self._shift) / self._scale, check_finite=False)
        return self

    def mean(self, codes: Codes, features: Array) -> Array:
        """Expected values at n settings, shape (n,)."""
        mean: Array = self._shift + self._scale * (self._kernel(codes, features) @ self._alpha)
        return mean

    def predict(self, codes: Codes, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (without noise) at n settings, shape (n,) each."""
        w, v, s, _ = self._parameters()
        k = self._kernel(codes, features)
        mean = self._shift + self._scale * (k @ self._alpha)
        root = linalg.solve_triangular(self._cholesky, k.T, lower=True, check_finite=False, overwrite_b=True)
        prior = w.sum() + s + _standardise(features, self._features) ** 2 @ v
        variance = np.maximum(prior - np.einsum("ij,ij->j", root, root), 1e-10)
        return mean, self._scale * np.sqrt(variance)

    def _parameters(self) -> tuple[Array, Array, float, float]:
        p: Array = np.exp(self.log_parameters)
        return p[: self._d], p[self._d : -4], float(p[-3]), float(p[-2])

    def _kernel(self, codes: Codes, features: Array) -> Array:
        """Between given settings and the data."""
        w, v, s, r = self._parameters()
        n, d = codes.shape
        shape = (n, int(self._offsets[-1]))
        pick = sparse.csr_matrix(
            (np.tile(w, n), (codes + self._offsets[:-1]).ravel(), np.arange(0, n * d + 1, d)), shape
        )
        a: Array = np.asarray(pick @ self._train)
        k: Array = a + s * np.exp(r * (a / w.sum() - 1))
        if self._f:
            k = k + (_standardise(features, self._features) * v) @ _standardise(self._features, self._features).T
        return k

    def _loss(self, log_p: Array, parts: Array, y: Array) -> tuple[float, Array]:
        """Negative log posterior of the parameters, and its gradient."""
        p = np.exp(np.clip(log_p, -14, 8))
        d, n = self._d, len(y)
        w, (s, r, noise) = p[:d], p[-3:]
        total = w.sum()
        a = (w @ parts[:d]).reshape(n, n)
        e = s * np.exp(r * (a / total - 1))
        k = a + e + (p[d:-3] @ parts[d:]).reshape(n, n)
        try:
            factor = linalg.cho_factor(k + (noise + _JITTER) * np.eye(n), lower=True, check_finite=False)
        except linalg.LinAlgError:
            return 1e10, np.zeros_like(p)
        inverse = linalg.cho_solve(factor, np.eye(n), check_finite=False)
        alpha = inverse @ y
        z = (log_p - self._mean) / self._sd
        loss = 0.5 * y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * z @ z
        g = 0.5 * (inverse - np.outer(alpha, alpha))
        ge = g * e
        gradient = np.empty_like(p)
        gradient[:d] = parts[:d] @ (g + ge * (r / total)).ravel() - r / total**2 * (ge * a).sum()
        gradient[d:-3] = parts[d:] @ g.ravel()
        gradient[-3:] = ge.sum() / s, (ge * (a / total - 1)).sum(), np.trace(g)
        return float(loss), p * gradient + z / self._sd


def _same(runs: Codes) -> Array:
    same: Array = (runs[:, None] == runs).astype(float)
    return same


def _standardise(features: Array, reference: Array) -> Array:
    """To mean 0 and deviation 1 of a reference; a feature that is constant there says nothing yet, and becomes 0."""
    spread = reference.std(0)
    standard: Array = np.where(spread > _CONSTANT, (features - reference.mean(0)) / np.maximum(spread, _CONSTANT), 0.0)
    return standard
