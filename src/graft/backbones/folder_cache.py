"""Folders that are made once, are whole or not there at all, and are checked before they are used."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from graft.backbones.saved_model import content_digest
from graft.cache import marks

log = logging.getLogger(__name__)

# Written last. It holds the digest of the SavedModel, or converted file, beside it, so a folder that lost
# a file, a byte or its end is found out. (Lite0's 14 MB take 10 ms to check, and two seconds to load.)
MANIFEST = "graft.json"
SILENT_WAIT = 2.0  # seconds that one process waits for another before it says so


def ensure(folder: Path, build: Callable[[Path], None], digest: Callable[[Path], str] = content_digest) -> None:
    """Makes sure that `folder` holds a whole SavedModel, or what else it is for: with `build`, unless it already does.

    Args:
        folder: Appears in one step when it is whole. One that is damaged is said aloud and replaced.
        build: Writes the SavedModel into the empty folder that it is given. Of all processes that need
            `folder` at once, one calls it and the others wait.
        digest: Of what the folder is for, in hexadecimal; raises OSError where something is missing.

    Raises:
        OSError: if the folder cannot be written.
        Exception: whatever `build` raises; nothing is left of its work then.
    """
    # It is read by its path later, so it has to stay while this process lives.
    if marks.hold(folder) and is_whole(folder, digest):
        marks.touch(folder)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The system frees the lock of a process that dies.
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=SILENT_WAIT)
    except Timeout:
        log.info("Waiting for another process, which makes or downloads %s", folder.name)
        lock.acquire()
    try:
        if marks.hold(folder) and is_whole(folder, digest):
            return
        # One name is enough, because only the holder of the lock writes under it. What lies there
        # was left by a process that was killed.
        unfinished = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            build(unfinished)
            manifest = {"sha256": digest(unfinished)}
            (unfinished / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
            if folder.exists():
                log.warning("%s is damaged and is replaced", folder)
                shutil.rmtree(folder)
            os.replace(unfinished, folder)
            marks.hold(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    finally:
        lock.release()


def digest_of(folder: Path) -> str:
    """The digest of what `ensure` put into `folder`, as it was checked then.

    Raises:
        OSError: if there is no such folder.
    """
    return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"])


def is_whole(folder: Path, digest: Callable[[Path], str] = content_digest) -> bool:
    """Whether `folder` holds what was once written into it, to the last byte."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest == {"sha256": digest(folder)})
    except (OSError, ValueError):
        return False
