from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from helpers.detectors import SIDE, detection_task, squares
from torch import Tensor, nn
from torch.utils.data import DataLoader

from autocompress.errors import TaskError
from autocompress.tasks.boxes import Decoder, suppress
from autocompress.tasks.interface import arrays, tensors
from autocompress.tasks.kinds.detection import Detection, mean_average_precision, read_targets
from autocompress.tasks.task import Predict, Task
from autocompress.tasks.torch_utils import outputs_of

CORNERS = np.array([[[4, 6, 20, 16], [50, 30, 70, 60], [2, 2, 8, 8]]] * 2, np.float32)
SCORES = np.array([[[0.9, 0.0], [0.02, 0.8], [0.0, 0.001]]] * 2, np.float32)
CENTRES = np.concatenate([(CORNERS[..., :2] + CORNERS[..., 2:]) / 2, CORNERS[..., 2:] - CORNERS[..., :2]], -1)
FINISHED = (CORNERS, SCORES.max(-1), SCORES.argmax(-1))
SIZES = np.float32([96, 64, 96, 64])


def padded(rows: np.ndarray) -> np.ndarray:
    """More places than values, as in any network."""
    return np.pad(rows, ((0, 0), (0, 9), (0, 0)))


def own_boxes(outputs: Any) -> Any:
    return outputs


def own_list(outputs: Any) -> Any:
    return [
        {"boxes": b[s > 0.01], "scores": s[s > 0.01], "labels": c[s > 0.01]} for b, s, c in zip(*outputs, strict=True)
    ]


