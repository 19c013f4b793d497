"""The sampler: screen settings by their known costs, model the loss, maximise the expected hypervolume improvement."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from autocompress.known_costs.improvement import ExpectedImprovement
from autocompress.known_costs.knobs import Codes, Columns, Condition, Knobs
from autocompress.known_costs.surrogate import AdditiveGP

Array = NDArray[np.float64]
Score = Callable[[Codes, Array], Array]
"""From codes and scaled costs of n settings to what is to be maximised, at least 0, shape (n,)."""

DERIVED_FROM = "derived_from"
"""User attribute of a trial that shares the run of another one: the number of that trial."""
_ROUNDS, _SMALLEST_ROUND = 25, 12
_MOTHERS, _FATHERS = 10, 40
_EXACT = 1e-3
"""Costs that are off by less than this share of their range are taken as computed."""
_MAX_FRONT = 250
_LOSS = 0
"""Index of the modelled objective among those of a history; the costs follow."""
_MAX_FIT = 160
_MAX_DATA = 400


class KnownCostSampler(BaseSampler):
    """For studies of several objectives of which all but one, the costs, can be computed before a trial is run.

    Every proposal screens `n_candidates` settings by `costs`, drops those that break a constraint, and returns the one
    with the largest expected hypervolume improvement: costs exact, the remaining objective from a Gaussian process.
    Trials that are running count with what is expected of them, so that parallel proposals differ. A proposal
    depends on the seed, the number of its trial and the trials before it, on nothing else.

    Costs that turn out other than computed are corrected by what the trials say (a process each).

    Points that come from the run of another trial may be added to the study by `study.add_trial`, with its number as
    the user attribute `derived_from`; they count as well.

    Args:
        space: all knobs of the objective function with their distributions. Continuous ranges are searched on 65
            values.
        costs: from n settings (a mapping from knob to an array of n values) to the objectives that are known, shape
            (n, number of objectives - 1), in the order of the study, and the constraints that are known, shape
            (n, m), kept where at most 0. NaN marks a setting that cannot be used.
        modelled: index of the objective that is not known.
        reference: the worst value of each objective that is still of use, in the order of the study; with a limit on
            the modelled objective, that limit. By default a little worse than the worst values of the front.
        log_costs: whether the hypervolume is taken over logarithms of the costs, which must be positive then.
        conditions: for knobs that only some settings use, from n settings to n booleans.
        features: from n settings to numbers that may explain the modelled objective linearly, shape (n, any).
        effort: from n settings to what running each would take, in any unit, shape (n,); the improvement per effort
            is maximised.
        n_startup_trials: so many random settings that keep the constraints come first.
        n_candidates: settings screened for one proposal; a space that has no more is screened whole.
        seed: of everything random.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        costs: Callable[[Columns], tuple[Any, Any]],
        *,
        modelled: int = 0,
        reference: Sequence[float] | None = None,
        log_costs: bool = False,
        conditions: Mapping[str, Condition] | None = None,
        features: Callable[[Columns], Any] | None = None,
        effort: Callable[[Columns], Any] | None = None,
        n_startup_trials: int = 8,
        n_candidates: int = 10_000,
        seed: int | None = None,
    ) -> None:
        self._space = {name: d for name, d in space.items() if not d.single()}
        self._knobs = Knobs(self._space, conditions)
        self._costs, self._features, self._effort = costs, features, effort
        self._modelled, self._reference, self._log = modelled, reference, log_costs
        self._n_startup, self._n_candidates = n_startup_trials, n_candidates
        self._seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        self._similarities = self._knobs.similarities()
        self._fitted: dict[int, tuple[bytes, AdditiveGP]] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space: knobs that the objective function does not ask for are simply not used."""
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next setting; it breaks a constraint, or was tried before, only if no other was found."""
        codes, _ = self._propose(study, trial.number, 1, {})
        return self._knobs.setting(codes[0])

    def propose(
        self, study: Study, n: int = 1, fixed: Mapping[str, Any] | None = None
    ) -> list[tuple[dict[str, Any], float]]:
        """The n most promising settings to be run side by side, without starting trials.

        Args:
            study: its trials are what is known.
            n: settings wanted; fewer come back when there are not so many that keep the constraints and are new.
            fixed: knobs with given values, for example all that a model was trained with: the others are
                then those that can be changed afterwards.

        Returns:
            Settings with their expected improvement of the hypervolume (per effort), the best first, each given
            that the ones before it are run too.
        """
        fixed = dict(fixed or {})
        codes, scores = self._propose(study, len(study.get_trials(deepcopy=False)), n, fixed)
        return [({**self._knobs.setting(c), **fixed}, float(s)) for c, s in zip(codes, scores, strict=True) if s >= 0]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for knobs that are not in the space."""
        entropy = np.random.SeedSequence([self._seed, trial.number, zlib.crc32(param_name.encode())])
        sampler = RandomSampler(seed=int(entropy.generate_state(1)[0]))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _propose(self, study: Study, number: int, n: int, fixed: Mapping[str, Any]) -> tuple[Codes, Array]:
        chosen: list[Codes] = []
        improvements: list[float] = []
        with threadpool_limits(1, user_api="blas"):  # matrices are small: more threads spin, and slow down what runs
            rng = np.random.default_rng([self._seed, number])
            history = self._history(study, number)
            expected = self._expectation(history) if len(history.loss) >= self._n_startup else None
            for _ in range(n):
                codes, costs, improvement = self._search(expected, history, fixed, self._n_candidates // n, rng)
                chosen.append(codes[0])
                improvements.append(improvement)
                history.seen.update(_keys(self._knobs.used(codes)))
                if expected and len(chosen) < n:
                    expected.believe(codes, costs)
        return np.array(chosen), np.array(improvements)

    # ------------------------------------------------------------------------------------------ the trials so far

    def _history(self, study: Study, number: int) -> _History:
        signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
        order = [self._modelled, *(k for k in range(len(signs)) if k != self._modelled)]
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != number and t.state != TrialState.WAITING]
        complete = [t for t in trials if t.state == TrialState.COMPLETE and np.isfinite(t.values).all()]
        points = self._scaled(np.array([signs * t.values for t in complete]).reshape(-1, len(signs))[:, order])
        kept = np.array([all(v <= 0 for v in t.constraints.values()) for t in complete], bool)
        front = points[kept]
        front = front[_non_dominated(front)]
        if self._reference is not None:
            reference = self._scaled((signs * self._reference)[order][None])[0]
        elif len(front):
            reference = front.max(0) + 0.1 * np.ptp(front, 0) + 1e-9
        else:
            reference = np.full(len(order), np.inf)
        codes = self._encode(complete)
        keys = _keys(codes)
        once = {key: i for i, key in reversed(list(enumerate(keys))) if complete[i].params}
        first = np.array(sorted(once.values()), np.intp)
        return _History(
            front=front,
            reference=reference,
            codes=codes[first],
            points=points[first],
            runs=np.array([t.user_attrs.get(DERIVED_FROM, t.number) for t in complete], np.intp)[first],
            running=self._encode([t for t in trials if t.state == TrialState.RUNNING and t.params]),
            seen=set(_keys(self._encode(trials))),
            signs=signs[order[1:]],
        )

    def _encode(self, trials: Sequence[FrozenTrial]) -> Codes:
        return self._knobs.used(self._knobs.encode([t.params for t in trials]))

    def _scaled(self, points: Array) -> Array:
        """Points, the loss first, as they count for the hypervolume."""
        return np.column_stack([points[:, :1], np.log(points[:, 1:])]) if self._log else points

    # ------------------------------------------------------------------------------------------ the expectation

    def _expectation(self, history: _History) -> _Expectation:
        features = self._features_of(history.codes)
        gp = self._surrogate(_LOSS, history, features, history.loss)
        loss = np.minimum(history.loss, _cap(history.loss))
        rows = _thin(history.gaps, _MAX_DATA)
        codes, features, loss, runs = history.codes[rows], features[rows], loss[rows], history.runs[rows]
        gp.condition(codes, features, loss, runs)
        expected = _Expectation(self, gp, self._corrections(history, rows), history.front, history.reference)
        if len(history.running):
            more = self._features_of(history.running)
            believed = gp.mean(history.running, more)
            expected.believe(history.running, self._screen(history.running, history.signs)[0])
            gp.condition(
                np.concatenate([codes, history.running]),
                np.concatenate([features, more]),
                np.concatenate([loss, believed]),
                np.concatenate([runs, -1 - np.arange(len(believed))]),
            )
        return expected

    def _corrections(self, history: _History, rows: Codes) -> dict[int, AdditiveGP]:
        """By how much costs turn out other than computed, as far as they do, by index of the cost."""
        off = history.points[:, 1:] - self._screen(history.codes, history.signs)[0]
        found = {}
        for k in np.flatnonzero(np.ptp(off, 0) > _EXACT * np.ptp(history.points[:, 1:], 0)):
            none = np.empty((len(off), 0))
            gp = self._surrogate(int(k) + 1, history, none, off[:, k])
            found[int(k)] = gp.condition(history.codes[rows], none[rows], off[rows, k], history.runs[rows])
        return found

    def _surrogate(self, what: int, history: _History, features: Array, y: Array) -> AdditiveGP:
        """A process whose kernel is fitted to the first trials, and again after every tenth part more.

        It depends on these trials alone, so that a study that is resumed goes on with the same kernel.
        """
        n = len(y) - len(y) % max(1, len(y) // 10)
        fitted_to = history.codes[:n].tobytes() + history.points[:n].tobytes()
        if what not in self._fitted or self._fitted[what][0] != fitted_to:
            rows = _thin(_gaps(history.points[:n]), _MAX_FIT)
            y = np.minimum(y[:n], _cap(y[:n])) if what == _LOSS else y[:n]
            gp = AdditiveGP(self._similarities, features.shape[1])
            gp.fit(history.codes[rows], features[rows], y[rows], history.runs[rows])
            self._fitted[what] = fitted_to, gp
        return self._fitted[what][1]

    def _features_of(self, codes: Codes) -> Array:
        if self._features is None:
            return np.empty((len(codes), 0))
        return np.asarray(self._features(self._columns(codes)), float).reshape(len(codes), -1)

    # ------------------------------------------------------------------------------------------ the search for it

    def _search(
        self,
        score: Score | None,
        history: _History,
        fixed: Mapping[str, Any],
        n: int,
        rng: np.random.Generator,
    ) -> tuple[Codes, Array, float]:
        """Evolve n settings; return codes and scaled costs of the best one, shape (1, ...), and its score.

        Without a score any setting that is new and keeps the constraints will do. Settings that break a constraint
        score below 0 and rank by how far; those that were tried come last. A small space is screened whole.
        """
        held = self._knobs.encode([fixed])[0]
        every = self._knobs.every(held, self._n_candidates)
        rounds = 1 if every is not None else min(_ROUNDS, -(-n // _SMALLEST_ROUND))
        n = -(-n // rounds)
        n_fathers = max(_FATHERS, int((history.gaps <= 0).sum()))
        parents = history.codes[np.argsort(history.gaps, kind="stable")[:n_fathers]]
        if every is not None:
            codes = rng.permutation(every)
        else:
            codes = self._knobs.random(n * (1 if score else rounds), rng)
            if score:
                codes[n // 2 :] = self._vary(parents, parents, n - n // 2, rng)
        best, best_costs, best_scores = codes[:0], np.empty((0, len(history.signs))), np.empty(0)
        taken = set(history.seen)
        for _ in range(rounds):
            codes = np.where(held < self._knobs.sizes, held, codes)
            costs, scores = self._scores(codes, score, history, taken)
            scores = np.concatenate([best_scores, scores])
            top = np.argsort(-scores, kind="stable")[:_MOTHERS]
            best_scores = scores[top]
            best, best_costs = np.concatenate([best, codes])[top], np.concatenate([best_costs, costs])[top]
            if every is not None or (score is None and best_scores[0] >= 0):
                break
            codes = self._vary(best, parents if score else best, n, rng)
        return best[:1], best_costs[:1], float(best_scores[0])

    def _scores(self, codes: Codes, score: Score | None, history: _History, taken: set[bytes]) -> tuple[Array, Array]:
        """Scaled costs and scores; what is in `taken` comes last, and what is not is added to it."""
        costs, broken = self._screen(codes, history.signs)
        scores = -1.0 - broken
        for i, key in enumerate(_keys(self._knobs.used(codes))):
            if key in taken:
                scores[i] = -np.inf
            taken.add(key)
        good = np.flatnonzero(scores == -1.0)
        if len(good):
            scores[good] = score(codes[good], costs[good]) if score else 0.0
        return costs, scores

    def _screen(self, codes: Codes, signs: Array) -> tuple[Array, Array]:
        """Scaled costs, shape (n, k), and by how much the constraints are broken together, shape (n,)."""
        values, violations = (np.asarray(v, float) for v in self._costs(self._columns(codes)))
        if values.shape != (len(codes), len(signs)) or violations.shape[:1] != (len(codes),) or violations.ndim != 2:
            raise ValueError(
                f"costs must return objectives of shape ({len(codes)}, {len(signs)}) and constraints of shape "
                f"({len(codes)}, number of constraints), got {values.shape} and {violations.shape}"
            )
        broken = np.maximum(violations, 0).sum(1)
        unusable = np.isnan(broken) | np.isnan(values).any(1)
        broken[unusable], values[unusable] = np.inf, 1.0
        return (np.log(values) if self._log else values * signs), broken

    def _columns(self, codes: Codes) -> Columns:
        return self._knobs.columns(np.minimum(codes, self._knobs.sizes - 1))

    def _vary(self, mothers: Codes, fathers: Codes, n: int, rng: np.random.Generator) -> Codes:
        """Children of one or two parents: some knobs a few steps on, some anywhere."""
        shape = n, len(self._knobs)
        mother, father = (parents[rng.integers(0, len(parents), n)] for parents in (mothers, fathers))
        codes = np.minimum(
            np.where(rng.random(shape) < rng.choice([0.0, 0.0, 0.0, 0.25, 0.5], (n, 1)), father, mother),
            self._knobs.sizes - 1,
        )
        i, j = np.nonzero(rng.random(shape) < rng.choice([1.2, 3.0, 8.0], (n, 1)) / shape[1])
        sizes = self._knobs.sizes[j]
        step = rng.normal(0, rng.choice([0.04, 0.12, 0.35], n)[i]) * sizes
        step = np.where(np.abs(step) < 1, np.sign(step), np.round(step)).astype(np.intp)
        anywhere = (rng.random(len(i)) < 0.2) | self._knobs.is_unordered[j]
        codes[i, j] = np.where(anywhere, rng.integers(0, sizes), np.clip(codes[i, j] + step, 0, sizes - 1))
        return codes


@dataclass(frozen=True)
class _History:
    """What the trials of a study say, everything minimised and scaled, the modelled objective first."""

    front: Array
    reference: Array
    codes: Codes
    """Of the settings of complete trials, each once."""
    points: Array
    """Their objectives."""
    runs: Codes
    """Equal where they come from one run."""
    running: Codes
    seen: set[bytes]
    signs: Array

    @property
    def loss(self) -> Array:
        """What is modelled."""
        return self.points[:, 0]

    @cached_property
    def gaps(self) -> Array:
        """How far each point is from the front."""
        return _gaps(self.points)


class _Expectation:
    """Expected hypervolume improvement per effort of coded settings."""

    def __init__(
        self,
        sampler: KnownCostSampler,
        gp: AdditiveGP,
        corrections: Mapping[int, AdditiveGP],
        front: Array,
        reference: Array,
    ) -> None:
        self._sampler, self._gp, self._corrections, self._reference = sampler, gp, corrections, reference
        self._front = front
        self._improvement = ExpectedImprovement(_spread(front, _MAX_FRONT), reference)

    def __call__(self, codes: Codes, costs: Array) -> Array:
        mean, std = self._gp.predict(self._sampler._knobs.used(codes), self._sampler._features_of(codes))
        improvement = self._improvement(mean, std, self._corrected(codes, costs))
        effort = self._sampler._effort
        return improvement / np.asarray(effort(self._sampler._columns(codes))) if effort else improvement

    def believe(self, codes: Codes, costs: Array) -> None:
        """Count settings as if they were run, with the loss that is expected of them."""
        loss = self._gp.mean(self._sampler._knobs.used(codes), self._sampler._features_of(codes))
        front = np.concatenate([self._front, np.column_stack([loss, self._corrected(codes, costs)])])
        self._front = front[_non_dominated(front)]
        self._improvement = ExpectedImprovement(_spread(self._front, _MAX_FRONT), self._reference)

    def _corrected(self, codes: Codes, costs: Array) -> Array:
        costs = costs.copy()
        for k, gp in self._corrections.items():
            costs[:, k] += gp.mean(self._sampler._knobs.used(codes), np.empty((len(codes), 0)))
        return costs


def _keys(codes: Codes) -> list[bytes]:
    return [row.tobytes() for row in codes]


def _cap(loss: Array) -> float:
    """Losses beyond this are outliers: the model need not tell bad from worse."""
    low, middle = np.quantile(loss, [0.25, 0.5])
    return float(middle + 4 * (middle - low) + 1e-12)


def _non_dominated(points: Array) -> NDArray[np.bool_]:
    """Rows that no other row dominates; of equal rows the first."""
    keep = np.zeros(len(points), bool)
    front = np.empty((0, points.shape[1]))
    for i in np.lexsort(points.T[::-1]):
        if not (front <= points[i]).all(1).any():
            front = np.concatenate([front, points[i : i + 1]])
            keep[i] = True
    return keep


def _spread(front: Array, most: int) -> Array:
    """At most so many points that dominate at least what a front does: the best corners of the cells of a grid."""
    if len(front) <= most:
        return front
    width = np.ptp(front, 0) + 1e-12
    for cells in range(60, 0, -1):
        _, cell = np.unique(np.floor(front / width * cells), axis=0, return_inverse=True)
        if cell.max() < most:
            break
    corners = np.full((cell.max() + 1, front.shape[1]), np.inf)
    np.minimum.at(corners, cell.ravel(), front)
    return corners


def _thin(gap: Array, most: int) -> NDArray[np.intp]:
    """At most so many trials, in order: half of them those of the smallest gap, half spread over the others."""
    if len(gap) <= most:
        return np.arange(len(gap))
    order = np.argsort(gap, kind="stable")
    half = most // 2
    rest = order[half:][np.linspace(0, len(gap) - half - 1, most - half).round().astype(int)]
    return np.sort(np.concatenate([order[:half], rest]))


def _gaps(points: Array) -> Array:
    """By how much the loss of each point is above the best one at costs that are not higher."""
    return np.array([p[0] - points[(points[:, 1:] <= p[1:]).all(1), 0].min() for p in points])
