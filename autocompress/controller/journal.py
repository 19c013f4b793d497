"""A journal file for Optuna that survives kill -9, a full disk and a torn last line.

Optuna's own file backend leaves a half-written record when the disk is full, and every later load of the study fails
(optuna/optuna issue 5138). Here a failed append is rolled back, and a torn tail is cut when the file is opened.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from autocompress.errors import StudyError
from autocompress.files import Folder


class SafeJournalBackend(BaseJournalBackend):
    """Append-only log of JSON lines; the kernel frees its lock when a process dies."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._file = Folder(path.parent).open(path.name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._reader = JournalFileBackend(self._path)
        with self._locked():
            self._cut_torn_tail()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the records from a number on."""
        return iter(self._reader.read_logs(log_number_from))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, all or nothing."""
        data = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        with self._locked():
            self._cut_torn_tail()
            size = os.fstat(self._file).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._file, view) :]
                os.fsync(self._file)
            except OSError as error:
                os.ftruncate(self._file, size)
                raise StudyError(
                    f"{self._path}: cannot be written: {error.strerror}; nothing that was finished is lost, "
                    "make room and run the same command again"
                ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _cut_torn_tail(self) -> None:
        end = os.fstat(self._file).st_size
        position = end
        while position > 0:
            start = max(0, position - 4096)
            newline = os.pread(self._file, position - start, start).rfind(b"\n")
            if newline >= 0:
                if start + newline + 1 < end:
                    os.ftruncate(self._file, start + newline + 1)
                return
            position = start
        if end:
            os.ftruncate(self._file, 0)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a study folder: one search at a time.

    Raises:
        StudyError: another process works on it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.fdopen(Folder(folder).open("lock", os.O_RDWR | os.O_CREAT), "w")
    except OSError as error:
        raise StudyError(f"{folder}: cannot be used as a study folder: {error.strerror}") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(f"{folder}: another search is running on this study; wait for it or stop it") from None
        yield
