"""CPUs and edge GPUs in the per-operator form: ncnn for all, Paddle-Lite for phones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.devices.profile import Dtype
from public_data import boards, ncnn, zoos
from public_data.collection import Collection, Target
from public_data.hierarchy import Part, Settings, Term
from public_data.tables import read_rows

_F: Dtype = "float32"
_I: Dtype = "int8"
_BLOCK = 4
_ENOUGH = 13
"""Float networks that a configuration must have run to be used."""

_DENSE = ("conv1x1", "grouped")
_WIDE = ("conv", "conv_stem")
_THIN = ("depthwise",)
_PRODUCTS = (*_DENSE, *_WIDE, *_THIN, "conv_3x3s1", "linear")
_SIMPLE = ("elementwise", "activation", "other")
_OTHERS = (*_SIMPLE, "softmax", "movement", "pool")
_LRN = "lrn"
"""Local response normalisation, the only one in the data: fitted, but not a cost of today's normalisations."""


def _of(kinds: Sequence[str], dtype: Dtype, field: str) -> tuple[Part, ...]:
    return tuple((kind, dtype, field, 1.0) for kind in kinds)


def _moved(kinds: Sequence[str], dtype: Dtype) -> tuple[Part, ...]:
    return _of(kinds, dtype, "us_per_mb_in") + _of(kinds, dtype, "us_per_mb_out")


def _macs(kinds: Sequence[str], dtype: Dtype) -> tuple[Part, ...]:
    return _of(kinds, dtype, "us_per_mmac")


def _weights(kinds: Sequence[str], dtype: Dtype) -> tuple[Part, ...]:
    return _of(kinds, dtype, "us_per_mb_weights")


def _either(kinds: Sequence[str]) -> tuple[Part, ...]:
    """Bytes moved; int8 tensors, which ncnn computes in float, are taken to cost the same for each element."""
    return (*_moved(kinds, _F), *((kind, _I, field, 4.0) for kind, _, field, _ in _moved(kinds, _I)))


_STORED = tuple(kind for kind in _PRODUCTS if kind not in ("linear", "conv_3x3s1"))
_FLOAT_TERMS = (
    Term("conv1x1", 150.0, _macs(("conv1x1", "linear", "grouped"), _F)),
    Term("3x3 stride 1", 60.0, _macs(("conv_3x3s1",), _F)),
    Term("conv", 130.0, _macs(("conv",), _F)),
    Term("stem", 200.0, _macs(("conv_stem",), _F)),
    Term("depthwise", 200.0, _macs(("depthwise",), _F)),
    Term("grouped patches", 1000.0, _of(("grouped",), _F, "us_per_mb_patches")),
    Term("linear weights", 300.0, _weights(("linear",), _F)),
    Term("3x3 stride 1 weights", 300.0, _weights(("conv_3x3s1",), _F)),
    Term("conv weights", 300.0, _weights(_STORED, _F)),
    Term("conv1x1 bytes", 400.0, _moved((*_DENSE, "linear"), _F)),
    Term("3x3 stride 1 bytes", 1500.0, _moved(("conv_3x3s1",), _F)),
    Term("conv bytes", 400.0, _moved(_WIDE, _F)),
    Term("depthwise bytes", 1500.0, _moved(_THIN, _F)),
    Term("simple bytes", 500.0, _either((*_SIMPLE, "softmax"))),
    Term("moved bytes", 500.0, _either(("movement",))),
    Term("pool bytes", 1500.0, _either(("pool",))),
    Term("lrn bytes", 3000.0, _moved((_LRN,), _F)),
    Term(
        "layer",
        5.0,
        _of((*_PRODUCTS, *_OTHERS, _LRN), _F, "overhead_us") + _of(_OTHERS, _I, "overhead_us"),
    ),
)
_INT8_TERMS = (
    Term("int8 conv1x1", 80.0, _macs(("conv1x1", "linear"), _I)),
    Term("int8 conv", 80.0, _macs(("conv", "conv_stem"), _I)),
    Term("int8 3x3 stride 1", 60.0, _macs(("conv_3x3s1",), _I)),
    Term("int8 depthwise", 200.0, _macs(("depthwise", "grouped"), _I)),
    Term("int8 linear weights", 300.0, _weights(("linear",), _I)),
    Term("int8 3x3 stride 1 weights", 900.0, _weights(("conv_3x3s1",), _I)),
    Term("int8 conv weights", 400.0, _weights(_STORED, _I)),
    Term("int8 bytes", 3000.0, _moved(_PRODUCTS, _I)),
    Term("int8 layer", 8.0, _of(_PRODUCTS, _I, "overhead_us")),
)

