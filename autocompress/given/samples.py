"""Samples for a network that came as a file: arrays by the names of its inputs, or images, with labels if there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import TaskError, first_line
from autocompress.given.file import GivenFile, InputSpec
from autocompress.tasks.images import CHANNELS, IMAGES, ImageOptions, read_image
from autocompress.tasks.interface import take
from autocompress.tasks.loading import load_value

Array = NDArray[Any]

LABELS = "labels"
"""Name of the labels among the arrays."""
FEWEST = 16
_IMAGE_BYTES = 2**30
"""As many images are read as fit into so much memory, as floats."""
_ARRAYS = frozenset({".npy", ".npz"})


@dataclass(frozen=True)
class Samples:
    """What was read."""

    inputs: Mapping[str, Array]
    """By name, each (N, ...)."""
    labels: Array | None = None
    """(N, ...)."""
    classes: tuple[str, ...] = ()
    """Names of the labels, where folders name them."""
    preprocessing: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def part(self, rows: Array) -> Samples:
        """Some of the samples."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, inputs=take(self.inputs, rows), labels=labels)


def read_samples(data: str | Path | Mapping[str, Any], file: GivenFile, images: ImageOptions, seed: int) -> Samples:
    """Read the samples for a file.

    Args:
        data: a folder of images (one sub-folder per class, or none), a folder or file of .npy and .npz arrays, or
            "module.py:name" of a function that returns arrays by name, or these arrays.
        file: says what its network takes.
        images: how images become inputs.
        seed: of the choice among more images than fit into memory.

    Raises:
        TaskError: there are no samples in it, or they are not what the network takes.
    """
    if isinstance(data, Mapping):
        return _checked(_of_arrays(data, file, "the data"), file, "the data")
    path = Path(data)
    if not path.exists():
        if ":" in str(data):
            return _checked(_of_function(str(data), file), file, str(data))
        raise TaskError(f"{data}: there is no such folder; give images, .npy or .npz files, or module.py:function")
    kinds = _ARRAYS | IMAGES
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in kinds)
    arrays = [p for p in files if p.suffix.lower() in _ARRAYS]
    if arrays:
        return _checked(_of_arrays(_loaded(arrays, file), file, str(path)), file, str(path))
    if not files or files[0].suffix.lower() not in IMAGES:
        raise TaskError(f"{path}: holds neither .npy or .npz files nor images ({', '.join(sorted(IMAGES))})")
    return _checked(_of_images(path, files, file, images, seed), file, str(path))


def _checked(samples: Samples, file: GivenFile, where: str) -> Samples:
    for spec in file.inputs:
        _check_shape(samples.inputs[spec.name].shape[1:], spec, where)
    sizes = {name: len(array) for name, array in samples.inputs.items()}
    sizes |= {LABELS: len(samples.labels)} if samples.labels is not None else {}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {n}" for name, n in sizes.items())
        raise TaskError(f"{where}: all arrays must have the same number of samples, got {told}")
    if len(samples) < FEWEST:
        raise TaskError(f"{where}: at least {FEWEST} samples are needed, some for each purpose, got {len(samples)}")
    inputs = {spec.name: _typed(samples.inputs[spec.name], spec, where) for spec in file.inputs}
    return replace(samples, inputs=inputs)


def _check_shape(got: tuple[int, ...], spec: InputSpec, where: str) -> None:
    fits = len(got) == len(spec.shape) and all(w in (None, g) for w, g in zip(spec.shape, got, strict=True))
    if fits:
        return
    wanted = ", ".join("any" if size is None else str(size) for size in spec.shape)
    advice = ""
    if len(got) == len(spec.shape) == 3:
        orders = ((2, 0, 1), (1, 2, 0))
        moved = [o for o in orders if all(w in (None, got[i]) for w, i in zip(spec.shape, o, strict=True))]
        axes = ", ".join(str(axis + 1) for axis in moved[0]) if moved else ""
        advice = f"; move the channels: array.transpose(0, {axes})" if moved else ""
    raise TaskError(f"{where}: samples of {spec.name!r} must have the shape ({wanted}), got {tuple(got)}{advice}")


def _typed(array: Array, spec: InputSpec, where: str) -> Array:
    wanted = np.dtype(spec.dtype)
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and wanted.kind != "f"):
        raise TaskError(f"{where}: {spec.name!r} must hold numbers that fit {spec.dtype}, got {array.dtype}")
    return np.ascontiguousarray(array, wanted)


# -- arrays


def _loaded(paths: Sequence[Path], file: GivenFile) -> dict[str, Array]:
    """Arrays by name; those of one name are put behind each other."""
    found: dict[str, list[Array]] = {}
    for path in paths:
        for name, array in _read_arrays(path):
            found.setdefault(_input_of(name, file), []).append(array)
    ranks = {spec.name: len(spec.shape) for spec in file.inputs}
    joined = {}
    for name, parts in found.items():
        whole = [part[None] if part.ndim == ranks.get(name, 0) else part for part in parts]
        if len({part.shape[1:] for part in whole}) > 1:
            shapes = " and ".join(map(str, sorted({part.shape[1:] for part in whole})[:2]))
            raise TaskError(f"{paths[0].parent}: samples of {name!r} must have one shape, got {shapes}")
        joined[name] = np.concatenate(whole)
    return joined


