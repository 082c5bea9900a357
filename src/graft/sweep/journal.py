"""Optuna's journal file, with a lock that dies with its holder and without a disk flush for every line."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shlex
import time
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from graft import disk
from graft.errors import ConfigError

SYNC_SECONDS = 1.0
"""A process forces what it wrote to the disk at most so often."""


class KernelLock(BaseJournalFileLock):
    """A lock that the kernel releases when its holder dies, and hands to those who wait in their order.

    Optuna's own are files that outlive a killed process; every other process then waits for their grace
    period of 30 s. Locks that are tried again and again are a matter of luck: with 64 trials that report ten
    times a second, some waited for seconds.
    """

    def __init__(self, path: str) -> None:
        self._path = path + ".lock"
        self._descriptor = -1

    def acquire(self) -> bool:
        """Waits for the lock."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except BaseException:  # Ctrl-C among them
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Lets the next one have it."""
        os.close(self._descriptor)


def _write_all(file: io.FileIO, content: bytes) -> None:
    """A disk that is filling up takes a part, and says that it is full when it is handed the rest."""
    while content:
        content = content[file.write(content) or 0 :]


class Journal(JournalFileBackend):
    """A journal in the file `path`, in Optuna's own format.

    Optuna forces each line to the disk, which costs 0.2 to 4 ms, five times a trial. A killed process loses
    nothing without that, for the kernel has what was written. A power cut may cost the last seconds, and
    their trials then run again.

    Attributes:
        latest: The line that was read last, as JSON has it; None before the first.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._kernel_lock = KernelLock(path)
        self._synced = 0.0
        self.latest: Any = None
        super().__init__(path, lock_obj=self._kernel_lock)
        with self._locked(), open(self._path, "rb+") as file:
            _drop_torn_line(file)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The lines from a number on, which counts from 0.

        Raises:
            ConfigError: if one of them is no JSON; the text names it.
        """
        number = log_number_from
        try:
            for self.latest in super().read_logs(log_number_from):
                number += 1
                yield self.latest
        except (ValueError, RecursionError) as error:
            raise self.damaged(number + 1, error) from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends one line for each of `logs`, in one write.

        Raises:
            Unwritable: if the disk is full; nothing of it is there then.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        # Unbuffered: what a full disk did not take must not be written later, when the file is closed.
        with disk.told(self._path), open(self._path, "ab+", buffering=0) as file:
            with self._locked():
                _drop_torn_line(file)
                before = file.seek(0, os.SEEK_END)
                try:
                    _write_all(file, lines.encode())
                except OSError:
                    # What others append must not be appended to half a line.
                    file.truncate(before)
                    raise
            # Without the lock: the others need not wait for the disk.
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(file.fileno())
                self._synced = time.monotonic()

    def damaged(self, number: int, error: Exception) -> ConfigError:
        """What is told of a line, counted from 1, that no sweep wrote."""
        return ConfigError(
            f"hydra.sweeper.storage={self._path} is damaged at line {number:,}: {type(error).__name__}: "
            f"{str(error)[:200]}. What is before that line is whole: head -n {number - 1} {shlex.quote(self._path)} "
            "prints it, and a sweep goes on from a copy of that, named by hydra.sweeper.storage=."
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._kernel_lock.acquire()
        try:
            yield
        finally:
            self._kernel_lock.release()


class Studies(JournalStorage):
    """Optuna's studies in a `Journal`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        super().__init__(journal)

    def _sync_with_backend(self) -> None:
        """Reads what is new.

        Raises:
            ConfigError: if a line makes no sense where it is; the text names it.
        """
        try:
            super()._sync_with_backend()
        except (ConfigError, OSError):
            raise
        except Exception as error:
            latest, state = self._journal.latest, self._replay_result
            # What this very thread wrote is refused for a reason, such as a trial that somebody else finished.
            if isinstance(latest, dict) and latest.get("worker_id") == state.worker_id:
                raise
            raise self._journal.damaged(state.log_number_read, error) from error


def _drop_torn_line(file: BinaryIO) -> None:
    """Drops what is left of a line after a power cut, or of a writer that was killed or had no space left.

    The next line would be appended to it, and both be lost.
    """
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read() != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
