from __future__ import annotations

import contextlib
import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.tasks import make_workshop
from helpers.zoo import ZOO, synthetic_classification
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.exit_heads import ExitHead, MultiExit
from autocompress.compression.training import (
    Distillation,
    Schedule,
    TeacherLogits,
    _Objective,
    fit,
    reestimate_batchnorm,
    train_candidate,
)
from autocompress.errors import CandidateError, TaskError
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import outputs_of

PLAIN = Distillation()
ONE = Schedule(epochs=1, learning_rate=0.02)


def perturbed(model: nn.Module, scale: float = 0.1) -> nn.Module:
    """A copy with other weights, in evaluation mode, so that batch statistics play no part."""
    other = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return other


def term(model: nn.Module, context: Context, distillation: Distillation) -> Tensor:
    inputs, labels = synthetic_classification(context.task.example_input, n=16)
    return _Objective(model, context, distillation)({"input": inputs}, labels)


TERMS = {
    "response": Distillation(weight=1.0),
    "feature": Distillation(weight=1.0, feature_weight=10.0),
    "relation": Distillation(weight=1.0, relation_weight=5.0),
}


@pytest.mark.parametrize("name", sorted(TERMS))
def test_the_loss_and_its_gradients_are_computed_where_the_model_is(name: str, trained_workshop: Context) -> None:
    """The meta device refuses tensors of other devices, as a GPU does."""
    weighted = nn.CrossEntropyLoss(torch.ones(trained_workshop.task.n_outputs))
    context = replace(trained_workshop, task=replace(trained_workshop.task, loss=weighted), memo={})
    model = copy.deepcopy(context.task.model).to("meta")
    loss = term(model, context, replace(TERMS[name], weight=0.5))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.device.type == "meta"
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in model.parameters())


@pytest.mark.parametrize("name", sorted(TERMS))
def test_distillation_vanishes_for_the_teacher_itself_and_has_gradients_else(
    name: str, trained_workshop: Context
) -> None:
    teacher = trained_workshop.task.model
    assert term(copy.deepcopy(teacher), trained_workshop, TERMS[name]).item() == pytest.approx(0, abs=1e-5)
    student = perturbed(teacher)
    loss = term(student, trained_workshop, TERMS[name])
    assert loss.item() > 1e-3
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in student.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("name", ["feature", "relation"])
def test_every_term_adds_to_the_loss(name: str, trained_workshop: Context) -> None:
    student = perturbed(trained_workshop.task.model)
    alone = term(student, trained_workshop, TERMS["response"])
    assert term(student, trained_workshop, TERMS[name]).item() > alone.item() + 1e-4


def test_response_term_is_hintons(trained_workshop: Context) -> None:
    teacher, student = trained_workshop.task.model, perturbed(trained_workshop.task.model)
    inputs, labels = synthetic_classification(trained_workshop.task.example_input, n=16)
    with torch.no_grad():
        s, t = student(inputs), teacher(inputs)
    for temperature in (1.0, 4.0):
        p, q = (t / temperature).softmax(-1), (s / temperature).softmax(-1)
        soft = temperature**2 * float((p * (p.log() - q.log())).sum(-1).mean())
        hard = float(nn.functional.cross_entropy(s, labels))
        loss = term(student, trained_workshop, Distillation(temperature=temperature, weight=0.7))
        assert loss.item() == pytest.approx(0.3 * hard + 0.7 * soft, rel=1e-4)
    assert term(student, trained_workshop, PLAIN).item() == pytest.approx(hard, rel=1e-5)


def test_exits_are_weighted(trained_workshop: Context) -> None:
    backbone = copy.deepcopy(trained_workshop.task.model)
    model = MultiExit(backbone, {"blocks.0": ExitHead(8, 4, "nchw"), "blocks.1": ExitHead(16, 4, "nchw")}).eval()
    inputs, labels = synthetic_classification(trained_workshop.task.example_input, n=16)
    with torch.no_grad():
        losses = [float(nn.functional.cross_entropy(o, labels)) for o in outputs_of(model, inputs)]
    loss = term(model, trained_workshop, Distillation(exit_weight=0.25))
    assert loss.item() == pytest.approx(0.25 * (losses[0] + losses[1]) + losses[2], rel=1e-5)


def test_teacher_in_training_mode_is_not_changed_by_feature_distillation() -> None:
    context = make_workshop("resnet")
    teacher = context.task.model.train()
    before = copy.deepcopy(teacher.state_dict())
    student = perturbed(teacher, 0.0)
    assert term(student, context, TERMS["feature"]).item() == pytest.approx(0, abs=1e-5)
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert all(m.training for m in teacher.modules())