HEADS: dict[str, tuple[Any, Any]] = {
    "yolo": ("yolo", padded(np.concatenate([CENTRES, SCORES], -1)).swapaxes(1, 2)),
    "yolo, places first": ("yolo", padded(np.concatenate([CENTRES, SCORES], -1))),
    "objectness": (
        "yolo-objectness",
        padded(np.concatenate([CENTRES, np.full((2, 3, 1), 0.5, np.float32), 2 * SCORES], -1)),
    ),
    "boxes and scores": ("boxes-scores", (SCORES, CORNERS)),
    "four classes": ("boxes-scores", (CORNERS, np.pad(SCORES, ((0, 0), (0, 0), (0, 2))))),
    "by name": ("boxes-scores", {"scores": SCORES, "boxes": CORNERS}),
    "detr": (
        "detr",
        {
            "logits": np.log(np.concatenate([SCORES, 1 - SCORES.sum(-1, keepdims=True)], -1) + 1e-9),
            "pred_boxes": CENTRES / SIZES,
        },
    ),
    "detr, three classes and no names": (
        "detr",
        (
            np.log(np.concatenate([SCORES, 0 * SCORES[..., :1], 1 - SCORES.sum(-1, keepdims=True)], -1) + 1e-9),
            CENTRES / SIZES,
        ),
    ),
    "detections": ("detections", FINISHED),
    "detections by name": (
        "detections",
        dict(zip(("boxes", "labels", "scores"), (FINISHED[i] for i in (0, 2, 1)), strict=True)),
    ),
    "detections in one": ("detections", np.concatenate([CORNERS, *(v[..., None] for v in FINISHED[1:])], -1)),
    "own boxes": (own_boxes, (CORNERS, SCORES)),
    "own list": (own_list, FINISHED),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_same_boxes_come_out_of_every_head(name: str) -> None:
    decode, outputs = HEADS[name]
    for image in Detection(decode, size=(64, 96)).found(outputs):
        best = image.scores > 0.1
        assert image.boxes[best] == pytest.approx(CORNERS[0, :2], abs=1e-3)
        assert image.scores[best] == pytest.approx([0.9, 0.8]) and image.labels[best].tolist() == [0, 1]
        assert len(image.scores) in (2, 3) and image.scores.min() > 0.01


def test_maps_of_distances_are_read_at_their_strides() -> None:
    """Each side of the place at row 1, column 2 of the map of stride 16 lies 1, 2, 3 or 2.5 strides away."""
    maps = [np.full((1, 64 + 3, side, side), -9.0, np.float32) for side in (8, 4)]
    for side, bins in enumerate(([1], [2], [3], [2, 3])):
        maps[1][0, [16 * side + b for b in bins], 1, 2] = 30
    maps[1][0, 64 + 1, 1, 2] = 5
    (image,) = Detection("yolo-maps", strides=(8, 16)).found(maps)
    assert image.boxes == pytest.approx(np.array([[(2.5 - 1) * 16, (1.5 - 2) * 16, (2.5 + 3) * 16, (1.5 + 2.5) * 16]]))
    assert image.labels.tolist() == [1] and image.scores[0] == pytest.approx(1 / (1 + np.exp(-5)))


@pytest.mark.parametrize("head", ["yolo", "yolo-objectness", "detr", "yolo-maps"])
def test_tensors_are_read_as_arrays_are(head: str) -> None:
    shapes = {"detr": [(2, 9, 4), (2, 9, 3)], "yolo-maps": [(2, 66, 4, 4), (2, 66, 2, 2)]}.get(head, [(2, 9, 30)])
    outputs = {f"output{i}": torch.rand(shape) for i, shape in enumerate(shapes)}
    decoder = Decoder(head, size=(64, 96), strides=(8, 16))
    for ours, theirs in zip(decoder.candidates(outputs), decoder.candidates(arrays(outputs)), strict=True):
        assert ours.numpy() == pytest.approx(theirs, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_in_half_precision_have_their_boxes_where_the_others_have_them(dtype: torch.dtype) -> None:
    """As of a training with autocast and of files whose outputs are halves."""
    maps, decoder = torch.zeros(1, 65, 96, 160).to(dtype), Decoder("yolo-maps", strides=(8,))
    halves = [maps, maps.numpy()] if dtype == torch.float16 else [maps]
    (expected, _), *others = (decoder.candidates({"a": values}) for values in (maps.float(), *halves))
    for boxes, _ in others:
        assert torch.equal(torch.as_tensor(boxes), expected)


def test_suppression_keeps_the_better_of_two_boxes_of_a_class() -> None:
    boxes = np.float32([[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40], [0, 0, 10, 10]])
    scores = np.float32([[0.6, 0], [0.9, 0], [0.5, 0], [0, 0.3]])
    found = suppress(boxes, scores, min_score=0.01, iou=0.5, most=10)
    assert found.boxes.tolist() == boxes[[1, 2, 3]].tolist() and found.labels.tolist() == [0, 0, 1]
    assert len(suppress(boxes, scores, min_score=0.01, iou=0.9, most=10).labels) == 4
    assert len(suppress(boxes, scores, min_score=0.01, iou=0.9, most=2).labels) == 2


def test_a_box_without_end_leaves_the_others_as_they_are() -> None:
    boxes = np.float32([[0, 0, 10, 10], [0, 0, np.inf, 5], [np.nan, 0, 5, 5], [20, 20, 30, 30]])
    found = suppress(boxes, np.float32([[0.9], [0.8], [0.7], [0.6]]), min_score=0.01, iou=0.5, most=10)
    assert found.boxes.tolist() == boxes[[0, 3]].tolist()


def test_as_many_places_as_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"more places than values of each, got output0 \(1, 84, 84\), .* as decode"):
        Detection().found(np.zeros((1, 84, 84), np.float32))


def test_boxes_of_an_own_decode_are_sorted_and_cut_as_all_others() -> None:
    image = {"boxes": CORNERS[0], "scores": np.float32([0.3, 0.9, 0.2]), "labels": np.array([0, 1, 2])}
    (found,) = Detection(lambda outputs: [image], min_score=0.25, most=5).found(None)
    assert found.labels.tolist() == [1, 0] and found.boxes.tolist() == CORNERS[0, [1, 0]].tolist()
    (found,) = Detection(lambda outputs: [image], most=1).found(None)
    assert found.labels.tolist() == [1]


def test_crowds_are_neither_right_nor_wrong_nor_learned() -> None:
    boxes, labels = torch.tensor(CORNERS), torch.tensor([[0, 1, -1]] * 2)
    padded = {"boxes": boxes, "labels": labels, "iscrowd": torch.tensor([[0, 1, 0]] * 2)}
    pairs, crowd = [*zip(boxes, labels, strict=True)], torch.tensor([0, 1])
    listed = [{"boxes": b[:2], "labels": c[:2], "iscrowd": crowd} for b, c in pairs]
    without = [{"boxes": b[:1], "labels": c[:1]} for b, c in pairs]
    assert [truth.crowd.tolist() for truth in read_targets(padded)] == [[False, True]] * 2
    loss, outputs = Detection("boxes-scores").task_aligned_loss, (boxes, torch.tensor(SCORES))
    assert loss(outputs, padded) == loss(outputs, listed) == loss(outputs, without)
    with pytest.raises(ValueError, match=r"iscrowd must have the shape of labels \(2, 3\), got \(2,\)"):
        read_targets({**padded, "iscrowd": torch.zeros(2)})


def scattered() -> tuple[list[Any], list[dict[str, Any]]]:
    """Boxes that are right, roughly right and wrong, and crowds: outputs of "own list" and targets."""
    rng, outputs, targets = np.random.default_rng(0), [], []
    for _ in range(60):
        n = rng.integers(0, 4)
        corner = rng.uniform(0, 60, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 30, (n, 2))], 1)
        labels, crowd = rng.integers(4, size=n), rng.random(n) < 0.1
        targets.append({"boxes": boxes, "labels": labels, "iscrowd": crowd})
        wrong = rng.uniform(0, 50, (5, 4)).cumsum(1)
        found = np.concatenate([boxes + 2 * rng.normal(size=boxes.shape), wrong])
        scores = np.concatenate([rng.uniform(0.3, 1, n), rng.uniform(0, 0.6, 5)])
        said = np.concatenate([labels, rng.integers(4, size=5)])
        outputs.append({"boxes": found, "scores": scores, "labels": said})
    return outputs, targets


