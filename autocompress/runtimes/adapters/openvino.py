"""OpenVINO on the CPU: runs our files as they are, one sample at a time.

What its plug-in would decide by itself is set here: it computes in float32 (on processors with bfloat16 it would round
to that, which costs an int8 transformer a quarter of its answers), and the batch is fixed at one (kernels for any batch
are a quarter slower). It takes inputs with a value of their own in the file, such as thresholds, for constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.runtimes.base import Model, Runtime, TensorSpec, reference
from autocompress.runtimes.capabilities import Support

if TYPE_CHECKING:
    import onnx

    from autocompress.runtimes.kernels import Forms

_SHORT = {"f": "float", "i": "int", "u": "uint"}
"""Types are called f32, i64, u8, boolean and so on."""


class OpenVino(Runtime):
    """The CPU plug-in, for the latency of single calls."""

    name = "openvino"
    title = "OpenVINO"
    library = "openvino"
    install = "'autocompress[openvino]'"
    capabilities = Support(
        way="runs the file as it is",
        weight_bits=frozenset({4, 8, 16, 32}),
        activation_bits=frozenset({8, 32}),
        early_exits=True,
        reads_quantized=True,
    )

    def open(self, file: bytes | Path, threads: int) -> Model:
        """Compile the file for this processor, which takes seconds where its layers are quantised."""
        return _Compiled(file if isinstance(file, bytes) else str(file), threads)

    def kernels(self, graph: onnx.ModelProto, outputs: Sequence[str] | None = None) -> Forms:
        """What ONNX Runtime makes of the graph: close enough for a profile that is fitted to OpenVINO's times."""
        return reference().kernels(graph, outputs)


class _Compiled:
    """A compiled model with its own request."""

    def __init__(self, file: bytes | str, threads: int) -> None:
        model = _core().read_model(file)
        shapes = {port.get_any_name(): port.partial_shape for port in model.inputs}
        for shape in shapes.values():
            if len(shape) and shape[0].is_dynamic:
                shape[0] = 1
        model.reshape(shapes)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        compiled = _core().compile_model(model, "CPU", settings)
        self.inputs: Mapping[str, TensorSpec] = {port.get_any_name(): _spec(port) for port in compiled.inputs}
        self.options: Mapping[str, TensorSpec] = {}
        self._ports = {port.get_any_name(): port for port in compiled.outputs}
        self.outputs: Sequence[str] = list(self._ports)
        self._infer = compiled.create_infer_request().infer

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once: arrays by name to arrays by name."""
        found = self._infer(inputs, share_inputs=True)
        return {name: found[port] for name, port in self._ports.items()}


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _spec(port: Any) -> TensorSpec:
    name = str(port.element_type.type_name)
    dtype = "bool" if name == "boolean" else _SHORT.get(name[0], name[0]) + name[1:]
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)
    return TensorSpec(shape, dtype)
