"""What goes into a network and what comes out of it, by name: the border between the user's structures and ours.

Inside, the inputs of a batch are a mapping from names to tensors with the samples first, passed to the network in the
order of the names; a lone tensor is called "input". What a network returns is a flat mapping of named tensors; losses
and metrics get the user's own structure back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.errors import TaskError

INPUT = "input"
"""Name of a lone input."""
OUTPUT = "logits"
"""Name of a lone output."""

Tensors = Mapping[str, Tensor]
Arrays = Mapping[str, NDArray[Any]]
Shape = tuple[int | None, ...]
"""Of one sample; None is any size."""
Inputs = Tensor | Tensors
"""Inputs of one call: by name, or the lone one."""

_DTYPES = frozenset({torch.float32, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool})


def values(inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors that a network is called with, by position."""
    return tuple(inputs.values()) if isinstance(inputs, Mapping) else (inputs,)


def replaced(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The same inputs, each changed."""
    return {k: change(v) for k, v in inputs.items()} if isinstance(inputs, Mapping) else change(inputs)


# -- batches of samples: a tensor or array, a mapping or a tuple of batches, or a list with one entry per sample


def n_samples(batch: Any) -> int:
    """How many samples are in a batch."""
    if isinstance(batch, Mapping):
        return n_samples(next(iter(batch.values())))
    return n_samples(batch[0]) if isinstance(batch, tuple) else len(batch)


def take(batch: Any, rows: Any) -> Any:
    """Some samples of a batch: rows is a slice or a sequence of indices."""
    if isinstance(batch, Mapping):
        return _like(batch, {key: take(value, rows) for key, value in batch.items()})
    if isinstance(batch, tuple):
        return tuple(take(value, rows) for value in batch)
    if isinstance(batch, list):
        return batch[rows] if isinstance(rows, slice) else [batch[int(i)] for i in rows]
    return batch[rows]


def joined(batches: Sequence[Any]) -> Any:
    """The samples of all batches in one; those of a tensor become a list where their shapes differ."""
    first = batches[0]
    if isinstance(first, Mapping):
        return _like(first, {key: joined([batch[key] for batch in batches]) for key in first})
    if isinstance(first, tuple):
        return tuple(joined([batch[i] for batch in batches]) for i in range(len(first)))
    if isinstance(first, list):
        return [sample for batch in batches for sample in batch]
    if len({tuple(batch.shape[1:]) for batch in batches}) > 1:
        return [sample for batch in batches for sample in batch]
    return torch.cat(list(batches)) if isinstance(first, Tensor) else np.concatenate(batches)


def alike(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Inputs parted into batches whose samples have one shape."""
    if not any(isinstance(values, list) for values in inputs.values()):
        return [dict(inputs)]
    rows: dict[Any, list[int]] = {}
    for i in range(n_samples(inputs)):
        rows.setdefault(tuple(tuple(values[i].shape) for values in inputs.values()), []).append(i)
    return [{name: _stacked(take(values, same)) for name, values in inputs.items()} for same in rows.values()]


def _stacked(samples: Any) -> Any:
    if not isinstance(samples, list):
        return samples
    return torch.stack(samples) if isinstance(samples[0], Tensor) else np.stack(samples)


def each(batch: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with every tensor or array changed."""
    if isinstance(batch, Mapping):
        return _like(batch, {key: each(value, change) for key, value in batch.items()})
    if isinstance(batch, (tuple, list)):
        return type(batch)(each(value, change) for value in batch)
    return change(batch) if isinstance(batch, (Tensor, np.ndarray)) else batch


def _like(batch: Any, changed: dict[Any, Any]) -> dict[Any, Any]:
    return Outputs(changed) if isinstance(batch, Outputs) else changed


def leaves(batch: Any) -> Iterator[Any]:
    """All tensors or arrays of a structure, in order."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (tuple, list)):
        for value in batch:
            yield from leaves(value)
    elif isinstance(batch, (Tensor, np.ndarray)):
        yield batch


def arrays(batch: Any) -> Any:
    """Tensors to arrays."""
    return each(batch, lambda tensor: tensor.numpy())


def tensors(batch: Any) -> Any:
    """Arrays to tensors, which share their memory."""
    return each(batch, torch.from_numpy)


# -- inputs


def fits(shape: Sequence[int], wanted: Shape) -> bool:
    """Whether a sample has a shape."""
    return len(shape) == len(wanted) and all(b in (None, a) for a, b in zip(shape, wanted, strict=True))


def shape_text(shape: Shape) -> str:
    """As people read it, for example (3, any, any)."""
    return f"({', '.join('any' if size is None else str(size) for size in shape)}{',' if len(shape) == 1 else ''})"


def inputs_by_name(given: object, model: nn.Module) -> dict[str, Tensor]:
    """Give the inputs of a network names: a mapping has them, a tuple takes those of the parameters of `forward`.

    Raises:
        TaskError: they are neither a tensor, nor a tuple or mapping of tensors with one batch dimension.
    """
    if isinstance(given, Tensor):
        found = {INPUT: given}
        if given.dim() < 2:
            raise TaskError(
                "example_input must be a tensor with a batch dimension, such as torch.zeros(1, 3, 224, 224), "
                f"got {given.shape}"
            )
    elif isinstance(given, Mapping):
        found = {str(name): value for name, value in given.items()}
    elif isinstance(given, (tuple, list)):
        names = parameter_names(model)[: len(given)]
        names = names if len(names) == len(given) else tuple(f"{INPUT}{i}" for i in range(len(given)))
        found = dict(zip(names, given, strict=True))
    else:
        found = {}
    if not found or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        got = "{}".format(", ".join(f"{k}: {type(v).__name__}" for k, v in found.items()) or type(given).__name__)
        raise TaskError(
            "example_input must be a tensor with a batch dimension, such as torch.zeros(1, 3, 224, 224), or a tuple or "
            f"mapping of tensors, got {got}"
        )
    for name, tensor in found.items():
        which = "example_input" if len(found) == 1 else f"example_input {name!r}"
        if tensor.dtype not in _DTYPES or tensor.dim() == 0 or len(tensor) == 0:
            size = f"{len(tensor)} of {tensor.dtype}" if tensor.dim() else f"a scalar of {tensor.dtype}"
            raise TaskError(
                f"{which} must hold one or more samples of torch.float32, an integer type up to int64 or torch.bool, "
                f"got {size}"
            )
    if len(sizes := {len(tensor) for tensor in found.values()}) > 1:
        raise TaskError(f"all inputs of example_input must have the same number of samples, got {sorted(sizes)}")
    return {name: tensor.detach().clone() for name, tensor in found.items()}  # networks may write into them


def free_axes(given: Sequence[int] | Mapping[str, Sequence[int]], inputs: Tensors) -> dict[str, tuple[int, ...]]:
    """Axes of each input along which samples may have any size; numbers alone are for all inputs that have them.

    Raises:
        TaskError: there is no such input or axis, or it is that of the samples.
    """
    asked = given if isinstance(given, Mapping) else dict.fromkeys(inputs, given)
    most = max(tensor.dim() for tensor in inputs.values())
    dims = {name: tensor.dim() if isinstance(given, Mapping) else most for name, tensor in inputs.items()}
    wrong = [f"the input {name!r}" for name in asked if name not in inputs]
    wrong += [f"axis {k}" for name in asked for k in asked[name] if not 1 <= k < dims.get(name, most)]
    if wrong:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
        raise TaskError(
            f"free_axes must be axes from 1 on, such as (1,) for all inputs or a mapping from inputs to axes, got "
            f"{wrong[0]}; the inputs are {shapes}"
        )
    return {name: tuple(k for k in asked.get(name, ()) if k < tensor.dim()) for name, tensor in inputs.items()}


def parameter_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of `forward` that can be given by position; none where they are not known."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


# -- outputs


class Outputs(dict[str, Any]):
    """Outputs by name, as attributes and by position: what a dict or dataclass that a network returned becomes."""

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, (int, slice)) else super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getitem__(name)
        except KeyError:
            raise AttributeError(f"no output {name!r}; there are {', '.join(self)}") from None


@dataclass(frozen=True)
class OutputStructure:
    """How a network arranges its output tensors."""

    names: tuple[str, ...]
    """Of the tensors, in order."""
    skeleton: Any
    """Nested tuples and dicts of their names; a name alone for a lone tensor."""

    @classmethod
    def of(cls, output: object) -> OutputStructure:
        """Describe what a network returned."""
        return cls(tuple(flat(output)), _skeleton(output, ""))

    @property
    def lone(self) -> bool:
        """Whether the network returns one tensor and nothing around it."""
        return isinstance(self.skeleton, str)

    def pack(self, outputs: Mapping[str, Any]) -> Any:
        """Arrange named tensors or arrays as the network does."""
        return _filled(self.skeleton, outputs)


def flat(output: object, name: str = "") -> dict[str, Tensor]:
    """All tensors in what a network returned, by name: keys, fields or positions, joined by dots."""
    if isinstance(output, Tensor):
        return {name or OUTPUT: output}
    found: dict[str, Tensor] = {}
    for key, value in _items(output):
        found |= flat(value, _joined(name, key))
    return found


def _joined(name: str, key: object) -> str:
    return f"{name}.{key}" if name else (f"output{key}" if isinstance(key, int) else str(key))


def _items(output: object) -> list[tuple[object, Any]]:
    if isinstance(output, Mapping):
        return list(output.items())
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return list(zip(output._fields, output, strict=True))
    if isinstance(output, (list, tuple)):
        return list(enumerate(output))
    return list(vars(output).items()) if is_dataclass(output) else []


def _skeleton(output: object, name: str) -> Any:
    if isinstance(output, Tensor):
        return name or OUTPUT
    inner = {key: _skeleton(value, _joined(name, key)) for key, value in _items(output)}
    if isinstance(output, (list, tuple)):
        return tuple(inner.values())
    return {str(key): value for key, value in inner.items() if value is not None} or None


def _filled(skeleton: Any, outputs: Mapping[str, Any]) -> Any:
    if isinstance(skeleton, str):
        return outputs[skeleton]
    if isinstance(skeleton, tuple):
        return tuple(_filled(part, outputs) for part in skeleton)
    return Outputs({k: _filled(v, outputs) for k, v in skeleton.items()}) if isinstance(skeleton, dict) else None
