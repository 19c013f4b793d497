"""Checks that removing channels does the same as letting the next layers read zeros in their place.

Torch-Pruning follows indices through reshapes, concatenations and slices by rules of its own. Where a rule is missing
or wrong, one layer loses other channels than the layer that reads them: shapes fit and the network is silently wrong.
So every group is tried: the pruned network must answer as the whole one whose next layers have zero weights there.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from autocompress.errors import CandidateError, first_line
from autocompress.graph.channels import ChannelGroup, ChannelPruner
from autocompress.networks import outputs_of

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}
"""Largest difference of two outputs that compute the same, relative to the largest output."""
_CPU_S = 25.0
"""For the trials of all groups of a network; what is not tried until then is left alone."""
_NOISE = 0.2

Removal = Mapping[str, Sequence[int]]
"""Units to be removed, by the name of their group."""


def check_removal(
    pruner: ChannelPruner, removal: Removal, samples: Tensor, tolerance: float | None = None
) -> Callable[[], str]:
    """Run the network with zeros read in place of the doomed channels; to be called before they are removed.

    Args:
        pruner: of the network, which is as before afterwards.
        removal: what is going to be removed.
        samples: inputs, shape (N, ...), of the network's own type.
        tolerance: relative; by default that of the samples' type.

    Returns:
        To be called when they are removed: why the network is another one now, or "" where it is the same.
    """
    limit = tolerance or TOLERANCE[samples.dtype]
    norms = _NormStatistics()
    with _restored(pruner), norms:
        for group in pruner.groups:
            if units := removal.get(group.name):
                pruner.silence(group, units)
        expected = outputs_of(pruner.model, samples)

    def verdict() -> str:
        with norms.replayed():
            got = outputs_of(pruner.model, samples)
        shapes = [[tuple(o.shape) for o in outputs] for outputs in (got, expected)]
        if shapes[0] != shapes[1]:
            return f"the output would have the shape {shapes[0]} instead of {shapes[1]}"
        for mine, whole in zip(got, expected, strict=True):
            scale = float(whole.abs().max()) if whole.numel() else 0.0
            difference = float((mine - whole).abs().max()) if whole.numel() else 0.0
            if not difference <= limit * scale + 1e-12:
                return "removing its channels does not do the same as setting them to zero"
        return ""

    return verdict


def sound_groups(
    model: nn.Module, samples: Tensor, protected: Sequence[str], order: Sequence[str]
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups of a network that can be pruned, and the others with the reason.

    The first, the middle, the last unit and a pair of units of all groups are removed at once; where the result is
    wrong, the groups are halved until the wrong ones are found.

    Args:
        model: not changed.
        samples: real inputs, shape (N, ...).
        protected: layers whose outputs must stay as they are.
        order: names of the layers in order of execution.
    """
    probe = _Probe(model, samples, protected, order)
    refused = dict(probe.pruner.refused)
    usable: list[ChannelGroup] = []
    for group in probe.pruner.groups:
        if group.n_units // group.n_parts < 2:
            refused[group.name] = "it has a single unit"
        elif group.name in {g.name for g in usable}:
            refused[f"{group.name} (again)"] = "the layer makes channels of two groups"
        else:
            usable.append(group)
    for units_of in (_first, _middle, _last, _pair):
        usable = probe.accepted(usable, [], units_of, refused)
    return usable, refused


def _count(group: ChannelGroup) -> int:
    return group.n_units // group.n_parts


def _first(group: ChannelGroup) -> list[int]:
    return [0]


