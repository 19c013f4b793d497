"""CPUs under ONNX Runtime, TensorFlow Lite and OpenVINO: whole networks of public zoos, timed on boards and PCs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from autocompress.runtimes.workload import Workload
from public_data import zoos
from public_data.tables import Row, read_rows

ORT, LITE = "onnxruntime", "litert"
RUNTIMES = (ORT, LITE, "openvino", "paddle-lite")
"""Those that are told apart from ncnn, in the order of `facts`."""
_LEFT_OUT = ("efficientformer", "vit", "segformer")
"""Transformers: what they compute is not priced by the data of ncnn."""
_ENOUGH = 4


@dataclass
class Timed:
    """One CPU under one runtime."""

    name: str
    description: str
    core: str
    clock: str
    threads: int
    runtime: str
    measured_with: str
    date: str
    source: str
    device_class: str = "board"
    ms: dict[str, float] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()


# table, device, text in its column "runtime", then what the profile says
_ISP, _NETSPRESSO, _TI = "isp_device_benchmark.csv", "netspresso_latency.csv", "ti_edgeai_latency.csv"
_ISP_SOURCE = "ispcojp/ai_inference_device_benchmark (commit 4b85a7ab) results/*.md, Apache-2.0"
_LITE_SOURCE = "Nota-NetsPresso/netspresso-trainer (commit cdefe125) docs/benchmarks, Apache-2.0"
_TI_SOURCE = "TexasInstruments/edgeai-tensorlab (commit 6e83b7a1) modelartifacts/report_am62.csv, BSD-3-Clause"
_LITE_CAVEATS = (
    "threads: not stated by the source, all cores assumed",
    "int8: the source does not say which kernels ran",
)
_ALL_CORES = ("few runs (10 after 1 of warm-up): small networks are noisy",)


def _isp(name: str, device: str, core: str, clock: str, threads: int, device_class: str) -> tuple[Timed, str, str, str]:
    timed = Timed(name, f"{device}, all cores", core, clock, threads, ORT, "onnxruntime CPU EP", "2025-02-25",
                  _ISP_SOURCE, device_class, caveats=_ALL_CORES)  # fmt: skip
    return timed, _ISP, device, "onnxruntime CPU EP"


def _vino(name: str, device: str, core: str, clock: str, threads: int) -> tuple[Timed, str, str, str]:
    timed = Timed(name, f"{device}, all cores", core, clock, threads, "openvino", "OpenVINO", "2025-02-25",
                  _ISP_SOURCE, "computer", caveats=_ALL_CORES)  # fmt: skip
    return timed, _ISP, device, "openvino"


def _lite(name: str, device: str, core: str, clock: str) -> tuple[Timed, str, str, str]:
    timed = Timed(name, f"{device}, all cores", core, clock, 4, LITE, "TensorFlow Lite", "2024-09-06",
                  _LITE_SOURCE, caveats=_LITE_CAVEATS)  # fmt: skip
    return timed, _NETSPRESSO, device, "TFLite"


def _am62(name: str, delegate: str) -> tuple[Timed, str, str, str]:
    timed = Timed(name, f"TI AM62, 4 cores, {delegate}", "Cortex-A53", "1.4 GHz", 4, LITE, f"TFLite, {delegate}",
                  "2022-07-12", _TI_SOURCE, caveats=_LITE_CAVEATS[:1])  # fmt: skip
    return timed, _TI, "TI AM62 (SK-AM62 assumed)", delegate


def _arm() -> tuple[tuple[Timed, str, str, str], ...]:
    return (
        _isp("raspberry-pi-4-4threads", "Raspberry Pi 4", "Cortex-A72", "1.8 GHz", 4, "board"),
        _isp("raspberry-pi-5-4threads", "Raspberry Pi 5", "Cortex-A76", "2.4 GHz", 4, "board"),
        _lite("raspberry-pi-zero-2-w-4threads", "Raspberry Pi Zero 2 W", "Cortex-A53", "1.0 GHz"),
        _lite("raspberry-pi-3b-plus-4threads", "Raspberry Pi 3B+", "Cortex-A53", "1.4 GHz"),
        _lite("raspberry-pi-4-4threads", "Raspberry Pi 4", "Cortex-A72", "1.8 GHz"),
        _lite("raspberry-pi-5-4threads", "Raspberry Pi 5", "Cortex-A76", "2.4 GHz"),
        _am62("ti-am62-4threads", "XNNPACK"),
        _am62("ti-am62-armnn-4threads", "Arm NN"),
    )


def _intel() -> tuple[tuple[Timed, str, str, str], ...]:
    return (
        _isp("intel-core-i5-3320m-2threads", "Intel Core i5-3320M", "Ivy Bridge", "2.6 GHz", 2, "computer"),
        _vino("intel-core-i5-3320m-2threads", "Intel Core i5-3320M", "Ivy Bridge", "2.6 GHz", 2),
        _isp("intel-core-i5-5200u-2threads", "Intel Core i5-5200U", "Broadwell", "2.2 GHz", 2, "computer"),
        _isp("intel-core-i9-10900x-10threads", "Intel Core i9-10900X", "Cascade Lake", "3.7 GHz", 10, "computer"),
        _isp("intel-core-ultra-7-155h-16threads", "Intel Core Ultra 7 155H", "Meteor Lake", "4.8 GHz", 16, "computer"),
        _isp("intel-core-ultra-7-265kf-20threads", "Intel Core Ultra 7 265KF", "Arrow Lake", "5.5 GHz", 20, "computer"),
    )


def _key(row: Row) -> tuple[str, Workload] | None:
    network = row["network"]
    side = max((int(part) for part in row["input_shape"].split("x") if part.isdigit()), default=224)
    work = None if network.startswith(_LEFT_OUT) else zoos.workload(network, side)
    if work is None:
        return None
    if row["precision"].startswith("int8"):
        return f"{network}@{side}_int8", zoos.int8(work)
    return f"{network}@{side}", work


def _read(data: Path, wanted: Iterable[tuple[Timed, str, str, str]]) -> tuple[list[Timed], dict[str, Workload]]:
    tables: dict[str, list[Row]] = {}
    works: dict[str, Workload] = {}
    found = []
    for timed, table, device, runtime in wanted:
        for row in tables.setdefault(table, list(read_rows(data / table))):
            cpu = row["device"] == device and row["processor"].startswith("cpu") and runtime in row["runtime"]
            key = _key(row) if cpu else None
            if key is not None:
                works[key[0]] = key[1]
                timed.ms[key[0]] = float(row["latency_ms"])
        if len(timed.ms) >= _ENOUGH:
            found.append(timed)
    return found, works


def arm(data: Path) -> tuple[list[Timed], dict[str, Workload]]:
    """Arm boards under ONNX Runtime and TensorFlow Lite, and the networks that they ran."""
    return _read(data, _arm())


def intel(data: Path) -> tuple[list[Timed], dict[str, Workload]]:
    """Intel PCs under ONNX Runtime, and the networks that they ran."""
    return _read(data, _intel())


def facts(runtime: str) -> tuple[float, ...]:
    """Which runtime it is, none for ncnn."""
    return tuple(float(runtime == known) for known in RUNTIMES)


def log_threads(threads: int) -> float:
    """Threads as a fact of the fit."""
    return math.log2(threads) / 2
