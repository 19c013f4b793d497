"""What post-training quantisation and quantisation-aware training have in common: bits for every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from autocompress.errors import CandidateError
from autocompress.recipe import Stage, Table, lookup, table_changes, unknown_keys

if TYPE_CHECKING:
    from autocompress.candidate import Workshop

WeightBits = Literal[4, 8, 16, 32]
ActivationBits = Literal[8, 32]


class Quantize(Stage):
    """Base of the stages that set number formats."""

    technique: str = ""
    weight_bits: WeightBits | Table[WeightBits] = 8
    """By layer or stage of the network; 4 bits are 4 bits in the file, 16 is float16 storage, 32 unchanged."""
    activation_bits: ActivationBits | Table[ActivationBits] = 8
    """Of a layer's input and output: 8 computes in integers, 32 only stores the weights in fewer bits."""

    @field_validator("weight_bits", "activation_bits", mode="after")
    @classmethod
    def _same_text(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        return dict(sorted(value.items())) if isinstance(value, dict) else value

    def bits(self, layer: str, stage: str) -> tuple[int, int]:
        """Bits of the weights and of the activations of one layer."""
        weights = lookup(self.weight_bits, layer, stage, 8)
        if weights > 8:
            return weights, 32
        return weights, lookup(self.activation_bits, layer, stage, 8)

    def check_names(self, workshop: Workshop) -> None:
        """Refuse tables with keys that match no layer and no stage.

        Raises:
            CandidateError: naming the first such key.
        """
        layers = workshop.anatomy.layers
        for name in ("weight_bits", "activation_bits"):
            if unknown := unknown_keys(getattr(self, name), layers, [*layers.values(), "exits"]):
                raise CandidateError(
                    f"{self.technique}.{name}: no layer or stage {unknown[0]!r}; stages: "
                    f"{', '.join(dict.fromkeys(layers.values()))}; layers: {', '.join(layers)}"
                )

    def _change(self, name: str, before: Any, after: Any) -> list[str]:
        if name not in ("weight_bits", "activation_bits"):
            return super()._change(name, before, after)
        what = "weights" if name == "weight_bits" else "activations"
        return [
            f"{what}{f' of {where}' if where else ''}: {new} bits instead of {old}"
            for where, old, new in table_changes(before, after, 8)
        ]

    def summary(self) -> str:
        """A few words for tables."""
        bits = self.weight_bits.values() if isinstance(self.weight_bits, dict) else [self.weight_bits]
        widths = "/".join(str(b) for b in sorted(set(bits)))
        return f"{self.technique} w{widths}"
