"""Read the networks of public zoos that the tables of measurements name: their kernels, or their products only.

Usage: python hardware_profiles/read_zoos.py FOLDER_WITH_THE_TABLES

Needs torchvision, timm and ultralytics. Writes `public_data/zoo_workloads.json.gz` (networks measured on CPUs:
exported to ONNX with random weights and read as any file of a user) and `public_data/zoo_layers.json.gz` (all:
convolutions and linear layers, seen by hooks; shapes only, no weights and no code).
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from public_data import zoos
from public_data.layered import side_of
from public_data.tables import read_rows
from ultralytics.nn import tasks

from autocompress.runtimes.adapters.onnxruntime.reader import read_workload

_TIMM = (
    "ese_vovnet19b_dw mixnet_s mixnet_m mixnet_l mobilenetv2_050 mobilenetv2_100 mobilenetv3_large_100 "
    "mobilenetv3_small_050 mobilenetv3_small_100 repvgg_b0 efficientformer_l1 efficientnet_lite0 efficientnet_es "
    "efficientnet_b0 regnetx_002 tf_mobilenetv3_small_minimal_100 semnasnet_100 efficientnet_em@240 "
    "efficientnet_el@300 efficientnet_lite4@300 efficientnet_lite4@380 inception_v3@299 resnetv2_50 hardcorenas_a"
)
_TORCHVISION = (
    "resnet18 resnet34 resnet50 shufflenet_v2_x1_0 googlenet densenet121 squeezenet1_0 efficientnet_v2_s vit_b_16 "
    "mobilenet_v2 mobilenet_v3_large mobilenet_v3_small"
)
_TABLES = (
    *("rdk_bpu_latency", "renesas_drpai_latency", "axera_npu_latency", "isp_device_benchmark", "netspresso_latency"),
    *("spacemit_latency", "ti_edgeai_latency", "mcu_stm32_esp32_new", "ultralytics_yolo26_latency", "qai_hub_latency"),
    *("trtutils_jetson_latency", "rknn_npu_latency", "hailo_npu_throughput", "synaptics_synap_latency"),
)
_YOLOX = {"tiny": (0.33, 0.375), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}
_HEADS = {
    "": tasks.DetectionModel,
    "seg": tasks.SegmentationModel,
    "pose": tasks.PoseModel,
    "cls": tasks.ClassificationModel,
    "obb": tasks.OBBModel,
}
_COUNTED = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)
_SIDES = range(32, 1301)


def _workloads() -> dict[str, Any]:
    found = {}
    for name in (_TIMM + " " + _TORCHVISION).split():
        network, _, side = name.partition("@")
        model = _build(network)
        assert model is not None, network
        with tempfile.TemporaryDirectory() as folder:
            file, sample = Path(folder) / "model.onnx", torch.randn(1, 3, int(side or 224), int(side or 224))
            torch.onnx.export(model.eval(), (sample,), str(file), dynamo=False, opset_version=17)
            found[f"{network}@{side or 224}"] = json.loads(read_workload(file).to_json())
    return found


def _build(network: str) -> Any:
    """A network of torchvision or timm, or None."""
    if network in torchvision.models.list_models():
        parts = ("rcnn", "ssd", "fcos", "retina", "deeplab", "fcn", "lraspp")
        bare: dict[str, Any] = {"weights_backbone": None} if any(part in network for part in parts) else {}
        bare |= {"init_weights": False} if network in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(network, weights=None, **bare)
    now = re.sub(r"^gluon_(\w*?)_v1(\w?)", r"\1\2", network)
    name = next((n for n in (network, now, now.removesuffix("b")) if n in timm.list_models()), "")
    return timm.create_model(name, exportable=True) if name else None


def _yolo(network: str) -> Any:
    """A network of ultralytics with its branches fused, or None; its anchor-free YOLOv5 ends in u."""
    name = re.sub(r"[_-](seg|pose)$", r"-\1", network).replace("yolov11", "yolo11").replace("yolov12", "yolo12")
    if re.match(r"yolov5[nsmlx](?!u)", name):
        return None
    head = _HEADS.get(name.partition("-")[2])
    try:
        return head(f"{re.sub(r'u$', '', name)}.yaml", verbose=False).eval().fuse() if head else None
    except FileNotFoundError:
        return None


def _seen(model: torch.nn.Module, side: int, device: str) -> list[list[Any]]:
    """Products in the order in which they ran, as `zoos.layers` reads them."""
    rows: list[list[Any]] = []

    def see(module: Any, inputs: Any, output: Any) -> None:
        given = inputs[0]
        if isinstance(module, torch.nn.Linear):
            sizes = module.in_features, module.out_features
            pixels = given.numel() // module.in_features
            rows.append(["linear", *sizes, [], 1, pixels, pixels])
            return
        kernel, groups, sizes = list(module.kernel_size), module.groups, (module.in_channels, module.out_channels)
        if isinstance(module, torch.nn.ConvTranspose2d):
            kind = "conv_transpose"
        elif groups > 1:
            kind = "depthwise" if groups == sizes[0] == sizes[1] else "grouped"
        else:
            kind = "conv1x1" if set(kernel) == {1} else "conv"
        out, into = (x.numel() // x.shape[0] // x.shape[1] for x in (output, given))
        rows.append([kind, *sizes, kernel, groups, out, into])

    for module in model.modules():
        if isinstance(module, _COUNTED):
            module.register_forward_hook(see)
    with torch.no_grad():
        model(torch.zeros(1, 3, side, side, device=device))
    return rows


def _yolox(depth: float, width: float) -> list[list[Any]]:
    """YOLOX at 640 pixels (arXiv 2107.08430), written down from the paper."""
    rows: list[list[Any]] = []
    base, repeats, head = int(64 * width), max(round(3 * depth), 1), int(256 * width)

    def conv(cin: int, cout: int, kernel: int, into: int, stride: int = 1) -> int:
        out = into // stride**2
        rows.append(["conv1x1" if kernel == 1 else "conv", cin, cout, [kernel, kernel], 1, out, into])
        return out

    def csp(cin: int, cout: int, n: int, pixels: int) -> None:
        for _ in range(2):
            conv(cin, cout // 2, 1, pixels)
        for _ in range(n):
            conv(cout // 2, cout // 2, 1, pixels)
            conv(cout // 2, cout // 2, 3, pixels)
        conv(cout, cout, 1, pixels)

    pixels = [320**2]
    conv(12, base, 3, pixels[0])
    for scale, n in ((1, repeats), (2, 3 * repeats), (4, 3 * repeats), (8, repeats)):
        pixels.append(conv(scale * base, 2 * scale * base, 3, pixels[-1], 2))
        if scale == 8:
            conv(16 * base, 8 * base, 1, pixels[-1])
            conv(32 * base, 16 * base, 1, pixels[-1])
        csp(2 * scale * base, 2 * scale * base, n, pixels[-1])
    fine, middle, coarse = pixels[2:]
    conv(16 * base, 8 * base, 1, coarse)
    csp(16 * base, 8 * base, repeats, middle)
    conv(8 * base, 4 * base, 1, middle)
    csp(8 * base, 4 * base, repeats, fine)
    conv(4 * base, 4 * base, 3, fine, 2)
    csp(8 * base, 8 * base, repeats, middle)
    conv(8 * base, 8 * base, 3, middle, 2)
    csp(16 * base, 16 * base, repeats, coarse)
    for scale, at in ((4, fine), (8, middle), (16, coarse)):
        conv(scale * base, head, 1, at)
        for _ in range(4):
            conv(head, head, 3, at)
        for outputs in (80, 4, 1):
            conv(head, outputs, 1, at)
    return rows


def _named(data: Path) -> Iterator[tuple[str, int]]:
    """Every network and its side that a table names."""
    for table in _TABLES:
        for row in read_rows(data / f"{table}.csv"):
            if side_of(row) in _SIDES:
                yield row["network"], side_of(row)


def _layers(data: Path) -> dict[str, Any]:
    found = {f"yolox_{size}@640": _yolox(*scale) for size, scale in _YOLOX.items()}
    for network, side in sorted(set(_named(data))):
        is_yolo = network.startswith("yolo")
        with torch.device("cpu" if is_yolo else "meta"):
            model = _yolo(network) if is_yolo else _build(network)
        side = (224 if network.endswith("-cls") else 640) if is_yolo else side
        if model is not None and f"{network}@{side}" not in found:
            try:
                found[f"{network}@{side}"] = _seen(model.eval(), side, "cpu" if is_yolo else "meta")
            except (RuntimeError, AssertionError) as error:  # this network takes another size only
                sys.stderr.write(f"{network} at {side}: {error}\n")
    return found


def _write(path: Path, content: Any) -> None:
    path.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0))


def main(arguments: list[str]) -> int:
    """Write both files; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    _write(zoos.WORKLOADS, _workloads())
    _write(zoos.LAYERS, _layers(Path(arguments[0])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
