"""Which techniques pay on a device for a network: predicted from the profile and the graph, before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.compression.channels import channels_to_keep
from autocompress.devices import cost_model
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator, Forecast
from autocompress.recipes.recipe import Recipe

PAYS = 1.05
"""Gains below this factor are called none: they are within the error of any prediction."""
_EXITS = (0.25, 0.5, 0.75)
"""Shares of the network's MACs near which exits are tried."""


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
        words = ", ".join(_verdict(factor, *kind) for factor, *kind in factors if factor is not None)
        return f"{self.name}: {words}" + (f" ({self.note})" if self.note else "")


def _verdict(factor: float, better: str, worse: str) -> str:
    if factor >= PAYS:
        return f"{factor:.2g}x {better}" if factor >= 10 else f"{factor:.2f}x {better}"
    if factor > 1 / PAYS:
        return f"no {better} here ({factor:.2f}x)"
    return f"{worse} here ({factor:.2f}x)"


class Payoff:
    """Predicts a handful of fixed recipes for one network on one device; nothing is trained.

    Where the device executes int8 only, the reference is the uniformly quantised network.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.device = evaluator.device
        self.anatomy = evaluator.anatomy
        floats = 32 in self.device.weight_bits
        self.numerics: list[dict[str, Any]] = [] if floats else [{"technique": "ptq"}]
        self.base = self._forecast(self.numerics)
        self.missing = self._missing(self.base)
        self.step = max(8, self.device.channel_block)

    def trust(self) -> str:
        """How large the error of the profile is, and whether it knows the operators of the network."""
        device, calibration = self.device, self.device.calibration
        error = "its error is not known"
        if calibration is not None:
            error = (
                f"median error {calibration.median_error:.1%}, 9 of 10 within {calibration.p90_error:.0%} on "
                f"{calibration.split} ({calibration.points} points, {calibration.date})"
            )
        known = "it knows all operators of the network"
        if self.missing:
            known = f"rough: it does not know {', '.join(sorted(self.missing))}, the nearest ones stand for them"
        other = f"; {device.transfer_note}" if device.transfer_note else ""
        return f"profile {device.name}: {error}; {known}{other}"

    def knobs(self) -> tuple[Knob, ...]:
        """Each technique on its own, and what the runtime cannot execute."""
        found = [
            Knob("int8 everywhere", note="always: the device executes int8 only; factors below are against it")
            if self.numerics
            else self._bits("int8 everywhere", 8, 8, self._int8_note()),
            self._bits("fp16", 16, 32, self._fp16_note()),
            self._bits("4-bit weights", 4, 8, "unpacked to int8 when the file is loaded"),
        ]
        if self.anatomy.groups:
            found += self._pruning()
        found += self._exits()
        return tuple(found)

    def _missing(self, forecast: Forecast) -> set[str]:
        return set(cost_model.predict(self.device, forecast.cost.workloads[-1]).missing)

    def _forecast(self, stages: list[dict[str, Any]]) -> Forecast:
        return self.evaluator.forecast(Recipe.parse({"stages": stages}))

    def _knob(self, name: str, stages: list[dict[str, Any]], note: str = "") -> Knob:
        try:
            forecast = self._forecast(stages)
        except CandidateError as error:
            return Knob(name, note=f"cannot be applied: {error}")
        cost, base = forecast.cost, self.base
        missing = self._missing(forecast) - self.missing
        notes = [note] if note else []
        notes += [f"rough: the profile does not know {', '.join(sorted(missing))}"] if missing else []
        return Knob(
            name,
            speedup=base.worst_case_ms / forecast.worst_case_ms,
            shrink=base.size_bytes / forecast.size_bytes,
            memory=base.cost.peak_memory_bytes / max(1, cost.peak_memory_bytes),
            note="; ".join(notes),
        )

    def _bits(self, name: str, weights: int, activations: int, note: str) -> Knob:
        if weights not in self.device.weight_bits or activations not in self.device.support.activation_bits:
            bits = " and ".join(map(str, sorted(self.device.weight_bits)))
            return Knob(name, note=f"not possible: {self.device.runtime} executes weights of {bits} bits only")
        if activations == 8 and "int8" not in self.device.dtypes:
            return Knob(name, note="speed not known: the profile has no int8 measurements")
        bits_of = {"weight_bits": weights, "activation_bits": activations}
        return self._knob(name, [{"technique": "ptq", **bits_of}], note)

    def _fp16_note(self) -> str:
        if self.device.float_format == "float16":
            return "the profile's figures for float are of fp16 arithmetic already"
        return "stored in 16 bits, computed in float32: fp16 is not native"

    def _int8_note(self) -> str:
        if not self.device.support.reads_quantized:
            return f"{self.device.runtime} quantises again by its own rules"
        return "saturating arithmetic: weights of 7 bits" if self.device.int8_arithmetic == "saturating" else ""

    def _pruning(self) -> list[Knob]:
        half = {"technique": "prune", "ratio": 0.5, "round_to": self.step}
        found = [self._knob("pruning every group by half", [half, *self.numerics])]
        if not self.numerics and {8, 32} <= self.device.weight_bits and "int8" in self.device.dtypes:
            found.append(self._knob("pruning by half and int8", [half, {"technique": "ptq"}]))
        shares = self.time_shares()
        stages = dict.fromkeys(self.anatomy.groups.values())
        if len(stages) > 1:
            found += [
                self._knob(
                    f"pruning {stage} by half",
                    [{**half, "ratio": {stage: 0.5}}, *self.numerics],
                    f"its layers take {shares.get(stage, 0.0):.0%} of the time",
                )
                for stage in stages
            ]
        return [*found, *self._steps()]

    def time_shares(self) -> dict[str, float]:
        """Share of the predicted time that is spent in the layers of each stage."""
        shares: dict[str, float] = {}
        for layer, ms in self.base.cost.layer_ms.items():
            stage = self.anatomy.stage_of(layer)
            shares[stage] = shares.get(stage, 0.0) + ms / self.base.worst_case_ms
        return shares

    def _steps(self) -> list[Knob]:
        """What one more channel than a whole step brings."""
        block = self.device.channel_block
        wide = {name: n for name, n in self.anatomy.widths.items() if n >= 2 * block}
        if block == 1 or not wide:
            return []
        keep = {name: channels_to_keep(n, 0.5, block) for name, n in wide.items()}
        aligned = self._pruned({name: 1 - keep[name] / n for name, n in wide.items()})
        beyond = self._pruned({name: 1 - (keep[name] - 1) / n for name, n in wide.items()})
        if aligned is None or beyond is None:
            return []
        gain = aligned.worst_case_ms / beyond.worst_case_ms
        verdict = "makes it slower" if gain < 1 / PAYS else "gains nothing" if gain < PAYS else "gains"
        return [
            Knob("widths", note=f"in steps of {block}; removing 1 channel more than a step {verdict} ({gain:.2f}x)")
        ]

    def _pruned(self, ratios: Mapping[str, float]) -> Forecast | None:
        try:
            return self._forecast([{"technique": "prune", "ratio": dict(ratios), "round_to": 1}, *self.numerics])
        except CandidateError:
            return None

    def _exits(self) -> list[Knob]:
        places = self.anatomy.places
        if not places:
            return []
        if not self.device.support.early_exits:
            return [Knob("early exits", note=f"not possible: {self.device.runtime} does not execute If operators")]
        near = [min(places, key=lambda p, w=wanted: abs(p.fraction - w)) for wanted in _EXITS]  # type: ignore[misc]
        names = list(dict.fromkeys(place.name for place in sorted(near, key=lambda p: p.fraction)))
        try:
            forecast = self._forecast([{"technique": "early_exit", "places": names}, *self.numerics])
        except CandidateError as error:
            return [Knob("early exits", note=f"cannot be attached: {error}")]
        *leaving, whole = (self.base.worst_case_ms / ms for ms in forecast.cost.path_ms)
        through = f"{_verdict(whole, 'faster', 'slower')} for samples that take none of the {len(names)}"
        return [
            Knob(f"an exit after {name} that all samples take", speedup, note=through if i == 0 else "")
            for i, (name, speedup) in enumerate(zip(names, leaving, strict=True))
        ]
