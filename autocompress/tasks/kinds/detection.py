"""Boxes with a class each: targets of any number per image, judged by COCO's mean average precision.

Targets of a batch are a list with a mapping per image, `boxes` (K, 4) and `labels` (K,), as torchvision's detectors
take them, and `iscrowd` (K,) where there are crowds; or a mapping of padded tensors, `boxes` (N, K, 4), `labels` (N, K)
with -1 in rows without a box, and `iscrowd` (N, K). A box is left, top, right, bottom in pixels of the input; classes
count from 0, in the order of the network's scores.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autocompress.errors import TaskError
from autocompress.tasks.boxes import HEADS, Decoder, Found, overlap
from autocompress.tasks.kind import TaskKind, wrong_labels
from autocompress.tasks.metric import Metric
from autocompress.validation import suggestion

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from autocompress.tasks.task import Task

Decode = Callable[[Any], Any]
DETECTIONS = "detections"
_NAMES = (*HEADS, DETECTIONS)
_SURE = 0.25
"""Boxes with at least this score are those that people see; files agree by them."""
_SAME = 0.5
"""Two boxes with this intersection over union or more count as the same object."""
_LOST, _KNOWN = 0.05, 0.25
"""Below the first mAP50 the targets probably do not fit the network; from the second on they do."""
_RESAMPLES = 100
_PLACES = 10
"""So many places of a network learn to show the same box."""
_BOXES = 5.0
"""Weight of the boxes in losses, against that of the scores."""


def _whole(value: Any, least: int = 1) -> bool:
    return isinstance(value, Integral) and int(value) >= least


def _share(value: Any) -> bool:
    return isinstance(value, Real) and 0 <= float(value) <= 1


_SETTINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "strides": (
        "a tuple of whole numbers from 1 on, such as (8, 16, 32)",
        lambda value: isinstance(value, (tuple, list)) and len(value) > 0 and all(map(_whole, value)),
    ),
    "min_score": ("a number from 0 to 1", _share),
    "iou": ("a number from 0 to 1", _share),
    "most": ("a whole number from 1 on", _whole),
    "size": (
        "a tuple of height and width in pixels",
        lambda value: isinstance(value, (tuple, list)) and len(value) == 2 and all(_whole(side, 0) for side in value),
    ),
}
"""What settings of `Detection` may be, in words and as a check."""


@dataclass(frozen=True)
class Detection(TaskKind):
    """A detector with non-maximum suppression in the network or outside.

    Args:
        decode: how its outputs are read: the name of a head (`tasks.boxes.HEADS`, "detections" for suppressed boxes),
            or a function of outputs, arrays in the structure that the network returns, to all boxes (N, A, 4) and
            scores (N, A, C), or to a list with a mapping of boxes, scores and labels for each image.
        strides: pixels between the places of each map, for the head "yolo-maps".
        min_score: boxes with less are left out.
        iou: overlap (intersection over union) above which the box with the lower score is dropped.
        most: boxes of an image.
        size: height and width of the input; those of the task's example.
    """

    decode: str | Decode = "yolo"
    strides: tuple[int, ...] = (8, 16, 32)
    min_score: float = 0.01
    iou: float = 0.7
    most: int = 100
    size: tuple[int, int] = (0, 0)

    title = "detection"
    differs = "misses, or finds otherwise, more than 1 % of the boxes of the network it was made from"

    def __post_init__(self) -> None:
        """Check the settings and make the metrics, which read outputs with them.

        Raises:
            TaskError: there is no head of that name, or a setting is not a number in its range.
        """
        if not callable(self.decode) and self.decode not in _NAMES:
            raise TaskError(
                f"decode must be a function or one of {', '.join(_NAMES)}, got {self.decode!r}"
                f"{suggestion(str(self.decode), _NAMES)}"
            )
        for name, (allowed, fits) in _SETTINGS.items():
            if not fits(value := getattr(self, name)):
                raise TaskError(f"{name} must be {allowed}, got {value!r}")
        made = partial(Metric, records=self.matches, unit="share", resamples=_RESAMPLES)
        at_half = partial(mean_average_precision, threshold=0)
        object.__setattr__(self, "metric", made("mAP", over_split=mean_average_precision))
        object.__setattr__(self, "metrics", (made("mAP50", over_split=at_half),))

    def of(self, task: Task) -> Detection:
        """With the size of the task's images."""
        return self if self.size != (0, 0) else replace(self, size=size_of(task.inputs))

    @property
    def decoder(self) -> Decoder:
        """What reads the outputs, the same as in an exported folder."""
        head = "" if callable(self.decode) else self.decode
        return Decoder(head, self.size, self.strides, self.min_score, self.iou, self.most)

    def found(self, outputs: Any) -> list[Found]:
        """The boxes of each image, highest score first.

        Raises:
            ValueError: the outputs are not those of this head.
        """
        if not callable(self.decode):
            return self.decoder(_by_name(outputs))
        answer = self._decoded(outputs)
        if isinstance(answer, tuple):
            return self.decoder.suppressed(*answer)
        return [self.decoder.best(image) for image in answer]

    def _decoded(self, outputs: Any) -> tuple[NDArray[Any], NDArray[Any]] | list[Found]:
        """What the user's own function returns.

        Raises:
            ValueError: it is not what `decode` may return.
        """
        answer = self.decode(outputs)  # type: ignore[operator]
        if isinstance(answer, tuple) and len(answer) == 2:
            return np.asarray(answer[0]), np.asarray(answer[1])
        if isinstance(answer, list) and all(isinstance(i, Mapping) and set(Found._fields) <= set(i) for i in answer):
            return [Found(*(np.asarray(image[key]) for key in Found._fields)) for image in answer]
        parts = ", ".join(type(part).__name__ for part in answer[:3]) if isinstance(answer, (tuple, list)) else ""
        raise ValueError(
            "it must return a tuple of boxes (N, A, 4) and scores (N, A, C), or a list with a mapping of boxes, scores "
            f"and labels for each image, got a {type(answer).__name__}{' of ' * bool(parts)}{parts}"
        )

    def shown(self, outputs: Any) -> list[dict[str, NDArray[Any]]]:
        """The boxes that people see, those with a score of 0.25 or more, as targets."""
        return [
            {"boxes": image.boxes[image.scores >= _SURE], "labels": image.labels[image.scores >= _SURE]}
            for image in self.found(outputs)
        ]

    # -- what is refused

    def loss(self) -> Any:
        """Task-aligned, for heads whose boxes are not suppressed."""
        return self.task_aligned_loss

    def check(self, task: Task) -> None:
        """Refuse outputs that are not those of the head, and training without a loss."""
        if task.trainable and task.loss == self.task_aligned_loss and self.decoder.head not in HEADS:
            raise TaskError(
                f"a detection with decode={self.decode!r} and training data needs the loss of its network: give "
                "loss=..., or leave out train"
            )
        if task.evaluate is None and task.metric.records == self.matches:
            _coco()
        self.n_classes(task)

    def n_outputs(self, task: Task) -> int:
        """Number of classes; `len(task.classes)` where the outputs do not tell (suppressed boxes)."""
        return self.n_classes(task) or len(task.classes)

    def n_classes(self, task: Task) -> int | None:
        """How many classes the network has scores of; None where its outputs do not tell.

        Raises:
            TaskError: it does not return what the head says.
        """
        from autocompress.tasks.interface import arrays
        from autocompress.tasks.torch_utils import outputs_of

        outputs = arrays(task.own(outputs_of(task.model, task.inputs)))
        try:
            found = self.found(outputs)
            scores = self._candidates(outputs)
        except Exception as error:  # of the user's own decode too
            raise TaskError(
                f"decode={self.decode!r} cannot read what the network returns: {error}; decode is one of "
                f"{', '.join(_NAMES)}, or a function of the outputs"
            ) from error
        if len(found) != len(next(iter(task.inputs.values()))):
            n = len(next(iter(task.inputs.values())))
            raise TaskError(f"decode must return the boxes of each image, got those of {len(found)} for {n} images")
        return None if scores is None else int(scores[1].shape[-1])

    def check_targets(self, targets: Any, task: Task, split: str) -> None:
        """Refuse boxes that are not left, top, right, bottom in pixels of the input, and labels that are no classes."""
        try:
            truths = read_targets(targets)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise TaskError(f"{split} data: {error}") from error
        boxes = np.concatenate([truth.boxes for truth in truths])
        labels = np.concatenate([truth.labels for truth in truths])
        if wrong := _wrong_boxes(boxes, self.size) or wrong_labels(labels, task.n_outputs):
            raise TaskError(f"{split} data: {wrong}")

    def doubts(self, outputs: Any, targets: Any) -> tuple[str, ...]:
        """Refuse boxes in another format or order of classes than the network was trained with.

        Found by trying the usual ones.
        """
        if importlib.util.find_spec("faster_coco_eval") is None:  # a metric of the user's own needs none
            return ()
        found, truths = self.found(outputs), read_targets(targets)
        if not any(len(truth.labels) for truth in truths):
            raise TaskError("validation data: no image has a box; mAP needs some")
        score = _map50(found, truths)
        if score >= _KNOWN:
            return ()
        others = {way: _map50(found, [change(t) for t in truths]) for way, change in _WAYS.items()}
        others["of the classes only the order is another"] = _map50_in_another_order(found, truths)
        best = max(others, key=lambda way: others[way])
        if others[best] > max(2 * _LOST, 3 * score):
            raise TaskError(
                f"validation data: the network finds {score:.1%} (mAP50) of the boxes as they are given, and "
                f"{others[best]:.1%} if {best}; convert the targets"
            )
        if score >= _LOST:
            return ()
        return (
            f"the network finds {score:.1%} (mAP50) of the boxes of {len(found)} validation images: check decode, the "
            "scale of images and boxes, and the order of the classes",
        )

    def decoding(self) -> dict[str, Any]:
        """The decoder of a named head."""
        return self.decoder._asdict() if self.decoder.head else {}

    # -- how outputs are compared

    def distillation(self, student: Any, teacher: Any, temperature: float) -> Tensor:
        """How far boxes and scores are from the teacher's at each place, by how sure the teacher is there.

        1 - GIoU of the boxes (Rezatofighi et al., arXiv 1902.09630) and divergence of the score of each class. Without
        places, as with suppressed boxes and a decode of the user's own, the mean squared error.
        """
        if self.decoder.head not in HEADS:
            return super().distillation(student, teacher, temperature)
        return _distance(*(self.decoder.candidates(_by_name(outputs)) for outputs in (student, teacher)))

    def task_aligned_loss(self, outputs: Any, targets: Any) -> Tensor:
        """Distance to outputs that are right: the ten places that fit a box best, by score and overlap, show it.

        Feng et al., TOOD, arXiv 2108.07755, without their rule that a place lies in its box: the boxes of a trained
        network are near already.
        """
        import torch

        from autocompress.tasks.interface import each

        boxes, scores = self.decoder.candidates(_by_name(outputs))
        shown, wanted = boxes.detach().clone(), torch.zeros_like(scores)
        for i, truth in enumerate(read_targets(each(targets, lambda tensor: tensor.cpu()))):
            if not truth.crowd.all():
                corners = torch.from_numpy(truth.boxes[~truth.crowd]).to(boxes)
                labels = torch.from_numpy(truth.labels[~truth.crowd]).to(boxes.device)
                place, which, quality = _assigned(shown[i], scores[i].detach(), corners, labels)
                shown[i, place], wanted[i, place, labels[which]] = corners[which], quality
        return _distance((boxes, scores), (shown, wanted))

    def agreement(self, outputs: Any, reference: Any) -> float:
        """Share of the boxes, those with a score of 0.25 or more in either, that both show with the same class."""
        pairs = [*zip(self.found(outputs), self.found(reference), strict=True)]
        seen = [_seen_in(*pair) for one, other in pairs for pair in ((one, other), (other, one))]
        hits = np.concatenate(seen)
        return float(hits.mean()) if len(hits) else 1.0

    def damage(self, outputs: Any, reference: Any) -> float:
        """Lost overlap of the boxes at each place, by how sure the reference is there, and relative error of scores."""
        ours, theirs = self._candidates(outputs), self._candidates(reference)
        if ours is None or theirs is None:
            return super().damage(outputs, reference)
        sure = theirs[1].max(-1)
        boxes = (sure * (1 - overlap(ours[0], theirs[0]))).sum() / max(1e-6, float(sure.sum()))
        scores = np.square(ours[1] - theirs[1]).sum() / max(1e-6, float(np.square(theirs[1]).sum()))
        return float(boxes + scores)

    def _candidates(self, outputs: Any) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Boxes and scores before suppression; None where there are none."""
        if self.decode == DETECTIONS:
            return None
        found = self._decoded(outputs) if callable(self.decode) else self.decoder.candidates(_by_name(outputs))
        return found if isinstance(found, tuple) else None

    def matches(self, outputs: Any, targets: Any) -> list[dict[int, Any]]:
        """Of each image and class what mAP needs of it: which boxes are right, at each overlap from 0.5 to 0.95."""
        return _matches(self.found(outputs), read_targets(targets))

    @staticmethod
    def collate(samples: Sequence[tuple[Any, Any]]) -> tuple[Tensor, list[Any]]:
        """For a DataLoader over (image, {"boxes": ..., "labels": ...}): images stacked, targets as a list."""
        import torch

        return torch.stack([image for image, _ in samples]), [target for _, target in samples]


def size_of(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the first input (N, C, H, W) or (N, H, W, C); zeros where there is none."""
    shape = next((tuple(map(int, values.shape[1:])) for values in inputs.values() if values.ndim == 4), (0, 0, 0))
    height, width = shape[:2] if shape[2] in (1, 3) and shape[0] > 4 else shape[1:]
    return height, width


