from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.small import NUMERICS, SPACE, device, small_task, space

from autocompress.controller import Budget, search, untouched
from autocompress.controller.untouched import UntouchedNetwork
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.sensitivity import LayerDamage
from autocompress.recipes.recipe import Recipe
from autocompress.studies.reporter import Silent
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks.metric import Score
from autocompress.tasks.task import Task

FLOAT_ONLY = "jetson-nano-gpu-vulkan"


@pytest.fixture(scope="module")
def task() -> Task:
    return small_task("resnet")


def evaluation(accuracy: float | None, ms: float = 1.0) -> Evaluation:
    score = None if accuracy is None else Score(value=accuracy, low=0, high=1, n_samples=100, split="validation")
    state = "failed" if accuracy is None else "complete"
    return Evaluation(
        trial=0, recipe=Recipe(), recipe_digest="", state=state, validation=score, predicted_latency_ms=ms
    )


class Sweep:
    """Answers every recipe with an invented accuracy, and notes what was asked."""

    def __init__(self, task: Task, accuracy: Callable[[Any], float | None], int8: float = 0.9, int8_ms: float = 0.5):
        baselines = {"fp32": evaluation(0.9), "int8": evaluation(int8, int8_ms)}
        network = UntouchedNetwork(Evaluator(task, device()), baselines)
        self.asked: list[Any] = []
        judged: dict[str, Evaluation | None] = {}
        while recipe := network.next(judged):
            (stage,) = recipe.stages
            self.asked.append(stage)
            assert network.next({**judged, recipe.digest(): None}) is None  # it waits
            judged[recipe.digest()] = evaluation(accuracy(stage))

    @property
    def mixed(self) -> list[Any]:
        return [stage for stage in self.asked if isinstance(stage.weight_bits, dict)]


def share_at_4_bits(stage: Any, ranked: list[LayerDamage]) -> float:
    if not isinstance(stage.weight_bits, dict):
        return float(stage.weight_bits == 4)
    return sum(x.n_weights for x in ranked if x.name in stage.weight_bits) / sum(x.n_weights for x in ranked)


@pytest.fixture
def ranked(task: Task, monkeypatch: pytest.MonkeyPatch) -> list[LayerDamage]:
    layers = Evaluator(task, device()).analysis.layers
    found = [LayerDamage(name, float(i), 100 + i) for i, name in enumerate(layers)]
    monkeypatch.setattr(untouched, "weight_sensitivity", lambda evaluator: tuple(found))
    return found


def test_where_4_bits_lose_nothing_there_is_nothing_between_4_and_8(task: Task, ranked: list[LayerDamage]) -> None:
    sweep = Sweep(task, lambda stage: 0.9)
    assert [stage.summary() for stage in sweep.asked] == ["ptq w4a8", "ptq w2a8"]


def test_where_4_bits_are_good_enough_the_least_sensitive_layers_get_2(task: Task, ranked: list[LayerDamage]) -> None:
    def accuracy(stage: Any) -> float:
        lost = sum(stage.bits(layer.name, "")[0] == 2 for layer in ranked) / len(ranked)
        return 0.9 - 0.3 * max(0.0, lost - 0.5)

    sweep = Sweep(task, accuracy)
    assert [stage.summary() for stage in sweep.asked[:2]] == ["ptq w4a8", "ptq w2a8"]
    assert 2 <= len(sweep.mixed) <= 6 and all(stage.weight_bits["default"] == 4 for stage in sweep.mixed)
    names = [layer.name for layer in ranked]
    assert all([n for n in names if n in s.weight_bits] == names[: len(s.weight_bits) - 1] for s in sweep.mixed)


def test_where_4_bits_lose_accuracy_the_sensitive_layers_get_8_again(task: Task, ranked: list[LayerDamage]) -> None:
    sweep = Sweep(task, lambda stage: 0.9 - 0.3 * max(0.0, share_at_4_bits(stage, ranked) - 0.5))
    assert 2 <= len(sweep.mixed) <= 6
    names = [layer.name for layer in ranked]
    for stage in sweep.mixed:
        at_4 = [name for name in names if name in stage.weight_bits]
        assert at_4 == names[: len(at_4)] and stage.weight_bits["default"] == 8
    shares = [share_at_4_bits(stage, ranked) for stage in sweep.mixed]
    assert min(shares[1:]) > 0.4  # nothing below the share that loses nothing