def _read_arrays(path: Path) -> Iterator[tuple[str, Array]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        pairs = [(path.stem, loaded)] if isinstance(loaded, np.ndarray) else [(n, loaded[n]) for n in loaded.files]
    except Exception as error:  # numpy raises what its readers of headers and archives raise
        raise TaskError(f"{path}: is not a file of arrays: {first_line(error)}") from None
    for name, array in pairs:
        yield name, array if array.ndim else array[None]


def _input_of(name: str, file: GivenFile) -> str:
    """The input that an array is for: a lone input takes an array of any name but "labels"."""
    known = [spec.name for spec in file.inputs]
    return name if name == LABELS or name in known or len(known) > 1 else known[0]


def _of_arrays(arrays: Mapping[str, Any], file: GivenFile, where: str) -> Samples:
    known = [spec.name for spec in file.inputs]
    found = {_input_of(str(name), file): np.asarray(array) for name, array in arrays.items()}
    if missing := [name for name in known if name not in found]:
        got = ", ".join(found) or "nothing"
        raise TaskError(f"{where}: no array for {', '.join(missing)}; the network takes {', '.join(known)}, got {got}")
    return Samples({name: found[name] for name in known}, found.get(LABELS))


def _of_function(reference: str, file: GivenFile) -> Samples:
    value = load_value(reference, "of this name that returns arrays by the names of the inputs")
    if isinstance(value, tuple) and len(value) == 2 and len(file.inputs) == 1:
        value = {file.inputs[0].name: value[0], LABELS: value[1]}
    elif not isinstance(value, Mapping) and len(file.inputs) == 1 and hasattr(value, "shape"):
        value = {file.inputs[0].name: value}
    if not isinstance(value, Mapping):
        names = ", ".join(spec.name for spec in file.inputs)
        raise TaskError(
            f"{reference}: must return arrays by the names of the inputs ({names}), with {LABELS!r} if there are any, "
            f"got {type(value).__name__}"
        )
    return _of_arrays(value, file, reference)


# -- images


def _of_images(root: Path, files: Sequence[Path], file: GivenFile, options: ImageOptions, seed: int) -> Samples:
    if len(file.inputs) != 1:
        names = ", ".join(spec.name for spec in file.inputs)
        raise TaskError(f"{root}: images are for a network with one input, this one has {names}; give .npz files")
    spec = file.inputs[0]
    if options.scale is None:
        options = replace(options, scale=255.0 if spec.dtype == "float32" else 1.0)
    layout = _Layout.of(spec, options, root)
    most = max(FEWEST, _IMAGE_BYTES // (4 * layout.channels * layout.size[0] * layout.size[1]))
    notes = []
    if len(files) > most:
        notes.append(f"{most:,} of {len(files):,} images were drawn at random: more would not fit into a gibibyte")
        files = [files[i] for i in np.sort(np.random.default_rng(seed).permutation(len(files))[:most])]
    array = np.stack([read_image(path, layout.size, layout.channels, options) for path in files])
    labels, classes = _folders(root, files)
    order = "height, width, channels" if layout.last else "channels, height, width"
    text = f"{options.text(layout.size, 'grey' if layout.channels == 1 else 'RGB')}; {order}"
    inputs = {spec.name: array if layout.last else np.moveaxis(array, -1, 1)}
    return Samples(inputs, labels, classes, text, tuple(notes))


def _folders(root: Path, files: Sequence[Path]) -> tuple[Array | None, tuple[str, ...]]:
    """The number of each image's folder, and the names of the folders; nothing if some images lie in none."""
    parts = [path.relative_to(root).parts for path in files] if root.is_dir() else []
    if not parts or any(len(part) < 2 for part in parts):
        return None, ()
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return np.array([names.index(part[0]) for part in parts]), tuple(names)


@dataclass(frozen=True)
class _Layout:
    """Of the images that a network takes."""

    size: tuple[int, int]
    """Height and width."""
    channels: int
    last: bool
    """Whether the channels are the last dimension."""

    @classmethod
    def of(cls, spec: InputSpec, options: ImageOptions, where: Path) -> _Layout:
        shape = spec.shape
        sides = ((shape[0], shape[1:], False), (shape[-1], shape[:-1], True)) if len(shape) == 3 else ()
        for channels, own, last in sides:
            if channels not in CHANNELS or spec.dtype not in ("float32", "uint8"):
                continue
            size = own if options.size is None else options.size
            if None in size:
                raise TaskError(f"{where}: the network takes images of any size; say which: --image-size 224x224")
            return cls((int(size[0] or 0), int(size[1] or 0)), int(channels), last)
        wanted = ", ".join("any" if s is None else str(s) for s in shape)
        raise TaskError(f"{where}: holds images, and the network takes ({wanted}) of {spec.dtype}; give .npy files")
