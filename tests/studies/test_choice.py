from __future__ import annotations

import numpy as np
import pytest

from autocompress.recipes.recipe import Recipe
from autocompress.studies.choice import Pool, Rule, paired_interval
from autocompress.studies.constraints import at_most, max_accuracy_drop
from autocompress.studies.results import Evaluation
from autocompress.tasks.metric import Score

N, TRUE = 1000, 0.9
EQUAL = Rule("most-accurate")


def point(trial: int, scores: np.ndarray, latency_ms: float, size_bytes: int = 100) -> Evaluation:
    value = float(scores.mean())
    return Evaluation(
        trial=trial,
        kind="candidate" if trial else "baseline",
        label="" if trial else "fp32",
        recipe=Recipe(),
        recipe_digest="",
        state="complete",
        validation=Score(value=value, low=value - 0.02, high=value + 0.02, n_samples=len(scores), split="validation"),
        predicted_latency_ms=latency_ms,
        size_bytes=size_bytes,
    )


def pool(rates: list[float], seed: int = 0, n: int = N, **settings: object) -> Pool:
    """Points that are right on a sample with these probabilities; the first is fp32, later ones are faster."""
    scores = (np.random.default_rng(seed).random((len(rates), n)) < np.array(rates)[:, None]).astype(float)
    points = tuple(point(i, one, 10.0 - 0.1 * i) for i, one in enumerate(scores))
    return Pool(points, scores, 0, **settings)  # type: ignore[arg-type]


def test_the_best_of_equals_is_told_as_no_better_than_the_others() -> None:
    naive, corrected = [], []
    for seed in range(30):
        study = pool([TRUE] * 30, seed)
        found = study.expected(EQUAL)
        assert found is not None and found.corrected and found.interval is not None
        naive.append(study.scores.mean(1).max() - study.scores[0].mean())
        corrected.append(found.value)
    assert np.mean(naive) > 0.015
    assert abs(np.mean(corrected)) < 0.005


def test_other_data_show_no_less_than_the_stated_interval() -> None:
    rates = [TRUE] + [TRUE - 0.001 * i for i in range(30)]
    kept = 0
    for seed in range(40):
        study, rule = pool(rates, seed), Rule("fastest", max_drop=0.01)
        found, chosen = study.expected(rule), study.choose(rule, study.scores.mean(1))
        assert found is not None and found.interval is not None and chosen is not None
        rng = np.random.default_rng(1000 + seed)
        shown = (rng.random(N) < rates[chosen]).mean() - (rng.random(N) < rates[0]).mean()
        kept += shown >= found.interval[0]
    assert kept >= 36


def test_a_choice_that_is_sure_is_left_as_it_is() -> None:
    study = pool([0.5, 0.9, 0.3], n=4000)
    found = study.expected(EQUAL)
    assert found is not None and found.value == pytest.approx(0.4, abs=0.03)
    assert study.scores[1].mean() - study.scores[0].mean() == pytest.approx(found.value, abs=0.002)


def test_rules_keep_the_constraints_of_the_study_and_their_own() -> None:
    study = pool([0.9, 0.9, 0.8, 0.7, 0.2], n=4000, constraints=(max_accuracy_drop(0.3),))
    accuracy = study.scores.mean(1)
    assert study.choose(Rule("fastest"), accuracy) == 3
    assert study.choose(Rule("fastest", max_drop=0.15), accuracy) == 2
    assert study.choose(Rule("fastest", limits=(at_most("latency_ms", 9.95),), max_drop=0.05), accuracy) == 1
    assert study.choose(Rule("fastest", limits=(at_most("latency_ms", 1.0),)), accuracy) is None
    assert study.expected(Rule("fastest", limits=(at_most("latency_ms", 1.0),))) is None


def test_faster_means_faster_than_fp32() -> None:
    scores = np.ones((2, 50))
    slow = Pool((point(0, scores[0], 1.0, 100), point(1, scores[1], 2.0, 50)), scores, 0)
    assert slow.choose(Rule("smallest"), scores.mean(1)) == 1
    assert slow.choose(Rule("smallest", faster=True), scores.mean(1)) is None


def test_what_thresholds_were_fitted_to_does_not_count() -> None:
    scores = np.ones((2, 50))
    fitted = point(1, scores[1], 1.0).model_copy(update={"threshold_optimism": 0.02})
    found = Pool((point(0, scores[0], 2.0), fitted), scores, 0).expected(Rule("fastest"))
    assert found is not None and found.value == pytest.approx(-0.02)


@pytest.mark.parametrize("values", [np.zeros(200), np.ones(200), np.array([0.0, 1.0, -1.0] * 50)])
def test_paired_right_and_wrong_have_an_interval_of_some_width(values: np.ndarray) -> None:
    found = paired_interval(values)
    assert found is not None and found[0] < values.mean() + 0.02 and found[1] - found[0] > 0.01


def test_other_scores_that_are_all_equal_have_none() -> None:
    assert paired_interval(np.full(20, 0.25)) is None
    low, high = paired_interval(np.linspace(-1, 2, 500)) or (0.0, 0.0)
    assert low < 0.5 < high < 0.6
