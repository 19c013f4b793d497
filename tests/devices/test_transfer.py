"""A device under another runtime than the one that was measured."""

from __future__ import annotations

import pytest

from autocompress.devices import cost_model
from autocompress.devices.profile import DeviceProfile, list_profiles
from autocompress.devices.transfer import transfers, under
from autocompress.runtimes.workload import Op, Workload


def conv(dtype: str) -> Workload:
    size = 1 if dtype == "int8" else 4
    ops = Op("conv", dtype, "c", 4096 * 9 * 64 * 64, 4096 * 64 * size, 4096 * 64 * size, 36864 * size, 64, 64, (3, 3))
    return Workload((ops,))


def test_a_profile_names_the_runtime_that_was_timed() -> None:
    own, files = DeviceProfile.load("raspberry-pi-4.ncnn"), DeviceProfile.load("raspberry-pi-4")
    assert own.runtime == own.measured_with == "ncnn" and not own.transferred_from and not own.transfer_note
    assert (files.name, files.runtime, files.transferred_from) == ("raspberry-pi-4", "onnxruntime", "ncnn")
    assert "one measured number helps most" in files.transfer_note and files.support.early_exits


def test_moved_times_are_less_certain_and_int8_least() -> None:
    for device in ("raspberry-pi-4", "raspberry-pi-5", "snapdragon-865-fp32", "amd-epyc-7742"):
        files = DeviceProfile.load(device)
        own = DeviceProfile.load(f"{device}.{files.transferred_from}")
        assert files.error_of("int8") > files.error_of("float32") > own.expected_error


def test_the_interval_is_that_of_the_number_format() -> None:
    files = DeviceProfile.load("raspberry-pi-4")
    for dtype in ("float32", "int8"):
        estimate = cost_model.predict(files, conv(dtype))
        assert estimate.high_ms / estimate.latency_ms == pytest.approx(1 + files.error_of(dtype))  # type: ignore[arg-type]


def test_half_precision_in_ncnn_is_no_half_precision_in_onnx_runtime() -> None:
    own, files = DeviceProfile.load("raspberry-pi-5.ncnn"), DeviceProfile.load("raspberry-pi-5")
    assert (own.float_format, files.float_format) == ("float16", "float32")
    ratio = cost_model.predict(files, conv("float32")).latency_ms / cost_model.predict(own, conv("float32")).latency_ms
    assert 2 < ratio < 7


def test_a_format_that_was_not_timed_under_the_runtime_is_moved_and_said() -> None:
    timed, files = (
        DeviceProfile.load("raspberry-pi-5-4threads.onnxruntime"),
        DeviceProfile.load("raspberry-pi-5-4threads"),
    )
    assert timed.dtypes == {"float32"} and files.dtypes == {"float32", "int8"}
    assert files.error_of("float32") == timed.expected_error < files.error_of("int8")
    assert files.transfer_note.startswith("int8: not measured under onnxruntime")
    assert cost_model.predict(files, conv("float32")) == cost_model.predict(timed, conv("float32"))


def test_every_device_loads_by_its_name_without_a_runtime() -> None:
    for name in list_profiles():
        if name.endswith((".ncnn", ".litert", ".paddle-lite")):
            device = name.rpartition(".")[0]
            files = DeviceProfile.load(device)
            assert files.name == device and files.runtime == "onnxruntime" and files.transfer_note


def test_what_was_learnt_beats_the_general_factor() -> None:
    board, pc = DeviceProfile.load("raspberry-pi-4.ncnn"), DeviceProfile.load("amd-epyc-7742.ncnn")
    assert any("raspberry-pi-4-4threads" in caveat for caveat in under(board, "onnxruntime", "x").caveats)
    assert any("no device has public times under both" in caveat for caveat in under(pc, "onnxruntime", "x").caveats)
    assert all(known.spread > 0.2 and known.basis for known in transfers())
