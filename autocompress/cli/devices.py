"""The `devices` commands: profiles, bundles and calibration."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autocompress.cli.options import JsonOption, ShapeOption
from autocompress.cli.output import print_rich
from autocompress.errors import InputError

if TYPE_CHECKING:
    from autocompress.devices.calibration.adapt import Point
    from autocompress.devices.profile import DeviceProfile
    from autocompress.report.text.live import Live
    from autocompress.runtimes.input_shapes import Shapes

app = typer.Typer(help="Device profiles: list them, look at one, calibrate a device.", rich_markup_mode=None)

BaseModelOption = Annotated[Path | None, typer.Option(help="Your own ONNX file, timed along with the plan.")]


@app.callback(invoke_without_command=True)
def devices(context: typer.Context) -> None:
    """List the profiles when no subcommand is given."""
    if context.invoked_subcommand is None:
        devices_list()


@app.command("list")
def devices_list(as_json: JsonOption = False) -> None:
    """Names of all profiles with their expected error."""
    from autocompress.devices.profile import DeviceProfile, list_profiles

    profiles = [DeviceProfile.load(name) for name in list_profiles()]
    if as_json:
        rows = [p.model_dump(mode="json", exclude={"latency": True, "calibration": {"held_out_ms"}}) for p in profiles]
        typer.echo(json.dumps(rows, indent=1))
        return
    from autocompress.report.text.devices import devices_table

    print_rich(devices_table(profiles))


@app.command("show")
def devices_show(
    name: Annotated[str, typer.Argument(help="Name or path.")],
    html: Annotated[Path | None, typer.Option(help="Draw predicted against measured into this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Everything a profile says, and how well it predicts what it was calibrated with."""
    from autocompress.devices.profile import DeviceProfile

    profile = DeviceProfile.load(name)
    if html is not None:
        from autocompress.report.web.calibration import write_calibration_html

        write_calibration_html(profile, html)
    if as_json:
        typer.echo(profile.model_dump_json(indent=1))
        return
    from autocompress.report.text.devices import device_text
    from autocompress.report.web.calibration import degree_text, points_text, worst_table

    typer.echo(device_text(profile))
    typer.echo(f"\ndegree of calibration: {degree_text(profile)}")
    histogram = points_text(profile)
    if histogram:
        typer.echo(f"\n{histogram}\n")
        print_rich(worst_table(profile))
    if html is not None:
        typer.echo(f"wrote {html}")


@app.command("bundle")
def devices_bundle(
    name: Annotated[str, typer.Argument(help="Name that the profile will have.")],
    out: Annotated[Path, typer.Option(help="New folder for the bundle.")],
    base_model: BaseModelOption = None,
    shape: ShapeOption = None,
) -> None:
    """Write a folder that measures a device elsewhere with nothing but Python, numpy and onnxruntime."""
    from autocompress.devices.calibration.bundle import write_bundle
    from autocompress.runtimes.input_shapes import parse_shapes

    _check_name(name)
    folder = write_bundle(out, base_model, parse_shapes(shape or ()))
    size = sum(file.stat().st_size for file in folder.iterdir())
    again = f" --base-model {base_model}" if base_model else ""
    again += "".join(f" --shape {text}" for text in shape or ())
    typer.echo(
        f"wrote {folder} ({size / 1e6:.1f} MB)\n"
        f"copy it to the device and run there:  python run.py\n"
        f"then here:  autocompress devices calibrate {name} --from result.json{again}"
    )


