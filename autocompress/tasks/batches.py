"""Reading the user's data: whatever yields (inputs, targets), with every fault of it told clearly.

Inputs become a mapping from names to tensors (see `interface`). Targets stay what they are: a tensor, a mapping or a
tuple of tensors, or a list with one entry per sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.errors import TaskError, where
from autocompress.tasks.interface import INPUT, each, joined, leaves, n_samples, take
from autocompress.tasks.torch_utils import seeded

MOST_SAMPLES = 2**17
MOST_VALUES = 2**29
"""A look at training data reads at most so many samples and so many values (2 GiB in float32)."""


def length(source: Any) -> int | None:
    """Number of batches (of samples in a Dataset), or None where it is not known."""
    try:
        return len(source)
    except TypeError:
        return None


def read_batches(
    source: Any, batch_size: int, *, shuffle: bool, split: str, names: Sequence[str] = (INPUT,)
) -> Iterator[tuple[dict[str, Tensor], Any]]:
    """Yield copies of the batches of a Dataset, a DataLoader or the like, on the CPU; empty ones are left out.

    A batch is (inputs, targets), with several inputs as a tuple or mapping; (a, b, targets); or a mapping with the
    inputs under their names and the targets under all others.

    Args:
        source: of the batches.
        batch_size: where the source is a Dataset.
        shuffle: whether a Dataset is.
        split: its name, for messages.
        names: of the inputs.

    Raises:
        TaskError: it is empty, can be read only once, raises, or yields something else.
    """
    batches = _iterator(source, batch_size, shuffle=shuffle, split=split)
    empty = True
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            break
        except Exception as error:  # the user's own code: any error of it is an input error
            raise TaskError(f"{split} data: reading it raised {where(error)}{_advice(error)}") from error
        inputs, targets = _parted(batch, names, split)
        if (n := n_samples(inputs)) == 0:
            continue
        empty = False
        copied = {name: tensor.detach().cpu().clone() for name, tensor in inputs.items()}
        yield copied, each(_targets(targets, n, split), lambda t: t.detach().cpu().clone())  # whoever writes into them
    if empty:
        raise TaskError(f"{split} data: is empty; it must yield one or more (inputs, targets) batches")


def _advice(error: Exception) -> str:
    if "stack expects each tensor to be equal size" not in str(error):
        return ""
    return "; give a DataLoader whose collate_fn pads the samples to one shape, or leaves their targets a list"


def _parted(batch: Any, names: Sequence[str], split: str) -> tuple[dict[str, Tensor], Any]:
    """Inputs by name, and targets."""
    if isinstance(batch, Mapping) and all(name in batch for name in names):
        inputs: Any = {name: batch[name] for name in names}
        rest = {str(key): value for key, value in batch.items() if key not in names}
        targets: Any = next(iter(rest.values())) if len(rest) == 1 else rest or None
    elif isinstance(batch, Sequence) and len(batch) == len(names) + 1 and isinstance(batch[0], Tensor):
        inputs, targets = dict(zip(names, batch, strict=False)), batch[-1]
    elif isinstance(batch, Sequence) and len(batch) == 2 and _fits(batch[0], names):
        given, targets = batch
        inputs = {n: given[n] for n in names} if isinstance(given, Mapping) else dict(zip(names, given, strict=True))
    else:
        inputs, targets = {}, None
    wrong = not inputs or not all(isinstance(tensor, Tensor) and tensor.dim() for tensor in inputs.values())
    if wrong or not isinstance(targets, (Tensor, Mapping, Sequence)) or isinstance(targets, str):
        what = "two tensors" if len(names) == 1 else f"with the inputs {', '.join(names)}"
        raise TaskError(f"{split} data: every batch must be (inputs, targets), {what}, got {_kind(batch)}")
    if len(sizes := {len(tensor) for tensor in inputs.values()}) > 1:
        raise TaskError(f"{split} data: all inputs of a batch must have one number of samples, got {sorted(sizes)}")
    return inputs, targets


def _fits(given: object, names: Sequence[str]) -> bool:
    if isinstance(given, Mapping):
        return all(name in given for name in names)
    return isinstance(given, (tuple, list)) and len(given) == len(names)


def _targets(given: Any, n: int, split: str) -> Any:
    """A tensor, a mapping or tuple of such with n samples each, or a list with an entry for each sample."""
    if isinstance(given, Mapping):
        return {str(key): _targets(value, n, split) for key, value in given.items()}
    if isinstance(given, (tuple, list)) and all(isinstance(t, Tensor) and t.dim() and len(t) == n for t in given):
        return tuple(given)
    if not isinstance(given, Tensor):
        given = list(given)
    if isinstance(given, Tensor) and given.dim() == 0:
        raise TaskError(f"{split} data: targets must have one entry per sample, got a single number")
    if len(given) != n:
        raise TaskError(f"{split} data: a batch has {n} inputs but {len(given)} targets")
    return given


@dataclass(frozen=True)
class Draw:
    """Samples of some data, with the place where each was found."""

    inputs: dict[str, Tensor]
    targets: Any
    places: NDArray[np.int64]
    """Index in the Dataset; for data that can only be read in order, the number of samples before it."""
    batch_size: int
    """Of the batches that they come from."""


def draw(source: Any, batch_size: int, n: int, seed: int, split: str, names: Sequence[str] = (INPUT,)) -> Draw:
    """Draw `n` samples over the whole data, in random order; fewer where there are fewer.

    A Dataset, or a DataLoader over one, is read at random indices. Anything else is read once from its beginning to
    its end, or to `MOST_SAMPLES`, and the samples with the smallest of random keys stay (a reservoir, J. Vitter, ACM
    TOMS 11 (1985) 37-57). The first samples of a larger draw are those of a smaller one. Augmentations are seeded too.
    """
    with seeded(seed, *_generators(source)):
        rng = np.random.default_rng(seed)
        if (indexed := _indexed(source, batch_size)) is not None:
            chosen = rng.permutation(indexed.indices)[:n]
            batches = list(read_batches(indexed.loader(chosen), batch_size, shuffle=False, split=split, names=names))
            inputs, targets = joined(batches)
            return Draw(inputs, targets, chosen, indexed.batch_size)
        reservoir = Reservoir(n, rng)
        for inputs, targets in read_batches(source, batch_size, shuffle=False, split=split, names=names):
            reservoir.add(inputs, targets)
            if reservoir.n_seen >= MOST_SAMPLES or reservoir.n_values >= MOST_VALUES:
                break
        return reservoir.drawn()


def look_at(source: Any, batch_size: int, seed: int, split: str, names: Sequence[str] = (INPUT,)) -> Iterator[Draw]:
    """Read data in order, batch by batch; of a large Dataset a random choice, of a large stream its beginning."""
    with seeded(seed, *_generators(source)):
        indexed = _indexed(source, batch_size)
        places, n_values = None, 0
        if indexed is not None:
            places = np.sort(np.random.default_rng(seed).permutation(indexed.indices)[: indexed.most])
            source = indexed.loader(places)
        start = 0
        for inputs, targets in read_batches(source, batch_size, shuffle=False, split=split, names=names):
            stop = start + n_samples(inputs)
            yield Draw(inputs, targets, np.arange(start, stop) if places is None else places[start:stop], stop - start)
            start, n_values = stop, n_values + n_values_of(inputs)
            if indexed is None and (start >= MOST_SAMPLES or n_values >= MOST_VALUES):
                return


def cut_short(source: Any, batch_size: int, n_samples: int, n_values: int) -> str:
    """Which part of the data `look_at` has read, in words; nothing if it was all."""
    indexed = _indexed(source, batch_size)
    if indexed is not None and n_samples < len(indexed.indices):
        return f"{n_samples:,} of {len(indexed.indices):,} samples, drawn at random,"
    if indexed is None and (n_samples >= MOST_SAMPLES or n_values >= MOST_VALUES):
        return f"the first {n_samples:,} samples (they can be read in order only)"
    return ""


@dataclass(frozen=True)
class _Indexed:
    """Data that can be read at any place."""

    dataset: Any
    indices: NDArray[np.int64]
    batch_size: int
    collate: Any

    @property
    def most(self) -> int:
        """So many samples keep to the limits."""
        sample: Any = self.dataset[int(self.indices[0])]
        inputs: Any = sample if isinstance(sample, Mapping) else sample[0]
        n_values = sum(t.numel() for t in leaves(inputs)) or np.size(inputs)
        return max(1, min(MOST_SAMPLES, MOST_VALUES // max(1, n_values)))

    def loader(self, indices: NDArray[np.int64]) -> torch.utils.data.DataLoader[Any]:
        parts = [part.tolist() for part in np.split(indices, range(self.batch_size, len(indices), self.batch_size))]
        return torch.utils.data.DataLoader(self.dataset, batch_sampler=parts, collate_fn=self.collate)


def _indexed(source: Any, batch_size: int) -> _Indexed | None:
    data = torch.utils.data
    dataset, collate, order = source, None, None
    if isinstance(source, data.DataLoader):
        if source.batch_sampler is None:  # the Dataset itself gives batches
            return None
        dataset, collate, batch_size = source.dataset, source.collate_fn, source.batch_size or batch_size
        order = source.batch_sampler
    if not isinstance(dataset, data.Dataset) or isinstance(dataset, data.IterableDataset) or not length(dataset):
        return None
    try:
        indices = range(length(dataset) or 0) if order is None else sorted({i for batch in order for i in batch})
        found = np.asarray(indices, dtype=np.int64)
        dataset[int(found[0])]  # some can be read in their workers only
    except Exception:  # the user's own code: read as it comes, it says what is wrong
        return None
    return _Indexed(dataset, found, batch_size, collate)


def _generators(source: Any) -> tuple[torch.Generator, ...]:
    """A loader's own sources of chance."""
    owners = (source, getattr(source, "sampler", None))
    found = {id(g): g for o in owners if isinstance(g := getattr(o, "generator", None), torch.Generator)}
    return tuple(found.values())


