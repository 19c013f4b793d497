from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume

from autocompress.errors import ConstraintError
from autocompress.recipes.recipe import Recipe
from autocompress.studies.front import ParetoFront, dominates
from autocompress.studies.results import Evaluation, State
from autocompress.tasks.metric import Score


def point(trial: int, accuracy: float, latency_ms: float, size_bytes: int, state: State = "complete") -> Evaluation:
    score = Score(value=accuracy, low=accuracy, high=accuracy, n_samples=100, split="validation")
    return Evaluation(
        trial=trial,
        recipe=Recipe(),
        recipe_digest=Recipe().digest(),
        state=state,
        validation=score,
        predicted_latency_ms=latency_ms,
        size_bytes=size_bytes,
    )


def cloud(seed: int, n: int, grid: int = 5) -> list[Evaluation]:
    """Points on a coarse grid, so that ties and equals occur."""
    rng = random.Random(seed)
    return [point(i, rng.randint(1, grid) / 10, rng.randint(1, grid), rng.randint(1, grid) * 100) for i in range(n)]


@pytest.mark.parametrize("seed", range(8))
def test_front_equals_the_naive_one(seed: int) -> None:
    points = cloud(seed, 60)
    naive = set()
    for p in points:
        a = p.objectives()
        beaten = any(
            b[0] >= a[0] and b[1] <= a[1] and b[2] <= a[2] and b != a for b in (q.objectives() for q in points)
        )
        earlier_twin = any(q.objectives() == a and q.trial < p.trial for q in points)
        if not beaten and not earlier_twin:
            naive.add(p.trial)
    random.Random(seed).shuffle(points)
    front = ParetoFront.of(points)
    assert {p.trial for p in front} == naive
    assert [p.latency_ms for p in front] == sorted(p.latency_ms for p in front)  # type: ignore[type-var]


def test_front_holds_complete_points_only() -> None:
    best = point(0, 0.99, 0.1, 1, "failed")
    front = ParetoFront.of([best, point(1, 0.9, 1, 100), point(2, 0.9, 1, 100)])
    assert [p.trial for p in front] == [1] and len(front) == 1 and front[0].trial == 1


def test_dominates_is_strict() -> None:
    assert dominates((0.9, 1, 1), (0.8, 1, 1))
    assert not dominates((0.9, 1, 1), (0.9, 1, 1))
    assert not dominates((0.9, 2, 1), (0.8, 1, 1))


def test_hypervolume_of_hand_computed_boxes() -> None:
    e = math.e
    reference = (0.5, e**2, e**3)  # in logarithms: accuracy 0.5, latency 2, size 3
    one = ParetoFront([point(0, 0.9, e, 1)])
    size = float(np.log(1))
    assert one.hypervolume(reference) == pytest.approx(0.4 * 1 * (3 - size))
    # (0.9, 1, 0) and (0.7, 0, 0): boxes 0.4 x 1 x 3 and 0.2 x 2 x 3, overlap 0.2 x 1 x 3
    two = ParetoFront([point(0, 0.9, e, 1), point(1, 0.7, 1, 1)])
    assert two.hypervolume(reference) == pytest.approx(1.2 + 1.2 - 0.6)
    outside = point(2, 0.4, 1e-3, 1)
    assert ParetoFront([*two, outside]).hypervolume(reference) == pytest.approx(1.8)
    assert ParetoFront([]).hypervolume(reference) == 0


@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_agrees_with_optuna(seed: int) -> None:
    rng = random.Random(seed)
    front = ParetoFront.of(
        point(i, rng.uniform(0.3, 1), rng.uniform(0.1, 10), rng.randint(10, 10_000)) for i in range(40)
    )
    reference = (0.5, 8.0, 8000.0)
    costs = np.array([(-a, math.log(t), math.log(s)) for a, t, s in (p.objectives() for p in front)])
    worst = np.array([-reference[0], math.log(reference[1]), math.log(reference[2])])
    inside = costs[(costs < worst).all(1)]
    assert len(inside) > 3
    assert front.hypervolume(reference) == pytest.approx(compute_hypervolume(inside, worst))


def test_hypervolume_grows_with_every_better_point() -> None:
    points = cloud(3, 30, grid=9)
    volumes = [ParetoFront.of(points[:n]).hypervolume((0.05, 20, 2000)) for n in range(1, 31)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(volumes)) and volumes[-1] > volumes[0]


