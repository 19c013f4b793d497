"""A file in ncnn on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from autocompress.runtimes._timing import TensorSpec
from autocompress.runtimes.adapters.ncnn._format import unpack
from autocompress.runtimes.adapters.ncnn._network import kept_axes
from autocompress.runtimes.adapters.ncnn.lowering import blob_name


class Session:
    """A loaded network; it computes in float32 and int8, whatever else the processor could do.

    On Arm cores with half precision ncnn takes float16 by itself: there its answers differ in the last digits.
    """

    options: Mapping[str, TensorSpec] = {}

    def __init__(self, file: bytes | Path, threads: int) -> None:
        param, weights, about = unpack(file if isinstance(file, bytes) else file.read_bytes())
        self.inputs: Mapping[str, TensorSpec] = {
            name: TensorSpec(tuple(shape), "float32") for name, shape in about["inputs"].items()
        }
        self._shapes: Mapping[str, Sequence[int]] = about["outputs"]
        self.outputs: Sequence[str] = list(self._shapes)
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        with tempfile.TemporaryDirectory() as folder:  # from memory it reads without a bound
            paths = Path(folder) / "model.param", Path(folder) / "model.bin"
            for path, content in zip(paths, (param, weights), strict=True):
                path.write_bytes(content)
            if self._net.load_param(str(paths[0])) or self._net.load_model(str(paths[1])):
                raise ValueError("its layers are damaged, or of another version")

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once: arrays by name to arrays by name."""
        extractor = self._net.create_extractor()
        for name, spec in self.inputs.items():
            if np.shape(inputs[name]) != spec.shape:
                raise ValueError(f"input {name!r} must be of shape {spec.shape}, got {np.shape(inputs[name])}")
            extractor.input(blob_name(name), _blob(inputs[name]))
        return {name: self._extracted(extractor, name) for name in self.outputs}

    def _extracted(self, extractor: Any, name: str) -> Any:
        status, blob = extractor.extract(blob_name(name))
        if status:
            raise ValueError(f"output {name!r} cannot be computed (status {status})")
        return np.array(blob).reshape(self._shapes[name])


def _blob(array: Any) -> Any:
    """The numbers without their batch, in memory of ncnn's own: layers may work in place."""
    whole = np.ascontiguousarray(array, np.float32)
    return ncnn.Mat(whole.reshape([whole.shape[axis] for axis in kept_axes(whole.shape)] or [1])).clone()
