"""What a technique is: a stage of a recipe, its phase, and what a search must know of it. No torch is imported here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

from autocompress.compression.structure import NetworkStructure, Parts
from autocompress.compression.tables import table_changes

if TYPE_CHECKING:
    from autocompress.compression.candidate import Candidate, Context
    from autocompress.compression.gains import Bench, Knob
    from autocompress.devices.profile import DeviceProfile


class Phase(IntEnum):
    """When a stage runs: from expensive to cheap, so that recipes with a common beginning share its cost."""

    STRUCTURE = 0
    """Shapes: exits attached, channels removed."""
    TRAINING = 1
    """Weights: fine-tuning, distillation."""
    NUMERICS = 2
    """Number formats: quantisation, with or without training."""
    RUNTIME = 3
    """What can be set in the finished file: exit thresholds."""


def _round_number(value: float) -> float:
    """Six significant digits: 0.1 + 0.2 must not make another recipe than 0.3."""
    return float(f"{value:.6g}")


Number = Annotated[float, AfterValidator(_round_number)]
"""A float field of a stage."""


Setting = float | int | str | bool
"""One value of a field of a stage."""


@dataclass(frozen=True, slots=True)
class TableField:
    """A field that may have one value for each part of a network: what a search must know to draw from it."""

    over: Parts
    """Which parts have values of their own."""
    neutral: Setting
    """The value that leaves a part as it is."""
    strongest: Literal["high", "low", "any"]
    """The end of a domain that compresses most; "any": it depends on the device, so the values are listed in a choice
    and each of them is tried."""
    unnamed: Setting | None = None
    """What a part has that a table does not name; None stands for `neutral`."""

    @property
    def default(self) -> Setting:
        """What a part has that a table does not name."""
        return self.neutral if self.unnamed is None else self.unnamed


@dataclass(frozen=True, slots=True)
class Limit:
    """The values of a field that a device can execute."""

    values: frozenset[Any]
    reason: str
    """Says so in words."""


class Findings(Protocol):
    """What is found out about a network once, for settings that are left open."""

    @property
    def optimizer(self) -> Literal["sgd", "adamw"]:
        """The optimizer that fits it."""

    def peak_rate(self, optimizer: Literal["sgd", "adamw"]) -> float:
        """The peak rate at which its fine-tuning gains most."""

    @property
    def least_missed(self) -> Mapping[str, str]:
        """The blocks that it can lose with their stages, those first that are missed least for the time they take."""


class Stage(BaseModel):
    """One step of a recipe. A subclass per technique, in a module of its own; `catalogue` finds it by its name.

    What a search must know of a technique it declares here; nothing else in the package knows techniques by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    technique: str
    phase: ClassVar[Phase]
    conflicts: ClassVar[frozenset[str]] = frozenset()
    """Techniques that cannot be in the same recipe."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """Techniques that must be in the same recipe."""
    precedes: ClassVar[frozenset[str]] = frozenset()
    """Techniques of the same phase that must come later in the recipe."""
    follows: ClassVar[frozenset[str]] = frozenset()
    """Techniques of the same phase that must come earlier in the recipe."""
    references: ClassVar[tuple[str, ...]] = ()
    """Papers."""
    label: ClassVar[str] = ""
    """What people call it; empty: its name."""
    tables: ClassVar[Mapping[str, TableField]] = {}
    """Fields that may have a value for each part of a network."""
    effort: ClassVar[str] = ""
    """The field that says how many epochs it trains for; empty where it does not train."""
    thresholds_by: ClassVar[str] = ""
    """The technique whose `thresholds` are swept for the exits that this one attaches; empty where it attaches none."""

    @classmethod
    def unusable(cls, network: NetworkStructure, device: DeviceProfile, *, trainable: bool) -> str:
        """Why the technique is of no use for this network, device or task, or nothing.

        Args:
            network: its parts.
            device: with what its runtime executes.
            trainable: whether the task brings training data.
        """
        trains = cls.phase is Phase.TRAINING or cls.effort
        return "the task brings no training data" if trains and not trainable else ""

    @classmethod
    def needs_layers(cls) -> bool:
        """Whether it changes or trains the network, whose layers it must have for that and not their graph alone."""
        return cls.phase in (Phase.STRUCTURE, Phase.TRAINING) or bool(cls.effort)

    @classmethod
    def limits(cls, device: DeviceProfile) -> Mapping[str, Limit]:
        """The fields of which a device can execute some values only."""
        return {}

    @classmethod
    def gains(cls, bench: Bench) -> Iterator[Knob]:
        """What the technique on its own brings for a network on a device: the lines of `autocompress check`."""
        yield from ()

    def repair(self) -> Stage | None:
        """With as little of this stage as every change of the structure needs; None where it is no help to that."""
        return None

    def title(self) -> str:
        """What this step is called in an ablation."""
        return self.label or self.technique

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Return a new candidate; the given one is never changed.

        Raises:
            CandidateError: the technique cannot be applied to this candidate.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is applied")

    def settled(self, findings: Findings) -> Self:
        """The same stage with every setting that was left open (`auto`) as it is for this network."""
        return self

    def summary(self) -> str:
        """A few words for tables and hover texts."""
        return self.technique

    def added(self) -> list[str]:
        """Say that a recipe has this stage and another one has not, a line per fact."""
        return [f"{self.summary()} added"]

    def removed(self) -> list[str]:
        """Say that a recipe has this stage no more, a line per fact."""
        return [f"{self.summary()} removed"]

    def changes(self, other: Self) -> list[str]:
        """Say what `other` does differently, a line per difference."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return [line for name in mine for line in self._change(name, mine[name], theirs[name])]

    def _change(self, name: str, before: Any, after: Any) -> list[str]:
        """Lines about one field."""
        words = name.replace("_", " ")
        return [
            f"{self.technique}: {words}{f' of {where}' if where else ''} {_plain(old)} -> {_plain(new)}"
            for where, old, new in table_changes(before, after, None)
        ]


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "unset" if value is None else str(value)
