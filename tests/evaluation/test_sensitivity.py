from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.running import load, run
from helpers.small import device, small_task

from autocompress.evaluation import sensitivity
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.sensitivity import weight_sensitivity
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.interface import tensors
from autocompress.tasks.torch_utils import outputs_of


def test_every_layer_that_can_be_quantised_is_ranked_by_its_damage_for_its_size() -> None:
    evaluator = Evaluator(small_task("resnet"), device())
    ranked = weight_sensitivity(evaluator)
    assert {layer.name for layer in ranked} == set(evaluator.analysis.layers)
    rates = [layer.damage / layer.n_weights for layer in ranked]
    assert rates == sorted(rates) and min(rates) >= 0 and max(rates) > 0


def test_the_damage_is_that_of_the_file_with_this_layer_alone_at_4_bits() -> None:
    task = small_task("mlp")
    evaluator = Evaluator(task, device())
    worst = max(weight_sensitivity(evaluator), key=lambda layer: layer.damage)
    bits = {"weight_bits": {"default": 32, worst.name: 4}, "activation_bits": 32}
    stage = {"technique": "ptq", **bits, "rounding": "nearest", "bias_correction": "none"}
    file = evaluator.evaluate(Recipe.parse({"stages": [stage]}))[0].file
    batches = task.calibration_batches(256, 0)
    before = torch.cat([outputs_of(task.model, tensors(b))[-1] for b in batches]).log_softmax(1)
    model = load(file)
    after = torch.cat([torch.from_numpy(run(model, b)[0]) for b in batches])
    expected = torch.nn.functional.kl_div(after.log_softmax(1), before, reduction="batchmean", log_target=True)
    assert worst.damage == pytest.approx(float(expected), rel=1e-3)


def test_it_is_measured_once_for_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task("mlp")
    found = weight_sensitivity(Evaluator(task, device(), cache=tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(sensitivity, "_measure", lambda evaluator: pytest.fail("measured again"))
        assert weight_sensitivity(Evaluator(task, device(), cache=tmp_path)) == found
    (kept,) = tmp_path.glob("sensitivity-*.json")
    kept.write_text("{damaged")
    assert weight_sensitivity(Evaluator(task, device(), cache=tmp_path)) == found
