"""What post-training quantisation and quantisation-aware training have in common: bits for every layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from autocompress.compression.stage import Limit, Phase, Stage, TableField
from autocompress.compression.tables import Table, lookup, table_changes, unknown_keys
from autocompress.errors import CandidateError
from autocompress.validation import suggestion

if TYPE_CHECKING:
    from autocompress.compression.candidate import Candidate, Context
    from autocompress.compression.structure import NetworkStructure
    from autocompress.compression.training import Distillation, Schedule
    from autocompress.devices.profile import DeviceProfile


@dataclass(frozen=True, slots=True)
class Repairs:
    """What is done about the errors of a quantisation that is not trained; see `autocompress.graphs.repair`."""

    rounding: Literal["nearest", "least_squares"] = "nearest"
    bias_correction: Literal["none", "coarse", "all"] = "none"
    equalize: bool = False


WeightBits = Literal[2, 4, 8, 16, 32]
ActivationBits = Literal[8, 32]


class Quantize(Stage):
    """Base of the stages that set number formats."""

    technique: str = ""
    weight_bits: WeightBits | Table[WeightBits] = 8
    """By layer or stage of the network; 2 and 4 bits are so many in the file, 16 is float16 storage, 32 unchanged."""
    activation_bits: ActivationBits | Table[ActivationBits] = 8
    """Of a layer's input and output: 8 computes in integers, 32 only stores the weights in fewer bits."""
    observer: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    """How the range of an activation is found from what was observed."""
    observer_samples: Annotated[int, Field(ge=1, le=100_000)] = 256

    phase: ClassVar[Phase] = Phase.NUMERICS
    tables: ClassVar[Mapping[str, TableField]] = {
        name: TableField("layers", neutral=32, strongest="any", unnamed=8)
        for name in ("weight_bits", "activation_bits")
    }

    @field_validator("weight_bits", "activation_bits", mode="after")
    @classmethod
    def _same_text(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        return dict(sorted(value.items())) if isinstance(value, dict) else value

    @classmethod
    def unusable(cls, network: NetworkStructure, device: DeviceProfile, *, trainable: bool) -> str:
        """Where no layer, or no device, can compute in other formats than float32."""
        if reason := super().unusable(network, device, trainable=trainable):
            return reason
        if not network.layers:
            return "the network has no layer that can be quantised"
        return "" if device.weight_bits - {32} else f"{device.name} computes in float only"

    @classmethod
    def limits(cls, device: DeviceProfile) -> Mapping[str, Limit]:
        """The bits that the device's runtime executes."""
        executed = {"weight_bits": device.weight_bits, "activation_bits": device.support.activation_bits}
        return {name: Limit(bits, _executes(device, bits)) for name, bits in executed.items()}

    @property
    def training(self) -> tuple[Schedule, Distillation] | None:
        """How the quantised network is trained, with the rounding in the loop; None where it is not."""
        return None

    @property
    def repairs(self) -> Repairs:
        """What is done about the errors of rounding, where nothing is trained."""
        return Repairs()

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Note what is to be done with the exported graph.

        Raises:
            CandidateError: a table names a layer that does not exist.
        """
        self.check_names(context)
        return candidate.evolve(quantization=self)

    def bits(self, layer: str, stage: str) -> tuple[int, int]:
        """Bits of the weights and of the activations of one layer."""
        weights = lookup(self.weight_bits, layer, stage, 8)
        if weights > 8:
            return weights, 32
        return weights, lookup(self.activation_bits, layer, stage, 8)

    @property
    def asked_weight_bits(self) -> list[int]:
        """All bits of weights that it names, fewest first."""
        return _widths(self.weight_bits)

    @property
    def asked_activation_bits(self) -> list[int]:
        """All bits of activations that it names, fewest first; none where all weights stay floats."""
        return _widths(self.activation_bits) if self.asked_weight_bits[0] <= 8 else []

    def check_names(self, context: Context) -> None:
        """Refuse tables with keys that match no layer and no stage of the network.

        Raises:
            CandidateError: naming the first such key.
        """
        layers = context.analysis.layers
        self._check([*layers], [*dict.fromkeys(layers.values())], (), "no layer or stage {!r}")

    def check_layers(self, layers: Sequence[str], stages: Sequence[str], gone: Sequence[str]) -> None:
        """Refuse tables with keys that match nothing in the graph that is written.

        Args:
            layers: those of the graph that can be quantised.
            stages: of the network.
            gone: layers that other stages of the recipe took away.

        Raises:
            CandidateError: naming the first such key; its setting would have been ignored.
        """
        self._check(layers, stages, gone, "{!r} is not among the layers of the exported graph that can be quantised")

    def _check(self, layers: Sequence[str], stages: Sequence[str], gone: Sequence[str], problem: str) -> None:
        for name in ("weight_bits", "activation_bits"):
            if unknown := unknown_keys(getattr(self, name), [*layers, *gone], [*stages, "exits"]):
                raise CandidateError(
                    f"{self.technique}.{name}: {problem.format(unknown[0])}"
                    f"{suggestion(unknown[0], [*stages, *layers])}; stages: "
                    f"{', '.join(stages)}; layers: {', '.join(layers)}"
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
        """A few words for tables: w8a8 computes in integers, w8a32 stores 8 bits and computes in floats."""
        weights, activations = map(_joined, (self.asked_weight_bits, self.asked_activation_bits))
        return f"{self.technique} w{weights}" + (f"a{activations}" if activations else "")


def _executes(device: DeviceProfile, bits: Iterable[int]) -> str:
    return f"{device.name} ({device.runtime}) executes {' and '.join(map(str, sorted(bits)))} bits"


def _widths(table: int | Mapping[str, int]) -> list[int]:
    return sorted(set(table.values() or [8])) if isinstance(table, Mapping) else [table]


def _joined(widths: list[int]) -> str:
    return "/".join(map(str, widths))