def test_map_is_that_of_pycocotools() -> None:
    """Figures of pycocotools 2.0.11 on the same boxes; the same however the images are batched."""
    pytest.importorskip("faster_coco_eval")
    outputs, targets = scattered()
    kind = Detection(lambda some: some)
    records = [*kind.matches(outputs[:25], targets[:25]), *kind.matches(outputs[25:], targets[25:])]
    assert mean_average_precision(records) == pytest.approx(0.31971101463337126, abs=1e-9)
    assert mean_average_precision(records, threshold=0) == pytest.approx(0.7417843225580713, abs=1e-9)
    assert np.isnan(mean_average_precision([{}, {}]))


def of_classes(n: int, said: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """Boxes in 60 images that are found where they are, four in each, and the classes that a network says of them."""
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 40, (60, 4, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (60, 4, 2))], -1)
    labels, scores = rng.integers(0, n, (60, 4)), rng.uniform(0.3, 0.9, (60, 4))
    keys = ("boxes", "scores", "labels")
    found = [dict(zip(keys, each, strict=True)) for each in zip(boxes, scores, said(labels, rng), strict=True)]
    return found, [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)]


@pytest.mark.parametrize("right", [0.0, 0.2, 0.3])
def test_a_network_that_hardly_tells_the_classes_is_no_other_order_of_these(right: float) -> None:
    pytest.importorskip("faster_coco_eval")
    found, targets = of_classes(
        20, lambda labels, rng: np.where(rng.random(labels.shape) < right, labels, rng.integers(0, 20, labels.shape))
    )
    told = Detection(lambda some: some).doubts(found, targets)
    assert all("check decode" in note for note in told)


@pytest.mark.parametrize("n", [3, 20])
def test_another_order_of_many_classes_is_recognised(n: int) -> None:
    pytest.importorskip("faster_coco_eval")
    found, targets = of_classes(n, lambda labels, rng: np.roll(np.arange(n), 7)[labels])
    with pytest.raises(TaskError, match="if of the classes only the order is another; convert"):
        Detection(lambda some: some).doubts(found, targets)


@pytest.fixture(scope="module")
def trained() -> Task:
    pytest.importorskip("faster_coco_eval")
    torch.manual_seed(0)
    return detection_task()


def predicting(task: Task) -> Predict:
    return lambda inputs: dict(zip(task.outputs.names, arrays(outputs_of(task.model, tensors(inputs))), strict=True))


