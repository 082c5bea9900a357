"""File locks below `mlruns` that processes of this machine hold. A lock that is held is no problem in itself.

The system frees a lock when its holder ends, so what is held has a holder that lives; a `.lock` file that lies around
means nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from graft import paths
from graft.doctor.report import Check, listed

PROCESSES = Path("/proc")


def check_locks() -> Check:
    """Which locks are held, and by which process."""
    if not (PROCESSES / "self" / "fdinfo").is_dir():
        return Check("locks", "note", "this system does not say which file locks are held")
    held = [
        f"{path.relative_to(paths.records())} by process {pid} ({_name(pid)})" for path, pid in _held(paths.records())
    ]
    if not held:
        return Check("locks", "ok", "no process that can be seen from here holds one in mlruns")
    text = f"{len(held)} held, which is as it should be while something runs: {listed(held)}"
    return Check("locks", "ok", text)


def _held(folder: Path) -> list[tuple[Path, int]]:
    """The locked files and folders below `folder`, each with a process that holds it.

    From the open files of every process, as `/proc/locks` names inodes only, whose devices differ from what `stat`
    says on some file systems.
    """
    held = set()
    for process in PROCESSES.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    path = descriptor.readlink()
                    if path.is_relative_to(folder) and _locked(process / "fdinfo" / descriptor.name):
                        held.add((path, int(process.name)))
    return sorted(held)


def _locked(information: Path) -> bool:
    return any(
        line.startswith("lock:") and "FLOCK" in line for line in information.read_text(encoding="utf-8").splitlines()
    )


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "ended meanwhile"
