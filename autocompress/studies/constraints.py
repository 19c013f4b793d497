"""Goals that a study must keep: absolute, or relative to the fp32 baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from autocompress.errors import ConstraintError

if TYPE_CHECKING:
    from autocompress.devices.profile import DeviceProfile
    from autocompress.studies.results import Evaluation

Quantity = Literal["accuracy", "latency_ms", "size_bytes", "peak_memory_bytes", "energy_mj"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)


@dataclass(frozen=True, slots=True)
class Constraint:
    """`quantity` must be at most (or at least) `limit`.

    With `relative_to_baseline` the limit of accuracy is the drop in absolute terms (0.01 = one point), and that
    of the other quantities is a share of the baseline's (0.2 = five times faster or smaller).
    """

    quantity: Quantity
    sense: Literal["at most", "at least"]
    limit: float
    relative_to_baseline: bool = False
    because: str = ""
    """Where it comes from, if not from the user: a limit of the device."""

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise ConstraintError(f"no quantity {self.quantity!r}; known: {', '.join(QUANTITIES)}")
        if self.sense not in ("at most", "at least"):
            raise ConstraintError(f"{self.quantity}: the sense must be 'at most' or 'at least', got {self.sense!r}")
        number = isinstance(self.limit, (int, float)) and not isinstance(self.limit, bool)
        any_sign = self.quantity == "accuracy" and not self.relative_to_baseline  # a metric may be an error times -1
        if not number or not math.isfinite(self.limit) or (self.limit < 0 and not any_sign):
            allowed = "a finite number" if any_sign else "a number of at least 0"
            raise ConstraintError(f"{self.quantity}: the limit must be {allowed}, got {self.limit!r}")
        if self.quantity != "accuracy" and self.limit == 0:
            raise ConstraintError(f"{self}: the limit must be above 0")

    def __str__(self) -> str:
        relative = " of the fp32 baseline" if self.relative_to_baseline else ""
        if self.quantity == "accuracy" and self.relative_to_baseline:
            return f"accuracy drop at most {self.limit:g}"
        return f"{self.quantity} {self.sense} {_text(self.limit)}{relative}"

    def resolve(self, baseline: Evaluation) -> Constraint:
        """The same constraint with an absolute limit.

        Raises:
            ConstraintError: the baseline does not have the quantity.
        """
        if not self.relative_to_baseline:
            return self
        base = value_of(baseline, self.quantity)
        if base is None:
            raise ConstraintError(f"{self}: the {self.quantity} of the fp32 baseline is not known")
        if self.quantity == "accuracy":
            return Constraint("accuracy", "at least", base - self.limit, because=str(self))
        return Constraint(self.quantity, self.sense, base * self.limit, because=str(self))

    def violation(self, value: float) -> float:
        """How far `value` is beyond the limit: above 0 it is broken. Logarithmic but for accuracy."""
        gap = self.limit - value if self.quantity == "accuracy" else math.log(value / self.limit)
        return gap if (self.sense == "at least") == (self.quantity == "accuracy") else -gap

    def broken_by(self, value: float, what: str) -> str:
        """One sentence for a value that breaks it."""
        because = f" ({self.because})" if self.because else ""
        return f"{self.quantity} must be {self.sense} {_text(self.limit)}{because}, {what} {_text(value)}"


def _text(value: float) -> str:
    """Whole numbers in full (bytes), others with six digits."""
    return f"{value:.0f}" if value == round(value) else f"{value:.6g}"


def at_most(quantity: Quantity, limit: float, *, relative_to_baseline: bool = False) -> Constraint:
    """A limit from above; see `Constraint` for what a relative one means."""
    return Constraint(quantity, "at most", limit, relative_to_baseline)


def at_least(quantity: Quantity, limit: float, *, relative_to_baseline: bool = False) -> Constraint:
    """A limit from below; see `Constraint` for what a relative one means."""
    return Constraint(quantity, "at least", limit, relative_to_baseline)


def max_accuracy_drop(drop: float) -> Constraint:
    """Accuracy may fall by at most `drop` (0.01 = one point) below the fp32 baseline."""
    return Constraint("accuracy", "at least", drop, relative_to_baseline=True)


def met_by(evaluation: Evaluation, constraints: Iterable[Constraint]) -> bool:
    """Whether a complete evaluation keeps all (resolved) constraints."""
    values = [(c, value_of(evaluation, c.quantity)) for c in constraints]
    return all(value is not None and c.violation(value) <= 1e-9 for c, value in values)


def value_of(evaluation: Evaluation, quantity: Quantity) -> float | None:
    """What an evaluation has of a quantity; accuracy is that of the validation split."""
    if quantity == "accuracy":
        return evaluation.validation.value if evaluation.validation else None
    value: float | None = getattr(evaluation, quantity)
    return value


def device_limits(device: DeviceProfile) -> list[Constraint]:
    """What the memory of a device allows."""
    limits: list[tuple[Quantity, int | None, str]] = [
        ("size_bytes", device.flash_bytes, "flash"),
        ("peak_memory_bytes", device.ram_bytes, "RAM"),
    ]
    return [
        Constraint(quantity, "at most", limit, because=f"{what} of {device.name}")
        for quantity, limit, what in limits
        if limit is not None
    ]
