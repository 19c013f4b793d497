"""Makes a module of the tests look like one of an installed package with an entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autocompress.runtimes import base


@contextmanager
def runtime(module: Path, of: str, folder: Path) -> Iterator[str]:
    """The class `of` of a module, found as a runtime by the module's name; `folder` is for the package's metadata."""
    name = module.stem
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{base.GROUP}]\n{name} = {name}:{of}\n")
    with pytest.MonkeyPatch.context() as patch:
        for path in (folder, module.parent):
            patch.syspath_prepend(str(path))
        patch.delitem(sys.modules, name, raising=False)
        _forget()
        yield name
    _forget()


def _forget() -> None:
    base._others.cache_clear()
    base.get.cache_clear()
