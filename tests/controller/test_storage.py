"""What Optuna knows can be lost: cut, damaged or deleted journals, and databases."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from helpers.small import EXITS, NUMERICS, small_task
from test_driver import found, run, states

from autocompress.controller.storage import database_errors, open_storage
from autocompress.controller.store import Store
from autocompress.errors import StudyError
from autocompress.studies.study import Study
from autocompress.tasks.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return small_task()


@pytest.fixture(scope="module")
def whole(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """An uninterrupted study of six candidates."""
    return run(task, tmp_path_factory.mktemp("whole") / "study", 6)


# ------------------------------------------------------------------------------------------------------- journal


@pytest.mark.parametrize("share", [0.0, 0.4, 0.7, 0.95])
def test_a_truncated_journal_loses_nothing(task: Task, whole: Study, tmp_path: Path, share: float) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole.path, folder)
    journal = folder / "study.journal"
    os.truncate(journal, int(journal.stat().st_size * share))
    assert found(run(task, folder, 6)) == found(whole)
    assert states(folder) <= {"COMPLETE", "WAITING"}
    longer = run(task, folder, 8)
    assert set(found(whole)) < set(found(longer)) and longer.final


def test_points_of_exits_survive_the_loss_of_the_journal(tmp_path: Path) -> None:
    task, folder = small_task("resnet"), tmp_path / "study"
    before = found(run(task, folder, 1, EXITS))
    params = [t.params for t in trials(folder)]
    (folder / "study.journal").unlink()
    assert found(run(task, folder, 1, EXITS)) == before
    assert [t.params for t in trials(folder)][: len(before)] == params[: len(before)]
    derived = [t.user_attrs["derived_index"] for t in trials(folder) if "derived_index" in t.user_attrs]
    assert derived == list(range(1, len(derived) + 1)) and derived


@pytest.mark.parametrize("line", [b"\x00\xffgarbage\n", b"[]\n", b"[" * 5000 + b"\n", b'{"op_code": null}\n', b"7\n"])
def test_a_damaged_journal_is_set_aside_and_written_again(
    task: Task, whole: Study, tmp_path: Path, line: bytes
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole.path, folder)
    journal = folder / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:10], line, *lines[10:]])
    journal.write_bytes(damaged)
    assert found(run(task, folder, 6)) == found(whole)
    (aside,) = folder.glob("study.journal.unreadable-*")
    assert aside.read_bytes() == damaged


def test_hours_are_kept_when_the_journal_is_not(task: Task, whole: Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole.path, folder)
    spent = json.loads((folder / "elapsed.json").read_text())["seconds"]
    (folder / "study.journal").unlink()
    store = Store(folder, whole.settings)
    assert store.elapsed_s() == spent > 0


def test_a_result_that_cannot_be_read_is_taken_from_the_outcomes(task: Task, whole: Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole.path, folder)
    trial = next(e.trial for e in whole.candidates if e.state == "complete" and e.derived_from is None)
    (folder / f"trials/{trial:06d}/evaluation.json").write_text("{")
    assert found(run(task, folder, 6)) == found(whole)


SECRETS = [
    "postgresql//user:hunter2@host/db",
    "postgresql://user:hunter2@host:54x2/db",
    "postgresql://user:hunter2@nowhere.invalid/db",
    "postgresql://nowhere.invalid/db?password=hunter2",
    "postgresql://nowhere.invalid/db?passwrod=hunter2",
    "sqlite:////no/such/folder/x.db?password=hunter2",
    "oracle+oracledb://user:hunter2@host/db",
    "hunter2",
]


@pytest.mark.parametrize("url", SECRETS)
def test_no_message_holds_a_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(StudyError) as caught:
        open_storage(tmp_path, url)
    assert "hunter2" not in str(caught.value) and caught.value.__suppress_context__
    assert not list(tmp_path.iterdir())


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    from autocompress.controller.journal import SafeJournalBackend

    storage = optuna.storages.JournalStorage(SafeJournalBackend(folder / "study.journal"))
    return optuna.load_study(study_name="autocompress", storage=storage).trials


# ------------------------------------------------------------------------------------------------------ databases


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a database server of our own."""
    pytest.importorskip("psycopg", reason="the Python package psycopg is not installed")
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin")) + [Path(p) for p in os.get_exec_path()]
    server = next((b for b in reversed(binaries) if (b / "initdb").exists() and (b / "pg_ctl").exists()), None)
    if server is None:
        pytest.skip("no PostgreSQL on this machine (initdb and pg_ctl)")
    folder = Path(tempfile.mkdtemp(prefix="autocompress-pg-"))  # every pytest closes its own folders to other users
    user = {"user": "postgres"} if os.getuid() == 0 else {}  # it refuses to run as root
    if user:
        try:
            shutil.chown(folder, "postgres")
        except LookupError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    data, options = folder / "data", f"-k {folder} -c listen_addresses= -c fsync=off"

    def command(*words: str) -> None:
        subprocess.run([str(server / words[0]), *words[1:]], check=True, stdout=subprocess.DEVNULL, cwd="/", **user)  # type: ignore[call-overload]

    command("initdb", "-D", str(data), "-A", "trust", "-U", "tester")
    command("pg_ctl", "-D", str(data), "-o", options, "-w", "-l", str(folder / "log"), "start")
    yield f"postgresql+psycopg://tester:secret@/postgres?host={folder}"
    command("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_study_in_postgresql(task: Task, whole: Study, tmp_path: Path, postgresql: str) -> None:
    folder = tmp_path / "study"
    first = run(task, folder, 3, storage=postgresql)
    assert not (folder / "study.journal").exists()
    pointer = json.loads((folder / "storage.json").read_text())
    assert "secret" not in pointer["url"]
    assert set(found(first)) < set(found(whole))
    assert found(run(task, folder, 6, storage=postgresql)) == found(whole)
    other = run(task, tmp_path / "other", 1, storage=postgresql)  # in the same database
    assert len([e for e in other.candidates if e.derived_from is None]) == 1
    database = optuna.storages.RDBStorage(postgresql)
    stored = optuna.load_study(study_name=pointer["study"], storage=database)
    assert [t.state.name for t in stored.trials[:9]] == ["COMPLETE"] * 9 and stored.best_trials
    with pytest.raises(StudyError, match=r"its trials are kept in postgresql.*; give it again with --storage"):
        run(task, folder, 7)
    optuna.delete_study(study_name=pointer["study"], storage=database)
    database.remove_session()
    database.engine.dispose()
    assert found(run(task, folder, 6, storage=postgresql)) == found(whole)


def test_storages_that_cannot_be_used(task: Task, tmp_path: Path, whole: Study) -> None:
    with pytest.raises(StudyError, match=r"--storage is not the URL of a database; give one such as postgresql://"):
        run(task, tmp_path / "a", 1, storage="trials.db")
    with pytest.raises(StudyError, match=r"sqlite:////no/such/folder/x\.db: cannot be opened: .*unable to open"):
        run(task, tmp_path / "b", 1, storage="sqlite:////no/such/folder/x.db")
    with pytest.raises(StudyError, match=r"oracle\+oracledb://.*: the Python package for this database is missing"):
        run(task, tmp_path / "c", 1, storage="oracle+oracledb://user:secret@host/db")
    with pytest.raises(StudyError, match=r"its trials are kept in study\.journal; leave out --storage"):
        run(task, whole.path, 7, storage=f"sqlite:///{tmp_path}/x.db")


def test_a_database_that_goes_away_is_one_sentence(task: Task, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trials.db"
    run(task, tmp_path / "study", 1, NUMERICS, storage=url)
    (tmp_path / "trials.db").write_bytes(b"no database any more" * 100)
    words = "the database of --storage failed: .*; nothing that was finished is lost"
    with pytest.raises(StudyError, match=words), database_errors(url):
        optuna.load_study(study_name="x", storage=url)
