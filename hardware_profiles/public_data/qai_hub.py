"""Qualcomm NPUs (Hexagon) from AI Hub: per-operator form, float (computed in fp16) and w8a8."""

from __future__ import annotations

from pathlib import Path

from autocompress.devices.profile import Dtype
from autocompress.runtimes.workload import Workload
from public_data import networks
from public_data.collection import Collection, Target
from public_data.hierarchy import RUN, Part, Settings, Term
from public_data.tables import read_rows

_NAMES = {
    "Samsung Galaxy S24": ("snapdragon-8-gen-3-npu", "Snapdragon 8 Gen 3 (Samsung Galaxy S24)"),
    "Samsung Galaxy S25": ("snapdragon-8-elite-npu", "Snapdragon 8 Elite (Samsung Galaxy S25)"),
    "Snapdragon 8 Elite Gen 5 QRD": ("snapdragon-8-elite-gen-5-npu", "Snapdragon 8 Elite Gen 5"),
    "Snapdragon 7 Gen 4 QRD": ("snapdragon-7-gen-4-npu", "Snapdragon 7 Gen 4"),
    "Snapdragon X Elite CRD": ("snapdragon-x-elite-npu", "Snapdragon X Elite"),
    "QCS8550 (Proxy)": ("qcs8550-npu", "QCS8550 (a proxy device, says the source)"),
    "QCS8450 (Proxy)": ("qcs8450-npu", "QCS8450 (a proxy device, says the source)"),
    "QCS8275 (Proxy)": ("qcs8275-npu", "QCS8275 / SA7255P (same figures in the source)"),
    "Dragonwing IQ-9075 EVK": ("qcs9075-npu", "Dragonwing IQ-9075 (QCS9075)"),
    "Dragonwing RB3 Gen 2 Vision Kit": ("qcs6490-npu", "Dragonwing RB3 Gen 2 (QCS6490)"),
    "Dragonwing Q-6690 MTP": ("qcm6690-npu", "Dragonwing Q-6690 (QCM6690)"),
    "SA8295P ADP": ("sa8295p-npu", "SA8295P automotive"),
    "SA8775P ADP": ("sa8775p-npu", "SA8775P automotive"),
}
_RUNTIMES = ("onnx", "qnn_dlc", "tflite")
"""The first of which a device has enough networks has the plain name; the others say theirs."""
_WITH = {
    "onnx": ("qnn", "ONNX Runtime with the QNN provider", ""),
    "qnn_dlc": ("qnn", "QNN (compiled to a DLC)", "-dlc"),
    "tflite": ("litert", "TensorFlow Lite with the QNN delegate", "-tflite"),
}
"""Runtime, what the source calls it, and the end of the name."""
_ENOUGH = 8
_DENSE = ("conv1x1", "conv", "linear")
_THIN = ("depthwise", "grouped")


def _terms(dtype: Dtype, suffix: str, mmac: float) -> list[Term]:
    def all_of(field: str) -> tuple[Part, ...]:
        return tuple((kind, dtype, field, 1.0) for kind in (*_DENSE, *_THIN))

    return [
        Term(f"dense{suffix}", mmac, tuple((kind, dtype, "us_per_mmac", 1.0) for kind in _DENSE)),
        Term(f"thin{suffix}", 10 * mmac, tuple((kind, dtype, "us_per_mmac", 1.0) for kind in _THIN)),
        Term(f"weights{suffix}", 10.0, all_of("us_per_mb_weights")),
        Term(f"activations{suffix}", 10.0, all_of("us_per_mb_in") + all_of("us_per_mb_out")),
        Term(f"layer{suffix}", 4.0, all_of("overhead_us")),
    ]


def _facts(runtime: str, device: str) -> tuple[float, ...]:
    chip = (float("SA" in device), float("Dragonwing" in device))
    return (float(runtime == "onnx"), float(runtime == "tflite"), *chip)


