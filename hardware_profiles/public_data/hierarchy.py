"""A joint fit of all devices of one kind: coefficient = shared prior x scale of the device x its own deviation.

The latency of network n on device c is sum_k X[n, k] * exp(phi[c, k]), with phi Gaussian around
scale[c] + mean[k] + Z[c] @ effects[:, k]. Z holds the facts about the device (core, threads, runtime), scale is
free. All are found in turn (coefficients by Gauss-Newton on the error of the logarithm, weighted down where it stays
large). So a device with few measured networks borrows the ratios of its coefficients from its relatives, and no
coefficient is negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autocompress.devices import cost_model
from autocompress.devices.profile import ANY, Dtype, OpCost
from autocompress.runtimes.workload import Op, Workload

Floats = npt.NDArray[np.float64]

FIELDS = tuple(OpCost.model_fields)
RUN, BEYOND = "run", "beyond"
"""In `Part`: the inference call itself, and the megabytes by which a network exceeds the cache."""
Part = tuple[str, Dtype, str, float]
"""Kind (or "any", "run", "beyond"), number format, field of `OpCost`, weight."""


@dataclass(frozen=True)
class Term:
    """One coefficient of the fit; it can feed several fields of a profile."""

    name: str
    guess: float
    """A first value, in the unit of the fields; only the ratios between terms matter."""
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Settings:
    """How strongly a device is held to its prior; chosen by leaving networks out."""

    noise: float = 0.1
    """Standard deviation of the logarithm of a measured latency around the model."""
    deviation: float = 0.25
    """Of a coefficient of one device around its prior."""
    effect: float = 0.25
    """Of the influence of a fact about the device."""
    mean: float = 0.7
    """Of the mean coefficients around the first guess."""
    rounds: int = 5
    """Few rounds keep what the data cannot tell near the first guess."""


@dataclass(frozen=True)
class Pool:
    """What is fitted together: D devices, N networks, T terms."""

    terms: tuple[Term, ...]
    networks: tuple[str, ...]
    work: Floats
    """(N, T): work of each network in each term."""
    ms: Floats
    """(D, N): measured latency, NaN where there is none."""
    facts: Floats
    """(D, F): facts about the devices, without a constant."""

    def without(self, networks: Sequence[str]) -> Pool:
        """The same pool as if these networks had been measured nowhere."""
        ms = self.ms.copy()
        ms[:, [name in set(networks) for name in self.networks]] = np.nan
        return Pool(self.terms, self.networks, self.work, ms, self.facts)


def make_pool(
    terms: Sequence[Term],
    workloads: Mapping[str, Workload],
    measured: Sequence[Mapping[str, float]],
    facts: Sequence[Sequence[float]],
    block: int,
    cache_bytes: int | None = None,
) -> Pool:
    """Build the matrices; `measured` maps network to ms for each device."""
    networks = tuple(workloads)
    work = np.array([term_work(terms, workloads[name], block, cache_bytes) for name in networks]) / 1e3
    ms = np.array([[points.get(name, np.nan) for name in networks] for points in measured])
    return Pool(tuple(terms), networks, work, ms, np.array(facts, dtype=float).reshape(len(measured), -1))


def term_work(terms: Sequence[Term], workload: Workload, block: int, cache_bytes: int | None = None) -> Floats:
    """Work of a network in the unit of each term, exactly as `latency.linear.predict` would price it."""
    places: dict[tuple[str, str], list[tuple[int, int, float]]] = {}
    for t, term in enumerate(terms):
        for kind, dtype, field, weight in term.parts:
            places.setdefault((kind, dtype), []).append((t, FIELDS.index(field), weight))
    total = np.zeros(len(terms))
    beyond = cost_model.megabytes_beyond(workload, cache_bytes)
    for kind, amount in ((RUN, 1.0), (BEYOND, beyond)):
        for t, _, weight in places.get((kind, "float32"), []):
            total[t] += weight * amount
    for op in workload.ops:
        values = cost_model.features(op, block)
        for t, f, weight in places.get(_place(op, block, places), []):
            total[t] += weight * values[f]
    return total


def _place(op: Op, block: int, places: Mapping[tuple[str, str], object]) -> tuple[str, str]:
    dtype = "int8" if op.dtype == "int8" else "float32"
    key = cost_model.cost_key(op, block)
    for name in (cost_model.finer_key(op) if key == op.kind else "", key, op.kind, ANY):
        if (name, dtype) in places:
            return name, dtype
    return "", dtype


def costs(terms: Sequence[Term], coefficients: Floats) -> dict[str, dict[str, dict[str, float]]]:
    """The coefficients in the form of `DeviceProfile.latency`, with "run" and "beyond" as further kinds."""
    latency: dict[str, dict[str, dict[str, float]]] = {}
    for term, value in zip(terms, coefficients, strict=True):
        for kind, dtype, field, weight in term.parts:
            cost = latency.setdefault(kind, {}).setdefault(dtype, {})
            cost[field] = cost.get(field, 0.0) + weight * float(value)
    return latency


def fit(pool: Pool, settings: Settings) -> Floats:
    """Coefficients (D, T) of every device of the pool."""
    known = np.isfinite(pool.ms)
    target = np.log(np.where(known, pool.ms, 1.0))
    design = np.hstack([np.ones((len(pool.ms), 1)), pool.facts])
    spread = np.array([settings.mean, *[settings.effect] * pool.facts.shape[1]])
    guess = np.log([term.guess for term in pool.terms])
    shift = np.array([_start(pool.work, pool.ms[d], np.exp(guess)) for d in range(len(pool.ms))])
    mean = np.tile(guess, (len(pool.ms), 1))
    phi = mean + shift[:, None]
    for _ in range(settings.rounds):
        for _ in range(3):
            phi = _step(phi, mean, pool.work, target, known, settings)
        centred = phi - (phi - mean).mean(axis=1, keepdims=True)
        ridge = np.diag((settings.deviation / spread) ** 2)
        effects = np.linalg.solve(design.T @ design + ridge, design.T @ (centred - guess))
        mean = guess + design @ effects
    for _ in range(5):
        phi = _step(phi, mean, pool.work, target, known, settings)
    return np.asarray(np.exp(phi))


def _start(work: Floats, ms: Floats, guess: Floats) -> float:
    known = np.isfinite(ms)
    return float(np.median(np.log(ms[known] / (work[known] @ guess)))) if known.any() else 0.0


def _step(phi: Floats, mean: Floats, work: Floats, target: Floats, known: npt.NDArray[np.bool_], s: Settings) -> Floats:
    """One damped Gauss-Newton step for all devices at once; the scale of a device is free."""
    n_terms = phi.shape[1]
    share = work[None] * np.exp(phi)[:, None, :]
    total = share.sum(axis=2)
    share = share / total[:, :, None]
    error = np.log(total) - target
    weight = known * np.minimum(1.0, 2 * s.noise / np.maximum(np.abs(error), 1e-9)) / s.noise**2
    penalty = (np.eye(n_terms) - np.full((n_terms, n_terms), 1 / n_terms)) / s.deviation**2
    penalty += 1e-4 * np.eye(n_terms)
    left = np.einsum("dnt,dn,dnu->dtu", share, weight, share, optimize=True) + penalty
    right = np.einsum("dnt,dn->dt", share, weight * error) + (phi - mean) @ penalty
    step = np.linalg.solve(left, right[:, :, None])[:, :, 0]
    return np.asarray(phi - np.clip(step, -1.0, 1.0))


def leave_networks_out(pool: Pool, groups: Sequence[Sequence[str]], settings: Settings) -> Floats:
    """Predicted ms (D, N) of every network by fits that saw its group on no device."""
    predicted = np.full((len(pool.ms), len(pool.networks)), np.nan)
    for group in groups:
        columns = [pool.networks.index(name) for name in group]
        if np.isfinite(pool.ms[:, columns]).any():
            predicted[:, columns] = fit(pool.without(group), settings) @ pool.work[columns].T
    return np.where(np.isfinite(pool.ms), predicted, np.nan)
