"""Several studies side by side, for the terminal: a table, and sentences about it."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from autocompress.report.comparison import Comparison, Row
from autocompress.report.formatting import plural, ratio_text


def _accuracy(row: Row, c: Comparison) -> str:
    return f"{100 * row.best_accuracy:.2f} %" if c.percent else f"{row.best_accuracy:.4g}"


def _ratio(value: float | None, better: str, worse: str) -> str:
    return "none within 1 point" if value is None else ratio_text(value, better, worse)


COLUMNS: tuple[tuple[str, Callable[[Row, Comparison], str], bool], ...] = (
    ("study", lambda r, c: r.name, False),
    ("device", lambda r, c: r.device, False),
    ("sampler, seed", lambda r, c: f"{r.sampler}, {r.seed}", False),
    ("evaluated", lambda r, c: f"{r.evaluated:,}", True),
    ("rejected", lambda r, c: f"{r.rejected:,}", True),
    ("compute", lambda r, c: f"{r.minutes:.1f} min", True),
    ("hypervolume", lambda r, c: f"{r.hypervolume:.4g}", True),
    ("at equal candidates", lambda r, c: f"{r.hypervolume_equal_candidates:.4g}", True),
    ("at equal compute", lambda r, c: f"{r.hypervolume_equal_minutes:.4g}", True),
    ("front (unbeaten)", lambda r, c: f"{r.front_points}" + (f" ({r.joint_points})" if c.same_device else ""), True),
    ("best score, validation", _accuracy, True),
    ("fastest within 1 point (validation)", lambda r, c: _ratio(r.near_speedup, "faster", "slower"), True),
    ("smallest within 1 point (validation)", lambda r, c: _ratio(r.near_shrink, "smaller", "larger"), True),
)
"""Heading, cell, and whether it is a number."""


def table(comparison: Comparison) -> Table:
    """What `compare` prints: a column for each study."""
    made = Table(title=Text("Studies on the same data"), caption=Text(comparison.reference_text))
    (first, *_), *others = COLUMNS
    made.add_column(Text(first))
    for row in comparison.rows:
        made.add_column(Text(row.name), justify="right", overflow="fold")
    for name, cell, _ in others:
        made.add_row(Text(name), *(Text(cell(row, comparison)) for row in comparison.rows))
    return made


def sentences(comparison: Comparison) -> list[str]:
    """Who is ahead, at what budget, and what to mind."""
    equal = sorted(comparison.rows, key=lambda r: -r.hypervolume_equal_candidates)
    best, second = equal[0], equal[1]
    least = min(row.evaluated for row in comparison.rows)
    lead = best.hypervolume_equal_candidates - second.hypervolume_equal_candidates
    share = f" ({lead / second.hypervolume_equal_candidates:.0%} more)" if second.hypervolume_equal_candidates else ""
    at = f"After {plural(least, 'evaluated candidate')}"
    if lead <= 1e-12:
        said = [f"{at} {best.name} and {second.name} have the same hypervolume."]
    else:
        said = [f"{at} {best.name} has the largest hypervolume{share}, before {second.name}."]
    for group in comparison.groups:
        said.append(
            f"{group['sampler']} on {group['device']}: median hypervolume {group['median']:.4g} over "
            f"{plural(group['n'], 'seed')}, from {group['low']:.4g} to {group['high']:.4g}."
        )
    return [*said, *comparison.cautions]
