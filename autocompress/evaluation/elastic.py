"""One set of weights for all smaller versions of a network: trained once, it gives each of them a good start.

A sub-network is the smaller network itself, run with slices of the shared weights; its gradients flow into them. So
it equals the smaller network exactly, whatever its layers are, and costs no more than that in training. Which technique
made it smaller does not matter: its untrained weights must be those of the original, or slices of them.

References: Yu and Huang, Universally slimmable networks, arXiv 1903.05134 (the largest, the smallest and random
sub-networks in every step); Cai et al., Once-for-all, arXiv 1908.09791 (their distillation from the whole network).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.channels import ChannelPruner
from autocompress.compression.exit_heads import ExitHead, MultiExit
from autocompress.compression.fingerprint import fingerprint
from autocompress.compression.stage import Phase
from autocompress.compression.training import (
    Distillation,
    Schedule,
    channels_last,
    fit,
    reestimate_batchnorm,
    seconds_per_epoch,
    to_layout,
)
from autocompress.errors import CandidateError, InputError, StudyError
from autocompress.files import Folder, json_object
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.interface import Arrays, arrays, take, tensors
from autocompress.tasks.metric import Score
from autocompress.tasks.torch_utils import outputs_of, tensors_in

SCHEDULE = Schedule(epochs=8, learning_rate=0.05, clip=1.0)
DISTILLATION = Distillation(temperature=4.0, weight=0.7, exit_weight=1.0)
_RANDOM = 2
"""Random sub-networks in every step, besides the smallest and the whole one."""
_MOST_EPOCHS = 10**6
_POOL = 16
"""Sub-networks ready for use; pruning one takes about as long as a step, so each serves for some steps."""
_POOL_STEPS = 32
"""Steps after which they are replaced by others."""

Slices = Mapping[str, tuple[Tensor | None, ...]]
"""For each parameter of a sub-network and each of its axes, the indices in the original, or None for all."""


class NotCarried(CandidateError):
    """The shared weights do not hold those of a candidate."""


class SharedNetwork(nn.Module):
    """The user's network with an exit head for every place and kind of head that was asked for.

    Its weights are those of all sub-networks.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(model)
        self.heads = nn.ModuleDict()

    def add_heads(self, candidate: Candidate) -> None:
        """Take over the exit heads of an unpruned candidate, where they are new."""
        if isinstance(candidate.model, MultiExit):
            for place, head in zip(candidate.model.places, candidate.model.heads, strict=True):
                if (key := _head_key(place, head)) not in self.heads:
                    self.heads[key] = copy.deepcopy(head)

    def whole(self, candidate: Candidate) -> nn.Module:
        """The original network with the exits of a candidate, made of the shared weights."""
        if not isinstance(candidate.model, MultiExit):
            return self.backbone
        keys = [
            _head_key(place, head) for place, head in zip(candidate.model.places, candidate.model.heads, strict=True)
        ]
        if missing := [key for key in keys if key not in self.heads]:
            raise NotCarried(f"elastic: no exit head {missing[0]!r} was trained; trained: {', '.join(self.heads)}")
        return MultiExit(self.backbone, dict(zip(candidate.model.places, map(self._head, keys), strict=True)))

    def _head(self, key: str) -> ExitHead:
        head = self.heads[key]
        assert isinstance(head, ExitHead)
        return head


class SubNetwork:
    """A smaller network that runs with slices of the shared weights.

    Args:
        candidate: carried out up to and with its STRUCTURE stages, untrained. Its model is used as the frame.
        shared: holds the weights.
        context: that of the candidate.

    Raises:
        NotCarried: its weights are not slices of the original's.
    """

    def __init__(self, candidate: Candidate, shared: SharedNetwork, context: Context) -> None:
        self.frame = candidate.copy_model().requires_grad_(False)
        whole = shared.whole(candidate)
        self._parameters = dict(whole.named_parameters())
        self._slices = slices_of(candidate, whole, context)

    def weights(self) -> dict[str, Tensor]:
        """The parameters of the smaller network, as functions of the shared ones."""
        return {name: _cut(self._parameters[name], axes) for name, axes in self._slices.items()}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it: inputs by position, each (N, ...), to the outputs of all exits, the network's own last."""
        return tuple(tensors_in(torch.func.functional_call(self.frame, self.weights(), inputs)))


