"""Messages between two processes that share nothing but a folder, as on the nodes of a Slurm cluster.

A file for each direction is made beforehand, and whoever writes to it only ever appends lines of JSON. It is opened
anew for every look: on network file systems an open file shows what was there when it was opened, and the listing of
a folder may be half a minute old.

What a node is sent holds pickles, and whoever can write them runs code as this user. So nothing is read from, or posted
to, a file that somebody else owns or may write to, and links are not followed.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import pwd
import shlex
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graft.sweep.liveness import here

TO_WORKER, FROM_WORKER = "to_worker", "from_worker"

SHORTEST_WAIT, LONGEST_WAIT = 0.02, 0.5
"""Seconds between two looks: more with each that found nothing, for hundreds of slots may share one file server."""

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotOurs(PermissionError):
    """Somebody else could have put there what is about to be read."""


def make_private(folder: Path) -> None:
    """Makes `folder` one that only this user can look into, or makes sure that nobody else can put anything there.

    Raises:
        NotOurs: if it is there, and another user owns it or may write to it, or may replace it by another one.
        OSError: if it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _refuse_others(os.stat(folder), folder)
    # Who owns a folder, or may write to it, may rename what lies in it; only root and the owner may where its sticky
    # bit is set, as that of /tmp.
    for above in _way_to(folder):
        found = above.lstat()
        elsewhere = "choose another hydra.launcher.folder"
        if found.st_uid not in (0, os.geteuid()):
            raise NotOurs(
                f"{above} belongs to another user (uid {found.st_uid}), who may so replace {folder}, which code is "
                f"read from; {elsewhere}"
            )
        if stat.S_ISLNK(found.st_mode) or found.st_mode & stat.S_ISVTX:
            continue
        if found.st_mode & stat.S_IWOTH:
            who, close = "everybody", "o-w"
        elif found.st_mode & stat.S_IWGRP and not _is_ours_alone(found.st_gid):
            who, close = f"the group {_named(found.st_gid)}", "g-w"
        else:
            continue
        raise NotOurs(
            f"{who} may write to {above}, and so replace {folder}, which code is read from. Close it with "
            f"chmod {close} {shlex.quote(str(above))}, or {elsewhere}"
        )


def mailbox_prefix(controller: Mapping[str, Any]) -> str:
    """What the names of mailboxes begin with that the controller made which showed itself as `controller`."""
    return f"mailbox-{controller['pid']}-{str(controller['started']).split()[-1]}-"


def make_mailbox(folder: Path) -> Path:
    """Makes a mailbox in `folder` that nobody but this user can look into."""
    box = Path(tempfile.mkdtemp(prefix=mailbox_prefix(here(left=False)), dir=folder))
    for name in (TO_WORKER, FROM_WORKER):
        os.close(os.open(box / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return box


def post(file: Path, message: Mapping[str, Any]) -> None:
    """Appends a message.

    Raises:
        FileNotFoundError: if the mailbox was removed.
        NotOurs: if the file is not ours alone.
    """
    # In one write, so that messages of several threads do not mix. The first newline ends what a writer
    # that was killed may have left unfinished.
    line = b"\n" + json.dumps(message).encode() + b"\n"
    descriptor = _opened(file, os.O_WRONLY | os.O_APPEND)
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
            FileNotFoundError: if the mailbox was removed.
            NotOurs: if the file is not ours alone.
        """
        with open(_opened(self._file, os.O_RDONLY), "rb") as file:
            file.seek(self._read)
            arrived = file.read()
        self._read += len(arrived)
        *whole, self._partial = (self._partial + arrived).split(b"\n")
        messages = []
        for line in whole:
            # A line that its writer did not live to finish tells nothing.
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(message := json.loads(line or b"null"), dict) and "kind" in message:
                    messages.append(message)
        return messages

    def wait(self, patience: float) -> list[dict[str, Any]]:
        """The same, but looks again until something is there or `patience` seconds have passed.

        Raises:
            FileNotFoundError: if the mailbox was removed.
            NotOurs: if the file is not ours alone.
        """
        deadline = time.monotonic() + patience
        while not (arrived := self.look()) and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(self._wait, left))
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        if arrived:
            self._wait = SHORTEST_WAIT
        return arrived


def _opened(file: Path, flags: int) -> int:
    try:
        descriptor = os.open(file, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotOurs(f"{file} is a link, and messages are in files") from error
        raise
    try:
        _refuse_others(os.fstat(descriptor), file)
    except NotOurs:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_others(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid():
        raise NotOurs(f"{path} belongs to another user (uid {found.st_uid}), and code is read from it")
    if found.st_mode & OTHERS_WRITE:
        raise NotOurs(
            f"others may write to {path} (mode {stat.S_IMODE(found.st_mode):o}), and code is read from it. Close it "
            f"with chmod go-w {shlex.quote(str(path))}"
        )


def _way_to(folder: Path) -> Iterator[Path]:
    """The folders and links that the system goes through to `folder`, which is there."""
    place, parts = Path("/"), list(reversed(folder.absolute().parts[1:]))
    yield place
    while parts:
        place = Path(os.path.normpath(place / parts.pop()))  # so far without links: .. is what lies above
        if place.is_symlink():
            yield place
            target = place.readlink()
            place = Path("/") if target.is_absolute() else place.parent
            parts += reversed([part for part in target.parts if part != "/"])
        elif parts:
            yield place


def _is_ours_alone(group: int) -> bool:
    """Whether `group` is the one that many systems give each user for himself."""
    try:
        user, members = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return (
        group == user.pw_gid
        and members.gr_name == user.pw_name  # "users" is the first group of all, and need not list one of them
        and set(members.gr_mem) <= {user.pw_name}
        and all(other.pw_uid == user.pw_uid for other in pwd.getpwall() if other.pw_gid == group)
    )


def _named(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)
