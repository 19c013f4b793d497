"""A study seen from several devices: tables for the terminal, and sentences about them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.table import Table
from rich.text import Text

from autocompress.report.formatting import (
    accuracy_text,
    description,
    is_percentage,
    mj_text,
    ms_text,
    plural,
    points_text,
    size_text,
)
from autocompress.studies.results import Evaluation
from autocompress.studies.retarget import CrossDeviceResult, Projection, Retargeted
from autocompress.tasks.metric import Score

CAPTION = (
    "row: best choice for that device; column: where it runs. Latency against the column's own best choice, "
    "difference of the metric (validation); * the metric may have another value there"
)


def front_headings(projection: Projection, metric: str) -> list[str]:
    """Headings of `front_rows`; quantities that no point has are left out."""
    points = list(projection.front)
    return [
        *("trial", "", "recipe", f"{metric}, validation"),
        *([f"{metric}, test"] if any(p.test for p in points) else []),
        "latency",
        *(["worst case"] if any(p.exits for p in points) else []),
        *("size", "memory"),
        *(["energy"] if any(p.energy_mj is not None for p in points) else []),
    ]


def front_rows(projection: Projection, metric: str, percent: bool) -> list[list[str]]:
    """The front on one device in words, fastest first."""
    headings = front_headings(projection, metric)
    rows = []
    for e in projection.front:
        cells = {
            "trial": str(e.trial),
            "": _marks(projection, e),
            "recipe": description(e),
            f"{metric}, validation": _value(e.validation, percent),
            f"{metric}, test": _value(e.test, percent),
            "latency": ms_text(e.latency_ms or 0.0),
            "worst case": ms_text(e.worst_case_latency_ms) if e.worst_case_latency_ms is not None else "",
            "size": size_text(e.size_bytes or 0),
            "memory": size_text(e.peak_memory_bytes) if e.peak_memory_bytes is not None else "",
            "energy": mj_text(e.energy_mj) if e.energy_mj is not None else "",
        }
        rows.append([cells[heading] for heading in headings])
    return rows


def _value(score: Score | None, percent: bool) -> str:
    return accuracy_text(score, percent).partition(" [")[0] if score else ""


def _marks(projection: Projection, e: Evaluation) -> str:
    words = ["best choice"] if projection.choice and e.trial == projection.choice.trial else []
    words += ["knee"] if projection.knee and e.trial == projection.knee.trial else []
    words += ["*"] if e.trial in projection.doubts else []
    words += ["rough"] if e.trial in projection.outside else []
    return ", ".join(words)


def front_table(result: Retargeted, projection: Projection) -> Table:
    """The front on one device."""
    name = f"{result.study.settings.task_name} on {projection.device.name}"
    error = f"latency predicted, +-{projection.device.expected_error:.0%}"
    table = Table(title=Text(f"{name} ({error})"), title_justify="left")
    metric = result.study.settings.metric
    for heading in front_headings(projection, metric):
        right = heading not in ("", "recipe")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in front_rows(projection, metric, is_percentage(result.study)):
        table.add_row(*map(Text, row), style="bold" if "best choice" in row[1] else None)
    return table


def cross_rows(result: Retargeted) -> list[list[str]]:
    """One row for each device chosen for, one cell for each device run on, in words."""
    percent = is_percentage(result.study)
    found = {(c.chosen_for, c.device): c for c in result.crossings()}
    return [
        [
            f"{a.device.name} (trial {a.choice.trial})" if a.choice else f"{a.device.name} (nothing runs)",
            *(_cell(found[a.device.name, b.device.name], b, percent) for b in result.projections),
        ]
        for a in result.projections
    ]


def _cell(crossing: CrossDeviceResult, there: Projection, percent: bool) -> str:
    if crossing.latency_ms is None or crossing.latency_cost is None or crossing.accuracy_difference is None:
        return "does not run"
    doubt = " *" if crossing.trial in there.doubts else ""
    if crossing.trial == crossing.own_trial:
        return f"{ms_text(crossing.latency_ms)}{doubt}"
    points = points_text(crossing.accuracy_difference, percent, digits=2)
    return f"{100 * crossing.latency_cost:+.0f} %, {points}{doubt}"


def cross_table(result: Retargeted) -> Table:
    """What the best choice for one device costs on another one."""
    table = Table(title=Text("what a choice costs elsewhere"), title_justify="left", caption=Text(CAPTION))
    table.add_column("best for")
    for projection in result.projections:
        table.add_column(Text(f"on {projection.device.name}"), justify="right")
    for row in cross_rows(result):
        table.add_row(*map(Text, row))
    return table


def sentences(result: Retargeted) -> list[str]:
    """What to know about the tables."""
    study = result.study
    metric = study.settings.metric
    source = f"the study (searched for {study.settings.device['name']})"
    source += " where nothing else is said" if any(p.judged for p in result.projections) else ""
    lines = [f"{metric[:1].upper()}{metric[1:]} is that of {source}; all latencies are predicted."]
    for p in result.projections:
        lines.extend(f"{p.device.name}: {line}" for line in _about(p))
    if result.lost:
        lines.append(
            f"{plural(len(result.lost), 'trial')} could not be projected: operators and file are gone "
            f"(trial {', '.join(map(str, result.lost[:8]))})."
        )
    return lines


def _about(p: Projection) -> list[str]:
    calibration = p.device.calibration
    error = (
        f"expected error {calibration.median_error:.0%} (median), +-{calibration.p90_error:.0%} (9 of 10), "
        f"on {calibration.split}"
        if calibration
        else "the error of this profile is not known"
    )
    lines = [f"{plural(len(p.points), 'trial')} run, {len(p.front)} on the front; {error}."]
    lines += [f"{plural(count, 'trial')} excluded: {reason}." for reason, count in _grouped(p.excluded)]
    lines += [f"* {plural(count, 'trial')}: {reason}." for reason, count in _grouped(p.doubts)]
    if p.outside:
        kinds = ", ".join(sorted({kind for missing in p.outside.values() for kind in missing}))
        lines.append(
            f"rough: {plural(len(p.outside), 'trial')} with operators that the profile does not know: {kinds}."
        )
    if p.constraints and not p.constraints_met:
        listed = "; ".join(map(str, p.constraints))
        lines.append(f"no trial keeps all constraints ({listed}): the front is that of all trials.")
    return lines + [f"{note}." for note in p.notes]


def _grouped(reasons: Any) -> list[tuple[str, int]]:
    """Reasons that differ in their figures only count as one; the first of each stands for all."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason in reasons.values():
        key = "".join("#" if c.isdigit() else c for c in reason).replace("##", "#")
        first.setdefault(key, reason)
        counts[key] += 1
    return [(first[key], count) for key, count in counts.most_common()]