def test_feature_distillation_needs_places_in_common() -> None:
    context = make_workshop("mlp")
    with pytest.raises(CandidateError, match="no place in common"):
        term(context.task.model, context, TERMS["feature"])


def test_teacher_logits_are_kept_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    model, example = ZOO["mlp"]()
    inputs, _ = synthetic_classification(example, n=8)
    teacher = TeacherLogits(model)
    (first,) = teacher({"input": inputs}, contextlib.nullcontext())
    assert teacher({"input": inputs.clone()}, contextlib.nullcontext())[0] is first
    (other,) = teacher({"input": inputs + 1}, contextlib.nullcontext())
    assert not torch.equal(first, other)
    with torch.no_grad():
        assert torch.equal(first, model(inputs)) and not first.requires_grad
    monkeypatch.setattr("autocompress.compression.training._CACHE_BYTES", first.numel() * 4 - 1)
    small = TeacherLogits(model)
    assert torch.equal(small({"input": inputs}, contextlib.nullcontext())[0], first)  # too big to keep, answered
    assert small({"input": inputs}, contextlib.nullcontext())[0] is not first


def test_training_improves_a_damaged_model_and_leaves_the_task_alone(trained_workshop: Context) -> None:
    task = trained_workshop.task
    before = task.model_sha256
    damaged = Candidate(perturbed(task.model, 0.15))
    inputs, labels = synthetic_classification(task.example_input, n=256, seed=1)

    def accuracy(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(inputs).argmax(1) == labels).float().mean())

    kept = copy.deepcopy(damaged.model.state_dict())
    healed = train_candidate(damaged, trained_workshop, Schedule(2, 0.02), Distillation(weight=0.5))
    assert accuracy(task.model) > 0.9 and accuracy(damaged.model) < 0.85
    assert accuracy(healed) > accuracy(damaged.model) + 0.1
    assert not any(m.training for m in healed.modules())
    assert all(torch.equal(kept[k], v) for k, v in damaged.model.state_dict().items())
    assert replace(task).model_sha256 == before


