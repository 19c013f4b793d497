"""ncnn on the CPU, for Arm boards and phones: our integers in its own format, one sample at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.runtimes.base import Model, Runtime
from autocompress.runtimes.capabilities import Support

if TYPE_CHECKING:
    import onnx

    from autocompress.runtimes.kernels import Forms


class Ncnn(Runtime):
    """Its files are archives of what every program with ncnn loads: `model.param` and `model.bin`."""

    name = "ncnn"
    title = "ncnn"
    suffix = ".ncnn"
    library = "ncnn"
    install = "'autocompress[ncnn]'"
    alone = Path(__file__).with_name("session.py")
    capabilities = Support(
        way="written as .param and .bin with our integer weights; activations are coded symmetrically",
        weight_bits=frozenset({8, 16, 32}),
        activation_bits=frozenset({8}),
        early_exits=False,
        reads_quantized=True,
    )

    def convert(self, graph: onnx.ModelProto) -> bytes:
        """Write layers of ncnn: in int8 where convolutions and linear layers read integers, else in floats."""
        from autocompress.runtimes.adapters.ncnn.lowering import write

        return write(graph)

    def open(self, file: bytes | Path, threads: int) -> Model:
        """A network with float32 and int8 arithmetic."""
        from autocompress.runtimes.adapters.ncnn.session import Session

        return Session(file, threads)

    def kernels(self, graph: onnx.ModelProto, outputs: Sequence[str] | None = None) -> Forms:
        """The layers that `convert` writes."""
        from autocompress.runtimes.adapters.ncnn.lowering import kernels

        return kernels(graph, outputs)
