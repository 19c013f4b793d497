from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.small import small_task
from helpers.zoo import ZOO
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from autocompress.errors import TaskError
from autocompress.graphs.export import TOLERANCE, batchnorm_pairs, disagreement, export, fold_batchnorm
from autocompress.graphs.quantizable import quantizable_layers
from autocompress.tasks.interface import INPUT
from autocompress.tasks.normalize import normalize


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Conv1D(nn.Module):
    """As Hugging Face's GPT-2 has it."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) * 0.3), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class Cast(nn.Module):
    """A half-precision network inside a float32 one."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype, how: str = "to") -> None:
        super().__init__()
        self.dtype, self.inner, self.how = dtype, inner.to(dtype), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "to":
            x = x.to(self.dtype)
        elif self.how == "half":
            x = x.half()
        elif self.how == "made":
            x = x.to(dtype=self.dtype) + torch.zeros(1, dtype=self.dtype)
        return self.inner(x).float()


class Halving(nn.Module):
    """Parameters in float32, arithmetic in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x.bfloat16(), self.fc.weight.bfloat16(), self.fc.bias.bfloat16())
        return y.type(torch.float32)


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.fc(x).float()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 12)
        self.b.weight = self.a.weight
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.b(torch.relu(self.a(x)))))


def mlp(change: Callable[[nn.Linear], Any] = lambda layer: layer) -> nn.Sequential:
    return nn.Sequential(change(nn.Linear(12, 16)), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), change(nn.Linear(8, 4)))


def conv(change: Callable[[nn.Conv2d], Any] = lambda layer: layer) -> nn.Sequential:
    return nn.Sequential(
        *(change(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8), nn.ReLU(), change(nn.Conv2d(8, 8, 3, groups=2)), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


def called(model: nn.Module, *shape: int) -> nn.Module:
    """With what a call in training leaves behind."""
    model(torch.randn(4, *shape))
    return model


def in_place(model: nn.Module) -> nn.Module:
    model.compile()
    return model


def masked(layer: Any) -> Any:
    return prune.l1_unstructured(layer, "weight", amount=0.5)


def in_inference(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.inference_mode():
        return make()


P, ROW, IMAGE = nn.DataParallel, (12,), (3, 10, 10)


class Calls(nn.Module):
    """A network whose only part has a name of its own."""

    def __init__(self, name: str, part: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self, self.name)(x)
        return found


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "compiled": (lambda: torch.compile(mlp()), ROW, "torch.compile"),
    "compiled in place": (lambda: in_place(mlp()), ROW, "torch.compile"),
    "compiled inside": (lambda: nn.Sequential(torch.compile(conv()), nn.ReLU()), IMAGE, "torch.compile"),
    "parallel": (lambda: P(conv()), IMAGE, "DataParallel"),
    "parallel inside": (lambda: nn.Sequential(P(mlp()), nn.ReLU()), ROW, "DataParallel"),
    "compiled, parallel, compiled": (
        lambda: torch.compile(P(torch.compile(mlp()))),
        ROW,
        "DataParallel, torch.compile",
    ),
    "name of an export": (lambda: Calls("meta", mlp()), ROW, "torch.export calls its own: here it is network.meta"),
    "method of an export": (lambda: Calls("recompile", conv()), IMAGE, "network.recompile"),
    "name and bfloat16": (lambda: Cast(Calls("code", conv()), torch.bfloat16), IMAGE, "bfloat16"),
    "bfloat16": (lambda: Cast(conv(), torch.bfloat16), IMAGE, "bfloat16"),
    "half": (lambda: Cast(mlp(), torch.float16, "half"), ROW, "float16"),
    "half, tensors made": (lambda: Cast(mlp(), torch.float16, "made"), ROW, "float16"),
    "half inside": (lambda: nn.Sequential(nn.Linear(12, 12), Cast(mlp(), torch.bfloat16)), ROW, "bfloat16"),
    "half, parallel": (lambda: P(Cast(mlp(), torch.bfloat16)), ROW, "bfloat16"),
    "half arithmetic": (Halving, ROW, "bfloat16"),
    "double": (lambda: Cast(mlp(), torch.float64), ROW, "float64"),
    "weight_norm, old": (lambda: mlp(weight_norm), ROW, "2 weights"),
    "weight_norm, old, called": (lambda: called(conv(weight_norm), *IMAGE), IMAGE, "2 weights"),
    "weight_norm": (lambda: conv(parametrizations.weight_norm), IMAGE, "2 weights"),
    "weight_norm, called": (lambda: called(mlp(parametrizations.weight_norm), *ROW), ROW, "2 weights"),
    "spectral_norm, old": (lambda: conv(spectral_norm), IMAGE, "2 weights"),
    "spectral_norm, old, called": (lambda: called(mlp(spectral_norm), *ROW), ROW, "2 weights"),
    "spectral_norm": (lambda: called(conv(parametrizations.spectral_norm), *IMAGE), IMAGE, "2 weights"),
    "orthogonal": (lambda: mlp(parametrizations.orthogonal), ROW, "2 weights"),
    "masked": (lambda: conv(masked), IMAGE, "2 weights"),
    "masked, half": (lambda: Cast(mlp(masked), torch.bfloat16), ROW, "2 weights"),
    "weight_norm, parallel, compiled": (lambda: torch.compile(P(mlp(parametrizations.weight_norm))), ROW, "2 weights"),
    "Conv1D": (lambda: nn.Sequential(Conv1D(16, 12), nn.GELU(), Conv1D(4, 16)), ROW, "2 layers of the kind Conv1D"),
    "Conv1D, half, parallel": (lambda: P(Cast(nn.Sequential(Conv1D(4, 12)), torch.float16)), ROW, "Conv1D"),
    "frozen": (lambda: mlp().requires_grad_(False), ROW, "6 of 6 parameters frozen"),
    "frozen in part": (lambda: nn.Sequential(mlp().requires_grad_(False), nn.Linear(4, 8)), ROW, "6 of 8 parameters"),
    "inference": (lambda: in_inference(mlp), ROW, "inference mode"),
    "inference with buffers": (lambda: in_inference(conv), IMAGE, "inference mode"),
    "training": (lambda: mlp().train(), ROW, "training mode"),
    "tied": (lambda: Cast(Tied(), torch.bfloat16), ROW, "bfloat16"),
    "tied, parallel": (lambda: P(Tied()), ROW, "DataParallel"),
}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        result: Tensor = model(inputs)
    return result


@pytest.mark.parametrize("name", NETS)
def test_a_network_becomes_a_plain_one_whose_file_agrees_with_the_given_one(name: str) -> None:
    make, shape, words = NETS[name]
    torch.manual_seed(0)
    given, inputs = make(), torch.randn(3, *shape)
    if name != "training":
        given.eval()
    kept, modes = state(given), [module.training for module in given.modules()]
    expected = outputs(copy.deepcopy(given).eval() if name == "training" else given, inputs)
    plain = normalize(given, {INPUT: torch.zeros(1, *shape)})
    assert words in " ".join(plain.notes) and plain.model is not given and not plain.model.training
    assert {p.dtype for p in plain.model.parameters()} == {torch.float32}
    assert all(p.requires_grad and p.is_leaf and not p.is_inference() for p in plain.model.parameters())
    tolerance = 0.05 if "float16" in " ".join(plain.notes) else TOLERANCE
    assert (outputs(plain.model, inputs) - expected).abs().max() <= tolerance * expected.abs().max()
    assert not normalize(plain.model, {INPUT: torch.zeros(1, *shape)}).notes

    model = copy.deepcopy(plain.model)  # as candidates are made
    folded = fold_batchnorm(model, batchnorm_pairs(model, inputs[:2]))
    proto = export(folded, inputs[:2], ["logits"]).proto
    assert disagreement(proto, model, inputs) <= TOLERANCE
    layers = {n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert {layer.name for layer in quantizable_layers(proto)} == layers or "tied" in name or "arithmetic" in name
    assert {i.data_type for i in proto.graph.initializer} <= {1, 7}  # FLOAT, INT64

    after = state(given)  # the given one is as it was
    assert kept.keys() == after.keys() and all(torch.equal(kept[k], after[k]) for k in kept)
    assert modes == [module.training for module in given.modules()]
    assert torch.equal(outputs(given.eval(), inputs), expected)


def test_shared_parameters_stay_shared() -> None:
    model = normalize(nn.DataParallel(Cast(Tied(), torch.bfloat16)), {INPUT: torch.zeros(1, 12)}).model
    assert model.inner.a.weight is model.inner.b.weight  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["mlp", "resnet", "vit"])
def test_a_plain_network_is_left_as_it_is(name: str) -> None:
    model, example = ZOO[name]()
    assert normalize(model, {INPUT: example}).model is model


class Odd(nn.Module):
    """Its weights are computed, and otherwise once they are not."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = parametrizations.weight_norm(nn.Linear(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * (1 if hasattr(self.fc, "parametrizations") else 2)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "script": (lambda: torch.jit.script(mlp()), "the model is TorchScript, whose layers cannot be changed; give the"),
    "traced": (lambda: torch.jit.trace(mlp(), torch.zeros(1, 12)), "the model is TorchScript"),
    "script inside": (lambda: nn.Sequential(torch.jit.script(mlp()), nn.ReLU()), "is TorchScript (at '0')"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), "lazy modules); run it once before"),
    "autocast": (Autocast, "the model computes in half precision (test_normalize.py, line "),
    "odd": (Odd, "computes something else as a plain float32 network: relative error 1, allowed 0.001"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_made_plain_is_refused_with_the_way_out(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(TaskError) as caught:
        normalize(make().eval(), {INPUT: torch.zeros(1, 12)})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_task_makes_model_and_teacher_plain_and_says_so() -> None:
    base = small_task()
    half = Cast(nn.Sequential(nn.Linear(24, 4)), torch.bfloat16).eval().requires_grad_(False)
    task = dataclasses.replace(base, model=nn.DataParallel(base.model), teacher=half)
    assert task.notes == (
        "the model was taken out of DataParallel",
        "the teacher held or computed bfloat16; it is float32 now",
    )
    assert {p.dtype for p in task.teacher.parameters()} == {torch.float32}  # type: ignore[union-attr]
    task.validate()
    assert dataclasses.replace(task, name="another").notes == task.notes