def slices_of(candidate: Candidate, whole: nn.Module, context: Context) -> Slices:
    """Find out which part of each parameter of the original is left in a candidate.

    A copy of the network that channels were removed from holds flat indices instead of its weights and loses the same
    channels; what it then holds is where the values come from.

    Args:
        candidate: untrained.
        whole: the original network with the candidate's exits.
        context: that of the candidate.

    Raises:
        NotCarried: a parameter is not one of the original, or not a slice along its axes.
    """
    before = candidate.model if candidate.whole is None else candidate.whole
    shapes = {name: tuple(p.shape) for name, p in whole.named_parameters()}
    for name, parameter in before.named_parameters():
        if shapes.get(name) != tuple(parameter.shape):
            raise NotCarried(f"elastic: {name} is not a parameter of the original network")
    tagged = copy.deepcopy(before)
    if candidate.removed:
        order = [candidate.path_of(name) for name in context.analysis.layers]
        pruner = ChannelPruner(tagged, take(context.task.inputs, slice(1)), order)
        _tag(tagged)
        for group in pruner.groups:
            pruner.remove(group, group.units_of(candidate.removed.get(group.name, ())))
    else:
        _tag(tagged)
    left, values = dict(tagged.named_parameters()), dict(candidate.model.named_parameters())
    if {name: p.shape for name, p in left.items()} != {name: p.shape for name, p in values.items()}:
        raise NotCarried("elastic: the parameters of the network are not those of the original, made smaller")
    slices = {name: _axes(name, tags.detach().long(), shapes[name]) for name, tags in left.items()}
    for name, original in context.task.model.named_parameters():
        path = candidate.path_of(name)
        if path in slices and not torch.equal(_cut(original, slices[path]), values[path]):
            raise NotCarried(f"elastic: the values of {path} are not a slice of the original's")
    return slices


@dataclass(frozen=True)
class KeptElastic:
    """What another process needs to make the same `Elastic`."""

    key: str
    backbone: Mapping[str, Tensor]
    heads: nn.ModuleDict


