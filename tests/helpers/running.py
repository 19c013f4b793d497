"""Runs graphs in the reference runtime, in a word each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from autocompress.runtimes.base import Model, reference


def load(file: bytes | Path) -> Model:
    return reference().load(file)


def run(model: Model, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """In order."""
    return list(model(inputs).values())
