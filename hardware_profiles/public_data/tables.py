"""The tables of public measurements, as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

Row = dict[str, str]


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a table, by the names of its columns.

    Raises:
        FileNotFoundError: there is no such table.
    """
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)
