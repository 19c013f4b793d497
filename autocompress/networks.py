"""Running networks: in evaluation mode, with their outputs as a tuple, repeatably."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, so that shuffles and augmentations repeat."""
    import random

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class evaluating:
    """Put a module into evaluation mode for a while, every submodule back as it was afterwards."""

    def __init__(self, module: nn.Module) -> None:
        self.modes = [(m, m.training) for m in module.modules()]

    def __enter__(self) -> None:
        for module, _ in self.modes:
            module.training = False

    def __exit__(self, *_: object) -> None:
        for module, mode in self.modes:
            module.training = mode


def outputs_of(model: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
    """Run a model without gradients in evaluation mode; always a tuple, one tensor per exit."""
    with torch.no_grad(), evaluating(model):
        output = model(inputs)
    return output if isinstance(output, tuple) else (output,)