class Reservoir:
    """Keeps `n` samples of all that it is given, each with the same chance."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.n_seen = self.n_values = 0
        self._n, self._rng, self._bar, self._largest = n, rng, 1.0, 1
        self._kept: list[tuple[float, int, Any]] = []

    def add(self, inputs: dict[str, Tensor], targets: Any) -> None:
        """Look at a batch."""
        size = n_samples(inputs)
        keys = self._rng.random(size)
        for i in np.flatnonzero(keys <= self._bar).tolist():
            sample = each(take((inputs, targets), slice(i, i + 1)), torch.clone)
            self._kept.append((float(keys[i]), self.n_seen + i, sample))
        if len(self._kept) > 2 * self._n:
            self._shrink()
            self._bar = self._kept[-1][0]
        self.n_seen, self.n_values = self.n_seen + size, self.n_values + n_values_of(inputs)
        self._largest = max(self._largest, size)

    def drawn(self) -> Draw:
        """What was kept, in random order."""
        self._shrink()
        inputs, targets = joined([entry[2] for entry in self._kept])
        return Draw(inputs, targets, np.array([entry[1] for entry in self._kept]), self._largest)

    def _shrink(self) -> None:
        self._kept = sorted(self._kept, key=lambda entry: entry[:2])[: self._n]


def n_values_of(inputs: Mapping[str, Tensor]) -> int:
    """How many numbers a batch of inputs holds."""
    return sum(tensor.numel() for tensor in inputs.values())


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
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with {', '.join(map(repr, [*batch][:4])) or 'nothing'}"
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"{type(batch).__name__} of {', '.join(type(b).__name__ for b in batch[:4]) or 'nothing'}"
    return type(batch).__name__