# -- targets


class Truth(NamedTuple):
    """The boxes of one image."""

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    """Boxes around many: what is found in them is neither right nor wrong."""


def read_targets(targets: Any) -> list[Truth]:
    """The boxes of each image of a batch, whichever way the data give them.

    Raises:
        KeyError, TypeError, ValueError: they are not as this module says.
    """
    wanted = (
        "targets must be a list with a mapping per image, boxes (K, 4) and labels (K,), or a mapping of padded "
        "tensors, boxes (N, K, 4) and labels (N, K) with -1 where there is none"
    )
    if isinstance(targets, Mapping) and {"boxes", "labels"} <= set(targets):
        boxes, labels = np.asarray(targets["boxes"]), np.asarray(targets["labels"])
        if boxes.ndim != 3 or boxes.shape[2] != 4 or labels.shape != boxes.shape[:2]:
            raise ValueError(f"{wanted}; got boxes {boxes.shape} and labels {labels.shape}")
        crowd = np.asarray(targets.get("iscrowd", np.zeros(labels.shape)))
        if crowd.shape != labels.shape:
            raise ValueError(f"iscrowd must have the shape of labels {labels.shape}, got {crowd.shape}")
        targets = [
            {"boxes": b[c >= 0], "labels": c[c >= 0], "iscrowd": k[c >= 0]}
            for b, c, k in zip(boxes, labels, crowd, strict=True)
        ]
    if not isinstance(targets, list) or not all(
        isinstance(t, Mapping) and {"boxes", "labels"} <= set(t) for t in targets
    ):
        got = targets[0] if isinstance(targets, list) and targets else targets
        keys = f" with {', '.join(map(str, got))}" if isinstance(got, Mapping) else ""
        raise ValueError(f"{wanted}; got {'a list of ' * (got is not targets)}{type(got).__name__}{keys}")
    return [_of_image(target) for target in targets]