_NEON = ("asimd",)
_HALF = ("asimd", "asimdhp")
_DOT = ("asimd", "asimdhp", "asimddp")


@dataclass(frozen=True)
class Core:
    """A generation of Arm cores that are built alike."""

    group: str
    features: tuple[str, ...]


_GROUPS = ("v7", "little", "a55", "big", "modern", "wide")
_CORES = {
    **dict.fromkeys(("Cortex-A5", "Cortex-A7", "Cortex-A9", "Cortex-A17"), Core("v7", ("neon",))),
    "Cortex-A53": Core("little", _NEON),
    "Cortex-A55": Core("a55", _DOT),
    **dict.fromkeys(("Cortex-A57", "Cortex-A72", "Cortex-A73", "Kryo", "Denver 2", "FTC66x"), Core("big", _NEON)),
    **dict.fromkeys(("Cortex-A75", "Carmel"), Core("modern", _HALF)),
    **dict.fromkeys(("Cortex-A76", "Cortex-A77", "Cortex-A78"), Core("modern", _DOT)),
    **dict.fromkeys(("Cortex-X1", "Cortex-X3", "Cortex-X4", "Cortex-A720", "Oryon", "Apple"), Core("wide", _DOT)),
}

# name of the profile (threads are added), device and processor in ncnn's tables, core, clock
_BOARDS: tuple[tuple[str, str, str, str, str], ...] = (
    ("raspberry-pi-zero-2-w", "Raspberry Pi Zero 2 W", "cpu", "Cortex-A53", "1.0 GHz"),
    ("raspberry-pi-3b-plus", "Raspberry Pi 3 Model B+", "cpu", "Cortex-A53", "1.4 GHz"),
    ("raspberry-pi-4", "Raspberry Pi 4 Model B", "cpu", "Cortex-A72", "1.8 GHz"),
    ("raspberry-pi-5", "Raspberry Pi 5", "cpu", "Cortex-A76", "2.4 GHz"),
    ("jetson-nano-cpu", "NVIDIA Jetson Nano", "cpu", "Cortex-A57", "1.43 GHz"),
    ("jetson-tx2-nx-cpu", "NVIDIA Jetson TX2 NX", "cpu", "Denver 2", "2.0 GHz"),
    ("jetson-agx-xavier-cpu", "NVIDIA Jetson AGX Xavier", "cpu", "Carmel", "2.2 GHz"),
    ("jetson-agx-orin-cpu", "NVIDIA Jetson AGX Orin", "cpu", "Cortex-A78", "2.2 GHz"),
    ("jetson-orin-nano-cpu", "NVIDIA Jetson Orin Nano", "cpu", "Cortex-A78", "1.5 GHz"),
    ("rk3288", "Rockchip RK3288-CG.W", "cpu", "Cortex-A17", "1.8 GHz"),
    ("rk3228h", "EAIDK 310, Rockchip RK3228H", "cpu", "Cortex-A53", "1.3 GHz"),
    ("rk3328", "NanoPi R2S, Rockchip RK3328", "cpu", "Cortex-A53", "1.3 GHz"),
    ("rk3399-big", "Rockchip RK3399", "cpu:big", "Cortex-A72", "1.8 GHz"),
    ("rk3399-little", "Rockchip RK3399", "cpu:little", "Cortex-A53", "1.5 GHz"),
    ("rk3566", "OrangePicm4, Rockchip Rk3566", "cpu", "Cortex-A55", "1.8 GHz"),
    ("rk3568", "Rock3A, Rockchip RK3568", "cpu", "Cortex-A55", "2.0 GHz"),
    ("rk3588-big", "Rockchip RK3588", "cpu:big", "Cortex-A76", "2.4 GHz"),
    ("rk3588-little", "Rockchip RK3588", "cpu:little", "Cortex-A55", "1.8 GHz"),
    ("allwinner-h2-plus", "Banana Pi M2 Zero 2 AllWinner H2+", "cpu", "Cortex-A7", "1.2 GHz"),
    ("allwinner-h616", "OrangePi Zero 2, Allwinner H616", "cpu", "Cortex-A53", "1.5 GHz"),
    ("allwinner-t527", "Avaota Aim T527, Allwinner T527", "cpu:big", "Cortex-A55", "2.2 GHz"),
    ("amlogic-s805", "Amlogic S805", "cpu:big", "Cortex-A5", "1.5 GHz"),
    ("amlogic-a311d-big", "Khadas VIM3, Amlogic A311D", "cpu:big", "Cortex-A73", "2.2 GHz"),
    ("imx7-dual", "Freescale i.MX7 Dual", "cpu", "Cortex-A7", "1.0 GHz"),
    ("renesas-rzg2l", "MYIR RemiPi,Renesas RZG2L", "cpu", "Cortex-A55", "1.5 GHz"),
    ("zynq-7020", "Z7-Lite 7020 XC7Z020CLG400-2", "cpu", "Cortex-A9", "766 MHz"),
    ("axera-ax620a", "AXERA AX620A", "cpu", "Cortex-A7", "1.0 GHz"),
    ("axera-ax630c", "AXERA AX630C", "cpu", "Cortex-A53", "1.2 GHz"),
    ("sunrise-x3", "RDK X3 Module", "cpu", "Cortex-A53", "1.5 GHz"),
    ("arduino-uno-q", "Arduino UNO Q - QRB2210", "cpu", "Cortex-A53", "2.0 GHz"),
    ("radxa-orion-o6", "Radxa Orion O6", "cpu:big", "Cortex-A720", "2.6 GHz"),
    ("phytium-pi-big", "PhytiumPi, Phytium E2000", "cpu:big", "FTC66x", "1.8 GHz"),
    ("radxa-zero-3w", "Radxa Zero 3W", "cpu", "Cortex-A55", ""),
    ("raspberry-pi-5-overclocked", "Raspberry Pi 5 (overclocked 2.9 GHz)", "cpu", "Cortex-A76", ""),
    ("station-p2-rk3568", "Station P2, Rockchip RK3568", "cpu", "Cortex-A55", ""),
    ("station-m2-rk3566", "Station-M2/ROC-RK3566-PC, Rockchip RK3566", "cpu", "Cortex-A55", ""),
    ("station-m3-rk3588s", "Station-M3/ROC-RK3588S-PC, Rockchip RK3588S", "cpu", "Cortex-A76", ""),
    ("rock-5b-rk3588", "ROCK 5 Model B, Rockchip RK3588", "cpu", "Cortex-A76", ""),
    ("rock-5b-rk3588-big", "ROCK 5 Model B, Rockchip RK3588", "cpu:big", "Cortex-A76", ""),
    ("orange-pi-5-rk3588s", "OrangePi5, Rockchip RK3588s", "cpu", "Cortex-A76", ""),
    ("orange-pi-5-rk3588s-big", "OrangePi5, Rockchip RK3588s", "cpu:big", "Cortex-A76", ""),
    ("orange-pi-5-rk3588s-little", "OrangePi5, Rockchip RK3588s", "cpu:little", "Cortex-A55", ""),
    ("orange-pi-5-plus-rk3588-big", "OrangePi5 Plus, Rockchip RK3588", "cpu:big", "Cortex-A76", ""),
    ("orange-pi-4-lts-rk3399", "OrangePi4 LTS, Rockchip RK3399", "cpu", "Cortex-A72", ""),
    ("orange-pi-4-lts-rk3399-big", "OrangePi4 LTS, Rockchip RK3399", "cpu:big", "Cortex-A72", ""),
    ("orange-pi-4-lts-rk3399-little", "OrangePi4 LTS, Rockchip RK3399", "cpu:little", "Cortex-A53", ""),
)
_PHONES: tuple[tuple[str, str, str, str, str], ...] = (
    ("snapdragon-410", "Qualcomm MSM8916 Snapdragon 410", "cpu", "Cortex-A53", "1.2 GHz"),
    ("snapdragon-660-big", "Qualcomm SDM660 Snapdragon 660", "cpu:big", "Cortex-A73", "2.2 GHz"),
    ("snapdragon-660", "Qualcomm SDM660 Snapdragon 660", "cpu", "Cortex-A73", "2.2 GHz"),
    ("snapdragon-675", "Qualcomm MSM6150 Snapdragon 675", "cpu", "Cortex-A76", "2.0 GHz"),
    ("snapdragon-765g-big", "Qualcomm SDM765G Snapdragon 765G", "cpu:big", "Cortex-A76", "2.2 GHz"),
    ("snapdragon-810-big", "Qualcomm MSM8994 Snapdragon 810", "cpu:big", "Cortex-A57", "2.0 GHz"),
    ("snapdragon-810", "Qualcomm MSM8994 Snapdragon 810", "cpu", "Cortex-A57", "2.0 GHz"),
    ("snapdragon-821", "Qualcomm MSM8996 Pro Snapdragon 821", "cpu", "Kryo", "2.35 GHz"),
    ("snapdragon-835-big", "Qualcomm MSM8998 Snapdragon 835", "cpu:big", "Cortex-A73", "2.45 GHz"),
    ("snapdragon-855-plus-big", "Qualcomm SM8150-AC Snapdragon 855+", "cpu:big", "Cortex-A76", "2.96 GHz"),
    ("snapdragon-888-big", "Qualcomm Snapdragon 888", "cpu:big", "Cortex-X1", "2.84 GHz"),
    ("snapdragon-8-gen-2-big", "Qualcomm SM8550-AB Snapdragon 8 Gen 2", "cpu:big", "Cortex-X3", "3.2 GHz"),
    ("snapdragon-8-gen-2", "Qualcomm SM8550-AB Snapdragon 8 Gen 2", "cpu", "Cortex-X3", "3.2 GHz"),
    ("kirin-970-big", "Kirin 970", "cpu:big", "Cortex-A73", "2.4 GHz"),
    ("dimensity-9300-big", "MediaTek Dimensity 9300", "cpu:big", "Cortex-X4", "3.25 GHz"),
    ("dimensity-9300-little", "MediaTek Dimensity 9300", "cpu:little", "Cortex-A720", "2.0 GHz"),
    ("dimensity-9300", "MediaTek Dimensity 9300", "cpu", "Cortex-X4", "3.25 GHz"),
    ("apple-a7", "iPhone 5S", "cpu", "Apple", "1.3 GHz"),
)
_COMPUTERS: tuple[tuple[str, str, str, str, str], ...] = (
    ("apple-m1", "MacBook Pro (13-inch, M1, 2020)", "cpu", "Apple", "3.2 GHz"),
    ("apple-m3", "MacBook Air (13-inch, M3, 2024)", "cpu", "Apple", "4.0 GHz"),
    ("snapdragon-x-elite", "Qualcomm Snapdragon X Elite", "cpu", "Oryon", "3.4 GHz"),
)

