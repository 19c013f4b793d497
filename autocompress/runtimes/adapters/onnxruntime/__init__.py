"""ONNX Runtime on the CPU: runs our files as they are. It is also the reference (`runtimes.base.reference`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.runtimes.base import Model, Runtime
from autocompress.runtimes.capabilities import Support

if TYPE_CHECKING:
    import onnx

    from autocompress.runtimes.kernels import Forms


class OnnxRuntime(Runtime):
    """The CPU provider, with all graph optimisations."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    library = "onnxruntime"
    capabilities = Support(
        way="runs the file as it is",
        weight_bits=frozenset({2, 4, 8, 16, 32}),
        activation_bits=frozenset({8, 32}),
        early_exits=True,
        reads_quantized=True,
    )

    def open(self, file: bytes | Path, threads: int) -> Model:
        """A quiet session."""
        from autocompress.runtimes.adapters.onnxruntime.session import Session

        return Session(file if isinstance(file, bytes) else str(file), threads)

    def kernels(self, graph: onnx.ModelProto, outputs: Sequence[str] | None = None) -> Forms:
        """What is left after the fusions of the CPU provider (see `reader`)."""
        from autocompress.runtimes.adapters.onnxruntime.reader import read_forms

        return read_forms(graph, outputs)
