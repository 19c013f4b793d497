"""Workloads of well-known networks, from their published definitions or totals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autocompress.devices.profile import Dtype
from autocompress.runtimes.workload import Op, Workload
from public_data.tables import read_rows

_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
_FD = ((64, 2), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 4, (1024, 1))
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Net:
    """Builds a workload layer by layer; strides divide sizes rounding up."""

    def __init__(self, height: int, width: int, channels: int, dtype: Dtype) -> None:
        self.height, self.width, self.channels, self.dtype = height, width, channels, dtype
        self.ops: list[Op] = []

    def conv(self, cout: int, kernel: tuple[int, int], stride: int = 1, groups: int = 1) -> None:
        """A convolution with "same" padding; groups equal to the channels make it depthwise."""
        area_in = self.height * self.width
        self.height, self.width = -(-self.height // stride), -(-self.width // stride)
        area, each, taps = self.height * self.width, self.channels // groups, kernel[0] * kernel[1]
        kind = "depthwise" if groups > 1 else "conv1x1" if taps == 1 else "conv"
        size = 1 if self.dtype == "int8" else 4
        self.ops.append(
            Op(
                kind,
                self.dtype,
                f"{kind}{len(self.ops)}",
                macs=area * cout * each * taps,
                bytes_in=area_in * self.channels * size,
                bytes_out=area * cout * size,
                bytes_weights=cout * each * taps * size + 4 * cout,
                cin=groups if kind == "depthwise" else each,
                cout=cout,
                kernel=kernel,
                groups=groups,
                out_hw=area,
            )
        )
        self.channels = cout

    def other(self, kind: str, inputs: int, outputs: int) -> None:
        """An operator without weights, sizes in elements."""
        size = 1 if self.dtype == "int8" else 4
        self.ops.append(
            Op(kind, self.dtype, f"{kind}{len(self.ops)}", bytes_in=inputs * size, bytes_out=outputs * size)
        )

    def add(self) -> None:
        """A residual addition."""
        elements = self.height * self.width * self.channels
        self.other("elementwise", 2 * elements, elements)

    def pool(self) -> None:
        """Global average pooling."""
        self.other("pool", self.height * self.width * self.channels, self.channels)
        self.height = self.width = 1

    def linear(self, cout: int) -> None:
        """A fully connected layer over everything that is left."""
        cin, size = self.height * self.width * self.channels, 1 if self.dtype == "int8" else 4
        self.ops.append(
            Op(
                "linear",
                self.dtype,
                f"linear{len(self.ops)}",
                macs=cin * cout,
                bytes_in=cin * size,
                bytes_out=cout * size,
                bytes_weights=cin * cout * size + 4 * cout,
                cin=cin,
                cout=cout,
                out_hw=1,
            )
        )
        self.height, self.width, self.channels = 1, 1, cout

    def workload(self) -> Workload:
        """All layers so far; the peak is the largest input plus output of a layer."""
        return Workload(tuple(self.ops), max(op.bytes_in + op.bytes_out for op in self.ops))


def _eighths(value: float) -> int:
    """Rounded to a multiple of 8, at most 10 % down: the rule of MobileNetV2."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def mobilenet_v1(
    width: float, side: int, dtype: Dtype, classes: int = 1000, channels: int = 3, fast: bool = False
) -> Workload:
    """MobileNetV1 (arXiv 1704.04861); `fast` is FD-MobileNet (arXiv 1802.03750)."""
    net = Net(side, side, channels, dtype)
    net.conv(int(32 * width), (3, 3), 2)
    for cout, stride in _FD if fast else _V1:
        net.conv(net.channels, (3, 3), stride, net.channels)
        net.conv(int(cout * width), (1, 1))
    net.pool()
    net.linear(classes)
    return net.workload()


