from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.detectors import detection_task, squares
from helpers.onnx_files import images, keras_style, torch_style, two_inputs, written
from helpers.small import device

from autocompress import Metric, Recipe, task_from_onnx
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.given.network import GraphNetwork
from autocompress.given.start import CLOSENESS, SAME_CLASS
from autocompress.graphs.export import export
from autocompress.tasks.metric import ACCURACY

PTQ = [
    {"weight_bits": 8},
    {"weight_bits": 4},
    {"weight_bits": 8, "activation_bits": 32},
    {"weight_bits": 16, "activation_bits": 32},
]


def recipe(**settings: Any) -> Recipe:
    return Recipe.parse({"stages": [{"technique": "ptq", **settings}]})


def tokens(n: int = 40) -> dict[str, Any]:
    return {"ids": np.random.default_rng(0).integers(0, 50, (n, 9)), "mask": np.ones((n, 9), np.float32)}


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (torch_style(13), images(40, 3, 12, 12)),
        (torch_style(11, batch=1), images(40, 3, 12, 12)),
        (keras_style(), images(40, 12, 12, 3)),
        (two_inputs(), tokens()),
    ],
    ids=["torch", "batch of one", "keras", "two inputs"],
)
def test_files_of_all_makers_become_files_in_all_formats(model: Any, data: Any, tmp_path: Path) -> None:
    data = data if isinstance(data, dict) else {"x": data}
    task = task_from_onnx(written(model, tmp_path), data)
    task.validate()
    evaluator = Evaluator(task, device())

    base = evaluator.evaluate(Recipe())[0].evaluation
    assert base.validation is not None and base.validation.value == pytest.approx(1, abs=1e-6)
    for settings in PTQ:
        made = evaluator.evaluate(recipe(**settings))[0].evaluation
        assert made.validation is not None and made.validation.value > 0.5
        assert made.size_bytes is not None and base.size_bytes is not None
        assert any(layer.weight_bits == settings["weight_bits"] for layer in made.layers)
        assert evaluator.forecast(recipe(**settings)).size_bytes == pytest.approx(made.size_bytes, rel=0.02)


def test_without_labels_files_are_judged_by_agreement_and_nothing_calls_it_accuracy(tmp_path: Path) -> None:
    task = task_from_onnx(written(torch_style(), tmp_path), {"x": images(40, 3, 12, 12)})

    assert task.metric is SAME_CLASS and task.kind == "classification"
    assert "judged by agreement with the original, since the data have no labels" in task.notes[0]
    assert "accuracy" not in task.figure


def test_with_labels_a_classification_is_judged_by_accuracy(tmp_path: Path) -> None:
    data = {"image": images(40, 3, 12, 12), "labels": np.arange(40) % 5}

    assert task_from_onnx(written(torch_style(), tmp_path), data).metric is ACCURACY


def test_a_network_that_is_hardly_ever_right_is_doubted_and_labels_can_be_ignored(tmp_path: Path) -> None:
    path, inputs = written(torch_style(), tmp_path), images(40, 3, 12, 12)
    answers = np.concatenate([t.numpy() for _, t in task_from_onnx(path, {"x": inputs}, split_seed=0).val])
    wrong = {"x": inputs, "labels": np.full(40, next(c for c in range(5) if c not in answers))}

    assert any("right on" in note for note in task_from_onnx(path, wrong).notes)
    ignoring = task_from_onnx(path, wrong, ignore_labels=True)
    assert ignoring.metric is SAME_CLASS and not any("right on" in note for note in ignoring.notes)


def test_outputs_that_are_no_classes_are_judged_by_their_distance(tmp_path: Path) -> None:
    path = written(two_inputs(), tmp_path)
    task = task_from_onnx(path, tokens())

    assert task.metric is CLOSENESS and task.outputs.names == ("tokens", "pooled")
    nearly = {"a": np.array([[3.0, 4.0], [1.0, 0.0]]), "b": np.array([[1.0], [1.0]])}
    exact = {"a": np.array([[3.0, 4.0], [2.0, 0.0]]), "b": np.array([[1.0], [1.0]])}
    assert CLOSENESS.scores(nearly, exact).tolist() == [1.0, 0.75]
    assert CLOSENESS.score(np.ones(20), "validation").interval is None
    forced = task_from_onnx(written(torch_style(), tmp_path), {"x": images(40, 3, 12, 12)}, kind="generic")
    assert forced.metric is CLOSENESS


