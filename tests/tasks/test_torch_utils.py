from __future__ import annotations

import pytest
import torch
from helpers.zoo import ZOO
from torch import nn

from autocompress.tasks.torch_utils import evaluating, outputs_of


def test_evaluating_restores_every_module() -> None:
    model, _ = ZOO["resnet"]()
    model.train()
    model.stem.eval()
    before = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), evaluating(model):
        assert not any(m.training for m in model.modules())
        raise RuntimeError("stop")
    assert [m.training for m in model.modules()] == before and len(set(before)) == 2


def test_outputs_are_a_tuple_without_gradients() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train()
    x = torch.ones(4, 3)
    [out] = outputs_of(model, x)
    assert not out.requires_grad and model.training
    assert torch.equal(out, outputs_of(model, x)[0])  # no dropout
