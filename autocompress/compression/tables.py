"""Settings that may differ from layer to layer of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

T = TypeVar("T")


Table = dict[str, T]
"""A setting per layer: keys are names of layers, of modules around them or of stages, patterns such as "blocks.0.*", or
"default"."""


def lookup(table: Mapping[str, T] | T, name: str, stage: str, default: T) -> T:
    """The setting for one layer: by name, by pattern, by the nearest module around it, by its stage, by "default"."""
    if not isinstance(table, Mapping):
        return table
    if name in table:
        return table[name]
    for pattern, value in table.items():
        if fnmatchcase(name, pattern):
            return value
    around = name
    while "." in around:
        around = around.rpartition(".")[0]
        if around in table:
            return table[around]
    return table.get(stage, table.get("default", default))


def table_changes(before: Any, after: Any, default: Any) -> list[tuple[str, Any, Any]]:
    """Where two settings differ: name of the layer or stage, before, after.

    The name is "" where both hold for all layers, and "everything else" for what a table does not name.
    """
    if not isinstance(before, Mapping) and not isinstance(after, Mapping):
        return [("", before, after)] if before != after else []
    tables = [t if isinstance(t, Mapping) else {"default": t} for t in (before, after)]
    rows = []
    for key in dict.fromkeys([*(k for table in tables for k in table if k != "default"), "default"]):
        old, new = (table.get(key, table.get("default", default)) for table in tables)
        if old != new:
            rows.append(("everything else" if key == "default" else key, old, new))
    return rows


def unknown_keys(table: object, names: Iterable[str], stages: Iterable[str]) -> list[str]:
    """Keys of a table that match no layer, no module around one, and no stage."""
    if not isinstance(table, Mapping):
        return []
    known = [*names, *stages, "default"]
    return [key for key in table if not any(fnmatchcase(name, key) or name.startswith(f"{key}.") for name in known)]
