"""Every kind of task keeps the rules of `autocompress.testing.kinds`; so does the example of docs/extend.md."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import doc_blocks
from helpers.detectors import detection_task, keypoints_task
from helpers.many import two_heads
from helpers.small import small_task
from helpers.taggers import tagging
from torch import nn

from autocompress.tasks.kind import names
from autocompress.tasks.kinds.ctc import ctc_loss
from autocompress.tasks.kinds.embedding import contrastive_loss
from autocompress.tasks.metric import Metric
from autocompress.tasks.task import Task
from autocompress.testing.kinds import CHECKS, Case


def regression() -> Task:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 2))
    inputs = torch.randn(96, 12)
    with torch.no_grad():
        data = [(inputs, model(inputs) + 0.01 * torch.randn(96, 2))]
    error = Metric("minus error", lambda outputs, targets: -abs(outputs - targets).mean(1))
    return Task.regression(model, metric=error, example_input=inputs[:1], train=data, val=data)


def segmentation() -> Task:
    """Bright pixels, of which some are left out."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)).eval()
    images = torch.rand(48, 1, 12, 12)
    labels = (images[:, 0] * 3).long().clamp(max=2)
    labels[:, :2] = 255
    trained(model, lambda: nn.functional.cross_entropy(model(images), labels, ignore_index=255))
    return Task.segmentation(model, example_input=images[:1], train=[(images, labels)], val=[(images, labels)])


def detection() -> Task:
    pytest.importorskip("faster_coco_eval")
    return detection_task()


def image_to_image() -> Task:
    """Smooth images at twice their size, as ESPCN does it."""
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2))
    large = nn.functional.interpolate(torch.rand(48, 1, 4, 4), size=16, mode="bicubic").clamp(0, 1)
    small = nn.functional.avg_pool2d(large, 2)
    trained(model, lambda: nn.functional.l1_loss(model(small), large))
    return Task.image_to_image(model, example_input=small[:1], train=[(small, large)], val=[(small, large)])


def embedding() -> Task:
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 8))
    labels = torch.arange(96) % 12
    inputs = torch.randn(12, 12)[labels] + 0.4 * torch.randn(96, 12)
    trained(model, lambda: contrastive_loss(model(inputs), labels))
    return Task.embedding(model, example_input=inputs[:1], train=[(inputs, labels)], val=[(inputs, labels)])


class Recogniser(nn.Module):
    """A convolution over time."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(6, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, classes, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.transpose(1, 2)).transpose(1, 2)


def ctc() -> Task:
    """Each label is its own feature for two frames, with a pause after it."""
    pytest.importorskip("rapidfuzz")
    model, labels = Recogniser(6), torch.randint(1, 6, (64, 4))
    labels[::3, 3] = -100
    features = nn.functional.one_hot(labels.clamp(min=0), 6).float().repeat_interleave(3, 1)
    features[:, 2::3] = 0
    features += 0.1 * torch.randn_like(features)
    trained(model, lambda: ctc_loss(model(features), labels, 0), steps=150)
    return Task.ctc(model, example_input=features[:1], train=[(features, labels)], val=[(features, labels)])


def trained(model: nn.Module, loss: Callable[[], torch.Tensor], steps: int = 80) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    model.eval()


def documented(folder: Path) -> Task:
    """The example of the documentation, after a few steps of training."""
    (text,) = (b.text for b in doc_blocks.blocks(doc_blocks.ROOT / "docs" / "extend.md") if "MultiLabel(" in b.text)
    path = folder / "multi_label.py"
    path.write_text(f'"""The example of docs/extend.md."""\n\n{text}')
    spec = importlib.util.spec_from_file_location("multi_label", path)
    assert spec and spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["multi_label"] = module
    spec.loader.exec_module(module)
    model, loss = module.task.model, nn.functional.binary_cross_entropy_with_logits
    trained(model, lambda: loss(model(module.images), module.labels), steps=200)
    return module.task  # type: ignore[no-any-return]


TASKS: dict[str, Callable[[Path], Task]] = {
    "detection": lambda folder: detection(),
    "keypoints": lambda folder: keypoints_task(),
    "classification": lambda folder: small_task("resnet", n=96),
    "ctc": lambda folder: ctc(),
    "embedding": lambda folder: embedding(),
    "generic": lambda folder: two_heads(),
    "image_to_image": lambda folder: image_to_image(),
    "regression": lambda folder: regression(),
    "segmentation": lambda folder: segmentation(),
    "token_classification": lambda folder: tagging(),
    "documented": documented,
}


def test_every_kind_has_a_task_here() -> None:
    assert set(names()) | {"documented"} == set(TASKS)


@pytest.fixture(scope="module", params=TASKS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(0)
    return Case(TASKS[request.param](tmp_path_factory.mktemp("kind")))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conforms(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
