"""The folders of the package: imports between them point down only, those for types and inside functions included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import autocompress
from autocompress.runtimes.base import get, own_names

ROOT = Path(autocompress.__file__).parent
ORDER = (
    *(
        "known_costs",
        "tasks",
        "tasks.kinds",
        "runtimes",
        "runtimes.adapters.onnxruntime",
        "runtimes.adapters.ncnn",
        "runtimes.adapters.litert",
        "runtimes.adapters",
        "graphs",
        "given",
    ),
    *("devices", "devices.calibration", "compression", "compression.techniques", "recipes", "studies"),
    *("evaluation", "evaluation.screening", "controller.executors", "controller"),
    *("report", "report.text", "report.figures", "report.web", "packaging", "testing", "cli"),
)
"""The folders, lowest first. A folder imports those before it.

Modules at the top lie below all folders if they import none, else above all."""
EXCEPTIONS: dict[tuple[str, str], str] = {}
"""Imports that point up, with the reason."""
LIGHT = ("recipes", "studies", "compression.techniques", "tasks.kinds")
"""Folders whose modules, and all that these import, do without the heavy libraries until they are used."""
MOST_AT_THE_TOP = 8
HEAVY = {
    "torch",
    "torch_pruning",
    "optuna",
    "onnx",
    "onnxruntime",
    "openvino",
    "ncnn",
    "onnxscript",
    "pandas",
    "plotly",
    "typer",
    "rich",
}


def _modules() -> dict[str, Path]:
    """Names without "autocompress.", a folder's __init__ under the folder's name."""
    paths = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sorted(ROOT.rglob("*.py"))}
    return {name.removesuffix(".__init__"): path for name, path in paths.items() if name != "__init__"}


MODULES = _modules()
FOLDERS = {name for name, path in MODULES.items() if path.stem == "__init__"}


def folder(module: str) -> str:
    """Of a module; "" at the top."""
    return module if module in FOLDERS else module.rpartition(".")[0]


def imports(node: ast.AST, *, when_imported: bool = False) -> Iterator[str]:
    """Names of what is imported; with `when_imported` only what is loaded together with the module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif when_imported and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from imports(ast.Module(child.orelse, []), when_imported=True)
        elif not (when_imported and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield from imports(child, when_imported=when_imported)


def own(names: Iterator[str]) -> set[str]:
    """The modules of the package among imported names."""
    found = set()
    for name in names:
        if name.startswith("autocompress."):
            short = name.removeprefix("autocompress.")
            found.add(short if short in MODULES else short.rpartition(".")[0])
    return found - {""}  # `from autocompress import __version__`


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
OWN = {name: own(imports(tree)) for name, tree in TREES.items()}


def height(module: str) -> int:
    where = folder(module)
    if where:
        return ORDER.index(where)
    return len(ORDER) if any(folder(other) for other in OWN[module]) else -1


def test_every_folder_has_its_place() -> None:
    assert sorted(FOLDERS) == sorted(ORDER)


def test_few_modules_stand_at_the_top() -> None:
    assert len([name for name in MODULES if not folder(name) and name != "__main__"]) <= MOST_AT_THE_TOP


@pytest.mark.parametrize(
    "folder", ["", *["tasks", "runtimes", "graphs", "given", "devices", "compression", "studies", "controller"]]
)
def test_the_layout_in_contributing_names_every_module(folder: str) -> None:
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    names = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"}
    assert not [name for name in sorted(names) if f"`{name}`" not in text]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    up = {o for o in OWN[module] if height(o) > height(module) and (module, o) not in EXCEPTIONS}
    assert not up, f"{module} imports {', '.join(sorted(up))}, which lies above it"


def test_every_exception_is_needed() -> None:
    assert all(o in OWN[m] and height(o) > height(m) for m, o in EXCEPTIONS)


@pytest.mark.parametrize("module", [m for m in MODULES if folder(m) in LIGHT])
def test_light_folders_import_nothing_heavy(module: str) -> None:
    pending, seen = {module}, set[str]()
    while pending:
        current = pending.pop()
        seen.add(current)
        names = set(imports(TREES[current], when_imported=True))
        heavy = {name.split(".")[0] for name in names} & HEAVY
        assert not heavy, f"{module} imports {', '.join(sorted(heavy))} through {current}"
        parents = {".".join(current.split(".")[:i]) for i in range(1, current.count(".") + 1)}
        pending |= (own(iter(names)) | parents) - seen


@pytest.mark.parametrize("name", own_names())
def test_only_a_runtimes_own_file_imports_its_library(name: str) -> None:
    """But for what runs a file where autocompress is not installed."""
    own_file, alone = f"runtimes.adapters.{name}", {"packaging._infer"}
    guilty = [m for m, tree in TREES.items() if get(name).library in {i.split(".")[0] for i in imports(tree)}]
    assert [m for m in guilty if not m.startswith(own_file) and m not in alone] == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, autocompress as ac\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, f'import autocompress loads {heavy}'\n"
        "ac.Recipe.parse({'stages': [{'technique': 'prune', 'ratio': 0.5}, {'technique': 'ptq'}]})\n"
        "ac.SearchSpace.load('cnn')\n"
        "heavy = {'torch', 'optuna', 'onnxruntime', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, f'checking a recipe loads {heavy}'\n"
        "from autocompress import Study\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_public_names_exist() -> None:
    assert all(hasattr(autocompress, name) for name in autocompress.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = autocompress.nothing


def test_files_that_import_from_the_old_places_still_work() -> None:
    import autocompress.candidate
    import autocompress.recipe

    for module in (autocompress.candidate, autocompress.recipe):
        for name in module.__all__:
            assert getattr(module, name) is getattr(autocompress, name)
