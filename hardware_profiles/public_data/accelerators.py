"""Accelerators of whose networks only the totals are known: affine in MACs, weight bytes and the call itself."""

from __future__ import annotations

import re
from pathlib import Path

from autocompress.devices.profile import ANY, Dtype
from autocompress.runtimes.workload import Workload
from public_data import networks
from public_data.collection import Collection, Target
from public_data.hierarchy import BEYOND, RUN, Settings, Term
from public_data.tables import read_rows

_F: Dtype = "float32"
_I: Dtype = "int8"
_TOTALS_ONLY = (
    "operators other than convolutions and products: their cost is spread over the MACs",
    "how layers that fill the array badly (depthwise, few channels) differ from others: only totals were known",
)
_ALONE = Settings(noise=0.25, deviation=0.4, effect=0.4, rounds=10)


def affine(dtype: Dtype, weights: bool, run: float, mmac: float, mb: float = 0.0) -> list[Term]:
    """A run overhead, a cost per MAC and, if asked for, one per byte of weights; with first guesses in us."""
    terms = [
        Term("run", run, ((RUN, _F, "overhead_us", 1.0),)),
        Term("macs", mmac, ((ANY, dtype, "us_per_mmac", 1.0),)),
    ]
    return [*terms, *([Term("weights", mb, ((ANY, dtype, "us_per_mb_weights", 1.0),))] if weights else [])]


# -- Rockchip: GMACs (half of the published GFLOPs) and parameters in millions, as stated by the authors of each
# network at its default input (ultralytics, meituan/YOLOv6, WongKinYiu, Megvii, PaddleDetection, ONNX model zoo)
_KNOWN = {
    "mobilenetv2-12": (0.30, 3.5),
    "resnet50-v2-7": (4.1, 25.6),
    "yolov5n": (2.25, 1.9),
    "yolov5s": (8.25, 7.2),
    "yolov5m": (24.5, 21.2),
    "yolov5n-seg": (3.55, 2.0),
    "yolov5s-seg": (13.2, 7.6),
    "yolov5m-seg": (35.4, 22.0),
    "yolov6n": (5.7, 4.7),
    "yolov6s": (22.65, 18.5),
    "yolov6m": (42.9, 34.9),
    "yolov7-tiny": (6.85, 6.2),
    "yolov7": (52.35, 36.9),
    "yolov8n": (4.35, 3.2),
    "yolov8s": (14.3, 11.2),
    "yolov8m": (39.45, 25.9),
    "yolov8n-seg": (6.3, 3.4),
    "yolov8s-seg": (21.3, 11.8),
    "yolov8m-seg": (55.1, 27.3),
    "yolov8n-pose": (4.6, 3.3),
    "yolov10n": (3.35, 2.3),
    "yolov10s": (10.8, 7.2),
    "yolo11n": (3.25, 2.6),
    "yolo11s": (10.75, 9.4),
    "yolo11m": (34.0, 20.1),
    "yolox_s": (13.4, 9.0),
    "yolox_m": (36.9, 25.3),
    "ppyoloe_s": (8.68, 7.93),
    "ppyoloe_m": (24.95, 23.43),
}
_ROCKCHIP = {
    "RK3566/RK3568": "rk3566-rk3568-npu",
    "RK3562": "rk3562-npu",
    "RK3588": "rk3588-npu-1core",
    "RK3576": "rk3576-npu-1core",
    "RV1109": "rv1109-npu",
    "RV1126": "rv1126-npu",
    "RK1808": "rk1808-npu",
}


def rockchip(data: Path) -> Collection:
    """Rockchip NPUs, int8."""
    works = networks.published(_KNOWN)
    ms: dict[str, dict[str, float]] = {}
    for row in read_rows(data / "rknn_npu_latency.csv"):
        name = f"{row['network']}_int8"
        if row["precision"] == "int8" and name in works:
            ms.setdefault(row["soc"], {})[name] = float(row["latency_ms"])
    targets = [
        Target(
            _ROCKCHIP[soc],
            f"NPU of the Rockchip {soc}" + (", one core" if "1core" in _ROCKCHIP[soc] else ""),
            points,
            "2025-04-09",
            {
                "device_class": "npu",
                "processor": f"Rockchip {soc} NPU",
                "runtime": "rknn",
                "runtime_version": "2.3.2",
                "measured_with": "rknn 2.3.2",
            },
        )
        for soc, points in ms.items()
    ]
    return Collection(
        source="airockchip/rknn_model_zoo (commit bad6c7334531) README.md, 1000/FPS; sizes of networks as published",
        licence="Apache-2.0",
        terms=tuple(affine(_I, True, 1500.0, 2.0, 300.0)),
        workloads=works,
        targets=tuple(targets),
        settings=_ALONE,
        caveats=(*_TOTALS_ONLY, "float: fp16 was measured on 8 networks of other kinds only"),
    )


