from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.onnx_files import images, keras_style, torch_style, two_inputs, written

from autocompress.errors import TaskError
from autocompress.given.file import GivenFile, read
from autocompress.given.samples import ImageOptions, Samples, read_samples

OPTIONS = ImageOptions()


@pytest.fixture
def torch_file(tmp_path: Path) -> GivenFile:
    return read(written(torch_style(), tmp_path))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def read_from(data: Any, file: GivenFile) -> Samples:
    return read_samples(data, file, OPTIONS, 0)


def test_a_lone_input_takes_an_array_of_any_name(torch_file: GivenFile, data: Path) -> None:
    np.save(data / "photos.npy", images(20, 3, 12, 12).astype(np.float64))
    np.save(data / "labels.npy", np.arange(20) % 5)

    samples = read_from(data, torch_file)

    assert samples.inputs["image"].dtype == np.float32 and len(samples) == 20
    assert samples.labels is not None and samples.labels.tolist()[:6] == [0, 1, 2, 3, 4, 0]


def test_files_with_one_sample_or_several_are_put_behind_each_other(torch_file: GivenFile, data: Path) -> None:
    for i, sample in enumerate(images(16, 3, 12, 12)):
        np.savez(data / f"{i:02}.npz", image=sample, labels=i % 5)
    np.savez(data / "more.npz", image=images(4, 3, 12, 12), labels=np.zeros(4, int))

    assert len(read_from(data, torch_file)) == 20


def test_several_inputs_take_arrays_by_their_names(tmp_path: Path, data: Path) -> None:
    file = read(written(two_inputs(), tmp_path))
    np.savez(data / "all.npz", ids=np.arange(180).reshape(20, 9) % 50, mask=np.ones((20, 9), np.float32))

    assert read_from(data / "all.npz", file).inputs["ids"].shape == (20, 9)
    with pytest.raises(TaskError, match="no array for mask; the network takes ids, mask, got ids"):
        read_from({"ids": np.zeros((20, 9), int)}, file)
    with pytest.raises(TaskError, match="'ids' must hold numbers that fit int64, got float64"):
        read_from({"ids": np.zeros((20, 9)), "mask": np.zeros((20, 9))}, file)


def test_a_function_gives_samples_and_labels(torch_file: GivenFile, tmp_path: Path) -> None:
    module = tmp_path / "my_samples.py"
    module.write_text(
        "import numpy as np\n"
        "def samples():\n    return np.ones((20, 3, 12, 12)), np.arange(20) % 5\n"
        "def nothing():\n    return 3\n"
    )

    samples = read_from(f"{module}:samples", torch_file)

    assert len(samples) == 20 and samples.labels is not None
    with pytest.raises(TaskError, match="must return arrays by the names of the inputs"):
        read_from(f"{module}:nothing", torch_file)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": images(20, 12, 12, 3)}, r"must have the shape \(3, 12, 12\), got \(12, 12, 3\); move the channels"),
        ({"image": images(20, 3, 12, 12), "labels": np.zeros(19)}, "the same number of samples"),
        ({"image": images(3, 3, 12, 12)}, "at least 16 samples are needed"),
        ({"image": np.full((20, 3, 12, 12), "a")}, "must hold numbers"),
    ],
)
def test_wrong_arrays_are_told(arrays: dict[str, Any], message: str, torch_file: GivenFile) -> None:
    with pytest.raises(TaskError, match=message):
        read_from(arrays, torch_file)


def test_data_that_are_not_there_are_told(torch_file: GivenFile, data: Path) -> None:
    with pytest.raises(TaskError, match="there is no such folder"):
        read_from(data / "nowhere", torch_file)
    with pytest.raises(TaskError, match=r"holds neither .npy or .npz files nor images"):
        read_from(data, torch_file)
    (data / "broken.npy").write_bytes(b"no array")
    with pytest.raises(TaskError, match="is not a file of arrays"):
        read_from(data, torch_file)


@pytest.mark.parametrize("model", [torch_style, keras_style])
def test_images_in_folders_are_resized_scaled_and_labelled(model: Any, tmp_path: Path, data: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for label, value in (("cat", 0), ("dog", 255)):
        (data / label).mkdir()
        for i in range(8):
            pillow.new("RGB", (20, 30), (value, 0, 0)).save(data / label / f"{i}.png")
    file = read(written(model(), tmp_path))

    samples = read_samples(data, file, ImageOptions(mean=(0.5,), std=(0.5,)), 0)

    [array] = samples.inputs.values()
    channels = np.moveaxis(array, -1, 1) if model is keras_style else array
    assert channels.shape == (16, 3, 12, 12)
    assert channels[0].max() == -1 and channels[8, 0].min() == 1
    assert samples.classes == ("cat", "dog") and samples.labels is not None
    assert samples.labels.tolist() == [0] * 8 + [1] * 8
    assert samples.preprocessing.startswith("RGB, resized without keeping the aspect ratio, 12x12")
