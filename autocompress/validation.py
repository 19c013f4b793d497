"""What files and people give: errors in one sentence, versions, and what was probably meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from autocompress.errors import InputError

_LISTED = 5
"""Problems that are named; a file of another kind has one for each of its keys."""


class Data(BaseModel):
    """Plain data: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return " (did you mean 'x'?)" where one of `known` is close, else nothing."""
    close = get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_version(data: Mapping[str, Any], source: str, error: type[InputError], supported: int = 1) -> None:
    """Refuse a file of another version with one sentence instead of a list of unknown keys."""
    version = data.get("version", supported)
    if version != supported:
        raise error(
            f"{source}: version must be {supported}, got {version!r}; it was written by another version of autocompress"
        )


def explain(error: ValidationError, source: str, fields: Sequence[str]) -> str:
    """Turn a pydantic error into one line per problem: path, rule, what was given; of many the first ones."""
    lines = []
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            hint = suggestion(str(problem["loc"][-1]), fields) or f"; allowed: {', '.join(fields)}"
            lines.append(f"{source}: {path}: unknown key{hint}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            lines.append(f"{source}: {path}: {message}, got {problem['input']!r}")
    if rest := lines[_LISTED:]:
        lines = [*lines[:_LISTED], f"{source}: and {len(rest)} more; is it a file of this kind?"]
    return "\n".join(lines)
