"""The code blocks of the documentation, and a small project in a folder to run them in.

Every block of Python, of YAML and of commands is run. `<!-- parsed only: why -->` before a block of commands checks
that the commands and their options exist; `<!-- not run: why -->` leaves a block out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from autocompress import cli

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"(?:<!-- (parsed only|not run): [^>]+ -->\n+)?^```(\w+)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml))\n")
_SHORTER = ((r"--hours \d+", "--trials 2"), (r"hours=\d+", "trials=2"))
"""What makes a command of the documentation small enough for a test."""

PROJECT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


def block(i, o, stride):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


model = nn.Sequential(nn.MaxPool2d(16), block(3, 16, 1), block(16, 16, 1), block(16, 32, 2), nn.AdaptiveAvgPool2d(1),
                      nn.Flatten(), nn.Linear(32, 4)).eval()


def loader(n):
    labels = torch.arange(n) % 4
    images = torch.randn(n, 3, 224, 224) + labels[:, None, None, None]
    return DataLoader(TensorDataset(images, labels), 16)


train_loader, val_loader, test_loader = loader(32), loader(24), loader(24)
pairs = 4 * [(torch.rand(3, 64, 64), {"boxes": torch.tensor([[8.0, 8, 24, 24]]), "labels": torch.tensor([0])})]
"""
TASK = """
import torch
from autocompress import Task
from my_project import model, test_loader, train_loader, val_loader


def task():
    return Task.classification(
        model, train=train_loader, val=val_loader, test=test_loader, example_input=torch.zeros(1, 3, 224, 224)
    )
"""


@dataclass(frozen=True)
class Block:
    """One code block of a page."""

    language: str
    text: str
    mode: str
    """Nothing, "parsed only" or "not run"."""
    line: int


def blocks(page: Path) -> list[Block]:
    """The code blocks of a Markdown file, in order."""
    text = page.read_text()
    return [Block(m[2] or "", m[3], m[1] or "", text.count("\n", 0, m.start(3)) + 1) for m in _BLOCK.finditer(text)]


def pages() -> list[Path]:
    """The documentation for users."""
    return [ROOT / "README.md", ROOT / "search_spaces" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shorter(text: str) -> str:
    """The same with a budget for a test."""
    for pattern, small in _SHORTER:
        text = re.sub(pattern, small, text)
    return text


def commands(block: Block) -> list[list[str]]:
    """The command lines of a block; a line may end in a backslash, and in a comment."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def parse(words: list[str]) -> None:
    """Check that a command of ours and its options exist, without running it."""
    command: Any = typer.main.get_command(cli.app)
    rest = list(words[1:])
    if rest[0].startswith("--"):
        assert any(rest[0] in option.opts for option in command.params), f"there is no option {rest[0]!r}"
        return
    while hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    command.make_context(words[0], rest)


def run_page(page: Path, run: Callable[[list[str]], None]) -> None:
    """Run the blocks of a page in the current folder; `run` gets each command of ours."""
    scope: dict[str, Any] = {"__name__": "docs"}
    for block in blocks(page):
        place, text = f"{page.name}, line {block.line}", shorter(block.text)
        if block.mode == "not run" or block.language not in ("python", "bash", "yaml", ""):
            continue
        try:
            if named := _FILE.match(text):
                Path(named[1]).write_text(text)
            if block.language == "python" and not named:
                exec(compile(text, place, "exec"), scope)
            elif block.language == "yaml":
                Path("block.yaml").write_text(text)
                run(["autocompress", "check", "block.yaml"])
            elif block.language in ("bash", ""):
                for words in commands(Block(block.language, text, block.mode, block.line)):
                    _command(words, block, run)
        except Exception as error:
            raise AssertionError(f"{place}: {type(error).__name__}: {error}") from error


def _command(words: list[str], block: Block, run: Callable[[list[str]], None]) -> None:
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif words[0] != "autocompress":
        assert block.language == "", f"cannot run {words[0]!r}"
    elif block.mode == "parsed only":
        parse(words)
    else:
        run(words)
