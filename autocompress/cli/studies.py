"""The commands that read a study: look at it, compare it, hand a point of it over."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autocompress.cli.inputs import checked_task, profile_if_known, profile_of_this_machine, source_of
from autocompress.cli.options import (
    Given,
    JsonOption,
    MaxDrop,
    MaxEnergy,
    MaxLatency,
    MaxMemory,
    MaxSize,
    MinAccuracy,
    PortOption,
    StudyArgument,
    TaskArgument,
    ThreadsOption,
    with_data,
)
from autocompress.cli.output import print_rich, print_study
from autocompress.errors import InputError, StudyError

if TYPE_CHECKING:
    from autocompress.studies.results import Evaluation
    from autocompress.studies.retarget import Retargeted
    from autocompress.studies.study import Study


def watch(
    study: StudyArgument,
    host: Annotated[str, typer.Option(help="Address to serve at; others than the default show it to the network.")] = (
        "127.0.0.1"
    ),
    port: PortOption = None,
    token: Annotated[
        str | None, typer.Option(help="Answer only those who open the page with this token; 'new' makes one.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show a study on a local web page that refreshes while the search runs; Ctrl-C ends it."""
    if not study.is_dir():
        raise StudyError(f"{study}: there is no such folder; give the --out of a search")
    from autocompress.report.web.watch import Watch

    page = Watch(study, host, port, secrets.token_urlsafe(16) if token == "new" else token)
    typer.echo(f"watch {study} at {page.url} (Ctrl-C ends it)\n{page.audience}")
    if open_browser:
        typer.launch(page.url)
    try:
        page.serve_forever()
    except KeyboardInterrupt:
        return
    finally:
        page.close()


