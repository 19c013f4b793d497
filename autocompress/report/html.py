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
from autocompress.ablation import read_ablation, recommended
from autocompress.report._payload import embedded, payload, provenance, reasons, space_text, study_command
from autocompress.report._words import is_percentage
from autocompress.report.chains import chain_lines, chain_sentence, pipeline_lines
from autocompress.report.importance import importances
from autocompress.report.plots import TIE, hypervolume_reference
from autocompress.report.retarget import cross_rows, sentences
from autocompress.report.table import front_rows, headline
from autocompress.report.ties import ties
from autocompress.retarget import Retargeted
from autocompress.study import Study


def write_html(study: Study, path: str | Path, others: Retargeted | None = None) -> None:
    """Write the interactive report of a study as one file, all or nothing; see `render`."""
    write_atomically(path, render(study, others))


def render(study: Study, others: Retargeted | None = None) -> str:
    """Return the report as text.

    The plotly.js library is carried compressed; the browser unpacks it (all browsers since 2023 can).

    Args:
        study: what to show, with its ablation where there is one.
        others: the study on other devices, for a cross table.
    """
    ablation, percent = read_ablation(study.path), is_percentage(study)
    knobs, no_knobs = importances(study)
    picks = recommended(study)
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
        ties=ties(study.front),
        tie=TIE,
        picks=picks,
        chains=[
            (c.trial, picks.get(c.trial, ()), chain_sentence(c, percent), chain_lines(c, percent))
            for c in (ablation.chains if ablation else ())
        ],
        pipelines=pipeline_lines(ablation, study) if ablation else [],
        no_knobs=no_knobs,
        devices=[p.device.name for p in others.projections] if others else [],
        cross=cross_rows(others) if others else [],
        cross_sentences=sentences(others) if others else [],
        study_command=study_command(study),
        space=space_text(study),
        reasons=reasons(study),
        provenance=provenance(study),
        hypervolume_reference=hypervolume_reference(study)[1],
        data=Markup(embedded(payload(study, ablation, knobs))),
        plotly=_packed_plotly(),
        style=Markup(_file("report.css")),
        script=Markup(_file("report.js")),
    )


@cache
def _packed_plotly() -> str:
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
