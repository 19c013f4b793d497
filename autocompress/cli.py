"""The command line. Heavy imports live inside the commands, so that help and checks of files answer at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autocompress._process import let_threads_sleep
from autocompress.devices_cli import app as devices_app
from autocompress.devices_cli import calibrate_this_machine
from autocompress.errors import AutocompressError, InputError, StudyError

if TYPE_CHECKING:
    from autocompress.constraints import Constraint
    from autocompress.device import DeviceProfile
    from autocompress.report.watch import Watch
    from autocompress.retarget import Retargeted
    from autocompress.study import Study
    from autocompress.task import Task

app = typer.Typer(
    name="autocompress",
    help="From a trained PyTorch model and a device name to a Pareto front of files you can ship.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

TaskArgument = Annotated[str, typer.Argument(help="module.py:name of a Task, or of a function that returns one.")]
StudyArgument = Annotated[Path, typer.Argument(help="Folder of a study (--out of a search).")]
DeviceOption = Annotated[str, typer.Option(help="Name or path of a device profile; 'host' is this machine.")]
SpaceOption = Annotated[str, typer.Option(help="Name of a shipped search space, or path of a YAML file.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of everything that is random.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads for training, of each worker; all processors by default.")
]
PortOption = Annotated[
    int | None, typer.Option(help="Of the web page; 8642 by default or any free one, 0 takes any free one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
MaxLatency = Annotated[float | None, typer.Option(help="Latency at most, in milliseconds.")]
MaxSize = Annotated[float | None, typer.Option(help="Size of the file at most, in bytes.")]
MaxMemory = Annotated[float | None, typer.Option(help="Working memory (weights and activations) at most, in bytes.")]
MaxEnergy = Annotated[float | None, typer.Option(help="Energy of one inference at most, in millijoules.")]
ActivePower = Annotated[
    float | None, typer.Option(help="What the device draws while it computes, in milliwatts; energy follows from it.")
]
MinAccuracy = Annotated[float | None, typer.Option(help="Accuracy at least (validation split).")]
MaxDrop = Annotated[float | None, typer.Option(help="Accuracy at most so far below fp32; 0.01 is one point.")]
MinSpeedup = Annotated[float | None, typer.Option(help="At least so many times faster than fp32.")]
MinCompression = Annotated[float | None, typer.Option(help="At least so many times smaller than fp32.")]


_INTERRUPTED = 130


def main() -> None:
    """Run the command line; input errors end with one sentence and exit code 2, others of ours with 1."""
    let_threads_sleep()
    try:
        app(standalone_mode=True)
    except SystemExit as end:  # typer turns Ctrl-C into this one, without a word
        if end.code != _INTERRUPTED:
            raise
        _fail("interrupted; nothing that was finished is lost, run the same command again to go on", _INTERRUPTED)
    except InputError as error:
        _fail(error, 2)
    except AutocompressError as error:
        _fail(error, 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; nothing that was finished is lost", 1)


def _fail(error: object, code: int) -> None:
    typer.echo(f"error: {error}", err=True)
    sys.exit(code)


@app.command()
def search(
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="Folder of the study; the same one again resumes.")],
    device: DeviceOption = "host",
    space: SpaceOption = "cnn",
    trials: Annotated[int | None, typer.Option(help="Candidates to evaluate; rejected ones are free.")] = None,
    hours: Annotated[float | None, typer.Option(help="Hours of search, over all sessions.")] = None,
    max_latency_ms: MaxLatency = None,
    max_size_bytes: MaxSize = None,
    max_memory_bytes: MaxMemory = None,
    max_energy_mj: MaxEnergy = None,
    min_accuracy: MinAccuracy = None,
    max_accuracy_drop: MaxDrop = None,
    min_speedup: MinSpeedup = None,
    min_compression: MinCompression = None,
    active_power_mw: ActivePower = None,
    sampler: Annotated[str, typer.Option(help="ehvi, tpe, nsga2, gp or random.")] = "ehvi",
    evaluator: Annotated[
        str, typer.Option(help="standalone, or elastic: weights shared by all candidates are trained first.")
    ] = "standalone",
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Candidates at the same time; one by default, all CPUs of the cluster with --executor ray."),
    ] = None,
    trial_timeout_minutes: Annotated[float | None, typer.Option(help="Stop a candidate that takes longer.")] = None,
    executor: Annotated[str, typer.Option(help="local (processes of this machine) or ray (Ray Tune).")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; 'auto' is the one that runs here.")] = None,
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
    from autocompress.controller.executors.base import Workers
    from autocompress.controller.plan import Budget
    from autocompress.space import SearchSpace

    limits = _constraints(
        max_latency_ms,
        max_size_bytes,
        max_memory_bytes,
        max_energy_mj,
        min_accuracy,
        max_accuracy_drop,
        min_speedup,
        min_compression,
    )
    budget = Budget(trials, hours)
    pool = Workers(workers, threads, trial_timeout_minutes, executor, address)  # type: ignore[arg-type]
    search_space = SearchSpace.load(space)
    profile = _device(device)
    _check_power(active_power_mw)
    page = _page(out, port=port) if serve else None
    loaded = _task(task, threads)
    profile = _with_power(profile or _this_machine(), active_power_mw)
    from autocompress.controller import search as run
    from autocompress.report.live import JsonLines, Live, Quiet, Recorder

    with ExitStack() as stack:
        shown = JsonLines() if json_lines else Quiet() if quiet else Live(folder=out)
        stack.enter_context(shown)
        if page is not None:
            stack.enter_context(page)
            shown.note(f"watch the search at {page.url}")
        study = run(
            loaded,
            profile,
            search_space,
            budget=budget,
            out=out,
            constraints=limits,
            sampler=sampler,
            evaluator=evaluator,  # type: ignore[arg-type]
            seed=seed,
            reference=task,
            workers=pool,
            storage=storage,
            reporter=stack.enter_context(Recorder(out, shown, {"trials": trials, "hours": hours})),
        )
        if ablation:
            from autocompress.ablation import ablate as evaluate_steps

            evaluate_steps(study, loaded, progress=shown.status)
    if isinstance(shown, JsonLines):
        shown.write("finished", **study.to_dict())
        return
    _print_study(study)
    typer.echo(
        f"\nlook at it:  autocompress show {out} --html report.html\nship one:    autocompress export {out} --pick knee"
    )


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="A task (module.py:name), or a recipe, space or device as YAML.")],
    space: SpaceOption = "cnn",
    device: DeviceOption = "host",
    max_latency_ms: MaxLatency = None,
    max_size_bytes: MaxSize = None,
    max_memory_bytes: MaxMemory = None,
    max_energy_mj: MaxEnergy = None,
    min_accuracy: MinAccuracy = None,
    max_accuracy_drop: MaxDrop = None,
    min_speedup: MinSpeedup = None,
    min_compression: MinCompression = None,
    active_power_mw: ActivePower = None,
    as_json: JsonOption = False,
) -> None:
    """Dry run: what can be compressed here, whether the constraints can be met, how long a trial takes."""
    if Path(target).suffix in (".yaml", ".yml"):
        typer.echo(_check_file(Path(target)))
        return
    from autocompress.space import SearchSpace

    limits = _constraints(
        max_latency_ms,
        max_size_bytes,
        max_memory_bytes,
        max_energy_mj,
        min_accuracy,
        max_accuracy_drop,
        min_speedup,
        min_compression,
    )
    search_space, profile = SearchSpace.load(space), _device(device)
    _check_power(active_power_mw)
    loaded = _task(target, None)
    from autocompress.dry_run import dry_run

    report = dry_run(loaded, _with_power(profile or _this_machine(), active_power_mw), search_space, limits)
    typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else report.to_text())


@app.command()
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
    from autocompress.study import Study

    opened = Study.open(study)
    if as_json:
        typer.echo(json.dumps(opened.to_dict(), indent=1))
    if html is not None:
        from autocompress.report.html import write_html

        write_html(opened, html, _retargeted(opened, device) if device is not None else None)
        typer.echo(f"wrote {html}", err=as_json)
    if csv is not None:
        opened.frame().to_csv(csv)
        typer.echo(f"wrote {csv}", err=as_json)
    if html is None and csv is None and not as_json:
        _print_study(opened)


@app.command()
def ablate(
    study: StudyArgument,
    task: TaskArgument,
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
    from autocompress.study import Study

    opened = Study.open(study)
    chosen = [opened.front.select(name).trial for name in pick or ()]  # type: ignore[arg-type]
    loaded = _task(task, threads)
    from autocompress.ablation import ablate as run
    from autocompress.report.live import Live

    trials = [*chosen, *(trial or ())] or None
    with Live() as live:
        found = run(opened, loaded, trials, pipelines=pipelines, progress=live.status)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    from autocompress.report.chains import ablation_tables

    for table in ablation_tables(found, opened):
        _print(table)


@app.command()
def schema(
    what: Annotated[str, typer.Argument(help="recipe, space, device or study.")],
) -> None:
    """Print the JSON schema of a file format, for the completion of editors."""
    from autocompress.schema import schema as of

    typer.echo(json.dumps(of(what), indent=1))


@app.command()
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
    out: Annotated[Path | None, typer.Option(help="Folder to write; inside the study by default.")] = None,
) -> None:
    """Hand over one point: model.onnx, infer.py that runs it, recipe.yaml and a card with figures and conditions."""
    from autocompress.export import FILES, export_point
    from autocompress.study import Study

    opened = Study.open(study)
    if trial is not None:
        limits = (max_latency_ms, max_size_bytes, max_memory_bytes, max_energy_mj, min_accuracy)
        if any(given is not None for given in (pick, *limits)):
            raise InputError("--trial names a point already: give either --trial, or --pick and limits")
        point = opened.evaluation(trial)
    else:
        point = opened.front.select(
            pick,  # type: ignore[arg-type]
            max_latency_ms=max_latency_ms,
            max_size_bytes=max_size_bytes,
            max_memory_bytes=max_memory_bytes,
            max_energy_mj=max_energy_mj,
            min_accuracy=min_accuracy,
        )
    folder = export_point(opened, point, out or opened.path / f"export-trial-{point.trial}")
    typer.echo(f"trial {point.trial}: {point.label}\nwrote {folder}/{', '.join(FILES)}")


@app.command()
def retarget(
    study: StudyArgument,
    device: Annotated[str, typer.Option(help="Names or paths of device profiles, with commas between them.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with the front of every device to this file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all trials on all devices to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Project a study onto other devices: a front for each, and what the best choice for one costs on another."""
    from autocompress.study import Study

    opened = Study.open(study)
    result = _retargeted(opened, device)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=1))
    if html is not None:
        from autocompress.report.retarget import write_html

        write_html(result, html)
        typer.echo(f"wrote {html}", err=as_json)
    if csv is not None:
        result.frame().to_csv(csv, index=False)
        typer.echo(f"wrote {csv}", err=as_json)
    if html is None and csv is None and not as_json:
        from autocompress.report.retarget import cross_table, front_table, sentences

        for projection in result.projections:
            _print(front_table(result, projection))
        _print(cross_table(result))
        for sentence in sentences(result):
            typer.echo(sentence)


