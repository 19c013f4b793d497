"""Resize: what is let through reads the places that ONNX Runtime reads."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from helpers.onnx_files import Builder

from autocompress.runtimes import base
from autocompress.runtimes.resizing import refusal

SIZES = [(6, 12), (6, 18), (12, 6), (9, 3), (7, 10), (13, 29), (6, 1), (1, 6)]
SCALES = [(6, 1.3), (10, 1.25), (7, 0.55), (6, 3.0), (12, 0.5)]


def resized(before: int, size: int | float, **attributes: Any) -> tuple[np.ndarray, str]:
    """A row of numbers, resized by ONNX Runtime, and what `refusal` says."""
    b, row = Builder(), np.random.default_rng(0).standard_normal((1, 1, 1, before)).astype(np.float32)
    scales = None if isinstance(size, int) else np.array([1, 1, 1, size], np.float32)
    sizes = ["", b.constant("sizes", np.array([1, 1, 1, size]))] if scales is None else [b.constant("scales", scales)]
    b.node("Resize", ["x", "", *sizes], "y", **attributes)
    model = b.model({"x": [1, 1, 1, before]}, {"y": []}, opset=19)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    found = base.reference().load(model.SerializeToString())({"x": row})["y"]
    return np.stack(
        [np.interp(usual(before, found.shape[-1], **attributes), range(before), row.ravel()), found.ravel()]
    ), (refusal(model.graph.node[-1], row.shape, found.shape, scales))


def usual(before: int, after: int, mode: str, coordinate_transformation_mode: str, **others: Any) -> np.ndarray:
    """The places that the runtimes read."""
    x = np.arange(after)
    if mode == "nearest":
        return x * before // after
    if coordinate_transformation_mode == "align_corners":
        return x * (before - 1) / max(1, after - 1)
    middle = 0.0 if coordinate_transformation_mode == "asymmetric" else 0.5
    return (x + middle) * before / after - middle


@pytest.mark.parametrize("place", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
def test_what_reads_other_places_is_refused(place: str) -> None:
    roundings = [{"nearest_mode": mode} for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")]
    kinds = [{"mode": "linear"}, *({"mode": "nearest", **rounding} for rounding in roundings)]
    said = set()
    for (before, size), kind in product([*SIZES, *SCALES], kinds):
        (ours, theirs), why = resized(before, size, coordinate_transformation_mode=place, **kind)
        assert (why == "") == np.allclose(ours, theirs, atol=1e-3), (before, size, kind, why)
        said.add(bool(why))
    assert False in said, "the usual ones are let through"


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"mode": "linear"}, ""),
        ({"mode": "linear", "antialias": 1}, "antialias"),
        ({"mode": "cubic", "exclude_outside": 1}, "exclude_outside"),
        ({"mode": "cubic", "cubic_coeff_a": -0.5}, "cubic coefficient"),
        ({"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}, "no half_pixel_symmetric"),
        ({"mode": "linear", "keep_aspect_ratio_policy": "not_larger", "axes": [3]}, "aspect ratio"),
    ],
)
def test_what_the_runtimes_do_not_have_is_refused(attributes: dict[str, Any], why: str) -> None:
    b = Builder()
    b.node("Resize", ["x", "", "", "sizes"], "y", **attributes)
    node = b.model({"x": [1, 1, 1, 8]}, {"y": []}).graph.node[-1]
    found = refusal(node, (1, 1, 1, 8), (1, 1, 1, 4), None)
    assert why in found and bool(why) == bool(found)
    assert refusal(node, (1, 1, 1, 1), (1, 1, 1, 0), None), "it has no elements"
