"""Measurements that contradict their prediction or a file with the same kernels."""

from __future__ import annotations

from autocompress.controller.doubts import contradictions, is_repeated
from autocompress.recipes.recipe import Recipe
from autocompress.studies.results import Evaluation, ExitSummary


def point(trial: int, predicted_ms: float, measured_ms: float, kernels: str = "") -> Evaluation:
    return Evaluation(
        trial=trial,
        recipe=Recipe(),
        recipe_digest="",
        state="complete",
        predicted_latency_ms=predicted_ms,
        measured_latency_ms=measured_ms,
        workloads=(kernels or f"of {trial}",),
    )


def study(factor: float = 1.3) -> list[Evaluation]:
    """Predictions that are all off by one factor, give or take 4 %."""
    return [point(k, 0.1 * k, 0.1 * k * factor * (1.04 if k % 2 else 0.96)) for k in range(1, 9)]


def test_a_common_factor_is_the_profile_and_no_contradiction() -> None:
    assert contradictions(study(), 0.1) == {}
    assert contradictions(study(0.5), 0.1) == {}


def test_a_point_far_from_the_others_is_suspect() -> None:
    found = contradictions([*study(), point(20, 0.1, 0.246)], 0.1)
    assert list(found) == [20] and not found[20].by_twin
    assert found[20].reason.endswith("0.1352 ms")


def test_a_twin_that_was_faster_contradicts_and_one_that_took_as_long_confirms() -> None:
    slow, fast = point(20, 0.102, 0.246, "same"), point(21, 0.102, 0.113, "same")
    found = contradictions([*study(), slow, fast], 0.1)
    assert list(found) == [20] and found[20].by_twin
    assert found[20].reason == "0.246 ms, a file with the same kernels took 0.113 ms"
    also_slow = point(21, 0.102, 0.240, "same")
    assert contradictions([*study(), slow, also_slow], 0.1) == {}


def test_few_points_are_judged_by_the_error_of_the_profile() -> None:
    points = [point(1, 0.1, 0.11), point(2, 0.2, 0.55)]
    assert list(contradictions(points, 0.3)) == [2]
    assert contradictions(points, 1.0) == {}


def test_with_exits_twins_are_compared_on_the_longest_path() -> None:
    exit_ = ExitSummary(place="p", threshold=0.5, rate=0.5, latency_ms=0.05, accuracy=1.0)
    late, early = (
        point(k, 0.1, ms, "same").model_copy(update={"exits": (exit_, exit_), "worst_case_latency_ms": 0.12})
        for k, ms in ((20, 0.119), (21, 0.06))
    )
    assert contradictions([*study(1.0), late, early], 0.1) == {}


def test_points_without_a_measurement_are_not_judged() -> None:
    assert contradictions([*study(), point(20, 0.1, 0.5).model_copy(update={"measured_latency_ms": None})], 0.1) == {}


def test_two_measurements_agree_or_not() -> None:
    assert is_repeated(point(1, 1, 1.0), point(1, 1, 1.15)) and not is_repeated(point(1, 1, 1.0), point(1, 1, 1.3))
