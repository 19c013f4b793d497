"""What the sources of the package must not hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import autocompress
from autocompress.compression.catalogue import own_names, technique

ROOT = Path(autocompress.__file__).parent
TECHNIQUES = ROOT / "compression" / "techniques"
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if TECHNIQUES not in path.parents]
NAMES = {*own_names(), *(technique(name).__name__ for name in own_names())}
WORDS = re.compile(rf"(?<![\w-])({'|'.join(sorted(NAMES))})(?![\w-])")
OTHERS = {
    ("tasks/normalize.py", "prune"),  # torch's, whose masks are made permanent
    ("devices/calibration/micro_nets.py", "depth"),
    ("devices/calibration/plan.py", "depth"),  # of the nets that are timed
}
"""Names that stand for something else."""


def named(tree: ast.Module) -> Iterator[str]:
    """Identifiers, imported modules and text, but for docstrings."""
    docs = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs:
            yield from WORDS.findall(node.value)
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
            module = node.module or ""
            yield from module.removeprefix("autocompress.compression.techniques.").split(".")[:1]
        elif isinstance(node, ast.Name | ast.Attribute | ast.arg | ast.keyword):
            yield str(getattr(node, "id", getattr(node, "attr", getattr(node, "arg", ""))))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_technique_is_named_outside_its_folder(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    found = {name for name in named(ast.parse(path.read_text(encoding="utf-8"))) if name in NAMES}
    assert not {name for name in found if (place, name) not in OTHERS}


def test_the_test_sees_names() -> None:
    source = (
        '"""prune is a word here."""\nfrom autocompress.compression.techniques.ptq import Ptq as P\n'
        'if stage.technique == "distill" or knob.startswith("prune.ratio"):\n    f"qat: {x}"\n'
    )
    assert {name for name in named(ast.parse(source)) if name in NAMES} == {"ptq", "Ptq", "distill", "prune", "qat"}