def qualcomm(data: Path) -> Collection:
    """NPUs of 13 distinct Qualcomm devices."""
    works: dict[str, Workload] = dict(networks.torchvision(data, "float32"))
    works |= {f"{name}_int8": work for name, work in networks.torchvision(data, "int8").items()}
    works = {name: work for name, work in works.items() if not name.startswith("vit")}
    points: dict[tuple[str, str], dict[str, float]] = {}
    for row in read_rows(data / "qai_hub_latency.csv"):
        suffix = {"float": "", "w8a8": "_int8"}.get(row["precision"])
        name = row["network"].partition("/")[0].removesuffix("_quantized") + (suffix or "")
        wanted = row["processor"] == "npu" and row["runtime"] in _RUNTIMES and row["device"] in _NAMES
        if wanted and suffix is not None and name in works:
            points.setdefault((row["device"], row["runtime"]), {})[name] = float(row["latency_ms"])
    enough = [key for key, ms in points.items() if len(ms) >= _ENOUGH]
    targets = [
        _target(device, runtime, points[device, runtime], enough)
        for device, runtime in points
        if points[device, runtime]
    ]
    run = Term("run", 150.0, ((RUN, "float32", "overhead_us", 1.0),))
    return Collection(
        source="quic/ai-hub-models (commit 52c080d245d2, v0.46.1) perf.yaml; layers of torchvision 0.28",
        licence="BSD-3-Clause",
        terms=(run, *_terms("float32", "", 0.3), *_terms("int8", " int8", 0.1)),
        workloads=works,
        targets=tuple(targets),
        block=1,
        settings=Settings(noise=0.2, deviation=0.3, rounds=10),
        free=("layout", "quantize", "dequantize", "pool", "elementwise", "movement", "activation"),
        caveats=(
            "operators between convolutions (pooling, additions): their cost is in that of the convolutions",
            "attention, softmax and layer normalisation: not in the data, so transformers are out of domain",
            "clock and temperature: phones throttle after seconds at full load",
        ),
    )


def _target(device: str, runtime: str, ms: dict[str, float], enough: list[tuple[str, str]]) -> Target:
    chosen = next((r for r in _RUNTIMES if (device, r) in enough), "")
    name, title = _NAMES[device]
    executes, with_what, suffix = _WITH[runtime]
    known = (device, runtime) in enough
    return Target(
        name + ("" if runtime == chosen else suffix) if known else "",
        f"NPU of the {title}, {with_what}",
        ms,
        "2026-01-12",
        {
            "device_class": "npu",
            "processor": "Hexagon NPU",
            "runtime": executes,
            "measured_with": with_what,
            "float_format": "float16",
        },
        facts=_facts(runtime, device),
    )


_CPUS = {
    "Dragonwing RB3 Gen 2 Vision Kit": ("qcs6490-cpu", "Cortex-A78 2.7 GHz"),
    "Dragonwing Q-6690 MTP": ("qcm6690-cpu", "Cortex-A78"),
    "Snapdragon 7 Gen 4 QRD": ("snapdragon-7-gen-4-cpu", "Cortex-A720 2.8 GHz"),
}


def cpus(data: Path) -> Collection:
    """CPUs of three Qualcomm devices under ONNX Runtime, int8."""
    works = {f"{name}_int8": work for name, work in networks.torchvision(data, "int8").items() if name[:3] != "vit"}
    points: dict[str, dict[str, float]] = {}
    for row in read_rows(data / "qai_hub_latency.csv"):
        name = f"{row['network'].partition('/')[0].removesuffix('_quantized')}_int8"
        wanted = (row["processor"], row["runtime"], row["precision"]) == ("cpu", "onnx", "w8a8")
        if wanted and row["device"] in _CPUS and name in works:
            points.setdefault(row["device"], {})[name] = float(row["latency_ms"])
    targets = [
        Target(
            _CPUS[device][0],
            f"CPU of the {device}, threads not stated",
            ms,
            "2026-01-12",
            {
                "device_class": "board",
                "processor": _CPUS[device][1],
                "runtime": "onnxruntime",
                "measured_with": "ONNX Runtime, CPU provider",
                "instruction_set": ("asimd", "asimdhp", "asimddp"),
            },
        )
        for device, ms in points.items()
    ]
    run = Term("run", 150.0, ((RUN, "float32", "overhead_us", 1.0),))
    return Collection(
        source="quic/ai-hub-models (commit 52c080d245d2, v0.46.1) perf.yaml; layers of torchvision 0.28",
        licence="BSD-3-Clause",
        terms=(run, *_terms("int8", " int8", 20.0)),
        workloads=works,
        targets=tuple(targets),
        settings=Settings(noise=0.15, deviation=0.3, rounds=10),
        max_p90=1.3,
        free=("layout", "quantize", "dequantize", "pool", "elementwise", "movement", "activation"),
        caveats=(
            "float32: not measured, and no relative of this chip was under ONNX Runtime; give one measured number",
            "threads: not stated by the source",
        ),
    )