def _middle(group: ChannelGroup) -> list[int]:
    return [_count(group) // 2]


def _last(group: ChannelGroup) -> list[int]:
    return [_count(group) - 1]


def _pair(group: ChannelGroup) -> list[int]:
    n = _count(group)
    return [n // 3, n - 2] if n > 3 and n // 3 != n - 2 else [0]


class _Probe:
    """A copy of a network that is pruned again and again."""

    def __init__(self, model: nn.Module, samples: Tensor, protected: Sequence[str], order: Sequence[str]) -> None:
        copied, self.samples = _generic(model, samples)
        self.pruner = ChannelPruner(copied, self.samples[:1], protected, order)
        self._deadline = time.process_time() + _CPU_S
        self._known: dict[tuple[Any, ...], str] = {}

    def accepted(
        self,
        candidates: list[ChannelGroup],
        sound: list[ChannelGroup],
        units_of: Callable[[ChannelGroup], list[int]],
        refused: dict[str, str],
    ) -> list[ChannelGroup]:
        """`sound` and those candidates that can be pruned together with it; why not the others goes to `refused`."""
        if not candidates:
            return sound
        reason = self._fault([*sound, *candidates], units_of)
        if not reason:
            return [*sound, *candidates]
        if len(candidates) == 1:
            refused[candidates[0].name] = reason
            return sound
        half = len(candidates) // 2
        sound = self.accepted(candidates[:half], sound, units_of, refused)
        return self.accepted(candidates[half:], sound, units_of, refused)

    def _fault(self, groups: Sequence[ChannelGroup], units_of: Callable[[ChannelGroup], list[int]]) -> str:
        if time.process_time() > self._deadline:
            return f"it was not tried: the trials of this network ended after {_CPU_S:.0f} s of processor time"
        removal = {group.name: units_of(group) for group in groups}
        with _restored(self.pruner):
            try:
                before = sum(p.numel() for p in self.pruner.model.parameters())
                verdict = check_removal(self.pruner, removal, self.samples)
                for group in groups:
                    self.pruner.remove(group, removal[group.name])
                if sum(p.numel() for p in self.pruner.model.parameters()) >= before:
                    return "nothing would be removed"
                return verdict()
            except Exception as error:  # Torch-Pruning, and the network with other shapes, raise anything
                return f"{type(error).__name__}: {first_line(error)}"[:160]


def _generic(model: nn.Module, samples: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy whose outputs depend on every channel, in double precision where the network runs in it.

    Weights get noise: a channel that is zero already, or a branch scaled by 1e-6, would hide that it is mistaken for
    another one.
    """
    generator = torch.Generator().manual_seed(0)
    for noise, dtype in ((_NOISE, torch.float64), (0.0, torch.float64), (_NOISE, torch.float32)):
        copied, inputs = copy.deepcopy(model).to(dtype), samples.to(dtype)
        with torch.no_grad():
            for parameter in copied.parameters():
                spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
                least = 0.1 if parameter.dim() < 2 else 0.02
                scale = noise * spread if spread > 0 and parameter.dim() > 1 else max(noise * spread, least)
                if noise and parameter.is_floating_point():
                    parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=dtype) * scale)
        try:
            if all(torch.isfinite(output).all() for output in outputs_of(copied, inputs)):
                return copied, inputs
        except Exception:  # the network's own code may hold to float32
            continue
    return copy.deepcopy(model), samples


@contextmanager
def _restored(pruner: ChannelPruner) -> Iterator[None]:
    """Whatever is pruned or set inside, the network and its dependency graph are as before afterwards."""
    graph = pruner.graph
    modules = [*pruner.model.modules(), *(m for m in graph.module2node if isinstance(m, nn.Module))]
    states = [{k: copy.copy(v) if isinstance(v, (dict, list)) else v for k, v in m.__dict__.items()} for m in modules]
    data = [(p, p.data) for p in (*pruner.model.parameters(), *pruner.model.buffers())]
    nodes, names = dict(graph.module2node), dict(graph._param_to_name)
    try:
        yield
    finally:
        for module, state in zip(modules, states, strict=True):
            module.__dict__.clear()
            module.__dict__.update(state)
        for tensor, values in data:
            tensor.data = values
        graph.module2node, graph._param_to_name = nodes, names
        for module, node in nodes.items():
            node.module = module


class _NormStatistics(TorchFunctionMode):
    """Keeps mean and variance of every normalisation over channels, and puts them into another run.

    A normalisation over all channels of a token sees that some are missing, in every method of pruning. With the same
    statistics in both runs that is no difference, and only channels taken for other ones are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._next: Iterator[tuple[Tensor, Tensor]] | None = None

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Use what was kept."""
        self._next = iter(self._kept)
        with self:
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        kwargs = kwargs or {}
        if func not in (F.layer_norm, F.group_norm, F.rms_norm):
            return func(*args, **kwargs)
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        x, grouped = given.arguments["input"], func is F.group_norm
        view = x.reshape(len(x), given.arguments["num_groups"], -1) if grouped else x
        dims = (2,) if grouped else tuple(range(-len(given.arguments["normalized_shape"]), 0))
        if self._next is None:
            mean = view.mean(dims, keepdim=True) * (func is not F.rms_norm)
            self._kept.append((mean, ((view - mean) ** 2).mean(dims, keepdim=True)))
            return func(*args, **kwargs)
        mean, variance = next(self._next)
        eps = given.arguments["eps"] or torch.finfo(x.dtype).eps
        result = ((view - mean) / (variance + eps).sqrt()).reshape(x.shape)
        for name, combine in (("weight", torch.mul), ("bias", torch.add)):
            parameter = given.arguments.get(name)
            if parameter is not None:
                result = combine(result, parameter.view(1, -1, *[1] * (x.dim() - 2)) if grouped else parameter)
        return result


def prunable_share(model: nn.Module, groups: Sequence[ChannelGroup]) -> float:
    """Share of the parameters, from 0 to 1, that belong to layers which lose something with some group."""
    owned = {m for group in groups for m in group.modules}
    touched = {id(p): p.numel() for m in owned for p in ([m] if isinstance(m, Tensor) else m.parameters(recurse=False))}
    return sum(touched.values()) / max(1, sum(p.numel() for p in model.parameters()))


def refuse_difference(verdict: str) -> None:
    """Raise what a check found.

    Raises:
        CandidateError: the pruned network is another one than that with zeros.
    """
    if verdict:
        raise CandidateError(f"prune: {verdict}; this network cannot be pruned so, report it")


__all__ = ["TOLERANCE", "Removal", "check_removal", "prunable_share", "refuse_difference", "sound_groups"]
