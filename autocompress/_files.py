"""Reading and writing small files: safely, and never half."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from autocompress.errors import AutocompressError, InputError


def read_yaml(path: str | Path, error: type[InputError]) -> Any:
    """Read YAML with the safe loader.

    Raises:
        error: the file is missing, unreadable or not YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        raise error(f"{path}: cannot be read: {reason}") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(problem, "problem", None) or "syntax error"
        raise error(f"{path}: not valid YAML{where}: {what}") from None


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file so that a reader, a crash or a full disk never leaves it half written.

    Raises:
        AutocompressError: it cannot be written; an older file of this name is as it was.
    """
    path = Path(path)
    try:
        _write(path, content.encode() if isinstance(content, str) else content)
    except OSError as problem:
        raise AutocompressError(f"{path}: cannot be written: {problem.strerror or problem}") from problem


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, all or nothing; NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
