"""Free dimensions of inputs and how they are fixed."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from autocompress.errors import InputError
from autocompress.runtimes.input_shapes import fix_inputs, parse_shapes, refuse_free


def _input(*dims: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_shapes_are_read() -> None:
    assert parse_shapes(["x=1x3x64x48", "ids=1,9"]) == {"x": (1, 3, 64, 48), "ids": (1, 9)}


@pytest.mark.parametrize("text", ["x", "x=", "x=1x0", "x=axb", "x=-1x3", "=1", "x=99999x99999x99999"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--shape must be NAME=SIZE"):
        parse_shapes([text])


def test_every_dimension_that_is_called_like_the_batch_is_the_batch() -> None:
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "n", 16])
    values = [_input("n", 40), state]
    fix_inputs(values, {}, batch=3)
    assert [_sizes(value) for value in values] == [[3, 40], [2, 3, 16]]


@pytest.mark.parametrize(
    ("dims", "shape", "words"),
    [
        (("n", 3, "h", "w"), None, r"'x' has free dimensions beside the batch \(h and w\).*--shape x=1x3xSIZExSIZE"),
        (("n", None), None, r"\(number 2\)"),
        (("n", 3, "h", "w"), (1, 3, 64), r"x=1x3x64 does not fit the input, which is nx3xhxw"),
        (("n", 3, "h", "w"), (1, 4, 64, 64), r"does not fit"),
    ],
)
def test_shapes_that_are_missing_or_do_not_fit(
    dims: tuple[int | str | None, ...], shape: tuple[int, ...] | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        fix_inputs([_input(*dims)], {"x": shape} if shape else {}, 1)


def test_an_input_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="has no input 'y'; its inputs are: x"):
        fix_inputs([_input(1, 3)], {"y": (1, 3)})


def test_a_session_with_a_free_batch_only_is_fine() -> None:
    refuse_free({"x": ["batch", 3, 8, 8], "state": [1, "batch", 4]})
