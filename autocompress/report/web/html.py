"""One self-contained HTML file about a study: no network, no server, works from the file system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from autocompress.errors import StudyError
from autocompress.files import write_atomically
from autocompress.report.formatting import is_percentage, reasons
from autocompress.report.hypervolume import hypervolume_reference
from autocompress.report.importance import importances
from autocompress.report.text.ablation import chain_lines, chain_sentence, pipeline_lines
from autocompress.report.text.retarget import cross_rows, sentences
from autocompress.report.text.table import front_rows, headline
from autocompress.report.ties import TIE, ties
from autocompress.report.web._page import embedded, own_file, packed_plotly, render_page
from autocompress.report.web._payload import payload, provenance, space_text, study_command
from autocompress.studies.ablation import read_ablation, recommended
from autocompress.studies.confusion import read_confusions
from autocompress.studies.retarget import Retargeted
from autocompress.studies.study import Study

T = TypeVar("T")


def write_html(study: Study, path: str | Path, others: Retargeted | None = None) -> None:
    """Write the interactive report of a study as one file, all or nothing; see `render`."""
    write_atomically(path, render(study, others))


def render(study: Study, others: Retargeted | None = None) -> str:
    """Return the report as text.

    Args:
        study: what to show, with its ablation where there is one.
        others: the study on other devices, for a cross table.
    """
    problems = [*study.problems, *study.altered()]
    ablation = _readable(read_ablation, study, problems)
    confusions = _readable(read_confusions, study, problems)
    percent = is_percentage(study)
    knobs, no_knobs = importances(study)
    picks = recommended(study)
    return render_page(
        "template.html.j2",
        study=study,
        settings=study.settings,
        sentences=[*headline(study), *problems],
        rows=front_rows(study),
        ties=ties(study.front),
        tie=TIE,
        picks=picks,
        chains=[
            (
                c.trial,
                picks.get(c.trial, ()),
                chain_sentence(c, percent, study.settings.metric),
                chain_lines(c, percent),
            )
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
        data=embedded(payload(study, ablation, confusions or {}, knobs)),
        plotly=packed_plotly(),
        style=own_file("report.css"),
        script=own_file("figures.js", "report.js"),
    )


def _readable(read: Callable[[Path], T], study: Study, problems: list[str]) -> T | None:
    """What a file of the study holds; None, and a sentence for the reader, where it is damaged."""
    try:
        return read(study.path)
    except StudyError as error:
        problems.append(str(error))
        return None
