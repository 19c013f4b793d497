"""A file that ONNX Runtime has loaded on the CPU.

It is copied to devices with `_bundle_runner.py`: Python 3.8, numpy and onnxruntime only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

if __package__:
    from autocompress.runtimes._timing import TensorSpec
else:  # alone on a device, beside its copy
    from _timing import TensorSpec  # type: ignore

_TYPES = {"float": "float32", "double": "float64"}
"""What numpy calls otherwise."""


class Session:
    """A quiet session on the CPU; a `Model`.

    Args:
        content: the bytes of an ONNX file, or its path.
        threads: of one inference, 0 for all cores. Spinning is on with more than one (small nets are up to 1.5 times
            slower without) and off with one.
        optimisation: how far the graph is optimised, as ONNX Runtime calls it.
    """

    def __init__(self, content: bytes | str, threads: int = 1, optimisation: str = "ORT_ENABLE_ALL") -> None:
        import onnxruntime as ort

        ort.set_default_logger_severity(4)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, optimisation)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.inputs: Mapping[str, TensorSpec] = _specs(session.get_inputs())
        self.options: Mapping[str, TensorSpec] = _specs(session.get_overridable_initializers())
        self.outputs: Sequence[str] = [value.name for value in session.get_outputs()]
        self._run = session.run

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once: arrays by name to arrays by name."""
        return dict(zip(self.outputs, self._run(self.outputs, inputs)))


def load(content: bytes, threads: int = 1) -> Session:
    """Load a file for timing."""
    return Session(content, threads)


def version() -> str:
    """Of ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _specs(values: Any) -> dict[str, TensorSpec]:
    return {value.name: TensorSpec(_shape(value.shape), _dtype(value.type)) for value in values}


def _shape(dims: Any) -> tuple[int | str | None, ...]:
    return tuple(None if isinstance(dim, int) and dim < 1 else dim for dim in dims)


def _dtype(text: str) -> str:
    """Of "tensor(float)" and so on."""
    name = text[len("tensor(") : -1] if text.startswith("tensor(") else text
    return _TYPES.get(name, name)
