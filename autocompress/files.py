"""The one place that opens files: bounded reading, writing that never leaves half a file, and folders from strangers.

What a user names (`read_file`, `write_atomically`) may be a link or a pipe, and is followed. What a folder holds
(`Folder`) came perhaps from somebody else: it is opened by its name inside the folder, no link is followed, and only
regular files are read or written.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic_core import from_json

from autocompress.errors import AutocompressError, InputError, StudyError, first_line

TEXT_BYTES = 64 * 2**20
"""Largest JSON file that is read; of a study its final figures are the largest, a few megabytes."""
MODEL_BYTES = 2**31
"""Largest ONNX file: the limit of its format."""
_YAML_BYTES = 2**18
"""The YAML files of ours have a few kilobytes; larger ones would take seconds to read."""
_YAML_DEPTH = 40
_YAML_NODES = 50_000
"""Of one file, with everything that aliases repeat."""
_HAS_AT = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0) | _NO_LINK
_TEMPORARY = ".part"
_NEVER = "\0\\:" if os.name == "nt" else "\0"
"""Characters of no name inside a folder."""


def read_file(path: str | Path, error: type[InputError], at_most: int = TEXT_BYTES) -> bytes:
    """Read a file that the user named; links and pipes are followed.

    Raises:
        error: it is missing, unreadable or larger than `at_most` bytes.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(at_most + 1)
    except (OSError, ValueError) as problem:  # ValueError: a name with a null byte
        raise error(f"{path}: cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    if len(data) > at_most:
        raise error(f"{path}: larger than {at_most:,} bytes, the most that is read of such a file")
    return data


def parse_json(data: bytes | str) -> Any:
    """JSON of at most 200 levels; NaN and Infinity are no JSON.

    Raises:
        ValueError: it is not; the message says where.
    """
    return from_json(data, allow_inf_nan=False)


def json_object(name: str, data: bytes) -> dict[str, Any]:
    """A JSON object, from the content of the file `name` of a study.

    Raises:
        StudyError: it is none.
    """
    try:
        value = parse_json(data)
    except ValueError as problem:
        raise StudyError(f"{name}: cannot be read: {problem}") from None
    if not isinstance(value, dict):
        raise StudyError(f"{name}: damaged: it must hold a JSON object, got {type(value).__name__}")
    return value


def read_json(path: str | Path, error: type[InputError]) -> Any:
    """Read a JSON file that the user named.

    Raises:
        error: it is missing, unreadable, too large, too deep or not JSON.
    """
    try:
        return parse_json(read_file(path, error))
    except ValueError as problem:
        raise error(f"{path}: not valid JSON: {problem}") from None


def read_yaml(path: str | Path, error: type[InputError]) -> Any:
    """Read YAML with the safe loader.

    Raises:
        error: the file is missing, unreadable, too large or not YAML.
    """
    try:
        return parse_yaml(read_file(path, error, _YAML_BYTES).decode())
    except UnicodeDecodeError:
        raise error(f"{path}: cannot be read: it is not UTF-8 text") from None
    except ValueError as problem:
        raise error(f"{path}: not valid YAML{problem}") from None


def parse_yaml(text: str) -> Any:
    """YAML of bounded depth and size, also counting what its aliases repeat.

    Raises:
        ValueError: it is not; the message goes on behind "not valid YAML".
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _weigh(text, loader)
        return yaml.load(text, loader)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{where}: {getattr(problem, 'problem', None) or 'syntax error'}") from None
    except _TooMuch as problem:
        raise ValueError(f": {problem}") from None
    except Exception as problem:  # PyYAML raises anything for malformed tags: KeyError, AttributeError, IndexError
        raise ValueError(f": {type(problem).__name__}: {first_line(problem)}") from None


class _TooMuch(Exception):
    """A file is too deep or, with its aliases repeated, too large."""


def _weigh(text: str, loader: Any) -> None:
    """Count nodes without building any: an alias weighs what it repeats."""
    weights: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, loader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            total += weights.get(str(anchor), _YAML_NODES)  # an alias of what is still open has no end
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = open_nodes.pop()
            if name:
                weights[name] = total - before
        elif isinstance(event, yaml.NodeEvent):
            total += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((anchor, total - 1))
            elif anchor:
                weights[anchor] = 1
        if len(open_nodes) > _YAML_DEPTH:
            raise _TooMuch(f"nested more than {_YAML_DEPTH} levels deep")
        if total > _YAML_NODES:
            raise _TooMuch(f"more than {_YAML_NODES:,} values, or aliases that repeat as many")


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file that the user named, so that a reader, a crash or a full disk never leaves it half written.

    A link is followed, and what is no regular file (a pipe, /dev/null, /dev/stdout) is written into, never replaced.

    Raises:
        AutocompressError: it cannot be written; an older file of this name is as it was.
    """
    path, data = Path(path), content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_stream(path):
            with path.open("wb") as stream:
                stream.write(data)
        else:
            target = Path(os.path.realpath(path))
            _replace(None, f"{target.parent}{os.sep}", target.name, data)
    except OSError as problem:
        raise AutocompressError(f"{path}: cannot be written: {problem.strerror or problem}") from problem


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, all or nothing; NaN and infinity are refused."""
    write_atomically(path, json_text(value))


def json_text(value: Any) -> str:
    """The text of a JSON file of ours.

    Raises:
        ValueError: the value holds NaN or infinity.
    """
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _is_stream(path: Path) -> bool:
    """Whether bytes go through it to somewhere else: an existing file that is not regular, or one of /dev and /proc."""
    if os.path.realpath(path.parent).split(os.sep)[1] in ("dev", "proc"):
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _replace(folder: int | None, prefix: str, name: str, data: bytes) -> None:
    """Put a new file into the place of `name`, which keeps its permissions; a link of that name is replaced."""
    temporary = f"{prefix}.{name}.{secrets.token_hex(4)}{_TEMPORARY}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666, dir_fd=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            with suppress(FileNotFoundError):  # before anything is in it: a secret key is for its owner only
                before = os.stat(prefix + name, dir_fd=folder, follow_symlinks=False).st_mode
                if stat.S_ISREG(before):
                    os.chmod(file.fileno() if os.chmod in os.supports_fd else temporary, stat.S_IMODE(before))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, prefix + name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


@dataclass(frozen=True)
class Folder:
    """A folder that may come from a stranger; whatever it holds, only files inside it are read or written.

    Names are relative, with "/" between their parts. The folder itself is the user's choice and may be a link; below
    it nothing is. Where the system can, every part is opened relative to the one before, so that nothing can be put
    in between.
    """

    path: Path
    below: str = ""
    """Part of every name, for `inner`."""

    def inner(self, name: str) -> Folder:
        """A folder below this one; it need not exist yet, and is held to the same rule."""
        return Folder(self.path, f"{self.below}{name}/")

    def holding(self, path: Path) -> Folder:
        """`path` as a folder: of this one where it lies inside, else one that the user chose."""
        whole, root = Path(os.path.abspath(path)), Path(os.path.abspath(self.path))
        return self.inner(whole.relative_to(root).as_posix()) if whole.is_relative_to(root) else Folder(path)

    def read(self, name: str, at_most: int = TEXT_BYTES) -> bytes | None:
        """The content of a file, or None where there is none.

        Raises:
            StudyError: it is a link, no regular file, larger than `at_most` bytes, or cannot be read.
        """
        try:
            with os.fdopen(self.open(name, os.O_RDONLY), "rb") as file:
                data = file.read(at_most + 1)
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise self._refused(name, problem.strerror or str(problem)) from None
        if len(data) > at_most:
            raise self._refused(name, f"larger than {at_most:,} bytes, the most that is read of such a file")
        return data

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file, all or nothing; the folders on the way are made.

        Raises:
            AutocompressError: it cannot be written; an older file of this name is as it was.
            StudyError: a link is in the way.
        """
        try:
            with self._at(name, make=True) as (folder, prefix, leaf):
                _replace(folder, prefix, leaf, content.encode() if isinstance(content, str) else content)
        except OSError as problem:
            raise AutocompressError(f"{self._shown(name)}: cannot be written: {problem.strerror or problem}") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON, all or nothing; NaN and infinity are refused."""
        self.write(name, json_text(value))

    def open(self, name: str, flags: int) -> int:
        """A file descriptor of a regular file; with O_CREAT also of a new one.

        Raises:
            StudyError: it is a link, no regular file, or to be written and known by other names, too.
            OSError: as `os.open` does.
        """
        with self._at(name, make=bool(flags & os.O_CREAT)) as (folder, prefix, leaf):
            self._check_no_link(folder, prefix, leaf, name)
            handle = os.open(prefix + leaf, flags | _NO_LINK, 0o666, dir_fd=folder)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise self._refused(name, "not a regular file")
        if flags & (os.O_WRONLY | os.O_RDWR) and status.st_nlink > 1:
            os.close(handle)
            raise self._refused(name, "it is the same file as another one (a hard link); copy the folder and use that")
        return handle

    def has(self, name: str) -> bool:
        """Whether there is a regular file of this name."""
        try:
            os.close(self.open(name, os.O_RDONLY))
        except (OSError, StudyError):
            return False
        return True

    def stamp(self, name: str) -> tuple[int, int] | None:
        """When a file was changed and its size, which differ when its content does; None where there is none."""
        try:
            with self._at(name) as (folder, prefix, leaf):
                status = os.stat(prefix + leaf, dir_fd=folder, follow_symlinks=False)
        except (OSError, StudyError):
            return None
        return status.st_mtime_ns, status.st_size

    def remove(self, name: str) -> None:
        """Remove a file, or a link but not what it points to; nothing happens where there is none."""
        with suppress(FileNotFoundError), self._at(name) as (folder, prefix, leaf):
            os.unlink(prefix + leaf, dir_fd=folder)

    def set_aside(self, name: str) -> str:
        """Rename a file that cannot be read, so that nothing of it is lost; return its new name."""
        with self._at(name) as (folder, prefix, leaf):
            aside = f"{leaf}.unreadable-{secrets.token_hex(3)}"
            os.rename(prefix + leaf, prefix + aside, src_dir_fd=folder, dst_dir_fd=folder)
        return str(PurePosixPath(name).with_name(aside))

    def names(self, name: str = "") -> list[str]:
        """What is in the folder, or in one below it; nothing where there is none.

        Raises:
            StudyError: a link is in the way, or what has this name is no folder.
        """
        try:
            with self._at(f"{name}/." if name else ".") as (folder, prefix, _):
                return sorted(os.listdir(prefix if folder is None else folder))
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise StudyError(f"{self.path}/{name}: must be a folder; put back the one that the search wrote") from None

    def sweep(self, name: str = "") -> None:
        """Remove what an interrupted `write` has left half written."""
        for leaf in self.names(name):
            if leaf.startswith(".") and leaf.endswith(_TEMPORARY):
                self.remove(f"{name}/{leaf}" if name else leaf)

    @contextmanager
    def _at(self, name: str, make: bool = False) -> Iterator[tuple[int | None, str, str]]:
        """Where a file lies: its folder as a descriptor and what comes before its name; and its name."""
        *parents, leaf = self._parts(name)
        if make:
            self.path.mkdir(parents=True, exist_ok=True)
        if not _HAS_AT:
            yield None, self._walk(parents, name, make), leaf
            return
        here = os.open(self.path, _FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
        try:
            for part in parents:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=here)
                self._check_no_link(here, "", part, name)
                inner = os.open(part, _FOLDER, dir_fd=here)
                os.close(here)
                here = inner
            yield here, "", leaf
        finally:
            os.close(here)

    def _walk(self, parents: list[str], name: str, make: bool) -> str:
        """The same where the system has no descriptors of folders: each part is looked at before it is used."""
        here = self.path
        for part in parents:
            if make:
                (here / part).mkdir(exist_ok=True)
            self._check_no_link(None, f"{here}{os.sep}", part, name)
            here = here / part
        return f"{here}{os.sep}"

    def _check_no_link(self, folder: int | None, prefix: str, part: str, name: str) -> None:
        with suppress(FileNotFoundError):
            if stat.S_ISLNK(os.stat(prefix + part, dir_fd=folder, follow_symlinks=False).st_mode):
                raise self._refused(
                    name, f"{part} is a link, and links inside a folder are not followed; copy the file"
                )

    def _parts(self, name: str) -> list[str]:
        whole = f"{self.below}{name}"
        parts = [part for part in whole.split("/") if part != "."]
        if "" in parts or ".." in parts or any(c in whole for c in _NEVER):
            raise self._refused(name, "no name of a file inside this folder")
        return [*parts, "."] if whole.endswith("/.") or not parts else parts

    def _shown(self, name: str) -> str:
        return f"{self.path}/{self.below}{name}"

    def _refused(self, name: str, why: str) -> StudyError:
        return StudyError(f"{self._shown(name)}: {why}")