def _of_image(target: Mapping[str, Any]) -> Truth:
    boxes, labels = (np.asarray(target[key]) for key in ("boxes", "labels"))
    crowd = np.asarray(target.get("iscrowd", np.zeros(len(labels))))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1] or crowd.shape != labels.shape:
        raise ValueError(
            f"boxes of an image must be (K, 4) and labels (K,), also for an image without any: boxes (0, 4); got boxes "
            f"{boxes.shape} and labels {labels.shape}"
        )
    if labels.dtype.kind not in "iu" and len(labels):
        raise ValueError(f"labels must be classes, integers, got {labels.dtype}")
    return Truth(boxes.astype(np.float64), labels.astype(np.int64), crowd.astype(bool))


def _wrong_boxes(boxes: NDArray[np.float64], size: tuple[int, int]) -> str:
    """What is wrong with boxes (K, 4) for an input of this size, or nothing."""
    rule = "boxes must be left, top, right, bottom in pixels of the input"
    if not len(boxes):
        return ""
    if not np.isfinite(boxes).all():
        return f"{rule}, got NaN or infinity"
    height, width = size
    if min(size) > 8 and boxes.max() <= 1.0:
        return (
            f"{rule} ({height} x {width}), got values from {boxes.min():.3g} to {boxes.max():.3g}: multiply by its size"
        )
    if flat := int((boxes[:, 2:] <= boxes[:, :2]).any(1).sum()):
        return (
            f"{rule}; in {flat} of {len(boxes)} right is not above left, or bottom not above top: are they x, y, w, h?"
        )
    most = np.array([width, height] * 2) if min(size) else np.full(4, math.inf)
    if outside := int(((boxes < -0.5 * most) | (boxes > 1.5 * most)).any(1).sum()):
        return (
            f"{rule} ({height} x {width}); {outside} of {len(boxes)} lie far outside, up to {boxes.max():.0f}: resize "
            "and shift them as their images"
        )
    return ""


