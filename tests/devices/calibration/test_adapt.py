"""One or a few measured latencies move the profile of a similar device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autocompress.devices.calibration.adapt import EXPECTED, Point, adapt_profile, contributions_ms, read_table, solve
from autocompress.devices.calibration.net_builder import NetBuilder
from autocompress.devices.cost_model import predict
from autocompress.devices.profile import Calibration, DeviceProfile, OpCost
from autocompress.errors import DeviceError, InputError
from autocompress.runtimes.adapters.onnxruntime.reader import read_workload


def net(width: int, kernels: tuple[int, ...] = (3, 1, 3, 1), int8: bool = False) -> bytes:
    builder = NetBuilder((1, 3, 16, 16), int8)
    out = "input"
    for kernel in kernels:
        out = builder.conv(out, width, kernel)
    return builder.build(builder.gemm(builder.global_pool(out), 10))


def point(profile: DeviceProfile, content: bytes, factor: float, name: str = "net") -> Point:
    import onnx

    work = read_workload(onnx.load_from_string(content))
    return name, work, predict(profile, work).latency_ms * factor


@pytest.fixture(scope="module")
def board() -> DeviceProfile:
    return DeviceProfile.load("raspberry-pi-4")


def test_one_latency_scales_the_profile(board: DeviceProfile) -> None:
    base, other = point(board, net(32), 2.5), point(board, net(48), 2.5)
    moved = adapt_profile(board, [base], "mine")
    assert moved.name == "mine" and moved.calibration is not None
    assert moved.calibration.degree == "one" and moved.calibration.points == 1
    assert predict(moved, base[1]).latency_ms == pytest.approx(base[2], rel=1e-3)
    assert predict(moved, other[1]).latency_ms == pytest.approx(other[2], rel=1e-3)
    assert "raspberry-pi-4" in moved.provenance.source and moved.provenance.licence == board.provenance.licence


def test_the_stated_error_is_that_of_the_public_data_and_falls(board: DeviceProfile) -> None:
    points = [point(board, net(8 * k), 1.5, f"net{k}") for k in range(1, 5)]
    errors = []
    for n in (1, 2, 4):
        calibration = adapt_profile(board, points[:n], "mine").calibration
        assert calibration is not None and calibration.degree == ("one" if n == 1 else "few")
        assert "public data" in calibration.split
        errors.append(calibration.median_error)
    assert errors == [EXPECTED["runtime"]["float32"][n].median for n in (1, 1, 3)]


def test_the_expected_errors_are_those_of_the_record() -> None:
    file = Path(__file__).parents[3] / "results" / "records" / "devices" / "few_numbers.json"
    record = json.loads(file.read_text())["other_networks"]
    for case, formats in EXPECTED.items():
        for dtype, table in formats.items():
            for n, expected in table.items():
                found = record[f"{case}, {dtype}, {n} measured in this format"]
                assert (expected.median, expected.p90) == (found["median"], found["p90"]) and found["held"] >= 0.9


def test_a_number_of_a_format_narrows_the_interval_of_that_format(board: DeviceProfile) -> None:
    in_float, in_int8 = point(board, net(32), 1.5), point(board, net(32, int8=True), 1.5, "int8")
    one, both = adapt_profile(board, [in_float], "mine"), adapt_profile(board, [in_float, in_int8], "mine")
    assert one.error_of("float32") == both.error_of("float32") < one.error_of("int8")
    assert both.error_of("int8") < one.error_of("int8")
    assert any(caveat.startswith("int8: no number of yours") for caveat in one.caveats)
    assert not any("no number of yours" in caveat for caveat in both.caveats) and not both.transfer_note


def test_a_devices_own_good_data_outweigh_one_number() -> None:
    own = DeviceProfile.load("raspberry-pi-4.ncnn")
    base = point(own, net(32), 1.5)
    held, free = (predict(adapt_profile(own, [base], name), base[1]).latency_ms for name in (own.name, "another-board"))
    assert base[2] / 1.5 < held < 0.8 * base[2] < free


def test_more_latencies_bend_the_profile(board: DeviceProfile) -> None:
    """On this board 1x1 convolutions are three times slower than on the one it is like, the rest is as fast."""
    slow = OpCost(**{term: 3 * value for term, value in board.latency["conv1x1"]["float32"].model_dump().items()})
    truth = board.model_copy(update={"latency": board.latency | {"conv1x1": {"float32": slow}}})
    kinds = ((3, 1, 3, 1), (1, 1, 1, 1), (3, 3, 3, 3))
    points = [point(truth, net(w, kinds[k % 3]), 1.0, f"{w} {kinds[k % 3]}") for k, w in enumerate((32, 64, 64, 128))]
    asked = [point(truth, net(w, kernels), 1.0) for w in (48, 96) for kernels in kinds[1:]]

    def error(profile: DeviceProfile) -> float:
        return float(np.mean([abs(predict(profile, work).latency_ms / ms - 1) for _, work, ms in asked]))

    assert error(adapt_profile(board, points, "t")) < 0.5 * error(adapt_profile(board, points[:1], "t")) < error(board)


def test_a_calibrated_profile_is_refined_under_its_own_name(board: DeviceProfile) -> None:
    measured = Calibration(degree="full", points=9, median_error=0.05, p90_error=0.1, date="2026-01-01")
    board = board.model_copy(update={"calibration": measured, "transferred_from": ""})
    points = [point(board, net(8 * k), 1.2, f"net{k}") for k in range(1, 4)]
    own, refined = board.calibration, adapt_profile(board, points, board.name)
    assert own is not None and refined.calibration is not None
    assert predict(refined, points[1][1]).latency_ms == pytest.approx(points[1][2], rel=1e-3)
    assert (refined.calibration.degree, refined.calibration.p90_error) == (own.degree, own.p90_error)
    assert refined.calibration.points == own.points + 3 and {"net1", "net2", "net3"} <= set(
        refined.calibration.held_out_ms
    )
    assert (refined.provenance, refined.description) == (board.provenance, board.description)
    again = adapt_profile(refined, points[:1], board.name).calibration
    assert again is not None and again.split == refined.calibration.split


def test_each_point_is_also_predicted_without_it(board: DeviceProfile) -> None:
    points = [point(board, net(8 * k), 2.0, f"net{k}") for k in range(1, 5)]
    points[2] = (*points[2][:2], points[2][2] * 5)
    calibration = adapt_profile(board, points, "mine").calibration
    assert calibration is not None and list(calibration.held_out_ms) == ["net1", "net2", "net3", "net4"]
    measured, predicted = calibration.held_out_ms["net3"]
    assert measured == pytest.approx(points[2][2], rel=1e-3) and predicted < 0.4 * measured


def test_factors_are_positive_and_shares_sum_to_the_prediction(board: DeviceProfile) -> None:
    _, work, ms = point(board, net(32, int8=True), 1.0)
    entries = [(kind, dtype) for kind, formats in board.latency.items() for dtype in formats]
    assert sum(contributions_ms(board, work, entries)) == pytest.approx(ms)
    rng = np.random.default_rng(0)
    factors = solve(rng.uniform(0.1, 1, (6, 4)), rng.uniform(0.01, 100, 6))
    assert (factors > 0).all() and np.isfinite(factors).all()


@pytest.mark.parametrize("ms", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_latencies_are_refused(board: DeviceProfile, ms: float) -> None:
    name, work, _ = point(board, net(8), 1.0)
    with pytest.raises(DeviceError, match="positive number"):
        adapt_profile(board, [(name, work, ms)], "mine")


def test_a_table_names_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(net(8))
    (tmp_path / "b.onnx").write_bytes(net(16))
    (tmp_path / "t.csv").write_text("file,latency_ms,remark\na.onnx,1.5,\nb.onnx,2,warm\n")
    points = read_table(tmp_path / "t.csv")
    assert [(name, ms) for name, _, ms in points] == [("a.onnx", 1.5), ("b.onnx", 2.0)]
    assert points[1][1].macs > points[0][1].macs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs a first line 'file,latency_ms'"),
        ("file,ms\na.onnx,1\n", "needs a first line 'file,latency_ms'"),
        ("file,latency_ms\n", "at least one row"),
        ("file,latency_ms\na.onnx,fast\n", "line 2: latency_ms must be a positive number, got 'fast'"),
        ("file,latency_ms\na.onnx,1\na.onnx,-2\n", "line 3: latency_ms must be a positive number, got '-2'"),
        ("file,latency_ms\na.onnx,1\na.onnx,2\n", "'a.onnx' is there twice"),
        ("file,latency_ms\nnone.onnx,1\n", "none.onnx: cannot be read"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.onnx").write_bytes(net(8))
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_table(tmp_path / "t.csv")
