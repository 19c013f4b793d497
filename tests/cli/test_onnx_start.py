from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.onnx_files import images, torch_style, written
from helpers.small import DEVICE

from autocompress import cli


def run(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["autocompress", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file, samples without labels, and their study."""
    folder = tmp_path_factory.mktemp("project")
    written(torch_style(), folder)
    np.save(folder / "samples.npy", images(60, 3, 12, 12))
    words = ["search", folder / "model.onnx", "--data", folder / "samples.npy", "--device", DEVICE]
    assert run(*words, "--trials", 2, "--out", folder / "study") == 0
    return folder


def test_one_line_searches_resumes_and_says_what_its_figure_is(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", project / "model.onnx", "--data", project / "samples.npy", "--device", DEVICE]
    assert run(*words, "--trials", 3, "--out", project / "study") == 0
    assert run("show", project / "study") == 0

    out = capsys.readouterr().out
    assert "agreement with the original" in " ".join(out.split())
    assert "accuracy" not in out.lower()
    settings = json.loads((project / "study" / "study.json").read_text())
    assert settings["metric"] == "agreement with the original"
    assert any("the network is an ONNX file" in note for note in settings["notes"])


def test_a_point_is_exported_and_its_recipe_gives_the_same_file(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", project / "study", "--trial", 2, "--out", tmp_path / "out") == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["task"]["metric"] == "agreement with the original"
    assert f"apply recipe.yaml {project / 'model.onnx'} --data {project / 'samples.npy'} --device" in card["reproduce"]

    words = [tmp_path / "out" / "recipe.yaml", project / "model.onnx", "--data", project / "samples.npy"]
    assert run("apply", *words, "--device", tmp_path / "out" / "device.yaml", "--out", tmp_path / "again.onnx") == 0
    assert "agreement with the original" in capsys.readouterr().out
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out" / "model.onnx").read_bytes()


def test_check_tells_what_is_left_out(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", project / "model.onnx", "--data", project / "samples.npy", "--device", DEVICE]
    assert run(*words, "--space", "auto") == 0

    out = capsys.readouterr().out
    assert "early_exit, prune, distill: left out: the network is an ONNX file" in out
    assert "agreement with the original 1.0000 (validation)" in out and "exit places" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.onnx"], "bring samples of what the network will see"),
        (
            ["my_task.py:task", "--data", "samples.npy"],
            "--data, --kind, --ignore-labels, --decode and --image-... go with an ONNX file",
        ),
        (["model.onnx", "--data", "samples.npy", "--kind", "other"], "--kind must be auto, classification, generic"),
        (["model.onnx", "--data", "samples.npy", "--image-size", "12"], "--image-size must be height and width"),
        (["model.onnx", "--data", "samples.npy", "--image-mean", "a,b"], "--image-mean must be numbers"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(
    words: list[str],
    message: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    assert run("check", *words, "--device", DEVICE) == 2
    assert message in capsys.readouterr().err
