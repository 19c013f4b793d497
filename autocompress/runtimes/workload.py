"""`Workload`: the operators a deployed ONNX file really executes, after the fusions of ONNX Runtime.

Pure analysis of the graph: no weight is read, and a session is built only where onnx cannot infer the shapes of all
tensors. Only the reader imports `onnx`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from autocompress.files import parse_json

KINDS = (
    "conv1x1",
    "conv",
    "depthwise",
    "grouped",
    "conv_transpose",
    "linear",
    "attention",
    "lstm",
    "gru",
    "rnn",
    "embedding",
    "pool",
    "resize",
    "resize_linear",
    "resize_blocked",
    "resize_linear_blocked",
    "elementwise",
    "activation",
    "gelu",
    "softmax",
    "norm",
    "batch_norm",
    "instance_norm",
    "group_norm",
    "movement",
    "view",
    "epilogue",
    "layout",
    "quantize",
    "dequantize",
    "other",
    "if",
)
"""Every operator kind.

"embedding" is a look-up of rows in a constant table, "norm" one over the last axis (LayerNormalization and its like),
"resize" repeats the nearest values, with "_blocked" in the runtime's blocked channel order, "layout" is a change of
that order, "view" a call that moves no data (Reshape and its like), "epilogue" the further pass of a convolution over
its result for a fused activation (Clip).
"""


_PRODUCTS = frozenset({"conv1x1", "conv", "depthwise", "grouped", "linear", "attention"})
_RECURRENT = frozenset({"lstm", "gru", "rnn"})
_LARGEST_FOREIGN_BLOCK = 4
"""Of the profiles that are fitted to public measurements of other runtimes."""


def round_up(value: int, block: int) -> int:
    """Return the smallest multiple of `block` that is >= value."""
    return -(-value // block) * block


@dataclass(frozen=True, slots=True)
class Op:
    """One kernel call of the optimised graph.

    For matrix products `cin` is the inner size, `cout` the columns, `out_hw` the rows and `groups` the number
    of separate products; for convolutions `cin` counts the input channels of one group (all of them if
    depthwise) and `out_hw` the output pixels. For recurrent layers `cin` is the size of the input, `cout` that of the
    state, `groups` the number of directions and `out_hw` the steps. Shape facts of other kinds are 0 or 1.

    Every number may also be an array, one value per candidate; then so is all that is computed from it.
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
    """Constant bytes read, in the format the kernel uses (INT4 weights are unpacked to 1 byte); of an embedding those
    of the whole table, of which it reads as many as it writes."""
    cin: int = 0
    cout: int = 0
    kernel: tuple[int, ...] = ()
    groups: int = 1
    out_hw: int = 0

    def padded_macs(self, block: int) -> int:
        """MACs with channels rounded up to `block`, as blocked kernels compute them: of floats the 2-D ones only."""
        if self.kind not in _PRODUCTS or (len(self.kernel) in {1, 3} and self.dtype != "int8"):
            return self.macs
        if self.kind == "depthwise":
            return self.macs // self.cout * round_up(self.cout, block)
        inner = self.cin
        if self.dtype == "int8":
            # ONNX Runtime (blocks of 8 and 16) pads the whole window where it copies, other runtimes pad channels
            window = math.prod(self.kernel) if block > _LARGEST_FOREIGN_BLOCK else 1
            inner = round_up(self.cin * window, 4) // window
        elif self.kind in {"conv", "conv1x1", "grouped"}:
            inner = self.cin + (round_up(self.cin, block) - self.cin) * (self.cin >= block)
        return self.macs * round_up(self.cout, block) * inner // (self.cout * self.cin)

    @property
    def patch_bytes(self) -> int:
        """Bytes of the unrolled input patches (im2col) of a convolution, or result of a transposed one; 0 if 1x1."""
        if self.kind == "conv_transpose":
            return self.macs // self.cin * 4
        if self.kind not in {"conv", "grouped", "depthwise"}:
            return 0
        channels = self.cin if self.kind == "depthwise" else self.cin * self.groups
        return self.out_hw * math.prod(self.kernel) * channels * (1 if self.dtype == "int8" else 4)

    @property
    def recurrent_macs(self) -> int:
        """MACs of a recurrent layer that wait for the step before: those with its state."""
        return self.macs * self.cout // (self.cin + self.cout) if self.kind in _RECURRENT else 0

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written, constants included."""
        return self.bytes_in + self.bytes_out + int(self.bytes_read_weights)

    @property
    def bytes_read_weights(self) -> Any:
        """Constant bytes that the kernel reads: all but the rows of a table that nobody looks up."""
        return self.bytes_out if self.kind == "embedding" else self.bytes_weights


_COLUMNS = tuple(f.name for f in fields(Op) if f.name != "name")
_COUNTS = tuple(name for name in _COLUMNS if name not in ("kind", "dtype", "kernel"))
_LARGEST = 2**53


@dataclass(frozen=True)
class Workload:
    """The kernel calls of one inference, in order, and the memory they need."""

    ops: tuple[Op, ...]
    peak_activation_bytes: int = 0
    """Most activation bytes alive at one time (liveness in file order, no in-place reuse)."""
    assumptions: tuple[str, ...] = ()
    """What the graph does not tell, and so is not or not rightly counted, each in one clause; mostly nothing."""

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference, not padded."""
        return sum(op.macs for op in self.ops)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants in the format the kernels use."""
        return sum(op.bytes_weights for op in self.ops)

    def peak_memory_bytes(self, *, weights_in_flash: bool = False) -> int:
        """Working memory of one inference: weights as the kernels read them, plus the peak of the activations.

        The runtime's own code, its scratch buffers and copies that it makes of weights are not counted.

        Args:
            weights_in_flash: whether weights are read where they lie (microcontrollers): they need no RAM.
        """
        return self.peak_activation_bytes + (0 if weights_in_flash else self.weight_bytes)

    def to_json(self) -> str:
        """Compact text of all that predictions need; the names of the operators are left out."""
        ops = [[getattr(op, name) for name in _COLUMNS] for op in self.ops]
        data = {"version": 1, "columns": _COLUMNS, "ops": ops, "peak_activation_bytes": self.peak_activation_bytes}
        data |= {"assumptions": self.assumptions} if self.assumptions else {}
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Workload:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is damaged or of another version.
        """
        try:
            data: dict[str, Any] = parse_json(text)
            if data["version"] != 1 or data["columns"] != list(_COLUMNS):
                raise ValueError("it was written by another version of autocompress")
            rows = [dict(zip(_COLUMNS, row, strict=True)) for row in data["ops"]]
            ops = tuple(Op(**row | {"name": "", "kernel": tuple(row["kernel"])}) for row in rows)
            numbers = [n for op in ops for n in (*op.kernel, *(getattr(op, name) for name in _COUNTS))]
            if any(type(n) is not int or not 0 <= n < _LARGEST for n in numbers) or any(
                o.kind not in KINDS for o in ops
            ):
                raise ValueError("it holds a count or a kind that no operator has")
            return cls(ops, int(data["peak_activation_bytes"]), tuple(map(str, data.get("assumptions", ()))))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"damaged: {error!r}") from None

    @cached_property
    def fingerprint(self) -> str:
        """Stable 16-digit id of kinds, formats and shapes; weights and names do not enter."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]
