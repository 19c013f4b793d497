"""OpenVINO beyond the conformance suite: a search in it, and a profile fitted to its times."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.plans import use_tiny_plan
from helpers.small import SPACE, device, small_task, space

from autocompress import Budget, DeviceProfile, search
from autocompress.devices.calibration.fit import calibrate_host
from autocompress.devices.profile import host_name
from autocompress.evaluation.evaluator import Evaluator
from autocompress.runtimes import base, timing
from autocompress.studies.folder import read_artifact

pytest.importorskip("openvino", reason="OpenVINO is not installed (extra openvino)")


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = timing.TimingProtocol(rounds=2, runs=1, warm_up=1, max_seconds=0.02, pause_s=0.0)
    monkeypatch.setattr(timing, "FAST", protocol)
    monkeypatch.setattr(timing, "THOROUGH", protocol)


def here() -> DeviceProfile:
    return device().model_copy(update={"name": host_name("openvino"), "runtime": "openvino"})


def test_a_search_judges_and_times_its_files_in_it(tmp_path: Path) -> None:
    task = small_task("mlp", n=64)
    found = search(task, here(), space(SPACE), budget=Budget(2), out=tmp_path / "study")
    assert found.settings.versions["openvino"] == base.get("openvino").version()
    measured = [e for e in found.evaluations if e.latency_source == "measured"]
    assert {e.kind for e in measured} >= {"baseline"}
    evaluator = Evaluator(task, here())
    for e in measured:
        file = read_artifact(found.path, e)
        assert evaluator.score(file, "validation").value == e.validation.value
        assert base.reference().load(file).outputs == list(evaluator.runtime.load(file).outputs), "an ONNX file"


def test_a_profile_is_fitted_to_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_plan(monkeypatch)
    profile = calibrate_host(budget_s=5, runtime="openvino")
    assert (profile.name, profile.runtime, profile.measured_with) == ("host.openvino", "openvino", "openvino")
    assert profile.is_this_machine and profile.reference_ms and profile.reference_ms > 0


def test_int8_layers_compute_in_integers() -> None:
    evaluator = Evaluator(small_task("resnet", n=64), here())
    file = evaluator.evaluate(evaluator.baselines()["int8"])[0].file
    assert int8_layers(file) >= 5


def int8_layers(file: bytes) -> int:
    """How many convolutions and linear layers of the compiled model read 8-bit integers."""
    import openvino as ov

    model = ov.Core().read_model(file)
    model.reshape([1, *model.input().partial_shape[1:]])
    nodes = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model().get_ops()
    kinds = [(n.get_rt_info()["layerType"].astype(str), n.get_rt_info()["runtimePrecision"].astype(str)) for n in nodes]
    return sum(kind in ("Convolution", "FullyConnected") and precision in ("u8", "i8") for kind, precision in kinds)
