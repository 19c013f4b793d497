"""Bundles: what is in the folder, running it with nothing but the standard packages, what comes back."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.plans import measurements, use_tiny_plan

from autocompress.devices.calibration import _bundle_runner as runner
from autocompress.devices.calibration.bundle import base_workload, hollow_out, read_result, write_bundle
from autocompress.devices.calibration.fit import fit_profile
from autocompress.devices.calibration.plan import MicroModel, plan
from autocompress.errors import DeviceError, InputError, MeasurementError
from autocompress.runtimes import _timing
from autocompress.runtimes.adapters.onnxruntime import session
from autocompress.runtimes.adapters.onnxruntime.reader import read_workload


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[MicroModel]:
    return use_tiny_plan(monkeypatch)


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Run the bundle's script in a bare interpreter: the package cannot be imported there.

    It hears Ctrl-C also where these tests are a background job of a shell, which ignores it.
    """
    command = [sys.executable, "-u", str(folder / "run.py"), *map(str, arguments)]
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment, preexec_fn=hear)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def saved(path: Path, data: dict[str, Any]) -> Path:
    runner.write_result(str(path), data)
    return path


def result(**fields: Any) -> dict[str, Any]:
    data: dict[str, Any] = measurements(**fields).model_dump(mode="json")
    return data


def test_the_runner_keeps_to_python_3_8_and_two_packages() -> None:
    imported = set()
    files = [Path(module.__file__).read_text(encoding="utf-8") for module in (runner, _timing, session)]
    for node in (n for text in files for n in ast.walk(ast.parse(text, feature_version=(3, 8)))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "autocompress", "_timing", "session"}


