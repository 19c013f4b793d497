"""LiteRT (TensorFlow Lite) on the CPU, with XNNPACK: runs .tflite files that hold our integers.

The files are written here (`operators`), by the schema that comes with the runtime; TensorFlow is not needed. Inputs
and outputs are those of our graph, in its order of axes; one sample is computed at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.runtimes.base import Model, Runtime, TensorSpec, reference
from autocompress.runtimes.capabilities import Support

if TYPE_CHECKING:
    import onnx

    from autocompress.runtimes.kernels import Forms


class LiteRt(Runtime):
    """The interpreter with its default delegate."""

    name = "litert"
    title = "LiteRT"
    suffix = ".tflite"
    library = "ai-edge-litert"
    install = "'autocompress[litert]'"
    capabilities = Support(
        way="is written as .tflite with the same integers",
        weight_bits=frozenset({8, 16, 32}),
        activation_bits=frozenset({8, 32}),
        early_exits=False,
        reads_quantized=True,
    )

    def convert(self, graph: onnx.ModelProto) -> bytes:
        """Write the graph as .tflite.

        Raises:
            CandidateError: it has early exits, or an operator that LiteRT has not.
            DeviceError: LiteRT is not installed; its schema is needed.
        """
        self.version()
        from autocompress.runtimes.adapters.litert.operators import lower

        return lower(graph, graph.producer_name or "autocompress")

    def open(self, file: bytes | Path, threads: int) -> Model:
        """An interpreter, with XNNPACK for whatever it takes."""
        return _Interpreter(file.read_bytes() if isinstance(file, Path) else file, threads)

    def kernels(self, graph: onnx.ModelProto, outputs: Sequence[str] | None = None) -> Forms:
        """What ONNX Runtime makes of the graph: close enough for a profile that is fitted to LiteRT's times."""
        return reference().kernels(graph, outputs)


class _Interpreter:
    """A loaded file with its tensors allocated."""

    def __init__(self, content: bytes, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with _without_messages():
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        given = self._interpreter.get_input_details()
        self.inputs: Mapping[str, TensorSpec] = {
            item["name"]: TensorSpec(tuple(map(int, item["shape"])), item["dtype"].__name__) for item in given
        }
        self.options: Mapping[str, TensorSpec] = {}
        self._places = {item["name"]: item["index"] for item in given}
        self._made = {item["name"]: item["index"] for item in self._interpreter.get_output_details()}
        self.outputs: Sequence[str] = list(self._made)

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once: arrays by name to arrays by name."""
        for name, place in self._places.items():
            self._interpreter.set_tensor(place, inputs[name])
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(place) for name, place in self._made.items()}


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """LiteRT has no setting for what it tells when it loads a file; its errors are raised, too."""
    errors, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(errors, 2)
        os.close(errors)
        os.close(nowhere)
