"""What a study found: one `Evaluation` per judged recipe.

Data only: neither torch nor optuna is imported here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from autocompress.recipes.recipe import Recipe
from autocompress.tasks.metric import Score, Split
from autocompress.validation import Data

LatencySource = Literal["predicted", "measured"]
State = Literal["complete", "rejected", "failed"]

_LARGEST = 1e15
"""No figure of a trial comes near it, in any unit used here."""
REPEATED = "gives the same file as trial"
"""How the reason of a repeated proposal begins."""


class LayerSummary(Data):
    """One layer with weights, read from the file that was written; or one of the original network that is gone."""

    name: str
    kind: str
    """In torch's words: Conv2d, Linear, Embedding, LSTM, ..."""
    channels_before: int
    """0 where the original network has no such layer."""
    channels_after: int
    """0 where the file has none."""
    weight_bits: int
    """Of a stored weight; 0 where the layer is gone."""
    activation_bits: int
    """8 where it computes in integers, else 32; 0 where the layer is gone."""
    weight_bytes: int = 0
    """Of the stored weights."""
    macs: int = 0
    """Multiply-accumulates for one sample."""
    latency_ms_before: float = 0.0
    """Predicted, in the fp32 original."""
    latency_ms: float = 0.0
    """Predicted, in this candidate."""


class ExitSummary(Data):
    """One way out of a network with early exits; the last one is the network's own output."""

    place: str
    threshold: float
    """Confidence at which the file stops here; 0 for the last."""
    rate: float
    """Share of the validation samples that leave here."""
    latency_ms: float
    """Latency of a sample that leaves here; same source as the evaluation's latency."""
    accuracy: float
    """Metric of the samples that leave here (validation split); NaN is stored as -1 when none does."""