def test_training_repeats_and_depends_on_the_seed(trained_workshop: Context) -> None:
    results = []
    for seed in (0, 0, 1):
        torch.rand(3)
        context = replace(trained_workshop, seed=seed, memo={})
        results.append(train_candidate(Candidate(context.task.model), context, ONE, PLAIN).state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert not torch.equal(results[0]["fc.weight"], results[2]["fc.weight"])


def test_channels_last_training_gives_the_same_kind_of_model(trained_workshop: Context) -> None:
    plain = train_candidate(Candidate(trained_workshop.task.model), trained_workshop, ONE, TERMS["response"])
    task = replace(trained_workshop.task, channels_last=True)
    context = replace(trained_workshop, task=task, memo={})
    fast = train_candidate(Candidate(task.model), context, ONE, TERMS["response"])
    assert all(p.is_contiguous() for p in fast.parameters())
    assert torch.allclose(fast.fc.weight, plain.fc.weight, atol=1e-3)


@pytest.mark.parametrize("n_steps", range(1, 7))
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_short_schedules_work(n_steps: int, optimizer: str) -> None:
    """OneCycleLR divides by zero when its first phase has no step."""
    model, example = ZOO["mlp"]()
    batches = [synthetic_classification(example, n=8, seed=i) for i in range(n_steps)]
    task = Task.classification(model, example_input=example, train=batches, val=batches)
    messages: list[str] = []
    context = replace(make_workshop("mlp"), task=task, progress=messages.append)
    mean = fit(copy.deepcopy(model), context, Schedule(1, 0.01, optimizer), PLAIN)  # type: ignore[arg-type]
    assert math.isfinite(mean) and len(messages) == n_steps
    assert messages[-1].startswith(f"training: step {n_steps}/{n_steps}, loss ")


def test_a_lone_last_sample_does_not_break_batchnorm() -> None:
    model, example = ZOO["mlp"]()
    data = TensorDataset(*synthetic_classification(example, n=33))
    task = Task.classification(model, example_input=example, train=data, val=data, batch_size=32)
    context = replace(make_workshop("mlp"), task=task)
    trained = train_candidate(Candidate(model), context, ONE, PLAIN)
    assert torch.isfinite(trained(example)).all()
    assert reestimate_batchnorm(copy.deepcopy(model), context)


def test_nan_loss_fails_the_candidate() -> None:
    context = make_workshop("mlp")
    with pytest.raises(
        CandidateError, match=r"training: the loss became (nan|inf) in epoch \d; lower its learning_rate"
    ):
        train_candidate(Candidate(context.task.model), context, Schedule(20, 1e30), PLAIN)
    broken = copy.deepcopy(context.task.model)
    next(broken.parameters()).data.fill_(float("nan"))
    with pytest.raises(CandidateError, match="the loss became nan in epoch 1"):
        train_candidate(Candidate(broken), context, ONE, PLAIN)


def test_training_needs_data_with_good_labels() -> None:
    model, example = ZOO["mlp"]()
    inputs, labels = synthetic_classification(example, n=8)
    bare = Task.classification(model, example_input=example, val=[(inputs, labels)])
    with pytest.raises(TaskError, match="training needs training data: give the task train="):
        fit(model, replace(make_workshop("mlp"), task=bare), ONE, PLAIN)
    late = replace(bare, train=[(inputs, labels), (inputs, labels + 3)])
    with pytest.raises(TaskError, match="train data: labels must be from 0 to 3"):
        fit(copy.deepcopy(model), replace(make_workshop("mlp"), task=late), ONE, PLAIN)


def test_batchnorm_is_set_to_plain_averages_and_momentum_restored() -> None:
    model, example = ZOO["mlp"]()
    inputs, labels = synthetic_classification(example, n=64)
    batches = list(zip(inputs.split(16), labels.split(16), strict=True))
    task = Task.classification(model, example_input=example, train=batches, val=batches)
    context = replace(make_workshop("mlp"), task=task)
    copied = copy.deepcopy(model)
    copied[1].momentum = 0.37
    weights = copied[0].weight.clone()
    assert reestimate_batchnorm(copied, context, n_batches=3)
    with torch.no_grad():
        features = [model[0](x) for x, _ in batches[:3]]
    assert torch.allclose(copied[1].running_mean, torch.stack([f.mean(0) for f in features]).mean(0), atol=1e-5)
    assert torch.allclose(copied[1].running_var, torch.stack([f.var(0) for f in features]).mean(0), atol=1e-5)
    assert copied[1].momentum == 0.37 and copied[4].momentum == 0.1
    assert torch.equal(weights, copied[0].weight) and not copied.training
    assert not torch.equal(copied[1].running_mean, model[1].running_mean)


def test_momentum_is_restored_when_the_data_fails() -> None:
    model, example = ZOO["mlp"]()
    task = Task.classification(model, example_input=example, train=[(example[:, :5], torch.zeros(1).long())], val=[])
    copied = copy.deepcopy(model)
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(copied, replace(make_workshop("mlp"), task=task))
    assert copied[1].momentum == 0.1 and not copied[1].training


def test_reestimation_without_batchnorm_does_nothing() -> None:
    context = make_workshop("vit")
    assert not reestimate_batchnorm(copy.deepcopy(context.task.model), context)


def test_no_epochs_touch_batchnorm_only(trained_workshop: Context) -> None:
    source = perturbed(trained_workshop.task.model)
    state, before = (
        train_candidate(Candidate(source), trained_workshop, Schedule(0, 0.1), PLAIN).state_dict(),
        source.state_dict(),
    )
    changed = {k for k in state if not torch.equal(state[k], before[k])}
    assert changed and all("running_" in k or "num_batches" in k for k in changed)


def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path: Path) -> None:
    schedule, terms = Schedule(epochs=3, learning_rate=0.05), Distillation(weight=0.5)

    def train(checkpoint: Path | None, interrupt_after: int = 10**9) -> dict[str, Tensor]:
        steps = 0

        def count(message: str) -> None:
            nonlocal steps
            steps += 1
            if steps > interrupt_after:
                raise KeyboardInterrupt

        context = make_workshop("resnet")
        context.progress = count
        model = copy.deepcopy(context.task.model)
        fit(model, context, schedule, terms, checkpoint=checkpoint)
        return model.state_dict()

    expected, kept = train(None), tmp_path / "kept"
    for interrupt_after in (3, 3):  # two batches an epoch
        with pytest.raises(KeyboardInterrupt):
            train(kept, interrupt_after)
    for _ in range(2):  # the second time there is nothing left to do
        got = train(kept)
        assert all(torch.equal(expected[name], got[name]) for name in expected)
