"""LiteRT (TensorFlow Lite) on the CPU, with XNNPACK: runs .tflite files that hold our integers.

The files are written here (`operators`), by the schema that comes with the runtime; TensorFlow is not needed. Inputs
and outputs are those of our graph, in its order of axes; one sample is computed at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.runtimes.base import Model, Runtime, reference
from autocompress.runtimes.capabilities import Support

if TYPE_CHECKING:
    import onnx

    from autocompress.runtimes.kernels import Forms
    from autocompress.runtimes.quantized_graph import Code


class LiteRt(Runtime):
    """The interpreter with its default delegate."""

    name = "litert"
    title = "LiteRT"
    suffix = ".tflite"
    library = "ai-edge-litert"
    install = "'autocompress[litert]'"
    alone = Path(__file__).with_name("session.py")
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

    def integers_only(self, graph: onnx.ModelProto, output_codes: Mapping[str, Code]) -> bytes:
        """Write the graph as .tflite for targets without floats: microcontrollers, Ethos-U, Edge TPU.

        Args:
            graph: as for `convert`; all its layers are quantised, activations too.
            output_codes: of its outputs, which a graph of ours has in floats.

        Raises:
            CandidateError: a node computes in floats, or as `convert`.
            DeviceError: LiteRT is not installed.
        """
        self.version()
        from autocompress.runtimes.adapters.litert.operators import lower

        return lower(graph, graph.producer_name or "autocompress", output_codes)

    def open(self, file: bytes | Path, threads: int) -> Model:
        """An interpreter, with XNNPACK for whatever it takes."""
        from autocompress.runtimes.adapters.litert.session import Session

        return Session(file, threads)

    def kernels(self, graph: onnx.ModelProto, outputs: Sequence[str] | None = None) -> Forms:
        """What ONNX Runtime makes of the graph: close enough for a profile that is fitted to LiteRT's times."""
        return reference().kernels(graph, outputs)
