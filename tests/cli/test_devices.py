"""The `devices` commands end to end, on a plan of a few nets."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from helpers.plans import law_ms, measurements, use_tiny_plan
from test_cli import Run, run

from autocompress.devices.calibration import _bundle_runner as runner
from autocompress.devices.calibration.adapt import EXPECTED
from autocompress.devices.calibration.plan import MicroModel
from autocompress.devices.profile import DeviceProfile

__all__ = ["run"]  # the fixture


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[MicroModel]:
    return use_tiny_plan(monkeypatch)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    path = tmp_path / "result.json"
    runner.write_result(str(path), measurements().model_dump(mode="json"))
    return path


@pytest.fixture
def base(models: list[MicroModel], tmp_path: Path) -> Path:
    path = tmp_path / "mine.onnx"
    path.write_bytes(models[2].make())
    return path


def written(name: str, tmp_path: Path) -> DeviceProfile:
    return DeviceProfile.load(tmp_path / f"home/devices/{name}.yaml")


def test_a_bundle_is_written(run: Run, models: list[MicroModel], base: Path, tmp_path: Path) -> None:
    done = run("devices", "bundle", "board", "--out", tmp_path / "b", "--base-model", base)
    assert done.code == 0
    assert f"calibrate board --from result.json --base-model {base}" in done.out
    assert {p.name for p in (tmp_path / "b").iterdir()} == {
        "README.txt",
        "run.py",
        "_timing.py",
        "session.py",
        "models.zip",
        "base.onnx",
    }
    run("devices", "bundle", "board", "--out", tmp_path / "b").refused("new or empty folder")
    run("devices", "bundle", "../b", "--out", tmp_path / "c").refused("letters, digits")


def test_a_result_becomes_a_profile(run: Run, models: list[MicroModel], result: Path, tmp_path: Path) -> None:
    done = run("devices", "calibrate", "board", "--from", result)
    assert done.code == 0 and "10 graphs measured, 10 of them predicted by fits without them" in done.out
    assert "full: the whole plan was measured on the device" in done.out
    assert written("board", tmp_path).processor == "Cortex-A72"
    elsewhere = tmp_path / "elsewhere/board.yaml"
    assert run("devices", "calibrate", "board", "--from", result, "--out", elsewhere).code == 0
    assert DeviceProfile.load(elsewhere) == written("board", tmp_path)


def test_a_result_that_is_refused_writes_nothing(run: Run, models: list[MicroModel], tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    runner.write_result(str(path), measurements(throttled=True).model_dump(mode="json"))
    run("devices", "calibrate", "board", "--from", path).refused("lowered its clock", "--accept-unsteady", code=1)
    assert not (tmp_path / "home").exists()
    done = run("devices", "calibrate", "board", "--from", path, "--accept-unsteady")
    assert done.code == 0 and "note: during calibration the device reported" in done.err
    assert "lowered its clock" in run("devices", "show", "board").out


def test_predicted_against_measured_is_drawn(run: Run, models: list[MicroModel], result: Path, tmp_path: Path) -> None:
    run("devices", "calibrate", "board", "--from", result)
    html = tmp_path / "board.html"
    shown = run("devices", "show", "board", "--html", html)
    assert shown.code == 0 and f"wrote {html}" in shown.out
    assert "degree of calibration: full" in shown.out
    assert "predicted against measured, 10 graphs" in shown.out and "predicted worst" in shown.out
    text = html.read_text().replace("\\u002f", "/")
    assert all(model.name in text for model in models[:10]) and "+-10 %" in text


def test_one_number_moves_a_shipped_profile(run: Run, base: Path, models: list[MicroModel], tmp_path: Path) -> None:
    arguments = ("devices", "calibrate", "mine", "--like", "raspberry-pi-4")
    done = run(*arguments, "--base-model", base, "--latency-ms", 12.3)
    assert done.code == 0 and "one measured latency" in done.out
    profile = written("mine", tmp_path)
    assert (
        profile.calibration is not None and profile.calibration.median_error == EXPECTED["runtime"]["float32"][1].median
    )
    shown = run("devices", "show", "mine").out
    assert "degree of calibration: one" in shown and "raspberry-pi-4" in shown and "public data" in shown
    run("devices", "show", "mine", "--html", tmp_path / "no.html").refused("keeps no calibration points")
    assert not (tmp_path / "no.html").exists()


def test_several_numbers_are_given_one_after_the_other(
    run: Run, base: Path, models: list[MicroModel], tmp_path: Path
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(models[0].make())
    numbers = ("--base-model", base, "--latency-ms", 12.3, "--base-model", other, "--latency-ms", 3)
    assert run("devices", "calibrate", "mine", "--like", "raspberry-pi-4", *numbers).code == 0
    calibration = written("mine", tmp_path).calibration
    assert calibration is not None and calibration.points == 2
    run("devices", "calibrate", "mine", "--like", "raspberry-pi-4", *numbers[:-2]).refused("as many --latency-ms")


def test_a_base_model_with_free_sizes_needs_them(
    run: Run, base: Path, models: list[MicroModel], tmp_path: Path
) -> None:
    model = onnx.load(base)
    dim = model.graph.input[0].type.tensor_type.shape.dim[1]
    width, dim.dim_param = dim.dim_value, "width"
    onnx.save(model, base)
    arguments = ("devices", "calibrate", "mine", "--like", "raspberry-pi-4", "--base-model", base, "--latency-ms", 12.3)
    run(*arguments).refused("'input' has free dimensions beside the batch (width)", "--shape input=1xSIZE")
    assert run(*arguments, "--shape", f"input=1x{width}").code == 0
    run("devices", "bundle", "board", "--out", tmp_path / "b", "--base-model", base).refused("free dimensions")


def test_a_table_moves_a_shipped_profile(run: Run, models: list[MicroModel], tmp_path: Path) -> None:
    lines = ["file,latency_ms"]
    for k, model in enumerate(models[:4]):
        (tmp_path / f"{k}.onnx").write_bytes(model.make())
        lines.append(f"{k}.onnx,{law_ms(model)}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    done = run("devices", "calibrate", "mine", "--like", "raspberry-pi-4", "--measured", tmp_path / "table.csv")
    assert done.code == 0 and "a few measured latencies" in done.out
    calibration = written("mine", tmp_path).calibration
    assert calibration is not None and calibration.degree == "few" and len(calibration.held_out_ms) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "r.json", "--ssh", "pi@board"), "one of --from, --ssh and --like, got --from and --ssh"),
        (("--latency-ms", "3"), "name it with --like"),
        (("--measured", "t.csv"), "name it with --like"),
        (("--base-model", "m.onnx"), "--base-model goes with"),
        (("--like", "raspberry-pi-4"), "either --base-model with --latency-ms, or --measured"),
        (("--like", "raspberry-pi-4", "--latency-ms", "3"), "either --base-model with --latency-ms"),
        (("--like", "raspberry-pi-4", "--measured", "t.csv", "--latency-ms", "3"), "either --base-model"),
        (("--like", "nothing-like-it", "--measured", "t.csv"), "unknown device"),
        (
            ("--like", "raspberry-pi-4", "--base-model", "m.onnx", "--latency-ms", "0"),
            "--latency-ms must be a positive",
        ),
        (("--from", "none.json"), "none.json: cannot be read"),
        (("--ssh", "pi@"), "--ssh must be [user@]host[:port]"),
    ],
)
def test_combinations_that_make_no_sense(run: Run, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    run("devices", "calibrate", "board", *arguments).refused(words)
    assert not (tmp_path / "home").exists()


def test_the_profile_of_another_device_needs_a_name(run: Run, tmp_path: Path) -> None:
    words = "--like is about another device than this machine: give its profile a name"
    run("devices", "calibrate", "--like", "raspberry-pi-4", "--base-model", "m.onnx", "--latency-ms", "3").refused(
        words
    )
    assert not (tmp_path / "home").exists()


def test_over_ssh_the_result_becomes_a_profile(
    run: Run, models: list[MicroModel], result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run_over_ssh(*arguments: object) -> bytes:
        asked.append(arguments)
        return result.read_bytes()

    monkeypatch.setattr("autocompress.devices.calibration.ssh.run_over_ssh", run_over_ssh)
    done = run("devices", "calibrate", "board", "--ssh", "pi@board:2222", "--python", "/opt/py/python", "--seconds", 90)
    assert done.code == 0 and written("board", tmp_path).threads == 2
    assert str(asked[0][0]) == "pi@board:2222" and asked[0][2:5] == ("/opt/py/python", 1, 90.0)
