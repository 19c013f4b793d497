from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution
from scipy.optimize import check_grad

from autocompress.known_costs import Knobs
from autocompress.known_costs.surrogate import AdditiveGP

KNOBS = Knobs({**{f"x{i}": FloatDistribution(0.0, 1.0) for i in range(6)}, "c": CategoricalDistribution("abc")})


def truth(codes: NDArray[np.intp]) -> NDArray[np.float64]:
    x = codes[:, :6] / 64
    return x[:, 0] ** 2 - 2 * x[:, 1] + 0.5 * np.sin(3 * x[:, 2]) + 0.3 * (codes[:, 6] == 1) + 0.2 * x[:, 0] * x[:, 1]


def fitted(n: int, noise: float = 0.01) -> AdditiveGP:
    rng = np.random.default_rng(0)
    codes = KNOBS.random(n, rng)
    y, features = truth(codes) + rng.normal(0, noise, n), np.empty((n, 0))
    return (
        AdditiveGP(KNOBS.similarities())
        .fit(codes, features, y, np.arange(n))
        .condition(codes, features, y, np.arange(n))
    )


def test_it_learns_effects_that_add_up_from_few_points() -> None:
    codes = KNOBS.random(300, np.random.default_rng(1))
    mean, std = fitted(40).predict(codes, np.empty((300, 0)))
    error = mean - truth(codes)
    assert np.sqrt(np.mean(error**2)) < 0.1 * truth(codes).std()
    assert 0.3 < np.sqrt(np.mean((error / std) ** 2)) < 2


def test_doubt_shrinks_with_data_and_grows_away_from_it() -> None:
    codes = KNOBS.random(200, np.random.default_rng(1))
    few, many = (fitted(n).predict(codes, np.empty((200, 0)))[1].mean() for n in (15, 80))
    assert many < few


def test_features_with_a_linear_effect_help() -> None:
    rng = np.random.default_rng(0)
    codes, test = KNOBS.random(12, rng), KNOBS.random(200, rng)
    errors = []
    for features_of in (lambda c: np.empty((len(c), 0)), lambda c: 3 * truth(c)[:, None] + 1):
        gp = AdditiveGP(KNOBS.similarities(), features_of(codes).shape[1])
        gp.fit(codes, features_of(codes), truth(codes), np.arange(12))
        gp.condition(codes, features_of(codes), truth(codes), np.arange(12))
        errors.append(np.abs(gp.predict(test, features_of(test))[0] - truth(test)).mean())
    assert errors[1] < 0.5 * errors[0]


def test_the_gradient_of_the_fit_is_right() -> None:
    rng = np.random.default_rng(0)
    codes = KNOBS.random(10, rng)
    features = rng.normal(size=(10, 2))
    gp = AdditiveGP(KNOBS.similarities(), 2)
    parts = [t[np.ix_(c, c)] for t, c in zip(KNOBS.similarities(), codes.T, strict=True)]
    parts += [*(np.outer(f, f) for f in features.T), np.eye(10)[np.arange(10) // 2][:, np.arange(10) // 2]]
    args = np.stack(parts).reshape(len(parts), -1), truth(codes)
    start = gp.log_parameters + rng.normal(0, 0.3, len(gp.log_parameters))
    error = check_grad(lambda p: gp._loss(p, *args)[0], lambda p: gp._loss(p, *args)[1], start)
    assert error < 1e-4


@pytest.mark.parametrize("y", [[0.5] * 4, [0.1, 0.1, 0.1, 9.0]])
def test_constant_and_repeated_data_do_no_harm(y: list[float]) -> None:
    codes = np.repeat(KNOBS.random(2, np.random.default_rng(0)), 2, 0)
    gp = AdditiveGP(KNOBS.similarities()).fit(codes, np.empty((4, 0)), np.array(y), np.arange(4))
    gp.condition(codes, np.empty((4, 0)), np.array(y), np.arange(4))
    mean, std = gp.predict(codes, np.empty((4, 0)))
    assert np.isfinite(mean).all() and (std > 0).all()


def test_luck_that_points_of_one_run_share_is_not_taken_for_an_effect() -> None:
    rng = np.random.default_rng(0)
    runs = np.repeat(np.arange(8), 8)
    codes = KNOBS.random(8, rng)[runs]
    codes[:, 0] = rng.integers(0, 65, 64)
    y, none = truth(codes) + rng.normal(0, 0.2, 8)[runs], np.empty((64, 0))
    test = KNOBS.random(200, rng)
    scores = []
    for known in (runs, np.arange(64)):
        gp = AdditiveGP(KNOBS.similarities()).fit(codes, none, y, known).condition(codes, none, y, known)
        mean, std = gp.predict(test, np.empty((200, 0)))
        scores.append(np.mean(0.5 * ((mean - truth(test)) / std) ** 2 + np.log(std)))
    assert scores[0] < scores[1]


def test_a_feature_that_was_constant_so_far_says_nothing() -> None:
    rng = np.random.default_rng(0)
    codes, test = KNOBS.random(12, rng), KNOBS.random(20, rng)
    predicted = []
    for seen, new in ((1.0, 1.0), (1.0, 2.0)):
        gp = AdditiveGP(KNOBS.similarities(), 1)
        gp.fit(codes, np.full((12, 1), seen), truth(codes), np.arange(12))
        gp.condition(codes, np.full((12, 1), seen), truth(codes), np.arange(12))
        predicted.append(gp.predict(test, np.full((20, 1), new))[0])
    assert predicted[0] == pytest.approx(predicted[1])