@pytest.mark.parametrize("interpreter", ["python3.8", "python3.9"])
def test_the_runner_starts_under_old_interpreters(interpreter: str, tmp_path: Path) -> None:
    found = shutil.which(interpreter)
    if found is None or subprocess.run([found, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"{interpreter} is not installed")
    shutil.copyfile(runner.__file__, tmp_path / "run.py")
    shutil.copyfile(_timing.__file__, tmp_path / "_timing.py")
    shutil.copyfile(session.__file__, tmp_path / "session.py")
    (tmp_path / "numpy.py").write_text("def __getattr__(name): return None\n")  # only to be imported
    done = subprocess.run([found, str(tmp_path / "run.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def test_hollow_models_become_whole_again(models: list[MicroModel], tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    bundle = runner.Bundle(str(folder))
    assert [entry["name"] for entry in bundle.manifest["models"]] == [model.name for model in models]
    for model, (name, source) in zip(models, bundle.sources().items(), strict=True):
        whole, original = onnx.load_from_string(source()), onnx.load_from_string(model.make())
        onnx.checker.check_model(whole)
        assert read_workload(whole) == read_workload(original), name
        assert len(source()) == len(model.make())


def test_every_large_weight_of_the_real_plan_is_left_out() -> None:
    large = next(model for model in plan() if model.name.startswith("large/fp32"))
    for model in (large, next(model for model in plan() if model.name.startswith("net/int8"))):
        content = model.make()
        hollow, holes = hollow_out(content)
        left = sum(len(t.raw_data) for t in onnx.load_from_string(content).graph.initializer if len(t.raw_data) < 4096)
        assert len(hollow) < left + 60_000
        assert holes


def test_the_filler_is_steady_and_spreads() -> None:
    values = runner.filler(200_000, "float32", 0.5)
    assert values.dtype == np.float32 and np.array_equal(values, runner.filler(200_000, "float32", 0.5))
    assert 10 < values.std() < 30 and abs(values.mean()) < 1
    assert runner.filler(9, "int8", 1.0).dtype == np.int8


def test_a_run_gives_a_profile(models: list[MicroModel], tmp_path: Path) -> None:
    base = tmp_path / "mine.onnx"
    base.write_bytes(models[0].make())
    folder = write_bundle(tmp_path / "b", base)
    assert sum(f.stat().st_size for f in folder.iterdir()) < 1_000_000
    code, err = finish(start(folder, "--seconds", 2))
    assert code == 0, err
    assert "of 13 models" in err and "left" in err
    measured = read_result(folder / "result.json", accept_unsteady=True)
    assert measured.complete and measured.threads == 1
    assert [t.name for t in measured.timings] == [*(m.name for m in models), "base"]
    profile = fit_profile(measured, "board", base_workload(measured, base))
    assert profile.calibration is not None
    assert "base" in profile.calibration.held_out_ms and profile.calibration.degree == "full"
    other = tmp_path / "other.onnx"
    other.write_bytes(models[2].make())
    with pytest.raises(DeviceError, match="not the model that was measured"):
        base_workload(measured, other)
    code, err = finish(start(folder))
    assert code == 0 and "holds a complete result already" in err


def test_an_interrupted_run_is_refused_and_goes_on(models: list[MicroModel], tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    script = folder / "run.py"
    script.write_text(script.read_text().replace("BATCH = 12", "BATCH = 2"))
    process = start(folder, "--seconds", 10)
    assert process.stderr is not None
    process.stderr.readline()  # after the first batch
    process.send_signal(signal.SIGINT)
    code, err = finish(process)
    assert code == 130 and "goes on where it stopped" in err
    path = folder / "result.json"
    before = json.loads(path.read_text())
    assert not before["complete"] and before["timings"]
    before["timings"] = before["timings"][:1]
    saved(path, before)
    with pytest.raises(DeviceError, match=r"interrupted, 11 of 12 models are missing; start run.py"):
        read_result(path)
    code, err = finish(start(folder, "--seconds", 2))
    assert code == 0 and "going on after 1 of 12 models" in err
    after = json.loads(path.read_text())
    assert after["complete"] and after["started"] == before["started"] and after["seconds"] > before["seconds"]
    assert [row["name"] for row in after["timings"]] == [model.name for model in models]


def test_a_damaged_bundle_says_so(models: list[MicroModel], tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    (folder / "models.zip").write_bytes((folder / "models.zip").read_bytes()[:2000])
    code, err = finish(start(folder))
    assert code == 1 and "cannot be used" in err and "Traceback" not in err
    assert not (folder / "result.json").exists()


def test_models_that_the_runtime_refuses_are_left_out() -> None:
    def broken() -> bytes:
        return b"no model"

    good = plan()[-2].make
    timings, refused = runner.measure_models(
        {"a": good, "b": broken}, good, session.load, 1, 0.1, lambda rows, words: None
    )
    assert [row["name"] for row in timings] == ["a"] and refused == ["b"]


def test_unsteady_timings_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def source(name: str) -> Callable[[], bytes]:
        def make() -> bytes:
            made.append(name)
            return bytes(plan()[-2].make())

        return make

    monkeypatch.setattr(runner, "_unrest", lambda row, timings: float(row["name"] == "b"))
    runner.measure_models(
        {n: source(n) for n in "ab"}, source("reference"), session.load, 1, 60.0, lambda rows, words: None
    )
    assert made == ["reference", *"ab", *"ab", "b"]  # all twice, and the unsteady one again


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"throttled": True}, MeasurementError, "lowered its clock because of heat; stop other programs"),
        ({"plan_digest": "0" * 16}, DeviceError, "write the bundle anew"),
        ({"complete": False}, DeviceError, "interrupted, 0 of 12"),
    ],
)
def test_results_that_cannot_be_trusted(
    models: list[MicroModel], tmp_path: Path, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    path = saved(tmp_path / "result.json", result(**fields))
    with pytest.raises(error, match=words):
        read_result(path)


def test_a_throttled_result_can_be_accepted(models: list[MicroModel], tmp_path: Path) -> None:
    path = saved(tmp_path / "result.json", result(throttled=True))
    assert "lowered its clock" in fit_profile(read_result(path, accept_unsteady=True), "t").caveats[0]


def test_too_old_a_runtime_is_refused(models: list[MicroModel], tmp_path: Path) -> None:
    timings = measurements().timings
    fields = {"timings": timings[4:], "refused": tuple(t.name for t in timings[:4])}
    path = saved(tmp_path / "result.json", result(**fields))
    with pytest.raises(DeviceError, match="cannot run 4 of 12 models; install a newer one"):
        read_result(path)


def test_files_that_are_no_result(models: list[MicroModel], tmp_path: Path) -> None:
    path = saved(tmp_path / "result.json", result())
    data = json.loads(path.read_text())
    data["timings"][0]["latency_ms"] *= 0.5
    path.write_text(json.dumps(data))
    with pytest.raises(DeviceError, match="does not match its checksum"):
        read_result(path)
    path.write_text(json.dumps(data)[:-50])
    with pytest.raises(DeviceError, match="not JSON, or it was cut"):
        read_result(path)
    path.write_text('{"a": 1}')
    with pytest.raises(DeviceError, match="not a result of run"):
        read_result(path)
    with pytest.raises(DeviceError, match=r"none.json: cannot be read: No such file"):
        read_result(tmp_path / "none.json")


def test_a_bundle_is_written_whole_or_not_at_all(
    models: list[MicroModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(InputError, match="new or empty folder"):
        write_bundle(tmp_path / "full")
    with pytest.raises(InputError, match=r"none.onnx: cannot be read: No such file"):
        write_bundle(tmp_path / "b", tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(InputError, match=r"text.onnx: not a usable ONNX model"):
        write_bundle(tmp_path / "b", tmp_path / "text.onnx")
    monkeypatch.setattr(shutil, "copyfile", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "text.onnx"]
