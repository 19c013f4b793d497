"""Blocks that a network can lose: their output has the shape of their input, and a way leads around their layers."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autocompress.tasks.interface import Inputs, arrays, tensors
from autocompress.tasks.torch_utils import evaluating, outputs_of

if TYPE_CHECKING:
    from autocompress.compression.candidate import Context

_SAMPLES = 256
_MOST_MACS = 4e11
"""Of all runs together: some ten seconds of one core. A large network is looked at on fewer samples."""
_FEWEST = 16


class Passed(nn.Module):
    """Stands where a block was: its first input comes out."""

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """Return the first input, whatever its shape."""
        return x


def leave_out(model: nn.Module, name: str) -> None:
    """Take a block away, in place."""
    model.set_submodule(name, Passed())


@dataclass(frozen=True, slots=True)
class _Call:
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    output: object

    @property
    def keeps_shape(self) -> bool:
        shapes = [
            tensor.shape if isinstance(tensor, Tensor) and tensor.is_floating_point() else None
            for tensor in (*self.inputs[:1], self.output)
        ]
        return len(shapes) == 2 and shapes[0] is not None and shapes[0] == shapes[1]


def find_blocks(model: nn.Module, example: Inputs, layers: Collection[str]) -> list[str]:
    """Blocks without which the network runs, in order of execution.

    A way leads around the layers of a block: with all their weights at zero its output still depends on its input, as
    in residual, inverted-residual and transformer blocks, whatever they are called. A block that is made of several
    smaller ones is not listed, but these are.

    Args:
        model: the network.
        example: inputs, each (1, ...).
        layers: names of its convolutions and linear layers.
    """
    calls = _calls(model, example, layers)
    found = [n for n, call in calls.items() if call.keeps_shape and _has_way_around(model.get_submodule(n), call)]
    units = _units(found, layers)
    whole, trial = outputs_of(model, example), copy.deepcopy(model) if units else model
    return [block for block in units if _runs_without(trial, block, example, whole)]


def _calls(model: nn.Module, example: Inputs, layers: Collection[str]) -> dict[str, _Call]:
    """The call of each module around layers that is called once, in order of execution."""
    calls: dict[str, list[_Call]] = {}
    paths = [layer.split(".") for layer in layers]
    around = {".".join(path[:i]) for path in paths for i in range(1, len(path))}

    def record(name: str, inputs: tuple[Any, ...], options: dict[str, Any], output: object) -> None:
        calls.setdefault(name, []).append(_Call(inputs, options, output))

    hooks = [
        module.register_forward_hook(
            lambda _, args, kwargs, out, n=name: record(n, args, kwargs, out), with_kwargs=True
        )
        for name, module in model.named_modules()
        if name in around
    ]
    try:
        outputs_of(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: every[0] for name, every in calls.items() if len(every) == 1}


def _has_way_around(block: nn.Module, call: _Call) -> bool:
    matrices = {name: p for name, p in block.named_parameters() if p.dim() > 1}  # no scales: they may lie on the way
    zeros = {name: torch.zeros_like(p) for name, p in matrices.items()}
    x, *others = call.inputs
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    try:
        with torch.no_grad(), evaluating(block):
            one, other = (
                torch.func.functional_call(block, zeros, (given, *others), call.options)
                for given in (x.clone(), x + noise)
            )
    except Exception:  # the user's code, run in other ways than usual, raises anything
        return False
    finite = bool(torch.isfinite(one).all() and torch.isfinite(other).all())
    return finite and not torch.equal(one, other)


def _units(found: Sequence[str], layers: Collection[str]) -> list[str]:
    """The innermost blocks that can be left out: one that consists of several of them is replaced by these."""

    def inside(block: str, names: Collection[str]) -> list[str]:
        return [name for name in names if name.startswith(f"{block}.")]

    def is_made_of_others(block: str) -> bool:
        smaller = inside(block, found)
        covered = {layer for other in smaller for layer in inside(other, layers)}
        return covered >= set(inside(block, layers)) and sum(not inside(other, found) for other in smaller) > 1

    kept = [block for block in found if not is_made_of_others(block)]
    within = {name for block in kept for name in inside(block, kept)}
    return [block for block in kept if block not in within]


def _runs_without(model: nn.Module, name: str, example: Inputs, whole: Sequence[Tensor]) -> bool:
    try:
        with _without(model, name):
            left = outputs_of(model, example)
    except Exception:  # as above
        return False
    return [tensor.shape for tensor in left] == [tensor.shape for tensor in whole]


@contextmanager
def _without(model: nn.Module, name: str) -> Iterator[None]:
    block = model.get_submodule(name)
    leave_out(model, name)
    try:
        yield
    finally:
        model.set_submodule(name, block)


def least_missed(context: Context) -> Mapping[str, str]:
    """The blocks of the untouched network with their stages, those first that are missed least for the time they take.

    How much one is missed is the damage to the outputs on calibration samples when it alone is left out, measured once
    per context. Time is that of its layers on the device; where none is known all blocks take the same.
    """
    if least_missed not in context.memo:
        damage, ms, blocks = _damage(context), _time(context), context.analysis.blocks
        order = sorted(blocks, key=lambda block: damage[block] / ms[block])
        context.memo[least_missed] = {block: blocks[block] for block in order}
    found: Mapping[str, str] = context.memo[least_missed]
    return found


def _damage(context: Context) -> dict[str, float]:
    task, blocks = context.task, context.analysis.blocks
    most = _MOST_MACS / max(1, context.analysis.macs * len(blocks))
    batches = task.calibration_batches(int(min(_SAMPLES, max(_FEWEST, most))), context.seed)
    model = copy.deepcopy(task.model)
    whole, missed = _answers(model, batches), {}
    for name in blocks:
        with _without(model, name):
            missed[name] = task.damage(_answers(model, batches), whole)
    return missed


def _answers(model: nn.Module, batches: Sequence[Any]) -> list[list[Any]]:
    """What the network returns for each batch."""
    return [list(arrays(outputs_of(model, tensors(batch)))) for batch in batches]


def _time(context: Context) -> Mapping[str, float]:
    from autocompress.compression.candidate import Candidate

    layer_ms = context.layer_ms(Candidate(context.task.model)) if context.layer_ms else {}
    blocks = context.analysis.blocks
    sums = {block: sum(ms for layer, ms in layer_ms.items() if layer.startswith(f"{block}.")) for block in blocks}
    return sums if all(sums.values()) else dict.fromkeys(blocks, 1.0)
