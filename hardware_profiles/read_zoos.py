"""Read the networks of public zoos that the tables of measurements name: their kernels, or their totals only.

Usage: python hardware_profiles/read_zoos.py FOLDER_WITH_THE_TABLES

Needs torchvision and timm. Writes `public_data/zoo_workloads.json.gz` (networks measured on CPUs: exported to ONNX
with random weights and read as any file of a user) and `public_data/zoo_totals.csv` (all others: counted on torch's
meta device, no weight is made).
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from public_data import zoos
from public_data.tables import read_rows

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
_TABLES = ("rdk_bpu_latency", "renesas_drpai_latency", "axera_npu_latency", "isp_device_benchmark")
_TABLES += ("netspresso_latency", "spacemit_latency", "ti_edgeai_latency", "mcu_stm32_esp32_new")
_COUNTED = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)
_SIDES = range(32, 1025)


def _build(network: str) -> torch.nn.Module | None:
    if network in torchvision.models.list_models():
        bare = {"weights_backbone": None} if "detection" in network or "deeplab" in network else {}
        bare |= {"init_weights": False} if network in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(network, weights=None, **bare)  # type: ignore[no-any-return]
    return timm.create_model(network, exportable=True) if network in timm.list_models() else None


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


def _named(data: Path) -> Iterator[tuple[str, int]]:
    """Every network and its side that a table names."""
    for table in _TABLES:
        for row in read_rows(data / f"{table}.csv"):
            sizes = [int(part) for part in row["input_shape"].replace(" NV12", "").split("x") if part.isdigit()]
            if sizes and max(sizes) in _SIDES:
                yield row["network"], max(sizes)


def _counted(model: torch.nn.Module, side: int) -> dict[str, int]:
    total = {"macs": 0, "outputs": 0, "layers": 0, "depthwise_macs": 0}

    def count(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear):
            macs = inputs[0].numel() // inputs[0].shape[-1] * module.weight.numel()
        else:
            base = inputs[0] if isinstance(module, torch.nn.ConvTranspose2d) else output
            macs = base.numel() * module.weight[0].numel()
        total["macs"] += macs
        total["outputs"] += output.numel()
        total["layers"] += 1
        total["depthwise_macs"] += macs if getattr(module, "groups", 1) > 1 else 0

    for module in model.modules():
        if isinstance(module, _COUNTED):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, side, side, device="meta"))
    return {**total, "parameters": sum(p.numel() for p in model.parameters())}


def _totals(data: Path) -> list[dict[str, Any]]:
    rows = []
    for network, side in sorted(set(_named(data))):
        with torch.device("meta"):
            model = _build(network)
        if model is not None:
            try:
                rows.append({"network": network, "side": side, **_counted(model.eval(), side)})
            except (RuntimeError, AssertionError) as error:  # this network takes another size only
                sys.stderr.write(f"{network} at {side}: {error}\n")
    return rows


def main(arguments: list[str]) -> int:
    """Write both files; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    text = json.dumps(_workloads(), separators=(",", ":"))
    zoos.WORKLOADS.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    rows = _totals(Path(arguments[0]))
    with zoos.TOTALS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
