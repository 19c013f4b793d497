"""What a technique says of its own gain on a device: predicted for a handful of recipes, before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from autocompress.compression.analysis import NetworkAnalysis
    from autocompress.compression.stage import Stage
    from autocompress.devices.profile import DeviceProfile

PAYS = 1.05
"""Gains below this factor are called none: they are within the error of any prediction."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One technique on its own, against the network as it is; every factor above 1 is a gain."""

    name: str
    speedup: float | None = None
    """None where the device cannot execute it, or nothing is known."""
    shrink: float | None = None
    """Of the file."""
    memory: float | None = None
    """Of the working memory."""
    note: str = ""

    @property
    def pays(self) -> bool:
        """Whether anything is gained."""
        return any(factor is not None and factor >= PAYS for factor in (self.speedup, self.shrink, self.memory))

    def text(self) -> str:
        """One line."""
        if self.speedup is None:
            return f"{self.name}: {self.note}"
        factors = ((self.speedup, "faster", "slower"), (self.shrink, "smaller", "larger"))
        words = ", ".join(verdict(factor, *kind) for factor, *kind in factors if factor is not None)
        return f"{self.name}: {words}" + (f" ({self.note})" if self.note else "")


class Bench(Protocol):
    """Predicts what stages bring on a device for a network, against the network as it is.

    On a device that executes int8 only, all of it is quantised.
    """

    @property
    def device(self) -> DeviceProfile:
        """What the network is compressed for."""

    @property
    def analysis(self) -> NetworkAnalysis:
        """The parts of the network."""

    @property
    def rebinds(self) -> bool:
        """Whether all recipes so far had their weights put into the exported graph of the network.

        Where widths are written into a graph, such as that of an attention, each recipe takes an export: seconds.
        """

    def knob(self, name: str, *stages: Stage, note: str = "") -> Knob:
        """The gain of a recipe, or why it cannot be applied."""

    def speedups(self, *stages: Stage) -> tuple[float, ...]:
        """How many times faster a sample is that leaves at each exit; the last is the whole network.

        Raises:
            CandidateError: the recipe cannot be applied to the network.
        """

    def time_shares(self) -> Mapping[str, float]:
        """Share of the predicted time that is spent in the layers of each stage of the network."""


def verdict(factor: float, better: str, worse: str) -> str:
    """A factor in words."""
    if factor >= PAYS:
        return f"{factor:.2g}x {better}" if factor >= 10 else f"{factor:.2f}x {better}"
    if factor > 1 / PAYS:
        return f"no {better} here ({factor:.2f}x)"
    return f"{worse} here ({factor:.2f}x)"
