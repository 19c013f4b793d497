"""Fit the shipped ARM profiles to public ncnn measurements; nothing here was measured by the project.

Usage: python hardware_profiles/fit_public_data.py FOLDER_WITH_ncnn_layers.csv [OUTPUT_FOLDER]

Source: Tencent/ncnn (BSD-3-Clause), benchmark/README.md (latencies) and benchmark/models/*.param (layer
shapes), as the tables ncnn_latency.csv and ncnn_layers.csv. Of each network the minimum latency of its newest
row on the board and thread count. The error in a profile is that of leaving one network out; a board whose
90th percentile of it is above MAX_P90_ERROR gets no profile.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autocompress.device import Calibration, DeviceProfile, Provenance
from autocompress.latency.linear import fit, relative_errors
from autocompress.workload import Op, Workload

Row = dict[str, str]
Points = list[tuple[str, Workload, float]]

_KINDS = {
    "conv1x1": "conv1x1",
    "conv3x3s1": "conv",
    "conv_other": "conv",
    "depthwise_conv": "depthwise",
    "grouped_conv": "grouped",
    "fully_connected": "linear",
    "attention": "attention",
    "pool": "pool",
    "global_pool": "pool",
    "elementwise": "elementwise",
    "data_movement": "movement",
    "normalization": "norm",
    "detection_post": "other",
}
_EXCLUDED = {"vision_transformer"}
_RIDGE = 0.05
_CHANNEL_BLOCK = 4
MAX_P90_ERROR = 0.55


@dataclass(frozen=True)
class Board:
    """A profile to write: names in the data and facts about the board."""

    name: str
    device: str
    processors: tuple[str, ...]
    threads: int
    processor: str
    instruction_set: tuple[str, ...]
    ram_bytes: int | None = None

    @property
    def half(self) -> bool:
        """True if ncnn ran its float networks in fp16 on this core."""
        return "asimdhp" in self.instruction_set


_A53 = ("asimd",)
_A76 = ("asimd", "asimdhp", "asimddp")
_BOARDS = (
    Board("raspberry-pi-3b-plus", "Raspberry Pi 3 Model B+", ("cpu:all",), 1, "Cortex-A53 1.4 GHz", _A53),
    Board("raspberry-pi-4", "Raspberry Pi 4 Model B", ("cpu:all",), 1, "Cortex-A72 1.8 GHz", _A53),
    Board("raspberry-pi-4-4threads", "Raspberry Pi 4 Model B", ("cpu:all",), 4, "Cortex-A72 1.8 GHz", _A53),
    Board("raspberry-pi-5", "Raspberry Pi 5", ("cpu:all",), 1, "Cortex-A76 2.4 GHz", _A76),
    Board("raspberry-pi-5-4threads", "Raspberry Pi 5", ("cpu:all",), 4, "Cortex-A76 2.4 GHz", _A76),
    Board("jetson-nano-cpu", "NVIDIA Jetson Nano", ("cpu:all", "cpu"), 1, "Cortex-A57 1.43 GHz", _A53),
    Board("rk3566", "OrangePicm4, Rockchip Rk3566", ("cpu:all",), 1, "Cortex-A55", _A76),
    Board("rk3588-big", "Rockchip RK3588", ("cpu:big",), 1, "Cortex-A76", _A76),
)


def _number(row: Row, key: str) -> int:
    return int(float(row[key] or 0))


def _op(row: Row) -> Op | None:
    kind = _KINDS.get(row["family"])
    if kind is None:
        return None
    int8 = row["int8"] == "1"
    itemsize = 1 if int8 else 4
    groups = max(1, _number(row, "groups"))
    cin, cout = _number(row, "in_c"), _number(row, "out_c")
    if kind == "grouped":
        cin //= groups
    if kind == "linear":
        cin = max(1, _number(row, "in_elems"))
    kernel = (_number(row, "kernel_h"), _number(row, "kernel_w")) if row["kernel_h"] else ()
    return Op(
        kind,
        "int8" if int8 else "float32",
        row["layer_name"],
        macs=_number(row, "macs"),
        bytes_in=_number(row, "in_elems") * itemsize,
        bytes_out=_number(row, "out_elems") * itemsize,
        bytes_weights=_number(row, "weight_bytes"),
        cin=cin,
        cout=cout,
        kernel=kernel,
        groups=groups,
        out_hw=max(1, _number(row, "out_h")) * max(1, _number(row, "out_w")),
    )


def _workloads(path: Path) -> dict[str, Workload]:
    ops: dict[str, list[Op]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            op = _op(row)
            if op is not None:
                ops[row["network"]].append(op)
    return {name: Workload(tuple(found)) for name, found in ops.items() if name not in _EXCLUDED}


def _newest_points(rows: list[Row], board: Board, works: dict[str, Workload]) -> tuple[Points, str]:
    """Newest minimum latency of each network on the board, and the date of the newest row."""
    newest: dict[str, tuple[str, float]] = {}
    for row in rows:
        matches = row["device"] == board.device and row["processor"] in board.processors
        if not matches or row["threads"] != str(board.threads) or row["network"] not in works:
            continue
        ms = float(row["latency_min_ms"] or row["latency_ms"])
        date, best_ms = newest.get(row["network"], ("", 0.0))
        if row["measured_before"] > date or (row["measured_before"] == date and ms < best_ms):
            newest[row["network"]] = (row["measured_before"], ms)
    points = [(name, works[name], ms) for name, (_, ms) in sorted(newest.items())]
    return points, max((date for date, _ in newest.values()), default="")


def _build(board: Board, points: Points, date: str, errors: dict[str, float]) -> DeviceProfile:
    found = fit([(work, ms) for _, work, ms in points], _CHANNEL_BLOCK, ridge=_RIDGE)
    # ncnn keeps one channel order and quantises inside its int8 layers: no cost of its own for these
    latency = {
        **found.latency,
        **{kind: {"float32": {}, "int8": {}} for kind in ("layout", "quantize", "dequantize")},
    }
    values = np.abs(list(errors.values()) or [0.5])
    n_int8 = sum(name.endswith("_int8") for name, _, _ in points)
    groups = {
        "float": [abs(e) for name, e in errors.items() if not name.endswith("_int8")],
        "int8": [abs(e) for name, e in errors.items() if name.endswith("_int8")],
    }
    medians = ", ".join(f"{name} {np.median(e):.0%} of {len(e)}" for name, e in groups.items() if e)
    half = " Its float networks ran in fp16, so fp32 will be slower." if board.half else ""
    return DeviceProfile.parse(
        {
            "name": board.name,
            "description": f"{board.device}, {board.threads} thread(s), from public ncnn measurements",
            "processor": board.processor,
            "measured_with": "ncnn",
            "threads": board.threads,
            "instruction_set": board.instruction_set,
            "int8_arithmetic": "exact",
            "channel_block": _CHANNEL_BLOCK,
            "run_overhead_us": round(found.run_overhead_us, 3),
            "latency": latency,
            "calibration": Calibration(
                points=len(points),
                held_out=len(errors),
                median_error=round(float(np.median(values)), 4),
                p90_error=round(float(np.percentile(values, 90)), 4),
                date=date,
                split=f"leave one network out (median error: {medians})",
            ).model_dump(),
            "provenance": Provenance(
                kind="measured",
                source=(
                    "Fitted by hardware_profiles/fit_public_data.py to Tencent/ncnn (BSD-3-Clause) "
                    f"benchmark/README.md, {len(points) - n_int8} float and {n_int8} int8 networks of 112 to "
                    f"416 pixels.{half} ONNX Runtime was not measured on this board: use ratios between "
                    "candidates, not absolute times. int8_arithmetic was not tested on the board."
                ),
            ).model_dump(),
        },
        board.name,
    )


def _leave_one_out(board: Board, points: Points, date: str) -> dict[str, float]:
    errors: dict[str, float] = {}
    for name, work, ms in points:
        family = name.removesuffix("_int8")
        rest = [p for p in points if p[0].removesuffix("_int8") != family]
        if not rest:
            continue
        profile = _build(board, rest, date, {})
        errors[name] = relative_errors(profile, [(work, ms)])[0]
    return errors


def main(arguments: list[str]) -> int:
    """Write one YAML per board; returns the exit code."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    data = Path(arguments[0])
    target = Path(arguments[1]) if len(arguments) == 2 else Path(__file__).resolve().parent
    works = _workloads(data / "ncnn_layers.csv")
    with (data / "ncnn_latency.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["runtime"] == "ncnn"]
    for board in _BOARDS:
        points, date = _newest_points(rows, board, works)
        errors = _leave_one_out(board, points, date)
        profile = _build(board, points, date, errors)
        calibration = profile.calibration
        assert calibration is not None
        shipped = calibration.p90_error <= MAX_P90_ERROR
        if shipped:
            profile.save(target / f"{board.name}.yaml")
        label = board.name if shipped else f"{board.name} (NOT WRITTEN)"
        sys.stdout.write(
            f"{label}: {calibration.points} networks, median error {calibration.median_error:.1%}, "
            f"p90 {calibration.p90_error:.1%}; {calibration.split}\n"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