# -- Hailo

_HAILO = {
    "HAILO8": ("hailo-8", "Hailo-8"),
    "HAILO8L": ("hailo-8l", "Hailo-8L"),
    "HAILO10H": ("hailo-10h", "Hailo-10H"),
    "HAILO15H": ("hailo-15h", "Hailo-15H"),
    "HAILO15L": ("hailo-15l", "Hailo-15L"),
}
_HAILO_TASKS = {"classification", "object_detection", "semantic_segmentation", "instance_segmentation"}
_TRANSFORMER = re.compile(r"vit|deit|swin|detr|cas_|levit|efficientformer|clip|tiny_vit|fastvit|davit", re.IGNORECASE)


_ON_CHIP_MS = {"HAILO8": 3.1, "HAILO8L": 2.2}
"""The gap in the published times between networks that the chip holds at once and those that are loaded in parts."""


def _by_contexts(
    device: str, points: dict[str, float]
) -> list[tuple[str, str, dict[str, float], tuple[float, ...], tuple[str, ...]]]:
    """The networks of a chip, those that fit apart from the others (suffix, title, ms, facts, caveats)."""
    limit = _ON_CHIP_MS.get(device)
    if limit is None:
        return [("", "", points, (0.0,), ())]
    fits = {name: ms for name, ms in points.items() if ms < limit}
    caveat = (
        f"whether a network fits: the source does not say it; here those below {limit:g} ms count as fitting, so the "
        "error is that of networks of which this is known",
    )
    return [
        ("-fits-on-chip", ", networks that the compiler puts into one context", fits, (1.0,), caveat),
        ("-several-contexts", ", networks that the compiler cuts into several contexts",
         {name: ms for name, ms in points.items() if ms >= limit}, (0.0,), caveat),
    ]  # fmt: skip


def hailo(data: Path) -> Collection:
    """Hailo accelerators, convolutional networks, 1000/FPS at batch 1."""
    works: dict[str, Workload] = {}
    ms: dict[str, dict[str, float]] = {}
    for row in read_rows(data / "hailo_npu_throughput.csv"):
        usable = row["task"] in _HAILO_TASKS and not _TRANSFORMER.search(row["network"])
        if not usable or not all(row[key] for key in ("latency_ms", "gops", "params_m")) or float(row["gops"]) <= 0:
            continue
        name = f"{row['network']}_int8"
        works[name] = networks.totals(float(row["gops"]) * 5e8, float(row["params_m"]) * 1e6, _I)
        ms.setdefault(row["device"], {})[name] = float(row["latency_ms"])
    targets = [
        Target(
            f"{_HAILO[device][0]}{suffix}",
            f"{_HAILO[device][1]} accelerator, throughput at batch 1{title}",
            part,
            "2025-10-01",
            {
                "device_class": "npu",
                "processor": _HAILO[device][1],
                "runtime": "hailo",
                "measured_with": "hailo dataflow compiler, HailoRT",
            },
            facts=facts,
            caveats=caveats,
        )
        for device, points in ms.items()
        for suffix, title, part, facts, caveats in _by_contexts(device, points)
    ]
    return Collection(
        source="hailo-ai/hailo_model_zoo (commit c83fc030e862) docs/public_models, 1000/FPS at batch 1",
        licence="MIT",
        terms=tuple(affine(_I, True, 300.0, 0.5, 300.0)),
        workloads=works,
        targets=tuple(targets),
        settings=_ALONE,
        max_p90=2.2,
        caveats=(
            "latency: 1000/FPS of a pipeline is throughput; the time of one image through it is longer",
            *_TOTALS_ONLY,
            "transformers: left out of the fit",
        ),
    )


# -- Vitis AI

_VITIS = {
    "Kria KV260 SOM": ("kria-kv260-dpu", "AMD Kria KV260, DPU B4096"),
    "ZCU102 (0432055-05)": ("zcu102-dpu", "AMD ZCU102, DPU 3 x B4096"),
    "ZCU104": ("zcu104-dpu", "AMD ZCU104, DPU 2 x B4096"),
    "VCK190": ("vck190-dpu", "AMD Versal VCK190, DPU"),
    "Ultra96": ("ultra96-dpu", "Avnet Ultra96, DPU B1600"),
}
_FLOPS = re.compile(r"_(\d+(?:\.\d+)?)([GM])(?:_\d+(?:\.\d+)?)?$")
_CLASSIFIERS = re.compile(r"imagenet|coco|voc|cityscapes|market|personreid|facerec|bdd", re.IGNORECASE)


