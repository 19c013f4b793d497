"""A layer as a product of matrices, whatever its kind: its weight as rows, its input as the rows they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from autocompress.graphs.quantizable import PlannedLayer, attribute

Array = NDArray[Any]


@dataclass(frozen=True)
class Unfolding:
    """How a Conv, Gemm or MatMul is unfolded.

    A convolution of g groups is g products; the others are one. In each, `d` inputs meet one output.
    """

    node: onnx.NodeProto
    layer: PlannedLayer
    shape: tuple[int, ...]
    """Of the weight."""

    @property
    def groups(self) -> int:
        """Number of products."""
        return int(attribute(self.node, "group", 1)) if self.layer.op_type == "Conv" else 1

    def rows(self, weight: Array) -> Array:
        """The weight as (groups, outputs of a group, d)."""
        if self.layer.op_type == "Conv":
            return weight.reshape(self.groups, self.shape[0] // self.groups, -1)
        return (weight if self.layer.axis == 0 else weight.T)[None]

    def weight(self, rows: Array) -> Array:
        """The reverse of `rows`."""
        if self.layer.op_type == "Conv":
            return rows.reshape(self.shape)
        return np.ascontiguousarray(rows[0] if self.layer.axis == 0 else rows[0].T)

    def inputs(self, tensors: Sequence[Array], most: int, rng: np.random.Generator) -> list[Array]:
        """Inputs of the layer as (groups, n, d), with n at most `most`, drawn at the same places in all `tensors`."""
        if self.layer.op_type != "Conv":
            flat = [tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]
            chosen = rng.permutation(len(flat[0]))[:most]
            return [rows[chosen][None] for rows in flat]
        views = [self._windows(tensor) for tensor in tensors]
        samples, places = views[0].shape[0], views[0].shape[2 : len(self.shape)]
        chosen = rng.permutation(int(np.prod(places)))[: max(1, most // samples)]
        where: tuple[Any, ...] = (slice(None), slice(None), *np.unravel_index(chosen, places))
        return [self._windows_as_rows(view[where]) for view in views]

    def _windows(self, x: Array) -> Array:
        """A view (N, C, *places, *kernel) of what the kernel sees at each place."""
        kernel = self.shape[2:]
        rank = len(kernel)
        strides, steps = self._integers("strides", [1] * rank), self._integers("dilations", [1] * rank)
        sizes = [(k - 1) * step + 1 for k, step in zip(kernel, steps, strict=True)]
        padded = np.pad(x, [(0, 0), (0, 0), *self._pads(x.shape[2:], sizes, strides)])
        views = np.lib.stride_tricks.sliding_window_view(padded, sizes, axis=tuple(range(2, 2 + rank)))
        every = [slice(None), slice(None), *(slice(None, None, step) for step in (*strides, *steps))]
        view: Array = views[tuple(every)]
        return view

    def _pads(self, places: Sequence[int], sizes: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
        """Zeros before and behind, along each dimension."""
        rank = len(places)
        how = next((a.s for a in self.node.attribute if a.name == "auto_pad"), b"NOTSET")
        if how not in (b"SAME_UPPER", b"SAME_LOWER"):
            pads = self._integers("pads", [0] * 2 * rank)
            return list(zip(pads[:rank], pads[rank:], strict=True))
        missing = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(places, sizes, strides, strict=True)]
        smaller = [(n // 2, n - n // 2) for n in missing]
        return smaller if how == b"SAME_UPPER" else [(after, before) for before, after in smaller]

    def _windows_as_rows(self, windows: Array) -> Array:
        """(N, C, n, *kernel) to (groups, N * n, d)."""
        samples, channels, n = windows.shape[:3]
        split = windows.reshape(samples, self.groups, channels // self.groups, n, -1)
        return split.transpose(1, 0, 3, 2, 4).reshape(self.groups, samples * n, -1)

    def _integers(self, name: str, default: list[int]) -> list[int]:
        return next((list(a.ints) for a in self.node.attribute if a.name == name), default)
