"""The table of operators: what writes each of them, found by its name in ONNX."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from autocompress.runtimes.adapters.litert.lowering import Lowering

Write = Callable[[Lowering, onnx.NodeProto], None]
OPERATORS: dict[str, Write] = {}
"""Filled by `layers`, `arithmetic` and `movement`."""


def operator(*names: str) -> Callable[[Write], Write]:
    """Register what writes these operators."""

    def register(function: Write) -> Write:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register
