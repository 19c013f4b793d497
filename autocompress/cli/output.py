"""What the commands print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from autocompress.studies.study import Study

_COLUMNS = 160
"""Of a file or a pipe, which has no width of its own."""


def print_rich(renderable: RenderableType) -> None:
    """Print a table."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _COLUMNS).print(renderable)


def print_study(study: Study) -> None:
    """Print the front and its summary."""
    from autocompress.report.text.table import front_table, headline

    for problem in (*study.problems, *study.altered()):
        typer.echo(f"note: {problem}", err=True)
    print_rich(front_table(study))
    for sentence in headline(study):
        typer.echo(sentence)
