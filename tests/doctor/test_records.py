"""A damaged database, a damaged journal, a server that is not there: what is said, and whether the remedy helps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.doctor.conftest import Doctor, run_python

from graft.sweep.journal import Journal
from graft.tracking.local_record import LocalRecord

Follow = Callable[[str | None], None]


def test_what_mlflow_did_not_get_is_a_problem_and_what_is_said_just_now_is_none(doctor: Doctor, home: Path) -> None:
    folder = home / "mlruns" / "runs" / "one"
    record = LocalRecord(folder)
    record.say("tags", {"tags": {}})
    assert doctor().problems == []
    line = json.loads((folder / "record.jsonl").read_text())
    (folder / "record.jsonl").write_text(json.dumps(line | {"at": line["at"] - 3_600_000}) + "\n")
    record.say("tags", {"tags": {}})  # a run that goes on without its server
    found = doctor()
    assert (found.problems, found.exit_status) == (["unsent"], 1)
    assert str(folder) in found.only("unsent").text
    assert str(found.only("unsent").remedy).endswith("graft sync")


def test_a_whole_database_is_well(doctor: Doctor, database: Path) -> None:
    found = doctor()
    assert (found.exit_status, found.problems) == (0, [])
    assert "whole, with the schema that MLflow wants" in found.only("mlflow").text


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the remedy needs sqlite3")
@pytest.mark.parametrize("damage", ["garbage in a page", "a wrong count in the header"])
def test_a_damaged_page_is_a_problem_and_the_remedy_saves_the_rest(
    damage: str, doctor: Doctor, database: Path, follow: Follow
) -> None:
    with closing(sqlite3.connect(database)) as opened:
        (page,) = opened.execute("SELECT rootpage FROM sqlite_master WHERE name = 'metrics'").fetchone()
        (size,) = opened.execute("PRAGMA page_size").fetchone()
    with database.open("r+b") as file:
        file.seek((page - 1) * size if damage == "garbage in a page" else 36)  # of free pages
        file.write(b"\xff" * size if damage == "garbage in a page" else b"\x00\x00\x00\x05")
    found = doctor()
    mlflow = found.only("mlflow")
    assert (found.exit_status, found.problems, found.all("runs")) == (1, ["mlflow"], [])
    assert mlflow.text.startswith(f"{database} is damaged: ")
    follow(mlflow.remedy)
    found = doctor()
    assert (found.only("mlflow").status, found.exit_status) == ("ok", 0)


@pytest.mark.parametrize("content", [b"no database at all, but a text that is long enough" * 100, b"SQLite format 3\0"])
def test_what_is_no_database_is_a_problem_without_a_traceback(content: bytes, doctor: Doctor, database: Path) -> None:
    database.write_bytes(content)
    found = doctor()
    assert (found.exit_status, found.problems) == (1, ["mlflow"])
    assert found.only("mlflow").remedy
    assert database.read_bytes() == content


def test_a_cut_off_database_is_a_problem(doctor: Doctor, database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)
    assert doctor().problems == ["mlflow"]


def test_a_database_that_lacks_the_end_of_its_last_page_is_a_problem(doctor: Doctor, database: Path) -> None:
    os.truncate(database, database.stat().st_size - 1)
    assert "its end is missing" in doctor().only("mlflow").text


def test_a_folder_in_the_place_of_the_database_is_a_problem_and_goes_aside(
    doctor: Doctor, home: Path, follow: Follow
) -> None:
    (home / "mlruns" / "mlflow.db").mkdir(parents=True)
    found = doctor()
    assert (found.exit_status, found.problems) == (1, ["mlflow"])
    assert "cannot be opened" in found.only("mlflow").text
    follow(found.only("mlflow").remedy)
    assert doctor().exit_status == 0


def test_an_empty_database_stays_empty(doctor: Doctor, home: Path) -> None:
    (home / "mlruns").mkdir()
    (home / "mlruns" / "mlflow.db").touch()
    assert doctor().exit_status == 0
    assert (home / "mlruns" / "mlflow.db").stat().st_size == 0


def test_a_database_of_somebody_else_is_a_problem(doctor: Doctor, home: Path) -> None:
    (home / "mlruns").mkdir()
    with closing(sqlite3.connect(home / "mlruns" / "mlflow.db")) as opened:
        opened.execute("CREATE TABLE recipes (name TEXT)")
    assert "not MLflow's" in doctor().only("mlflow").text


def test_the_schema_of_another_mlflow_is_a_problem(doctor: Doctor, database: Path) -> None:
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    mlflow = doctor().only("mlflow")
    assert mlflow.status == "problem"
    assert "has the schema 0123456789ab" in mlflow.text
    assert f"mlflow db upgrade sqlite:///{database}" in str(mlflow.remedy)


DIES_WRITING = """
import os, signal, sqlite3, sys
opened = sqlite3.connect(sys.argv[1], isolation_level=None)
opened.execute("PRAGMA cache_size = 1")  # so that pages are written before the end
opened.execute("BEGIN")
opened.execute("CREATE TABLE large (row TEXT)")
for _ in range(200):
    opened.execute("INSERT INTO large VALUES (hex(randomblob(1000)))")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_write_that_a_process_died_in_is_a_note_and_left_as_it_is(doctor: Doctor, database: Path) -> None:
    assert run_python(DIES_WRITING, str(database)).returncode == -signal.SIGKILL
    assert database.with_name("mlflow.db-journal").stat().st_size > 0
    content = database.read_bytes()
    mlflow = doctor().only("mlflow")
    assert (mlflow.status, database.read_bytes()) == ("note", content)
    assert "a write that a process died in" in mlflow.text
    with closing(sqlite3.connect(database)) as opened:
        opened.execute("SELECT * FROM experiments").fetchall()
    assert doctor().only("mlflow").status == "ok"


