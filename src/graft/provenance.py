"""Where a result comes from: the code, its lock, the versions and the process that made it."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
from importlib import metadata
from typing import Any

from graft.paths import CHECKOUT
from graft.sweep import liveness

CODE = ("src", "conf", "experiments", "train.py", "pyproject.toml", "requirements.lock", "requirements-gpu.lock")
"""What decides a result, of all that lies in the checkout."""


def versions() -> dict[str, str]:
    """Of the code and what runs it: `commit`, `lock_sha256`, `python`, `tensorflow`, and of a patch if it is dirty."""
    patch = uncommitted()
    return {
        "commit": commit(),
        **({"uncommitted_sha256": hashlib.sha256(patch).hexdigest()} if patch else {}),
        "lock_sha256": lock_sha256(),
        "python": platform.python_version(),
        "tensorflow": _version("tensorflow"),
    }


def process() -> dict[str, Any]:
    """Which process this is, so that others can tell whether it still lives: `host`, `pid` and `started`."""
    here = liveness.here(left=False)
    return {key: here[key] for key in ("host", "pid", "started")}


@functools.cache
def commit() -> str:
    """The checked-out commit, with ``-dirty`` if there is code that is in no commit; ``unknown`` without git."""
    try:
        head = _git("rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if uncommitted() else head


@functools.cache
def uncommitted() -> bytes:
    """The code that is in no commit, as a patch for `git apply`: what was changed, and files that git does not know.

    Empty if there is none, and outside a git checkout.
    """
    try:
        patch = _git("diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--", *CODE)
        unknown = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE).split(b"\0")
        # It exits with 1, for the two files differ.
        added = [_git("diff", "--no-index", "--binary", "--", "/dev/null", name, failing=1) for name in unknown if name]
    except (OSError, subprocess.CalledProcessError):
        return b""
    return patch + b"".join(added)


@functools.cache
def lock_sha256() -> str:
    """Digest of requirements.lock, which names every installed version; ``unknown`` where it is not at hand."""
    lock = CHECKOUT / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _git(*arguments: str | bytes, failing: int = 0) -> bytes:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode not in (0, failing):
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout
