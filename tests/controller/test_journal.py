from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from autocompress.controller.journal import SafeJournalBackend, exclusive
from autocompress.errors import StudyError


def read(path: Path) -> Sequence[dict[str, object]]:
    return list(SafeJournalBackend(path).read_logs(0))


def test_records_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    backend = SafeJournalBackend(path)
    backend.append_logs([{"a": 1}, {"b": "two"}])
    backend.append_logs([{"c": [3]}])
    assert read(path) == [{"a": 1}, {"b": "two"}, {"c": [3]}]
    assert list(backend.read_logs(2)) == [{"c": [3]}]


@pytest.mark.parametrize("torn", ['{"op', "x" * 10_000, "\x00" * 512])
def test_a_torn_tail_is_cut_when_the_file_is_opened(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "study.journal"
    SafeJournalBackend(path).append_logs([{"a": 1}, {"b": 2}])
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    assert read(path) == [{"a": 1}, {"b": 2}]
    assert path.read_bytes() == whole


def test_a_file_with_nothing_but_a_torn_line_is_empty_again(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_text('{"a": 1')
    assert read(path) == [] and path.read_bytes() == b""


def test_a_tail_torn_by_another_process_is_cut_before_the_next_append(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    backend = SafeJournalBackend(path)
    backend.append_logs([{"a": 1}])
    with path.open("ab") as file:
        file.write(b'{"half')
    backend.append_logs([{"b": 2}])
    assert read(path) == [{"a": 1}, {"b": 2}]


def test_a_failed_append_is_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "study.journal"
    backend = SafeJournalBackend(path)
    backend.append_logs([{"a": 1}])
    whole = path.read_bytes()
    write, calls = os.write, []

    def full(file: int, data: bytes) -> int:
        calls.append(file)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, bytes(data)[: len(data) // 2])

    monkeypatch.setattr("autocompress.controller.journal.os.write", full)
    with pytest.raises(
        StudyError, match=r"study\.journal: cannot be written: No space left on device; nothing .* lost"
    ):
        backend.append_logs([{"b": 2}, {"c": 3}])
    monkeypatch.undo()
    assert len(calls) == 2
    assert path.read_bytes() == whole
    backend.append_logs([{"b": 2}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"b": 2}]


def test_a_study_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with exclusive(folder), pytest.raises(StudyError, match="another search is running"), exclusive(folder):
        pass
    with exclusive(folder):
        pass


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StudyError, match="cannot be used as a study folder"), exclusive(path):
            pass