def test_a_metric_of_the_users_own_gets_the_outputs_by_name(tmp_path: Path) -> None:
    def score(outputs: Any, labels: Any) -> Any:
        return -np.abs(outputs["pooled"].mean(1) - labels)

    data = {**tokens(), "labels": np.zeros(40, np.float32)}
    task = task_from_onnx(written(two_inputs(), tmp_path), data, metric=Metric("error", score))
    task.validate()

    assert task.figure == "error" and task.kind == "generic"


def test_a_detector_is_judged_by_the_boxes_of_the_original(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    torch.manual_seed(0)
    model, inputs = detection_task().model, squares(64, 3)[0]
    path = tmp_path / "detector.onnx"
    path.write_bytes(export(model, inputs[:1], ["rows"]).proto.SerializeToString())
    task = task_from_onnx(path, {"images": inputs.numpy()}, decode="yolo")
    task.validate()

    evaluator = Evaluator(task, device())
    base, int8 = (evaluator.evaluate(r)[0].evaluation.validation for r in (Recipe(), recipe(weight_bits=8)))
    assert task.figure == "mAP against the boxes of the original" and task.traits.name == "detection"
    assert base is not None and int8 is not None and base.value > max(0.99, int8.value) and int8.value > 0.5


def test_the_parts_of_the_data_are_disjoint_and_repeat(tmp_path: Path) -> None:
    path, data = written(torch_style(), tmp_path), {"x": images(40, 3, 12, 12)}
    task, again, other = (task_from_onnx(path, data, split_seed=seed) for seed in (0, 0, 1))

    def rows(task: Any) -> list[float]:
        return [
            float(x)
            for source in (task.calibration, task.val, task.test)
            for b, _ in source
            for x in b["image"][:, 0, 0, 0]
        ]

    assert len(set(rows(task))) == 40
    assert [sum(len(b["image"]) for b, _ in part) for part in (task.calibration, task.val, task.test)] == [10, 15, 15]
    assert rows(task) == rows(again) != rows(other)
    assert task.identity == again.identity and task.identity != other.identity


def test_another_file_or_other_data_is_another_study(tmp_path: Path) -> None:
    data = {"x": images(40, 3, 12, 12)}
    model = torch_style()
    one = task_from_onnx(written(model, tmp_path), data)
    model.producer_name = "somebody else"
    other = task_from_onnx(written(model, tmp_path), data)
    third = task_from_onnx(written(model, tmp_path), {"x": images(40, 3, 12, 12, seed=1)})

    assert one.model_sha256 != other.model_sha256 == third.model_sha256
    assert one.data_sha256 == other.data_sha256 != third.data_sha256


def test_what_changes_layers_is_refused_with_the_reason(tmp_path: Path) -> None:
    evaluator = Evaluator(task_from_onnx(written(torch_style(), tmp_path), {"x": images(40, 3, 12, 12)}), device())

    for stage in ({"technique": "prune", "ratio": 0.5}, {"technique": "distill", "epochs": 1}, {"technique": "qat"}):
        with pytest.raises(
            CandidateError, match=f"{stage['technique']} cannot be applied: the network is an ONNX file"
        ):
            evaluator.evaluate(Recipe.parse({"stages": [stage]}))


def test_the_network_runs_like_the_file(tmp_path: Path) -> None:
    task = task_from_onnx(written(keras_style(), tmp_path), {"x": images(40, 12, 12, 3)})

    assert isinstance(task.model, GraphNetwork)
    outputs = task.model(torch.from_numpy(images(3, 12, 12, 3)))
    assert outputs.shape == (3, 4) and torch.allclose(outputs.sum(1), torch.ones(3))
