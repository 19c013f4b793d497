"""Several studies side by side: samplers, spaces, models or devices on the same data.

Hypervolumes are computed with one reference for all, over evaluated candidates and over compute, and are set against
each other at the end and at equal budget. What cannot be compared is refused or said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from autocompress.errors import StudyError
from autocompress.report.formatting import is_percentage, ms_text, size_text
from autocompress.report.hypervolume import Point, Volumes, hypervolume_reference, in_order
from autocompress.studies.front import ParetoFront, dominates
from autocompress.studies.study import Study, front_of, resolved

_NEAR_POINTS = 0.01
"""A point counts as nearly as accurate as fp32 down to this loss."""


@dataclass(frozen=True)
class Row:
    """One study in figures."""

    name: str
    device: str
    sampler: str
    seed: int
    final: bool
    evaluated: int
    rejected: int
    failed: int
    minutes: float
    """Compute, summed over workers."""
    hypervolume: float
    hypervolume_equal_candidates: float
    """When as many candidates were evaluated as in the study with the fewest."""
    hypervolume_equal_minutes: float
    front_points: int
    joint_points: int | None
    """Points of its front that no other study beats; None where latencies cannot be compared."""
    best_accuracy: float
    near_speedup: float | None
    """Largest speed-up over its fp32 within one point of fp32's accuracy (validation)."""
    near_shrink: float | None


