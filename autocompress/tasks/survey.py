"""A look at a whole split before any work is done: shapes, types, NaN, infinity, outliers, and what its content is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import TaskError
from autocompress.tasks.batches import Draw, n_values_of
from autocompress.tasks.interface import Shape, fits, leaves, n_samples, shape_text, take

_FAR = 100.0
"""A sample is an outlier whose largest value is so many times that of the median sample."""


class Survey:
    """What was found in the batches of one split.

    Args:
        split: its name, for messages.
        batches: with the place of every sample.
        shapes: that samples of each input must have.
        missing: whether NaN in these targets of these inputs is a missing label: the loss or the metric is finite.

    Raises:
        TaskError: inputs of another shape or type than the first, other ranks or types of targets, inputs that are
            NaN or infinite, targets that are and are not meant to be.
    """

    def __init__(
        self,
        split: str,
        batches: Iterable[Draw],
        shapes: Mapping[str, Shape],
        missing: Callable[[Any, Any], bool],
    ) -> None:
        self.split = split
        self.n_samples = self.n_values = 0
        self.notes: tuple[str, ...] = ()
        self._sum = self._sum_of_targets = 0
        self._types: tuple[object, ...] | None = None
        self._bad = [_Bad(), _Bad()]
        self._largest: list[Tensor] = []
        self._places: list[int] = []
        for batch in batches:
            self._check_types(batch, shapes)
            self._look(batch, missing)
        self._finish()

    @property
    def digest(self) -> str:
        """Hash of all samples, whatever their order and the size of the batches."""
        return hashlib.sha256(f"{self.n_samples} {self._sum}".encode()).hexdigest()

    @property
    def digest_of_targets(self) -> str:
        """The same of the targets alone, for inputs that are never twice the same."""
        return hashlib.sha256(f"{self.n_samples} {self._sum_of_targets}".encode()).hexdigest()

    def _check_types(self, batch: Draw, shapes: Mapping[str, Shape]) -> None:
        for name, shape in shapes.items():
            got = tuple(batch.inputs[name].shape[1:])
            if not fits(got, shape):
                raise TaskError(
                    f"{self.split} data: samples{_of(name, shapes)} must have the shape of example_input "
                    f"{shape_text(shape)}, got "
                    f"{got}" + (f" (from sample {batch.places[0]} on)" if self.n_samples else "")
                )
        types = " and ".join(str(tensor.dtype) for tensor in batch.inputs.values()), _types(batch.targets)
        if self._types is None:
            self._types = types
        elif types != self._types:
            first, now = (f"{a}, {b}" for a, b in (self._types, types))
            raise TaskError(
                f"{self.split} data: all batches must have the same types; the first has inputs of {first} as targets, "
                f"that of sample {batch.places[0]} has {now}; convert them alike"
            )

    def _look(self, batch: Draw, missing: Callable[[Any, Any], bool]) -> None:
        n = n_samples(batch.inputs)
        for side, bad in zip((batch.inputs, batch.targets), self._bad, strict=True):
            wrong = [_not_finite(tensor, n) for tensor in leaves(side) if tensor.is_floating_point()]
            rows = np.flatnonzero(sum(wrong)) if wrong else np.zeros(0, np.int64)
            if not len(rows) or (side is batch.targets and missing(*take((batch.inputs, batch.targets), rows))):
                continue
            bad.add(int(sum(counts.sum() for counts in wrong)), batch.places[rows])
        floats = [t for t in batch.inputs.values() if t.is_floating_point() or len(batch.inputs) == 1]
        self._largest.append(_largest_values(floats, n))
        self._places += batch.places.tolist()
        for row, target in zip(_rows(batch.inputs, n), _rows(batch.targets, n), strict=True):
            self._sum += _number(row + target)
            self._sum_of_targets += _number(target)
        self.n_samples += n
        self.n_values += n_values_of(batch.inputs)

    def _finish(self) -> None:
        for name, bad in zip(("inputs", "targets"), self._bad, strict=True):
            if bad.places:
                n = len(bad.places)
                raise TaskError(
                    f"{self.split} data: {bad.n_values} values of the {name} are NaN or infinite, in {n} of "
                    f"{self.n_samples} samples, the first of them sample {min(bad.places)}; leave out or repair these"
                )
        largest = torch.cat(self._largest)
        usual = float(largest.median())
        far = torch.nonzero(largest > _FAR * usual)[:, 0]
        if usual > 0 and len(far):
            self.notes = (
                f"{self.split} data: {len(far)} of {self.n_samples} samples hold outliers: values up to "
                f"{float(largest.max()):.3g}, where the largest value of half of the samples is below {usual:.3g}; the "
                f"first is sample {min(self._places[i] for i in far.tolist())}",
            )


class _Bad:
    """Values that are no finite numbers."""

    def __init__(self) -> None:
        self.n_values = 0
        self.places: list[int] = []

    def add(self, n_values: int, places: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        self.n_values += n_values
        self.places += places.tolist()


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")


def _of(name: str, others: Mapping[str, Any]) -> str:
    return f" of {name!r}" if len(others) > 1 else ""


def _types(batch: Any) -> str:
    """Types and dimensions of the tensors of a batch; those of a list differ from sample to sample."""
    if isinstance(batch, list):
        return "a list"
    if isinstance(batch, Mapping):
        batch = tuple(batch.values())
    if isinstance(batch, tuple):
        return " and ".join(map(_types, batch))
    return f"{batch.dtype} with {batch.dim()} dimensions"


def _not_finite(values: Tensor, n: int) -> Any:
    """How many values of each sample are NaN or infinite; a tensor of one sample of a list counts for the first."""
    wrong = ~torch.isfinite(values)
    if len(values) != n:
        return np.pad([int(wrong.sum())], (0, n - 1))
    return wrong.flatten(1).sum(1).numpy() if wrong.dim() > 1 else wrong.numpy().astype(np.int64)


def _largest_values(inputs: list[Tensor], n: int) -> Tensor:
    """The largest magnitude in each sample."""
    if not inputs:
        return torch.zeros(n, dtype=torch.float64)
    return torch.stack([t.flatten(1).abs().amax(1).double() if t.dim() > 1 else t.abs().double() for t in inputs]).amax(
        0
    )


def _rows(batch: Any, n: int) -> list[bytes]:
    """The bytes of each sample."""
    return [b"".join(_bytes(take(batch, slice(i, i + 1)))) for i in range(n)]


def _bytes(sample: Any) -> Iterator[bytes]:
    for values in leaves(sample):
        array = values.numpy() if values.dtype != torch.bfloat16 else values.float().numpy()
        yield np.ascontiguousarray(array).tobytes()