@app.command("calibrate")
def devices_calibrate(
    name: Annotated[
        str | None, typer.Argument(help="Name of the profile to write; that of this machine by default.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Calibrate another runtime of this machine; the profile is host.RUNTIME.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one inference.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="Time to spend measuring.")] = 60.0,
    from_: Annotated[
        Path | None, typer.Option("--from", help="result.json of a bundle that ran on the device.")
    ] = None,
    ssh: Annotated[str | None, typer.Option(help="Measure this device: [user@]host[:port].")] = None,
    python: Annotated[str, typer.Option(help="With --ssh: interpreter on the device.")] = "python3",
    like: Annotated[
        str | None, typer.Option(help="Profile of a similar device to start from; its own name refines it.")
    ] = None,
    base_model: Annotated[
        list[Path] | None,
        typer.Option(help="Your own ONNX file, timed along with the plan; with --like once for each --latency-ms."),
    ] = None,
    shape: ShapeOption = None,
    latency_ms: Annotated[
        list[float] | None,
        typer.Option(help="With --like: measured latency of --base-model; of a float and an int8 file is best."),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(help="With --like: CSV table 'file,latency_ms' of measured models, or a study measured there."),
    ] = None,
    accept_unsteady: Annotated[
        bool, typer.Option("--accept-unsteady", help="Use a run of a device that throttled or was busy.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File to write instead of your profile folder.")] = None,
) -> None:
    """Write the profile of this machine, of a device over SSH, from a bundle's result, or from a few numbers."""
    from autocompress.devices.profile import FILE_RUNTIME, HOST, device_of, host_name

    name = name or host_name(runtime or FILE_RUNTIME)
    _check_name(name)
    source = _one_source({"--from": from_, "--ssh": ssh, "--like": like})
    if source and runtime is not None:
        raise InputError(f"--runtime is of this machine and does not go with {source}")
    if source and device_of(name) == HOST and like != name and out is None:
        raise InputError(
            f"{source} is about another device than this machine: give its profile a name, such as my-board"
        )
    _check_numbers(source, bool(latency_ms or measured), len(base_model or ()))
    base = base_model[0] if base_model else None
    from autocompress.runtimes.input_shapes import parse_shapes

    shapes = parse_shapes(shape or ())
    if like is not None:
        profile = _moved(name, like, base_model or [], latency_ms or [], measured, shapes)
    elif from_ is not None:
        profile = _from_result(name, from_, base, accept_unsteady, shapes)
    elif ssh is not None:
        profile = _over_ssh(name, ssh, python, threads, seconds, base, accept_unsteady, shapes)
    else:
        profile = _measured_here(name, threads, seconds, runtime or FILE_RUNTIME)
    path = _save(profile, out)
    from autocompress.report.web.calibration import degree_text

    typer.echo(
        f"wrote {path}\n{_measured_text(profile)}, int8 arithmetic {profile.int8_arithmetic}\n{degree_text(profile)}"
    )
    for caveat in profile.caveats:
        typer.echo(f"note: {caveat}", err=True)


def _one_source(given: Mapping[str, object]) -> str:
    """The option that says where measurements come from; "" is this machine."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InputError(f"give one of --from, --ssh and --like, got {' and '.join(names)}")
    return names[0] if names else ""


def _check_numbers(source: str, some: bool, n_files: int) -> None:
    """Refuse measured numbers and files of the user's that the source has no use for."""
    if source != "--like" and some:
        raise InputError("--latency-ms and --measured move the profile of a similar device: name it with --like")
    if not source and n_files:
        raise InputError("--base-model goes with --from, --ssh or --like")
    if source != "--like" and n_files > 1:
        raise InputError("--base-model can be given once with --from and --ssh; several go with --like")


def calibrate_this_machine() -> DeviceProfile:
    """Calibrate the profile "host", about a minute, and write it to the user's folder."""
    from autocompress.devices.profile import FILE_RUNTIME, HOST

    profile = _measured_here(HOST, 1, 60.0, FILE_RUNTIME)
    _save(profile, None)
    return profile


def _measured_here(name: str, threads: int, seconds: float, runtime: str) -> DeviceProfile:
    from autocompress.devices.calibration.fit import calibrate_host
    from autocompress.report.text.live import Live

    with Live() as live:

        def tell(share: float, text: str) -> None:
            live.status(f"calibrating: {share:.0%}, {text}")

        profile = calibrate_host(threads, seconds, tell, runtime)
    return profile.model_copy(update={"name": name})


def _from_result(
    name: str, result: Path, base_model: Path | None, accept_unsteady: bool, shapes: Shapes
) -> DeviceProfile:
    from autocompress.devices.calibration.bundle import base_workload, read_result
    from autocompress.devices.calibration.fit import fit_profile

    measurements = read_result(result, accept_unsteady)
    base = base_workload(measurements, base_model, shapes)
    if base is None and measurements.base_sha256:
        typer.echo("note: the result holds the latency of your own model; add --base-model to use it", err=True)
    return fit_profile(measurements, name, base)


def _over_ssh(
    name: str,
    ssh: str,
    python: str,
    threads: int,
    seconds: float,
    base_model: Path | None,
    accept_unsteady: bool,
    shapes: Shapes,
) -> DeviceProfile:
    from autocompress.devices.calibration.bundle import write_bundle
    from autocompress.devices.calibration.ssh import Address, run_over_ssh
    from autocompress.report.text.live import Live

    address = Address.parse(ssh)
    with tempfile.TemporaryDirectory(prefix="autocompress-") as folder:
        bundle = write_bundle(Path(folder) / "bundle", base_model, shapes)
        with Live() as live:
            content = run_over_ssh(address, bundle, python, threads, seconds, _teller(live))
        result = Path(folder) / "result.json"
        result.write_bytes(content)
        return _from_result(name, result, base_model, accept_unsteady, shapes)


def _teller(live: Live) -> Any:
    """Progress to the status line; where there is no terminal, a line each."""

    def say(text: str) -> None:
        if sys.stderr.isatty():
            live.status(text)
        else:
            typer.echo(text, err=True)

    return say


def _moved(
    name: str, like: str, models: list[Path], latencies_ms: list[float], measured: Path | None, shapes: Shapes
) -> DeviceProfile:
    from autocompress.devices.calibration.adapt import adapt_profile, read_table
    from autocompress.devices.calibration.bundle import read_model
    from autocompress.devices.profile import DeviceProfile
    from autocompress.runtimes.base import executor

    if bool(models) == (measured is not None) or len(models) != len(latencies_ms):
        raise InputError(
            "--like needs either --base-model with --latency-ms, or --measured; as many --latency-ms as --base-model"
        )
    start = DeviceProfile.load(like)
    runtime = executor(start.runtime)
    if measured is not None:
        points = _measured_in(measured, like) if measured.is_dir() else read_table(measured, shapes, runtime)
        return adapt_profile(start, points, name)
    from autocompress.devices.calibration.measurements import LONGEST_MS, SHORTEST_MS

    wrong = next((ms for ms in latencies_ms if not SHORTEST_MS <= ms <= LONGEST_MS), None)
    if wrong is not None:
        raise InputError(f"--latency-ms must be a positive number of milliseconds up to {LONGEST_MS:g}, got {wrong:g}")
    given = zip(models, latencies_ms, strict=True)
    return adapt_profile(start, [(file.name, read_model(file, shapes, runtime)[1], ms) for file, ms in given], name)


def _measured_in(folder: Path, device: str) -> list[Point]:
    """What a study measured on the device, files with early exits left out."""
    from autocompress.studies.folder import read_workload
    from autocompress.studies.study import Study

    study = Study.open(folder)
    if study.settings.device["name"] != device:
        raise InputError(f"{folder}: a study of the device {study.settings.device['name']!r}, not of {device!r}")
    points = [
        (f"{folder.name}/{e.trial}", work, e.measured_latency_ms)
        for e in study.evaluations
        if e.measured_latency_ms is not None and len(e.workloads) == 1
        for work in [read_workload(study.path, e.workloads[0])]
        if work is not None
    ]
    if not points:
        raise InputError(f"{folder}: nothing was measured in it; only a study of this machine is, at its end")
    return points


def _save(profile: DeviceProfile, out: Path | None) -> Path:
    from autocompress.devices.profile import user_profiles_folder

    return profile.save(out or user_profiles_folder() / f"{profile.name}.yaml")


def _measured_text(profile: DeviceProfile) -> str:
    c = profile.calibration
    assert c is not None
    return (
        f"{c.points} graph{'s' if c.points > 1 else ''} measured, {c.held_out} of them predicted by fits without them"
    )


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"the name of a profile may hold letters, digits, '.', '_' and '-' only, got {name!r}")
