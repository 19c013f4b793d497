"""The parts of a network that recipes and spaces name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Parts = Literal["groups", "layers", "blocks", "places"]
"""What a setting can differ between: the fields of `NetworkStructure`."""


@dataclass(frozen=True, slots=True)
class NetworkStructure:
    """The parts of a network that a space can name, each mapped to its stage of the network."""

    groups: Mapping[str, str] = field(default_factory=dict)
    """Groups of channels that are pruned together."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """Layers whose weights can be quantised."""
    places: tuple[str, ...] = ()
    """Modules after which an early exit can be attached, in order of execution."""
    blocks: Mapping[str, str] = field(default_factory=dict)
    """Blocks that the network runs without, since a way leads around their layers."""
    unchangeable: str = ""
    """Why the layers can be neither changed nor trained; empty where they can."""

    def stages_of(self, over: Parts) -> Mapping[str, str]:
        """All parts of one kind with their stages of the network; a place of an exit is a stage of its own."""
        return {place: place for place in self.places} if over == "places" else getattr(self, over)

    def parts(self, over: Parts, per: str) -> tuple[str, ...]:
        """Names for which a table field draws a value of its own: parts of one kind, or their stages."""
        stages = self.stages_of(over)
        return tuple(stages) if per == "layer" else tuple(dict.fromkeys(stages.values()))
