"""Data as they lie on a disk, cut into training, validation and test data: what `autocompress init` writes calls these.

A folder with the sub-folders `train`, `val` and `test` is cut already; other data are shuffled by a seed and cut into
70, 15 and 15 %, series in order of time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from autocompress.errors import TaskError, first_line
from autocompress.tasks.images import IMAGES, ImageOptions, read_image

_SPLITS = ("train", "val", "test")
_SHARES = (0.7, 0.85)
SOUNDS = frozenset({".wav"})

Array = NDArray[Any]


@dataclass(frozen=True)
class Splits:
    """Three Datasets of (input, target)."""

    train: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    classes: tuple[str, ...] = ()
    """Names of the classes, where folders or a column name them."""

    @property
    def example(self) -> Tensor:
        """An input as a batch of one."""
        example: Tensor = self.train[0][0][None]
        return example


def image_folder(
    path: str | Path, size: tuple[int, int], options: ImageOptions | None = None, *, grey: bool = False, seed: int = 0
) -> Splits:
    """Images (channels, height, width) in one sub-folder per class.

    Args:
        path: of the folder.
        size: height and width that images are resized to.
        options: how values are scaled; by default divided by 255.
        grey: one channel instead of three.
        seed: of the shuffle.

    Raises:
        TaskError: there are no images in sub-folders, or one cannot be read, or Pillow is missing.
    """
    scaled = options or ImageOptions()
    scaled = ImageOptions(size, scaled.scale or 255.0, scaled.mean, scaled.std, scaled.crop)

    def read(file: Path) -> Tensor:
        return torch.from_numpy(np.moveaxis(read_image(file, size, 1 if grey else 3, scaled), -1, 0).copy())

    return _in_folders(Path(path), IMAGES, read, seed)


def audio_folder(path: str | Path, rate: int, seconds: float, *, seed: int = 0) -> Splits:
    """WAV files in one sub-folder per class, as float samples from -1 to 1, (samples,), cut or filled up with zeros.

    Args:
        path: of the folder.
        rate: samples per second that they are resampled to.
        seconds: that each becomes long.
        seed: of the shuffle.

    Raises:
        TaskError: there are no WAV files in sub-folders, or one cannot be read.
    """
    return _in_folders(Path(path), SOUNDS, lambda file: _sound(file, rate, round(rate * seconds)), seed)


def table(path: str | Path, target: str | Sequence[str], *, classes: bool, seed: int = 0) -> Splits:
    """Rows of a CSV file: the target is one column or several, the input all others (columns,), numbers.

    Args:
        path: of the file.
        target: name of the column or columns.
        classes: whether the target is a class, of which the sorted values are the names, else a number.
        seed: of the shuffle.

    Raises:
        TaskError: the file cannot be read, has no such column, or a column that is no numbers.
    """
    frame = _frame(Path(path))
    targets = [target] if isinstance(target, str) else [*target]
    _check_columns(frame, targets, path)
    inputs = torch.from_numpy(_numbers(frame.drop(columns=targets), path))
    if not classes:
        return _shuffled(TensorDataset(inputs, torch.from_numpy(_numbers(frame[targets], path))), seed)
    names, indices = np.unique(frame[targets[0]].to_numpy(), return_inverse=True)
    return _shuffled(TensorDataset(inputs, torch.from_numpy(indices)), seed, tuple(map(str, names)))


def series(path: str | Path, columns: Sequence[str], *, history: int, horizon: int) -> Splits:
    """Windows of a CSV file with a row per time step: the columns of `history` steps, and of the `horizon` after them.

    Inputs are (history, columns), targets (horizon, columns), for one column (horizon,). The first 70 % of the steps
    are training data, no window reaches into the next part.

    Raises:
        TaskError: as `table`; or the file is too short.
    """
    frame = _frame(Path(path))
    _check_columns(frame, columns, path)
    values = torch.from_numpy(_numbers(frame[[*columns]], path))
    n, length = len(values), history + horizon
    bounds = (0, *(int(share * n) for share in _SHARES), n)
    parts = [values[a:b] for a, b in pairwise(bounds)]
    if min(map(len, parts)) < length:
        raise TaskError(f"{path}: 15 % of its {n} rows must hold {history} steps and {horizon} to predict")
    windows = [part.unfold(0, length, 1).transpose(1, 2) for part in parts]
    ends = [w[:, history:, 0] if len(columns) == 1 else w[:, history:] for w in windows]
    train, val, test = (TensorDataset(w[:, :history], end) for w, end in zip(windows, ends, strict=True))
    return Splits(train, val, test)


def arrays(path: str | Path, inputs: str, targets: str, *, over_255: Sequence[str] = (), seed: int = 0) -> Splits:
    """Two arrays of an .npz file with the samples first; floats become float32, integers int64.

    Args:
        path: of the file.
        inputs: name of the array.
        targets: name of the other one.
        over_255: names of those that are bytes of images and divided by 255.
        seed: of the shuffle.

    Raises:
        TaskError: the file cannot be read, or has no such arrays.
    """
    found = read_npz(path)
    if missing := [name for name in (inputs, targets) if name not in found]:
        raise TaskError(f"{path}: has no array {missing[0]!r}; it has {', '.join(found)}")
    found |= {name: found[name] / np.float32(255) for name in over_255}
    tensors = [torch.from_numpy(_plain(found[name], f"{path}: {name}")) for name in (inputs, targets)]
    if len(tensors[0]) != len(tensors[1]):
        raise TaskError(f"{path}: {inputs} has {len(tensors[0])} samples and {targets} {len(tensors[1])}")
    return _shuffled(TensorDataset(*tensors), seed)


def read_npz(path: str | Path) -> dict[str, Array]:
    """The arrays of a file by name; nothing in it is executed.

    Raises:
        TaskError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except Exception as error:  # numpy's readers raise anything
        raise TaskError(f"{path}: cannot be read as an .npz file: {first_line(error)}") from None


