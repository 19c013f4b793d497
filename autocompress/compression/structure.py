"""The parts of a network that recipes and spaces name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Outline:
    """The parts of a network that a space can name, each mapped to its stage of the network."""

    groups: Mapping[str, str] = field(default_factory=dict)
    """Groups of channels that are pruned together."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """Layers whose weights can be quantised."""
    places: tuple[str, ...] = ()
    """Modules after which an early exit can be attached, in order of execution."""

    def parts(self, field_name: str, per: str) -> tuple[str, ...]:
        """Names for which a table field draws a value of its own."""
        table = self.groups if field_name == "ratio" else self.layers
        return tuple(table) if per == "layer" else tuple(dict.fromkeys(table.values()))
