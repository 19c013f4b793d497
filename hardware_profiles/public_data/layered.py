"""Accelerators that timed whole networks of public zoos: priced by products, everything between them included.

Only convolutions and linear layers are known of these networks (`zoos.layers`), so a pooling or an addition has no
cost of its own: it is in that of the products around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocompress.devices.profile import Dtype
from autocompress.runtimes.workload import Workload
from public_data import zoos
from public_data.collection import Collection, Target
from public_data.hierarchy import RUN, Part, Settings, Term
from public_data.tables import Row, read_rows

DENSE = ("conv1x1", "linear")
WIDE = ("conv", "conv_transpose")
THIN = ("depthwise", "grouped")
PRODUCTS = (*DENSE, *WIDE, *THIN)
FREE = ("layout", "quantize", "dequantize", "pool", "elementwise", "movement", "activation", "softmax")
_ENOUGH = 5
WHOLE_NETWORKS = (
    "operators between products (pooling, additions, activations): their cost is in that of the products",
    "attention, normalisations and resizing: hardly in the data, so transformers are out of domain",
)


@dataclass(frozen=True)
class Chip:
    """One configuration of a table; a row belongs to it if all columns match the patterns in `where`."""

    name: str
    description: str
    where: Mapping[str, str]
    profile: Mapping[str, Any]
    facts: tuple[float, ...] = ()
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A file of measurements and where it comes from."""

    file: str
    source: str
    """With its licence behind the last comma."""
    date: str
    chips: tuple[Chip, ...]
    caveats: tuple[str, ...] = ()
    left_out: str = r"$^"
    """Networks whose names match this are not used."""


@dataclass
class _Read:
    ms: dict[str, float] = field(default_factory=dict)


def terms(dtype: Dtype, mmac: float, run: float = 300.0) -> list[Term]:
    """A call, layers, MACs of three kinds, weights and activations, with first guesses in us."""
    suffix = " int8" if dtype == "int8" else ""
    return [
        Term("run", run, ((RUN, "float32", "overhead_us", 1.0),)),
        Term(f"dense{suffix}", mmac, _of(DENSE, dtype, "us_per_mmac")),
        Term(f"wide{suffix}", mmac, _of(WIDE, dtype, "us_per_mmac")),
        Term(f"thin{suffix}", 10 * mmac, _of(THIN, dtype, "us_per_mmac")),
        Term(f"weights{suffix}", 30.0 * mmac, _of(PRODUCTS, dtype, "us_per_mb_weights")),
        Term(
            f"activations{suffix}",
            30.0 * mmac,
            _of(PRODUCTS, dtype, "us_per_mb_in") + _of(PRODUCTS, dtype, "us_per_mb_out"),
        ),
        Term(f"layer{suffix}", 5.0, _of(PRODUCTS, dtype, "overhead_us")),
    ]


def _of(kinds: Sequence[str], dtype: Dtype, column: str) -> tuple[Part, ...]:
    return tuple((kind, dtype, column, 1.0) for kind in kinds)


def side_of(row: Row, usual: int = 224) -> int:
    """The longer side of the input."""
    sizes = [int(text) for text in re.findall(r"\d+", row.get("input_shape") or "")]
    return max((size for size in sizes if size <= 1300), default=usual)


def workload(row: Row) -> tuple[str, Workload] | None:
    """Name and products of the network of a row, in its number format, or None if it is not in a zoo."""
    work = zoos.layers(row["network"], side_of(row))
    if work is None or row.get("batch", "1") not in ("1", ""):
        return None
    name = f"{row['network']}@{side_of(row)}"
    integer = row["precision"].startswith(("int8", "w8a8"))
    return (f"{name}_int8", zoos.int8(work)) if integer else (name, work)


def targets(data: Path, table: Table) -> tuple[list[Target], dict[str, Workload]]:
    """The chips of a table that ran enough known networks, and those networks."""
    works: dict[str, Workload] = {}
    ms: dict[str, dict[str, list[float]]] = {chip.name: {} for chip in table.chips}
    left_out = re.compile(table.left_out)
    for row in read_rows(data / table.file):
        found = None if left_out.search(row["network"]) else workload(row)
        for chip in table.chips if found else ():
            if all(re.match(pattern, row[column]) for column, pattern in chip.where.items()):
                works[found[0]] = found[1]  # type: ignore[index]
                ms[chip.name].setdefault(found[0], []).append(float(row["latency_ms"]))  # type: ignore[index]
    made = [
        Target(
            chip.name,
            chip.description,
            {name: sorted(times)[len(times) // 2] for name, times in ms[chip.name].items()},
            table.date,
            chip.profile,
            chip.facts,
            (*chip.caveats, *table.caveats),
            source=table.source,
        )
        for chip in table.chips
        if len(ms[chip.name]) >= _ENOUGH
    ]
    return made, works


def collect(
    data: Path,
    tables: Iterable[Table],
    dtypes: Sequence[tuple[Dtype, float]],
    settings: Settings,
    max_p90: float = 1.6,
) -> Collection:
    """All chips of the tables, fitted together."""
    works: dict[str, Workload] = {}
    made: list[Target] = []
    for table in tables:
        found, networks = targets(data, table)
        made += found
        works |= networks
    named = {term.name: term for dtype, mmac in dtypes for term in terms(dtype, mmac)}
    return Collection(
        source="",
        licence="",
        terms=tuple(named.values()),
        workloads=works,
        targets=tuple(made),
        settings=settings,
        free=FREE,
        caveats=WHOLE_NETWORKS,
        max_p90=max_p90,
    )
