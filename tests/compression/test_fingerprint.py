"""Equal networks have equal fingerprints; whatever changes what a network computes changes its fingerprint."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.tasks import make_workshop
from helpers.zoo import ZOO
from torch import Tensor, nn

from autocompress.compression.candidate import Candidate
from autocompress.compression.fingerprint import architecture, fingerprint
from autocompress.compression.techniques.prune import Prune


class Scaled(nn.Module):
    def __init__(self, factor: float = 1.0, layers: tuple[int, ...] = (0, 1)) -> None:
        super().__init__()
        self.factor, self.layers = factor, list(layers)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.1), nn.Linear(4, 4))
        self.register_buffer("offset", torch.zeros(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.body(x) + self.offset


def net(change: Callable[[Scaled], object] = lambda model: None) -> Scaled:
    torch.manual_seed(0)
    model = Scaled()
    change(model)
    return model


def scaled_by(factor: float) -> nn.Module:
    """Modules of classes that differ in nothing but a variable around them."""

    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return factor * x

    return Local()


def _tie(model: Scaled) -> None:
    model.body[2].weight.data = model.body[0].weight.data.clone()


CHANGES: dict[str, Callable[[Scaled], object]] = {
    "weight": lambda m: m.body[0].weight.data[0].mul_(1.001),
    "buffer that no file keeps": lambda m: m.offset.add_(1),
    "number that repr does not show": lambda m: setattr(m, "factor", 0.5),
    "list": lambda m: m.layers.pop(),
    "setting of torch": lambda m: setattr(m.body[1], "negative_slope", 0.2),
    "module": lambda m: m.body.__setitem__(1, nn.ReLU()),
    "module gone": lambda m: m.body.__delitem__(1),
    "hook": lambda m: m.body.register_forward_hook(lambda module, inputs, output: output * 2),
    "method": lambda m: setattr(m, "forward", types.MethodType(lambda self, x: self.body(x) * 3, m)),
    "type": lambda m: m.half(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_a_network_changes_its_fingerprint(what: str) -> None:
    assert fingerprint(net(CHANGES[what])) != fingerprint(net())


def test_sharing_and_closures_count() -> None:
    tied, alike = net(_tie), net(_tie)
    tied.body[2].weight = tied.body[0].weight
    assert fingerprint(tied) != fingerprint(alike)
    assert fingerprint(scaled_by(2.0)) == fingerprint(scaled_by(2.0)) != fingerprint(scaled_by(3.0))


def test_copies_are_equal_in_training_or_not_and_whatever_is_trainable() -> None:
    model = net(CHANGES["hook"])
    expected = fingerprint(model)
    assert fingerprint(copy.deepcopy(model)) == expected
    assert fingerprint(copy.deepcopy(model).train().requires_grad_(False)) == expected
    state = io.BytesIO()
    torch.save(net().state_dict(), state)
    again = Scaled()
    again.load_state_dict(torch.load(io.BytesIO(state.getvalue()), weights_only=True))
    assert fingerprint(again) == fingerprint(net())


def test_another_process_finds_the_same() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom helpers.zoo import ZOO\n"
        "from autocompress.compression.fingerprint import *\n"
        "print(*(fingerprint(ZOO[name]()[0]) for name in ('resnet', 'vit')))\n"
    )
    got = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parents[1])], capture_output=True, text=True)
    assert got.stdout.split() == [fingerprint(ZOO[name]()[0]) for name in ("resnet", "vit")], got.stderr


@pytest.mark.parametrize("name", ["resnet", "vit_matmul", "shared", "grouped", "audio1d"])
def test_pruned_versions_have_the_architecture_of_the_whole_network(name: str) -> None:
    context = make_workshop(name)
    whole = Candidate(context.task.model)
    pruned = [Prune(ratio=ratio, round_to=1).apply(whole, context) for ratio in (0.3, 0.31, 0.6)]
    assert {architecture(c.model) for c in (whole, *pruned)} == {architecture(whole.model)}
    assert len({c.fingerprint for c in (whole, *pruned)}) == len({str(dict(c.removed)) for c in (whole, *pruned)})
    assert architecture(net(CHANGES["setting of torch"])) != architecture(net())
