from __future__ import annotations

import math
from typing import Any

import pytest

from autocompress.devices.profile import DeviceProfile
from autocompress.errors import ConstraintError
from autocompress.recipes.recipe import Recipe
from autocompress.studies.constraints import Constraint, at_least, at_most, device_limits, max_accuracy_drop, met_by
from autocompress.studies.results import Evaluation
from autocompress.tasks.metric import Score


def evaluation(accuracy: float, latency_ms: float, size_bytes: int) -> Evaluation:
    score = Score(value=accuracy, low=accuracy, high=accuracy, n_samples=100, split="validation")
    return Evaluation(
        trial=0,
        recipe=Recipe(),
        recipe_digest=Recipe().digest(),
        state="complete",
        validation=score,
        predicted_latency_ms=latency_ms,
        size_bytes=size_bytes,
    )


BASE = evaluation(0.9, 4.0, 1000)


def test_violation_is_positive_only_when_broken() -> None:
    assert at_most("latency_ms", 2).violation(4) == pytest.approx(math.log(2))
    assert at_most("latency_ms", 2).violation(1) == pytest.approx(-math.log(2))
    assert at_least("latency_ms", 2).violation(1) == pytest.approx(math.log(2))
    assert at_least("accuracy", 0.9).violation(0.8) == pytest.approx(0.1)
    assert at_most("accuracy", 0.9).violation(0.8) == pytest.approx(-0.1)


def test_relative_limits_are_resolved_against_the_baseline() -> None:
    drop = max_accuracy_drop(0.02).resolve(BASE)
    assert (drop.quantity, drop.sense, drop.limit) == ("accuracy", "at least", pytest.approx(0.88))
    faster = at_most("latency_ms", 0.25, relative_to_baseline=True).resolve(BASE)
    assert (faster.sense, faster.limit, faster.relative_to_baseline) == ("at most", 1.0, False)
    assert at_most("size_bytes", 0.1, relative_to_baseline=True).resolve(BASE).limit == pytest.approx(100)
    absolute = at_most("size_bytes", 5)
    assert absolute.resolve(BASE) is absolute
    assert faster.resolve(BASE) is faster


def test_metrics_below_zero_have_limits_too() -> None:
    base = evaluation(-0.5, 4.0, 1000)
    drop = max_accuracy_drop(0.1).resolve(base)
    assert drop.limit == pytest.approx(-0.6)
    assert met_by(evaluation(-0.55, 4.0, 1000), [drop]) and not met_by(evaluation(-0.65, 4.0, 1000), [drop])
    assert met_by(base, [at_least("accuracy", -0.5)])
    with pytest.raises(ConstraintError, match="accuracy: the limit must be a number of at least 0, got -"):
        max_accuracy_drop(-0.1)


def test_texts_say_the_rule_and_its_origin() -> None:
    assert str(at_most("latency_ms", 2.5)) == "latency_ms at most 2.5"
    assert str(at_most("size_bytes", 0.5, relative_to_baseline=True)) == "size_bytes at most 0.5 of the fp32 baseline"
    assert str(max_accuracy_drop(0.01)) == "accuracy drop at most 0.01"
    text = max_accuracy_drop(0.01).resolve(BASE).broken_by(0.8, "validation")
    assert text == "accuracy must be at least 0.89 (accuracy drop at most 0.01), validation 0.8"


def test_met_by_needs_all_of_them() -> None:
    assert met_by(BASE, [at_most("latency_ms", 4), at_least("accuracy", 0.9), at_most("size_bytes", 1000)])
    assert not met_by(BASE, [at_most("latency_ms", 4), at_least("accuracy", 0.91)])
    assert met_by(BASE, [])


def test_memory_and_energy_are_quantities() -> None:
    known = BASE.model_copy(update={"peak_memory_bytes": 5000, "active_power_mw": 500.0})  # 4 ms at 0.5 W are 2 mJ
    assert met_by(known, [at_most("peak_memory_bytes", 5000), at_most("energy_mj", 2.0)])
    assert not met_by(known, [at_most("peak_memory_bytes", 4999)])
    assert not met_by(known, [at_most("energy_mj", 1.9)])
    half = at_most("energy_mj", 0.5, relative_to_baseline=True).resolve(known)
    assert (half.quantity, half.limit) == ("energy_mj", pytest.approx(1.0))


def test_an_unknown_quantity_keeps_no_limit() -> None:
    assert not met_by(BASE, [at_most("energy_mj", 1e9)])
    with pytest.raises(ConstraintError, match="the energy_mj of the fp32 baseline is not known"):
        at_most("energy_mj", 0.5, relative_to_baseline=True).resolve(BASE)


def test_the_memory_of_a_device_is_a_limit() -> None:
    device = DeviceProfile.load("raspberry-pi-4").model_copy(update={"flash_bytes": 1000, "ram_bytes": 300})
    assert [(c.quantity, c.sense, c.limit, c.because) for c in device_limits(device)] == [
        ("size_bytes", "at most", 1000, "flash of raspberry-pi-4"),
        ("peak_memory_bytes", "at most", 300, "RAM of raspberry-pi-4"),
    ]
    assert device_limits(device.model_copy(update={"flash_bytes": None, "ram_bytes": None})) == []


BAD: list[tuple[tuple[Any, ...], str]] = [
    (
        ("latency", "at most", 1.0),
        "no quantity 'latency'; known: accuracy, latency_ms, size_bytes, peak_memory_bytes, energy_mj",
    ),
    (("latency_ms", "below", 1.0), "the sense must be 'at most' or 'at least', got 'below'"),
    (("latency_ms", "at most", 0.0), "latency_ms at most 0: the limit must be above 0"),
    (("latency_ms", "at most", -1.0), "the limit must be a number of at least 0, got -1.0"),
    (("latency_ms", "at most", math.nan), "the limit must be a number of at least 0, got nan"),
    (("latency_ms", "at most", math.inf), "the limit must be a number of at least 0, got inf"),
    (("latency_ms", "at most", "40"), "the limit must be a number of at least 0, got '40'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_impossible_constraint_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        Constraint(*arguments)
    assert message in str(caught.value)
