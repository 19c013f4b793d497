"""Microcontrollers and small ST processors: MLPerf Tiny, the ST model zoo and ESP-DL, int8."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from autocompress.devices.profile import Dtype
from autocompress.runtimes.workload import Workload
from public_data import networks, zoos
from public_data.accelerators import affine
from public_data.collection import Collection, Target
from public_data.hierarchy import RUN, Part, Settings, Term
from public_data.tables import read_rows

_I: Dtype = "int8"
_KINDS = ("conv", "conv_stem", "conv1x1", "depthwise", "grouped", "linear", "pool", "elementwise", "movement")


_CUBE = "stm32-cube-ai"
_BOARDS = Path(__file__).with_name("mlperf_tiny_boards.csv")
"""Where each MLPerf Tiny system is found, and its memory by data sheet."""
_CORES = ("M0", "M4", "M33", "M7", "A7")

_MLPERF = {"ad": "autoencoder", "anom": "autoencoder", "ic": "resnet8", "imag": "resnet8"}
_MLPERF |= {"kws": "ds_cnn", "keyw": "ds_cnn", "vww": "mobilenet_v1-0.25@96-2", "visu": "mobilenet_v1-0.25@96-2"}

_ST = {
    "STM32H747I-DISCO": ("stm32h747", "mcu", _CUBE, "STM32Cube.AI 10.0.0", "Cortex-M7 400 MHz", "M7", 1),
    "STM32N6570-DK": ("stm32n6-npu", "npu", _CUBE, "STM32Cube.AI 10.0.0", "Neural-ART accelerator", "NPU", 1),
    "STM32MP257F-DK2": ("stm32mp257-npu", "npu", _CUBE, "OpenVX, X-LINUX-AI 5.1.0", "NPU 800 MHz", "NPU", 1),
    "STM32MP157F-DK2": ("stm32mp157-2threads", "board", "litert", "tflite 2.11", "Cortex-A7 800 MHz", "A7", 2),
    "STM32MP135F-DK2": ("stm32mp135", "board", "litert", "tflite 2.11", "Cortex-A7 1 GHz", "A7", 1),
}
_JOINT = Settings(noise=0.15, deviation=0.3, effect=0.4, rounds=10)
_APART = Settings(noise=0.1, deviation=1.0, rounds=10)
_OF_ZOO = {"yolov8n": "yolov8n", "efficientnetv2_b0": "tf_efficientnetv2_b0"}
"""What networks of the ST model zoo are called in other zoos."""
_CLASSES = {"flowers": 5, "imagenet": 1000, "food-101": 101, "cifar10": 10, "cifar100": 100}


def _terms() -> tuple[Term, ...]:
    def of(*kinds: str, field: str = "us_per_mmac") -> tuple[Part, ...]:
        return tuple((kind, _I, field, 1.0) for kind in kinds)

    return (
        Term("run", 50.0, ((RUN, "float32", "overhead_us", 1.0),)),
        Term("conv", 5000.0, of("conv")),
        Term("stem", 10000.0, of("conv_stem")),
        Term("conv1x1", 6000.0, of("conv1x1")),
        Term("depthwise", 15000.0, of("depthwise", "grouped")),
        Term("linear", 8000.0, of("linear")),
        Term("weights", 1000.0, of(*_KINDS, field="us_per_mb_weights")),
        Term("bytes", 10000.0, of(*_KINDS, field="us_per_mb_in") + of(*_KINDS, field="us_per_mb_out")),
        Term("layer", 20.0, of(*_KINDS, field="overhead_us")),
    )


def _workload(name: str) -> Workload | None:
    """Build the network a name stands for: "<network>[-<width>]@<side>-<classes>[-gray]"."""
    base, _, rest = name.removesuffix("_int8").partition("@")
    if base == "autoencoder":
        return networks.autoencoder(_I)
    if base == "ds_cnn":
        return networks.ds_cnn(_I)
    if base in ("resnet8", "resnet32"):
        return networks.resnet_cifar(1 if base == "resnet8" else 5, _I, 100 if base == "resnet32" else 10)
    found = re.fullmatch(r"(mobilenet_v1|mobilenet_v2|fdmobilenet)-([\d.]+)", base)
    if not found:
        known = zoos.layers(_OF_ZOO.get(base, base), int(rest))
        return known and zoos.int8(known)
    numbers = rest.split("-")
    width, side, classes = float(found[2]), int(numbers[0]), int(numbers[1])
    if found[1] == "mobilenet_v2":
        return networks.mobilenet_v2(width, side, _I, classes)
    gray = 1 if "gray" in numbers else 3
    return networks.mobilenet_v1(width, side, _I, classes, gray, fast=found[1] == "fdmobilenet")


def _st_name(network: str, shape: str) -> str:
    words, side = network.split(), shape.split("x")[1]
    newer = re.fullmatch(r"(mobilenet_v1|mobilenetv2|fdmobilenet)_(\d)(\d+)", network)
    if newer:
        base = newer[1].replace("mobilenetv2", "mobilenet_v2")
        return f"{base}-{float(f'{newer[2]}.{newer[3]}')}@{side}-1000_int8"
    if zoos.layers(_OF_ZOO.get(words[0], words[0]), int(side) if side.isdigit() else 224) is not None:
        return f"{words[0]}@{side}_int8"
    if words[0].startswith("resnet_v1_"):
        return f"resnet{words[0].rpartition('_')[2]}_int8"
    if words[0] == "fdmobilenet_0.25":
        return f"fdmobilenet-0.25@{side}-5_int8"
    found = re.fullmatch(r"(mobilenet_v[12])_([\d.]+)", words[0])
    if not found or "per-tensor" in words:
        return ""
    gray = "-gray" if "grayscale" in words else ""
    return f"{found[1]}-{found[2]}@{side}-{_CLASSES.get(words[1], 5)}{gray}_int8"


def _facts(core: str) -> tuple[float, ...]:
    return tuple(float(core == c) for c in _CORES)


def microcontrollers(data: Path) -> Collection:
    """Cortex-M boards and the Cortex-A7 boards of ST."""
    return _collection([*_mlperf(data), *(t for t in _st(data) if t.profile["device_class"] != "npu")], _JOINT)


def st_npus(data: Path) -> Collection:
    """The NPUs of STM32N6 and STM32MP2, each on its own: too different to lend each other much."""
    return _collection([t for t in _st(data) if t.profile["device_class"] == "npu"], _APART)


def _collection(targets: list[Target], settings: Settings) -> Collection:
    names = {name for target in targets for name in target.ms}
    works = {name: work for name in sorted(names) if (work := _workload(name)) is not None}
    return Collection(
        source="mlcommons/tiny_results_v0.7 to v1.3, and STMicroelectronics/stm32ai-modelzoo (commit 6f10965e) READMEs",
        licence="Apache-2.0 (MLPerf Tiny); mixed, facts only (ST zoo)",
        terms=_terms(),
        workloads=works,
        targets=tuple(targets),
        block=1,
        settings=settings,
        caveats=(
            "networks above some 10 MMACs on boards that only ran the four of MLPerf Tiny (0.3 to 12 MMACs)",
            "where weights and activations lie: external memory is slower",
        ),
    )


def _mlperf(data: Path) -> Iterator[Target]:
    rows = list(read_rows(data / "mlperf_tiny.csv"))
    for board in read_rows(_BOARDS):
        ms: dict[str, float] = {}
        power: list[float] = []
        for row in rows:
            label = f"{row['source'].rpartition('_')[2]} {row['device'].rpartition('/')[2]}"
            network = _MLPERF.get(re.split(r"[:_]", row["network"])[0][:4], "")
            if not re.search(board["submission"], label) or not network or row["division"] not in ("closed", "open"):
                continue
            ms[f"{network}_int8"] = float(row["latency_ms"])
            if row["energy_uj_per_inf"]:
                rate = row["energy_run_throughput_inf_s"] or row["throughput_inf_s"]
                power.append(float(row["energy_uj_per_inf"]) * float(rate) / 1e3)
        if not ms:
            continue
        profile: dict[str, Any] = {
            "device_class": "mcu",
            "processor": _core_title(board["core"]),
            "runtime": board["runtime"],
            "measured_with": board["measured_with"],
            "flash_bytes": int(board["flash_kib"]) * 1024 if board["flash_kib"] else None,
            "ram_bytes": int(board["ram_kib"]) * 1024 if board["ram_kib"] else None,
        }
        if power:
            profile["active_power_mw"] = round(median(power), 2)
        yield Target(
            board["name"],
            f"{board['title']}, the four networks of MLPerf Tiny",
            ms,
            board["date"],
            profile,
            _facts(board["core"]),
            datasheet="flash_bytes, ram_bytes" if board["flash_kib"] else "",
        )


def _core_title(core: str) -> str:
    return f"Cortex-{core}" if core.startswith("M") else "Renesas RXv2"


def _st(data: Path) -> Iterator[Target]:
    found: dict[str, dict[str, float]] = {}
    for table in ("mcu_stm32_esp32.csv", "mcu_stm32_esp32_new.csv"):  # the newer compiler's figure counts
        for row in read_rows(data / table):
            known = row["device"] in _ST and row["precision"] == "int8" and not float(row.get("external_ram_kib") or 0)
            name = _st_name(row["network"], row["input_shape"]) if known else ""
            if name:
                found.setdefault(row["device"], {})[name] = float(row["latency_ms"])
    for device, ms in found.items():
        name, kind, runtime, measured_with, processor, core, threads = _ST[device]
        profile: dict[str, Any] = {
            "device_class": kind,
            "processor": processor,
            "runtime": runtime,
            "measured_with": measured_with,
            "threads": threads,
        }
        if name == "stm32h747":
            profile |= {"flash_bytes": 2 << 20, "ram_bytes": 1 << 20}
        sheet = "flash_bytes, ram_bytes" if name == "stm32h747" else ""
        yield Target(name, f"{device}, MobileNets and ResNets", ms, "2025", profile, _facts(core), datasheet=sheet)


# -- ESP32: GMACs and millions of parameters, of YOLO11 and MobileNetV2 as published

_ESP = {
    "yolo11n": (3.25, 2.6),
    "yolo11n_320": (0.8125, 2.6),
    "yolo11n_pose": (3.8, 2.9),
    "yolo11n_seg": (5.2, 2.9),
    "mobilenetv2": (0.301, 3.5),
    "mobilenetv2_0_5": (0.0318, 1.97),
}


def esp32(data: Path) -> Collection:
    """ESP32-S3 and ESP32-P4, one core."""
    works = networks.published(_ESP)
    ms: dict[str, dict[str, float]] = {}
    for side in (512, 640):
        work = zoos.layers("yolo26n", side)
        assert work is not None
        works[f"yolo26n@{side}_int8"] = networks.totals(work.macs, work.weight_bytes / 4, _I)
    rows = [*read_rows(data / "mcu_stm32_esp32.csv"), *read_rows(data / "mcu_stm32_esp32_new.csv")]
    for row in rows:
        sized = f"yolo26n@{row['input_shape'].split('x')[1]}_int8" if row["network"] == "yolo26n" else ""
        name = sized or re.sub(r"_s8.*", "_int8", row["network"])
        if row["soc"].startswith("ESP32") and row["threads"] in ("1", "") and name in works:
            points = ms.setdefault(row["soc"], {})
            points[name] = min(float(row["latency_ms"]), points.get(name, float("inf")))
    targets = [
        Target(
            soc.lower(),
            f"{soc}, one core",
            points,
            "2025",
            {"device_class": "mcu", "processor": soc, "runtime": "esp-dl", "measured_with": "esp-dl"},
        )
        for soc, points in ms.items()
    ]
    return Collection(
        source="espressif/esp-dl (commit 12c0616d) models/*/README.md; sizes of the networks as published",
        licence="MIT",
        terms=tuple(affine(_I, False, 1000.0, 3000.0)),
        workloads=works,
        targets=tuple(targets),
        settings=Settings(noise=0.25, deviation=0.4, rounds=10),
        caveats=(
            "layers: only the totals of eight networks of 0.03 to 5 GMACs were known",
            "networks that fit into the internal memory, which is faster than the PSRAM of the large ones",
        ),
        max_p90=1.5,
    )
