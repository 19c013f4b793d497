from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autocompress.studies.sample_scores import read_sample_scores, write_sample_scores


@pytest.mark.parametrize("scores", [np.arange(11) % 3 == 0, np.ones(8), np.linspace(-3.5, 40, 9)])
def test_scores_come_back_split_by_split(tmp_path: Path, scores: np.ndarray) -> None:
    write_sample_scores(tmp_path, "model.2.onnx", "validation", scores)
    np.testing.assert_allclose(
        read_sample_scores(tmp_path, "model.2.onnx", "validation"), scores.astype(float), rtol=1e-6
    )
    assert read_sample_scores(tmp_path, "model.2.onnx", "test") is None


def test_right_and_wrong_take_one_bit_a_sample(tmp_path: Path) -> None:
    write_sample_scores(tmp_path, "model.onnx", "test", np.arange(50_000) % 2)
    assert (tmp_path / "model.test.npz").stat().st_size < 7_000


def test_what_cannot_be_read_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    (tmp_path / "model.test.npz").write_bytes(b"PK not an archive")
    assert read_sample_scores(tmp_path, "model.onnx", "test") is None
    np.savez(tmp_path / "model.validation.npz", other=np.ones(3))
    assert read_sample_scores(tmp_path, "model.onnx", "validation") is None