@app.command()
def watch(
    study: StudyArgument,
    host: Annotated[str, typer.Option(help="Address to serve at; others than the default show it to the network.")] = (
        "127.0.0.1"
    ),
    port: PortOption = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show a study on a local web page that refreshes while the search runs; Ctrl-C ends it."""
    if not study.is_dir():
        raise StudyError(f"{study}: there is no such folder; give the --out of a search")
    page = _page(study, host, port)
    typer.echo(f"watch {study} at {page.url} (Ctrl-C ends it)")
    if open_browser:
        typer.launch(page.url)
    try:
        page.serve_forever()
    except KeyboardInterrupt:
        return
    finally:
        page.close()


@app.command()
def compare(
    studies: Annotated[list[Path], typer.Argument(help="Folders of two or more studies of the same data.")],
    html: Annotated[Path | None, typer.Option(help="Write the comparison to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Set studies, samplers or devices against each other: hypervolumes, fronts, a table."""
    from autocompress.report.compare import load, write_html

    comparison = load(studies)
    if html is not None:
        write_html(comparison, html)
        typer.echo(f"wrote {html}", err=as_json)
    if as_json:
        typer.echo(json.dumps(comparison.to_dict(), indent=1))
    elif html is None:
        _print(comparison.table())
        for sentence in comparison.sentences():
            typer.echo(sentence)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help="recipe.yaml, or a trial of a study: results/my-study:12, ...:knee.")],
    after: Annotated[str, typer.Argument(help="The same.")],
    as_json: JsonOption = False,
) -> None:
    """Say in words what changes from one recipe to another and, for trials of studies, what it costs."""
    from autocompress.report.difference import Difference, load_side

    difference = Difference(load_side(before), load_side(after))
    typer.echo(json.dumps(difference.to_dict(), indent=1) if as_json else difference.to_text())


