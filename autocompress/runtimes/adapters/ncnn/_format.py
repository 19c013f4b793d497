"""The format of ncnn: layers as lines of text (.param), their weights in a row (.bin), both in one archive."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.runtimes.adapters.ncnn.session import ABOUT, PARAM, WEIGHTS

Form = tuple[int, ...]
"""Sizes of a blob, the outermost first: one to four of them, without the batch."""
Param = int | float | Sequence[int] | Sequence[float]

_MAGIC = 7767517
_FLOATS, _HALVES, _INTEGERS = 0, 0x01306B47, 0x000D4B38
"""Mark in front of a weight: how it is stored."""
_ARRAY = -23300
"""The number of a parameter that is an array is this minus its own."""


@dataclass
class Layer:
    """One line of a network."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, Param] = field(default_factory=dict)
    """By their numbers, which ncnn documents for each kind of layer."""
    weights: list[bytes] = field(default_factory=list)


def sizes(form: Form) -> dict[int, Param]:
    """The parameters of Input, Reshape and MemoryData: width, height, depth and channels, as far as there are such.

    Raises:
        ValueError: it has more than four sizes.
    """
    if len(form) > 4:
        raise ValueError(f"tensors have up to four dimensions beside the batch, and one of its is {form}")
    names = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}[len(form)]
    return dict(zip(names, form, strict=True))


def plain(array: NDArray[Any]) -> bytes:
    """Floats without a mark: biases, scales, constants."""
    return np.ascontiguousarray(array, "<f4").tobytes()


def floats(array: NDArray[Any]) -> bytes:
    """A weight in float32."""
    return _mark(_FLOATS) + plain(array)


def halves(array: NDArray[Any]) -> bytes:
    """A weight in float16."""
    return _mark(_HALVES) + _padded(np.ascontiguousarray(array, "<f2").tobytes())


def integers(array: NDArray[np.int8]) -> bytes:
    """A weight in int8."""
    return _mark(_INTEGERS) + _padded(np.ascontiguousarray(array, np.int8).tobytes())


def _mark(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def with_splits(layers: Sequence[Layer]) -> list[Layer]:
    """The same network, each blob read once: what several layers read is handed to them by a Split."""
    readers = Counter(name for layer in layers for name in layer.inputs)
    copies = {name: [f"{name}_{k}" for k in range(n)] for name, n in readers.items() if n > 1}
    left = {name: iter(names) for name, names in copies.items()}
    result: list[Layer] = []
    for layer in layers:
        inputs = [next(left[name]) if name in left else name for name in layer.inputs]
        result.append(Layer(layer.kind, inputs, layer.outputs, layer.params, layer.weights))
        result += [Layer("Split", [name], copies[name]) for name in layer.outputs if name in copies]
    return result


def text(layers: Sequence[Layer]) -> str:
    """The .param file."""
    blobs = {name for layer in layers for name in layer.outputs}
    return "\n".join([str(_MAGIC), f"{len(layers)} {len(blobs)}", *map(_line, range(len(layers)), layers), ""])


def _line(number: int, layer: Layer) -> str:
    counts = f"{len(layer.inputs)} {len(layer.outputs)}"
    params = [_param(key, value) for key, value in layer.params.items()]
    return " ".join([layer.kind, f"l{number}", counts, *layer.inputs, *layer.outputs, *params])


def _param(key: int, value: Param) -> str:
    if isinstance(value, int | float):
        return f"{key}={_number(value)}"
    return f"{_ARRAY - key}={','.join([str(len(value)), *map(_number, value)])}"


def _number(value: int | float) -> str:
    """An exponent tells floats from integers."""
    return f"{value:.8e}" if isinstance(value, float) else str(value)


def pack(layers: Sequence[Layer], about: Mapping[str, Any]) -> bytes:
    """One file: an archive without compression of both files and what there is to know about them."""
    content = {
        PARAM: text(layers).encode(),
        WEIGHTS: b"".join(data for layer in layers for data in layer.weights),
        ABOUT: json.dumps(about, separators=(",", ":")).encode(),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # the same date every time
    return buffer.getvalue()