def columns_of(path: str | Path) -> list[str]:
    """Names of the columns of a CSV file; raises what `table` raises."""
    return [*map(str, _frame(Path(path), nrows=2).columns)]


# -- folders


class _Files(Dataset[Any]):
    """Files that are read when they are asked for."""

    def __init__(self, files: Sequence[tuple[Path, int]], read: Callable[[Path], Tensor]) -> None:
        self._files, self._read = files, read

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._files[index]
        return self._read(path), label


def _in_folders(root: Path, suffixes: frozenset[str], read: Callable[[Path], Tensor], seed: int) -> Splits:
    cut = [root / name for name in _SPLITS]
    roots = cut if all(folder.is_dir() for folder in cut) else [root]
    classes = sorted(path.name for path in roots[0].glob("[!.]*") if path.is_dir())
    parts = [_Files(_files(folder, classes, suffixes), read) for folder in roots]
    if not classes or not all(map(len, parts)):
        raise TaskError(f"{root}: must hold one sub-folder per class with files {', '.join(sorted(suffixes))} in each")
    if len(parts) == 1:
        return _shuffled(parts[0], seed, tuple(classes))
    train, val, test = parts
    return Splits(train, val, test, tuple(classes))


def _files(folder: Path, classes: Sequence[str], suffixes: frozenset[str]) -> list[tuple[Path, int]]:
    found = ((sorted((folder / name).rglob("*")), label) for label, name in enumerate(classes))
    return [(path, label) for paths, label in found for path in paths if path.suffix.lower() in suffixes]


def _sound(path: Path, rate: int, length: int) -> Tensor:
    from scipy import signal
    from scipy.io import wavfile

    try:
        given, values = wavfile.read(path)
    except Exception as error:  # SciPy's reader raises anything
        raise TaskError(f"{path}: cannot be read as a WAV file: {first_line(error)}") from None
    samples = values.astype(np.float32)
    if values.dtype.kind in "iu":
        half = 2.0 ** (8 * values.dtype.itemsize - 1)
        samples = (samples - (half if values.dtype.kind == "u" else 0)) / half
    samples = samples.mean(1) if samples.ndim > 1 else samples
    if given != rate:
        samples = signal.resample_poly(samples, rate, given)
    return torch.from_numpy(np.pad(samples[:length], (0, max(0, length - len(samples)))).astype(np.float32))


# -- tables


def _frame(path: Path, nrows: int | None = None) -> Any:
    import pandas as pd

    try:
        return pd.read_csv(path, nrows=nrows)
    except Exception as error:  # pandas' readers raise anything
        raise TaskError(f"{path}: cannot be read as a CSV file: {first_line(error)}") from None


def _check_columns(frame: Any, wanted: Sequence[str], path: str | Path) -> None:
    if missing := [name for name in wanted if name not in frame.columns]:
        raise TaskError(f"{path}: has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}")


def _numbers(frame: Any, path: str | Path) -> NDArray[np.float32]:
    for name in frame.columns:
        if frame[name].dtype.kind not in "fiub":
            raise TaskError(
                f"{path}: column {name!r} must be numbers, got {frame[name].iloc[0]!r}; leave it out of the file"
            )
    values: NDArray[np.float32] = frame.to_numpy(np.float32, copy=True)  # pandas' own cannot be written to
    return values


def _plain(array: Array, where: str) -> Array:
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise TaskError(f"{where} must be numbers with the samples first, got {array.dtype} {array.shape}")
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)


def _shuffled(data: Dataset[Any], seed: int, classes: tuple[str, ...] = ()) -> Splits:
    order = np.random.default_rng(seed).permutation(len(data))  # type: ignore[arg-type]
    bounds = [int(share * len(order)) for share in _SHARES]
    if not bounds[0] or bounds[0] == bounds[1] or bounds[1] == len(order):
        raise TaskError(f"data of {len(order)} samples cannot be cut into training, validation and test data")
    train, val, test = (Subset(data, rows.tolist()) for rows in np.split(order, bounds))
    return Splits(train, val, test, classes)
