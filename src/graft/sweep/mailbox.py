"""Messages between two processes that share nothing but a folder, as on the nodes of a Slurm cluster.

A file for each direction is made beforehand, and whoever writes to it only ever appends lines of JSON. It is opened
anew for every look: on network file systems an open file shows what was there when it was opened, and the listing of
a folder may be half a minute old.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TO_WORKER, FROM_WORKER = "to_worker", "from_worker"

SHORTEST_WAIT, LONGEST_WAIT = 0.02, 0.5
"""Seconds between two looks: more with each that found nothing, for hundreds of slots may share one file server."""


def make_mailbox(folder: Path) -> Path:
    """Makes a mailbox in `folder` that nobody but this user can look into."""
    box = Path(tempfile.mkdtemp(prefix="mailbox-", dir=folder))
    for name in (TO_WORKER, FROM_WORKER):
        os.close(os.open(box / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return box


def post(file: Path, message: Mapping[str, Any]) -> None:
    """Appends a message.

    Raises:
        FileNotFoundError: The mailbox was removed.
    """
    # In one write, so that messages of several threads do not mix. The first newline ends what a writer
    # that was killed may have left unfinished.
    line = b"\n" + json.dumps(message).encode() + b"\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    finally:
        os.close(descriptor)


class Inbox:
    """What arrives in one file of a mailbox.

    Args:
        file: Of the mailbox.
        from_now: Skip what is there already.
    """

    def __init__(self, file: Path, *, from_now: bool = False) -> None:
        self._file = file
        self._read = file.stat().st_size if from_now else 0
        self._partial = b""
        self._wait = SHORTEST_WAIT

    def look(self) -> list[dict[str, Any]]:
        """What arrived since the last look.

        Raises:
            FileNotFoundError: The mailbox was removed.
        """
        with self._file.open("rb") as file:
            file.seek(self._read)
            arrived = file.read()
        self._read += len(arrived)
        *whole, self._partial = (self._partial + arrived).split(b"\n")
        messages = []
        for line in whole:
            # A line that its writer did not live to finish tells nothing.
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(message := json.loads(line or b"null"), dict):
                    messages.append(message)
        return messages

    def wait(self, patience: float) -> list[dict[str, Any]]:
        """The same, but looks again until something is there or `patience` seconds have passed.

        Raises:
            FileNotFoundError: The mailbox was removed.
        """
        deadline = time.monotonic() + patience
        while not (arrived := self.look()) and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(self._wait, left))
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        if arrived:
            self._wait = SHORTEST_WAIT
        return arrived
