from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.small import device, small_task, space

from autocompress.controller import Budget, search
from autocompress.errors import StudyError
from autocompress.studies.confusion import Confusion, read_confusions, write_confusions
from autocompress.tasks.metric import Metric


def test_counts_by_hand() -> None:
    found = Confusion.count(np.array([0, 1, 1, 2, 2]), np.array([0, 0, 1, 2, 1]), 4, "test")
    assert found.correct == (1, 1, 1, 0) and found.total == (2, 2, 1, 0)
    assert found.matrix == ((1, 1, 0, 0), (0, 1, 1, 0), (0, 0, 1, 0), (0, 0, 0, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_labels_of_any_type_are_counted(dtype: type) -> None:
    labels = np.array([3, 57, 99])
    found = Confusion.count(labels, labels.astype(dtype), 100, "test")
    assert sum(found.correct) == 3 and [found.total[k] for k in labels] == [1, 1, 1]


def test_many_classes_keep_no_matrix() -> None:
    labels = np.arange(60)
    found = Confusion.count(labels, labels, 60, "test")
    assert found.matrix == () and found.correct == found.total == (1,) * 60


def test_a_search_counts_front_and_baselines_on_the_test_split(tmp_path: Path) -> None:
    study = search(small_task(), device(), space(), budget=Budget(2), out=tmp_path / "study")
    found = read_confusions(study.path)
    assert set(found) == {e.trial for e in (*study.baselines, *study.front)}
    for trial, confusion in found.items():
        test = study.evaluation(trial).test
        assert test and sum(confusion.total) == test.n_samples and confusion.split == "test"
        assert sum(confusion.correct) / sum(confusion.total) == pytest.approx(test.value)
        assert [sum(row) for row in confusion.matrix] == list(confusion.total)


def test_other_metrics_are_not_counted(tmp_path: Path) -> None:
    halves = Metric("half", lambda outputs, labels: (outputs.argmax(-1) == labels) * 0.5)
    study = search(small_task(metric=halves), device(), space(), budget=Budget(1), out=tmp_path / "study")
    assert read_confusions(study.path) == {}


def test_the_file_goes_with_its_content_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    write_confusions(tmp_path, {3: Confusion.count(np.array([0]), np.array([0]), 2, "test")})
    assert list(read_confusions(tmp_path)) == [3]
    write_confusions(tmp_path, {})
    assert not path.exists() and read_confusions(tmp_path) == {}
    path.write_text("[1]")
    with pytest.raises(StudyError, match=r"classes.json: damaged"):
        read_confusions(tmp_path)
