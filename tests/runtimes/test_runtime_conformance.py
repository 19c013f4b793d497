"""Every runtime that is here keeps the rules of `autocompress.testing.runtimes`; so does one of another package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import doc_blocks, installed
from helpers.small import small_task

from autocompress.errors import DeviceError
from autocompress.runtimes import base
from autocompress.testing.runtimes import CHECKS, Case

TOY = Path(__file__).parents[1] / "own_runtimes" / "toy.py"


@pytest.fixture(scope="module", params=[*base.own_names(), "Toy", "Standard"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """Runtimes that are here, the one in the tests, and the example of the documentation."""
    if request.param in base.own_names():
        try:
            base.get(request.param).version()
        except DeviceError as missing:
            pytest.skip(str(missing))
        yield Case(request.param, small_task("resnet", n=96))
        return
    folder, module = tmp_path_factory.mktemp("package"), TOY
    if request.param == "Standard":
        page = doc_blocks.blocks(doc_blocks.ROOT / "docs" / "extend.md")
        module = folder / "standard.py"
        (text,) = (block.text for block in page if "class Standard(Runtime)" in block.text)
        module.write_text(f'"""The example of docs/extend.md."""\n\n{text}')
    with installed.runtime(module, request.param, folder) as name:
        yield Case(name, small_task("resnet" if module == TOY else "mlp", n=96))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conforms(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
