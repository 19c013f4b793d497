"""What the documentation says is run, in a small project."""

from __future__ import annotations

import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import doc_blocks
from helpers.small import DEVICE, write_space

from autocompress import cli
from autocompress.devices.profile import DeviceProfile
from autocompress.recipes import space
from autocompress.runtimes import timing
from autocompress.runtimes.timing import TimingProtocol

PAGES = doc_blocks.pages()


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a profile of this machine, timings that take no time, and a smaller space under the default name."""
    home = tmp_path_factory.mktemp("home")
    host = DeviceProfile.load(DEVICE).model_copy(update={"name": "host"})
    host.save(home / "devices" / "host.yaml")
    brief = TimingProtocol(rounds=2, runs=2, passes=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOCOMPRESS_HOME", str(home))
        patch.setattr(space, "_SHIPPED", (*space._SHIPPED, write_space(home, name="auto").parent))
        patch.setattr(timing, "FAST", brief)
        patch.setattr(timing, "THOROUGH", brief)
        yield home


def run(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        try:
            cli.main()
        except SystemExit as end:
            assert end.code in (0, None), " ".join(words)


@pytest.fixture(scope="module")
def project(patched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """my_task.py and its first study, with one point handed over."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "my_project.py").write_text(doc_blocks.PROJECT)
    (folder / "my_task.py").write_text(doc_blocks.TASK)
    search = "search my_task.py:task --device host --max-accuracy-drop 0.01 --trials 2 --out"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(["autocompress", *search.split(), "results/my-study"])
        run(["autocompress", "export", "results/my-study", "--pick", "most-accurate", "--out", "shipped"])
    shutil.copy(folder / "shipped" / "recipe.yaml", folder)
    shutil.copy(folder / "shipped" / "model.onnx", folder)
    (folder / "hardware_profiles").symlink_to(doc_blocks.ROOT / "hardware_profiles")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(doc_blocks.ROOT).as_posix())
def test_every_block_runs(page: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("my_task", "my_project"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = set(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        doc_blocks.run_page(page, run)
    for name in set(sys.modules) - before:  # of this folder: techniques among them would be known to other tests
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


def test_links_and_images_exist() -> None:
    for page in [*PAGES, doc_blocks.ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_is_in_the_documentation() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    import typer

    group = typer.main.get_command(cli.app)
    missing = [name for name in group.commands if f"autocompress {name}" not in text]  # type: ignore[attr-defined]
    assert missing == []


def test_blocks_that_are_not_run_say_why(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nautocompress show x\n```\n\n<!-- parsed only: it costs time -->\n```bash\nmake test\n```\n"
    )
    assert [(b.mode, b.line) for b in doc_blocks.blocks(page)] == [("", 2), ("parsed only", 7)]
    with pytest.raises(AssertionError, match=r"page.md, line 2: .*autocompress show x"):
        doc_blocks.run_page(page, run)
    doc_blocks.parse(["autocompress", "devices", "calibrate", "board", "--threads", "4"])
    for wrong in ("autocompress serch x", "autocompress devices calibrate board --treads 4"):
        with pytest.raises(Exception, match=r"no command 'serch'|[Nn]o such option: '?--treads"):
            doc_blocks.parse(wrong.split())


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed (dependency group docs)")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build(load_config(str(doc_blocks.ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    listed = (doc_blocks.ROOT / "mkdocs.yml").read_text()
    for page in sorted((doc_blocks.ROOT / "docs").glob("*.md")):
        assert page.name in listed and (tmp_path / "site" / f"{page.stem}.html").exists()
    assert os.path.getsize(tmp_path / "site" / "index.html") > 1000