def _with_corners(truth: Truth, top_left: NDArray[Any], bottom_right: NDArray[Any]) -> Truth:
    return truth._replace(boxes=np.concatenate([top_left, bottom_right], 1))


_WAYS: dict[str, Callable[[Truth], Truth]] = {
    "they are left, top, width, height": lambda t: _with_corners(t, t.boxes[:, :2], t.boxes[:, :2] + t.boxes[:, 2:]),
    "they are centre x, centre y, width, height": lambda t: _with_corners(
        t, t.boxes[:, :2] - t.boxes[:, 2:] / 2, t.boxes[:, :2] + t.boxes[:, 2:] / 2
    ),
    "they are top, left, bottom, right": lambda t: _with_corners(t, t.boxes[:, 1::-1], t.boxes[:, :1:-1]),
    "labels are lowered by 1": lambda t: t._replace(labels=t.labels - 1),
    "labels are raised by 1": lambda t: t._replace(labels=t.labels + 1),
}
"""Other ways in which people write boxes."""


# -- mean average precision, computed by faster-coco-eval


def _coco() -> Any:
    """The library.

    Raises:
        TaskError: it is not installed.
    """
    try:
        import faster_coco_eval
    except ImportError:
        raise TaskError("mAP needs the package faster-coco-eval: pip install 'autocompress[detection]'") from None
    return faster_coco_eval