FRONT = ParetoFront([point(4, 0.95, 10, 10_000), point(5, 0.9, 1, 2_000), point(6, 0.5, 0.8, 1_500)])


def test_select_obeys_limits_and_pick() -> None:
    assert FRONT.select().trial == 4
    assert FRONT.select("fastest").trial == 6
    assert FRONT.select("smallest", min_accuracy=0.8).trial == 5
    assert FRONT.select(max_latency_ms=2).trial == 5
    assert FRONT.select(max_size_bytes=1_999).trial == 6
    assert FRONT.select("knee").trial == FRONT.knee().trial == 5
    assert FRONT.select("knee", max_latency_ms=0.9).trial == 6
    assert FRONT.select(trial=6).trial == 6


def test_energy_follows_from_the_latency_that_counts() -> None:
    e = point(0, 0.9, 2.0, 100)
    assert e.energy_mj is None and e.as_row()["energy_mj"] is None
    powered = e.model_copy(update={"active_power_mw": 1500.0, "peak_memory_bytes": 700})
    assert powered.energy_mj == pytest.approx(3.0)
    assert powered.model_copy(update={"measured_latency_ms": 4.0}).energy_mj == pytest.approx(6.0)
    assert powered.as_row()["peak_memory_bytes"] == 700


def test_select_by_memory_and_energy() -> None:
    with pytest.raises(ConstraintError, match="no point of the front meets"):
        FRONT.select(max_memory_bytes=10**9)  # not known of any point
    known = ParetoFront(
        p.model_copy(update={"peak_memory_bytes": 10 * p.trial, "active_power_mw": 10.0}) for p in FRONT
    )
    assert known.select(max_memory_bytes=40).trial == 4
    assert known.select(max_energy_mj=0.009).trial == 6
    with pytest.raises(ConstraintError, match=r"memory 40 bytes, energy 0\.008 mJ"):
        known.select(max_memory_bytes=39)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_accuracy": 0.99}, "no point of the front meets these limits; it reaches accuracy 0.9500"),
        ({"max_latency_ms": 0.1}, "latency 0.800 ms, size 1,500 bytes (each on its own): loosen a limit"),
        ({"trial": 3}, "trial 3 is not on the front; the front holds the trials 6, 5, 4"),
        ({"trial": 4, "max_latency_ms": 1}, "no point of the front meets these limits"),
        ({"pick": "kneee"}, "no point called 'kneee' (did you mean 'knee'?); known: knee, fastest, smallest"),
    ],
)
def test_select_explains_what_cannot_be_met(limits: dict[str, object], message: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        FRONT.select(**limits)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_empty_front_says_so() -> None:
    for ask in (ParetoFront([]).select, ParetoFront([]).knee):
        with pytest.raises(ConstraintError, match="the front is empty: no candidate was completed"):
            ask()


def test_knee_of_one_point_and_of_equal_ranges() -> None:
    assert ParetoFront([FRONT[0]]).knee() is FRONT[0]
    same_size = ParetoFront([point(0, 0.9, 1, 100), point(1, 0.92, 100, 100), point(2, 0.91, 1.5, 100)])
    assert same_size.knee().trial == 2


def test_evaluation_survives_json_and_prefers_final_figures() -> None:
    e = point(0, 0.9, 2.0, 100)
    assert (e.latency_ms, e.latency_source, e.accuracy) == (2.0, "predicted", 0.9)
    test = Score(value=0.88, low=0.8, high=0.9, n_samples=50, split="test")
    final = e.model_copy(update={"measured_latency_ms": 2.5, "test": test, "seconds": {"training": 1.5}})
    assert (final.latency_ms, final.latency_source, final.accuracy) == (2.5, "measured", 0.88)
    assert final.objectives() == (0.9, 2.5, 100.0)  # selection never looks at the test split
    assert Evaluation.model_validate_json(final.model_dump_json()) == final
    row = final.as_row()
    assert (row["accuracy"], row["accuracy_split"], row["validation_accuracy"]) == (0.88, "test", 0.9)
    assert row["seconds"] == 1.5 and row["recipe"] == {"version": 1, "stages": []}
