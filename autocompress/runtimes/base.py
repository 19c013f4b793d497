"""What a runtime is, and how one is found by its name. Neither onnx nor a runtime's library is imported here.

A runtime is a file of `runtimes/adapters/`, or comes from an installed package that names it in its entry points:

    [project.entry-points."autocompress.runtimes"]
    my-runtime = "my_package.my_module:MyRuntime"

A device profile or a study can name what is installed; no file can name code.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autocompress.errors import AutocompressError, CandidateError, DeviceError
from autocompress.runtimes._timing import Model, TensorSpec
from autocompress.runtimes.capabilities import ELSEWHERE, Support
from autocompress.validation import suggestion

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

    from autocompress.runtimes.kernels import Forms

__all__ = ["Model", "Runtime", "TensorSpec", "executor", "get", "names", "reference", "support"]

GROUP = "autocompress.runtimes"
"""The entry points of runtimes in other packages."""
_REFERENCE = "onnxruntime"
_ADAPTERS = "autocompress.runtimes.adapters"


class Runtime(ABC):
    """An inference runtime, as it executes files on this machine."""

    name: ClassVar[str]
    """As profiles name it; the name of its module or of its entry point."""
    title: ClassVar[str]
    """As people write it."""
    suffix: ClassVar[str] = ".onnx"
    """Of its files."""
    library: ClassVar[str]
    """The distribution that brings it."""
    install: ClassVar[str] = ""
    """What installs it, for who has not; by default its library."""
    alone: ClassVar[Path | None] = None
    """A module whose `Session(file, threads)` is a `Model` with numpy and the library only: exports hold a copy. A
    runtime that reads ONNX files needs none."""
    capabilities: ClassVar[Support]

    def convert(self, graph: onnx.ModelProto) -> bytes:
        """Write the file that is shipped: the graph as it is, unless a runtime says otherwise.

        Args:
            graph: opset 21 or lower; int8 as pairs of QuantizeLinear and DequantizeLinear, exits as nested `If`,
                recipe and provenance in its metadata.

        Raises:
            CandidateError: the runtime has no file for this graph.
        """
        return bytes(graph.SerializeToString(deterministic=True))

    @abstractmethod
    def open(self, file: bytes | Path, threads: int) -> Model:
        """Load what `convert` wrote, for `threads` threads; `load` tells what it raises."""

    @abstractmethod
    def kernels(self, graph: onnx.ModelProto, outputs: Sequence[str] | None = None) -> Forms:
        """The kernel calls that the runtime makes of a graph: what latency is predicted from.

        Args:
            graph: as for `convert`.
            outputs: only what these tensors need: one path through a graph with several outputs.

        Raises:
            InputError: the graph has no such output, or the shapes of its tensors cannot be known.
        """

    def load(self, file: bytes | Path, threads: int = 1) -> Model:
        """Load a file quietly.

        Raises:
            CandidateError: the runtime refuses it; also when it is run with inputs that the runtime refuses.
            DeviceError: the runtime is not installed.
        """
        try:
            return Guarded(self.open(file, threads), self.title)
        except AutocompressError:
            raise
        except Exception as error:  # runtimes raise their own kinds, without a common base class
            self.version()  # where it is not installed this says so
            name = file if isinstance(file, Path) else "the model"
            raise CandidateError(f"{self.title} cannot load {name}: {_one_line(error)}") from None

    def version(self) -> str:
        """Of the installed library.

        Raises:
            DeviceError: there is none.
        """
        try:
            return importlib.metadata.version(self.library)
        except importlib.metadata.PackageNotFoundError:
            how = f"pip install {self.install or self.library}"
            raise DeviceError(f"{self.title} is not installed here; install it with: {how}") from None


class Guarded:
    """A model whose errors are ours."""

    def __init__(self, model: Model, title: str) -> None:
        self.inputs, self.options, self.outputs = model.inputs, model.options, model.outputs
        self._model, self._title = model, title

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return self._model(inputs)
        except Exception as error:  # as in `Runtime.load`
            raise CandidateError(f"{self._title} cannot run the model: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def names() -> tuple[str, ...]:
    """Names of all runtimes that can execute files here, those of other packages included."""
    return tuple(sorted({*own_names(), *_others()}))


@cache
def own_names() -> tuple[str, ...]:
    """Names of the runtimes of this package that can execute files here."""
    package = importlib.import_module(_ADAPTERS)
    return tuple(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


@cache
def _others() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


@cache
def get(name: str) -> Runtime:
    """Return the runtime `name`.

    Raises:
        DeviceError: there is none of that name here.
    """
    if name in own_names():
        module = importlib.import_module(f"{_ADAPTERS}.{name}")
        return next(
            value()
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Runtime) and value.__module__ == module.__name__
        )
    if point := _others().get(name):
        runtime: Runtime = point.load()()
        return runtime
    if name in ELSEWHERE:
        raise DeviceError(f"the runtime {name!r} executes files on its device only; here: {', '.join(names())}")
    raise DeviceError(f"runtime: {broken_rule(name)}, got {name!r}")


def broken_rule(name: str) -> str:
    """Why a profile cannot name this runtime; nothing if it can."""
    if name in own_names() or name in ELSEWHERE or name in _others():
        return ""
    known = (*names(), *ELSEWHERE)
    return f"must be one of {', '.join(known)}{suggestion(name, known)}"


def support(name: str) -> Support:
    """What a runtime can execute, here or on its device.

    Raises:
        DeviceError: there is none of that name.
    """
    return ELSEWHERE[name] if name in ELSEWHERE else get(name).capabilities


def reference() -> Runtime:
    """ONNX Runtime: it runs whatever is a graph and not a file that ships.

    That is to say: the comparison of an export with its network, the activations that ranges are chosen from, shapes
    that onnx cannot infer, and files for a runtime that is not here (`executor`).
    """
    return get(_REFERENCE)


def executor(name: str) -> Runtime:
    """What executes the files for a runtime on this machine: itself, or the reference where it is elsewhere only.

    Raises:
        DeviceError: there is none of that name.
    """
    return reference() if name in ELSEWHERE else get(name)


def pieces(model: Model, batch: Mapping[str, npt.NDArray[Any]]) -> list[Mapping[str, npt.NDArray[Any]]]:
    """A batch, inputs by name, as the model takes it: whole, or sample by sample."""
    if takes_batches(model):
        return [batch]
    n = len(next(iter(batch.values())))
    return [{name: array[i : i + 1] for name, array in batch.items()} for i in range(n)]


def takes_batches(model: Model) -> bool:
    """Whether the inputs take any number of samples."""
    return not any(isinstance(spec.shape[0], int) for spec in model.inputs.values() if spec.shape)
