"""Post-training quantisation: number formats chosen per layer, ranges observed on a few batches, no training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from autocompress.compression.gains import Knob
from autocompress.compression.quantize import Quantize, Repairs

if TYPE_CHECKING:
    from autocompress.compression.gains import Bench
    from autocompress.devices.profile import DeviceProfile


class Ptq(Quantize):
    """Quantise the exported graph: per-channel weights of 2, 4, 8 or 16 bits, activations of 8 bits."""

    technique: Literal["ptq"] = "ptq"
    rounding: Literal["least_squares", "nearest"] = "least_squares"
    """Of weights of 4 bits and fewer: "least_squares" fits their codes to what layers compute on `observer_samples`."""
    bias_correction: Literal["coarse", "none", "all"] = "coarse"
    """Whether biases take up what rounding moves the mean of each channel by: "coarse" where there are weights of
    4 bits or fewer, "all" also where all have 8 bits."""
    equalize: bool = False
    """Whether channels are first scaled to like ranges, between layers and behind layer norms: for networks that lose
    by 8-bit activations."""

    label: ClassVar[str] = "quantisation"
    conflicts: ClassVar[frozenset[str]] = frozenset({"qat"})
    references: ClassVar[tuple[str, ...]] = (
        "Nagel et al., A White Paper on Quantization, arXiv 2106.08295",
        "Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019",
        "Xiao et al., SmoothQuant, arXiv 2211.10438",
        "Frantar et al., GPTQ, arXiv 2210.17323",
        "Behdin et al., QuantEase, arXiv 2309.01885",
    )

    @property
    def repairs(self) -> Repairs:
        """As the fields say."""
        return Repairs(self.rounding, self.bias_correction, self.equalize)

    @classmethod
    def gains(cls, bench: Bench) -> Iterator[Knob]:
        """One format everywhere."""
        if 32 in bench.device.weight_bits:
            yield _uniform(bench, "int8 everywhere", cls(), _int8_note(bench.device))
        else:
            note = "always: the device executes int8 only; factors below are against it"
            yield Knob("int8 everywhere", note=note)
        yield _uniform(bench, "fp16", cls(weight_bits=16, activation_bits=32), _fp16_note(bench.device))
        yield _uniform(bench, "4-bit weights", cls(weight_bits=4), "unpacked to int8 when the file is loaded")


def _uniform(bench: Bench, name: str, stage: Ptq, note: str) -> Knob:
    device = bench.device
    if stage.weight_bits not in device.weight_bits or stage.activation_bits not in device.support.activation_bits:
        bits = " and ".join(map(str, sorted(device.weight_bits)))
        return Knob(name, note=f"not possible: {device.runtime} executes weights of {bits} bits only")
    if stage.activation_bits == 8 and "int8" not in device.dtypes:
        return Knob(name, note="speed not known: the profile has no int8 measurements")
    return bench.knob(name, stage, note=note)


def _fp16_note(device: DeviceProfile) -> str:
    if device.float_format == "float16":
        return "the profile's figures for float are of fp16 arithmetic already"
    return "stored in 16 bits, computed in float32: fp16 is not native"


def _int8_note(device: DeviceProfile) -> str:
    if not device.support.reads_quantized:
        return f"{device.runtime} quantises again by its own rules"
    return "saturating arithmetic: weights of 7 bits" if device.int8_arithmetic == "saturating" else ""