class Elastic:
    """Trained shared weights, and what they are good for. Made by `Elastic.train`."""

    def __init__(self, context: Context, shared: SharedNetwork, key: str) -> None:
        self.context = context
        self.shared = shared
        self.key = key
        """Stands for everything that led to the weights."""

    @classmethod
    def train(
        cls,
        context: Context,
        recipes: Sequence[Recipe],
        *,
        schedule: Schedule = SCHEDULE,
        distillation: Distillation = DISTILLATION,
        folder: Path | None = None,
        max_seconds: float = math.inf,
    ) -> Elastic:
        """Train shared weights, or go on where an earlier call was interrupted, at its last whole epoch.

        Args:
            context: the task and the analysis of its network.
            recipes: what sub-networks to train, by their STRUCTURE stages: the smallest one first, then random ones
                of the space that is searched.
            schedule: of the training.
            distillation: of every sub-network, from the context's teacher.
            folder: where the weights are kept, by the content of everything that leads to them, or nowhere.
            max_seconds: fewer epochs are trained where all of them would take longer, but at least one. How many is
                settled when the training begins.

        Raises:
            InputError: there is no recipe, or no training data.
            NotCarried: sub-networks of some combination of stages do not consist of slices of the network.
            CandidateError: the loss became infinite or NaN.
        """
        if not recipes:
            raise InputError("elastic: needs one or more recipes to take sub-networks from")
        task = context.task
        if not task.trainable:
            raise InputError("elastic: the task brings no training data; use the stand-alone evaluator")
        structures = [recipe.upto(Phase.STRUCTURE) for recipe in recipes]
        settings = [repr(schedule), repr(distillation), _RANDOM, _POOL, _POOL_STEPS]
        key = fingerprint([context.origin, [r.digest() for r in structures], settings])
        shared = SharedNetwork(task.model)
        for recipe in {r.digest(): r for r in map(_exits_only, structures)}.values():
            with suppress(CandidateError):
                shared.add_heads(_carry_out(recipe, context))
        _check_carried(structures, shared, context)
        to_layout(shared, channels_last(context)).requires_grad_(True)
        sandwich = _Sandwich(shared, structures, context)
        path = folder / f"elastic-{key}" if folder else None
        epochs = _choose_epochs(sandwich, distillation, schedule.epochs, max_seconds, path)
        fit(
            sandwich,
            context,
            replace(schedule, epochs=epochs),
            distillation,
            title="elastic training",
            checkpoint=path,
        )
        return cls(context, _finished(shared), f"{key}.{epochs}")

    @classmethod
    def of(cls, context: Context, kept: KeptElastic) -> Elastic:
        """The same as in the process that `kept` comes from."""
        shared = SharedNetwork(context.task.model)
        shared.heads = copy.deepcopy(kept.heads)
        shared.backbone.load_state_dict(kept.backbone)
        return cls(context, _finished(shared), kept.key)

    def keep(self) -> KeptElastic:
        """For other processes. It holds none of the user's own classes, so that it can be pickled."""
        return KeptElastic(self.key, self.shared.backbone.state_dict(), self.shared.heads)

    def weights(self, candidate: Candidate) -> dict[str, Tensor]:
        """State for the model of an untrained candidate: shared weights, and its own BatchNorm statistics.

        Raises:
            NotCarried: its weights are not slices of the original's, or it has exits that were not trained.
        """
        part = SubNetwork(candidate, self.shared, self.context)
        state: dict[str, Tensor] = {**candidate.model.state_dict(), **part.weights()}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def start(self, candidate: Candidate) -> Candidate:
        """The candidate with the shared weights; its BatchNorm statistics are re-estimated.

        One that they do not hold starts from the original's weights, as it does without an elastic training.
        """
        try:
            return self._started(candidate)
        except NotCarried as error:
            return candidate.evolve(f"{error}: starts from the original's weights")

    def _started(self, candidate: Candidate) -> Candidate:
        model = candidate.copy_model()
        model.load_state_dict(self.weights(candidate))
        reestimate_batchnorm(model, self.context)
        return candidate.evolve("elastic: starts from the shared weights", model=model)

    def accuracy(self, candidate: Candidate) -> Score:
        """The metric on the validation split with shared weights: a proxy of what training will give, no result.

        It is that of the torch model in float32, at the network's own output, before any quantisation.

        Raises:
            NotCarried: the shared weights are not those of the candidate.
        """
        return torch_score(self._started(candidate).backbone, self.context)


