from __future__ import annotations

import math
import warnings

import optuna
import pytest

from autocompress.recipes.domains import Choice, FloatRange, Scoped, parse_domain

optuna.logging.set_verbosity(optuna.logging.ERROR)


def draw(domain: FloatRange | Choice, n: int = 40) -> set[object]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return {domain.suggest("x", study.ask()) for _ in range(n)}


def test_stepped_range_draws_clean_numbers_on_its_grid() -> None:
    domain = FloatRange(0.0, 0.7, step=0.1)
    assert draw(domain, 200) == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
    assert domain.size == 8


def test_uneven_grid_never_passes_its_high_end() -> None:
    domain = FloatRange(0.0, 0.7, step=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns when high is not on the grid
        assert draw(domain, 100) == {0.0, 0.2, 0.4, 0.6}
    assert domain.size == 4 and domain.at(1.0) == domain.top == 0.6
    assert domain.corners() == (0.0, 0.2, 0.6)


def test_continuous_ranges_stay_inside_and_are_infinite() -> None:
    assert all(1 <= x <= 2 for x in draw(FloatRange(1, 2)))  # type: ignore[operator]
    drawn = draw(FloatRange(1e-4, 1e-1, log=True), 200)
    assert all(1e-4 <= x <= 1e-1 for x in drawn)  # type: ignore[operator]
    assert 60 < sum(x < 10**-2.5 for x in drawn) < 140  # type: ignore[operator]
    assert FloatRange(1, 2).size == math.inf and FloatRange(1, 1).size == 1


def test_numbers_that_yaml_takes_for_text() -> None:
    found = parse_domain({"low": "1e-3", "high": "1e-1", "log": True}).domain
    assert found == FloatRange(1e-3, 1e-1, log=True)


def test_at_walks_from_low_to_high() -> None:
    assert [FloatRange(0, 1).at(f) for f in (0, 0.25, 1)] == [0, 0.25, 1]
    assert [FloatRange(0, 1, step=0.25).at(f) for f in (0, 0.3, 1)] == [0, 0.25, 1]
    assert [FloatRange(0.01, 1, log=True).at(f) for f in (0, 0.5, 1)] == [0.01, 0.1, 1]
    assert [Choice(("a", "b", "c")).at(f) for f in (0, 0.5, 1)] == ["a", "b", "c"]


def test_choice_draws_its_values_and_asks_nothing_for_one() -> None:
    assert draw(Choice((8, 4))) == {8, 4}
    assert Choice((8,)).suggest("x", None) == 8  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 2, "high": 1}, "low must not be above high, got low 2 and high 1"),
        ({"low": 0, "high": math.inf}, "low must not be above high"),
        ({"low": 0, "high": 1, "step": 0}, "step must be positive and without log, got 0"),
        ({"low": 1, "high": 2, "step": 1, "log": True}, "step must be positive and without log"),
        ({"low": 0, "high": 1, "log": True}, "a log range must begin above 0, got 0"),
        ({"low": "a", "high": 1}, "low must be a number, got 'a'"),
        ({"low": 0}, "a domain is {low: .., high: .., step: .., log: ..} or {choice: [..]}"),
        ({"low": 0, "high": 1, "stepp": 1}, "got the keys low, high, stepp"),
        ({"choice": []}, "a choice needs one or more different values"),
        ({"choice": [8, 8]}, "a choice needs one or more different values, got [8, 8]"),
        ({"choice": 8}, "choice must be a list, got 8"),
        ({"choice": [8], "per": "channel"}, "per must be one of model, stage, layer, got 'channel'"),
    ],
)
def test_bad_domain_says_what_is_wrong(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_domain(settings)
    assert message in str(caught.value)


def test_parse_reads_ranges_choices_and_scopes() -> None:
    assert parse_domain({"choice": [8, 4], "per": "layer"}) == Scoped(Choice((8, 4)), "layer")
    assert parse_domain({"low": 0, "high": 1, "step": 0.5}) == Scoped(FloatRange(0, 1, 0.5), "model")
