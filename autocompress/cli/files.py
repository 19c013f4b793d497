"""The commands that work on single files: a recipe, an ONNX file, the schemas of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.inputs import checked_task, profile_if_known, profile_of_this_machine, source_of
from autocompress.cli.options import (
    DeviceOption,
    Given,
    JsonOption,
    SeedOption,
    ShapeOption,
    TaskArgument,
    ThreadsOption,
    with_data,
)
from autocompress.errors import InputError


@with_data
def apply(
    recipe: Annotated[Path, typer.Argument(help="recipe.yaml")],
    task: TaskArgument,
    given: Given,
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    device: DeviceOption = "host",
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat a recipe on this or another checkpoint."""
    from autocompress.recipes.recipe import Recipe

    parsed, profile = Recipe.load(recipe), profile_if_known(device)
    target = out.absolute()  # a task may change the working directory
    loaded = checked_task(source_of(task, given), threads)
    profile = profile or profile_of_this_machine()
    from autocompress.evaluation.replay import apply as run
    from autocompress.report.text.live import Live

    with Live() as live:
        result = run(parsed, loaded, profile, out=target, seed=seed, progress=live.status)
    if as_json:
        typer.echo(json.dumps(result.as_row(), indent=1))
        return
    score = result.score
    assert score is not None
    interval = "95 % interval {:.4f} to {:.4f}".format(*score.interval) if score.interval else "no interval known"
    typer.echo(
        f"wrote {out}: {result.size_bytes:,} bytes, {result.label}\n"
        f"{loaded.figure} {score.value:.4f} ({score.split}, {interval}), "
        f"latency {result.latency_ms:.3f} ms ({result.latency_source}, {profile.name}), parity {result.parity:.1%}"
    )
    for note in result.notes:
        typer.echo(f"note: {note}")


def measure(
    model: Annotated[Path, typer.Argument(help="Any ONNX file.")],
    device: DeviceOption = "host",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; those of the profile by default.")] = None,
    shape: ShapeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time an ONNX file on this machine, each exit of it on its own, and compare with the prediction."""
    from autocompress.evaluation.timing import time_file
    from autocompress.runtimes.input_shapes import parse_shapes

    shapes = parse_shapes(shape or ())
    if not model.is_file():
        raise InputError(f"{model}: there is no such file")
    report = time_file(model, profile_if_known(device) or profile_of_this_machine(), threads, shapes)
    typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else report.to_text())


def key(
    path: Annotated[Path, typer.Argument(help="File of the secret key; the public one gets '.pub' behind it.")],
) -> None:
    """Make a pair of keys to sign hand-over folders with (Ed25519, in the format of minisign)."""
    from autocompress.packaging.signing import new_key

    public = new_key(path)
    typer.echo(f"wrote {path}, to be kept secret, and {public}, to be given to those who check")


def verify(
    folder: Annotated[Path, typer.Argument(help="A folder of `export --sign`.")],
    public_key: Annotated[str, typer.Option("--key", help="Public key: a file, or its second line.")],
) -> None:
    """Check that nobody changed a signed hand-over folder; nothing of it is run."""
    from autocompress.packaging._infer import verify as check

    try:
        remark = check(folder, public_key)
    except (ValueError, OSError) as problem:
        raise InputError(str(problem)) from None
    typer.echo(f"signature is right: {remark}")


def schema(
    what: Annotated[str, typer.Argument(help="recipe, space, device or study.")],
) -> None:
    """Print the JSON schema of a file format, for the completion of editors."""
    from autocompress.cli.schema import schema as of

    typer.echo(json.dumps(of(what), indent=1))
