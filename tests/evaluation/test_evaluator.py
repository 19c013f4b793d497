from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.running import load, run
from helpers.small import device, small_task
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.errors import CandidateError, TaskError
from autocompress.evaluation.evaluator import Evaluator, Outcome, sweep_optimism
from autocompress.evaluation.thresholds import NEVER, sweep
from autocompress.graphs.export import INPUT
from autocompress.recipes.recipe import Recipe
from autocompress.studies.front import dominates
from autocompress.tasks.task import Task

Array = NDArray[Any]


def recipe(*stages: dict[str, Any]) -> Recipe:
    return Recipe.parse({"stages": list(stages)})


TRAIN = {"technique": "distill", "epochs": 1}
PRUNE = {"technique": "prune", "ratio": 0.25, "round_to": 2}
EXIT = {"technique": "early_exit", "first": 0.3, "hidden": 8}


class Loss:
    """Cross-entropy that counts how often it is asked: the cost of training."""

    def __init__(self) -> None:
        self._asked: deque[None] = deque()  # a number would be a setting, and make it another loss

    @property
    def calls(self) -> int:
        return len(self._asked)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._asked.append(None)
        return nn.functional.cross_entropy(outputs, targets)


@pytest.fixture(scope="module")
def mlp() -> Evaluator:
    return Evaluator(small_task("mlp"), device())


@pytest.fixture(scope="module")
def with_exits() -> tuple[Task, list[Outcome]]:
    task = small_task("resnet")
    return task, Evaluator(task, device()).evaluate(recipe(EXIT, {**TRAIN, "epochs": 2}, {"technique": "ptq"}))


def accuracy_of(file: bytes, task: Task) -> tuple[float, list[int]]:
    """Run the file anew, sample by sample; also the exits that were taken."""
    session = load(file)
    right, exits = [], []
    for inputs, targets in task.split("validation"):
        for x, y in zip(inputs[INPUT], targets, strict=True):
            found = run(session, {INPUT: x[None]})
            right.append(found[0].argmax(-1)[0] == y)
            exits += [int(found[1])] if len(found) > 1 else []
    return float(np.mean(right)), exits


# ---------------------------------------------------------------------------------------------------- sweep


def brute_force(confidence: Array, scores: Array, path_ms: list[float]) -> dict[tuple[float, float], float]:
    """Score and expected latency of every way to set the thresholds, those on the front only."""
    values = [sorted({*column.tolist(), NEVER}) for column in confidence.T]
    points = set()
    for thresholds in itertools.product(*values):
        score, latency = 0.0, 0.0
        for sample, own in zip(confidence, scores, strict=True):
            taken = next((i for i, t in enumerate(thresholds) if sample[i] > t), len(thresholds))
            score += own[taken] / len(scores)
            latency += path_ms[taken] / len(scores)
        points.add((round(score, 9), round(latency, 9)))
    return {p: 0.0 for p in points if not any(dominates((*q, 0), (*p, 0)) for q in points)}


def figures(
    thresholds: tuple[float, ...], confidence: Array, scores: Array, path_ms: list[float]
) -> tuple[float, float]:
    fires = np.column_stack([confidence > np.array(thresholds), np.ones(len(scores), bool)]).argmax(1)
    score = float(scores[np.arange(len(scores)), fires].mean())
    return round(score, 9), round(float(np.array(path_ms)[fires].mean()), 9)


