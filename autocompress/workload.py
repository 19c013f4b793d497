"""`Workload`: the operators a deployed ONNX file really executes, after the fusions of ONNX Runtime.

Pure analysis of the graph: no session is built, no weight is read; only the reader imports `onnx`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

KINDS = (
    "conv1x1",
    "conv",
    "depthwise",
    "grouped",
    "linear",
    "attention",
    "pool",
    "elementwise",
    "activation",
    "gelu",
    "softmax",
    "norm",
    "movement",
    "layout",
    "quantize",
    "dequantize",
    "other",
    "if",
)
"""Every operator kind; "layout" is a change between the plain and the runtime's blocked channel order."""


def round_up(value: int, block: int) -> int:
    """Return the smallest multiple of `block` that is >= value."""
    return -(-value // block) * block


@dataclass(frozen=True, slots=True)
class Op:
    """One kernel call of the optimised graph.

    For matrix products `cin` is the inner size, `cout` the columns, `out_hw` the rows and `groups` the number
    of separate products; for convolutions `cin` counts the input channels of one group (all of them if
    depthwise) and `out_hw` the output pixels. Shape facts of other kinds are 0 or 1.
    """

    kind: str
    dtype: str
    """"float32" or "int8": the arithmetic of the kernel."""
    name: str
    macs: int = 0
    bytes_in: int = 0
    """Activation bytes read."""
    bytes_out: int = 0
    """Activation bytes written."""
    bytes_weights: int = 0
    """Constant bytes read, in the format the kernel uses (INT4 weights are unpacked to 1 byte)."""
    cin: int = 0
    cout: int = 0
    kernel: tuple[int, ...] = ()
    groups: int = 1
    out_hw: int = 0

    def padded_macs(self, block: int) -> int:
        """MACs with channels rounded up to `block`, as blocked kernels compute them."""
        if not self.macs or not self.cout:
            return self.macs
        if self.kind == "depthwise":
            return self.macs // self.cout * round_up(self.cout, block)
        inner = self.cin
        if self.dtype == "int8":
            inner = round_up(self.cin, 4)
        elif self.kind in {"conv", "conv1x1", "grouped"} and self.cin >= block:
            inner = round_up(self.cin, block)
        return self.macs * round_up(self.cout, block) * inner // (self.cout * max(1, self.cin))

    @property
    def patch_bytes(self) -> int:
        """Bytes of the unrolled input patches (im2col) of a convolution with a kernel larger than 1x1."""
        if self.kind not in {"conv", "grouped", "depthwise"}:
            return 0
        size = 1
        for side in self.kernel:
            size *= side
        channels = self.cin if self.kind == "depthwise" else self.cin * self.groups
        return self.out_hw * size * channels * (1 if self.dtype == "int8" else 4)

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written, constants included."""
        return self.bytes_in + self.bytes_out + self.bytes_weights

    def signature(self) -> tuple[object, ...]:
        """Everything but the name."""
        return (
            self.kind,
            self.dtype,
            self.macs,
            self.bytes_in,
            self.bytes_out,
            self.bytes_weights,
            self.cin,
            self.cout,
            self.kernel,
            self.groups,
            self.out_hw,
        )


@dataclass(frozen=True)
class Workload:
    """The kernel calls of one inference, in order, and the memory they need."""

    ops: tuple[Op, ...]
    peak_activation_bytes: int = 0
    """Most activation bytes alive at one time (liveness in file order, no in-place reuse)."""

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference, not padded."""
        return sum(op.macs for op in self.ops)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants in the format the kernels use."""
        return sum(op.bytes_weights for op in self.ops)

    @cached_property
    def fingerprint(self) -> str:
        """Stable 16-digit id of kinds, formats and shapes; weights and names do not enter."""
        text = repr([op.signature() for op in self.ops])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def from_onnx(
        cls, model_or_path: onnx.ModelProto | str | Path, outputs: Sequence[str] | None = None, batch: int = 1
    ) -> Workload:
        """Analyse a deployed file as ONNX Runtime's CPU provider fuses it.

        Convolutions absorb BatchNorm, activation and (fp32) residual Add; Q/DQ pairs make an operator int8
        where an integer kernel exists; what depends on constants only is free, except a DequantizeLinear that
        feeds an fp32 kernel (it runs at every call). Symbolic batch dimensions are set to `batch`.

        `outputs` restricts the graph to the ancestors of these tensors: one path through a multi-output graph
        with early exits. In a file with nested `If` the branch with more nodes is followed, so that the
        deepest path is counted, plus one op of kind "if" for each.

        Raises:
            InputError: the file cannot be read or has no output of that name.
        """
        from autocompress._workload_reader import read_workload

        return read_workload(model_or_path, outputs, batch)
