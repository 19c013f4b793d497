from __future__ import annotations

import onnx
import pytest
from helpers.small import device, small_task, space
from onnx import numpy_helper

from autocompress.compression.structure import NetworkStructure
from autocompress.compression.techniques.sparsity import Sparsity
from autocompress.errors import CandidateError, RecipeError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.gains import GainEstimator
from autocompress.recipes.recipe import Recipe

LAYERS = NetworkStructure(layers={"conv": "stage1"})


def zeros(file: bytes, name: str) -> float:
    """Share of the integer weights of a layer that are 0."""
    graph = onnx.load_from_string(file).graph
    (codes,) = (numpy_helper.to_array(i) for i in graph.initializer if name in i.name and i.data_type == 3)
    return float((codes == 0).mean())


def test_zeros_outlive_pruning_training_and_quantisation() -> None:
    evaluator = Evaluator(small_task("resnet", n=64), device())
    stages = [
        {"technique": "prune", "ratio": 0.25, "round_to": 4},
        {"technique": "sparsity", "ratio": {"blocks.1.conv2": 0.5, "blocks.2.conv1": 0.75}, "group": 4},
        {"technique": "distill", "epochs": 2},
        {"technique": "ptq"},
    ]
    outcome = evaluator.evaluate(Recipe.parse({"stages": stages}))[0]
    assert zeros(outcome.file, "blocks.1.conv2") >= 0.5 and zeros(outcome.file, "blocks.2.conv1") >= 0.75
    assert zeros(outcome.file, "blocks.2.conv2") < 0.25
    note = next(n for n in outcome.evaluation.notes if n.startswith("sparsity"))
    after, before = (
        int(words.split()[-1].replace(",", "")) for words in note.replace(".", "").split(" bytes instead of ")
    )
    assert after < 0.8 * before


def test_a_runtime_that_gains_nothing_is_told_so_and_searched_without() -> None:
    both = space({"version": 1, "stages": [{"technique": "sparsity"}, {"technique": "ptq"}]})
    restricted = both.restrict(device(), LAYERS)
    assert [slot.name for slot in restricted.slots] == ["ptq"]
    assert "stores a weight of 0 and multiplies by it as by any other" in restricted.notes[0]
    (line,) = (k.text() for k in GainEstimator(Evaluator(small_task("mlp"), device())).knobs() if "at 0" in k.name)
    assert "no file smaller, no run faster" in line


def test_a_runtime_with_sparse_kernels_is_searched() -> None:
    jetson = device().model_copy(update={"runtime": "tensorrt"})
    assert Sparsity.unusable(LAYERS, jetson, trainable=True) == ""
    assert "no training data" in Sparsity.unusable(LAYERS, jetson, trainable=False)


def test_what_does_not_go_together_is_refused() -> None:
    own = {"technique": "sparsity"}
    with pytest.raises(RecipeError, match="sparsity cannot be combined with qat"):
        Recipe.parse({"stages": [own, {"technique": "qat"}]})
    with pytest.raises(RecipeError, match="sparsity must come after prune"):
        Recipe.parse({"stages": [own, {"technique": "prune"}]})
    evaluator = Evaluator(small_task("mlp"), device())
    with pytest.raises(CandidateError, match=r"sparsity\.ratio: no layer or stage 'fc9'"):
        evaluator.forecast(Recipe.parse({"stages": [{**own, "ratio": {"fc9": 0.5}}]}))
