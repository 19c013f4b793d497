"""Runtimes are found by their names, and what goes wrong in one is said by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autocompress.devices.calibration.net_builder import NetBuilder
from autocompress.errors import CandidateError, DeviceError
from autocompress.runtimes import base


def net() -> bytes:
    builder = NetBuilder((1, 3, 8, 8))
    return builder.build(builder.conv("input", 16))


def test_a_runtime_is_found_by_the_name_of_its_file() -> None:
    assert "onnxruntime" in base.names()
    assert all(base.get(name).name == name for name in base.own_names())


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(DeviceError, match=r"must be one of .*onnxruntime.* \(did you mean 'rknn'\?\), got 'rkn'"):
        base.get("rkn")
    with pytest.raises(DeviceError, match=r"'rknn' executes files on its device only; here: .*onnxruntime"):
        base.get("rknn")


def test_the_reference_stands_for_runtimes_that_are_elsewhere() -> None:
    assert base.executor("rknn") is base.reference() is base.executor("onnxruntime")


def test_a_file_is_loaded_from_bytes_and_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(net())
    inputs = {"input": np.ones((1, 3, 8, 8), np.float32)}
    first, second = (base.reference().load(file)(inputs) for file in (net(), path))
    assert [value.shape for value in first.values()] == [(1, 16, 8, 8)]
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_what_goes_wrong_is_an_error_of_the_candidate(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CandidateError, match="ONNX Runtime cannot load the model"):
        base.reference().load(b"not a model")
    with pytest.raises(CandidateError, match="ONNX Runtime cannot run the model"):
        base.reference().load(net())({"input": np.zeros((1, 5, 8, 8), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_what_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(base.reference()), "library", "no-such-package")
    with pytest.raises(DeviceError, match=r"ONNX Runtime is not installed here; .*: pip install no-such-package"):
        base.reference().version()