@pytest.fixture
def journal(home: Path) -> Path:
    """A journal as sweeps write it."""
    (home / "mlruns").mkdir()
    file = home / "mlruns" / "optuna.journal"
    Journal(str(file)).append_logs([{"op_code": 0, "study_name": f"study-{number}"} for number in range(5)])
    return file


def test_a_whole_journal_is_well(doctor: Doctor, journal: Path) -> None:
    optuna = doctor().only("optuna")
    assert optuna.status == "ok"
    assert f"5 lines, {journal.stat().st_size} B" in optuna.text


def test_a_torn_last_line_is_a_note(doctor: Doctor, journal: Path) -> None:
    os.truncate(journal, journal.stat().st_size - 3)
    found = doctor()
    assert (found.exit_status, found.only("optuna").status) == (0, "note")
    assert "4 lines" in found.only("optuna").text
    Journal(str(journal))  # as the next sweep opens it
    assert doctor().only("optuna").status == "ok"


@pytest.mark.parametrize("damage", [b"\0" * 7, b'["op_code", 0]\n', b"\xff\xfe\n"])
def test_a_broken_line_within_is_a_problem_and_the_remedy_keeps_what_stands_before(
    damage: bytes, doctor: Doctor, journal: Path, follow: Follow
) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
    found = doctor()
    assert (found.exit_status, found.problems) == (1, ["optuna"])
    assert "line 3 cannot be read" in found.only("optuna").text
    follow(found.only("optuna").remedy)
    assert doctor().only("optuna").status == "ok"
    assert journal.read_bytes() == b"".join(lines[:2])


def test_a_server_that_is_not_there_is_a_problem(doctor: Doctor) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        found = doctor("--tracking-uri", uri)
    assert (found.exit_status, found.problems) == (1, ["mlflow"])
    assert found.only("mlflow").text.startswith(f"tracking.uri={uri}: MLflow cannot use it: ")
    assert f"curl {uri}/health" in str(found.only("mlflow").remedy)


def test_a_wrong_tracking_uri_is_refused(home: Path) -> None:
    program = "import sys; from graft import cli; sys.argv = ['graft', 'doctor', '--tracking-uri=ftp://x']; cli.main()"
    done: subprocess.CompletedProcess[str] = run_python(program)
    assert done.returncode == 2
    assert done.stderr.startswith("--tracking-uri=ftp://x: ")
