"""Weights that are 0 and stay 0 in training: a mask beside them, applied after every step."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.compression.candidate import Candidate

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_MASK = "weight_mask"
"""The buffer of a layer: False where its weight stays 0."""


def put_mask(layer: nn.Module, mask: Tensor) -> None:
    """Set the weights of a layer to 0 where a mask of their shape is False, for good."""
    layer.register_buffer(_MASK, mask)
    _apply(layer, mask)


def hold_masks(model: nn.Module) -> None:
    """Set the weights that have a mask back to 0 where they are to stay so, after a step of an optimizer."""
    for module in model.modules():
        mask = module._buffers.get(_MASK)
        if mask is not None:
            _apply(module, mask)


@torch.no_grad()
def _apply(layer: nn.Module, mask: Tensor) -> None:
    layer.weight.mul_(mask)  # type: ignore[operator]


def layers_of(candidate: Candidate, model: nn.Module, known: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The convolutions and linear layers of a model that are layers of the user's, or parts of one, with their names.

    Args:
        candidate: says what the user's network calls a module of its model.
        model: a copy of that.
        known: names of the user's layers.
    """
    for path, module in model.named_modules():
        name = candidate.own_name(path)
        whole = next((n for n in (name, name.rpartition(".")[0]) if n in known), None)
        if whole and type(module) in _LAYERS:
            yield name, module


def largest(weight: Tensor, ratio: float, group: int = 0) -> Tensor:
    """Where the largest weights are that stay when a share of them becomes 0.

    Args:
        weight: (outputs, inputs, ...).
        ratio: the share.
        group: of so many inputs in a row, at each position of the window, the same number stays; 0: of all weights.
            The last inputs, too few for a group, stay.
    """
    if not group:
        order = weight.detach().abs().flatten().argsort(stable=True)
        mask = torch.ones_like(order, dtype=torch.bool)
        mask[order[: int(ratio * len(order))]] = False
        return mask.view(weight.shape)
    rows = weight.detach().abs().transpose(1, -1)  # inputs last
    n = rows.shape[-1] // group * group
    pieces = rows[..., :n].reshape(*rows.shape[:-1], -1, group)
    keep = group - round(ratio * group)
    ranks = pieces.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1, stable=True)
    kept = torch.ones_like(rows, dtype=torch.bool)
    kept[..., :n] = (ranks < keep).flatten(-2)
    return kept.transpose(1, -1).contiguous()
