from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.detectors import keypoints_task, spots

from autocompress.errors import TaskError
from autocompress.tasks.kinds.keypoints import Keypoints
from autocompress.tasks.task import Task

SIZE = (40, 80)


def test_scores_count_visible_points_within_a_twentieth_of_the_image() -> None:
    kind, found = Keypoints(size=SIZE), np.array([[[10.0, 10], [50, 20], [0, 0]], [[1, 1], [2, 2], [3, 3]]])
    truth = np.array([[[10.0, 13], [50, 25], [np.nan, np.nan]], [[np.nan, np.nan]] * 3])
    assert kind.correct(found, truth).tolist() == [0.5, 1.0]
    assert kind.error(found, truth) == pytest.approx([np.sqrt((9 + 25) / 2), 0])
    seen = np.concatenate([np.nan_to_num(truth), np.isfinite(truth[..., :1])], -1)
    assert kind.correct(found, seen).tolist() == [0.5, 1.0]


def test_the_hottest_cell_of_a_map_is_the_point() -> None:
    maps = np.zeros((1, 2, 10, 20))
    maps[0, 0, 3, 7], maps[0, 1, 9, 0] = 1, 1
    kind = Keypoints(size=SIZE)
    assert kind.points(maps).tolist() == [[[30, 14], [2, 38]]]
    assert kind.agreement(maps, maps) == 1.0 and kind.agreement(maps[..., ::-1], maps) == 0.0


def test_maps_are_trained_to_a_spot_at_each_visible_point() -> None:
    kind, target = Keypoints(size=SIZE), torch.tensor([[[30.0, 14.0], [float("nan")] * 2]])
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(20.0), indexing="ij")
    spot = torch.exp(-((rows - 3) ** 2 + (columns - 7) ** 2) / 8)
    assert kind.distance(torch.stack([spot, torch.rand(10, 20)])[None], target) == pytest.approx(0, abs=1e-9)
    assert kind.distance(torch.zeros(1, 2, 10, 20), target) > 0.01


IMAGES, POINTS = spots(48, 1)


@pytest.fixture(scope="module")
def trained() -> Task:
    torch.manual_seed(0)
    return keypoints_task()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (POINTS / 32, r"in pixels of the input \(32 x 32\), got values up to 0.*: multiply by its size"),
        (POINTS * 10, "resize them as their images"),
        (POINTS[:, :1], r"targets must be coordinates \(N, 2, 2\).*got \(48, 1, 2\)"),
        (POINTS.flip(-1), "with x and y exchanged; convert the targets"),
    ],
)
def test_what_people_write_by_mistake_is_recognised(trained: Task, targets: Any, message: str) -> None:
    with pytest.raises(TaskError, match=f"^validation data: .*{message}"):
        Task.keypoints(trained.model, example_input=IMAGES[:1], val=[(IMAGES, targets)]).validate()


def test_networks_that_give_no_points_are_refused() -> None:
    with pytest.raises(TaskError, match=r"coordinates \(N, points, 2\) or heat maps .*, got \(1, 9\)"):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 9)).eval()
        Task.keypoints(model, example_input=IMAGES[:1], val=[(IMAGES, POINTS)]).validate()
