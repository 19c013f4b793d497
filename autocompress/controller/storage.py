"""Where Optuna keeps the trials of a study: a journal file in its folder, or a database.

A database holds Optuna's record only, under a name of its own for each study; results and files stay in the folder.
One search writes to it, as with the file: what several processes share is the folder's lock.
"""

from __future__ import annotations

import logging
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from pydantic import BaseModel, ValidationError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.util import immutabledict

from autocompress.controller.journal import SafeJournalBackend
from autocompress.errors import StudyError, first_line
from autocompress.files import Folder

_JOURNAL, _POINTER = "study.journal", "storage.json"
_NAME = "autocompress"


def open_storage(folder: Path, url: str | None) -> tuple[str, BaseStorage]:
    """The name of the study of a folder, and the storage that holds it.

    Args:
        url: of a database; None for the journal.

    Raises:
        StudyError: the study is kept elsewhere, or the storage cannot be opened or read.
    """
    files = Folder(folder)
    kept = _read_pointer(files)
    if url is None:
        if kept:
            raise StudyError(f"{folder}: its trials are kept in {kept.url}; give it again with --storage")
        return _NAME, _journal(folder / _JOURNAL)
    if files.has(_JOURNAL):
        raise StudyError(f"{folder}: its trials are kept in {_JOURNAL}; leave out --storage, or use another --out")
    shown = without_secrets(url)
    try:
        storage = RDBStorage(url)
    except ImportError as error:
        raise StudyError(f"{shown}: the Python package for this database is missing: {error.name}") from None
    except Exception as error:  # each driver has errors of its own, also for options that it does not know
        raise StudyError(f"{shown}: cannot be opened: {censored(first_line(error), url)}") from None
    if kept is None:
        kept = _Pointer(url=shown, study=f"{folder.resolve().name}-{uuid.uuid4().hex[:8]}")
        files.write(_POINTER, kept.model_dump_json(indent=1) + "\n")
    return kept.study, storage


class _Pointer(BaseModel):
    """Which database holds the trials of a folder, and under what name."""

    url: str
    study: str


def _read_pointer(files: Folder) -> _Pointer | None:
    data = files.read(_POINTER)
    if data is None:
        return None
    try:
        return _Pointer.model_validate_json(data)
    except ValidationError:
        raise StudyError(
            f"{files.path}/{_POINTER}: damaged: it must hold the 'url' and the 'study' of a database"
        ) from None


def without_secrets(url: str) -> str:
    """Kind, host and name of a database; never user, password or options, which may hold one, too.

    Raises:
        StudyError: it is no URL of a database. It is not repeated: a password may be anywhere in it.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise StudyError(
            "--storage is not the URL of a database; give one such as postgresql://user:password@host:5432/name"
        ) from None
    return parsed._replace(username=None, password=None, query=immutabledict()).render_as_string()


def censored(text: str, url: str) -> str:
    """A message of a database's driver without what may be secret in its URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "(the message may hold a password)"
    secrets = [parsed.password, *(v for values in parsed.normalized_query.values() for v in values)]
    for secret in sorted(filter(None, map(str, filter(None, secrets))), key=len, reverse=True):
        for form in {secret, quote(secret), quote_plus(secret)}:
            text = text.replace(form, "***")
    return text.replace(url, "***")


def _journal(path: Path) -> BaseStorage:
    """Optuna's journal; one that it cannot read is set aside, and written again from the folders of the trials."""
    try:
        return JournalStorage(SafeJournalBackend(path))
    except (StudyError, OSError):
        raise
    except Exception:  # not JSON, or not what Optuna wrote: it fails in any way it likes
        Folder(path.parent).set_aside(path.name)
        return JournalStorage(SafeJournalBackend(path))


@contextmanager
def database_errors(url: str | None) -> Iterator[None]:
    """Turn the loss of a database into one sentence, without what is secret in its URL.

    Raises:
        StudyError: the database cannot be reached any more.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        raise StudyError(
            f"the database of --storage failed: {censored(first_line(cause), url or '')}; nothing that was finished is "
            "lost, run the same command again when it is back"
        ) from None


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