class _Sandwich(nn.Module):
    """Runs the smallest, some random and the whole network: their outputs, the whole network's last."""

    steps: Tensor

    def __init__(self, shared: SharedNetwork, recipes: Sequence[Recipe], context: Context) -> None:
        super().__init__()
        self.shared = shared
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._recipes = recipes
        self.context = context
        self._smallest = self._part(recipes[0])
        self._pool: list[SubNetwork] = []
        self._pool_number = -1

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        step = int(self.steps)
        self.steps.add_(1)
        rng = np.random.default_rng([self.context.seed, step])
        pool = self._pool_for(step // _POOL_STEPS)
        parts = [self._smallest, *(pool[i] for i in rng.integers(len(pool), size=_RANDOM))]
        outputs = [output for part in parts for output in part(*inputs)]
        return (*outputs, *tensors_in(self.shared.backbone(*inputs)))

    def _pool_for(self, number: int) -> list[SubNetwork]:
        if number != self._pool_number:
            rng = np.random.default_rng([self.context.seed, number, 1])
            chosen = rng.choice(len(self._recipes), min(_POOL, len(self._recipes)), replace=False)
            self._pool = []
            for i in chosen:
                with suppress(CandidateError):  # a recipe that cannot be applied to this network
                    self._pool.append(self._part(self._recipes[i]))
            self._pool = self._pool or [self._smallest]
            self._pool_number = number
        return self._pool

    def _part(self, recipe: Recipe) -> SubNetwork:
        part = SubNetwork(_carry_out(recipe, self.context), self.shared, self.context)
        part.frame.train()
        return part


def _choose_epochs(
    sandwich: _Sandwich, distillation: Distillation, epochs: int, max_seconds: float, path: Path | None
) -> int:
    """The number of epochs: that of the first call, where the folder remembers it."""
    note = path.with_suffix(".json") if path else None
    if note and (kept := _read_note(note)):
        return kept
    if math.isfinite(max_seconds):
        before = copy.deepcopy(sandwich.state_dict())
        epochs = max(1, min(epochs, int(max_seconds / seconds_per_epoch(sandwich, sandwich.context, distillation))))
        sandwich.load_state_dict(before)
    if note:
        Folder(note.parent).write_json(note.name, {"epochs": epochs})
    return epochs


def _read_note(note: Path) -> int:
    """The number of epochs that was kept, or 0."""
    try:
        epochs = json_object(note.name, Folder(note.parent).read(note.name) or b"{}").get("epochs")
    except StudyError:
        return 0
    return epochs if isinstance(epochs, int) and 0 < epochs < _MOST_EPOCHS else 0


def _finished(shared: SharedNetwork) -> SharedNetwork:
    to_layout(shared, False).eval().requires_grad_(False)
    return shared


def _tag(model: nn.Module) -> None:
    """Put its flat index into each entry of each parameter; float64 holds them exactly."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).view(parameter.shape)


def _axes(name: str, left: Tensor, shape: Sequence[int]) -> tuple[Tensor | None, ...]:
    """Split the flat indices of what is left of a parameter into one set of indices for each axis."""
    if left.numel() == 0 or left.dim() != len(shape):
        raise NotCarried(f"elastic: the shape of {name} is no more {tuple(shape)}")
    where = torch.unravel_index(left, tuple(shape))
    axes: list[Tensor | None] = []
    again = torch.zeros((1,) * left.dim(), dtype=torch.long)
    for axis, (indices, size) in enumerate(zip(where, shape, strict=True)):
        line = indices[tuple(slice(None) if a == axis else slice(1) for a in range(left.dim()))]
        again = torch.add(again * size, line)
        kept = line.flatten()
        axes.append(None if torch.equal(kept, torch.arange(size)) else kept)
    if not torch.equal(again, left):
        raise NotCarried(f"elastic: what is left of {name} is not a slice of it")
    return tuple(axes)


def _cut(parameter: Tensor, axes: Sequence[Tensor | None]) -> Tensor:
    for axis, indices in enumerate(axes):
        if indices is not None:
            parameter = parameter.index_select(axis, indices)
    return parameter


def _head_key(place: str, head: nn.Module) -> str:
    """Tells heads apart; a module's name must not hold dots."""
    assert isinstance(head, ExitHead)
    hidden = 0 if isinstance(head.body, nn.Identity) else head.classifier.in_features
    return f"{place} {hidden}".replace(".", "/")


def _check_carried(structures: Sequence[Recipe], shared: SharedNetwork, context: Context) -> None:
    """Find out before any training whether networks of each combination of stages can share the weights.

    Raises:
        NotCarried: those of one cannot.
    """
    for recipe in {tuple(stage.technique for stage in r.stages): r for r in reversed(structures)}.values():
        candidate = None
        with suppress(CandidateError):  # a recipe that cannot be applied to this network
            candidate = _carry_out(recipe, context)
        if candidate is not None:
            SubNetwork(candidate, shared, context)


def _exits_only(recipe: Recipe) -> Recipe:
    return Recipe(stages=tuple(stage for stage in recipe.stages if stage.thresholds_by))


def _carry_out(recipe: Recipe, context: Context) -> Candidate:
    candidate = Candidate(context.task.model)
    for stage in recipe.stages:
        candidate = stage.apply(candidate, context)
    return candidate


def torch_score(model: nn.Module, context: Context) -> Score:
    """The metric of a torch model on the validation split."""

    def predict(inputs: Arrays) -> Arrays:
        outputs = arrays(outputs_of(model, tensors(inputs)))
        return dict(zip(context.task.outputs.names, outputs, strict=True))

    return context.task.score(predict, "validation")
