"""Calibration: the plan, the tests of the machine and a whole (short) run."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from autocompress.device import DeviceProfile
from autocompress.errors import DeviceError
from autocompress.latency import calibrate, predict
from autocompress.latency.micro_models import plan
from autocompress.workload import Workload


def test_the_plan_is_deterministic_and_every_model_is_valid() -> None:
    first, second = plan(), plan()
    assert [m.name for m in first] == [m.name for m in second]
    for one, two in zip(first[::9], second[::9], strict=True):
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


@pytest.mark.slow
def test_a_short_calibration_gives_a_usable_profile(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps: list[float] = []
    profile = calibrate.calibrate_host(budget_s=6, progress=lambda share, text: steps.append(share))
    assert capfd.readouterr() == ("", "")
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert profile.is_this_machine
    assert profile.calibration is not None
    assert profile.calibration.points == len(plan())
    assert profile.calibration.held_out > 30
    assert DeviceProfile.load(profile.save(tmp_path / "host.yaml")).name == "host"
    work = Workload.from_onnx(onnx.load_from_string(plan()[0].make()))
    assert predict(profile, work).in_domain
    assert predict(profile, work).latency_ms > 0
