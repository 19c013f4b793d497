"""Zeros in the weights: the smallest ones of a layer become 0 and stay so in training.

The network keeps its shape. What that brings is up to the runtime: most store a 0 and multiply by it as by any number.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from autocompress.compression.gains import Knob
from autocompress.compression.stage import Number, Phase, Stage, TableField
from autocompress.compression.tables import Table, lookup, unknown_keys
from autocompress.compression.techniques._lazy import lazy
from autocompress.errors import CandidateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from autocompress.compression import masks
    from autocompress.compression.candidate import Candidate, Context
    from autocompress.compression.gains import Bench
    from autocompress.compression.structure import NetworkStructure
    from autocompress.devices.profile import DeviceProfile
else:
    masks = lazy("autocompress.compression.masks")

Share = Annotated[Number, Field(ge=0, lt=1)]


class Sparsity(Stage):
    """Set a share of the weights to 0."""

    technique: Literal["sparsity"] = "sparsity"
    ratio: Share | Table[Share] = 0.5
    """Share of the weights of a layer that become 0: one for all layers, or a table by layer or stage."""
    group: Literal[0, 4, 8, 16] = 0
    """Of so many weights in a row, along the inputs, the same number stays: 4 with a ratio of 0.5 is 2:4. 0: of all
    weights of the layer."""

    phase: ClassVar[Phase] = Phase.STRUCTURE
    conflicts: ClassVar[frozenset[str]] = frozenset({"qat"})
    follows: ClassVar[frozenset[str]] = frozenset({"depth", "early_exit", "prune", "low_rank"})
    label: ClassVar[str] = "sparsity"
    tables: ClassVar[Mapping[str, TableField]] = {"ratio": TableField("layers", neutral=0.0, strongest="high")}
    references: ClassVar[tuple[str, ...]] = (
        "Han et al., Learning both Weights and Connections, arXiv 1506.02626",
        "Mishra et al., Accelerating Sparse Deep Neural Networks (2:4), arXiv 2104.08378",
    )

    @classmethod
    def unusable(cls, network: NetworkStructure, device: DeviceProfile, *, trainable: bool) -> str:
        """Where there is no layer, no training data, or nothing to gain."""
        if not network.layers:
            return "the network has no layer whose weights could become 0"
        if not trainable:
            return "a network with weights at 0 needs training, and the task brings no training data"
        return _gains_nothing(device)

    @classmethod
    def gains(cls, bench: Bench) -> Iterator[Knob]:
        """What the runtime makes of zeros."""
        zeros = bench.device.support.sparse
        note = f"{bench.device.runtime} computes faster with {zeros}; its profile does not predict by how much"
        yield Knob("half of the weights at 0", note=_gains_nothing(bench.device) or note)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Put masks on the layers of a copy of the model.

        Raises:
            CandidateError: the table names no layer.
        """
        known = context.analysis.layers
        if unknown := unknown_keys(self.ratio, known, known.values()):
            raise CandidateError(f"sparsity.ratio: no layer or stage {unknown[0]!r}; layers: {', '.join(known)}")
        model = candidate.copy_model()
        before: list[Tensor] = []
        after: list[Tensor] = []
        for name, layer in masks.layers_of(candidate, model, known):
            ratio = lookup(self.ratio, name, context.analysis.stage_of(name), 0.0)
            if ratio:
                before.append(layer.weight.detach().clone())
                masks.put_mask(layer, masks.largest(before[-1], ratio, self.group))
                after.append(layer.weight.detach())
        if not before:
            return candidate.evolve("sparsity: no weight set to 0", model=model)
        share = 1 - sum(int(w.count_nonzero()) for w in after) / sum(w.numel() for w in after)
        note = (
            f"sparsity: {share:.0%} of the weights of {len(after)} layers are 0; in int8 and deflated, as in an "
            f"archive, they take {_deflated_bytes(after):,} bytes instead of {_deflated_bytes(before):,}"
        )
        return candidate.evolve(note, model=model)

    def summary(self) -> str:
        """A few words for tables."""
        values = self.ratio.values() if isinstance(self.ratio, dict) else [self.ratio]
        grouped = f" in groups of {self.group}" if self.group else ""
        return f"{max(values, default=0):.0%} zeros{grouped}"


def _gains_nothing(device: DeviceProfile) -> str:
    """Why zeros are of no use to a runtime, or nothing."""
    if device.support.sparse:
        return ""
    return f"{device.runtime} stores a weight of 0 and multiplies by it as by any other: no file smaller, no run faster"


def _deflated_bytes(weights: Iterable[Tensor]) -> int:
    """What their int8 codes take after compression without loss; torch's rounding is the file's but for repairs."""
    total = 0
    for weight in weights:
        rows = weight.flatten(1)
        codes = (rows * (127 / rows.abs().amax(1, keepdim=True).clamp(min=1e-12))).round().char()
        total += len(zlib.compress(codes.contiguous().numpy().tobytes(), 9))
    return total
