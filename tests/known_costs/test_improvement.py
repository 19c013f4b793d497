from __future__ import annotations

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume

from autocompress.known_costs.improvement import ExpectedImprovement


@pytest.mark.parametrize("n_costs", [1, 2, 3])
def test_it_equals_the_mean_improvement_of_many_draws(n_costs: int) -> None:
    rng = np.random.default_rng(n_costs)
    front, reference = rng.random((12, 1 + n_costs)), np.full(1 + n_costs, 0.9)
    before = compute_hypervolume(front[(front < 0.9).all(1)], reference)
    mean, std, costs = rng.random(4), np.array([0.05, 0.2, 0.01, 0.1]), rng.random((4, n_costs)) * 0.8
    found = ExpectedImprovement(front, reference)(mean, std, costs)
    for i in range(4):
        gains = []
        for loss in rng.normal(mean[i], std[i], 1500):
            points = np.vstack([front, [loss, *costs[i]]])
            gains.append(compute_hypervolume(points[(points < 0.9).all(1)], reference) - before)
        assert found[i] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(1500) + 1e-6)


def test_without_a_front_it_is_the_volume_up_to_the_reference() -> None:
    improvement = ExpectedImprovement(np.empty((0, 2)), np.array([1.0, 1.0]))
    assert improvement(np.array([0.4]), np.array([1e-6]), np.array([[0.5]]))[0] == pytest.approx(0.6 * 0.5)


def test_points_beyond_the_reference_do_not_count_and_costs_beyond_it_gain_nothing() -> None:
    reference = np.array([1.0, 1.0])
    empty, beyond = (ExpectedImprovement(np.array(f), reference) for f in (np.empty((0, 2)), [[0.2, 1.5], [2.0, 0.1]]))
    query = np.array([0.4, 0.4]), np.array([0.1, 0.1]), np.array([[0.5], [1.2]])
    assert np.allclose(beyond(*query), empty(*query)) and beyond(*query)[1] == 0


def test_it_still_ranks_what_is_far_from_improving() -> None:
    improvement = ExpectedImprovement(np.array([[0.1, 0.1]]), np.array([1.0, 1.0]))
    far, farther = improvement(np.array([1.5, 1.8]), np.array([0.05, 0.05]), np.array([[0.05], [0.05]]))
    assert far > farther > 0
