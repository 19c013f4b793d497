"""Reading the user's data: whatever yields (inputs, targets), with every fault of it told clearly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from autocompress.errors import TaskError, where


def length(source: Any) -> int | None:
    """Number of batches (of samples in a Dataset), or None where it is not known."""
    try:
        return len(source)
    except TypeError:
        return None


def read_batches(source: Any, batch_size: int, *, shuffle: bool, split: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of a Dataset, a DataLoader or the like, on the CPU; empty ones are left out.

    Raises:
        TaskError: it is empty, can be read only once, raises, or yields something else than (inputs, targets).
    """
    batches = _iterator(source, batch_size, shuffle=shuffle, split=split)
    empty = True
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            break
        except Exception as error:  # the user's own code: any error of it is an input error
            raise TaskError(f"{split} data: reading it raised {where(error)}") from error
        if not isinstance(batch, Sequence) or len(batch) != 2 or not all(isinstance(b, Tensor) for b in batch):
            raise TaskError(f"{split} data: every batch must be (inputs, targets), two tensors, got {_kind(batch)}")
        if len(batch[0]) != len(batch[1]):
            raise TaskError(f"{split} data: a batch has {len(batch[0])} inputs but {len(batch[1])} targets")
        if len(batch[0]) == 0:
            continue
        empty = False
        yield batch[0].cpu(), batch[1].cpu()
    if empty:
        raise TaskError(f"{split} data: is empty; it must yield one or more (inputs, targets) batches")


def _iterator(source: Any, batch_size: int, *, shuffle: bool, split: str) -> Iterator[Any]:
    data = torch.utils.data
    if isinstance(source, data.Dataset) and length(source) != 0:
        ordered = isinstance(source, data.IterableDataset) or not shuffle
        source = data.DataLoader(source, batch_size, shuffle=not ordered)
    try:
        iterator: Iterator[Any] = iter(source)
    except TypeError:
        raise TaskError(
            f"{split} data: must be a Dataset or yield (inputs, targets) batches, got {type(source).__name__}"
        ) from None
    if iterator is source:
        raise TaskError(
            f"{split} data: can be read only once ({type(source).__name__}); give a DataLoader, a Dataset or a list"
        )
    return iterator


def _kind(batch: object) -> str:
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"{type(batch).__name__} of {', '.join(type(b).__name__ for b in batch[:4]) or 'nothing'}"
    return type(batch).__name__
