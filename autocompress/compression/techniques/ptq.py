"""Post-training quantisation: number formats chosen per layer, ranges observed on a few batches, no training."""

from __future__ import annotations

from typing import ClassVar, Literal

from autocompress.compression.techniques._quantize import Quantize


class Ptq(Quantize):
    """Quantise the exported graph: per-channel weights of 4, 8 or 16 bits, activations of 8 bits."""

    technique: Literal["ptq"] = "ptq"

    label: ClassVar[str] = "quantisation"
    conflicts: ClassVar[frozenset[str]] = frozenset({"qat"})
    references: ClassVar[tuple[str, ...]] = ("Nagel et al., A White Paper on Quantization, arXiv 2106.08295",)
