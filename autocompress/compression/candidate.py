"""A model on its way through a recipe, and the context that the stages work in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from autocompress.compression.analysis import NetworkAnalysis
from autocompress.compression.exit_heads import MultiExit
from autocompress.compression.fingerprint import fingerprint
from autocompress.compression.quantize import Quantize
from autocompress.tasks.task import Task

_BACKBONE = "backbone."
"""Where `MultiExit` keeps the user's network; it may have a module of that name itself."""


@dataclass(frozen=True)
class Candidate:
    """A compressed model under way. Stages return a new one and leave the old one as it was."""

    model: nn.Module
    quantization: Quantize | None = None
    """The NUMERICS stage to be carried out on the exported graph, or None."""
    thresholds: tuple[float, ...] = ()
    removed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Channels removed from each group, by their indices in the original."""
    whole: nn.Module | None = None
    """The network that `removed` was removed from; None where nothing was."""
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What stages did that the model does not show, but training or the file depends on, as plain data."""

    @cached_property
    def fingerprint(self) -> str:
        """What the candidate is: equal ones, whatever recipes they come from, share trained weights and files."""
        numerics = repr(self.quantization)
        return fingerprint((self.model, numerics, self.thresholds, dict(self.removed), dict(self.facts)))

    @property
    def exits(self) -> tuple[str, ...]:
        """Places of the early exits, in order of execution."""
        return self.model.places if isinstance(self.model, MultiExit) else ()

    @property
    def backbone(self) -> nn.Module:
        """The user's own network inside."""
        return self.model.backbone if isinstance(self.model, MultiExit) else self.model

    def path_of(self, name: str) -> str:
        """The path, within the candidate's model, of a module of the user's network."""
        return f"{_BACKBONE}{name}" if self.exits else name

    def own_name(self, path: str) -> str:
        """The reverse: what the user's network calls a module of the candidate's model."""
        return path.removeprefix(_BACKBONE) if self.exits else path

    def gone(self, names: Iterable[str]) -> list[str]:
        """Those of the user's layers, or of the groups of channels named after them, that stages have taken away."""
        modules = dict(self.backbone.named_modules())
        return [name for name in names if name.partition("#")[0] not in modules]

    def stage_of(self, path: str, analysis: NetworkAnalysis) -> str:
        """The stage of a layer of the candidate's model; "exits" for the heads of early exits."""
        if self.exits and not path.startswith(_BACKBONE):
            return "exits"
        return analysis.stage_of(self.own_name(path))

    def copy_model(self) -> nn.Module:
        """An independent copy of the model."""
        return copy.deepcopy(self.model)

    def evolve(self, note: str = "", **changes: Any) -> Candidate:
        """A new candidate with some fields changed and a note on what was done."""
        notes = (*self.notes, note) if note else self.notes
        return replace(self, notes=notes, **changes)


@dataclass
class Context:
    """What stages may use besides the candidate: the task, the seed, the teacher, and results worth keeping."""

    task: Task
    analysis: NetworkAnalysis
    seed: int = 0
    progress: Callable[[str], None] = lambda message: None
    memo: dict[Any, Any] = field(default_factory=dict)
    """Results that depend on the base model only, such as importances; shared by all candidates."""
    layer_ms: Callable[[Candidate], Mapping[str, float]] | None = None
    """Predicts how long each layer of a candidate takes on the device, in int8 where it executes that; None where no
    device is known."""

    @cached_property
    def origin(self) -> str:
        """What every training starts from, by content: the original network, the teacher, data, loss and seed."""
        task = self.task
        return fingerprint(
            (task.model, self.teacher, task.data_sha256, task.training_sha256, _digests(task), self.seed)
        )

    @property
    def teacher(self) -> nn.Module:
        """The network to distil from."""
        return self.task.model if self.task.teacher is None else self.task.teacher

    @property
    def anatomy(self) -> NetworkAnalysis:
        """`analysis`, as it was called before; for techniques that were written then."""
        return self.analysis


Workshop = Context
"""As it was called before; for techniques that were written then."""


def _digests(task: Task) -> dict[str, str]:
    """Of the code and the data that training uses, wherever they stand in their files."""
    return {key: digest.partition(" ")[0] for key, digest in sorted(task.training_identity.items())}
