"""Where a result comes from: the code, its lock, the versions and the process that made it."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.version import Version

from graft.paths import CHECKOUT
from graft.sweep import liveness

LOCK, GPU_LOCK, ESTIMATOR_LOCK = "requirements.lock", "requirements-gpu.lock", "requirements-estimator.lock"

CODE = ("src", "conf", "experiments", "train.py", "pyproject.toml", LOCK, GPU_LOCK, ESTIMATOR_LOCK)
"""What decides a result, of all that lies in the checkout."""

# Whatever the user's settings make of `git diff`.
AS_PATCH = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")


def versions() -> dict[str, str]:
    """Of the code and what runs it.

    Returns:
        `commit`, `lock_sha256`, `python`, `tensorflow` and `platform`; `uncommitted_sha256` if there is code that is in
        no commit.
    """
    patch = uncommitted()
    return {
        "commit": commit(),
        **({"uncommitted_sha256": hashlib.sha256(patch).hexdigest()} if patch else {}),
        "lock_sha256": lock_sha256(),
        "python": platform.python_version(),
        "tensorflow": version_of("tensorflow"),
        "platform": platform.platform(),
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
        patch = _git("diff", *AS_PATCH, "HEAD", "--", *CODE)
        unknown = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE).split(b"\0")
        added = [_as_new(file) for name in unknown if name for file in _files(os.fsdecode(name))]
    except (OSError, subprocess.CalledProcessError):
        return b""
    return patch + b"".join(added)


def _files(name: str) -> Iterator[str]:
    """`name`; of a folder, which git gives where it is a link or a repository of its own, all that is in it."""
    if not (CHECKOUT / name).is_dir():
        yield name
        return
    for folder, folders, files in os.walk(CHECKOUT / name):
        folders[:] = sorted(set(folders) - {".git"})
        yield from (str((Path(folder) / file).relative_to(CHECKOUT)) for file in sorted(files))


def _as_new(name: str) -> bytes:
    """A file that git does not know, as a patch that adds it; or that it could not be read, so that it still counts."""
    try:
        # It exits with 1, for the two files differ; without a word of how, where it cannot read one.
        added = _git("diff", "--no-index", *AS_PATCH, "--", "/dev/null", name, failing=1)
    except subprocess.CalledProcessError:
        added = b""
    return added or f"# {name} is in no commit, and could not be read\n".encode()


@functools.cache
def lock_sha256() -> str:
    """Digest of the lock that names every installed version; ``unknown`` where it is not at hand."""
    lock = CHECKOUT / (ESTIMATOR_LOCK if has_estimator() else LOCK)
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "unknown"


def has_estimator() -> bool:
    """Whether this environment's TensorFlow still has `tf.estimator`, which was removed after 2.15."""
    version = version_of("tensorflow")
    return version != "unknown" and Version(version).release < (2, 16)


def version_of(package: str) -> str:
    """Of an installed package, without importing it; ``unknown`` if it is not installed."""
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
