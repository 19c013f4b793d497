"""Workloads of networks of public zoos (torchvision, timm), written by `read_zoos.py`, which needs those packages."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from autocompress.runtimes.workload import Workload

WORKLOADS = Path(__file__).with_name("zoo_workloads.json.gz")
"""Kernels of an exported file, as autocompress reads them, by "network@side"."""
TOTALS = Path(__file__).with_name("zoo_totals.csv")
"""MACs, outputs of layers, parameters and layers, by network and side."""
_ALIASES = {"mnasnet_a1": "semnasnet_100", "resnet50_v1": "resnet50"}
_PRODUCTS = ("conv1x1", "conv", "depthwise", "grouped", "linear")


@cache
def _workloads() -> dict[str, Workload]:
    data = json.loads(gzip.decompress(WORKLOADS.read_bytes()))
    return {name: Workload.from_json(json.dumps(work)) for name, work in data.items()}


def workload(network: str, side: int = 224) -> Workload | None:
    """The float network at a square input of this side, or None if it was not read."""
    return _workloads().get(f"{_ALIASES.get(network, network)}@{side}")


@cache
def totals() -> dict[tuple[str, int], dict[str, int]]:
    """macs, outputs, parameters, layers and depthwise_macs of each network at each side."""
    with TOTALS.open(newline="", encoding="utf-8") as file:
        return {(row.pop("network"), int(row.pop("side"))): _numbers(row) for row in csv.DictReader(file)}


def _numbers(row: dict[str, str]) -> dict[str, int]:
    return {key: int(value) for key, value in row.items()}


def int8(work: Workload) -> Workload:
    """The network with all its products in int8."""

    def quantised(op: Any) -> Any:
        if op.kind not in _PRODUCTS or op.dtype == "int8":
            return op
        size = {key: getattr(op, key) // 4 for key in ("bytes_in", "bytes_out", "bytes_weights")}
        return replace(op, dtype="int8", **size)

    return Workload(tuple(map(quantised, work.ops)))