_NOT_SHIPPED = {
    ("NVIDIA Jetson AGX Orin", 2),
    ("NVIDIA Jetson AGX Orin", 8),
    ("NVIDIA Jetson AGX Xavier", 2),
    ("NanoPi R2S, Rockchip RK3328", 2),
    ("Radxa Orion O6", 12),
}
"""Thread counts between others that are shipped, and one whose figures contradict each other."""

# device, core of the paddle-lite rows
_PADDLE = {
    "Snapdragon 865": ("snapdragon-865-fp32", "Cortex-A77", "2.84 GHz"),
    "Snapdragon 855": ("snapdragon-855-fp32", "Cortex-A76", "2.84 GHz"),
    "Snapdragon 845": ("snapdragon-845-fp32", "Cortex-A75", "2.8 GHz"),
    "Snapdragon 835": ("snapdragon-835-fp32", "Cortex-A73", "2.45 GHz"),
    "Snapdragon 625": ("snapdragon-625", "Cortex-A53", "2.0 GHz"),
    "Kirin 990": ("kirin-990-fp32", "Cortex-A76", "2.86 GHz"),
    "Kirin 980": ("kirin-980-fp32", "Cortex-A76", "2.6 GHz"),
    "RK3399": ("", "Cortex-A72", "1.8 GHz"),
}
_PADDLE_NAMES = {
    "mobilenet_v1": "mobilenet",
    "mobilenet_v2": "mobilenet_v2",
    "mobilenet_v3_large": "mobilenet_v3",
    "resnet50": "resnet50",
}