def vitis(data: Path) -> Collection:
    """FPGA boards with a DPU; many of the networks are pruned."""
    works: dict[str, Workload] = {}
    ms: dict[str, dict[str, float]] = {}
    for row in read_rows(data / "vitis_ai_dpu_throughput.csv"):
        found = _FLOPS.search(row["network"])
        if row["device"] not in _VITIS or not found or not row["latency_ms"] or not _CLASSIFIERS.search(row["network"]):
            continue
        base = "_".join(
            part for part in row["network"][: found.start()].split("_") if not re.fullmatch(r"0\.\d+", part)
        )
        name = f"{base}@{found[1]}{found[2]}_int8"
        works[name] = networks.totals(float(found[1]) * (5e8 if found[2] == "G" else 5e5), 0, _I)
        ms.setdefault(row["device"], {})[name] = float(row["latency_ms"])
    targets = [
        Target(
            _VITIS[device][0],
            f"{_VITIS[device][1]}, one thread end to end",
            points,
            "2022-06-01",
            {
                "device_class": "fpga",
                "processor": _VITIS[device][1],
                "runtime": "vitis-ai",
                "runtime_version": "1.4" if device == "Ultra96" else "2.5",
                "measured_with": "Vitis AI",
            },
        )
        for device, points in ms.items()
    ]
    return Collection(
        source="Xilinx/Vitis-AI branch 2.5 (commit efe6bc9e1ab6) model_zoo/README.md, 1000/FPS of one thread",
        licence="Apache-2.0",
        terms=tuple(affine(_I, False, 1500.0, 2.0)),
        workloads=works,
        targets=tuple(targets),
        settings=_ALONE,
        max_p90=2.2,
        caveats=(*_TOTALS_ONLY, "the share of reading and writing images on the board's CPU, which is in the figures"),
    )


# -- Edge TPU: GMACs and millions of parameters of the networks at the size that was measured, as published

_CORAL = {
    "mobilenet_v1": (0.569, 4.2),
    "mobilenet_v2": (0.301, 3.5),
    "inception_v1": (1.5, 6.6),
    "inception_v4": (12.3, 42.7),
    "inception_resnet_v2": (13.2, 55.8),
    "resnet50_v1": (7.3, 25.6),
    "resnet50_v2": (7.3, 25.6),
    "resnet152_v2": (20.5, 60.2),
    "vgg16": (15.5, 138.4),
    "vgg19": (19.6, 143.7),
    "squeezenet": (0.82, 1.25),
    "densenet": (2.87, 8.0),
}
_EDGE_TPU = {
    "Coral Dev Board": ("coral-dev-board", "Coral Dev Board, Edge TPU over PCIe"),
    "desktop PC + Coral USB (USB 3.0)": ("coral-usb-pc", "Coral USB Accelerator at a PC, USB 3"),
    "x86-64 PC + Coral USB": ("", "Coral USB Accelerator at a PC"),
    "Raspberry Pi 4B + Coral USB": ("coral-usb-raspberry-pi-4", "Coral USB Accelerator at a Raspberry Pi 4, USB 3"),
    "Raspberry Pi 3B+ + Coral USB": ("", "Coral USB Accelerator at a Raspberry Pi 3B+, USB 2"),
    "Raspberry Pi 3B + Coral USB": ("", "Coral USB Accelerator at a Raspberry Pi 3B, USB 2"),
}
_EDGE_TPU_CACHE = 8_000_000


def edge_tpu(data: Path) -> Collection:
    """Edge TPU on several hosts; what does not fit into its 8 MB is sent again at every call."""
    works = networks.published(_CORAL)
    ms: dict[str, dict[str, float]] = {}
    for row in read_rows(data / "coral_edgetpu.csv"):
        name = re.sub(r"(_1\.0)?(_224|_299)?_quant_edgetpu.*", "", row["network"]) + "_int8"
        if row["processor"] != "edgetpu" or "classification" in row["runtime"] or name not in works:
            continue
        points = ms.setdefault(row["device"], {})
        points[name] = min(float(row["latency_ms"]), points.get(name, float("inf")))
    targets = [
        Target(
            _EDGE_TPU[device][0],
            _EDGE_TPU[device][1],
            points,
            "2020-01-01",
            {
                "device_class": "npu",
                "processor": "Google Edge TPU",
                "runtime": "edgetpu",
                "measured_with": "tflite with the Edge TPU delegate",
            },
            facts=(float("Raspberry" in device),),
            datasheet="cache_bytes: about 8 MB of memory on the chip",
        )
        for device, points in ms.items()
    ]
    terms = [*affine(_I, False, 1500.0, 1.0), Term("beyond", 2000.0, ((BEYOND, _F, "overhead_us", 1.0),))]
    return Collection(
        source="google-coral/edgetpu (commit 5020de9386ff) benchmarks/reference, and the benchmark page of coral.ai",
        licence="Apache-2.0; web page",
        terms=tuple(terms),
        workloads=works,
        targets=tuple(targets),
        cache_bytes=_EDGE_TPU_CACHE,
        settings=_ALONE,
        caveats=(*_TOTALS_ONLY, "operators that its compiler leaves to the CPU of the host"),
    )
