"""Files from strangers, and files that are written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autocompress.compression.weights import load_weights, save_weights
from autocompress.controller.journal import SafeJournalBackend, exclusive
from autocompress.errors import AutocompressError, InputError, StudyError
from autocompress.files import Folder, parse_json, parse_yaml, read_file, read_yaml, write_atomically


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "user" / "secret"
    path.parent.mkdir()
    path.write_text("mine")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study").mkdir()
    return tmp_path / "study"


def test_a_link_in_the_place_of_a_file_is_replaced_and_what_it_points_to_kept(folder: Path, secret: Path) -> None:
    (folder / "final.json").symlink_to(secret)
    Folder(folder).write("final.json", "{}")
    assert secret.read_text() == "mine" and not (folder / "final.json").is_symlink()
    assert (folder / "final.json").read_text() == "{}"


def test_no_link_on_the_way_is_followed(folder: Path, secret: Path) -> None:
    (folder / "trials").symlink_to(secret.parent)
    for act in (
        lambda f: f.write("trials/secret", "x"),
        lambda f: f.write("trials/deeper/secret", "x"),
        lambda f: f.read("trials/secret"),
        lambda f: f.names("trials"),
        lambda f: f.remove("trials/secret"),
        lambda f: f.inner("trials").write("secret", "x"),
        lambda f: f.holding(folder / "trials").write("secret", "x"),
    ):
        with pytest.raises(StudyError, match="trials is a link, and links inside a folder are not followed"):
            act(Folder(folder))
    assert secret.read_text() == "mine" and os.listdir(secret.parent) == ["secret"]


@pytest.mark.parametrize("name", ["../user/secret", "/etc/passwd", "a/../../user/secret", "", "a//b", "a\0b"])
def test_a_name_outside_the_folder_is_refused(folder: Path, secret: Path, name: str) -> None:
    for act in (Folder(folder).read, lambda n: Folder(folder).write(n, "x")):
        with pytest.raises(StudyError, match="no name of a file inside this folder"):
            act(name)


def test_lock_and_journal_that_are_links_touch_nothing(folder: Path, secret: Path) -> None:
    for name in ("lock", "study.journal"):
        (folder / name).symlink_to(secret)
    with pytest.raises(StudyError, match="lock is a link"), exclusive(folder):
        pass
    with pytest.raises(StudyError, match=r"study\.journal is a link"):
        SafeJournalBackend(folder / "study.journal")
    os.unlink(folder / "study.journal")
    os.link(secret, folder / "study.journal")
    with pytest.raises(StudyError, match="the same file as another one"):
        SafeJournalBackend(folder / "study.journal")
    assert secret.read_text() == "mine"


def test_weights_in_the_cache_replace_a_link(folder: Path, secret: Path) -> None:
    (folder / "a.pt").symlink_to(secret)
    assert load_weights(folder / "a.pt") is None and secret.read_text() == "mine"
    (folder / "a.pt").symlink_to(secret)
    save_weights(folder / "a.pt", {"x": 1})
    assert load_weights(folder / "a.pt") == {"x": 1} and secret.read_text() == "mine"


def test_what_is_no_regular_file_is_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(StudyError, match=r"not a regular file|Is a directory"):
            Folder(folder).read(name)


def test_what_is_too_large_is_not_read(folder: Path) -> None:
    with (folder / "big").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(StudyError, match="larger than 1,000 bytes"):
        Folder(folder).read("big", 1000)
    with pytest.raises(InputError, match="larger than 1,000 bytes"):
        read_file("/dev/zero", InputError, 1000)


def test_leftovers_of_interrupted_writes_are_swept(folder: Path) -> None:
    (folder / ".study.json.0123abcd.part").write_text("{")
    (folder / ".mine").write_text("kept")
    Folder(folder).sweep()
    assert os.listdir(folder) == [".mine"]


def test_a_target_that_is_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link, real = tmp_path / "report.html", tmp_path / "disk/report.html"
    link.symlink_to(real)
    for text in ("first", "second"):  # dangling, then not
        write_atomically(link, text)
        assert link.is_symlink() and real.read_text() == text


def test_devices_and_pipes_are_written_into(tmp_path: Path) -> None:
    write_atomically("/dev/null", "x")
    assert not Path("/dev/null").is_file()
    (tmp_path / "null").symlink_to("/dev/null")
    write_atomically(tmp_path / "null", "x")
    assert (tmp_path / "null").is_symlink() and not Path("/dev/null").is_file()
    code = "from autocompress.files import write_atomically as w; w('/dev/stdout', 'text')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"text"
    with pytest.raises(AutocompressError, match="/dev/full: cannot be written: No space left"):
        write_atomically("/dev/full", "x")


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "private"
    path.touch(0o600)
    write_atomically(path, "x")
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_private_is_so_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = tmp_path / "private", []
    path.touch(0o600)
    monkeypatch.setattr("os.chmod", lambda file, mode: sizes.append(os.stat(file).st_size))
    write_atomically(path, "secret")
    assert sizes == [0]


def test_a_file_in_the_place_of_a_folder_is_named(folder: Path) -> None:
    (folder / "trials").write_text("x")
    with pytest.raises(StudyError, match="/trials: must be a folder"):
        Folder(folder).names("trials")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{c}: &{c} {{<<: [{', '.join([f'*{b}'] * 9)}]}}\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        *(LAUGHS, MERGES, "[" * 200_000, "&a [*a]", "- " * 5000 + "x", "!!int ''", "!!timestamp x", "!!bool x"),
        *("1" * 5000, "2001-99-99", "!!python/object/apply:os.system [id]", "{[a]: 1}", "? {a: 1}", "a: b: c"),
    ],
)
def test_hostile_yaml_is_one_sentence_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_yaml(tmp_path / "x.yaml", InputError)
    assert str(caught.value).startswith(f"{tmp_path}/x.yaml: not valid YAML") and "\n" not in str(caught.value)
    assert time.monotonic() - started < 5  # a bound on work, not a timing: without one it takes minutes


def test_ordinary_aliases_are_read() -> None:
    assert parse_yaml("a: &x {k: 1}\nb: {<<: *x, m: 2}\nc: *x") == {"a": {"k": 1}, "b": {"k": 1, "m": 2}, "c": {"k": 1}}


@pytest.mark.parametrize("text", ["[" * 10**6, "NaN", "[Infinity]", "1" * 5000, "\udcff", "", "{'a': 1}"])
def test_hostile_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text.encode(errors="surrogateescape"))