def _evaluation(truth: Any = None, found: Any = None) -> Any:
    """COCO's protocol over boxes of all sizes, 100 of each image."""
    evaluation = _coco().COCOeval_faster(truth, found, "bbox", separate_eval=True)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [100]
    return evaluation


def _matches(found: Sequence[Found], truths: Sequence[Truth]) -> list[dict[int, Any]]:
    labels = [one.labels for one in found] + [one.labels for one in truths]
    classes = np.unique(np.concatenate(labels).astype(np.int64)).tolist()
    if not classes:
        return [{} for _ in truths]
    evaluation = _evaluation(
        _dataset([{"bbox": t.boxes, "category_id": t.labels, "iscrowd": t.crowd} for t in truths], classes),
        _dataset([{"bbox": f.boxes, "category_id": f.labels, "score": f.scores} for f in found], classes),
    )
    evaluation.evaluate()
    kept, n = evaluation._evalImgs_cpp, len(truths)  # by class, then by image
    return [{c: kept[k * n + i] for k, c in enumerate(classes)} for i in range(n)]


def _dataset(images: Sequence[Mapping[str, NDArray[Any]]], classes: Sequence[int]) -> Any:
    """Boxes in the library's own structure: left, top, width, height."""
    annotations: list[dict[str, Any]] = []
    for i, image in enumerate(images):
        for row in zip(*(values.tolist() for values in image.values()), strict=True):
            left, top, right, bottom = row[0]
            box = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            annotations.append({**dict(zip(image, row, strict=True)), **box, "id": len(annotations) + 1, "image_id": i})
    return _coco().COCO(
        {
            "images": [{"id": i} for i in range(len(images))],
            "annotations": annotations,
            "categories": [{"id": c} for c in classes],
        }
    )


def mean_average_precision(matches: Sequence[Mapping[int, Any]], threshold: int | None = None) -> float:
    """COCO's mAP of the `matches` of some images: the mean over classes and over overlaps from 0.5 to 0.95.

    Args:
        matches: of each image (`Detection.matches`).
        threshold: index of one overlap, 0 for 0.5.
    """
    classes = sorted({label for image in matches for label in image})
    if not classes:
        return math.nan
    evaluation = _evaluation()
    evaluation.params.catIds, evaluation.params.imgIds = classes, list(range(len(matches)))
    nothing = type(next(match for image in matches for match in image.values()))()
    evaluation._paramsEval = evaluation.params
    evaluation._evalImgs_cpp = [image.get(label, nothing) for label in classes for image in matches]
    evaluation.accumulate()
    precision = evaluation.eval["precision"]  # (overlaps, recalls, classes, 1, 1); -1 for classes without boxes
    precision = precision if threshold is None else precision[threshold]
    return float(precision[precision > -1].mean()) if (precision > -1).any() else math.nan


