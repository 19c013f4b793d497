from __future__ import annotations

import pytest
import torch

from autocompress.compression.masks import hold_masks, largest, put_mask


def test_the_smallest_weights_go() -> None:
    weight = torch.tensor([[1.0, -4.0], [0.5, 3.0]])
    assert largest(weight, 0.5).tolist() == [[False, True], [False, True]]
    assert largest(weight, 0.0).all() and not largest(weight, 1.0).any()


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 5), (6, 8, 3, 3)])
def test_of_each_group_of_inputs_the_same_number_stays(shape: tuple[int, ...]) -> None:
    mask = largest(torch.randn(shape, generator=torch.Generator().manual_seed(0)), 0.5, 4)
    groups = mask.transpose(1, -1).reshape(-1, 4)
    assert (groups.sum(1) == 2).all()


def test_inputs_that_are_too_few_for_a_group_stay() -> None:
    mask = largest(torch.randn(4, 10), 0.75, 8)
    assert mask[:, 8:].all() and (mask[:, :8].sum(1) == 2).all()
    assert largest(torch.randn(4, 1, 3, 3), 0.5, 4).all()  # depthwise


def test_what_a_step_changed_becomes_0_again() -> None:
    layer = torch.nn.Linear(4, 2)
    put_mask(layer, largest(layer.weight, 0.5))
    zeros = layer.weight == 0
    with torch.no_grad():
        layer.weight.add_(1)
    hold_masks(torch.nn.Sequential(layer))
    assert torch.equal(layer.weight == 0, zeros) and zeros.sum() == 4