def with_targets(task: Task, targets: Any, **settings: Any) -> Task:
    return Task.detection(
        task.model, example_input=task.inputs["input"], val=[(squares(48, 1)[0], targets)], **settings
    )


def test_padded_targets_are_the_same_targets(trained: Task) -> None:
    images, targets = squares(48, 1)
    boxes, labels = torch.zeros(48, 3, 4), torch.full((48, 3), -1)
    for i, target in enumerate(targets):
        n = len(target["labels"])
        boxes[i, :n], labels[i, :n] = target["boxes"], target["labels"]
    padded = with_targets(trained, {"boxes": boxes, "labels": labels})
    padded.validate()
    score = trained.score(predicting(trained), "validation")
    assert padded.score(predicting(padded), "validation") == score and score.low < score.value < score.high
    assert padded.loss(trained.model(images), {"boxes": boxes, "labels": labels}) == trained.loss(
        trained.model(images), targets
    )
    assert with_targets(trained, targets, metric="mAP50").score(predicting(trained), "validation").value > score.value


def changed(change: Any) -> list[dict[str, Tensor]]:
    return [change(dict(target)) for target in squares(48, 1)[1]]


def boxes_as(change: Any) -> list[dict[str, Tensor]]:
    return changed(lambda target: {**target, "boxes": change(target["boxes"])})


def labels_as(change: Any) -> list[dict[str, Tensor]]:
    return changed(lambda target: {**target, "labels": change(target["labels"])})