_NCNN = "Tencent/ncnn (commit a4d2ea1d4422) benchmark/README.md and models/*.param"
_CAVEATS = (
    "early exits, layer normalisation, GELU, attention: not in the data",
    "channels that are no multiple of 4: priced as if rounded up to one, hardly any are in the data",
    "additions and pooling in int8: taken to cost the same per element as in float, ncnn has no others",
    "int8_arithmetic: not tested on the board",
)
_FLOAT16 = "float32: the float networks ran in fp16 (ncnn on a core with half precision)"


def _facts(core: str, threads: int, float16: bool, runtime: str = "ncnn") -> tuple[float, ...]:
    group = _CORES[core].group
    known = tuple(float(group == g) for g in _GROUPS)
    return (*known, float(float16), boards.log_threads(threads), *boards.facts(runtime))


def _target(row: tuple[str, str, str, str, str], run: ncnn.Run, device_class: str) -> Target:
    name, device, processor, core, clock = row
    if (device, run.threads) in _NOT_SHIPPED:
        name = ""
    if name and run.threads > 1:
        name = f"{name}-{run.threads}threads"
    features = _CORES[core].features
    half = run.float16 and "asimdhp" in features
    profile: dict[str, Any] = {
        "device_class": device_class,
        "processor": f"{core} {clock}".strip(),
        "runtime": "ncnn",
        "measured_with": "ncnn",
        "threads": run.threads,
        "instruction_set": features,
        "float_format": "float16" if half else "float32",
    }
    cluster = {"cpu:big": ", big cores", "cpu:little": ", little cores"}.get(processor, "")
    return Target(
        name,
        f"{device}{cluster}, {run.threads} thread{'s' if run.threads > 1 else ''}",
        run.ms,
        run.date,
        profile,
        _facts(core, run.threads, half),
        (_FLOAT16,) if half else (),
    )


