from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from helpers.running import load, run
from helpers.small import device
from torch import Tensor, nn
from torch.nn import functional

from autocompress.errors import TaskError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.kinds.image_to_image import ImageToImage, psnr, ssim
from autocompress.tasks.task import Task

SMALL, LARGE = torch.rand(8, 1, 6, 6), torch.rand(8, 1, 12, 12)


def task(targets: Tensor = LARGE, model: nn.Module | None = None, **settings: Any) -> Task:
    model = model or nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.PixelShuffle(2))
    return Task.image_to_image(model, example_input=SMALL[:1], val=[(SMALL, targets)], **settings)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_psnr_is_that_of_each_image(data_range: float) -> None:
    truth = data_range * np.ones((3, 1, 4, 4), np.float32)
    outputs = truth * np.array([1.0, 0.9, 0.5], np.float32)[:, None, None, None]
    assert psnr(data_range).scores(outputs, truth).tolist() == pytest.approx([100, 20, 20 * np.log10(2)], abs=1e-4)


def test_ssim_is_that_of_torchmetrics() -> None:
    pytest.importorskip("torchmetrics")
    made = task(metric="SSIM")
    made.validate()
    truth = LARGE.numpy()
    scores = ssim().scores(np.concatenate([truth, 1 - truth]), np.concatenate([truth, truth]))
    assert scores.shape == (16,) and scores[:8].tolist() == pytest.approx([1.0] * 8) and (scores[8:] < 0).all()


def test_ssim_without_torchmetrics_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(
        TaskError, match=r"SSIM needs torchmetrics; install it with: pip install 'autocompress\[metrics\]'"
    ):
        task(metric="SSIM").validate()


def test_40_db_from_the_network_is_where_files_count_as_different() -> None:
    reference = np.random.default_rng(0).random((2, 1, 8, 8))
    reference[0, 0, 0, :2] = 0, 1
    assert ImageToImage().agreement(reference + 0.01, reference) == pytest.approx(0.99, abs=1e-6)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: task(255 * LARGE),
            r"PSNR is that of values over a range of 1, and the targets go from .* to 25.*psnr\(",
        ),
        (lambda: task(metric=psnr(255)), "over a range of 255, and the targets go from"),
        (lambda: task((255 * LARGE).to(torch.uint8)), "targets must be floats, got torch.uint8"),
        (lambda: task(SMALL), r"must have the shape of the outputs \(1, 12, 12\), got \(1, 6, 6\)"),
        (lambda: task(model=nn.Flatten()), r"returns \(N, channels, height, width\), got \(1, 36\)"),
    ],
)
def test_what_is_no_image_for_an_image_is_refused(made: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        made().validate()


@pytest.mark.parametrize("dark_first", [True, False])
def test_a_batch_of_dark_images_says_nothing_of_the_range(dark_first: bool) -> None:
    batches = [(SMALL, 0 * LARGE), (SMALL, 255 * LARGE)][:: 1 if dark_first else -1]
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.PixelShuffle(2))
    Task.image_to_image(model, example_input=SMALL[:1], val=batches, metric=psnr(255)).validate()


def test_the_least_size_of_ssim_is_told() -> None:
    pytest.importorskip("torchmetrics")
    with pytest.raises(TaskError, match=r"SSIM needs images of 6 x 6 or larger, got \(4, 4\)"):
        ssim().scores(np.ones((2, 1, 4, 4), np.float32), np.ones((2, 1, 4, 4), np.float32))


def resizing() -> Task:
    """Batches of three heights and widths."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.PixelShuffle(2))
    images = [torch.rand(8, 1, height, width) for height, width in ((6, 6), (6, 9), (12, 8))]
    data = [(some, functional.interpolate(some, scale_factor=2)) for some in images]
    return Task.image_to_image(model.eval(), train=data, val=data, example_input=SMALL[:1], free_axes=(2, 3))


def test_free_axes_take_images_of_any_height_and_width_to_the_file() -> None:
    task = resizing()
    task.validate()
    evaluator = Evaluator(task, device())
    for stages in ([], [{"technique": "ptq"}]):
        (outcome,) = evaluator.evaluate(Recipe.parse({"stages": stages}))
        model = load(outcome.file)
        assert {spec.shape[2:] for spec in model.inputs.values()} == {("size2", "size3")}
        for inputs, targets in task.split("validation"):
            (answer,) = run(model, inputs)
            assert answer.shape == tuple(targets.shape)
        assert evaluator.score(outcome.file, "validation") == outcome.evaluation.validation


def test_values_of_another_range_have_their_own_psnr() -> None:
    for targets, data_range in ((255 * LARGE, 255), (2 * LARGE - 1, 2)):
        task(targets, metric=psnr(data_range)).validate()
