from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.tasks import make_workshop
from helpers.zoo import InvertedResidual, ResidualBlock, TransformerBlock, conv_bn
from torch import Tensor, nn

from autocompress.compression.analysis import analyze
from autocompress.compression.blocks import find_blocks, least_missed, leave_out
from autocompress.compression.candidate import Context


class Named(nn.Module):
    """Blocks that no container holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.wider = ResidualBlock(4, 4, 1), ResidualBlock(4, 4, 1), ResidualBlock(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.wider(self.second(self.first(x)))


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x + scale * self.body(x)


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = ResidualBlock(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


class Concatenating(nn.Module):
    """Its block may go, but what follows reads the shape of something inside."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Residual(nn.Linear(4, 4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x)) * self.block.body.weight.mean()


class Unit(nn.Module):
    """A linear layer of which only the direction counts: without it, zero by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return y / y.norm(dim=1, keepdim=True)


IMAGE, TOKENS = torch.zeros(1, 4, 8, 8), torch.zeros(1, 5, 8)


@pytest.mark.parametrize(
    ("model", "example", "blocks"),
    [
        (Named(), IMAGE, ["first", "second"]),
        (nn.Sequential(InvertedResidual(4, 4, 1, 2), InvertedResidual(4, 8, 2, 2)), IMAGE, ["0"]),
        (nn.Sequential(*(TransformerBlock(8, 2, fused=True) for _ in range(2))), TOKENS, ["0", "1"]),
        (nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)), TOKENS, ["0"]),
        (nn.Sequential(nn.Sequential(ResidualBlock(4, 4, 1), Residual(Gate(4)))), IMAGE, ["0.0", "0.1"]),
        (nn.Sequential(conv_bn(4, 8), Gate(8)), IMAGE, ["1"]),
        (nn.Sequential(conv_bn(4, 4), conv_bn(4, 4)), IMAGE, []),
        (Twice(), IMAGE, []),
        (Concatenating(), torch.zeros(1, 4), []),
        (nn.Sequential(nn.Linear(4, 4), Unit()), torch.ones(1, 4), []),
    ],
    ids=[
        "attributes",
        "inverted",
        "transformer",
        "torch",
        "nested",
        "gate",
        "plain",
        "shared",
        "read elsewhere",
        "unit",
    ],
)
def test_blocks_are_found_by_the_way_around_their_layers(model: nn.Module, example: Tensor, blocks: list[str]) -> None:
    model.eval()
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert find_blocks(model, {"input": example}, layers) == blocks
    for block in blocks:
        leave_out(model, block)
    assert model(example).shape[0] == 1


def test_a_block_that_does_nothing_is_missed_least() -> None:
    context = make_workshop("vit")
    last = context.task.model.get_submodule("blocks.0")
    with torch.no_grad():
        for layer in (last.attn.proj, last.mlp.fc2):  # type: ignore[union-attr]
            layer.weight.zero_(), layer.bias.zero_()  # type: ignore[union-attr, operator]
    again = Context(context.task, analyze(context.task))
    assert [*least_missed(again)] == ["blocks.0", "blocks.1"]


def test_of_equally_missed_blocks_the_slowest_goes_first(workshop_of: Callable[[str], Context]) -> None:
    task, analysis = workshop_of("mobilenetv2").task, workshop_of("mobilenetv2").analysis
    orders = [
        [*least_missed(Context(task, analysis, layer_ms=lambda _, slow=slow: {f"{n}.x": ms for n, ms in slow.items()}))]
        for slow in ({"features.1": 1e9, "features.3": 1e-9}, {"features.1": 1e-9, "features.3": 1e9})
    ]
    assert orders == [["features.1", "features.3"], ["features.3", "features.1"]]