def _paddle(data: Path) -> Iterator[Target]:
    ms: dict[str, dict[str, float]] = {}
    for row in read_rows(data / "paddle_lite_latency.csv"):
        usable = "armv8" in row["runtime"] and row["sparsity"] == "dense" and row["network"] in _PADDLE_NAMES
        if usable and row["precision"] in ("fp32", "int8") and row["soc"] in _PADDLE:
            suffix = "_int8" if row["precision"] == "int8" else ""
            ms.setdefault(row["soc"], {})[_PADDLE_NAMES[row["network"]] + suffix] = float(row["latency_ms"])
    for soc, points in ms.items():
        name, core, clock = _PADDLE[soc]
        yield Target(
            name,
            f"{soc}, one big core, float in true fp32",
            points,
            "2022-03-01",
            {
                "device_class": "phone",
                "processor": f"{core} {clock}",
                "runtime": "paddle-lite",
                "runtime_version": "2.11",
                "measured_with": "paddle-lite 2.11",
                "instruction_set": _CORES[core].features,
            },
            _facts(core, 1, False, "paddle-lite"),
            ("its own ratios: only four networks were measured, the rest comes from boards with like cores",),
        )


def _timed(timed: boards.Timed) -> Target:
    """A CPU under a runtime that computes floats in fp32."""
    features = _CORES[timed.core].features
    profile = {
        "device_class": timed.device_class,
        "processor": f"{timed.core} {timed.clock}",
        "runtime": timed.runtime,
        "measured_with": timed.measured_with,
        "threads": timed.threads,
        "instruction_set": features,
    }
    facts = _facts(timed.core, timed.threads, False, timed.runtime)
    return Target(
        timed.name, timed.description, timed.ms, timed.date, profile, facts, timed.caveats, source=timed.source
    )


