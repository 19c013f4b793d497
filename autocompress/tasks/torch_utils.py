"""Running networks: in evaluation mode, with their outputs as a tuple, repeatably."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.tasks.interface import Inputs, flat, values


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, so that shuffles and augmentations repeat."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int, *generators: torch.Generator | None) -> Iterator[None]:
    """Seed what `seed_everything` seeds, and torch generators, for a while; all are as they were afterwards."""
    own = [g for g in generators if g is not None]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state(), [g.get_state() for g in own]
    seed_everything(seed)
    for generator in own:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        for generator, state in zip(own, states[3], strict=True):
            generator.set_state(state)


@contextmanager
def in_known_operators() -> Iterator[None]:
    """Without the one operator in which torch computes a whole layer of a transformer where it can."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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


def outputs_of(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    """Run a model without gradients in evaluation mode; always a tuple: exits, then the network's own outputs.

    The model gets a copy: what it writes into its inputs reaches nobody else.
    """
    with torch.no_grad(), evaluating(model):
        return tuple(tensors_in(model(*(tensor.clone() for tensor in values(inputs)))))


def tables_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, tuple[str, int]]:
    """Inputs that go into an embedding as they are, each with the name of the smallest such one and its rows."""
    given = {name: tensor.clone() for name, tensor in inputs.items()}
    found: dict[str, tuple[str, int]] = {}

    def look(path: str, module: nn.Embedding, args: tuple[Any, ...]) -> None:
        for name, tensor in given.items():
            same = args and isinstance(args[0], Tensor) and args[0].data_ptr() == tensor.data_ptr()
            if same and module.num_embeddings < found.get(name, ("", sys.maxsize))[1]:
                found[name] = path, module.num_embeddings

    hooks = [
        module.register_forward_pre_hook(lambda module, args, path=path: look(path, module, args))
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    ]
    try:
        with torch.no_grad(), evaluating(model):
            model(*given.values())
    finally:
        for hook in hooks:
            hook.remove()
    return found


def tensors_in(output: object) -> Iterator[Tensor]:
    """All tensors that a network returned, whatever lists, tuples, dicts and dataclasses they are in."""
    yield from flat(output).values()
