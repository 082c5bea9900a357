"""What is said about a run or a sweep, kept on this machine until MLflow has it.

A folder's `record.jsonl` is only ever appended to, one statement a line. `record.sent` beside it says how much of it
MLflow has. So a server that is gone for a while, an attempt that goes on where another one died, and `graft sync` after
a server that was gone for good are one thing: what comes after the mark is sent, in its order.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from graft import files
from graft.errors import ConfigError
from graft.paths import records
from graft.secrets import resolved

log = logging.getLogger(__name__)

NAME = "record.jsonl"
SENT = "record.sent"
LOCK = "record.lock"
LOCK_SECONDS = 5.0

GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
"""What the system says of a file or folder that is not there any more; the last one, where a file server has it."""

FIELDS: Mapping[str, set[str]] = {
    "begin": {"name", "tags", "parent_run_id", "tracking"},
    "params": {"params"},
    "tags": {"tags"},
    "metrics": {"metrics", "step"},
    "artifact": {"path", "folder"},
    "dataset": {"name", "source", "digest", "contexts"},
    "close": {"state", "failure"},
    "sweep started": {"sweep", "name", "tags", "params", "tracking"},
    "trial ended": {"sweep", "number", "state", "cause", "message", "name", "tags", "directory"},
    "sweep ended": {"sweep", "counts", "seconds", "tags", "status"},
}
"""What a statement of each kind has; one that lacks some of it is damaged."""

FIRST = ("begin", "sweep started")


@dataclass(frozen=True)
class Statement:
    """One thing that was said.

    Attributes:
        kind: Such as ``metrics``.
        at: When, in milliseconds since 1970.
        content: What, as plain data.
        start, end: The bytes of the file that it takes up.
    """

    kind: str
    at: int
    content: Mapping[str, Any]
    start: int
    end: int


@dataclass(frozen=True)
class Mark:
    """How much was sent.

    Attributes:
        end: So many bytes of the file.
        run_id: Of the MLflow run that they became; None before there is one.
        uri: Where to.
    """

    end: int = 0
    run_id: str | None = None
    uri: str | None = None


class LocalRecord:
    """The record in `folder`, which is made if there is none.

    Several processes may say something, and one at a time may send, which holds `lock`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = filelock.FileLock(folder / LOCK)
        self._file = folder / NAME
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(filelock.Timeout), self.lock.acquire(timeout=LOCK_SECONDS):  # who holds it has done so
            self._drop_half_a_line()

    def say(self, kind: str, content: Mapping[str, Any]) -> None:
        """Appends a statement; it outlives the process once this returns.

        Raises:
            OSError: if the disk is full; nothing of it is there then.
        """
        line = (json.dumps({"kind": kind, "at": int(time.time() * 1000), **content}) + "\n").encode()
        descriptor = os.open(self._file, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, line) < len(line):  # what would be said next must not be appended to half a line
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file))
        finally:
            os.close(descriptor)

    def statements(self, start: int = 0) -> Iterator[Statement]:
        """As `statements_in`, of this record."""
        return statements_in(self._file, start)

    def beginnings(self) -> list[Statement]:
        """How the run or sweep began, once for each attempt; those that are damaged are not among them."""
        return [statement for statement in self.statements() if statement.kind in FIRST]

    @property
    def waiting(self) -> int:
        """How many statements were not sent."""
        return sum(1 for _ in self.statements(self.mark.end)) if is_waiting(self._file) else 0

    @property
    def mark(self) -> Mark:
        """How much was sent. Nothing, if it marks no end of a line: what is sent again is not recorded twice."""
        return _mark(self.folder)

    @mark.setter
    def mark(self, mark: Mark) -> None:
        files.write(self.folder / SENT, json.dumps(asdict(mark)))

    def _drop_half_a_line(self) -> None:
        """Cuts off what a process was saying when it died; nothing that `say` returned from."""
        if not self._file.exists():
            return
        with self._file.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)


def statements_in(record: Path, start: int = 0) -> Iterator[Statement]:
    """What was said in the file `record`, from the byte `start` on. A damaged line is told and passed over."""
    if not record.exists():
        return
    with record.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return  # somebody is just writing it
            end = start + len(line)
            try:
                content = json.loads(line)
                kind, at = str(content.pop("kind")), int(content.pop("at"))
                if missing := FIELDS.get(kind, set()) - content.keys():
                    raise KeyError(missing)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                log.warning("%s: the line at byte %d is damaged and left out", record, start)
            else:
                yield Statement(kind, at, content, start, end)
            start = end


def waiting_records(folders: Sequence[Path] = ()) -> list[Path]:
    """The folders, within `folders` or else all of `mlruns/`, whose records were not sent completely.

    Raises:
        ConfigError: for a folder that is not there.
    """
    if gone := [folder for folder in folders if not folder.is_dir()]:
        raise ConfigError([f"{folder}: there is no such folder" for folder in gone])
    roots = folders or [records() / "runs", records() / "sweeps"]
    # Not rglob: a run that trains meanwhile removes folders.
    walks = (os.walk(root, onerror=_pass_over) for root in roots)
    found = {Path(folder) / NAME for walk in walks for folder, _, names in walk if NAME in names}
    return sorted(record.parent for record in found if is_waiting(record))


def _pass_over(error: OSError) -> None:
    """Passes over what is gone, and with a warning what is closed to this user."""
    if isinstance(error, PermissionError):
        log.warning("%s is not looked through: %s", error.filename, error.strerror)
    elif error.errno not in GONE:
        raise error


def latest_sweep() -> tuple[str, str] | None:
    """The sweep of this machine that was recorded last: its name, and the tracking URI that it went to."""
    found = sorted((records() / "sweeps").glob(f"*/*/{NAME}"), key=lambda file: file.stat().st_mtime)
    begun = LocalRecord(found[-1].parent).beginnings() if found else []
    if not begun or begun[-1].kind != "sweep started":
        return None
    return str(begun[-1].content["sweep"]), str(resolved(begun[-1].content["tracking"])["uri"])


def is_waiting(record: Path) -> bool:
    """Whether the file `record` has something that was not sent; one that is not there has nothing."""
    try:
        return record.stat().st_size > _mark(record.parent).end
    except OSError as error:
        if error.errno not in GONE:
            raise
        return False


def waits_since(folder: Path) -> int | None:
    """When the first was said of what was not sent, in milliseconds since 1970; 0 if that cannot be read.

    None if nothing waits any more.
    """
    first = next(statements_in(folder / NAME, _mark(folder).end), None)
    if first is not None:
        return first.at
    return 0 if is_waiting(folder / NAME) else None


def _mark(folder: Path) -> Mark:
    try:
        content = json.loads((folder / SENT).read_bytes())
        end, run_id, uri = int(content["end"]), *(content[key] and str(content[key]) for key in ("run_id", "uri"))
        with (folder / NAME).open("rb") as record:
            record.seek(end - 1)  # fails before the first byte
            whole = record.read(1) == b"\n"
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Mark()
    return Mark(end if whole else 0, run_id, uri)