def arm(data: Path, *, ncnn_only: bool = False) -> Collection:
    """All Arm CPUs; with `ncnn_only` the boards and phones of ncnn's tables alone."""
    works, runs = ncnn.workloads(data), ncnn.runs(data)
    tables = ((_BOARDS, "board"), (_PHONES, "phone"), *(() if ncnn_only else ((_COMPUTERS, "computer"),)))
    known = [key for key, run in runs.items() if _n_float(run) >= _ENOUGH]
    targets = [
        _target(row, runs[key], device_class)
        for table, device_class in tables
        for row in table
        for key in known
        if key[:2] == row[1:3]
    ]
    if not ncnn_only:
        targets += _paddle(data)
        for name in ("mobilenet_v2", "mobilenet_v3"):
            works[f"{name}_int8"] = zoos.int8(works[name])
        timed, networks = boards.arm(data)
        works |= networks
        targets += map(_timed, timed)
    return Collection(
        source=f"{_NCNN}; phones with few points: PaddlePaddle/Paddle-Lite (commit 3d329c954c82) benchmark.md",
        licence="BSD-3-Clause (ncnn), Apache-2.0 (Paddle-Lite)",
        terms=(*_FLOAT_TERMS, *_INT8_TERMS),
        workloads=works,
        targets=tuple(targets),
        block=_BLOCK,
        fitted_only=(_LRN,),
        caveats=_CAVEATS,
    )


def _n_float(run: ncnn.Run) -> int:
    return sum(not name.endswith("_int8") for name in run.ms)


_SATURATES = ("Ivy Bridge", "Broadwell")
"""Of the Intel generations with a name here: those without VNNI."""


def _x86_facts(generation: str, threads: int, runtime: str) -> tuple[float, ...]:
    facts = boards.log_threads(threads), *boards.facts(runtime)
    return (float(generation == "0"), float(generation == "2"), *facts)


def _timed_x86(timed: boards.Timed) -> Target:
    old = timed.core in _SATURATES
    profile = {
        "device_class": timed.device_class,
        "processor": f"{timed.core} {timed.clock}",
        "runtime": timed.runtime,
        "measured_with": timed.measured_with,
        "threads": timed.threads,
        "int8_arithmetic": "saturating" if old else "exact",
    }
    facts = _x86_facts("1" if old else "2", timed.threads, timed.runtime)
    return Target(
        timed.name, timed.description, timed.ms, timed.date, profile, facts, timed.caveats, source=timed.source
    )


_X86 = Path(__file__).with_name("x86_machines.csv")


def x86(data: Path) -> Collection:
    """Small and large x86 CPUs."""
    works, runs = ncnn.workloads(data), ncnn.runs(data)
    targets = []
    for machine in read_rows(_X86):
        threads, generation = int(machine["threads"]), machine["generation"]
        run = runs.get((machine["device"], "cpu", threads))
        if run is None or _n_float(run) < _ENOUGH:
            continue
        profile = {
            "device_class": "computer",
            "processor": machine["processor"],
            "runtime": "ncnn",
            "measured_with": "ncnn",
            "threads": threads,
            "instruction_set": (machine["instruction_set"],),
            "int8_arithmetic": machine["int8_arithmetic"],
        }
        facts = _x86_facts(generation, threads, "ncnn")
        title = f"{machine['device']}, {threads} thread{'s' if threads > 1 else ''}"
        targets.append(Target(machine["name"], title, run.ms, run.date, profile, facts))
    timed, networks = boards.intel(data)
    works |= networks
    targets += map(_timed_x86, timed)
    return Collection(
        source=_NCNN,
        licence="BSD-3-Clause",
        terms=(*_FLOAT_TERMS, *_INT8_TERMS),
        workloads=works,
        targets=tuple(targets),
        block=_BLOCK,
        fitted_only=(_LRN,),
        caveats=_CAVEATS,
    )


