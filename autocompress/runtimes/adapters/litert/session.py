"""A .tflite file that LiteRT has loaded on the CPU.

It is copied beside exported files and runs alone there: numpy and ai-edge-litert only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__:
    from autocompress.runtimes._timing import TensorSpec
else:  # alone, beside the file
    from collections import namedtuple

    TensorSpec = namedtuple("TensorSpec", ["shape", "dtype"])  # type: ignore


class Session:
    """An interpreter for one sample at a time, with XNNPACK for whatever it takes; a `Model`."""

    def __init__(self, file: bytes | Path, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        with without_messages():
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        given, made = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs: Mapping[str, TensorSpec] = {
            item["name"]: TensorSpec(tuple(map(int, item["shape"])), item["dtype"].__name__) for item in given
        }
        self.options: Mapping[str, TensorSpec] = {}
        self._given = {item["name"]: item["index"] for item in given}
        self._made = {item["name"]: item["index"] for item in made}
        self.outputs: Sequence[str] = list(self._made)
        self.codes = {item["name"]: item["quantization"] for item in (*given, *made)}
        """Scale and zero point of each int8 input and output."""

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once: arrays by name to arrays by name."""
        for name, number in self._given.items():
            self._interpreter.set_tensor(number, inputs[name])
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(number) for name, number in self._made.items()}


@contextlib.contextmanager
def without_messages() -> Iterator[None]:
    """LiteRT has no setting for what it tells when it loads a file; its errors are raised, too."""
    errors, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(errors, 2)
        os.close(errors)
        os.close(nowhere)
