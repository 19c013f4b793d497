"""Networks of public zoos (torchvision, timm, ultralytics), written by `read_zoos.py`, which needs those packages."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from autocompress.runtimes.workload import Op, Workload

WORKLOADS = Path(__file__).with_name("zoo_workloads.json.gz")
"""Kernels of an exported file, as autocompress reads them, by "network@side"."""
LAYERS = Path(__file__).with_name("zoo_layers.json.gz")
"""Convolutions and linear layers, by "network@side", in the order of `_LAYER`."""
_LAYER = ("kind", "cin", "cout", "kernel", "groups", "pixels_out", "pixels_in")
_BASES = (640, 224)
"""Sides from which others are scaled, where a network takes any."""
_ALIASES = {"mnasnet_a1": "semnasnet_100", "resnet50_v1": "resnet50"}
_PRODUCTS = ("conv1x1", "conv", "depthwise", "grouped", "linear", "conv_transpose")


@cache
def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


@cache
def workload(network: str, side: int = 224) -> Workload | None:
    """The float network at a square input of this side, or None if it was not read."""
    found = _read(WORKLOADS).get(f"{_ALIASES.get(network, network)}@{side}")
    return None if found is None else Workload.from_json(json.dumps(found))


@cache
def layers(network: str, side: int) -> Workload | None:
    """The products of a float network at a square input, or None if it was not read."""
    name = _ALIASES.get(network, network)
    for base in (side, *_BASES):
        rows = _read(LAYERS).get(f"{name}@{base}")
        if rows is not None:
            return Workload(tuple(_product(dict(zip(_LAYER, row, strict=True)), (side / base) ** 2) for row in rows))
    return None


def _product(layer: dict[str, Any], scale: float) -> Op:
    cin, cout, groups, kernel = layer["cin"], layer["cout"], layer["groups"], tuple(layer["kernel"])
    is_vector = layer["kind"] == "linear" and layer["pixels_out"] == 1
    pixels_in, pixels_out = (round(layer[key] * (1 if is_vector else scale)) for key in ("pixels_in", "pixels_out"))
    weights = cin // groups * cout * math.prod(kernel)
    transposed = layer["kind"] == "conv_transpose"
    return Op(
        layer["kind"],
        "float32",
        "",
        macs=weights * max(1, pixels_in if transposed else pixels_out),
        bytes_in=4 * cin * pixels_in,
        bytes_out=4 * cout * pixels_out,
        bytes_weights=4 * weights,
        cin=cin if layer["kind"] == "depthwise" else max(1, cin // groups),
        cout=cout,
        kernel=kernel,
        groups=groups,
        out_hw=max(1, pixels_out),
    )


def int8(work: Workload) -> Workload:
    """The network with all its products in int8."""

    def quantised(op: Any) -> Any:
        if op.kind not in _PRODUCTS or op.dtype == "int8":
            return op
        size = {key: getattr(op, key) // 4 for key in ("bytes_in", "bytes_out", "bytes_weights")}
        return replace(op, dtype="int8", **size)

    return Workload(tuple(map(quantised, work.ops)))
