"""Sizes of the inputs of an ONNX file: which of them are free, and how the user fixes them.

A first dimension without a size is the batch, and so is every dimension that bears the same name. Our own files note
the usual size of any other free dimension; those of others do not, so that it has to be given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.errors import InputError

if TYPE_CHECKING:
    import onnx

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of inputs, by their name."""

USUAL_SHAPE = "autocompress.usual_shape"
"""Key under which an input with free dimensions has the shape of a usual sample, such as "1x64"."""
_GIVEN = re.compile(r"(?P<name>.+)=(?P<dims>\d+(?:[x,]\d+)*)")
_LARGEST = 2**31


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read shapes as the command line gives them, for example "input=1x3x640x640".

    Raises:
        InputError: a text has another form, or a size is not between 1 and 2^31.
    """
    shapes = {}
    for text in texts:
        found = _GIVEN.fullmatch(text.strip())
        dims = tuple(int(dim) for dim in re.split("[x,]", found["dims"])) if found else ()
        if not found or min(dims) < 1 or math.prod(dims) > _LARGEST:
            raise InputError(f"--shape must be NAME=SIZExSIZE..., such as input=1x3x640x640, got {text!r}")
        shapes[found["name"]] = dims
    return shapes


def note_usual_shapes(inputs: Sequence[onnx.ValueInfoProto], shapes: Shapes) -> None:
    """Write into inputs of a graph, in place, what `usual_shapes` reads."""
    for value in inputs:
        value.metadata_props.add(key=USUAL_SHAPE, value="x".join(map(str, shapes[value.name])))


def usual_shapes(inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, tuple[int, ...]]:
    """Shapes of usual samples, by input, as far as a file notes them."""
    noted = {value.name: prop.value for value in inputs for prop in value.metadata_props if prop.key == USUAL_SHAPE}
    return parse_shapes([f"{name}={shape}" for name, shape in noted.items()])


def noted_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """`usual_shapes` of a file; none where it is no ONNX file."""
    import onnx

    try:
        return usual_shapes(onnx.load(path, load_external_data=False).graph.input)
    except Exception:  # protobuf and onnx have no common base class; whoever runs the file says what is wrong
        return {}


def fix_inputs(inputs: Sequence[onnx.ValueInfoProto], shapes: Shapes, batch: int | None = None) -> None:
    """Write sizes into the free dimensions of the inputs of a graph, in place.

    Args:
        inputs: of the graph, without weights.
        shapes: of some of them; a size may stand where the file has the same.
        batch: size of the batch of the others; None leaves it free.

    Raises:
        InputError: a shape is for no input or does not fit it, or a dimension beside the batch stays free.
    """
    if unknown := sorted(set(shapes) - {value.name for value in inputs}):
        names = ", ".join(value.name for value in inputs)
        raise InputError(f"the file has no input {unknown[0]!r}; its inputs are: {names}")
    named = {dims[0].dim_param for dims in map(_dims, inputs) if dims} - {""}
    usual = usual_shapes(inputs)
    for value in inputs:
        dims = _dims(value)
        if value.name in shapes:
            _fix(value.name, dims, shapes[value.name])
        for dim, size in list(zip(dims, usual.get(value.name, ()), strict=False))[1:]:
            dim.dim_value = dim.dim_value or size
        for axis, dim in enumerate(dims):
            if not _is_fixed(dim) and (axis == 0 or dim.dim_param in named) and batch is not None:
                dim.dim_value = batch
    refuse_free({value.name: _sizes(value) for value in inputs})


def refuse_free(shapes: Mapping[str, Sequence[Any]]) -> None:
    """Refuse inputs with free dimensions beside the batch.

    Args:
        shapes: by input; a dimension is a number, or the name of a free one, or None.

    Raises:
        InputError: with the way to give sizes.
    """
    named = {dims[0] for dims in shapes.values() if len(dims) and isinstance(dims[0], str)}
    for name, dims in shapes.items():
        free = [k for k, dim in enumerate(dims) if k and not isinstance(dim, int) and dim not in named]
        if free:
            sizes = "x".join(
                str(dim) if isinstance(dim, int) else "1" if k == 0 else "SIZE" for k, dim in enumerate(dims)
            )
            which = " and ".join(str(dims[k] or f"number {k + 1}") for k in free)
            raise InputError(
                f"input {name!r} has free dimensions beside the batch ({which}), and latency depends on their sizes; "
                f"give them: --shape {name}={sizes}"
            )


def _fix(name: str, dims: Sequence[onnx.TensorShapeProto.Dimension], sizes: tuple[int, ...]) -> None:
    fits = len(sizes) == len(dims) and all(
        not _is_fixed(dim) or dim.dim_value == size for dim, size in zip(dims, sizes, strict=True)
    )
    if not fits:
        have = "x".join(str(dim.dim_value) if _is_fixed(dim) else dim.dim_param or "?" for dim in dims)
        raise InputError(f"--shape {name}={'x'.join(map(str, sizes))} does not fit the input, which is {have}")
    for dim, size in zip(dims, sizes, strict=True):
        dim.dim_value = size


def _dims(value: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


def _is_fixed(dim: onnx.TensorShapeProto.Dimension) -> bool:
    return dim.HasField("dim_value") and dim.dim_value > 0


def _sizes(value: onnx.ValueInfoProto) -> list[int | str | None]:
    return [dim.dim_value if _is_fixed(dim) else dim.dim_param or None for dim in _dims(value)]
