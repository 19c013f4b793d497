"""ncnn: workloads from ncnn_layers.csv, measured CPUs and GPUs from ncnn_latency.csv."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from autocompress.runtimes.workload import Op, Workload
from public_data.tables import Row, read_rows

_KINDS = {
    "conv1x1": "conv1x1",
    "conv3x3s1": "conv",
    "conv_other": "conv",
    "depthwise_conv": "depthwise",
    "grouped_conv": "grouped",
    "fully_connected": "linear",
    "attention": "attention",
    "pool": "pool",
    "global_pool": "pool",
    "elementwise": "elementwise",
    "data_movement": "movement",
    "normalization": "lrn",
    "detection_post": "other",
}
_OPERATORS = {"Softmax": "softmax", "Swish": "activation", "HardSwish": "activation", "Sigmoid": "activation"}
_OPERATORS |= {"HardSigmoid": "activation", "GELU": "gelu", "Flatten": "", "Reshape": "", "Reduction": "pool"}
_EXCLUDED = {"vision_transformer"}


@dataclass
class Run:
    """Newest measured latency of each network on one device, core cluster and thread count."""

    device: str
    processor: str
    threads: int
    ms: dict[str, float] = field(default_factory=dict)
    dates: dict[str, str] = field(default_factory=dict)
    float16: bool = False

    @property
    def date(self) -> str:
        """Of the newest row."""
        return max(self.dates.values())


def _number(row: Row, key: str) -> int:
    return int(float(row[key] or 0))


def _op(row: Row) -> Op | None:
    kind = _OPERATORS.get(row["op"], _KINDS.get(row["family"], ""))
    if not kind:
        return None
    int8 = row["int8"] == "1"
    itemsize = 1 if int8 else 4
    groups = max(1, _number(row, "groups"))
    cin, cout = _number(row, "in_c"), _number(row, "out_c")
    if kind == "grouped":
        cin //= groups
    if kind == "linear":
        cin = _number(row, "in_elems")
    return Op(
        kind,
        "int8" if int8 else "float32",
        row["layer_name"],
        macs=_number(row, "macs"),
        bytes_in=_number(row, "in_elems") * itemsize,
        bytes_out=_number(row, "out_elems") * itemsize,
        bytes_weights=_number(row, "weight_bytes"),
        cin=max(1, cin),
        cout=max(1, cout),
        kernel=(_number(row, "kernel_h"), _number(row, "kernel_w")) if row["kernel_h"] else (),
        groups=groups,
        out_hw=max(1, _number(row, "out_h")) * max(1, _number(row, "out_w")),
    )


def workloads(data: Path) -> dict[str, Workload]:
    """Of every network but the vision transformer, by name; those that end in "_int8" have int8 products."""
    ops: dict[str, list[Op]] = defaultdict(list)
    for row in read_rows(data / "ncnn_layers.csv"):
        op = _op(row)
        if op is not None:
            ops[row["network"]].append(op)
    return {name: Workload(tuple(found)) for name, found in ops.items() if name not in _EXCLUDED}


def runs(data: Path) -> dict[tuple[str, str, int], Run]:
    """All runs by device, "cpu", "cpu:big", "cpu:little" or "gpu", and threads.

    Of each network the minimum latency of its newest row counts.
    """
    found: dict[tuple[str, str, int], Run] = {}
    for row in read_rows(data / "ncnn_latency.csv"):
        if row["network"] in _EXCLUDED:
            continue
        gpu = row["runtime"] == "ncnn-vulkan"
        processor = "gpu" if gpu else row["processor"].removesuffix(":all")
        threads = 1 if gpu else int(row["threads"])
        run = found.setdefault((row["device"], processor, threads), Run(row["device"], processor, threads))
        ms, name, date = float(row["latency_min_ms"] or row["latency_ms"]), row["network"], row["measured_before"]
        newest = run.dates.get(name, "")
        if date > newest or (date == newest and ms < run.ms[name]):
            run.ms[name], run.dates[name] = ms, date
        run.float16 |= row["precision"] == "fp16"
    return found
