"""The trainable twin computes what the quantised file computes, and what it learns reaches the file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from test_qdq import data, distance, export, run, spec
from torch import Tensor
from torch.nn import functional as F

from autocompress.errors import CandidateError
from autocompress.graphs import qdq
from autocompress.graphs.qat import Twin, build_twin
from autocompress.graphs.qdq import QuantSpec, observe, write_qdq
from autocompress.runtimes.adapters.onnxruntime.inside import optimized_op_counts

pytestmark = pytest.mark.filterwarnings("ignore")
torch.set_num_threads(1)


def make(name: str, bits: int, reduce_range: bool = False) -> tuple[Twin, qdq.QuantPlan, onnx.ModelProto]:
    program = export(name)[0]
    model = program.model_proto
    plan = qdq.plan(model, spec(model, bits, reduce_range=reduce_range))
    ranges = observe(model, plan, [data(name)[:128]], "minmax")
    return build_twin(program.exported_program, model, plan, ranges), plan, write_qdq(model, plan, ranges)


def predict(twin: Twin, x: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        logits = twin.module(torch.from_numpy(x))
    return [y.numpy() for y in (logits if isinstance(logits, tuple) else (logits,))]


def agreement(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Share of equal decisions; these nets are untrained, and where two logits nearly tie does not count."""
    shares = []
    for x, y in zip(a, b, strict=True):
        best = np.sort(x, axis=-1)
        clear = best[:, -1] - best[:, -2] > 0.01 * x.std()
        shares.append(float((x.argmax(-1) == y.argmax(-1))[clear].mean()))
    return min(shares)


def train(twin: Twin, name: str, steps: int, batch: int = 48) -> list[float]:
    """Pull the twin to the fp32 net, distillation by squared error."""
    x = torch.from_numpy(data(name))
    with torch.no_grad():
        target = export(name)[1](x)
    targets: tuple[Tensor, ...] = target if isinstance(target, tuple) else (target,)
    groups = [
        {"params": twin.weight_parameters(), "lr": 1e-3},
        {"params": twin.scale_parameters(), "lr": 1e-4},
    ]
    optimizer, losses = torch.optim.Adam(groups), []
    for step in range(steps):
        rows = torch.arange(step * batch, (step + 1) * batch) % len(x)
        logits = twin.module(x[rows])
        outputs = logits if isinstance(logits, tuple) else (logits,)
        loss = sum(F.mse_loss(y, t[rows]) for y, t in zip(outputs, targets, strict=True))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.weight_parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("name", ["resnet", "exits", "mobilenet", "vit", "audio", "mlp", "shared", "branches"])
@pytest.mark.parametrize(("bits", "reduce_range"), [(8, False), (8, True), (4, False)])
def test_the_twin_computes_what_the_file_computes(name: str, bits: int, reduce_range: bool) -> None:
    twin, _, file = make(name, bits, reduce_range)
    x = data(name, 1024)
    assert twin.skipped == ()
    assert agreement(predict(twin, x), run(file, x)) >= 0.99
    assert distance(predict(twin, x), run(file, x)) < 0.02


@pytest.mark.parametrize("name", ["resnet", "exits", "mobilenet", "vit", "shared"])
def test_training_helps_and_reaches_the_file(name: str) -> None:
    twin, plan, ptq = make(name, 4)
    x = data(name, 1024)
    original = run(export(name)[0].model_proto, x)
    losses = train(twin, name, 40)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    file = write_qdq(twin.extract()[0], plan, *twin.extract()[1:])
    onnx.checker.check_model(file)
    assert agreement(predict(twin, x), run(file, x)) >= 0.99
    assert distance(predict(twin, x), run(file, x)) < 0.02
    assert distance(original, run(file, x)) < distance(original, run(ptq, x))
    assert optimized_op_counts(file) == optimized_op_counts(ptq)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_any_batch_size_can_be_trained(batch: int) -> None:
    twin, _, _ = make("vit", 8)
    twin.module.train()
    assert np.isfinite(train(twin, "vit", 2, batch)).all()
    twin.module.eval()


