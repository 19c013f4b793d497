"""One self-contained HTML file about a study: no network, no server, works from the file system."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from autocompress._files import write_atomically
from autocompress.report._payload import embedded, payload, provenance, reasons
from autocompress.report.plots import hypervolume_reference
from autocompress.report.table import front_rows, headline
from autocompress.study import Study


def write_html(study: Study, path: str | Path) -> None:
    """Write the interactive report of a study as one file, all or nothing."""
    write_atomically(path, render(study))


def render(study: Study) -> str:
    """Return the report as text.

    The plotly.js library is carried compressed; the browser unpacks it (all browsers since 2023 can).
    """
    environment = Environment(
        loader=PackageLoader("autocompress.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.j2").render(
        study=study,
        settings=study.settings,
        sentences=headline(study),
        rows=front_rows(study),
        reasons=reasons(study),
        provenance=provenance(study),
        hypervolume_reference=hypervolume_reference(study)[1],
        data=Markup(embedded(payload(study))),
        plotly=_packed_plotly(),
        style=Markup(_file("report.css")),
        script=Markup(_file("report.js")),
    )


@cache
def _packed_plotly() -> str:
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