def test_other_observers_equalisation_and_float_arithmetic_are_tried_where_int8_loses_accuracy(
    task: Task, ranked: list[LayerDamage]
) -> None:
    good = {"minmax": 0.8, "percentile": 0.85, "mse": 0.82}
    sweep = Sweep(task, lambda stage: 0.9 if stage.activation_bits == 32 else good[stage.observer], int8=0.8)
    assert [(s.summary(), s.observer) for s in sweep.asked] == [
        ("ptq w4a8", "minmax"),
        ("ptq w8a8", "percentile"),
        ("ptq w8a8", "mse"),
        ("ptq w8a8", "minmax"),
        ("ptq w4a8", "percentile"),
        ("ptq w8a32", "minmax"),
        ("ptq w4a32", "minmax"),
    ]


def test_float_arithmetic_is_tried_where_int8_is_not_faster(task: Task, ranked: list[LayerDamage]) -> None:
    assert [s.summary() for s in Sweep(task, lambda stage: 0.9, int8_ms=1.5).asked][2:] == ["ptq w8a32", "ptq w4a32"]


def test_formats_that_fail_end_nothing(task: Task, ranked: list[LayerDamage]) -> None:
    assert Sweep(task, lambda stage: None, int8=0.7).asked


def test_a_device_that_computes_in_float_only_is_spared(task: Task) -> None:
    network = UntouchedNetwork(
        Evaluator(task, DeviceProfile.load(FLOAT_ONLY)), {"fp32": evaluation(0.9), "int8": evaluation(0.9)}
    )
    assert network.next({}) is None


# ------------------------------------------------------------------------------------------------- in a search


def of_the_untouched(study: Study) -> list[Evaluation]:
    return [e for e in study.candidates if e.derived_from == study.baselines[0].trial]


def run(task: Task, out: Path, trials: int = 1, data: dict[str, Any] = SPACE, **settings: Any) -> Study:
    return search(task, device(), space(data), budget=Budget(trials), out=out, **settings)


def test_the_formats_of_the_untouched_network_come_first_and_take_none_of_the_budget(
    task: Task, tmp_path: Path
) -> None:
    study = run(task, tmp_path / "study", 1)
    first = of_the_untouched(study)
    assert first and [e.trial for e in first] == list(range(3, 3 + len(first)))
    assert all([s.technique for s in e.recipe.stages] == ["ptq"] and e.state == "complete" for e in first)
    assert sum(e.derived_from is None for e in study.candidates) == 1


def test_a_task_without_training_data_ends_with_a_front_of_files_that_can_be_used(tmp_path: Path) -> None:
    study = run(small_task("resnet", train=None), tmp_path / "study", 2, NUMERICS)
    base, int8 = study.baselines[0], study.baselines[2]
    smaller = [p for p in study.front if (p.size_bytes or 0) < (int8.size_bytes or 0)]
    assert smaller and max(p.accuracy or 0 for p in smaller) >= (base.accuracy or 0) - 0.02


def test_an_interrupted_sweep_goes_on_and_finds_the_same(task: Task, tmp_path: Path) -> None:
    whole = run(task, tmp_path / "whole", 2)

    class Stop(Silent):
        def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
            if evaluation.kind == "candidate":
                raise KeyboardInterrupt

    n = 0
    while True:  # once for each of its files
        try:
            ended = run(task, tmp_path / "study", 2, reporter=Stop())
            break
        except KeyboardInterrupt:
            n += 1
    assert n >= len(of_the_untouched(whole))
    assert [(e.recipe_digest, e.sha256) for e in ended.evaluations] == [
        (e.recipe_digest, e.sha256) for e in whole.evaluations
    ]


def test_a_network_whose_layers_cannot_be_ranked_is_searched_all_the_same(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(evaluator: Evaluator) -> None:
        raise CandidateError("no luck")

    monkeypatch.setattr(untouched, "weight_sensitivity", fails)
    monkeypatch.setattr(untouched, "_LOSS", -1.0)
    assert sum(e.derived_from is None for e in run(task, tmp_path / "study", 1).candidates) == 1
