"""Calibration: the plan, the tests of the machine, measuring and fitting on a plan of a few nets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from autocompress.device import DeviceProfile
from autocompress.errors import DeviceError
from autocompress.latency import calibrate, predict
from autocompress.latency.measurements import Machine, Measurements, ModelTiming
from autocompress.latency.micro_models import EXIT_PAIR, MicroModel, plan, plan_digest
from autocompress.workload import Workload

Make = Callable[..., Measurements]


@pytest.fixture
def tiny_plan(monkeypatch: pytest.MonkeyPatch) -> list[MicroModel]:
    """Ten nets and the exit pair instead of three hundred."""
    models = [m for m in plan() if m.name.split("/")[0] in {"add", "mul", "mlp"}][:10] + plan()[-2:]
    monkeypatch.setattr(calibrate, "plan", lambda: models)
    return models


@pytest.fixture
def measured(tiny_plan: list[MicroModel]) -> Make:
    """Measurements of the tiny plan that follow a simple law; keywords replace fields."""

    def make(**fields: Any) -> Measurements:
        timings = []
        for k, model in enumerate(tiny_plan):
            work = Workload.from_onnx(onnx.load_from_string(model.make()))
            us = 5.0 + sum(2.0 + op.macs / 1e3 + op.bytes_moved / 1e4 for op in work.ops if op.kind != "if")
            us += 40.0 * (model.name == EXIT_PAIR[1])
            slow = 1.0 + 0.1 * (k % 3 == 0)
            timings.append(
                ModelTiming(
                    name=model.name, latency_ms=us * slow / 1e3, reference_ms=0.5 * slow, spread=0.01, at_s=float(k)
                )
            )
        data = {
            "plan_version": 1,
            "plan_digest": plan_digest(tiny_plan),
            "runtime_version": "1.20.0",
            "threads": 2,
            "machine": Machine(
                processor="Cortex-A72", int8_saturates=True, cores=4, system="Linux aarch64", instruction_set=("asimd",)
            ),
            "started": "2026-11-22T08:00:00+00:00",
            "seconds": 61.0,
            "complete": True,
            "timings": tuple(timings),
        }
        return Measurements(**{**data, **fields})

    return make


def test_the_plan_is_deterministic_and_every_model_is_valid() -> None:
    first, second = plan(), plan()
    assert plan_digest(first) == plan_digest(second)
    assert len({m.name for m in first}) == len(first)
    for one, two in zip(first[::9] + first[-2:], second[::9] + second[-2:], strict=True):
        content = one.make()
        assert content == two.make()
        onnx.checker.check_model(onnx.load_from_string(content))


def test_int8_micro_models_are_int8_in_the_workload() -> None:
    for model in plan():
        if "chain" in model.name and "int8" in model.name:
            work = Workload.from_onnx(onnx.load_from_string(model.make()))
            assert {op.dtype for op in work.ops if op.macs} == {"int8"}


@pytest.mark.parametrize(("threads", "budget_s"), [(0, 60.0), (1, 1.0), (1, float("nan"))])
def test_impossible_settings_are_refused(threads: int, budget_s: float) -> None:
    with pytest.raises(DeviceError, match="calibration needs threads >= 1 and budget_s >= 5"):
        calibrate.calibrate_host(threads, budget_s)


def test_the_machine_is_described() -> None:
    assert calibrate.processor_name()
    assert isinstance(calibrate.int8_saturates(), bool)
    assert calibrate.channel_block(("avx512f",)) == 16
    assert calibrate.channel_block(("avx2",)) == 8


def test_fitting_keeps_measured_and_held_out_prediction_of_every_point(measured: Make, tmp_path: Path) -> None:
    measurements = measured()
    profile = calibrate.fit_profile(measurements, "my-board")
    assert (profile.name, profile.threads, profile.processor) == ("my-board", 2, "Cortex-A72")
    assert profile.int8_arithmetic == "saturating"
    assert profile.if_overhead_us == pytest.approx(20.0)
    assert profile.reference_ms == pytest.approx(0.5)
    calibration = profile.calibration
    assert calibration is not None
    assert set(calibration.held_out_ms) == {t.name for t in measurements.timings} - set(EXIT_PAIR)
    for timing in measurements.timings:
        if timing.name not in EXIT_PAIR:  # a clock that was lower in a batch is taken out by the reference net
            full_speed = timing.latency_ms * 0.5 / timing.reference_ms
            assert calibration.held_out_ms[timing.name][0] == pytest.approx(full_speed, rel=1e-3)
    errors = [abs(predicted / ms - 1) for ms, predicted in calibration.held_out_ms.values()]
    assert calibration.median_error == pytest.approx(np.median(errors), abs=1e-3)
    path = profile.save(tmp_path / "my-board.yaml")
    again = DeviceProfile.load(path)
    assert again.calibration is not None
    assert again.calibration.held_out_ms == calibration.held_out_ms
    rows = [line for line in path.read_text().splitlines() if "/fp32/" in line or "/int8/" in line]
    assert len(rows) == len(calibration.held_out_ms), "one readable line per point"


def test_a_point_is_not_predicted_by_a_fit_that_saw_it(measured: Make) -> None:
    """Ten times the latency of one net must show as an error of that net."""
    timings = list(measured().timings)
    timings[2] = timings[2].model_copy(update={"latency_ms": timings[2].latency_ms * 10})
    calibration = calibrate.fit_profile(measured(timings=tuple(timings)), "t").calibration
    assert calibration is not None
    ms, predicted = calibration.held_out_ms[timings[2].name]
    assert predicted < 0.5 * ms


def test_measurements_survive_a_file(measured: Make, tmp_path: Path) -> None:
    measurements = measured()
    path = measurements.save(tmp_path / "result.json")
    assert Measurements.parse(json.loads(path.read_text()), str(path)) == measurements
    assert measurements.slowdown == pytest.approx(0.1)


def test_measurements_of_another_plan_are_refused(measured: Make) -> None:
    timings = measured().timings
    with pytest.raises(DeviceError, match="'unheard-of', which is not in this plan"):
        calibrate.fit_profile(measured(timings=(*timings, timings[0].model_copy(update={"name": "unheard-of"}))), "t")


def test_a_short_calibration_gives_a_usable_profile(
    tiny_plan: list[MicroModel], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[float] = []
    profile = calibrate.calibrate_host(budget_s=5, progress=lambda share, text: steps.append(share))
    assert capfd.readouterr() == ("", "")
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert profile.is_this_machine
    assert profile.calibration is not None
    assert profile.calibration.points == len(tiny_plan) - 2
    assert DeviceProfile.load(profile.save(tmp_path / "host.yaml")).name == "host"
    work = Workload.from_onnx(onnx.load_from_string(tiny_plan[0].make()))
    assert predict(profile, work).in_domain
    assert predict(profile, work).latency_ms > 0
