"""A file that ncnn has loaded on the CPU.

It is copied beside exported files and runs alone there: numpy and ncnn only.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from autocompress.runtimes._timing import TensorSpec
else:  # alone, beside the file
    from collections import namedtuple

    TensorSpec = namedtuple("TensorSpec", ["shape", "dtype"])  # type: ignore

PARAM, WEIGHTS, ABOUT = "model.param", "model.bin", "model.json"
"""What is in a file: ncnn's two, and how inputs and outputs are called and shaped."""


class Session:
    """A network for one sample at a time; a `Model`. It computes in float32 and int8, whatever else the processor can.

    By itself ncnn takes float16 on Arm cores with half precision: there its answers differ in the last digits.
    """

    def __init__(self, file: bytes | Path, threads: int = 1) -> None:
        import ncnn

        param, weights, about = unpack(file if isinstance(file, bytes) else Path(file).read_bytes())
        self._ins, self._outs, self._mat = about["inputs"], about["outputs"], ncnn.Mat
        self.inputs: Mapping[str, TensorSpec] = {
            name: TensorSpec(tuple(entry["shape"]), "float32") for name, entry in self._ins.items()
        }
        self.options: Mapping[str, TensorSpec] = {}
        self.outputs: Sequence[str] = list(self._outs)
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        with tempfile.TemporaryDirectory() as folder:  # from memory it would read beyond the end of a damaged file
            for name, content in ((PARAM, param), (WEIGHTS, weights)):
                (Path(folder) / name).write_bytes(content)
            if self._net.load_param(f"{folder}/{PARAM}") or self._net.load_model(f"{folder}/{WEIGHTS}"):
                raise ValueError("its layers are damaged, or of another version")

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once: arrays by name to arrays by name."""
        extractor = self._net.create_extractor()
        for name, spec in self.inputs.items():
            if np.shape(inputs[name]) != spec.shape:
                raise ValueError(f"input {name!r} must be of shape {spec.shape}, got {np.shape(inputs[name])}")
            sample = np.ascontiguousarray(inputs[name], np.float32).reshape(self._ins[name]["form"])
            # a copy in its own memory: layers may work in place
            extractor.input(self._ins[name]["blob"], self._mat(sample).clone())
        return {name: self._extracted(extractor, name) for name in self.outputs}

    def _extracted(self, extractor: Any, name: str) -> Any:
        status, blob = extractor.extract(self._outs[name]["blob"])
        if status:
            raise ValueError(f"output {name!r} cannot be computed (status {status})")
        return np.array(blob).reshape(self._outs[name]["shape"])


def unpack(file: bytes) -> tuple[bytes, bytes, dict[str, Any]]:
    """Layers, weights, and what there is to know about them.

    Raises:
        ValueError: it is no such file, or it is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            param, weights, about = (archive.read(name) for name in (PARAM, WEIGHTS, ABOUT))
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as problem:
        raise ValueError(f"not a file of layers and weights for ncnn: {problem}") from None
    return param, weights, dict(json.loads(about))