@app.command()
def apply(
    recipe: Annotated[Path, typer.Argument(help="recipe.yaml")],
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    device: DeviceOption = "host",
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat a recipe on this or another checkpoint."""
    from autocompress.recipe import Recipe

    parsed, profile = Recipe.load(recipe), _device(device)
    loaded = _task(task, threads)
    profile = profile or _this_machine()
    from autocompress.replay import apply as run
    from autocompress.report.live import Live

    with Live() as live:
        result = run(parsed, loaded, profile, out=out, seed=seed, progress=live.status)
    if as_json:
        typer.echo(json.dumps(result.as_row(), indent=1))
        return
    score = result.score
    assert score is not None
    typer.echo(
        f"wrote {out}: {result.size_bytes:,} bytes, {result.label}\n"
        f"accuracy {score.value:.4f} ({score.split}, 95 % interval {score.low:.4f} to {score.high:.4f}), "
        f"latency {result.latency_ms:.3f} ms ({result.latency_source}, {profile.name}), parity {result.parity:.1%}"
    )


@app.command()
def measure(
    model: Annotated[Path, typer.Argument(help="Any ONNX file.")],
    device: DeviceOption = "host",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; those of the profile by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Time an ONNX file on this machine, each exit of it on its own, and compare with the prediction."""
    from autocompress.stopwatch import time_file

    if not model.is_file():
        raise InputError(f"{model}: there is no such file")
    report = time_file(model, _device(device) or _this_machine(), threads)
    typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else report.to_text())


