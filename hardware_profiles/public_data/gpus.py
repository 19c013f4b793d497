"""NVIDIA GPUs under TensorRT and ONNX Runtime's CUDA provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from public_data.collection import Collection
from public_data.hierarchy import Settings
from public_data.layered import Chip, Table, collect

_TRT_MODES = (
    "clock and power mode: not stated by the source; a board in another mode differs by a common factor",
    "what the engine holds beyond the network (decoding, NMS): not checked",
)
_GENERATION = {"Orin": (1.0, 0.0, 0.0), "Thor": (0.0, 1.0, 0.0), "old": (0.0, 0.0, 1.0)}
"""Facts of the fit, none for Xavier: which generation of GPU."""


def _gpu(
    name: str, title: str, generation: str, where: dict[str, str], *, single: bool = False, runtime: str = "tensorrt"
) -> Chip:
    profile: dict[str, Any] = {
        "device_class": "gpu",
        "processor": title.split(",")[0],
        "runtime": runtime,
        "measured_with": "TensorRT" if runtime == "tensorrt" else "ONNX Runtime, CUDA provider",
        "float_format": "float32" if single else "float16",
    }
    facts = (*_GENERATION.get(generation, (0.0, 0.0, 0.0)), float(single), float(runtime != "tensorrt"))
    return Chip(name, f"{title}, {'fp32' if single else 'fp16'}", where, profile, facts)


_TRTUTILS = Table(
    "trtutils_jetson_latency.csv",
    "justincdavis/trtutils (commit 471d1e92) benchmark/data/models/*.json, MIT",
    "2026-02-03",
    tuple(
        _gpu(f"{name}-tensorrt", f"Jetson {title}", generation, {"device": f"NVIDIA Jetson {device}"})
        for name, title, generation, device in (
            ("jetson-agx-orin-64gb", "AGX Orin 64 GB", "Orin", "OrinAGX-64GB"),
            ("jetson-agx-orin-32gb", "AGX Orin 32 GB", "Orin", "OrinAGX-32GB"),
            ("jetson-orin-nx-16gb", "Orin NX 16 GB", "Orin", "OrinNX-16GB"),
            ("jetson-orin-nano-8gb", "Orin Nano 8 GB", "Orin", "OrinNano-8GB"),
            ("jetson-xavier-nx-8gb", "Xavier NX 8 GB", "Xavier", "XavierNX-8GB"),
        )
    ),
    _TRT_MODES,
)
_NETSPRESSO = Table(
    "netspresso_latency.csv",
    "Nota-NetsPresso/netspresso-trainer (commit cdefe125) docs/benchmarks/device_matrix, Apache-2.0",
    "2024-09-06",
    tuple(
        _gpu(f"{name}-tensorrt", f"Jetson {title}", generation, {"device": device, "processor": "gpu"})
        for name, title, generation, device in (
            ("jetson-nano", "Nano", "old", "NVIDIA Jetson Nano"),
            ("jetson-tx2", "TX2", "old", "NVIDIA Jetson TX2"),
            ("jetson-xavier-nx", "Xavier NX", "Xavier", "NVIDIA Jetson NX"),
            ("jetson-agx-xavier", "AGX Xavier", "Xavier", "NVIDIA Jetson Xavier"),
            ("jetson-agx-orin", "AGX Orin", "Orin", "NVIDIA Jetson AGX Orin"),
            ("jetson-orin-nano", "Orin Nano", "Orin", "NVIDIA Jetson Orin Nano"),
        )
    ),
    _TRT_MODES,
)
_SOUND = "(?!mAP of this row)"
"""Two engines of the table are broken, as their accuracy shows."""
_YOLO26 = "ultralytics/ultralytics docs/en/guides/nvidia-jetson.md (copy, commit ec41f25e), facts only"
_ULTRALYTICS = Table(
    "ultralytics_yolo26_latency.csv",
    _YOLO26,
    "2026-01-01",
    tuple(
        _gpu(f"{name}-tensorrt{'-fp32' if single else ''}", f"Jetson {title}, YOLO26", generation,
             {"device": device, "runtime": "tensorrt", "precision": text, "notes": _SOUND}, single=single)
        for name, title, generation, device in (
            ("jetson-agx-thor", "AGX Thor", "Thor", "NVIDIA Jetson AGX Thor"),
            ("jetson-agx-orin-64gb-yolo26", "AGX Orin 64 GB", "Orin", "NVIDIA Jetson AGX Orin 64GB"),
            ("jetson-orin-nano-super", "Orin Nano Super", "Orin", "NVIDIA Jetson Orin Nano Super"),
            ("jetson-orin-nx-16gb-yolo26", "Orin NX 16 GB", "Orin", "NVIDIA Jetson Orin NX 16GB"),
        )
        for single, text in ((False, "fp16|int8"), (True, "fp32"))
    ),
    (*_TRT_MODES, "networks: only the five sizes of YOLO26 were timed; what others cost comes from other Jetsons"),
)  # fmt: skip


_ISP = Table(
    "isp_device_benchmark.csv",
    "ispcojp/ai_inference_device_benchmark (commit 4b85a7ab) results/*.md, Apache-2.0",
    "2025-02-25",
    (
        _gpu("jetson-orin-nano-tensorrt-fp32", "Jetson Orin Nano", "Orin",
             {"device": "NVIDIA Jetson Orin Nano", "runtime": "onnxruntime TensorRT"}, single=True),
        _gpu("jetson-orin-nano-cuda", "Jetson Orin Nano", "Orin",
             {"device": "NVIDIA Jetson Orin Nano", "runtime": "onnxruntime CUDA"}, single=True, runtime="onnxruntime"),
        _gpu("nvidia-rtx-4090-cuda", "NVIDIA RTX 4090", "",
             {"processor": "gpu: NVIDIA RTX 4090", "runtime": "onnxruntime CUDA"}, single=True, runtime="onnxruntime"),
        _gpu("nvidia-rtx-3080-cuda", "NVIDIA RTX 3080", "",
             {"processor": "gpu: NVIDIA RTX 3080", "runtime": "onnxruntime CUDA"}, single=True, runtime="onnxruntime"),
    ),
    ("few runs (10 after 1 of warm-up): small networks are noisy",),
)  # fmt: skip
_OPENVINO = Table(
    _ISP.file,
    _ISP.source,
    _ISP.date,
    tuple(
        Chip(name, title, {"processor": processor, "runtime": runtime, "precision": precision},
             {"device_class": kind, "processor": title.split(",")[0], "runtime": "openvino",
              "measured_with": "OpenVINO", "float_format": "float16"}, (float(kind == "npu"),))
        for name, title, kind, processor, runtime, precision in (
            ("intel-arc-core-ultra-7-155h-openvino", "Intel Arc of the Core Ultra 7 155H", "gpu", "igpu: Intel Arc",
             "onnxruntime OpenVINO", "fp16"),
            ("intel-npu-core-ultra-7-155h-openvino", "Intel AI Boost of the Core Ultra 7 155H", "npu",
             "npu: Intel AI Boost", "onnxruntime OpenVINO", "fp16"),
            ("intel-npu-core-ultra-7-265kf-openvino", "Intel AI Boost of the Core Ultra 7 265KF", "npu",
             "npu: Intel AI Boost", "openvino", "int8|fp32"),
        )
    ),
    _ISP.caveats,
)  # fmt: skip


def intel(data: Path) -> Collection:
    """Intel's integrated GPU and NPU under OpenVINO."""
    settings = Settings(noise=0.2, deviation=0.4, effect=0.4, rounds=10)
    return collect(data, (_OPENVINO,), (("float32", 0.3), ("int8", 0.2)), settings)


def nvidia(data: Path) -> Collection:
    """Jetsons under TensorRT, and GPUs under ONNX Runtime's CUDA provider."""
    return collect(
        data,
        (_TRTUTILS, _NETSPRESSO, _ULTRALYTICS, _ISP),
        (("float32", 0.1), ("int8", 0.05)),
        Settings(noise=0.12, deviation=0.3, rounds=10),
    )