@dataclass(frozen=True)
class Comparison:
    """Studies that were judged on the same data by the same metric.

    Raises:
        StudyError: there are fewer than two, they were judged differently, or one has no fp32 baseline yet.
    """

    studies: tuple[Study, ...]

    def __post_init__(self) -> None:
        if len(self.studies) < 2:
            raise StudyError("a comparison needs two or more studies")
        first = self.studies[0]
        for other in self.studies[1:]:
            for what, mine, theirs in (
                ("metric", first.settings.metric, other.settings.metric),
                ("data", first.settings.data_sha256, other.settings.data_sha256),
            ):
                if mine != theirs:
                    raise StudyError(
                        f"{first.path} and {other.path} cannot be compared: {what} {_short(mine)} and "
                        f"{_short(theirs)}; studies must be judged by the same metric on the same data"
                    )
        for study in self.studies:
            if hypervolume_reference(study)[0] is None:
                raise StudyError(f"{study.path}: has no completed fp32 baseline to refer to; let the search run first")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the studies: as much of their paths as tells them apart."""
        paths = [study.path.resolve().parts for study in self.studies]
        for n in range(1, max(map(len, paths)) + 1):
            names = tuple("/".join(parts[-n:]) for parts in paths)
            if len(set(names)) == len(names):
                return names
        return tuple(f"{study.path} ({i + 1})" for i, study in enumerate(self.studies))

    @cached_property
    def same_device(self) -> bool:
        """Whether latencies of one study can be set against those of another."""
        return all(s.settings.device == self.studies[0].settings.device for s in self.studies)

    @cached_property
    def source(self) -> str:
        """Of the latencies of the fronts: measured where all of them are, else predicted."""
        return "measured" if all(p.measured_latency_ms for s in self.studies for p in s.front) else "predicted"

    @cached_property
    def cautions(self) -> list[str]:
        """What must be known before the figures are read."""
        said = []
        settings = [s.settings for s in self.studies]
        if not self.same_device:
            names = ", ".join(dict.fromkeys(str(s.device["name"]) for s in settings))
            same_name = len({s.device["name"] for s in settings}) == 1
            what = (
                f"the profile of {names} changed between the studies" if same_name else f"different devices ({names})"
            )
            said.append(
                f"Latencies are not comparable: {what}. Everything about latency is relative to each study's own fp32."
            )
        elif self.source == "measured":
            said.append("Latencies were measured in each study's own session, not side by side.")
        if len({s.model_sha256 for s in settings}) > 1:
            said.append("The studies compress different models: their fp32 baselines differ.")
        if len({s.constraints for s in settings}) > 1:
            said.append("The studies have different constraints: each front keeps its own.")
        if len({json.dumps(s.space, sort_keys=True) for s in settings}) > 1:
            said.append("The studies search different spaces.")
        if unfinished := [n for n, s in zip(self.names, self.studies, strict=True) if not s.final]:
            said.append(f"Not finished: {', '.join(unfinished)}.")
        for n, study in zip(self.names, self.studies, strict=True):
            if not study.constraints_met:
                said.append(f"No point of {n} keeps its constraints.")
            said += study.altered()
        return said

    @cached_property
    def reference(self) -> Point:
        """The worst point that counts, for all studies: accuracy, latency in `unit_ms`, bytes."""
        found = [worst for s in self.studies if (worst := hypervolume_reference(s)[0])]
        latency = max(worst[1] for worst in found) if self.same_device else 1.0
        return min(worst[0] for worst in found), latency, max(worst[2] for worst in found)

    @property
    def reference_text(self) -> str:
        """The reference in words."""
        accuracy, latency, size = self.reference
        metric, percent = self.studies[0].settings.metric, self.percent
        shown = f"{100 * accuracy:.2f} %" if percent else f"{accuracy:.4g}"
        what = ms_text(latency) if self.same_device else "the latency of each study's own fp32"
        return (
            f"Hypervolume in {metric} (validation) x ln latency (predicted) x ln bytes, up to the same reference for "
            f"all: {metric} {shown}, {what}, {size_text(size)}."
        )

    @cached_property
    def percent(self) -> bool:
        """Whether the metric is shown in percent."""
        return all(map(is_percentage, self.studies))

    @cached_property
    def volumes(self) -> dict[str, Volumes]:
        """The course of the hypervolume of each study."""
        made = {}
        for name, study in zip(self.names, self.studies, strict=True):
            volumes = Volumes(self.reference, self.unit_ms(study))
            for evaluation in in_order(study.evaluations):
                volumes.add(evaluation)
            made[name] = volumes
        return made

    def unit_ms(self, study: Study) -> float:
        """In what latencies are counted: milliseconds, or the study's own fp32 where devices differ."""
        worst = hypervolume_reference(study)[0]
        return 1.0 if self.same_device or worst is None else worst[1]

    @cached_property
    def fronts(self) -> list[ParetoFront]:
        """The fronts with latencies of one `source`."""
        if self.source == "measured":
            return [s.front for s in self.studies]
        found = []
        for study in self.studies:
            complete = [e for e in study.evaluations if e.state == "complete" and e.predicted_latency_ms]
            stripped = [e.model_copy(update={"measured_latency_ms": None}) for e in complete]
            found.append(front_of(stripped, resolved(study.settings.constraints, stripped)))
        return found

    @cached_property
    def rows(self) -> list[Row]:
        """One per study, in the order given."""
        all_volumes = self.volumes.values()
        candidates = min(v.evaluated[-1] for v in all_volumes)
        minutes = min(v.minutes[-1] for v in all_volumes)
        return [
            self._row(i, study, self.volumes[name], candidates, minutes)
            for i, (name, study) in enumerate(zip(self.names, self.studies, strict=True))
        ]

    def _row(self, i: int, study: Study, volumes: Volumes, candidates: int, minutes: float) -> Row:
        s, front = study.settings, self.fronts[i]
        base = study.reference
        assert base is not None and base.validation is not None and base.size_bytes
        base_ms = base.measured_latency_ms if self.source == "measured" else base.predicted_latency_ms
        allowed = _NEAR_POINTS if self.percent else _NEAR_POINTS * abs(base.validation.value)
        near = [p.objectives() for p in front if p.objectives()[0] >= base.validation.value - allowed]
        judged = [e for e in study.candidates if not e.is_repeat]
        return Row(
            name=self.names[i],
            device=str(s.device["name"]),
            sampler=s.sampler,
            seed=s.seed,
            final=study.final,
            evaluated=volumes.evaluated[-1],
            rejected=sum(e.state == "rejected" for e in judged),
            failed=sum(e.state == "failed" for e in judged),
            minutes=volumes.minutes[-1],
            hypervolume=volumes.last(),
            hypervolume_equal_candidates=volumes.at(candidates),
            hypervolume_equal_minutes=volumes.at(minutes, "minutes"),
            front_points=len(front),
            joint_points=self._unbeaten(i) if self.same_device else None,
            best_accuracy=max(p.objectives()[0] for p in front),
            near_speedup=max((base_ms / latency for _, latency, _ in near), default=None) if base_ms else None,
            near_shrink=max((base.size_bytes / size for *_, size in near), default=None),
        )

    def _unbeaten(self, i: int) -> int:
        others = [p.objectives() for j, front in enumerate(self.fronts) if j != i for p in front]
        return sum(not any(dominates(o, p.objectives()) for o in others) for p in self.fronts[i])

    @cached_property
    def groups(self) -> list[dict[str, Any]]:
        """Studies that differ by their seed only, taken together: median and range of the hypervolume."""
        found: dict[tuple[str, ...], list[Row]] = {}
        for row, study in zip(self.rows, self.studies, strict=True):
            s = study.settings
            key = (s.sampler, str(s.device["name"]), json.dumps(s.space, sort_keys=True), s.model_sha256)
            found.setdefault((*key, *map(str, s.constraints)), []).append(row)
        if all(len(rows) == 1 for rows in found.values()):
            return []
        return [_group(rows) for rows in found.values()]

    def to_dict(self) -> dict[str, Any]:
        """What `compare --json` prints."""
        accuracy, latency, size = self.reference
        return {
            "metric": self.studies[0].settings.metric,
            "cautions": self.cautions,
            "latencies_comparable": self.same_device,
            "front_latency_source": self.source,
            "reference": {
                "accuracy": accuracy,
                "latency_ms" if self.same_device else "latency_relative_to_own_fp32": latency,
                "size_bytes": size,
                "words": self.reference_text,
            },
            "studies": [
                asdict(row) | {"path": str(study.path)} for row, study in zip(self.rows, self.studies, strict=True)
            ],
            "groups": self.groups,
        }


def load(paths: Sequence[Path]) -> Comparison:
    """Open the studies and see whether they can be compared.

    Raises:
        StudyError: one cannot be read, or they cannot be compared.
    """
    return Comparison(tuple(Study.open(path) for path in paths))


def _group(rows: list[Row]) -> dict[str, Any]:
    values = sorted(row.hypervolume_equal_candidates for row in rows)
    return {
        "sampler": rows[0].sampler,
        "device": rows[0].device,
        "studies": [row.name for row in rows],
        "n": len(values),
        "median": median(values),
        "low": values[0],
        "high": values[-1],
    }


def _short(value: str) -> str:
    return value if len(value) <= 24 else f"{value[:8]}..."