def test_untrained_extract_equals_post_training_quantisation() -> None:
    twin, plan, ptq = make("mobilenet", 8)
    model, ranges, weights = twin.extract()
    np.testing.assert_array_equal(
        run(write_qdq(model, plan, ranges, weights), data("mobilenet"))[0], run(ptq, data("mobilenet"))[0]
    )


def test_all_parameters_are_trainable_even_those_the_exporter_merged() -> None:
    twin, _, _ = make("vit", 8)
    assert len(twin.weight_parameters()) == len(list(export("vit")[1].parameters()))
    with torch.no_grad():
        dict(twin.module.named_parameters())["norm2.weight"].mul_(3.0)
    model, _, _ = twin.extract()
    changed = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    assert changed["norm1.weight"].max() == 1.0
    assert changed["norm2.weight"].min() == 3.0


def test_the_program_and_the_template_stay_as_they_were() -> None:
    program = export("mlp")[0]
    before = {k: v.clone() for k, v in program.exported_program.state_dict.items()}
    saved = program.model_proto.SerializeToString(deterministic=True)
    twin, _, _ = make("mlp", 4)
    train(twin, "mlp", 3)
    assert all(torch.equal(before[k], v) for k, v in program.exported_program.state_dict.items())
    assert program.model_proto.SerializeToString(deterministic=True) == saved


def test_a_shared_weight_has_one_quantiser() -> None:
    twin, plan, _ = make("shared", 8)
    n_layers = len({layer.layer for layer in plan.layers})
    sources = len(plan.sources)
    assert len(twin.scale_parameters()) == n_layers + sources


@pytest.mark.parametrize("bits", [4, 8])
def test_unknown_structure_is_reported_and_the_file_still_matches(bits: int) -> None:
    twin, plan, ptq = make("odd", bits)
    x = data("odd")
    assert any("lstm" in item for item in twin.skipped)
    assert distance(predict(twin, x), run(ptq, x)) < 0.02
    train(twin, "odd", 3)
    model, ranges, weights = twin.extract()
    assert distance(predict(twin, x), run(write_qdq(model, plan, ranges, weights), x)) < 0.02


def test_a_dead_layer_can_be_trained() -> None:
    twin, plan, _ = make("dead", 4)
    assert np.isfinite(train(twin, "dead", 5)).all()
    model, ranges, weights = twin.extract()
    assert np.isfinite(run(write_qdq(model, plan, ranges, weights), data("dead"))[0]).all()


def test_storage_only_and_fp32_layers_train_too() -> None:
    program = export("resnet")[0]
    model = program.model_proto
    names = [layer.name for layer in qdq.quantizable_layers(model)]
    bits = {**dict.fromkeys(names, 4), "stem": 32, "fc": 16}
    plan = qdq.plan(model, QuantSpec(bits, {**dict.fromkeys(names, 8), "blocks.0.conv1": 32}))
    ranges = observe(model, plan, [data("resnet")[:64]], "minmax")
    twin = build_twin(program.exported_program, model, plan, ranges)
    train(twin, "resnet", 5)
    x, (trained, learned, weights) = data("resnet"), twin.extract()
    assert distance(predict(twin, x), run(write_qdq(trained, plan, learned, weights), x)) < 0.02


def test_divergence_and_missing_ranges_are_explained() -> None:
    program = export("mlp")[0]
    twin, plan, _ = make("mlp", 8)
    with torch.no_grad():
        twin.weight_parameters()[0].fill_(float("nan"))
    with pytest.raises(CandidateError, match="diverged"):
        twin.extract()
    with pytest.raises(CandidateError, match="no activation range"):
        build_twin(program.exported_program, program.model_proto, plan, {})
