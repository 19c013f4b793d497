from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autocompress.known_costs import Knobs

SPACE = {
    "ratio": FloatDistribution(0.0, 0.75, step=0.125),
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "bits": IntDistribution(4, 8, step=2),
    "kind": CategoricalDistribution(("a", None, True)),
    "threshold": FloatDistribution(0.3, 0.9),
}


@pytest.fixture
def knobs() -> Knobs:
    return Knobs(SPACE, {"threshold": lambda x: x["bits"] > 4})


def test_settings_lie_in_the_space_and_survive_the_way_through_codes(knobs: Knobs) -> None:
    codes = knobs.random(2000, np.random.default_rng(0))
    settings = [knobs.setting(c) for c in codes]
    for name, distribution in SPACE.items():
        assert all(distribution._contains(distribution.to_internal_repr(s[name])) for s in settings)
        assert len({repr(s[name]) for s in settings}) == min(len(knobs.values[knobs.names.index(name)]), 65)
    assert (knobs.encode(settings) == codes).all()
    columns = knobs.columns(codes)
    assert all(columns[name][i] == s[name] for name in SPACE for i, s in enumerate(settings))


def test_every_setting_of_a_small_space_is_listed_once(knobs: Knobs) -> None:
    held = knobs.encode([{"rate": 1e-1, "threshold": 0.3}])[0]
    codes = knobs.every(held, 7 * 3 * 3)
    assert codes is not None and len(np.unique(codes, axis=0)) == len(codes) == 7 * 3 * 3
    assert (knobs.columns(codes)["rate"] == 1e-1).all()
    assert knobs.every(held, 7 * 3 * 3 - 1) is None


def test_a_log_range_is_spread_by_magnitude(knobs: Knobs) -> None:
    rates = np.array(knobs.values[1])
    assert rates[0] == 1e-4 and rates[-1] == 1e-1
    assert np.allclose(np.diff(np.log(rates)), np.log(1000) / 64)


def test_values_between_the_codes_get_the_nearest_one(knobs: Knobs) -> None:
    codes = knobs.encode([{"ratio": 0.2, "rate": 1.05e-4, "bits": 8, "kind": None, "threshold": 0.9}])[0]
    assert knobs.setting(codes) == {"ratio": 0.25, "rate": 1e-4, "bits": 8, "kind": None, "threshold": 0.9}


def test_settings_that_differ_in_an_unused_knob_only_are_equal(knobs: Knobs) -> None:
    base = {"ratio": 0.25, "rate": 1e-3, "bits": 4, "kind": "a"}
    one, other = knobs.used(knobs.encode([{**base, "threshold": 0.3}, {**base, "threshold": 0.6}]))
    assert (one == other).all()
    assert (knobs.used(knobs.encode([base]))[0] == one).all()
    three, four = knobs.used(knobs.encode([{**base, "bits": 6, "threshold": t} for t in (0.3, 0.6)]))
    assert (three != four).any()


def test_near_values_are_alike_and_unused_ones_like_nothing(knobs: Knobs) -> None:
    ratio, _, _, kind, threshold = knobs.similarities()
    assert ratio[0, 0] == 1 and 1 > ratio[0, 1] > ratio[0, 5] > 0
    assert (kind == np.eye(4)).all()
    assert (threshold[-1, :-1] == 0).all() and threshold[-1, -1] == 1
