"""An image for an image, as in super-resolution and denoising: outputs and targets (N, channels, height, width)."""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.kinds.regression import Regression, squared_errors
from autocompress.tasks.metric import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from autocompress.tasks.task import Task

_MOST_DB = 100.0
"""Of equal images."""
_LEAST = 6
"""Pixels that its window of 11 x 11 needs, with the borders mirrored."""


def psnr(data_range: float = 1.0) -> Metric:
    """Peak signal-to-noise ratio of each image in dB, 10 log10(data_range^2 / mean squared error), at most 100.

    Args:
        data_range: the largest value that there can be minus the smallest: 1, or 255, or 2 for values from -1 to 1.
    """
    return Metric("PSNR", partial(_psnr, data_range=data_range), unit="number", counts=False)


def ssim(data_range: float = 1.0) -> Metric:
    """Structural similarity of each image (Wang et al., IEEE TIP 13 (2004) 600-612), by torchmetrics.

    Args:
        data_range: as of `psnr`.
    """
    return Metric("SSIM", partial(_ssim, data_range=data_range), unit="number", counts=False)


def _psnr(outputs: NDArray[Any], targets: NDArray[Any], data_range: float) -> NDArray[Any]:
    least = data_range**2 * 10 ** (-_MOST_DB / 10)
    decibel: NDArray[Any] = 10 * np.log10(data_range**2 / np.maximum(squared_errors(outputs, targets), least))
    return decibel


def _ssim(outputs: NDArray[Any], targets: NDArray[Any], data_range: float) -> NDArray[Any]:
    import torch

    try:
        from torchmetrics.functional.image import structural_similarity_index_measure as similarity
    except ImportError:
        raise TaskError("SSIM needs torchmetrics; install it with: pip install 'autocompress[metrics]'") from None
    if min(outputs.shape[2:]) < _LEAST:
        raise TaskError(f"SSIM needs images of {_LEAST} x {_LEAST} or larger, got {outputs.shape[2:]}; use PSNR")
    ours, theirs = (torch.from_numpy(values.astype(np.float32)) for values in (outputs, targets))
    found = similarity(ours, theirs, data_range=data_range, reduction="none")
    assert isinstance(found, torch.Tensor)
    return found.numpy().reshape(-1)


class ImageToImage(Regression):
    """Mean absolute error of the pixels; PSNR of each image, for values from 0 to 1.

    "SSIM" by name; other ranges of values are `psnr(255)` and `ssim(255)` of this module.
    """

    title = "image to image"
    metric = psnr()
    metrics = (ssim(),)
    class_axis = 1
    _judge: Metric | None = None
    """That of the task."""
    differs = "gives images that are less than 40 dB (PSNR) from those of the network it was made from"

    def of(self, task: Task) -> ImageToImage:
        """With the metric of the task, whose range the values must fit."""
        made = copy(self)
        made._judge = self.named_metric(task.metric) if isinstance(task.metric, str) else task.metric or self.metric
        return made

    def loss(self) -> Any:
        """Mean absolute error, which blurs less than the squared one."""
        from torch.nn.functional import l1_loss

        return l1_loss

    def check(self, task: Task) -> None:
        """Refuse what is no image."""
        super().check(task)
        if len(task.output_shape) != 4:
            raise TaskError(
                f"an image to image network returns (N, channels, height, width), got {task.output_shape}; for other "
                "numbers use Task.regression(...)"
            )

    def doubts(self, outputs: Any, targets: Any) -> tuple[str, ...]:
        """Refuse values that do not fit the range of the metric; else as of a regression.

        Of many samples, since one batch may be all dark.
        """
        if self._judge is not None and self._is_own(self._judge):
            data_range = self._judge.per_sample.keywords["data_range"]  # type: ignore[union-attr]
            images = targets if isinstance(targets, list) else [targets]
            low, high = min(float(image.min()) for image in images), max(float(image.max()) for image in images)
            if high - low > 1.01 * data_range or (0 < high <= 1 and data_range >= 50):
                raise TaskError(
                    f"validation data: the {self._judge.name} is that of values over a range of {data_range:g}, and "
                    f"the targets go from {low:.4g} to {high:.4g}; scale them, or give "
                    f"metric={self._judge.name.lower()}(data_range) of {__name__}"
                )
        return super().doubts(outputs, targets)

    def _is_own(self, metric: Metric) -> bool:
        """Whatever its range."""
        return getattr(metric.per_sample, "func", None) in (_psnr, _ssim)

    def distillation(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Mean absolute difference of the pixels."""
        from torch.nn.functional import l1_loss

        return l1_loss(student, teacher)

    def agreement(self, outputs: NDArray[Any], reference: NDArray[Any]) -> float:
        """1 minus the root of the mean squared difference, relative to the range of values: 0.99 is a PSNR of 40 dB."""
        spread = max(float(np.ptp(reference)), 1e-12)
        return max(0.0, 1.0 - float(np.sqrt(squared_errors(outputs, reference).mean())) / spread)
