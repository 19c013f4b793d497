"""Calibration: the plan, the tests of the machine, measuring and fitting on a plan of a few nets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.plans import measurements, use_tiny_plan, workload

from autocompress.devices.calibration import _bundle_runner as runner
from autocompress.devices.calibration import fit
from autocompress.devices.calibration.measurements import Measurements
from autocompress.devices.calibration.micro_nets import extreme_model
from autocompress.devices.calibration.plan import EXIT_PAIR, plan, plan_digest
from autocompress.devices.cost_model import predict
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import DeviceError
from autocompress.runtimes.adapters.onnxruntime import session
from autocompress.runtimes.adapters.onnxruntime.inside import optimized_op_counts
from autocompress.runtimes.adapters.onnxruntime.reader import read_workload


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
            work = read_workload(onnx.load_from_string(model.make()))
            assert {op.dtype for op in work.ops if op.macs} == {"int8"}


def test_micro_models_run_on_the_kernels_of_deployed_files() -> None:
    """With a fixed batch, or quantisers everywhere, ONNX Runtime would fuse them to others."""
    counts = {}
    for model in plan():
        if model.make.func.__name__ == "transformer" and model.name.split("/")[1] not in counts:
            counts[model.name.split("/")[1]] = optimized_op_counts(onnx.load_from_string(model.make()))
    assert counts["fp32"]["MatMul"] and counts["fp32"]["Add"] and not counts["fp32"]["Gemm"]
    assert counts["int8"]["MatMulIntegerToFloat"] and not counts["int8"]["QLinearSoftmax"]
    pooled = next(m for m in plan() if m.name.startswith("pool/int8"))
    assert not optimized_op_counts(onnx.load_from_string(pooled.make()))["DequantizeLinear"]


@pytest.mark.parametrize(("threads", "budget_s"), [(0, 60.0), (1, 1.0), (1, float("nan"))])
def test_impossible_settings_are_refused(threads: int, budget_s: float) -> None:
    with pytest.raises(DeviceError, match="calibration needs threads >= 1 and budget_s >= 5"):
        fit.calibrate_host(threads, budget_s)


def test_the_machine_is_described() -> None:
    facts = runner.machine_facts(extreme_model(), session.load)
    assert facts["processor"] and facts["cores"] >= 1
    assert isinstance(facts["int8_saturates"], bool)
    assert fit.channel_block(("avx512f",)) == 16
    assert fit.channel_block(("avx2",)) == 8


def test_fitting_keeps_measured_and_held_out_prediction_of_every_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_tiny_plan(monkeypatch)
    measured = measurements()
    profile = fit.fit_profile(measured, "my-board")
    assert (profile.name, profile.threads, profile.processor) == ("my-board", 2, "Cortex-A72")
    assert profile.int8_arithmetic == "saturating"
    assert profile.if_overhead_us == pytest.approx(20.0)
    assert profile.reference_ms == pytest.approx(0.5)
    calibration = profile.calibration
    assert calibration is not None
    assert set(calibration.held_out_ms) == {t.name for t in measured.timings} - set(EXIT_PAIR)
    for timing in measured.timings:
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


def test_a_point_is_not_predicted_by_a_fit_that_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the latency of one net must show as an error of that net."""
    use_tiny_plan(monkeypatch)
    timings = list(measurements().timings)
    timings[2] = timings[2].model_copy(update={"latency_ms": timings[2].latency_ms * 10})
    calibration = fit.fit_profile(measurements(timings=tuple(timings)), "t").calibration
    assert calibration is not None and calibration.degree == "full"
    ms, predicted = calibration.held_out_ms[timings[2].name]
    assert predicted < 0.5 * ms


def test_the_base_model_is_fitted_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    models = use_tiny_plan(monkeypatch)
    timings = measurements().timings
    base = timings[0].model_copy(update={"name": "base"})
    measured = measurements(timings=(*timings, base), base_sha256="0" * 64)
    with_base = fit.fit_profile(measured, "t", workload(models[0])).calibration
    without = fit.fit_profile(measured, "t").calibration
    assert with_base is not None and "base" in with_base.held_out_ms
    assert without is not None and "base" not in without.held_out_ms


def test_doubts_about_a_run_become_caveats(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_plan(monkeypatch)
    assert fit.fit_profile(measurements(), "t").caveats == ()
    hot = fit.fit_profile(measurements(throttled=True), "t").caveats
    assert len(hot) == 1 and "lowered its clock" in hot[0]
    timings = measurements().timings
    old = measurements(timings=timings[1:], refused=(timings[0].name,))
    assert "onnxruntime 1.20.0 cannot run 1 models" in fit.fit_profile(old, "t").caveats[0]


def test_measurements_survive_a_file(tmp_path: Path) -> None:
    measured = measurements()
    path = measured.save(tmp_path / "result.json")
    assert Measurements.parse(json.loads(path.read_text()), str(path)) == measured
    assert measured.slowdown == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        ({"throttled": True}, "lowered its clock"),
        ({"slow": 1.5}, "50% slower"),
        ({"spread": 0.2}, "differ by 20%"),
    ],
)
def test_an_unsteady_run_says_why(fields: dict[str, float], words: str) -> None:
    timings = []
    for k, timing in enumerate(measurements().timings):
        slow = fields.get("slow", 1.0) if k % 2 else 1.0
        spread = fields.get("spread", timing.spread)
        timings.append(timing.model_copy(update={"reference_ms": 0.5 * slow, "spread": spread}))
    measured = measurements(timings=tuple(timings), throttled=bool(fields.get("throttled")))
    assert (words in measured.unsteadiness) if words else measured.unsteadiness == ""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "has no 'version'"),
        ({"version": 99}, "up to version 1, got 99; upgrade"),
        ({"version": 1, "threads": 0}, "threads: input should be greater than or equal to 1"),
    ],
)
def test_what_is_no_measurement_is_refused(data: object, words: str) -> None:
    if isinstance(data, dict) and "threads" in data:
        data = {**measurements().model_dump(mode="json"), **data}
    with pytest.raises(DeviceError, match=words):
        Measurements.parse(data, "result.json")


def test_measurements_of_another_plan_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_plan(monkeypatch)
    timings = measurements().timings
    foreign = timings[0].model_copy(update={"name": "unheard-of"})
    with pytest.raises(DeviceError, match="'unheard-of', which is not in this plan"):
        fit.fit_profile(measurements(timings=(*timings, foreign)), "t")


def test_a_short_calibration_gives_a_usable_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models = use_tiny_plan(monkeypatch)
    steps: list[float] = []
    profile = fit.calibrate_host(budget_s=5, progress=lambda share, text: steps.append(share))
    assert capfd.readouterr() == ("", "")
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert profile.is_this_machine
    assert profile.calibration is not None
    assert profile.calibration.points == len(models) - 2
    assert DeviceProfile.load(profile.save(tmp_path / "host.yaml")).name == "host"
    work = workload(models[0])
    assert predict(profile, work).in_domain
    assert predict(profile, work).latency_ms > 0
