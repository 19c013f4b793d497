from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from autocompress.errors import TaskError
from autocompress.tasks.readers import Splits, arrays, audio_folder, image_folder, series, table


def everything(data: Splits) -> list[tuple[Any, Any]]:
    return [part[i] for part in (data.train, data.val, data.test) for i in range(len(part))]  # type: ignore[arg-type]


def sounds(folder: Path, *, rate: int = 8000, kind: str = "int16", places: tuple[str, ...] = ("",)) -> Path:
    wave = np.sin(np.arange(rate) * 2 * np.pi * 100 / rate)
    bits = {"int16": 2**15 - 1, "uint8": 127, "float32": 1}[kind]
    values = (wave * bits + (128 if kind == "uint8" else 0)).astype(kind)
    for i in range(12):
        place = folder / places[i % len(places)] / "ab"[i % 8 // 4]
        place.mkdir(parents=True, exist_ok=True)
        wavfile.write(place / f"{i}.wav", rate, values)
    return folder


@pytest.mark.parametrize(("rate", "kind"), [(8000, "int16"), (16000, "uint8"), (4000, "float32")])
def test_sounds_of_any_rate_and_type_are_alike(rate: int, kind: str, tmp_path: Path) -> None:
    data = audio_folder(sounds(tmp_path, rate=rate, kind=kind), rate=8000, seconds=1.2)
    samples = data.example[0].numpy()
    assert samples.shape == (9600,) and data.classes == ("a", "b") and not samples[8100:].any()
    expected = np.sin(np.arange(8000) * 2 * np.pi * 100 / 8000)
    assert np.abs(samples[200:7800] - expected[200:7800]).max() < 0.02


def test_folders_that_are_cut_already_stay_so(tmp_path: Path) -> None:
    folder = sounds(tmp_path, places=("train", "val", "test", "train"))
    data = audio_folder(folder, 8000, 0.1)
    assert [len(part) for part in (data.train, data.val, data.test)] == [6, 3, 3]  # type: ignore[arg-type]
    cut = audio_folder(sounds(tmp_path / "whole"), 8000, 0.1)
    assert [len(part) for part in (cut.train, cut.val, cut.test)] == [8, 2, 2]  # type: ignore[arg-type]


def test_images_have_their_channels_first_and_their_folders_as_labels(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for i in range(12):
        place = tmp_path / "ab"[i % 2]
        place.mkdir(exist_ok=True)
        pillow.fromarray(np.full((6, 8, 3), 255 * (i % 2), np.uint8)).save(place / f"{i}.png")
    for image, label in everything(image_folder(tmp_path, (4, 5))):
        assert image.shape == (3, 4, 5) and image.dtype == torch.float32 and (image == label).all()


def test_rows_of_a_table_become_classes_or_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["x,y,kind", *(f"{i},{2 * i},{'pq'[i % 2]}" for i in range(20))]))
    classes = table(path, "kind", classes=True)
    assert classes.classes == ("p", "q") and all(int(row[0]) % 2 == label for row, label in everything(classes))
    path.write_text("\n".join(["x,y", *(f"{i},{2 * i}" for i in range(20))]))
    assert all(torch.equal(2 * row, number) for row, number in everything(table(path, "y", classes=False)))


def test_no_window_of_a_series_reaches_into_the_next_part(tmp_path: Path) -> None:
    path = tmp_path / "series.csv"
    path.write_text("\n".join(["a,b", *(f"{i},{-i}" for i in range(100))]))
    data = series(path, ["a"], history=6, horizon=2)
    for part, (first, last) in zip((data.train, data.val, data.test), ((0, 69), (70, 84), (85, 99)), strict=True):
        steps = [torch.cat([past[:, 0], future]) for past, future in (part[i] for i in range(len(part)))]  # type: ignore[arg-type]
        assert float(min(map(torch.min, steps))) == first and float(max(map(torch.max, steps))) == last
        assert all((row.diff() == 1).all() for row in steps)
    assert series(path, ["a", "b"], history=6, horizon=2).val[0][1].shape == (2, 2)


def test_bytes_of_images_are_scaled_and_other_arrays_keep_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=np.full((20, 1, 2, 2), 255, np.uint8), labels=np.arange(20, dtype=np.uint8))
    image, label = arrays(path, "images", "labels", over_255=["images"]).train[0]
    assert image.dtype == torch.float32 and (image == 1).all() and label.dtype == torch.int64


def files(folder: Path) -> Path:
    (folder / "words.csv").write_text("a,b\n1,x\n2,y\n")
    (folder / "short.csv").write_text("a\n" + "1\n" * 30)
    (folder / "broken.csv").write_bytes(b"\x00\xff,\n\x81")
    (folder / "broken.wav").write_text("no sound")
    np.savez(folder / "two.npz", x=np.zeros((4, 2)), y=np.zeros(3), names=np.array(["p"]))
    (folder / "empty" / "a").mkdir(parents=True)
    (folder / "bad" / "a").mkdir(parents=True)
    for i in range(12):
        (folder / "bad" / "a" / f"{i}.wav").write_text("no sound")
    return folder


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda f: table(f / "words.csv", "c", classes=False), "has no column 'c'; it has a, b"),
        (lambda f: table(f / "words.csv", "a", classes=False), "column 'b' must be numbers, got 'x'; leave it out"),
        (lambda f: table(f / "absent.csv", "a", classes=False), "cannot be read as a CSV file"),
        (lambda f: series(f / "short.csv", ["a"], history=6, horizon=2), "15 % of its 30 rows must hold 6 steps and 2"),
        (lambda f: arrays(f / "two.npz", "x", "z"), "has no array 'z'; it has x, y, names"),
        (lambda f: arrays(f / "two.npz", "x", "y"), "x has 4 samples and y 3"),
        (lambda f: arrays(f / "two.npz", "x", "names"), "names must be numbers with the samples first"),
        (lambda f: arrays(f / "words.csv", "x", "y"), "cannot be read as an .npz file"),
        (lambda f: audio_folder(f / "empty", 8000, 1), "must hold one sub-folder per class with files .wav in each"),
        (lambda f: audio_folder(f / "bad", 8000, 1).train[0], "cannot be read as a WAV file"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(read: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        read(files(tmp_path))
    assert "\n" not in str(caught.value)
