"""A network that is known as a graph only: it runs, and it has no layers that could be changed or trained."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from autocompress.given.file import load
from autocompress.runtimes.base import Model, pieces
from autocompress.tasks.interface import OutputStructure, joined
from autocompress.tasks.normalize import Flat

UNCHANGEABLE = (
    "the network is an ONNX file, whose number formats can be chosen; pruning, early exits and training need the "
    "PyTorch network that it was made from"
)
"""Why recipes for such a network quantise only."""

_MODELS: WeakKeyDictionary[nn.Module, Model] = WeakKeyDictionary()


class GraphNetwork(Flat, nn.Module):
    """Runs a graph in the reference runtime; its parameters are there to be counted and hashed.

    Args:
        graph: in float32, as `file.read` makes it.
        sha256: of the file that it comes from.
        notes: what users are told of it.
    """

    def __init__(self, graph: onnx.ModelProto, sha256: str, notes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.notes = notes
        names = tuple(value.name for value in graph.graph.output)
        self.graph = graph
        self.sha256 = sha256
        self.structure = OutputStructure(names, names[0] if len(names) == 1 else {name: name for name in names})
        self.weights = nn.ParameterList(
            nn.Parameter(torch.from_numpy(numpy_helper.to_array(tensor).copy()))
            for tensor in graph.graph.initializer
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims)
        )
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphNetwork:
        """The network itself: nothing can change it."""
        return self

    def extra_repr(self) -> str:
        """Part of the network's hash."""
        return f"ONNX file {self.sha256}"

    def forward(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Inputs in the order of the file's, each (N, ...), to its outputs."""
        if self not in _MODELS:
            _MODELS[self] = load(self.graph)
        model = _MODELS[self]
        batch = {name: tensor.numpy() for name, tensor in zip(model.inputs, given, strict=True)}
        outputs = joined([model(piece) for piece in pieces(model, batch)])
        found = tuple(torch.from_numpy(np.ascontiguousarray(outputs[name])) for name in self.structure.names)
        return found[0] if len(found) == 1 else found
