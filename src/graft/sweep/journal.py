"""Optuna's journal file, with a lock that dies with its holder and without a disk flush for every line."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from graft import disk

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
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._kernel_lock = KernelLock(path)
        self._synced = 0.0
        super().__init__(path, lock_obj=self._kernel_lock)
        self._drop_torn_line()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends one line for each of `logs`, in one write.

        Raises:
            Unwritable: if the disk is full; nothing of it is there then.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        # Unbuffered: what a full disk did not take must not be written later, when the file is closed.
        with disk.told(self._path), open(self._path, "ab", buffering=0) as file:
            with self._locked():
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

    def _drop_torn_line(self) -> None:
        """Drops what a power cut left of a line: the next one would be appended to it, and both be lost."""
        with self._locked(), open(self._path, "rb+") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._kernel_lock.acquire()
        try:
            yield
        finally:
            self._kernel_lock.release()
