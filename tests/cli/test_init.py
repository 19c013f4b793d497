"""Task files that `autocompress init` writes pass `autocompress check`."""

from __future__ import annotations

import ast
import importlib
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.onnx_files import images, torch_style, written
from helpers.small import DEVICE
from scipy.io import wavfile

from autocompress import cli

RNG = np.random.default_rng(0)
NETS = """
import torch
from torch import nn


class Conv(nn.Module):
    \"\"\"Images or sounds to three numbers.\"\"\"

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv1d(1, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.features(x.flatten(1)[:, None]).relu().mean(-1))


def dense(n_in, n_out, *shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(n_in, n_out), nn.Unflatten(1, shape or (n_out,)))


def three_of_table():
    return dense(4, 3)


def one_of_table():
    return dense(4, 1)


def forecaster():
    return dense(16 * 1, 4)


def per_pixel():
    return nn.Conv2d(3, 3, 1)


def upscaler():
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))


def recogniser():
    return nn.Linear(6, 5)


network = Conv()
"""


def run(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["autocompress", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def image_files(folder: Path) -> Path:
    pillow = pytest.importorskip("PIL.Image")
    for i in range(24):
        place = folder / "images" / "abc"[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder / "images"


def sound_files(folder: Path) -> Path:
    for i in range(24):
        place = folder / "sounds" / "abc"[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        wavfile.write(place / f"{i}.wav", 8000, RNG.integers(-9999, 9999, 900 + i, dtype=np.int16))
    return folder / "sounds"


def table_file(target: str, values: Sequence[object]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        rows = [",".join([*(f"{x:.3f}" for x in RNG.normal(size=4)), str(values[i % 3])]) for i in range(40)]
        (folder / "table.csv").write_text("\n".join([f"a,b,c,d,{target}", *rows]))
        return folder / "table.csv"

    return write


def series_file(folder: Path) -> Path:
    rows = [f"{np.sin(i / 5):.4f},{i}" for i in range(400)]
    (folder / "series.csv").write_text("\n".join(["load,hour", *rows]))
    return folder / "series.csv"


def array_file(**made: np.ndarray) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "data.npz", **made)
        return folder / "data.npz"

    return write


PICTURES = RNG.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
CASES: dict[str, tuple[str, Callable[[Path], Path], str, tuple[object, ...]]] = {
    "images": ("classification", image_files, "nets.py:network", ("--size", "8x10")),
    "sounds": ("classification", sound_files, "nets.py:Conv", ("--rate", 4000, "--seconds", 0.1)),
    "table": ("classification", table_file("label", "uvw"), "nets.py:three_of_table", ("--target", "label")),
    "arrays": ("classification", array_file(x=PICTURES, y=np.arange(40) % 3), "nets.py:Conv", ()),
    "numbers": ("regression", table_file("amount", (0.5, 1.5, 4)), "nets.py:one_of_table", ("--target", "amount")),
    "series": ("forecasting", series_file, "nets:forecaster", ("--target", "load", "--history", 16, "--horizon", 4)),
    "masks": ("segmentation", array_file(x=PICTURES, labels=PICTURES[:, 0] % 3), "nets.py:per_pixel", ()),
    "upscaling": (
        "image-to-image",
        array_file(small=PICTURES, targets=PICTURES.repeat(2, 2).repeat(2, 3)),
        "nets.py:upscaler",
        (),
    ),
    "vectors": ("embedding", sound_files, "nets.py:Conv", ("--rate", 4000, "--seconds", 0.1)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_passes_check(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, make, model, options = CASES[name]
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = make(tmp_path).relative_to(tmp_path)
    assert run("init", "--kind", kind, "--data", data, "--model", model, *options, "--out", "task.py") == 0
    lines = Path("task.py").read_text().splitlines()
    assert len(lines) < 30 and max(map(len, lines)) <= 120
    assert run("check", "task.py", "--device", DEVICE) == 0, capsys.readouterr().err


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network and some data, as the current one."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    table_file("label", "uvw")(tmp_path)
    np.savez("data.npz", x=PICTURES, y=np.arange(40) % 3)
    return tmp_path


def test_what_is_not_given_is_asked_for_until_it_can_be_used(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong_and_right = (
        "clasification\nclassification\nnothing\ntable.csv\nnets.py:nope\nnets.py:three_of_table\nlable\nlabel\n"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO(wrong_and_right))
    assert run("init") == 0
    err = capsys.readouterr().err
    for sentence in (
        "got 'clasification' (did you mean 'classification'?)",
        "there is no nothing",
        "has no 'nope'; write a function",
        "no column 'lable' (did you mean 'label'?)",
    ):
        assert sentence in err
    assert 'table(HERE / "table.csv", "label", classes=True)' in Path("task.py").read_text()


GIVEN = ("--kind", "classification", "--data", "data.npz", "--model", "nets.py:network")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kind", "detection"), "got 'detection'; detection, text and other kinds are written by hand"),
        (("--kind", "ctc", "--data", "table.csv"), "--data for ctc must be an .npz file, got a CSV file: table.csv"),
        (("--data", "nets.py"), "must be a folder with images or WAV files, a .csv or an .npz file, got nets.py"),
        (("--model", "resnet18"), "--model must be one of torchvision:NAME, timm:NAME"),
        (("--model", "my-nets:network"), "--model must be one of torchvision:NAME, timm:NAME"),
        (("--model", "absent.py:network"), "there is no file absent.py"),
        (("--model", "net.onnx"), "there is no file net.onnx"),
        (("--model", "sub/nets.py:network"), "must lie beside the task file, which imports it: give --out sub/task.py"),
        (("--size", "224"), "--size must be height and width, such as 224x224, got '224'"),
        (("--weights", "w.pt"), "--weights: there is no file w.pt"),
        (
            ("--data", "table.csv", "--target", "lable"),
            "no column 'lable' (did you mean 'label'?); there are a, b",
        ),
        (("--data", "three.npz"), "three.npz: must hold the inputs and an array called labels or label or targets"),
        (("--out", "task.txt"), "--out must end in .py, got task.txt"),
        (("--out", "nets.py"), "nets.py is there already"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_nothing_is_written(
    words: tuple[str, ...], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sub").mkdir()
    Path("sub/nets.py").write_text(NETS)
    np.savez("three.npz", a=PICTURES, b=PICTURES, c=PICTURES)
    assert run("init", *GIVEN, *words) == 2  # the last of two options counts
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not Path("task.py").exists()


def test_names_of_any_letters_are_written_as_they_are(project: Path) -> None:
    odd = Path('my "data" \\ è\'s.csv')
    odd.write_text('x,"it\'s ""y"""\n' + "1,2\n" * 20)
    words = ("--kind", "regression", "--data", odd, "--model", "nets:dense", "--target", 'it\'s "y"')
    assert run("init", *words) == 0
    calls = {
        ast.unparse(node) for node in ast.walk(ast.parse(Path("task.py").read_text())) if isinstance(node, ast.Call)
    }
    assert f"table(HERE / {str(odd)!r}, {words[-1]!r}, classes=False)" in calls


def test_without_an_answer_it_says_which_option_to_give(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("init", "--kind", "classification") == 2
    assert "error: no answer; give --data" in capsys.readouterr().err


def test_an_onnx_file_is_a_start_too(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(torch_style(), project)
    np.savez("samples.npz", image=images(60, 3, 12, 12), labels=np.arange(60) % 4)
    assert run("init", *GIVEN, "--model", "model.onnx", "--data", "samples.npz") == 0
    assert 'task_from_onnx(HERE / "model.onnx", HERE / "samples.npz")' in Path("task.py").read_text()
    assert run("check", "task.py", "--device", DEVICE) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("library", "name", "brought"),
    [("timm", "lcnet_035", "pretrained=True"), ("torchvision", "squeezenet1_1", 'weights="DEFAULT"')],
)
def test_networks_of_libraries_take_trained_weights(
    library: str, name: str, brought: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        module: Any = importlib.import_module(library)
    except Exception:
        pytest.skip(f"{library} does not load here")
    words = (
        "--kind",
        "classification",
        "--data",
        image_files(project),
        "--model",
        f"{library}:{name}",
        "--size",
        "64x64",
    )
    assert run("init", *words, "--out", "pretrained.py") == 0
    assert f'("{name}", {brought})' in Path("pretrained.py").read_text()
    make = module.create_model if library == "timm" else module.models.get_model
    torch.save(make(name, num_classes=3).state_dict(), "weights.pt")
    assert run("init", *words, "--weights", "weights.pt") == 0
    assert f'("{name}", num_classes=len(data.classes))' in Path("task.py").read_text()
    assert run("check", "task.py", "--device", DEVICE) == 0, capsys.readouterr().err


def test_transformers_load_from_a_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, layer_type="basic"
    )
    transformers.ResNetForImageClassification(config).save_pretrained("trained")
    data = image_files(project)
    assert run("init", *GIVEN, "--data", data, "--size", "32x32", "--model", "transformers:trained") == 0
    assert 'AutoModelForImageClassification.from_pretrained("trained")' in Path("task.py").read_text()
    assert run("check", "task.py", "--device", DEVICE) == 0, capsys.readouterr().err
