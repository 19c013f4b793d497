"""The commands that start from a task: a dry run, and the search."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autocompress.cli.inputs import (
    checked_task,
    profile_if_known,
    profile_of_this_machine,
    source_of,
    space_of,
    with_power,
)
from autocompress.cli.options import (
    ActivePower,
    DeviceOption,
    Given,
    JsonOption,
    PortOption,
    SeedOption,
    SpaceOption,
    TaskArgument,
    ThreadsOption,
    with_constraints,
    with_data,
)
from autocompress.cli.output import print_study
from autocompress.errors import InputError
from autocompress.studies.constraints import Constraint

if TYPE_CHECKING:
    from autocompress.report.web.watch import Watch
    from autocompress.studies.study import Study

_TRIALS_OF_FORMATS = 24
"""Of an ONNX file, whose candidates take seconds, where no budget is given."""


@with_data
@with_constraints
def search(
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="Folder of the study; the same one again resumes.")],
    constraints: list[Constraint],
    given: Given,
    device: DeviceOption = "host",
    space: SpaceOption = None,
    trials: Annotated[
        int | None, typer.Option(help="Candidates to evaluate; rejected ones are free. 24 for an ONNX file.")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Hours of search, over all sessions.")] = None,
    active_power_mw: ActivePower = None,
    sampler: Annotated[str, typer.Option(help="ehvi, tpe, nsga2, gp or random.")] = "ehvi",
    evaluator: Annotated[
        str, typer.Option(help="standalone, or elastic: weights shared by all candidates are trained first.")
    ] = "standalone",
    seed: SeedOption = 0,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Folder of an earlier study of the same data: its best recipes and weights are tried first."),
    ] = None,
    threads: ThreadsOption = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Candidates at the same time; one by default, all CPUs of the cluster with --executor ray."),
    ] = None,
    trial_timeout_minutes: Annotated[float | None, typer.Option(help="Stop a candidate that takes longer.")] = None,
    executor: Annotated[str, typer.Option(help="local (processes of this machine) or ray (Ray Tune).")] = "local",
    address: Annotated[str | None, typer.Option(help="Ray cluster to use ('auto': the one on this machine).")] = None,
    storage: Annotated[
        str | None, typer.Option(help="Database for Optuna's trials (postgresql://...); a file in --out by default.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Show the search on a local web page, too.")] = False,
    port: PortOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the result and errors.")] = False,
    json_lines: Annotated[bool, typer.Option("--json-lines", help="Print a JSON object per event, for logs.")] = False,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="At the end, evaluate the recommended points step by step.")
    ] = False,
) -> None:
    """Search for the Pareto front; run it again with the same --out to resume."""
    if quiet and json_lines:
        raise InputError("give either --quiet or --json-lines")
    from autocompress.controller import search as run
    from autocompress.controller.driver import check_choices
    from autocompress.controller.executors.base import Workers
    from autocompress.controller.plan import Budget
    from autocompress.studies.folder import read_settings

    # What costs nothing to check comes before the task, and that before a minute of calibration.
    source, folder = source_of(task, given), out.absolute()  # a task may change the working directory
    start_from = start_from and start_from.absolute()
    if trials is None and hours is None and not isinstance(source, str):
        trials = _TRIALS_OF_FORMATS
    budget = Budget(trials, hours)
    pool = Workers(workers, threads, trial_timeout_minutes, executor, address)  # type: ignore[arg-type]
    search_space, profile = space_of(space, source), profile_if_known(device)
    check_choices(sampler, evaluator, folder)
    if start_from is not None:
        read_settings(start_from)
    page = _page(folder, port) if serve else None
    loaded = checked_task(source, threads)
    profile = with_power(profile or profile_of_this_machine(), active_power_mw)

    from autocompress.controller.ablate import ablate
    from autocompress.report.text.live import JsonLines, Live, Quiet, Recorder

    shown = JsonLines() if json_lines else Quiet() if quiet else Live(folder=folder)
    with shown, page or nullcontext(), Recorder(folder, shown, {"trials": trials, "hours": hours}) as reporter:
        if page is not None:
            shown.note(f"watch the search at {page.url}")
        study = run(
            loaded,
            profile,
            search_space,
            budget=budget,
            out=folder,
            constraints=constraints,
            sampler=sampler,
            evaluator=evaluator,  # type: ignore[arg-type]
            seed=seed,
            reference=source,
            start_from=start_from,
            workers=pool,
            storage=storage,
            reporter=reporter,
        )
        if ablation:
            ablate(study, loaded, progress=shown.status)
    if isinstance(shown, JsonLines):
        shown.write("finished", **study.to_dict())
    else:
        _print_result(study, out)


def _page(folder: Path, port: int | None) -> Watch:
    from autocompress.report.web.watch import Watch

    return Watch(folder, port=port)


def _print_result(study: Study, typed: Path) -> None:
    """The front, and the commands that come next, with the folder as it was typed."""
    from autocompress.report.against import ship_option

    print_study(study)
    typer.echo(f"\nlook at it:  autocompress show {typed} --html report.html")
    typer.echo(f"ship one:    autocompress export {typed} {ship_option(study)}")


@with_data
@with_constraints
def check(
    target: Annotated[
        str, typer.Argument(help="A task (module.py:name or model.onnx), or a recipe, space or device as YAML.")
    ],
    constraints: list[Constraint],
    given: Given,
    space: SpaceOption = None,
    device: DeviceOption = "host",
    active_power_mw: ActivePower = None,
    as_json: JsonOption = False,
) -> None:
    """Dry run: what can be compressed here, whether the constraints can be met, how long a trial takes."""
    if Path(target).suffix in (".yaml", ".yml"):
        typer.echo(_check_file(Path(target)))
        return

    source, profile = source_of(target, given), profile_if_known(device)
    search_space = space_of(space, source)
    task = checked_task(source, None)
    profile = with_power(profile or profile_of_this_machine(), active_power_mw)

    from autocompress.controller.dry_run import dry_run

    report = dry_run(task, profile, search_space, constraints)
    typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else report.to_text())


def _check_file(path: Path) -> str:
    """Check a YAML file of ours without loading torch."""
    from autocompress.devices.profile import DeviceProfile
    from autocompress.files import read_yaml
    from autocompress.recipes.recipe import Recipe
    from autocompress.recipes.space import SearchSpace

    data = read_yaml(path, InputError)
    if isinstance(data, dict) and "latency" in data:
        DeviceProfile.parse(data, str(path))
        return f"{path}: a valid device profile"
    if _has_domains(data):
        SearchSpace.parse(data, str(path))
        return f"{path}: a valid search space"
    recipe = Recipe.parse(data, str(path))
    return f"{path}: a valid recipe: {recipe.summary()}"


def _has_domains(data: Any) -> bool:
    """Whether anything is left to choose: a space and not a recipe."""
    if isinstance(data, list):
        return any(map(_has_domains, data))
    if not isinstance(data, dict):
        return False
    marks = {"choice", "low", "high", "per", "one_of", "optional"}
    return bool(marks & set(data)) or any(map(_has_domains, data.values()))
