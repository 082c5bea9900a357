"""The MLflow database and the Optuna journal as files: whether they can be read, to the last page and line."""

from __future__ import annotations

import json
import shlex
import sqlite3
import time
from pathlib import Path

from graft import paths
from graft.cache.sizes import size_in_words
from graft.doctor.report import Check, listed
from graft.sqlite_file import is_cut_off
from graft.tracking import local_record, sqlite_record

UNFINISHED = ("SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY", "SQLITE_READONLY_CANTINIT", "SQLITE_CANTOPEN")

ON_ITS_WAY_SECONDS = 5.0
"""What was said since then is just being sent; what a run said before, it could not send."""


def check_database(file: Path) -> tuple[Check, bool]:
    """Reads the whole MLflow database without changing it.

    Returns:
        What was found, and whether there are tables in it that can be read.
    """
    if not file.exists():
        return Check("mlflow", "ok", f"{file} does not exist yet; the first run makes it"), False
    size = size_in_words(file.stat().st_size)
    try:
        with sqlite_record.opened(file) as opened:
            said = [str(row[0]) for row in opened.execute("PRAGMA quick_check(5)")]
            if said != ["ok"]:
                return _damaged(file, "; ".join(said)), False
            if is_cut_off(file):
                return _damaged(file, "its end is missing"), False
            tables = {row[0] for row in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                return Check("mlflow", "ok", f"{file} is empty; the first run fills it"), False
            if not {"alembic_version", "experiments", "runs", "tags"} <= tables:
                text = f"{file} is a database, but not MLflow's: it lacks its tables"
                return Check("mlflow", "problem", text, _aside(file)), False
            there = ", ".join(str(row[0]) for row in opened.execute("SELECT version_num FROM alembic_version"))
    except sqlite3.OperationalError as error:
        return _not_opened(file, error), False
    except sqlite3.DatabaseError as error:
        return _damaged(file, str(error)), False
    wanted = sqlite_record.wanted_schema()
    if wanted is None:
        return Check("mlflow", "note", f"{file}: {size}, whole; what schema MLflow wants cannot be told"), True
    if there != wanted:
        text = (
            f"{file} has the schema {there or 'of no version'}, and the installed MLflow wants {wanted}. An older one "
            "can be brought up to date; a newer one wants the MLflow that made it"
        )
        copy = shlex.join(["cp", str(file), f"{file}.before"])
        upgrade = shlex.join(["mlflow", "db", "upgrade", f"sqlite:///{file}"])
        return Check("mlflow", "problem", text, f"{copy} && {upgrade}"), False
    return Check("mlflow", "ok", f"{file}: {size}, whole, with the schema that MLflow wants"), True


def check_journal(file: Path) -> Check:
    """Reads every line of the Optuna journal."""
    if not file.exists():
        return Check("optuna", "ok", f"{file} does not exist yet; the first sweep makes it")
    lines, torn = 0, False
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            for line in opened:
                if torn := not line.endswith(b"\n"):
                    break
                lines += 1
                if not _is_entry(line):
                    return _broken_line(file, lines)
    except OSError as error:
        return Check("optuna", "problem", f"{file} cannot be read: {error.strerror}", _aside(file))
    told = f"{file}: {lines} lines, {size_in_words(size)}"
    if torn:
        # A writer's next write may just be half there; if it is not finished, the next sweep drops it.
        text = f"{told}; its last line is not complete. The next sweep drops it, and what it told is done again"
        return Check("optuna", "note", text)
    return Check("optuna", "ok", f"{told}, all of them readable")


def check_unsent() -> Check:
    """Looks for runs and sweeps of which MLflow did not get all."""
    latest = int((time.time() - ON_ITS_WAY_SECONDS) * 1000)
    waiting = [
        folder
        for folder in local_record.waiting_records()
        if (since := local_record.waits_since(folder)) is not None and since < latest
    ]
    if not waiting:
        return Check("unsent", "ok", "MLflow has all that runs on this machine recorded")
    names = listed([str(folder) for folder in waiting], most=3)
    text = f"of {len(waiting)} runs and sweeps MLflow did not get all, or they are just sending it: {names}"
    return Check("unsent", "problem", text, "graft sync")


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _broken_line(file: Path, number: int) -> Check:
    text = (
        f"{file}: line {number} cannot be read, and Optuna reads no study of this file. What stands before it can be "
        "kept; sweeps that began or went on later cannot be gone on with, but their runs in MLflow stay"
    )
    name, damaged = shlex.quote(str(file)), shlex.quote(f"{file}.damaged")
    return Check("optuna", "problem", text, f"mv {name} {damaged} && head -n {number - 1} {damaged} > {name}")


def _not_opened(file: Path, error: sqlite3.OperationalError) -> Check:
    if file.is_file() and file.with_name(f"{file.name}-journal").exists() and error.sqlite_errorname in UNFINISHED:
        text = f"{file} holds a write that a process died in; whatever opens it next takes that back"
        return Check("mlflow", "note", text, "graft compare")
    if error.sqlite_errorname == "SQLITE_BUSY":
        text = f"{file} is locked by a process that writes, for more than {sqlite_record.PATIENCE_SECONDS:g} seconds"
        return Check("mlflow", "note", text, "graft doctor, once it is done")
    return Check("mlflow", "problem", f"{file} cannot be opened: {error}", _aside(file))


def _damaged(file: Path, said: str) -> Check:
    text = (
        f"{file} is damaged: {listed(said.splitlines(), most=2)}. Put a backup in its place, or keep what can still be "
        "read of it"
    )
    name, damaged = shlex.quote(str(file)), shlex.quote(f"{file}.damaged")
    # Not .recover, which some versions of sqlite3 that are in use cannot run.
    read = f"sqlite3 {damaged} .dump | sed 's/^ROLLBACK; -- due to errors$/COMMIT;/'"
    return Check("mlflow", "problem", text, f"mv {name} {damaged} && {read} | sqlite3 {name}")


def _aside(file: Path) -> str:
    return shlex.join(["mv", str(file), f"{file}.aside"])


def journal_file() -> Path:
    """Where the sweeps of `train.py` have their studies, unless they name another storage."""
    return paths.records() / "optuna.journal"
