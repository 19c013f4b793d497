"""Points of an image: coordinates (N, K, 2), x and y in pixels of the input, or a heat map of each (N, K, h, w).

Targets are coordinates (N, K, 2), NaN where a point is not to be seen, or (N, K, 3) with a visibility that is then 0,
as COCO gives it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.kind import TaskKind
from autocompress.tasks.kinds.detection import size_of
from autocompress.tasks.metric import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from autocompress.tasks.task import Task

_AGREES = 0.01
"""Of the larger side of the image: points that lie nearer are the same."""
_SPREAD = 2.0
"""Standard deviation of the heat around a point, in cells of the map (as in Xiao et al., arXiv 1804.06208)."""
_KNOWN = 0.25
"""Share of right points above which a trained network and its targets speak of the same."""


@dataclass(frozen=True)
class Keypoints(TaskKind):
    """Share of the points that lie within a twentieth of the image (PCK), or their error in pixels.

    Args:
        within: how near a point must be, relative to the larger side of the input (Yang and Ramanan, TPAMI 35 (2013)).
        size: height and width of the input; those of the task's example.
    """

    within: float = 0.05
    size: tuple[int, int] = (0, 0)

    title = "keypoints"
    lone_output = True
    class_axis = 1
    differs = "moves more than 1 % of the points by more than a hundredth of the image"

    def __post_init__(self) -> None:
        """Make the metrics, which read outputs at this size."""
        correct = Metric(f"PCK@{self.within:g}", self.correct, unit="share", counts=False)
        error = Metric("RMSE in pixels", self.error, unit="number", lower_is_better=True)
        object.__setattr__(self, "metric", correct)
        object.__setattr__(self, "metrics", (error,))

    def of(self, task: Task) -> Keypoints:
        """With the size of the task's images."""
        return self if self.size != (0, 0) else replace(self, size=size_of(task.inputs))

    def points(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Coordinates (N, K, 2): of a heat map those of its hottest cell."""
        if outputs.ndim == 3:
            return outputs
        height, width = outputs.shape[2:]
        cell = outputs.reshape(*outputs.shape[:2], -1).argmax(-1)
        scale = np.array([self.size[1] / width, self.size[0] / height])
        found: NDArray[Any] = (np.stack([cell % width, cell // width], -1) + 0.5) * scale
        return found

    def correct(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        """Share of the visible points of each image that lie near enough; 1 where there are none."""
        distances = np.linalg.norm(self.points(outputs) - _visible(targets), axis=-1)
        near = (distances <= self.within * max(self.size)).sum(1)
        n = np.isfinite(distances).sum(1)
        share: NDArray[Any] = np.where(n, near / np.maximum(n, 1), 1.0)
        return share

    def error(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        """Root of the mean square of the distances of each image, in pixels; 0 where no point is visible."""
        squares = np.square(self.points(outputs) - _visible(targets)).sum(-1)
        n = np.isfinite(squares).sum(1)
        root: NDArray[Any] = np.sqrt(np.nansum(squares, 1) / np.maximum(n, 1))
        return root

    def loss(self) -> Any:
        """Of coordinates the smooth L1 distance, of heat maps the squared distance to a spot at each visible point."""
        return self.distance

    def distance(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss."""
        import torch
        from torch.nn import functional

        points = torch.as_tensor(_visible(targets.detach().cpu().numpy())).to(outputs)
        seen = points.isfinite().all(-1)
        points = points.nan_to_num()
        if outputs.dim() == 3:
            return functional.smooth_l1_loss(outputs[seen], points[seen], reduction="sum") / seen.sum().clamp(min=1)
        height, width = outputs.shape[2:]
        x, y = (
            (torch.arange(n, device=outputs.device) + 0.5) * s / n
            for n, s in ((width, self.size[1]), (height, self.size[0]))
        )
        across = ((x - points[..., :1]) * width / self.size[1])[..., None, :]
        down = ((y - points[..., 1:]) * height / self.size[0])[..., None]
        spots = torch.exp(-(across.square() + down.square()) / (2 * _SPREAD**2))
        return (functional.mse_loss(outputs, spots, reduction="none").mean((2, 3)) * seen).sum() / seen.sum().clamp(
            min=1
        )

    def check(self, task: Task) -> None:
        """Refuse what is neither coordinates nor heat maps."""
        names, shape = task.outputs.names, task.output_shape
        if len(names) > 1 or len(shape) not in (3, 4) or (len(shape) == 3 and shape[2] != 2):
            got = ", ".join(names) if len(names) > 1 else str(shape)
            raise TaskError(
                f"a keypoints network returns coordinates (N, points, 2) or heat maps (N, points, H, W), got {got}; "
                "wrap it in a module that does, or use kind='generic' with a metric and a loss of your own"
            )
        if not min(self.size):
            raise TaskError("keypoints are points of an image: the network must take one, (N, C, H, W)")

    def check_targets(self, targets: Any, task: Task, split: str) -> None:
        """Refuse what is not a point in pixels of the input for each of the network's."""
        n, (height, width) = task.n_outputs, self.size
        if not hasattr(targets, "dim") or targets.dim() != 3 or targets.shape[1:] not in ((n, 2), (n, 3)):
            got = tuple(targets.shape) if hasattr(targets, "shape") else type(targets).__name__
            raise TaskError(
                f"{split} data: targets must be coordinates (N, {n}, 2), NaN where a point is not to be seen, or "
                f"(N, {n}, 3) with its visibility, got {got}"
            )
        points = _visible(targets.numpy())
        if not np.isfinite(points).any():
            return
        rule, largest = f"points must be x, y in pixels of the input ({height} x {width})", float(np.nanmax(points))
        if largest <= 1.0 and min(self.size) > 8:
            raise TaskError(f"{split} data: {rule}, got values up to {largest:.3g}: multiply by its size")
        if largest > 1.5 * max(self.size):
            raise TaskError(f"{split} data: {rule}, got values up to {largest:.0f}: resize them as their images")

    def doubts(self, outputs: Any, targets: Any) -> tuple[str, ...]:
        """Refuse targets that the trained network knows with x and y exchanged only."""
        mine, exchanged = (
            float(self.correct(outputs, t).mean())
            for t in (targets, targets[..., [1, 0, *range(2, targets.shape[-1])]])
        )
        if mine < _KNOWN < exchanged and exchanged > 3 * mine:
            raise TaskError(
                f"validation data: the network finds {mine:.1%} of the points as they are given, and {exchanged:.1%} "
                "with x and y exchanged; convert the targets"
            )
        return ()

    def agreement(self, outputs: NDArray[Any], reference: NDArray[Any]) -> float:
        """Share of the points that lie within a hundredth of the image of one another."""
        distances = np.linalg.norm(self.points(outputs) - self.points(reference), axis=-1)
        return float((distances <= _AGREES * max(self.size)).mean())


def _visible(targets: NDArray[Any]) -> NDArray[Any]:
    """Coordinates (N, K, 2) with NaN where a point is not to be seen."""
    if targets.shape[-1] == 2:
        return targets
    return np.where(targets[..., 2:] > 0, targets[..., :2], np.nan)
