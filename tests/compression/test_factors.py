from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.factors import factorised

LAYERS = {
    "linear": (nn.Linear(24, 32), (2, 5, 24)),
    "without bias": (nn.Linear(24, 32, bias=False), (2, 24)),
    "1-D": (nn.Conv1d(16, 24, 5, 2, 2), (2, 16, 20)),
    "kernel of 1": (nn.Conv2d(16, 24, 1, 2), (2, 16, 8, 8)),
    "uneven": (nn.Conv2d(16, 24, (3, 5), (2, 1), (1, 4), (1, 2), padding_mode="reflect"), (2, 16, 9, 10)),
}


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_low_rank_is_split_exactly(name: str, scheme: Any) -> None:
    """Four weights that are not 0 have a rank of 4 at most, however they are written as a matrix."""
    layer, shape = copy.deepcopy(LAYERS[name][0]), LAYERS[name][1]
    weights = torch.zeros(layer.weight.numel())
    weights[[0, 17, 100, 333]] = torch.tensor([1.0, -2.0, 0.5, 3.0])
    layer.weight.data = weights.view(layer.weight.shape)
    pair = factorised(layer, 0.6, scheme, round_to=4)
    assert pair is not None and n_weights(pair[0], pair[1]) <= 0.6 * layer.weight.numel()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(pair(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
def test_more_weights_come_nearer(scheme: Any) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(16, 16, 3, padding=1), torch.randn(4, 16, 8, 8)
    errors = [error(factorised(layer, share, scheme, 1), layer, x) for share in (0.2, 0.5, 1.0)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("layer", "share"),
    [
        (nn.Conv2d(16, 16, 3, groups=16), 0.5),
        (nn.Conv2d(16, 16, 3, padding="same"), 0.5),
        (nn.Linear(16, 16), 0.1),
        (nn.MultiheadAttention(16, 2).out_proj, 1.0),
        (nn.ReLU(), 0.5),
    ],
    ids=["depthwise", "padding by name", "too narrow", "used as a function", "no weights"],
)
def test_what_cannot_be_split_stays_whole(layer: nn.Module, share: float) -> None:
    assert factorised(layer, share, "channel", 8) is None


def n_weights(*layers: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in layers)  # type: ignore[union-attr, operator, misc]


def error(pair: nn.Module | None, layer: nn.Module, x: Tensor) -> float:
    assert pair is not None
    with torch.no_grad():
        return float((pair(x) - layer(x)).square().mean())
