"""Low rank: a convolution or linear layer becomes two thinner ones, where the device is faster with these."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from autocompress.compression.stage import Number, Phase, Stage, TableField
from autocompress.compression.tables import Table, lookup, unknown_keys
from autocompress.compression.techniques._lazy import lazy
from autocompress.errors import CandidateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from autocompress.compression import factors
    from autocompress.compression.candidate import Candidate, Context
    from autocompress.compression.gains import Bench, Knob
    from autocompress.compression.structure import NetworkStructure
    from autocompress.devices.profile import DeviceProfile
else:
    factors = lazy("autocompress.compression.factors")

Share = Annotated[Number, Field(gt=0, le=1)]


class LowRank(Stage):
    """Split layers into two, by a singular value decomposition of their weights."""

    technique: Literal["low_rank"] = "low_rank"
    share: Share | Table[Share] = 1.0
    """Of the weights of a layer that the two may hold together; 1 leaves it whole. Or a table by layer or stage."""
    scheme: Literal["channel", "spatial"] = "channel"
    """Of a convolution with a window: the window to few channels and a kernel of 1, or a column and a row."""
    keep: Literal["faster", "all"] = "faster"
    """Which pairs stay: those that the device is predicted to be faster with than with their layer, or all."""
    round_to: Annotated[int, Field(ge=1, le=128)] = 8
    """Channels between the two are a multiple of it."""

    phase: ClassVar[Phase] = Phase.STRUCTURE
    follows: ClassVar[frozenset[str]] = frozenset({"depth", "early_exit", "prune"})
    label: ClassVar[str] = "low rank"
    tables: ClassVar[Mapping[str, TableField]] = {"share": TableField("layers", neutral=1.0, strongest="low")}
    references: ClassVar[tuple[str, ...]] = (
        "Jaderberg et al., Speeding up Convolutional Neural Networks with Low Rank Expansions, arXiv 1405.3866",
        "Zhang et al., Accelerating Very Deep Convolutional Networks, arXiv 1505.06798",
    )

    @classmethod
    def unusable(cls, network: NetworkStructure, device: DeviceProfile, *, trainable: bool) -> str:
        """Where there is no layer, or what is left could not be trained."""
        if not network.layers:
            return "the network has no layer that can be split"
        return "" if trainable else "split layers need training, and the task brings no training data"

    @classmethod
    def gains(cls, bench: Bench) -> Iterator[Knob]:
        """All layers with half of their weights."""
        if bench.analysis.layers and not bench.analysis.unchangeable:
            yield bench.knob("splitting every layer in two with half of its weights", cls(share=0.5, keep="all"))

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Split layers of a copy of the model.

        Raises:
            CandidateError: the table names no layer, or the network does not run with split layers.
        """
        layers = context.analysis.layers
        if unknown := unknown_keys(self.share, layers, layers.values()):
            raise CandidateError(f"low_rank.share: no layer or stage {unknown[0]!r}; layers: {', '.join(layers)}")
        pairs: dict[str, nn.Module] = {}
        for name in layers.keys() - set(candidate.gone(layers)):
            share, layer = lookup(self.share, name, layers[name], 1.0), candidate.backbone.get_submodule(name)
            if (
                share < 1
                and not factors.shares_weights(layer, candidate.backbone)
                and (pair := factors.factorised(layer, share, self.scheme, self.round_to))
            ):
                pairs[name] = pair
        split = _with(candidate, pairs)
        if pairs and self.keep == "faster" and context.layer_ms:
            before, after = context.layer_ms(candidate), context.layer_ms(split)
            faster = {
                n: p for n, p in pairs.items() if sum(after.get(f"{n}.{k}", inf) for k in (0, 1)) < before.get(n, 0)
            }
            split = split if len(faster) == len(pairs) else _with(candidate, faster)
            pairs = faster
        named = ", ".join(name for name in layers if name in pairs)
        names = f"{len(pairs)} of {len(layers)} layers split: {named}" if pairs else "no layer split"
        return split.evolve(f"low_rank: {names}")

    def summary(self) -> str:
        """A few words for tables."""
        values = self.share.values() if isinstance(self.share, dict) else [self.share]
        return f"low rank {min(values, default=1.0):.0%}"


def _with(candidate: Candidate, pairs: Mapping[str, nn.Module]) -> Candidate:
    model = candidate.copy_model()
    for name, pair in pairs.items():
        model.set_submodule(candidate.path_of(name), pair)
    return candidate.evolve(model=model)