_GPUS: tuple[tuple[str, str, str], ...] = (
    ("jetson-nano-gpu-vulkan", "NVIDIA Jetson Nano", "Maxwell, 128 cores"),
    ("jetson-tx2-nx-gpu-vulkan", "NVIDIA Jetson TX2 NX", "Pascal, 256 cores"),
    ("jetson-agx-xavier-gpu-vulkan", "NVIDIA Jetson AGX Xavier", "Volta"),
    ("jetson-agx-orin-gpu-vulkan", "NVIDIA Jetson AGX Orin", "Ampere"),
    ("jetson-orin-nano-gpu-vulkan", "NVIDIA Jetson Orin Nano", "Ampere"),
    ("raspberry-pi-5-gpu-vulkan", "Raspberry Pi 5", "VideoCore VII"),
    ("rk3588-gpu-vulkan", "Rockchip RK3588", "Mali-G610"),
    ("rk3399-gpu-vulkan", "Rockchip RK3399", "Mali-T860"),
    ("rk3566-gpu-vulkan", "Station-M2/ROC-RK3566-PC, Rockchip RK3566", "Mali-G52"),
    ("amlogic-a311d-gpu-vulkan", "Khadas VIM3, Amlogic A311D", "Mali-G52"),
    ("adreno-540-vulkan", "Qualcomm MSM8998 Snapdragon 835", "Adreno 540"),
    ("adreno-620-vulkan", "Qualcomm SDM765G Snapdragon 765G", "Adreno 620"),
    ("adreno-640-vulkan", "Qualcomm SM8150-AC Snapdragon 855+", "Adreno 640"),
    ("adreno-660-vulkan", "Qualcomm Snapdragon 888", "Adreno 660"),
    ("adreno-740-vulkan", "Qualcomm SM8550-AB Snapdragon 8 Gen 2", "Adreno 740"),
    ("mali-g720-dimensity-9300-vulkan", "MediaTek Dimensity 9300", "Mali-G720"),
    ("mali-g72-kirin-970-vulkan", "Kirin 970", "Mali-G72"),
    ("", "Radxa Orion O6", "Mali-G720"),
    ("", "Qualcomm Snapdragon X Elite", "Adreno X1-85"),
    ("", "Apple M1", "Apple M1"),
)


def gpus(data: Path) -> Collection:
    """GPUs of boards and phones through Vulkan, float."""
    works, runs = ncnn.workloads(data), ncnn.runs(data)
    targets = []
    for name, device, gpu in _GPUS:
        run = runs.get((device, "gpu", 1))
        if run is None or len(run.ms) < _ENOUGH:
            continue
        targets.append(
            Target(
                name,
                f"GPU of the {device}, through Vulkan",
                run.ms,
                run.date,
                {
                    "device_class": "gpu",
                    "processor": gpu,
                    "runtime": "ncnn",
                    "measured_with": "ncnn with Vulkan",
                    "float_format": "float16",
                },
                tuple(float(word in gpu) for word in ("Mali", "Adreno")),
                ("TensorRT, which is much faster on this GPU: not in the data",) if "Jetson" in device else (),
            )
        )
    floats = {name: work for name, work in works.items() if not name.endswith("_int8")}
    return Collection(
        source=_NCNN,
        licence="BSD-3-Clause",
        terms=_FLOAT_TERMS,
        workloads=floats,
        targets=tuple(targets),
        block=_BLOCK,
        fitted_only=(_LRN,),
        settings=Settings(noise=0.2, deviation=0.3),
        caveats=(
            "int8: ncnn's Vulkan back end has none; quantised networks run on the CPU",
            "early exits, layer normalisation, GELU, attention: not in the data",
            "pruning: a GPU saves less time than MACs; narrow layers leave its units idle",
        ),
        max_p90=2.2,
    )