@pytest.mark.parametrize("n_exits", [1, 2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sweep_finds_points_of_the_true_front(n_exits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = np.array([0.3, 0.5, 0.7, 0.9])  # few, so that all ways to set the thresholds can be tried
    confidence = rng.choice(levels, size=(200, n_exits))
    scores = np.column_stack(
        [*(rng.random(200) < 0.4 + 0.5 * confidence[:, i] for i in range(n_exits)), rng.random(200) < 0.9]
    ).astype(float)
    path_ms = [1.0, 2.0, 4.0][-n_exits - 1 :]
    front = brute_force(confidence, scores, path_ms)
    got = [figures(t, confidence, scores, path_ms) for t in sweep(confidence, scores, path_ms)]
    assert set(got) <= set(front)
    assert got[0] == max(front) and got[-1] == min(front)
    assert got == sorted(got, reverse=True) and len(set(got)) == len(got)
    assert len(got) == min(5, len(front))


def test_the_sweep_keeps_the_whole_network_when_exits_are_never_right() -> None:
    confidence = np.linspace(0.1, 0.99, 50)[:, None]
    scores = np.column_stack([np.zeros(50), np.ones(50)])
    assert sweep(confidence, scores, [1.0, 2.0])[0] == (NEVER,)


def test_thresholds_fitted_to_noise_are_told_to_flatter() -> None:
    rng = np.random.default_rng(0)
    confidence, noise = rng.random((400, 2)), (rng.random((400, 3)) < 0.8).astype(float)
    assert 0.005 < sweep_optimism(confidence, noise, [1.0, 2.0, 4.0]) < 0.05
    assert sweep_optimism(confidence, np.ones((400, 3)), [1.0, 2.0, 4.0]) == 0


# --------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("stages", [[], [{"technique": "ptq"}], [PRUNE, TRAIN, {"technique": "ptq", "weight_bits": 4}]])
def test_accuracy_is_that_of_the_file(mlp: Evaluator, stages: list[dict[str, Any]]) -> None:
    [outcome] = mlp.evaluate(recipe(*stages))
    e = outcome.evaluation
    assert e.validation is not None and e.validation.value == pytest.approx(accuracy_of(outcome.file, mlp.task)[0])
    assert e.validation.n_samples == 192 and e.validation.split == "validation"
    assert e.size_bytes == len(outcome.file)
    assert e.sha256 == hashlib.sha256(outcome.file).hexdigest()
    assert mlp.score(outcome.file, "validation") == e.validation


def test_with_exits_too(with_exits: tuple[Task, list[Outcome]]) -> None:
    task, outcomes = with_exits
    assert len(outcomes) >= 2
    for outcome in (outcomes[0], outcomes[-1]):
        e = outcome.evaluation
        accuracy, exits = accuracy_of(outcome.file, task)
        assert e.validation is not None and e.validation.value == pytest.approx(accuracy)
        assert [x.rate for x in e.exits] == pytest.approx([exits.count(i) / len(exits) for i in range(len(e.exits))])
        assert e.predicted_latency_ms == pytest.approx(sum(x.rate * x.latency_ms for x in e.exits))
        assert e.worst_case_latency_ms == e.exits[-1].latency_ms


def test_points_of_a_sweep_are_recipes_of_their_own(with_exits: tuple[Task, list[Outcome]]) -> None:
    task, outcomes = with_exits
    values = [o.evaluation.objectives()[:2] for o in outcomes]
    assert values == sorted(values, reverse=True)
    again = Evaluator(task, device()).evaluate(outcomes[1].evaluation.recipe)
    assert [o.evaluation.validation for o in again] == [outcomes[1].evaluation.validation]
    assert again[0].evaluation.sha256 == outcomes[1].evaluation.sha256


def test_the_file_carries_its_recipe(mlp: Evaluator) -> None:
    [outcome] = mlp.evaluate(recipe({"technique": "ptq", "weight_bits": 4}))
    metadata = {p.key: p.value for p in onnx.load_from_string(outcome.file).metadata_props}
    assert Recipe.parse(json.loads(metadata["autocompress.recipe"])) == outcome.evaluation.recipe


def test_baselines_are_the_plain_formats(mlp: Evaluator) -> None:
    found = {name: mlp.evaluate(r)[0].evaluation for name, r in mlp.baselines().items()}
    assert list(found) == ["fp32", "fp16", "int8"]
    sizes = [e.size_bytes for e in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert found["fp32"].parity == 1.0


def test_evaluating_twice_gives_the_same_bytes(mlp: Evaluator) -> None:
    r = recipe(PRUNE, TRAIN, {"technique": "ptq"})
    assert mlp.evaluate(r)[0].file == mlp.evaluate(r)[0].file


# -------------------------------------------------------------------------------------------------- forecasts


def test_a_forecast_is_close_to_what_comes_out(mlp: Evaluator) -> None:
    r = recipe(PRUNE, TRAIN, {"technique": "ptq"})
    forecast, e = mlp.forecast(r), mlp.evaluate(r)[0].evaluation
    assert forecast.worst_case_ms == pytest.approx(e.predicted_latency_ms)
    assert forecast.size_bytes == pytest.approx(e.size_bytes, rel=0.02)


def test_a_forecast_costs_no_training() -> None:
    loss = Loss()
    evaluator = Evaluator(small_task(loss=loss), device())
    evaluator.forecast(recipe(PRUNE, {**TRAIN, "epochs": 50}, {"technique": "qat", "epochs": 9}))
    assert loss.calls == 0


def test_equal_keys_stand_for_equal_files(mlp: Evaluator) -> None:
    keys = {ratio: mlp.forecast(recipe({**PRUNE, "ratio": ratio}, TRAIN)).key for ratio in (0.25, 0.2501, 0.5)}
    assert keys[0.25] == keys[0.2501] != keys[0.5]
    base = mlp.forecast(recipe(PRUNE, TRAIN)).key
    for other in ([PRUNE], [PRUNE, {**TRAIN, "weight": 0.0}], [PRUNE, TRAIN, {"technique": "ptq"}]):
        assert mlp.forecast(recipe(*other)).key != base


def test_exits_at_the_same_place_have_one_key() -> None:
    evaluator = Evaluator(small_task("resnet"), device())
    nets = [{**EXIT, "first": 0.3}, {**EXIT, "first": 0.301}, {**EXIT, "first": 0.9}, {**EXIT, "hidden": 16}]
    keys = [evaluator.forecast(recipe(net, TRAIN)).key for net in nets]
    assert keys[0] == keys[1] and len({keys[0], *keys[2:]}) == 3


# ------------------------------------------------------------------------------------------------------ cache


def test_number_formats_of_a_trained_network_cost_no_training(tmp_path: Path) -> None:
    loss = Loss()
    evaluator = Evaluator(small_task(loss=loss), device(), cache=tmp_path)
    stages = [PRUNE, {**TRAIN, "weight": 0.5}]
    first = evaluator.evaluate(recipe(*stages, {"technique": "ptq"}))[0].evaluation
    trained = loss.calls
    assert trained > 0
    second = evaluator.evaluate(recipe(*stages, {"technique": "ptq", "weight_bits": 4}))[0].evaluation
    assert loss.calls == trained
    assert second.size_bytes != first.size_bytes
    again = Evaluator(small_task(loss=loss), device(), cache=tmp_path).evaluate(first.recipe)[0].evaluation
    assert loss.calls == trained and again.sha256 == first.sha256


def test_another_teacher_does_not_find_the_weights_of_the_first(tmp_path: Path) -> None:
    loss, files, calls = Loss(), set(), []
    for teacher in (None, small_task(n=64).model):
        evaluator = Evaluator(small_task(loss=loss, teacher=teacher), device(), cache=tmp_path)
        files.add(evaluator.evaluate(recipe(PRUNE, {**TRAIN, "weight": 0.5}))[0].evaluation.sha256)
        calls.append(loss.calls)
    assert 0 < calls[0] < calls[1]
    assert len(files) == len(list(tmp_path.glob("*.pt"))) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_cache_entry_is_ignored(tmp_path: Path, damage: str) -> None:
    loss = Loss()
    evaluator = Evaluator(small_task(loss=loss), device(), cache=tmp_path)
    r = recipe(PRUNE, {**TRAIN, "weight": 0.5})
    first = evaluator.evaluate(r)[0]
    [entry] = tmp_path.glob("*.pt")
    data = bytearray(entry.read_bytes())
    trained, data[-100] = loss.calls, data[-100] ^ 1
    entry.write_bytes({"truncated": data[: len(data) // 2], "flipped": data, "empty": b""}[damage])
    assert evaluator.evaluate(r)[0].file == first.file
    assert loss.calls == 2 * trained
    assert evaluator.evaluate(r)[0].file == first.file and loss.calls == 2 * trained  # and it was kept anew


def test_the_cache_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.evaluation.evaluator._CACHE_BYTES", 1)
    evaluator = Evaluator(small_task(), device(), cache=tmp_path)
    for ratio in (0.25, 0.5):
        evaluator.evaluate(recipe({**PRUNE, "ratio": ratio}, TRAIN))
    assert len(list(tmp_path.glob("*.pt"))) == 1


# -------------------------------------------------------------------------------------------- what can go wrong


def test_a_layer_that_does_not_exist_is_named(mlp: Evaluator) -> None:
    with pytest.raises(CandidateError, match="no layer or stage 'nowhere'"):
        mlp.evaluate(recipe({"technique": "ptq", "weight_bits": {"nowhere": 4}}))


def test_a_network_may_have_a_module_called_backbone() -> None:
    task = small_task()
    named = nn.Sequential(OrderedDict(backbone=task.model))
    evaluator = Evaluator(dataclasses.replace(task, model=named), device())
    [first, *others] = evaluator.analysis.layers
    assert first.startswith("backbone.")
    e = evaluator.evaluate(recipe({"technique": "ptq", "weight_bits": {first: 4}}))[0].evaluation
    assert {layer.name: layer.weight_bits for layer in e.layers} == {first: 4, **dict.fromkeys(others, 8)}
    assert e.size_bytes < evaluator.evaluate(recipe({"technique": "ptq"}))[0].evaluation.size_bytes  # type: ignore[operator]
    assert all(layer.latency_ms > 0 for layer in e.layers)


def test_training_without_data_is_refused() -> None:
    with pytest.raises(TaskError, match="training needs training data"):
        Evaluator(small_task(train=None), device()).evaluate(recipe(TRAIN))


def test_without_training_data_number_formats_still_work() -> None:
    e = Evaluator(small_task(train=None), device()).evaluate(recipe({"technique": "ptq"}))[0].evaluation
    assert e.validation is not None and e.validation.value > 0.5