WRONG = {
    "x, y, w, h": (
        boxes_as(lambda b: torch.cat([b[:, :2], b[:, 2:] - b[:, :2]], 1)),
        "right is not above left, or bottom not above top: are they x, y, w, h?",
    ),
    "relative": (
        boxes_as(lambda b: b / SIDE),
        r"in pixels of the input \(32 x 32\), got values from 0 to .*: multiply",
    ),
    "of the large image": (boxes_as(lambda b: b * 20), "lie far outside, up to .*: resize and shift them"),
    "NaN": (boxes_as(lambda b: b * np.nan), "got NaN or infinity"),
    "labels from 1": (labels_as(lambda c: c + 1), "from 0 to 1 .*, got 2: subtract 1 from labels that start at 1"),
    "float labels": (labels_as(lambda c: c.float()), "labels must be classes, integers, got float32"),
    "no shape": (
        boxes_as(lambda b: b if len(b) else torch.tensor([])),
        r"also for an image without any: boxes \(0, 4\)",
    ),
    "one tensor": (torch.zeros(48, 5, 6), r"targets must be a list with a mapping per image, .*; got Tensor"),
    "other names": (
        changed(lambda t: {"bbox": t["boxes"], "labels": t["labels"]}),
        "got a list of dict with bbox, labels",
    ),
    "no boxes": (changed(lambda t: {k: v[:0] for k, v in t.items()}), "no image has a box"),
    "rows first": (boxes_as(lambda b: b[:, [1, 0, 3, 2]]), r"if they are top, left, bottom, right; convert"),
    "other classes": (labels_as(lambda c: 1 - c), "if of the classes only the order is another; convert"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_people_write_by_mistake_is_recognised(trained: Task, name: str) -> None:
    targets, message = WRONG[name]
    with pytest.raises(TaskError, match=f"^validation data: .*{message}"):
        with_targets(trained, targets).validate()


def test_a_network_that_finds_nothing_is_told(trained: Task) -> None:
    nothing = boxes_as(lambda b: (b + torch.tensor([17.0, 13.0] * 2)) % 32 + torch.tensor([0.0, 0, 40, 40]))
    made = with_targets(trained, nothing, size=(96, 96))
    made.validate()
    assert any("check decode, the scale of images and boxes" in note for note in made.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decode": "yolov8"}, "decode must be a function or one of yolo, .*, got 'yolov8'"),
        ({"decode": "detr"}, r"decode='detr' cannot read what the network returns: .* got output0 \(1, 6, 64\)"),
        ({"decode": lambda outputs: 1 / 0}, "cannot read what the network returns: division by zero"),
        (
            {"decode": lambda outputs: [outputs, outputs]},
            "it must return a tuple of boxes .*, got a list of ndarray, nd",
        ),
        ({"decode": lambda outputs: outputs}, "it must return a tuple of boxes .*, got a ndarray"),
        ({"strides": 8}, r"strides must be a tuple of whole numbers from 1 on, such as \(8, 16, 32\), got 8"),
        ({"min_score": "a"}, "min_score must be a number from 0 to 1, got 'a'"),
        ({"iou": 50}, "iou must be a number from 0 to 1, got 50"),
        ({"most": 0}, "most must be a whole number from 1 on, got 0"),
        ({"size": 640}, "size must be a tuple of height and width in pixels, got 640"),
        ({"decode": lambda outputs: []}, "must return the boxes of each image, got those of 0 for 1 images"),
        ({"decode": own_list, "train": [squares(4, 0)]}, "needs the loss of its network: give loss"),
    ],
)
def test_what_cannot_be_read_is_refused(trained: Task, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        with_targets(trained, squares(48, 1)[1], **settings).validate()


def test_a_missing_library_is_one_sentence(trained: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(
        TaskError, match=r"^mAP needs the package faster-coco-eval: pip install 'autocompress\[detection\]'"
    ):
        with_targets(trained, squares(48, 1)[1]).validate()


def test_images_and_boxes_are_collated_and_the_usual_way_that_fails_is_told(trained: Task) -> None:
    pairs = [*zip(*squares(48, 1), strict=True)]
    loader: Any = DataLoader(pairs, 16, collate_fn=Detection.collate)  # type: ignore[arg-type]
    made = Task.detection(trained.model, example_input=trained.inputs["input"], val=loader)
    assert made.score(predicting(made), "validation") == trained.score(predicting(trained), "validation")
    with pytest.raises(TaskError, match="collate_fn pads the samples to one shape, or leaves their targets a list"):
        Task.detection(trained.model, example_input=trained.inputs["input"], val=DataLoader(pairs, 16)).validate()  # type: ignore[arg-type]


def test_files_agree_by_the_boxes_that_people_see() -> None:
    kind = Detection("boxes-scores")
    one = (CORNERS, SCORES)
    fainter = (CORNERS + 1, SCORES * 0.7)
    assert kind.agreement(one, one) == 1.0 and kind.agreement(fainter, one) == 1.0
    assert kind.agreement((CORNERS[:, [1, 0, 2]], SCORES), one) == 0.0
    assert kind.agreement((CORNERS, SCORES[..., ::-1]), one) == 0.0
    assert kind.agreement((CORNERS, SCORES * np.float32([1, 0])), one) == pytest.approx(2 / 3)
    assert kind.agreement((CORNERS, SCORES * 0), (CORNERS, SCORES * 0)) == 1.0


def test_a_student_learns_the_boxes_where_the_teacher_is_sure() -> None:
    kind, teacher = Detection("boxes-scores"), tuple(map(torch.tensor, (CORNERS, SCORES)))
    moved = [CORNERS.copy(), CORNERS.copy()]
    moved[0][:, 0] += 3
    moved[1][:, 2] += 3
    sure, unsure = (float(kind.distillation((torch.tensor(m), teacher[1]), teacher, 1.0)) for m in moved)
    assert sure > 100 * unsure > 0
    fainter = kind.distillation((teacher[0], teacher[1] / 2), teacher, 1.0)
    assert fainter > 0 and kind.distillation(teacher, teacher, 1.0) == pytest.approx(0.0, abs=1e-5)


def test_a_network_with_suppression_inside_is_judged(trained: Task) -> None:
    class Best(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            rows = self.inner(images).transpose(1, 2)
            scores, labels = rows[..., 4:].max(-1)
            scores, place = scores.topk(20)
            centre, half = rows[..., :2], rows[..., 2:4] / 2
            boxes = torch.cat([centre - half, centre + half], -1)
            boxes = boxes.gather(1, place[..., None].expand(-1, -1, 4))
            return {"boxes": boxes, "scores": scores, "labels": labels.gather(1, place)}

    made = Task.detection(
        Best(trained.model), decode="detections", example_input=trained.inputs["input"], val=[squares(48, 1)]
    )
    made.validate()
    assert made.score(predicting(made), "validation").value > 0.1