class Evaluation(Data):
    """One recipe and what was found about it.

    `accuracy` is the task's metric, computed by running the artefact in its runtime. A rejected recipe
    has only predicted figures and a `reason`; a failed one has a `reason`.
    """

    trial: int
    kind: Literal["baseline", "candidate"] = "candidate"
    label: str = ""
    """Name of a baseline ("fp32", "fp16", "int8"), otherwise a short description of the recipe."""
    recipe: Recipe
    recipe_digest: str
    state: State
    reason: str = ""

    validation: Score | None = None
    test: Score | None = None
    predicted_latency_ms: float | None = None
    """Expectation over the exits when there are any."""
    measured_latency_ms: float | None = None
    worst_case_latency_ms: float | None = None
    """Latency when no early exit is taken, from the same source as `latency_ms`."""
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    """Working memory: weights as the kernels read them (INT4 takes 1 byte, float16 takes 4) plus the most
    activation bytes alive at one time, by the deployed graph; on microcontrollers the activations only. A floor:
    the runtime's code, scratch buffers and copies are not in it."""
    active_power_mw: float | None = None
    """Power of the device while it computes, where the profile or the user says it."""
    workloads: tuple[str, ...] = ()
    """Fingerprints of the kernel calls on each path through the file, kept in the study (`folder.read_workload`)."""
    artifact: str | None = None
    """The ONNX file, relative to the study folder; None when it was not kept."""
    sha256: str | None = None
    parity: float | None = None
    """Share of samples on which the file and the torch model it came from agree; 1 minus the relative error where the
    task is no classification (see the docs)."""
    n_params: int | None = None
    macs: int | None = None
    """Multiply-accumulates for one sample that takes no early exit: products, convolutions, attention, recurrences."""
    layers: tuple[LayerSummary, ...] = ()
    exits: tuple[ExitSummary, ...] = ()
    threshold_optimism: float = 0.0
    """By how much the validation score is expected to flatter because the thresholds were chosen by it; 0 where they
    were given, or in studies of before it was kept."""
    latency_doubt: str = ""
    """Why a measurement was set aside, so that `latency_ms` is the predicted one; empty if none was."""
    notes: tuple[str, ...] = ()
    """What the stages did, or that they did nothing."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall seconds by phase: structure, training, numerics, evaluation."""
    derived_from: int | None = None
    """Trial whose trained network this point shares: other thresholds of its exits, or other number formats."""
    finished_at: str = ""
    """UTC, ISO 8601."""

    @property
    def is_repeat(self) -> bool:
        """Whether it was answered from an earlier trial that gives the same file."""
        return self.reason.startswith(REPEATED)

    @property
    def score(self) -> Score | None:
        """The test score where there is one, else the validation score."""
        return self.test or self.validation

    def score_on(self, split: Split) -> Score | None:
        """The score of one split."""
        return self.test if split == "test" else self.validation

    @property
    def accuracy(self) -> float | None:
        """Value of `score`."""
        return self.score.value if self.score else None

    @property
    def latency_ms(self) -> float | None:
        """Measured where there is a measurement, else predicted."""
        return self.measured_latency_ms if self.measured_latency_ms is not None else self.predicted_latency_ms

    @property
    def latency_source(self) -> LatencySource:
        """Where `latency_ms` comes from."""
        return "measured" if self.measured_latency_ms is not None else "predicted"

    @property
    def energy_mj(self) -> float | None:
        """Energy of one inference, from `latency_ms` and `active_power_mw`; None where the power is not known."""
        return energy_mj(self.latency_ms, self.active_power_mw)

    def objectives(self) -> tuple[float, float, float]:
        """Validation accuracy (up), latency_ms (down), size_bytes (down): what the selection uses."""
        assert self.validation is not None and self.latency_ms is not None and self.size_bytes is not None
        return self.validation.value, self.latency_ms, float(self.size_bytes)

    def inconsistency(self) -> str:
        """Why this cannot be the result of a search, or nothing: for evaluations that were read from a file."""
        objectives = (self.validation, self.latency_ms, self.size_bytes)
        if self.state == "complete" and any(value is None for value in objectives):
            return "complete, but without a score, a latency or a size"
        scores = [x for s in (self.validation, self.test) if s for x in (s.value, s.low, s.high)]
        exits = [x for e in self.exits for x in (e.threshold, e.rate, e.latency_ms, e.accuracy)]
        layers = [x for layer in self.layers for x in (layer.latency_ms_before, layer.latency_ms)]
        positive = [self.latency_ms, self.size_bytes] if self.state == "complete" else []
        costs = [self.predicted_latency_ms, self.measured_latency_ms, self.worst_case_latency_ms, self.size_bytes]
        costs += [self.peak_memory_bytes, self.active_power_mw, self.n_params, self.macs]
        numbers = [*scores, *exits, *layers, *costs, self.parity, *self.seconds.values(), self.trial]
        for value in numbers:
            if value is not None and not abs(value) <= _LARGEST:
                return "a figure beyond anything that is measured"
        return "a latency or a size that is not positive" if any(x is not None and x <= 0 for x in positive) else ""

    def as_row(self, split: Split | None = None) -> dict[str, Any]:
        """The flat form used by `show --json`, `--csv` and the pandas frame.

        Args:
            split: of the columns "accuracy...", which are empty where it was not scored; by default that of `score`.
        """
        score = self.score_on(split) if split else self.score
        return {
            "trial": self.trial,
            "kind": self.kind,
            "label": self.label,
            "state": self.state,
            "reason": self.reason,
            "accuracy": score.value if score else None,
            "accuracy_split": score.split if score else None,
            "accuracy_low": score.interval[0] if score and score.interval else None,
            "accuracy_high": score.interval[1] if score and score.interval else None,
            "validation_accuracy": self.validation.value if self.validation else None,
            "test_accuracy": self.test.value if self.test else None,
            "latency_ms": self.latency_ms,
            "latency_source": self.latency_source,
            "predicted_latency_ms": self.predicted_latency_ms,
            "measured_latency_ms": self.measured_latency_ms,
            "latency_doubt": self.latency_doubt,
            "worst_case_latency_ms": self.worst_case_latency_ms,
            "size_bytes": self.size_bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "energy_mj": self.energy_mj,
            "n_params": self.n_params,
            "macs": self.macs,
            "parity": self.parity,
            "exit_rates": [exit_.rate for exit_ in self.exits],
            "artifact": self.artifact,
            "sha256": self.sha256,
            "derived_from": self.derived_from,
            "seconds": sum(self.seconds.values()),
            "recipe": self.recipe.to_dict(),
            "recipe_digest": self.recipe_digest,
        }


def energy_mj(latency_ms: float | None, active_power_mw: float | None) -> float | None:
    """Energy of one inference in millijoules: the device draws a constant power while it computes."""
    return None if latency_ms is None or active_power_mw is None else latency_ms * active_power_mw / 1000
