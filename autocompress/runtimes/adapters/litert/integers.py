"""Files that compute in integers only: run on inputs of floats, to judge them; and what TensorFlow Lite Micro needs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import CandidateError
from autocompress.runtimes._timing import TensorSpec
from autocompress.runtimes.adapters.litert.session import Session

_FIRST_FROM_LAST = (0, 3, 1, 2)
_ALLOCATE = """
import sys
from tflite_micro import runtime
runtime.Interpreter.from_file(sys.argv[1], arena_size=2**27).print_allocations()
"""
"""In a process of its own: it tells its figures on standard error only, and ends the process where memory is short."""


class IntegerSession:
    """A `Model` with inputs and outputs in floats, in the order of axes of the graph; it codes and turns them."""

    def __init__(self, file: bytes, threads: int = 1) -> None:
        self._session = Session(file, threads)
        self.inputs: Mapping[str, TensorSpec] = {
            name: TensorSpec(_turned(spec.shape), "float32") for name, spec in self._session.inputs.items()
        }
        self.options: Mapping[str, TensorSpec] = {}
        self.outputs: Sequence[str] = self._session.outputs

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once: arrays by name to arrays by name."""
        codes = self._session.codes
        given = {name: _coded(array, *codes[name]) for name, array in inputs.items()}
        return {name: _floats(array, *codes[name]) for name, array in self._session(given).items()}


def arena_bytes(file: bytes) -> int | None:
    """Working memory that TensorFlow Lite Micro needs for a file; None where tflite-micro is not installed.

    Raises:
        CandidateError: it has no kernel for an operator of the file.
    """
    if importlib.util.find_spec("tflite_micro") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(file)
        told = subprocess.run([sys.executable, "-c", _ALLOCATE, str(path)], capture_output=True, text=True, check=False)
    if found := re.search(r"Arena allocation total (\d+) bytes", told.stderr + told.stdout):
        return int(found[1])
    last = (told.stderr.strip().splitlines() or ["it says nothing"])[-1]
    raise CandidateError(f"TensorFlow Lite Micro cannot load the file: {last}")


def _turned(shape: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(shape[axis] for axis in _FIRST_FROM_LAST) if len(shape) == 4 else tuple(shape)


def _coded(array: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.int8]:
    last = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
    codes: NDArray[np.int8] = np.clip(np.rint(last / scale) + zero_point, -128, 127).astype(np.int8)
    return codes


def _floats(array: NDArray[np.int8], scale: float, zero_point: int) -> NDArray[np.float32]:
    floats = ((array.astype(np.float32) - zero_point) * np.float32(scale)).astype(np.float32)
    return floats.transpose(_FIRST_FROM_LAST) if array.ndim == 4 else floats
