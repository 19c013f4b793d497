from __future__ import annotations

import copy
import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress.compression.channels import ChannelPruner
from autocompress.compression.probe import probe_groups

Step = Callable[["Generated", Tensor, Tensor], Tensor]


def _halves(net: Generated, x: Tensor, y: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a * b.sigmoid()


STEPS: dict[str, Step] = {
    "plain": lambda net, x, y: x,
    "residual": lambda net, x, y: x + net.side(x),
    "excite": lambda net, x, y: x * net.gate(x.mean((2, 3))).sigmoid()[:, :, None, None],
    "depthwise": lambda net, x, y: net.deep(x),
    "grouped": lambda net, x, y: net.grouped(x),
    "input first": lambda net, x, y: torch.cat([y, x], 1),
    "input last": lambda net, x, y: torch.cat([x, y], 1),
    "detached first": lambda net, x, y: torch.cat([net.side(x).detach(), x], 1),
    "two branches": lambda net, x, y: torch.cat([net.side(x), x], 1),
    "chunk": lambda net, x, y: torch.cat(x.chunk(2, 1)[::-1], 1),
    "glu": _halves,
    "split": lambda net, x, y: torch.cat(x.split([4, 12], 1)[::-1], 1),
    "pad channels": lambda net, x, y: F.pad(x, (0, 0, 0, 0, 3, 5)),
    "padded shortcut": lambda net, x, y: net.side(x) + F.pad(x[:, 4:12], (0, 0, 0, 0, 4, 4)),
    "flip": lambda net, x, y: x.flip(1),
    "roll": lambda net, x, y: x.roll(3, 1),
    "repeat": lambda net, x, y: x.repeat(1, 2, 1, 1),
    "interleave": lambda net, x, y: x.repeat_interleave(2, 1),
    "shuffle": lambda net, x, y: x.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2),
    "pixel shuffle": lambda net, x, y: F.pixel_shuffle(x, 2),
    "space to channels": lambda net, x, y: F.pixel_unshuffle(x, 2),
    "pyramid": lambda net, x, y: torch.cat([x, F.max_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 3, 1, 1)], 1),
    "fold crops": lambda net, x, y: net.side(torch.cat([x, x.flip(3)])).chunk(2)[0],
    "every other": lambda net, x, y: x[:, ::2],
    "mean over channels": lambda net, x, y: x * x.mean(1, keepdim=True),
    "twice": lambda net, x, y: net.side(net.side(x)),
}
ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "pool": lambda x: x.mean((2, 3)),
    "flatten": lambda x: x.flatten(1),
    "channels last": lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "reshape": lambda x: x.reshape(len(x), -1),
    "pool to 2": lambda x: F.adaptive_avg_pool2d(x, 2).flatten(1),
    "width first": lambda x: x.transpose(1, 3).reshape(len(x), -1),
    "mean of rows": lambda x: x.mean(2).flatten(1),
    "max": lambda x: x.amax((2, 3)),
}


class Generated(nn.Module):
    """Two convolutions with an operation between them, and another one before the linear layer."""

    def __init__(self, between: str, behind: str, end: str) -> None:
        super().__init__()
        self.steps, self.end = (STEPS[between], STEPS[behind]), ENDS[end]
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.side, self.gate = nn.Conv2d(16, 16, 3, 1, 1), nn.Linear(16, 16)
        self.deep, self.grouped = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 16, 3, 1, 1, groups=4)
        with torch.no_grad():
            x = torch.zeros(1, 3, 4, 4)
            self.second = nn.Conv2d(self.steps[0](self, self.first(x), x).shape[1], 16, 3, 1, 1)
            y = self.second(self.steps[0](self, self.first(x), x))
            pooled = F.adaptive_avg_pool2d(x, y.shape[-1])
            self.fc = nn.Linear(self.end(self.steps[1](self, y, pooled)).shape[1], 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.steps[0](self, self.first(x), x)).relu()
        return self.fc(self.end(self.steps[1](self, y, F.adaptive_avg_pool2d(x, y.shape[-1]))))


def _patterns(n: int) -> list[tuple[str, str, str]]:
    everything = [(a, b, end) for a in STEPS for b in STEPS for end in ENDS]
    return random.Random(0).sample(everything, n)


def _layers(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def test_of_generated_networks_no_pruned_one_is_wrong_and_most_can_be_pruned() -> None:
    """Dead channels, all of whose makers write zeros, are removed: the network must answer as before.

    That they are dead is made without following any channel: weights and biases of the makers are zero.
    """
    wrong, pruned, n = [], 0, 200
    for pattern in _patterns(n):
        torch.manual_seed(1)
        model, x = Generated(*pattern).eval(), torch.randn(3, 3, 4, 4)
        order = _layers(model)
        groups = probe_groups(model, x[:1], order, x).groups
        pruned += bool(groups)
        for group in groups:
            work = copy.deepcopy(model)
            pruner = ChannelPruner(work, x[:1], order)
            mine = next(g for g in pruner.groups if g.name == group.name)
            units = [0, len(mine.parts) - 1]
            with torch.no_grad():
                for name, axis, indices in pruner.marks(mine, units):
                    if "running" not in name:
                        work.get_parameter(name).index_fill_(axis, torch.from_numpy(indices), 0)
                expected = work(x)
                pruner.remove(mine, units)
                if not torch.allclose(work(x), expected, atol=1e-4):
                    wrong.append((pattern, group.name))
    assert not wrong
    assert pruned >= 0.9 * n
