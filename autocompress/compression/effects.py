"""Kinds of stages whose costs follow from their settings, so that many recipes are costed without building networks.

A stage that changes structure or number formats and is of none of these kinds (or of `Quantize`) is costed by building
its network, which takes longer and is always right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from autocompress.compression.stage import Stage

if TYPE_CHECKING:
    from autocompress.compression.analysis import NetworkAnalysis
    from autocompress.compression.channels import ChannelGroup


class RemovesChannels(Stage):
    """Leaves each group of channels so many units as its settings say, whatever the weights are.

    The units are removed as `channels.ChannelPruner` removes them, and nothing else is changed. The settings are one
    field that is a table over groups, and those of `width_fields`.
    """

    technique: str = ""
    width_fields: ClassVar[tuple[str, ...]] = ()
    """Fields besides the table that decide how many units are left."""

    @classmethod
    def units_kept(cls, group: ChannelGroup, **settings: Any) -> int:
        """How many channels (attention: heads) a group keeps.

        Args:
            group: as it is in the original network.
            settings: the group's value of the table, and those of `width_fields`, by field.
        """
        raise TypeError(f"{cls.__name__} does not say how many units it keeps")


class Variant(Stage):
    """Makes one of a few networks, from which pruning and quantisation go on.

    Each is built once. No stage before it in a recipe changes the structure, but for others of this kind.
    """

    technique: str = ""

    def variant(self, network: NetworkAnalysis) -> object:
        """Plain data that stands for the network: settings with equal ones give the same one, if all else is equal."""
        return self.model_dump(mode="json")