def _map50(found: Sequence[Found], truths: Sequence[Truth]) -> float:
    return mean_average_precision(_matches(found, truths), threshold=0)


def _map50_in_another_order(found: Sequence[Found], truths: Sequence[Truth]) -> float:
    """mAP50 of every other image if the classes have the order that fits the remaining images best; 0 without any."""
    if not any(len(truth.labels) for truth in truths[1::2]):
        return 0.0
    classes = np.unique(np.concatenate([*(each.labels for each in found), *(each.labels for each in truths)]))
    order = _best_order(found[::2], truths[::2], classes)
    judged = [t._replace(labels=order[np.searchsorted(classes, t.labels)]) for t in truths[1::2]]
    return _map50(found[1::2], judged)


def _best_order(found: Sequence[Found], truths: Sequence[Truth], classes: NDArray[Any]) -> NDArray[Any]:
    """The network's class for each of the targets' (C,), one for one: that of most boxes at the same place.

    Classes that are rarely found keep their places.
    """
    from scipy.optimize import linear_sum_assignment

    both = 0.5 * np.eye(len(classes))
    for image, truth in zip(found, truths, strict=True):
        if len(image.labels):
            sure = image.scores * (overlap(truth.boxes[:, None], image.boxes[None]) >= _SAME)
            seen = sure.any(1)
            pairs = truth.labels[seen], image.labels[sure[seen].argmax(1)]
            np.add.at(both, tuple(np.searchsorted(classes, labels) for labels in pairs), 1)
    order: NDArray[Any] = classes[linear_sum_assignment(both, maximize=True)[1]]
    return order


# -- boxes at the same place


def _seen_in(one: Found, other: Found) -> NDArray[np.bool_]:
    """For each box of one that people see, whether the other has it, even if it is half as sure."""
    sure, near = one.scores >= _SURE, other.scores >= _SURE / 2
    same = one.labels[sure][:, None] == other.labels[near]
    overlaps = overlap(one.boxes[sure][:, None], other.boxes[near][None])
    hit: NDArray[np.bool_] = ((overlaps >= _SAME) & same).any(1)
    return hit


def _generalized_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union, minus the share of the box around both that is in neither: (..., 4) to -1 to 1."""
    import torch

    shared = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    around = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (one, other)]
    shared, around = shared.prod(-1), around.prod(-1).clamp(min=1e-9)
    union = (areas[0] + areas[1] - shared).clamp(min=1e-9)
    return shared / union - (around - union) / around


def _distance(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Of boxes and scores from those at the same places, over the sum of the teacher's scores."""
    sure = teacher[1].amax(-1)
    boxes = (sure * (1 - _generalized_overlap(student[0], teacher[0]))).sum()
    total: Tensor = (_BOXES * boxes + _divergence(student[1], teacher[1]).sum()) / sure.sum().clamp(min=1)
    return total


def _assigned(boxes: Tensor, scores: Tensor, truth: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places (P,) that are to show a box, which box (P,), and with which score: how well they fit, from 0 to 1."""
    overlaps = _generalized_overlap(truth[:, None], boxes[None]).clamp(min=0)
    fit = scores[:, labels].T.sqrt() * overlaps**3
    fit = fit * (fit >= fit.topk(min(_PLACES, len(boxes)), 1).values[:, -1:])
    quality = fit / fit.amax(1, keepdim=True).clamp(min=1e-9) * overlaps.amax(1, keepdim=True)
    which = (overlaps * (fit > 0)).argmax(0)
    place = (fit.amax(0) > 0).nonzero()[:, 0]
    return place, which[place], quality[which[place], place]


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher, student) of probabilities of classes that do not exclude one another."""
    q, p = (scores.clamp(1e-6, 1 - 1e-6) for scores in (student, teacher))
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def _by_name(outputs: Any) -> dict[str, Any]:
    """What a network returned by name, else by position."""
    from autocompress.tasks.interface import leaves

    if isinstance(outputs, Mapping) and all(hasattr(value, "ndim") for value in outputs.values()):
        return {str(name): value for name, value in outputs.items()}
    return {f"output{i}": value for i, value in enumerate(leaves(outputs))}