def mobilenet_v2(width: float, side: int, dtype: Dtype, classes: int = 1000) -> Workload:
    """MobileNetV2 (arXiv 1801.04381)."""
    net = Net(side, side, 3, dtype)
    net.conv(_eighths(32 * width), (3, 3), 2)
    for expansion, channels, repeats, first_stride in _V2:
        for i in range(repeats):
            cin, cout = net.channels, _eighths(channels * width)
            stride = first_stride if i == 0 else 1
            if expansion > 1:
                net.conv(cin * expansion, (1, 1))
            net.conv(net.channels, (3, 3), stride, net.channels)
            net.conv(cout, (1, 1))
            if stride == 1 and cin == cout:
                net.add()
    net.conv(max(1280, _eighths(1280 * width)), (1, 1))
    net.pool()
    net.linear(classes)
    return net.workload()


def resnet_cifar(blocks: int, dtype: Dtype, classes: int = 10) -> Workload:
    """ResNet of 3 x `blocks` residual blocks of 16, 32 and 64 channels on 32x32 images (ResNet-8: 1, ResNet-32: 5)."""
    net = Net(32, 32, 3, dtype)
    net.conv(16, (3, 3))
    for stage, channels in enumerate((16, 32, 64)):
        for i in range(blocks):
            stride = 2 if stage and i == 0 else 1
            if stride == 2:
                height, width, cin = net.height, net.width, net.channels
                net.conv(channels, (1, 1), 2)
                net.height, net.width, net.channels = height, width, cin
            net.conv(channels, (3, 3), stride)
            net.conv(channels, (3, 3))
            net.add()
    net.pool()
    net.linear(classes)
    return net.workload()


def ds_cnn(dtype: Dtype) -> Workload:
    """The keyword spotting network of MLPerf Tiny: depthwise separable, 64 channels, 49x10 input."""
    net = Net(49, 10, 1, dtype)
    net.conv(64, (10, 4), 2)
    for _ in range(4):
        net.conv(64, (3, 3), 1, 64)
        net.conv(64, (1, 1))
    net.pool()
    net.linear(12)
    return net.workload()


def autoencoder(dtype: Dtype) -> Workload:
    """The anomaly detection network of MLPerf Tiny: fully connected, 640 inputs and outputs."""
    net = Net(1, 1, 640, dtype)
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128, 640):
        net.linear(width)
    return net.workload()


def totals(macs: float, parameters: float, dtype: Dtype) -> Workload:
    """A network of which only the totals are known, as a single operator."""
    weights = round(parameters * (1 if dtype == "int8" else 4))
    return Workload((Op("conv1x1", dtype, "all", macs=round(macs), bytes_weights=weights, cin=1, cout=1),))


def published(sizes: Mapping[str, tuple[float, float]]) -> dict[str, Workload]:
    """Networks in int8 of which the GMACs and the millions of parameters are published, by name with "_int8"."""
    return {f"{name}_int8": totals(gmacs * 1e9, m * 1e6, "int8") for name, (gmacs, m) in sizes.items()}


def torchvision(data: Path, dtype: Dtype) -> dict[str, Workload]:
    """Convolutions and linear layers of the networks in torchvision_layers.csv."""
    ops: dict[str, list[Op]] = {}
    size = 1 if dtype == "int8" else 4
    for row in read_rows(data / "torchvision_layers.csv"):
        number = {key: int(float(row[key] or 0)) for key in row if key not in ("network", "op", "kernel")}
        taps = int(float(row["kernel"] or 1))
        groups, cin, cout = max(1, number["groups"]), number["in_c"], number["out_c"]
        if row["op"] != "Conv2d":
            kind = "linear"
        elif groups > 1:
            kind = "depthwise" if groups == cin == cout else "grouped"
        else:
            kind = "conv1x1" if taps == 1 else "conv"
        ops.setdefault(row["network"], []).append(
            Op(
                kind,
                dtype,
                f"{kind}{number['layer_index']}",
                macs=number["macs"],
                bytes_in=number["in_elems"] * size,
                bytes_out=number["out_elems"] * size,
                bytes_weights=number["params"] * size,
                cin=max(1, cin // groups if kind == "grouped" else cin),
                cout=max(1, cout),
                kernel=(taps, taps) if kind != "linear" else (),
                groups=groups,
                out_hw=max(1, number["out_h"] * number["out_w"]),
            )
        )
    return {name: Workload(tuple(found)) for name, found in ops.items()}
