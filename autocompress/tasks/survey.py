"""A look at a whole split before any work is done: shapes, types, NaN, infinity, outliers, and what its content is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import TaskError
from autocompress.tasks.batches import Draw

_FAR = 100.0
"""A sample is an outlier whose largest value is so many times that of the median sample."""


class Survey:
    """What was found in the batches of one split.

    Args:
        split: its name, for messages.
        batches: with the place of every sample.
        shape: of one input.
        missing: whether NaN in these targets of these inputs is a missing label: the loss or the metric is finite.

    Raises:
        TaskError: inputs of another shape or type than the first, other ranks or types of targets, inputs that are
            NaN or infinite, targets that are and are not meant to be.
    """

    def __init__(
        self,
        split: str,
        batches: Iterable[Draw],
        shape: tuple[int, ...],
        missing: Callable[[Tensor, Tensor], bool],
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
            self._check_types(batch, shape)
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

    def _check_types(self, batch: Draw, shape: tuple[int, ...]) -> None:
        got = tuple(batch.inputs.shape[1:])
        if got != shape:
            raise TaskError(
                f"{self.split} data: samples must have the shape of example_input {shape}, got {got}"
                + (f" (from sample {batch.places[0]} on)" if self.n_samples else "")
            )
        types = batch.inputs.dtype, batch.targets.dtype, batch.targets.dim()
        if self._types is None:
            self._types = types
        elif types != self._types:
            first, now = (f"{a}, {b} with {c} dimensions" for a, b, c in (self._types, types))
            raise TaskError(
                f"{self.split} data: all batches must have the same types; the first has inputs of {first} as targets, "
                f"that of sample {batch.places[0]} has {now}; convert them alike"
            )

    def _look(self, batch: Draw, missing: Callable[[Tensor, Tensor], bool]) -> None:
        for values, bad in zip((batch.inputs, batch.targets), self._bad, strict=True):
            if not values.is_floating_point() or bool(torch.isfinite(values).all()):
                continue
            finite = torch.isfinite(values).flatten(1).all(1) if values.dim() > 1 else torch.isfinite(values)
            rows = torch.nonzero(~finite)[:, 0]
            if values is batch.targets and missing(batch.inputs[rows], batch.targets[rows]):
                continue
            bad.add(int((~torch.isfinite(values)).sum()), batch.places[rows.numpy()])
        self._largest.append(batch.inputs.flatten(1).abs().amax(1).double())
        self._places += batch.places.tolist()
        for row, target in zip(_rows(batch.inputs), _rows(batch.targets), strict=True):
            self._sum += _number(row + target)
            self._sum_of_targets += _number(target)
        self.n_samples += len(batch.inputs)
        self.n_values += batch.inputs.numel()

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


def _rows(values: Tensor) -> list[bytes]:
    """The bytes of each sample."""
    array = np.ascontiguousarray(values.numpy() if values.dtype != torch.bfloat16 else values.float().numpy())
    return [row.tobytes() for row in array]
