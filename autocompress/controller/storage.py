"""Where Optuna keeps the trials of a study: a journal file in its folder, or a database.

A database holds Optuna's record only, under a name of its own for each study; results and files stay in the folder.
One search writes to it, as with the file: what several processes share is the folder's lock.
"""

from __future__ import annotations

import json
import logging
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from autocompress._files import write_json
from autocompress.controller.journal import SafeJournalBackend
from autocompress.errors import StudyError, first_line

_JOURNAL, _POINTER = "study.journal", "storage.json"
_NAME = "autocompress"


def open_storage(folder: Path, url: str | None) -> tuple[str, BaseStorage]:
    """The name of the study of a folder, and the storage that holds it.

    Args:
        url: of a database; None for the journal.

    Raises:
        StudyError: the study is kept elsewhere, or the storage cannot be opened or read.
    """
    pointer = folder / _POINTER
    if url is None:
        if pointer.exists():
            kept = json.loads(pointer.read_text())["url"]
            raise StudyError(f"{folder}: its trials are kept in {kept}; give it again with --storage")
        return _NAME, _journal(folder / _JOURNAL)
    if (folder / _JOURNAL).exists():
        raise StudyError(f"{folder}: its trials are kept in {_JOURNAL}; leave out --storage, or use another --out")
    try:
        shown = make_url(url).render_as_string(hide_password=True)
        storage = RDBStorage(url)
    except ArgumentError:
        raise StudyError(
            f"not the URL of a database: {url!r}; give one such as postgresql://user:password@host/name"
        ) from None
    except ImportError as error:
        raise StudyError(f"{shown}: the Python package for this database is missing: {error}") from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StudyError(f"{shown}: cannot be opened: {first_line(error)}") from None
    if not pointer.exists():
        write_json(pointer, {"url": shown, "study": f"{folder.resolve().name}-{uuid.uuid4().hex[:8]}"})
    return str(json.loads(pointer.read_text())["study"]), storage


def _journal(path: Path) -> BaseStorage:
    try:
        return JournalStorage(SafeJournalBackend(path))
    except (ValueError, KeyError, AttributeError) as error:  # not JSON, or not what Optuna wrote
        raise StudyError(
            f"{path}: damaged ({first_line(error)}); delete it: it is written again from the folders of the trials"
        ) from None


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the loss of a database into one sentence.

    Raises:
        StudyError: the database cannot be reached any more.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        raise StudyError(
            f"the database of --storage failed: {first_line(cause)}; nothing that was finished is lost, "
            "run the same command again when it is back"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna logs every trial and warns about experimental features that we chose knowingly."""
    previous = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(previous)
