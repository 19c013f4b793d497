"""The ranges that a search draws from: plain frozen dataclasses that can stand beside a pydantic field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Scope = Literal["model", "stage", "layer"]
"""One value for the whole model, one per stage of the network, or one per layer (per group when pruning)."""

Value = float | int | str | bool


class Suggester(Protocol):
    """What a domain asks for values; `optuna.Trial` is one."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = ..., log: bool = ...) -> float:
        """Return a float between `low` and `high`."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of `choices`."""


@dataclass(frozen=True, slots=True)
class FloatRange:
    """Numbers from `low` to `high`, in steps or continuous; `log` spreads them by magnitude."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low > self.high:
            raise ValueError(f"low must not be above high, got low {self.low} and high {self.high}")
        if self.step is not None and (self.step <= 0 or self.log):
            raise ValueError(f"step must be positive and without log, got {self.step}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must begin above 0, got {self.low}")

    @property
    def top(self) -> float:
        """The largest value: `high`, or the last one of the grid below it."""
        return float(f"{self.low + (self.size - 1) * self.step:.6g}") if self.step else self.high

    def suggest(self, name: str, suggester: Suggester) -> float:
        """Draw one value, rounded to six significant digits."""
        value = suggester.suggest_float(name, self.low, self.top, step=self.step, log=self.log)
        return float(f"{value:.6g}")

    def corners(self) -> tuple[Value, ...]:
        """The values at which the range is checked when a space is loaded: its ends and one between them."""
        between = self.low + self.step if self.step else self.at(0.3819)
        return (self.low, min(between, self.top), self.top)

    def at(self, fraction: float) -> Value:
        """The value at a share of the way from low to high, on the grid of `step`."""
        if self.log:
            return float(f"{self.low * (self.high / self.low) ** fraction:.6g}")
        if self.step:
            return float(f"{self.low + round(fraction * (self.size - 1)) * self.step:.6g}")
        return float(f"{self.low + fraction * (self.high - self.low):.6g}")

    def nearest(self, value: Value) -> Value | None:
        """The value of the range that is closest to `value`, or None where that is not a number."""
        if isinstance(value, (bool, str)):
            return None
        inside = min(max(float(value), self.low), self.top)
        if self.step:
            inside = self.low + round((inside - self.low) / self.step) * self.step
        return float(f"{inside:.6g}")

    @property
    def size(self) -> float:
        """Number of values; infinite for a continuous range of some width."""
        if self.low == self.high:
            return 1
        return math.inf if self.step is None else math.floor((self.high - self.low) / self.step + 1e-9) + 1


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the given values."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(map(repr, self.values))) < len(self.values):
            raise ValueError(f"a choice needs one or more different values, got {list(self.values)}")

    def suggest(self, name: str, suggester: Suggester) -> Value:
        """Draw one value."""
        if len(self.values) == 1:
            return self.values[0]
        value: Value = suggester.suggest_categorical(name, self.values)
        return value

    def corners(self) -> tuple[Value, ...]:
        """All values."""
        return self.values

    def at(self, fraction: float) -> Value:
        """The value at a share of the way through the list."""
        return self.values[round(fraction * (len(self.values) - 1))]

    def nearest(self, value: Value) -> Value | None:
        """The same value, or None where it is no choice."""
        return next((v for v in self.values if v == value and isinstance(v, bool) == isinstance(value, bool)), None)

    @property
    def size(self) -> float:
        """Number of values."""
        return len(self.values)


Domain = FloatRange | Choice


@dataclass(frozen=True, slots=True)
class Scoped:
    """A domain that is drawn once, once per stage of the network, or once per layer."""

    domain: Domain
    per: Scope = "model"


def _number(key: str, value: object) -> int | float:
    """A number; YAML 1.1 takes 1e-3, without a point, for text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    try:
        return float(str(value))
    except ValueError:
        raise ValueError(f"{key} must be a number, got {value!r}") from None


def parse_domain(data: dict[str, Any]) -> Scoped:
    """Read `{low, high[, step, log]}` or `{choice: [...]}`, either with `per: model | stage | layer`.

    Raises:
        ValueError: the mapping is not a domain; the message says why.
    """
    rest = dict(data)
    per = rest.pop("per", "model")
    if per not in ("model", "stage", "layer"):
        raise ValueError(f"per must be one of model, stage, layer, got {per!r}")
    if set(rest) == {"choice"}:
        if not isinstance(rest["choice"], list):
            raise ValueError(f"choice must be a list, got {rest['choice']!r}")
        return Scoped(Choice(tuple(rest["choice"])), per)
    if {"low", "high"} <= set(rest) <= {"low", "high", "step", "log"}:
        for key in {"low", "high", "step"} & set(rest):
            rest[key] = _number(key, rest[key])
        return Scoped(FloatRange(**rest), per)
    raise ValueError(
        "a domain is {low: .., high: .., step: .., log: ..} or {choice: [..]}, "
        f"each with an optional per: model | stage | layer, got the keys {', '.join(map(str, data))}"
    )