app.add_typer(devices_app, name="devices", invoke_without_command=True)


def _page(study: Path, host: str = "127.0.0.1", port: int | None = None) -> Watch:
    from autocompress.report.watch import Watch

    return Watch(study, host, port)


def _device(name: str) -> DeviceProfile | None:
    """Load a profile; None stands for this machine as long as it is not calibrated."""
    from autocompress.device import HOST, DeviceProfile, list_profiles

    return None if name == HOST and HOST not in list_profiles() else DeviceProfile.load(name)


def _retargeted(study: Study, devices: str) -> Retargeted:
    """Project a study onto the devices of a list with commas."""
    from autocompress.retarget import retarget as run

    names = list(dict.fromkeys(name.strip() for name in devices.split(",") if name.strip()))
    profiles = {name: _device(name) for name in names}
    return run(study, [profile or _this_machine() for profile in profiles.values()])


def _this_machine() -> DeviceProfile:
    """Calibrate, once everything else that was given is known to be right."""
    typer.echo("this machine has no profile yet: calibrating it once, about a minute", err=True)
    return calibrate_this_machine()


def _check_power(active_power_mw: float | None) -> None:
    if active_power_mw is not None and not 0 < active_power_mw < float("inf"):
        raise InputError(f"--active-power-mw must be a number above 0, got {active_power_mw}")


def _with_power(profile: DeviceProfile, active_power_mw: float | None) -> DeviceProfile:
    """The profile with what the user says that the device draws."""
    return profile if active_power_mw is None else profile.model_copy(update={"active_power_mw": active_power_mw})


def _task(reference: str, threads: int | None) -> Task:
    """Load a task and look at its data."""
    from autocompress._process import prepare_training

    prepare_training(threads)
    from autocompress.task import load_task

    task = load_task(reference)
    task.validate()
    return task


def _constraints(
    max_latency_ms: float | None,
    max_size_bytes: float | None,
    max_memory_bytes: float | None,
    max_energy_mj: float | None,
    min_accuracy: float | None,
    max_accuracy_drop: float | None,
    min_speedup: float | None,
    min_compression: float | None,
) -> list[Constraint]:
    from autocompress.constraints import at_least, at_most
    from autocompress.constraints import max_accuracy_drop as drop

    for name, factor in (("--min-speedup", min_speedup), ("--min-compression", min_compression)):
        if factor is not None and factor <= 0:
            raise InputError(f"{name} must be above 0, got {factor}")
    found = [
        at_most("latency_ms", max_latency_ms) if max_latency_ms is not None else None,
        at_most("size_bytes", max_size_bytes) if max_size_bytes is not None else None,
        at_most("peak_memory_bytes", max_memory_bytes) if max_memory_bytes is not None else None,
        at_most("energy_mj", max_energy_mj) if max_energy_mj is not None else None,
        at_least("accuracy", min_accuracy) if min_accuracy is not None else None,
        drop(max_accuracy_drop) if max_accuracy_drop is not None else None,
        at_most("latency_ms", 1 / min_speedup, relative_to_baseline=True) if min_speedup else None,
        at_most("size_bytes", 1 / min_compression, relative_to_baseline=True) if min_compression else None,
    ]
    return [c for c in found if c is not None]


def _check_file(path: Path) -> str:
    """Check a YAML file of ours without loading torch."""
    from autocompress._files import read_yaml
    from autocompress.device import DeviceProfile
    from autocompress.recipe import Recipe
    from autocompress.space import SearchSpace

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


def _print_study(study: Any) -> None:
    from autocompress.report.table import front_table, headline

    _print(front_table(study))
    for sentence in headline(study):
        typer.echo(sentence)


def _print(renderable: Any) -> None:
    with _console() as console:
        console.print(renderable)


@contextmanager
def _console() -> Iterator[Any]:
    from rich.console import Console

    yield Console(width=None if sys.stdout.isatty() else 160)


if __name__ == "__main__":
    main()
