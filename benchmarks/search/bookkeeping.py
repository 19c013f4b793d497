"""What the benchmarks that compare searches write down."""

from __future__ import annotations

import json
import platform
from typing import Any

import numpy as np
import optuna


def span(given: str) -> range:
    """ "3-5" or "3" as numbers."""
    first, _, last = given.partition("-")
    return range(int(first), int(last or first) + 1)


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "optuna": optuna.__version__, "numpy": np.__version__}


def text(record: dict[str, Any]) -> str:
    """JSON with one run per line."""
    runs = ",\n  ".join(json.dumps(r) for r in record["runs"])
    head = json.dumps({k: v for k, v in record.items() if k != "runs"})[:-1]
    return f'{head}, "runs": [\n  {runs}\n]}}\n'
