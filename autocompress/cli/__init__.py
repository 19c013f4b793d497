"""The command line. Heavy imports live inside the commands, so that help and checks of files answer at once."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer

from autocompress._process import interrupt, let_threads_sleep
from autocompress.cli.devices import app as devices
from autocompress.cli.files import apply, key, measure, schema, verify
from autocompress.cli.init import init
from autocompress.cli.studies import ablate, compare, diff, export, retarget, show, watch
from autocompress.cli.tasks import check, search
from autocompress.compression.catalogue import enable
from autocompress.errors import AutocompressError, InputError, keep_traceback, where

_INTERRUPTED = 130

app = typer.Typer(
    name="autocompress",
    help="From a trained PyTorch model and a device name to a Pareto front of files you can ship.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (init, check, search, watch, show, ablate, compare, diff, export, retarget, apply, measure, verify):
    app.command()(_command)
app.add_typer(devices, name="devices", invoke_without_command=True)
app.command()(key)
app.command()(schema)


@app.callback()
def _before_any_command(
    techniques: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            envvar="AUTOCOMPRESS_TECHNIQUES",
            help="Module of yours with a technique that recipes and spaces name (repeatable); its code is run.",
        ),
    ] = None,
) -> None:
    for module in techniques or ():
        enable(module)


def main() -> None:
    """Run the command line; input errors end with one sentence and exit code 2, others of ours with 1."""
    let_threads_sleep()
    try:
        _end_on_signals()
        app(standalone_mode=True)
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_closed_pipe()
    except SystemExit as end:  # typer turns Ctrl-C into this one, without a word
        if isinstance(end.__context__, BrokenPipeError):  # and this one of a closed pipe
            _leave_closed_pipe()
        if end.code != _INTERRUPTED:
            raise
        _fail("interrupted; nothing that was finished is lost, run the same command again to go on", _INTERRUPTED)
    except InputError as error:
        _fail(error, 2)
    except AutocompressError as error:
        _fail(error, 1)
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        _fail(f"{file}{error.strerror or error}; nothing that was finished is lost", 1)
    except Exception as error:
        log = keep_traceback(error)
        _fail(f"a bug of autocompress: {where(error)}; nothing that was finished is lost; please report {log}", 1)


def _end_on_signals() -> None:
    """End on SIGTERM and on a closed terminal as on Ctrl-C: once with everything put away, the second time at once."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays in force
            signal.signal(number, interrupt)


def _leave_closed_pipe() -> None:
    """Whoever read our output has gone, as `head` does: no error of the user's, but what is not done is not done."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
    _fail("the output was closed; nothing that was finished is lost, run the same command again to go on", 1)


def _fail(error: object, code: int) -> None:
    with suppress(OSError):  # standard error may be gone with the terminal
        typer.echo(f"error: {error}", err=True)
    sys.exit(code)
