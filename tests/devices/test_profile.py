"""Device profiles: round trips, errors, lookup."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from autocompress.devices.profile import HOME_VARIABLE, DeviceProfile, list_profiles
from autocompress.errors import DeviceError
from autocompress.runtimes import base as runtimes
from autocompress.runtimes.capabilities import ELSEWHERE


@pytest.fixture
def data() -> dict[str, Any]:
    return {
        "name": "board",
        "threads": 2,
        "flash_bytes": 1_000_000,
        "latency": {"conv": {"float32": {"overhead_us": 1.5, "us_per_mmac": 8.25}, "int8": {}}},
        "calibration": {
            "points": 20,
            "held_out": 4,
            "median_error": 0.05,
            "p90_error": 0.2,
            "date": "2026-01-01",
        },
        "provenance": {"kind": "measured", "source": "a test"},
    }


def _write(folder: Path, data: dict[str, Any], name: str = "board") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_save_and_load_give_the_same_profile(data: dict[str, Any], tmp_path: Path) -> None:
    profile = DeviceProfile.parse(data)
    loaded = DeviceProfile.load(profile.save(tmp_path / "deep" / "board.yaml"))
    assert loaded == profile
    assert loaded.digest() == profile.digest()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["board.yaml"]


def test_digest_changes_with_any_coefficient(data: dict[str, Any]) -> None:
    before = DeviceProfile.parse(data).digest()
    data["latency"]["conv"]["float32"]["us_per_mmac"] = 8.26
    assert DeviceProfile.parse(data).digest() != before


def test_only_the_profile_named_host_is_this_machine(data: dict[str, Any]) -> None:
    assert not DeviceProfile.parse(data).is_this_machine
    assert DeviceProfile.parse(data | {"name": "host"}).is_this_machine


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"latency": {"conv": {"int8": {"overhead_us": -3}}}},
            "latency.conv.int8.overhead_us: must be >= 0, got -3",
        ),
        ({"thread": 4}, "thread: unknown key; did you mean 'threads'"),
        (
            {"latency": {"conv": {"int8": {"overhed_us": 1}}}},
            "latency.conv.int8.overhed_us: unknown key; did you mean 'overhead_us'",
        ),
        ({"version": 2}, "version: this autocompress reads profiles up to version 1, got 2"),
        ({"latency": {"conv": {"float32": {"us_per_mmac": float("nan")}}}}, "must be a finite number"),
        ({"latency": {}}, "latency: must hold the coefficients of at least one operator kind"),
        ({"latency": {"conv": {"int7": {}}}}, "latency.conv.int7: must be 'float32' or 'int8'"),
        ({"flash_bytes": 0}, "flash_bytes: must be > 0, got 0"),
        ({"int8_arithmetic": "wrong"}, "int8_arithmetic: must be 'exact' or 'saturating', got 'wrong'"),
        ({"name": "a b"}, "name: may hold letters"),
        ({"runtime": "tvm"}, "runtime: must be one of litert, ncnn, "),
        ({"device_class": "car"}, "device_class: must be 'board', 'phone', 'computer', 'gpu', 'npu', 'mcu' or 'fpga'"),
        ({"float_format": "bf16"}, "float_format: must be 'float32' or 'float16', got 'bf16'"),
        ({"active_power_mw": 0}, "active_power_mw: must be > 0, got 0"),
    ],
)
def test_bad_content_is_one_clear_sentence(
    data: dict[str, Any], tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    path = _write(tmp_path, data | change)
    with pytest.raises(DeviceError) as error:
        DeviceProfile.load(path)
    message = str(error.value)
    assert expected in message
    assert message.startswith(str(path))
    assert "\n" not in message


def test_every_runtime_says_what_it_executes() -> None:
    supports = [runtimes.support(name) for name in (*runtimes.names(), *ELSEWHERE)]
    assert all(support.way and support.weight_bits for support in supports)


def test_what_was_called_tflite_is_litert(data: dict[str, Any]) -> None:
    assert DeviceProfile.parse({**data, "runtime": "tflite"}).runtime == "litert"
    assert DeviceProfile.load("raspberry-pi-5-4threads.tflite") == DeviceProfile.load("raspberry-pi-5-4threads.litert")


def test_an_unknown_runtime_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(
        DeviceError, match=r"runtime: must be one of .* \(did you mean 'onnxruntime'\?\), got 'onnxrutime'"
    ):
        DeviceProfile.parse({**data, "runtime": "onnxrutime"})


@pytest.mark.parametrize(
    ("runtime", "formats", "bits"),
    [
        ("onnxruntime", ["float32"], {2, 4, 8, 16, 32}),
        ("qnn", ["float32", "int8"], {8, 32}),
        ("qnn", ["int8"], {8}),
        ("ncnn", ["float32"], {16, 32}),
        ("edgetpu", ["int8"], {8}),
    ],
)
def test_executable_bits_follow_the_runtime_and_the_measured_formats(
    data: dict[str, Any], runtime: str, formats: list[str], bits: set[int]
) -> None:
    latency = {"any": {dtype: {"us_per_mmac": 1.0} for dtype in formats}}
    assert DeviceProfile.parse(data | {"runtime": runtime, "latency": latency}).weight_bits == bits


def test_a_missing_key_is_named(data: dict[str, Any]) -> None:
    del data["provenance"]
    with pytest.raises(DeviceError, match="provenance: this key is required"):
        DeviceProfile.parse(data)


@pytest.mark.parametrize("content", ["- a list", "just text", "a: [unclosed", ""])
def test_a_file_that_is_no_mapping_is_a_device_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(DeviceError):
        DeviceProfile.load(path)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(DeviceError):
        DeviceProfile.load(path)


def test_the_users_own_profile_is_found_by_name(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    folder = tmp_path / "devices"
    folder.mkdir()
    _write(folder, data | {"name": "my-board"}, "my-board")
    assert "my-board" in list_profiles()
    assert DeviceProfile.load("my-board").name == "my-board"
    with pytest.raises(
        DeviceError, match=r"unknown device 'my-bord'; did you mean 'my-board'\? `autocompress devices`"
    ):
        DeviceProfile.load("my-bord")
    with pytest.raises(DeviceError, match=r"did you mean 'raspberry-pi-3b-plus', .* and \d+ more\? `autocompress dev"):
        DeviceProfile.load("Raspberry")
    _write(folder, data | {"name": "host"}, "host")
    with pytest.raises(DeviceError, match=r"did you mean 'host'\?"):
        DeviceProfile.load("hots")


def test_an_uncalibrated_host_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    with pytest.raises(DeviceError, match="calibrate it once"):
        DeviceProfile.load("host")
    with pytest.raises(DeviceError, match=r"calibrate it once .* calibrate --runtime openvino`"):
        DeviceProfile.load("host.openvino")
    with pytest.raises(DeviceError, match=r"unknown device 'host.rknn'"):  # it is never measured here
        DeviceProfile.load("host.rknn")


def test_every_shipped_profile_loads() -> None:
    from autocompress.devices.profile import shipped_profiles_folder

    for path in shipped_profiles_folder().glob("*.yaml"):
        profile = DeviceProfile.load(path)
        assert profile.name == path.stem
        assert profile.calibration is not None
        assert profile.provenance.source


def test_importing_device_and_workload_loads_no_framework() -> None:
    code = (
        "import sys, autocompress.devices.profile, autocompress.runtimes.workload, autocompress.devices.cost_model;"
        "bad = {'torch', 'onnx', 'onnxruntime', 'optuna'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
