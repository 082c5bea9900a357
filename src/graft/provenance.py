"""Where a result comes from: the commit and the lock of the checkout it was made in."""

from __future__ import annotations

import functools
import hashlib
import subprocess

from graft.paths import CHECKOUT


@functools.cache
def commit() -> str:
    """The checked-out commit, with ``-dirty`` if files differ from it; ``unknown`` outside a git checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        return f"{head}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def lock_sha256() -> str:
    """Digest of requirements.lock, which names every installed version; ``unknown`` where it is not at hand."""
    lock = CHECKOUT / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(CHECKOUT), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()
