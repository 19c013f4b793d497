"""The scenes and the detector of the examples."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import detection
from datasets import fashion_mnist_12k
from scenes import CLASSES, SIZE, Scene, SceneBatches, scenes

from autocompress.tasks.task import Task


@pytest.fixture(scope="module")
def made() -> list[Scene]:
    return scenes(fashion_mnist_12k()["val"], 48, seed=1)


def test_scenes_are_the_same_ones_again_and_boxes_lie_in_them(made: list[Scene]) -> None:
    again = scenes(fashion_mnist_12k()["val"], 2, seed=1)
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.boxes, b.boxes) for a, b in zip(made, again, strict=False)
    )
    boxes, labels = torch.cat([scene.boxes for scene in made]), torch.cat([scene.labels for scene in made])
    assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= 0 and boxes.max() <= SIZE
    assert set(labels.tolist()) == set(range(len(CLASSES))) and any(len(scene.labels) == 0 for scene in made)


def test_a_mirrored_scene_has_mirrored_boxes(made: list[Scene]) -> None:
    for scene in made[:8]:
        torch.manual_seed(0)
        mirrored = [s for _ in range(8) for s in SceneBatches([scene], 1, augment=True)]
        images, boxes = [x[0] for x, _ in mirrored], [targets[0]["boxes"] for _, targets in mirrored]
        flipped = next(i for i, image in enumerate(images) if torch.equal(image, scene.image.flip(-1).float() / 255))
        assert torch.equal(boxes[flipped][:, [0, 2]], SIZE - scene.boxes[:, [2, 0]])


def test_the_shipped_detector_finds_what_is_in_the_scenes(made: list[Scene]) -> None:
    pytest.importorskip("faster_coco_eval")
    model = detection.trained()
    task = Task.detection(
        model, example_input=torch.zeros(1, 3, SIZE, SIZE), val=SceneBatches(made, 48), metric="mAP50", classes=CLASSES
    )
    task.validate()
    inputs, _ = next(iter(SceneBatches(made, 48)))
    with torch.no_grad():
        score = task.score(lambda given: {"logits": model(inputs).numpy()}, "validation")
    assert score.value > 0.7
