"""A layer as two thinner ones, whose product is the best approximation of its weights with so few numbers."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

Scheme = Literal["channel", "spatial"]
"""How a convolution with a window is split: the same window to few channels, then a kernel of 1 (Zhang et al., arXiv
1505.06798); or a column of the window, then a row (Jaderberg et al., arXiv 1405.3866)."""

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_NEUTRAL = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
"""Of a convolution that sees one position."""


def factorised(layer: nn.Module, share: float, scheme: Scheme, round_to: int = 8) -> nn.Sequential | None:
    """Two layers that replace one; None if its kind cannot be split, or no rank fits into so few weights.

    Args:
        layer: left as it is.
        share: of the weights of the layer that the two may hold together, above 0.
        scheme: for convolutions with a window; every other layer is a matrix, and there is one way to split it.
        round_to: the number of channels between the two, the rank, is a multiple of it.
    """
    if type(layer) not in _KINDS or getattr(layer, "groups", 1) > 1 or isinstance(getattr(layer, "padding", 0), str):
        return None  # a subclass may use its weights in ways of its own
    assert isinstance(layer, _KINDS)
    weight = layer.weight.detach()
    spatial = scheme == "spatial" and weight.dim() == 4 and min(weight.shape[2:]) > 1
    matrix = weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1) if spatial else weight.flatten(1)
    rank = int(share * weight.numel() / sum(matrix.shape)) // round_to * round_to
    if not 0 < rank < min(matrix.shape):
        return None
    left, right = _halves(matrix, rank)
    if spatial:
        inputs, outputs, (height, width) = weight.shape[1], weight.shape[0], weight.shape[2:]
        first = left.T.reshape(rank, inputs, height, 1)
        second = right.reshape(rank, outputs, width).transpose(0, 1).unsqueeze(2)
    else:
        first = right.reshape(rank, *weight.shape[1:])
        second = left.reshape(*left.shape, *[1] * (weight.dim() - 2))
    pair = nn.Sequential(*_layers(layer, rank, spatial))
    state = {"0.weight": first, "1.weight": second} | ({} if layer.bias is None else {"1.bias": layer.bias})
    pair.load_state_dict(state)
    return pair.train(layer.training)


def shares_weights(layer: nn.Module, network: nn.Module) -> bool:
    """Whether another module of the network holds a parameter of this layer, too; splitting it would store both."""
    own = {id(parameter) for parameter in layer.parameters()}
    held = [id(parameter) for module in network.modules() for parameter in module.parameters(recurse=False)]
    return any(held.count(each) > 1 for each in own)


def _halves(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(rows, rank) and (rank, columns): the best approximation of a matrix as a product, both of about the same size.

    By the eigenvectors of its smaller square, which take a fraction of a whole singular value decomposition.
    """
    if len(matrix) > matrix.shape[1]:
        right, left = _halves(matrix.T, rank)
        return left.T, right.T
    exact = matrix.double()
    values, vectors = torch.linalg.eigh(exact @ exact.T)
    basis, roots = vectors[:, -rank:], values[-rank:].clamp(min=1e-12) ** 0.25
    return (basis * roots).float(), ((basis.T @ exact) / roots[:, None]).float()


def _layers(layer: nn.Linear | nn.Conv1d | nn.Conv2d, rank: int, spatial: bool) -> tuple[nn.Module, nn.Module]:
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias)
    window: dict[str, Any] = {name: getattr(layer, name) for name in _NEUTRAL}
    kernel: dict[str, Any] = dict(_NEUTRAL)
    if spatial:
        kernel = {name: (n, window[name][1]) for name, n in _NEUTRAL.items()}
        window = {name: (window[name][0], n) for name, n in _NEUTRAL.items()}
    make: Any = partial(type(layer), padding_mode=layer.padding_mode)
    first = make(layer.in_channels, rank, bias=False, **window)
    return first, make(rank, layer.out_channels, bias=bias, **kernel)
