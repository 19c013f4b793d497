"""Which techniques pay on a device for a network: predicted from the profile and the graph, before any training."""

from __future__ import annotations

from autocompress.compression.catalogue import technique, technique_names
from autocompress.compression.gains import Knob
from autocompress.compression.stage import Phase, Stage
from autocompress.compression.techniques import _usual as usual
from autocompress.devices import cost_model
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator, Forecast
from autocompress.recipes.recipe import Recipe


class GainEstimator:
    """Predicts a handful of fixed recipes for one network on one device; nothing is trained.

    Where the device executes int8 only, the reference is the uniformly quantised network.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.device = evaluator.device
        self.analysis = evaluator.analysis
        floats = 32 in self.device.weight_bits
        self._numerics: tuple[Stage, ...] = () if floats else (usual.quantised(),)
        self.base = self._forecast(())
        self.missing = self._missing(self.base)
        self.rebinds = True

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
        """What each technique says of itself, the cheapest ones first, and what the runtime cannot execute."""

        def rank(cls: type[Stage]) -> tuple[int, bool]:
            """Those that go on from others, or others from them, take an export."""
            return cls.phase, not (cls.precedes or cls.follows)

        classes = sorted(map(technique, technique_names()), key=rank, reverse=True)
        return tuple(knob for cls in classes for knob in cls.gains(self))

    def knob(self, name: str, *stages: Stage, note: str = "") -> Knob:
        """The gain of a recipe, or why it cannot be applied."""
        exports = self.evaluator.deployer.exports
        try:
            forecast = self._forecast(stages)
        except CandidateError as error:
            return Knob(name, note=f"cannot be applied: {error}")
        self.rebinds &= self.evaluator.deployer.exports == exports
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

    def speedups(self, *stages: Stage) -> tuple[float, ...]:
        """How many times faster a sample is that leaves at each exit; the last is the whole network.

        Raises:
            CandidateError: the recipe cannot be applied to the network.
        """
        return tuple(self.base.worst_case_ms / ms for ms in self._forecast(stages).cost.path_ms)

    def time_shares(self) -> dict[str, float]:
        """Share of the predicted time that is spent in the layers of each stage."""
        shares: dict[str, float] = {}
        for layer, ms in self.base.cost.layer_ms.items():
            stage = self.analysis.stage_of(layer)
            shares[stage] = shares.get(stage, 0.0) + ms / self.base.worst_case_ms
        return shares

    def _missing(self, forecast: Forecast) -> set[str]:
        return set(cost_model.predict(self.device, forecast.cost.workloads[-1]).missing)

    def _forecast(self, stages: tuple[Stage, ...]) -> Forecast:
        """Predict a recipe, quantised if the device executes nothing else."""
        given = any(stage.phase is Phase.NUMERICS for stage in stages)
        return self.evaluator.forecast(Recipe(stages=stages if given else (*stages, *self._numerics)))
