"""Imports point down only, and the data layers cost no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import autocompress

ROOT = Path(autocompress.__file__).parent
HEAVY = {
    "torch",
    "torch_pruning",
    "optuna",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "plotly",
    "typer",
    "rich",
}
LIGHT = (
    *("__init__", "_files", "_lazy", "constraints", "controller.__init__", "device", "domains", "errors"),
    *(
        "recipe",
        "results",
        "space",
        "study",
        "techniques.__init__",
        "workload",
        "ablation",
        "confusion",
        "sample_scores",
    ),
    *("techniques.distill", "techniques.early_exit", "techniques.exit_threshold", "techniques.prune"),
    *("techniques.ptq", "techniques.qat", "quantization", "runtime_support"),
)
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "_lazy", "_process", "networks", "fingerprint", "known_costs"),
    ("_files", "batches", "survey", "identity", "normalize", "domains", "runtime_support", "input_shapes"),
    ("recipe", "device", "workload", "_workload_reader", "_workload_fusion", "_workload_shapes"),
    ("space", "results"),
    ("constraints", "study", "confusion", "sample_scores"),
    ("choice",),
    ("task", "runtimes", "latency", "quantization", "graph"),
    ("candidate", "task_module"),
    ("training", "weights"),
    ("elastic",),
    ("techniques",),
    ("deploy",),
    ("evaluate",),
    ("screening",),
    (
        *(
            "controller",
            "replay",
            "dry_run",
            "payoff",
            "retarget",
            "stopwatch",
            "export",
            "signing",
            "_infer",
            "testing",
        ),
        *("report", "ablation", "schema"),
    ),
    ("cli",),
    ("__main__",),
)
"""A module may import those of its own layer and of the layers above it in this list."""
WITHIN = {
    "known_costs": {"known_costs"},
    "techniques": set(),
    "runtimes": set(),
    "report": {"report"},
    "latency": {"latency"},
    "graph": {"graph"},
}
"""Which packages may import among their own modules."""


def modules() -> dict[str, Path]:
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sorted(ROOT.rglob("*.py"))}


def top_level_imports(tree: ast.AST) -> Iterator[str]:
    """Names imported when the module is imported; those under `if TYPE_CHECKING` and in functions are not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (name for part in node.orelse for name in top_level_imports(ast.Module([part], [])))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from top_level_imports(node)


def imports(name: str) -> set[str]:
    return set(top_level_imports(ast.parse(modules()[name].read_text())))


def layer(name: str) -> int | None:
    return next((i for i, names in enumerate(LAYERS) if name.split(".")[0] in names), None)


def own_imports(name: str) -> set[str]:
    known = modules()
    names = {n.removeprefix("autocompress.") for n in imports(name) if n.startswith("autocompress.")}
    return {n for n in names if n in known or f"{n}.__init__" in known}


def test_every_module_has_a_layer() -> None:
    assert [n for n in modules() if n != "__init__" and layer(n) is None] == []


@pytest.mark.parametrize("name", [n for n in modules() if n != "__init__"])
def test_imports_point_down(name: str) -> None:
    package = name.split(".")[0]
    for other in own_imports(name):
        assert layer(other) <= layer(name), f"{name} imports {other}, which lies above it"  # type: ignore[operator]
        if other.split(".")[0] == package and package in WITHIN:
            assert package in WITHIN[package], f"{name} imports its sibling {other}"


@pytest.mark.parametrize("name", LIGHT)
def test_data_layers_import_nothing_heavy(name: str) -> None:
    pending, seen = {name}, set()
    while pending:
        current = pending.pop()
        seen.add(current)
        heavy = {n.split(".")[0] for n in imports(current)} & HEAVY
        if current != "controller.__init__":
            assert not heavy, f"{name} imports {heavy} through {current}"
        if not current.startswith("controller"):
            known = modules()
            own = {n if n in known else f"{n}.__init__" for n in own_imports(current)}
            pending |= own - seen


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, autocompress as ac\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, f'import autocompress loads {heavy}'\n"
        "ac.Recipe.parse({'stages': [{'technique': 'prune', 'ratio': 0.5}, {'technique': 'ptq'}]})\n"
        "ac.SearchSpace.load('cnn')\n"
        "heavy = {'torch', 'optuna', 'onnxruntime', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, f'checking a recipe loads {heavy}'\n"
        "from autocompress.studies.study import Study\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_public_names_exist() -> None:
    assert all(hasattr(autocompress, name) for name in autocompress.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = autocompress.nothing
