"""MLflow's SQLite database, read without MLflow: without changing it, and in seconds where there are thousands of runs.

MLflow takes seconds to import and six milliseconds for each run that it finds, and it writes to what it opens.
"""

from __future__ import annotations

import importlib.util
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from graft.tracking.tagged_run import NoSuchExperiment, TaggedRun

PATIENCE_SECONDS = 5.0  # for a process that is just writing

EXPERIMENTS = "SELECT name, experiment_id FROM experiments WHERE lifecycle_stage = 'active' ORDER BY name"
RUNS = """
    SELECT run_uuid, name, status, artifact_uri FROM runs
    WHERE experiment_id = ? AND lifecycle_stage = 'active' ORDER BY start_time DESC
"""
TAGS = """
    SELECT runs.run_uuid, tags.key, tags.value FROM runs JOIN tags ON runs.run_uuid = tags.run_uuid
    WHERE runs.experiment_id = ? AND runs.lifecycle_stage = 'active' AND tags.key LIKE 'graft.%'
"""


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """The database, open for reading only.

    Raises:
        sqlite3.DatabaseError: in the block too, if it is none, or is damaged.
    """
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=PATIENCE_SECONDS)) as connection:
        yield connection


def wanted_schema() -> str | None:
    """The revision of the tables that the installed MLflow works with; None if it cannot be told without importing it.

    It is the migration that no other one follows.
    """
    mlflow = importlib.util.find_spec("mlflow")
    if mlflow is None or mlflow.origin is None:
        return None
    revisions, followed = set(), set()
    for migration in (Path(mlflow.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        text = migration.read_text(encoding="utf-8")
        revisions |= set(re.findall(r"^revision\b[^=\n]*=\s*[\"'](\w+)", text, re.MULTILINE))
        for line in re.findall(r"^down_revision\b[^=\n]*=(.*)$", text, re.MULTILINE):
            followed |= set(re.findall(r"[\"'](\w+)[\"']", line))
    last = revisions - followed
    return last.pop() if len(last) == 1 else None


def recorded_runs(file: Path, experiment: str) -> list[TaggedRun]:
    """All runs of an experiment that were not deleted, the latest first.

    Args:
        file: A database with the schema that the installed MLflow wants.
        experiment: Its name.

    Raises:
        NoSuchExperiment: if there is none, or it was deleted.
        sqlite3.DatabaseError: if the database cannot be read.
    """
    with opened(file) as connection:
        experiments: dict[str, int] = dict(connection.execute(EXPERIMENTS).fetchall())
        if experiment not in experiments:
            raise NoSuchExperiment(experiment, f"sqlite:///{file}", list(experiments))
        key = (experiments[experiment],)
        tags: dict[str, dict[str, str]] = {}
        for run_id, name, value in connection.execute(TAGS, key):
            tags.setdefault(run_id, {})[name] = value
        rows = connection.execute(RUNS, key)
        return [TaggedRun(run_id, name, status, uri, tags.get(run_id, {})) for run_id, name, status, uri in rows]