def show(
    study: StudyArgument,
    html: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all trials to this file.")] = None,
    device: Annotated[
        str | None, typer.Option(help="With --html: device profiles for a cross table, with commas between them.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The front of a study as a table, as JSON, or as a report that explains it."""
    if device is not None and html is None:
        raise InputError("--device is for the report: give --html too, or use `autocompress retarget`")
    from autocompress.studies.study import Study

    opened = Study.open(study)
    if as_json:
        typer.echo(json.dumps(opened.to_dict(), indent=1))
    if html is not None:
        from autocompress.report.web.html import write_html

        write_html(opened, html, _retargeted(opened, device) if device is not None else None)
        typer.echo(f"wrote {html}", err=as_json)
    if csv is not None:
        opened.frame().to_csv(csv)
        typer.echo(f"wrote {csv}", err=as_json)
    if html is None and csv is None and not as_json:
        print_study(opened)


@with_data
def ablate(
    study: StudyArgument,
    task: TaskArgument,
    given: Given,
    pick: Annotated[
        list[str] | None,
        typer.Option(help="knee, fastest, smallest or most-accurate; can be repeated. All four by default."),
    ] = None,
    trial: Annotated[list[int] | None, typer.Option(help="Any complete candidate; can be repeated.")] = None,
    pipelines: Annotated[
        bool, typer.Option("--pipelines", help="Also evaluate pipelines put together by hand, for comparison.")
    ] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """What each part of a recipe brings: evaluate it step by step, for the report."""
    from autocompress.studies.study import Study

    opened = Study.open(study.absolute())  # a task may change the working directory
    chosen = [opened.front.select(name).trial for name in pick or ()]  # type: ignore[arg-type]
    loaded = checked_task(source_of(task, given), threads)
    from autocompress.controller.ablate import ablate as run
    from autocompress.report.text.live import Live

    trials = [*chosen, *(trial or ())] or None
    with Live() as live:
        found = run(opened, loaded, trials, pipelines=pipelines, progress=live.status)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    from autocompress.report.text.ablation import ablation_tables

    for table in ablation_tables(found, opened):
        print_rich(table)


def compare(
    studies: Annotated[list[Path], typer.Argument(help="Folders of two or more studies of the same data.")],
    html: Annotated[Path | None, typer.Option(help="Write the comparison to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Set studies, samplers or devices against each other: hypervolumes, fronts, a table."""
    from autocompress.report.comparison import load

    comparison = load(studies)
    if html is not None:
        from autocompress.report.web.compare import write_html

        write_html(comparison, html)
        typer.echo(f"wrote {html}", err=as_json)
    if as_json:
        typer.echo(json.dumps(comparison.to_dict(), indent=1))
    elif html is None:
        from autocompress.report.text.comparison import sentences, table

        print_rich(table(comparison))
        for sentence in sentences(comparison):
            typer.echo(sentence)


def diff(
    before: Annotated[str, typer.Argument(help="recipe.yaml, or a trial of a study: results/my-study:12, ...:knee.")],
    after: Annotated[str, typer.Argument(help="The same.")],
    as_json: JsonOption = False,
) -> None:
    """Say in words what changes from one recipe to another and, for trials of studies, what it costs."""
    from autocompress.report.text.diff import Difference, load_side

    difference = Difference(load_side(before), load_side(after))
    typer.echo(json.dumps(difference.to_dict(), indent=1) if as_json else difference.to_text())


def export(
    study: StudyArgument,
    pick: Annotated[
        str | None,
        typer.Option(help="knee, fastest, smallest or most-accurate (the default) of those within the limits."),
    ] = None,
    trial: Annotated[int | None, typer.Option(help="Any complete trial by its number.")] = None,
    max_latency_ms: MaxLatency = None,
    max_size_bytes: MaxSize = None,
    max_memory_bytes: MaxMemory = None,
    max_energy_mj: MaxEnergy = None,
    min_accuracy: MinAccuracy = None,
    max_accuracy_drop: MaxDrop = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; inside the study by default.")] = None,
    sign: Annotated[Path | None, typer.Option(help="Sign the files with this secret key (see `autocompress key`).")] = (
        None
    ),
    integers_only: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="Write model.int8.tflite as well, for microcontrollers and NPUs that have integers only: int8 inputs "
            "and outputs, judged on this task.",
        ),
    ] = None,
) -> None:
    """Export one point: model.onnx, infer.py that runs it, recipe.yaml and a card with figures and conditions.

    It says what the point costs against fp32. A pick that surely loses more than the search allowed (without such a
    limit: one point) is refused unless --max-accuracy-drop accepts the loss.
    """
    from autocompress.packaging.package import SIGNED, export_point, files_of
    from autocompress.report.against import costs_text, loss_text, pick_point
    from autocompress.studies.study import Study

    opened = Study.open(study.absolute())  # a task may change the working directory
    limits = {
        "max_latency_ms": max_latency_ms,
        "max_size_bytes": max_size_bytes,
        "max_memory_bytes": max_memory_bytes,
        "max_energy_mj": max_energy_mj,
        "min_accuracy": min_accuracy,
    }
    rule = None
    if trial is None:
        point, rule = pick_point(opened, pick, max_accuracy_drop, limits)
    elif any(given is not None for given in (pick, max_accuracy_drop, *limits.values())):
        raise InputError("--trial names a point already: give either --trial, or --pick and limits")
    else:
        point = opened.evaluation(trial)
    if integers_only is not None and sign is not None:
        raise InputError("--integers-only writes a file that is not signed: give either it or --sign")
    folder = export_point(opened, point, out or opened.path / f"export-trial-{point.trial}", sign)
    typer.echo(f"trial {point.trial}: {point.label}")
    if costs := costs_text(opened, point, rule):
        typer.echo(f"against fp32: {costs}")
    if loss := loss_text(opened, point, rule, max_accuracy_drop):
        typer.echo(f"NOTE: {loss}", err=True)
    typer.echo(f"wrote {folder}/{', '.join([*files_of(opened, point), *SIGNED] if sign else files_of(opened, point))}")
    if integers_only is not None:
        _export_integers(opened, point, folder.absolute(), integers_only)


def _export_integers(study: Study, point: Evaluation, folder: Path, task: str) -> None:
    from autocompress.evaluation.integers import integer_file
    from autocompress.files import write_atomically

    loaded = checked_task(task, None)
    file = integer_file(study, point, loaded)
    write_atomically(folder / "model.int8.tflite", file.content)
    arena = "" if file.arena_bytes is None else f", {file.arena_bytes:,} bytes of working memory in TFLite Micro"
    typer.echo(
        f"wrote {folder}/model.int8.tflite: {len(file.content):,} bytes, "
        f"{loaded.figure} {file.score.value:.4f} ({file.score.split}){arena}"
    )


def retarget(
    study: StudyArgument,
    device: Annotated[str, typer.Option(help="Names or paths of device profiles, with commas between them.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with the front of every device to this file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all trials on all devices to this file.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="Convert the files for other runtimes that are here, and judge them on this task."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Project a study onto other devices: a front for each, and what the best choice for one costs on another."""
    from autocompress.studies.study import Study

    opened = Study.open(study.absolute())  # a task may change the working directory
    html, csv = (path and path.absolute() for path in (html, csv))
    result = _retargeted(opened, device, judge)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=1))
    if html is not None:
        from autocompress.report.web.retarget import write_html

        write_html(result, html)
        typer.echo(f"wrote {html}", err=as_json)
    if csv is not None:
        result.frame().to_csv(csv, index=False)
        typer.echo(f"wrote {csv}", err=as_json)
    if html is None and csv is None and not as_json:
        from autocompress.report.text.retarget import cross_table, front_table, sentences

        for projection in result.projections:
            print_rich(front_table(result, projection))
        print_rich(cross_table(result))
        for sentence in sentences(result):
            typer.echo(sentence)


def _retargeted(study: Study, devices: str, task: str | None = None) -> Retargeted:
    """Project a study onto the devices of a list with commas."""
    from autocompress.studies.retarget import retarget as run

    names = list(dict.fromkeys(name.strip() for name in devices.split(",") if name.strip()))
    profiles = [profile_if_known(name) or profile_of_this_machine() for name in names]
    if task is None:
        return run(study, profiles)
    from autocompress.evaluation.judging import can_judge, judged
    from autocompress.report.text.live import Live

    loaded = checked_task(task, None)
    others = [profile for profile in profiles if can_judge(study, profile)]
    with Live() as live:
        return run(study, profiles, {other.name: judged(study, loaded, other, live.status) for other in others})
