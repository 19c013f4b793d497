"""Whether the runtimes with files of their own read from the places that an ONNX Resize reads from.

They take two sizes and know one rule for each kind of interpolation; ONNX has many, which differ by half a pixel or so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

_Places = Callable[[NDArray[np.float32], int, int, np.float32], NDArray[np.float32]]
_ALLOWED = 1e-3
"""Distance of two places, in elements, that is only an error of float32."""


def _half_pixel(x: NDArray[np.float32], before: int, after: int, scale: np.float32) -> NDArray[np.float32]:
    return (x + np.float32(0.5)) / scale - np.float32(0.5)


def _align_corners(x: NDArray[np.float32], before: int, after: int, scale: np.float32) -> NDArray[np.float32]:
    return x * np.float32((before - 1) / max(1, after - 1))


_PLACES: Mapping[bytes, _Places] = {
    b"half_pixel": _half_pixel,
    b"pytorch_half_pixel": lambda x, *sizes: _half_pixel(x, *sizes) if len(x) > 1 else x,
    b"asymmetric": lambda x, before, after, scale: x / scale,
    b"align_corners": _align_corners,
}
"""In the input, for each index x of the output along one axis; by `coordinate_transformation_mode`."""
_ROUNDED: Mapping[bytes, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    b"round_prefer_floor": lambda places: np.ceil(places - np.float32(0.5)),
    b"round_prefer_ceil": lambda places: np.floor(places + np.float32(0.5)),
    b"floor": np.floor,
    b"ceil": np.ceil,
}


def refusal(node: onnx.NodeProto, before: Sequence[int], after: Sequence[int], scales: NDArray[Any] | None) -> str:
    """Why a Resize is none of the usual interpolations, which runtimes have; empty if it is one.

    They are: "nearest" takes the element at floor(x * before / after); "linear" and "cubic" (coefficient
    -0.75) take the places of the node's `coordinate_transformation_mode`, where "pytorch_half_pixel" counts as
    "half_pixel", with after / before as the scale. What a runtime lacks of these it refuses itself.

    Args:
        node: the Resize, of opset 11 or later.
        before: shape of the input.
        after: shape of the output.
        scales: its third input, if it has one.
    """
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    mode, place = given.get("mode", b"nearest"), given.get("coordinate_transformation_mode", b"half_pixel")
    if len(node.input) < 3:
        return "its opset is older than 11"
    if 0 in (*before, *after):
        return "its input or output has no elements"
    if given.get("antialias", 0) or given.get("exclude_outside", 0):
        return "it weights its neighbours in another way (antialias, exclude_outside)"
    if given.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return "it keeps the aspect ratio"
    if mode == b"cubic" and abs(given.get("cubic_coeff_a", -0.75) + 0.75) > 1e-6:
        return "its cubic coefficient is not -0.75"
    if place not in _PLACES:
        return f"there are no {place.decode()} coordinates"
    factors = np.divide(after, before, dtype=np.float32)
    axes = given.get("axes", range(len(before)))
    own = factors.copy()
    if scales is not None and scales.size:
        own[list(axes)] = scales
    rounding = given.get("nearest_mode", b"round_prefer_floor")
    for sizes in zip(before, after, own, factors, strict=True):
        if not _reads_the_same(mode, place, rounding, *sizes):
            return (
                f"{mode.decode()} interpolation with {place.decode()} coordinates reads other places with these sizes"
            )
    return ""


def _reads_the_same(
    mode: bytes, place: bytes, rounding: bytes, before: int, after: int, scale: np.float32, factor: np.float32
) -> bool:
    """Along one axis."""
    x = np.arange(after, dtype=np.float32)
    wanted = _PLACES[place](x, before, after, scale)
    if mode == b"nearest":
        found = np.floor(x * np.float32(before / after))
        return np.array_equal(np.clip(_ROUNDED[rounding](wanted), 0, before - 1), np.clip(found, 0, before - 1))
    usual = _PLACES[b"half_pixel" if place == b"pytorch_half_pixel" else place](x, before, after, factor)
    if mode == b"linear":
        wanted, usual = (np.clip(places, 0, before - 1) for places in (wanted, usual))
    return bool(np.abs(wanted - usual).max() < _ALLOWED)
