"""The command that writes a task file, from answers or options."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from autocompress.cli.task_file import FORMS, LIBRARIES, Answers, Form, text
from autocompress.errors import InputError
from autocompress.files import write_atomically
from autocompress.validation import suggestion

Value = TypeVar("Value")

_WORDS: dict[Form, str] = {
    "images": "a folder of images, one sub-folder per class",
    "sounds": "a folder of WAV files, one sub-folder per class",
    "table": "a CSV file",
    "series": "a CSV file with a row per time step",
    "arrays": "an .npz file",
}
_NETWORKS = "torchvision:NAME, timm:NAME, transformers:NAME or folder, my_module.py:NAME, FILE.onnx"
_TARGETS = ("labels", "label", "targets", "target", "y")
"""What arrays of targets are called."""


def init(
    kind: Annotated[str | None, typer.Option(help=f"{', '.join(FORMS)}.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of images or WAV files (one sub-folder per class), CSV or .npz file.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="torchvision:NAME, timm:NAME, transformers:NAME or folder, my_module.py:NAME, or an ONNX file."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="File with the state_dict of the trained network; else those it comes with.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Column of a CSV file that is predicted; several with commas between them.")
    ] = None,
    size: Annotated[str, typer.Option(help="Height and width of images.")] = "224x224",
    rate: Annotated[int, typer.Option(min=1, help="Samples of sounds per second.")] = 16000,
    seconds: Annotated[float, typer.Option(min=0.001, help="Length of sounds.")] = 1.0,
    history: Annotated[int, typer.Option(min=1, help="Steps that go into a forecast.")] = 96,
    horizon: Annotated[int, typer.Option(min=1, help="Steps that come out of a forecast.")] = 24,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("task.py"),
) -> None:
    """Write a task file that runs; asks for what is not given."""
    from autocompress.tasks.readers import columns_of

    if out.suffix != ".py":
        raise InputError(f"--out must end in .py, got {out}")
    if out.exists():
        raise InputError(f"{out} is there already; give another --out, or move it away")
    if weights is not None and not weights.is_file():
        raise InputError(f"--weights: there is no file {weights}")
    sizes = _size(size)
    kind = _answer("--kind", f"Kind of task ({', '.join(FORMS)})", kind, _kind)
    path, form = _answer("--data", f"Data ({_forms(kind)})", data, lambda given: _data(given, kind))
    named = _answer("--model", f"Network ({_NETWORKS})", model, lambda given: _model(given, out))
    columns: tuple[str, ...] = ()
    if form in ("table", "series"):
        known = columns_of(path)
        columns = _answer("--target", f"Column to predict ({', '.join(known)})", target, lambda x: _targets(x, known))
    answers = Answers(
        kind=kind,
        data=path,
        form=form,
        model=named,
        out=out,
        weights=weights,
        columns=columns,
        size=sizes,
        rate=rate,
        seconds=seconds,
        history=history,
        horizon=horizon,
        is_called=_is_called(named),
    )
    write_atomically(out, text(_with_arrays(answers) if form == "arrays" else answers))
    typer.echo(f"wrote {out}; look it over, then:  autocompress check {out}")


def _answer(option: str, question: str, given: Any, check: Callable[[str], Value]) -> Value:
    """What was given, or asked for until it can be used."""
    if given is not None:
        return check(str(given))
    while True:
        try:
            return check(typer.prompt(question))
        except (typer.Abort, EOFError):
            raise InputError(f"no answer; give {option}") from None
        except InputError as error:
            typer.echo(str(error), err=True)


def _kind(name: str) -> str:
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    if plain not in FORMS:
        raise InputError(
            f"--kind must be {', '.join(FORMS)}, got {name!r}{suggestion(plain, [*FORMS])}; detection, text and other "
            "kinds are written by hand, see docs/your-model.md"
        )
    return plain


def _data(name: str, kind: str) -> tuple[Path, Form]:
    path = Path(name.strip()).expanduser()
    form = _form(path, kind)
    if form not in FORMS[kind]:
        raise InputError(f"--data for {kind} must be {_forms(kind)}, got {_WORDS[form]}: {path}")
    return path, form


def _forms(kind: str) -> str:
    return " or ".join(_WORDS[form] for form in FORMS[kind])


def _form(path: Path, kind: str) -> Form:
    from autocompress.tasks.images import IMAGES
    from autocompress.tasks.readers import SOUNDS

    if path.is_file() and path.suffix == ".csv":
        return "series" if kind == "forecasting" else "table"
    if path.is_file() and path.suffix == ".npz":
        return "arrays"
    suffixes = {file.suffix.lower() for file in path.rglob("*")} if path.is_dir() else set()
    if suffixes & IMAGES:
        return "images"
    if suffixes & SOUNDS:
        return "sounds"
    if not path.exists():
        raise InputError(f"--data: there is no {path}")
    raise InputError(f"--data must be a folder with images or WAV files, a .csv or an .npz file, got {path}")


def _model(name: str, out: Path) -> str:
    name = name.strip()
    if name.endswith(".onnx"):
        if not Path(name).is_file():
            raise InputError(f"--model: there is no file {name}")
        return name
    source, colon, attribute = name.rpartition(":")
    if not colon or not source or not attribute:
        raise InputError(f"--model must be one of {_NETWORKS}, got {name!r}")
    if source in LIBRARIES:
        if importlib.util.find_spec(source) is None:
            raise InputError(f"{source} is not installed; install it with: pip install {source}")
    elif source.endswith(".py"):
        _definition(Path(source), attribute)
        if Path(source).absolute().parent != out.absolute().parent:
            beside = Path(source).parent / out.name
            raise InputError(f"{source} must lie beside the task file, which imports it: give --out {beside}")
    elif not all(part.isidentifier() for part in (*source.split("."), attribute)):
        raise InputError(f"--model must be one of {_NETWORKS}, got {name!r}")
    return name


def _definition(path: Path, name: str) -> ast.stmt:
    """Where a module defines a name; it is read, not run."""
    try:
        module = ast.parse(path.read_text())
    except OSError:
        raise InputError(f"--model: there is no file {path}") from None
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: is no Python: {error}") from None
    for statement in module.body:
        names = {getattr(statement, "name", None)}
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in statement.names}
        if name in names:
            return statement
    raise InputError(f"{path}: has no {name!r}; write a function of that name that returns the trained network")


def _is_called(model: str) -> bool:
    """Whether the network is made by a call: of a function or a class, as all names are but assigned ones."""
    source, _, name = model.rpartition(":")
    path = Path(source if source.endswith(".py") else source.replace(".", "/") + ".py")
    return not path.is_file() or not isinstance(_definition(path, name), (ast.Assign, ast.AnnAssign))


def _targets(given: str, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given.split(","))
    if missing := [name for name in names if name not in known]:
        raise InputError(
            f"--target: no column {missing[0]!r}{suggestion(missing[0], known)}; there are {', '.join(known)}"
        )
    return names


def _size(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip())):
        raise InputError(f"--size must be height and width, such as 224x224, got {text!r}")
    return int(found[1]), int(found[2])


def _with_arrays(answers: Answers) -> Answers:
    """The same with the names of the arrays of the file, and what follows from their types."""
    from autocompress.tasks.readers import read_npz

    found = read_npz(answers.data)
    targets = next((name for name in found if name.lower() in _TARGETS), [*found, ""][1] if len(found) == 2 else "")
    inputs = [name for name in found if name != targets]
    if not targets or len(inputs) != 1:
        raise InputError(
            f"{answers.data}: must hold the inputs and an array called {' or '.join(_TARGETS)}, got {', '.join(found)}"
        )
    images = (inputs[0], targets) if answers.kind == "image_to_image" else (inputs[0],)
    classes = answers.kind in ("classification", "embedding") and found[targets].dtype.kind in "iu"
    return replace(
        answers,
        arrays=(inputs[0], targets),
        over_255=tuple(name for name in images if found[name].dtype == "uint8" and found[name].ndim > 2),
        n_classes=int(found[targets].max()) + 1 if classes and found[targets].size else None,
    )
