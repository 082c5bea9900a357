"""What the machine offers: CPUs, GPUs, free disk, and folders that can be written to."""

from __future__ import annotations

import errno
import getpass
import os
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from graft import paths
from graft.cache import manage
from graft.cache.sizes import size_in_words
from graft.cpus import cpu_model, usable_cpus
from graft.doctor.installation import cuda_packages, install_command, installed_versions
from graft.doctor.report import Check, listed
from graft.provenance import GPU_LOCK
from graft.sweep.devices import VISIBLE, installed_gpus, nvml_trouble, visible_gpus

ENOUGH_BYTES = 5 * 10**9
LEAST_BYTES = 10**9


def check_machine() -> Iterator[Check]:
    """CPUs, GPUs, disk and folders."""
    yield Check("cpu", "ok", f"{cpu_model()}, {usable_cpus()} CPUs usable")
    yield from _gpus()
    yield from _disks()
    yield from _writable()


def _gpus() -> Iterator[Check]:
    if trouble := nvml_trouble():
        text = f"NVIDIA's driver is installed and does not work: {trouble}; runs use the CPU"
        yield Check("gpu", "problem", text, "nvidia-smi, and restart the machine if it fails, too")
        return
    gpus = installed_gpus()
    given = os.environ.get(VISIBLE)
    if not gpus:
        if visible_gpus():
            text = f"{VISIBLE}={given}, but NVML finds no GPU: runs use the CPU"
            yield Check("gpu", "note", text, f"unset {VISIBLE}")
        else:
            yield Check("gpu", "ok", "none: NVML finds none, runs use the CPU")
        return
    told = ", ".join(f"{count} × {name}" for name, count in Counter(gpus).items())
    if not visible_gpus():
        yield Check("gpu", "note", f"{told}, all hidden by {VISIBLE}={given}: runs use the CPU", f"unset {VISIBLE}")
        return
    yield Check("gpu", "ok", told + ("" if given is None else f", of which {VISIBLE} shows {given}"))
    installed = installed_versions()
    wanted = cuda_packages()
    missing = [name for name in wanted if name not in installed]
    if missing:
        text = (
            f"{len(missing)} of the {len(wanted)} packages that TensorFlow needs for GPUs are not installed: "
            f"{listed(missing, most=3)}; without them it trains on the CPU"
        )
        yield Check("cuda", "problem", text, install_command(GPU_LOCK))
    else:
        yield Check("cuda", "ok", f"all {len(wanted)} packages that TensorFlow needs for GPUs are installed")


def _disks() -> Iterator[Check]:
    records, cache = paths.records(), paths.cache()
    prune = "graft cache prune --max-size 0"
    if cache.is_relative_to(records):
        yield _disk(records, f"{prune}, or GRAFT_HOME=/larger/disk for new records")
    else:
        yield _disk(records, "GRAFT_HOME=/larger/disk for new records")
        yield _disk(cache, f"{prune}, or GRAFT_CACHE=/larger/disk")


def _disk(folder: Path, remedy: str) -> Check:
    folder = _there(folder)
    free = shutil.disk_usage(folder).free
    text = f"{size_in_words(free)} free where {folder} lies"
    if free >= ENOUGH_BYTES:
        return Check("disk", "ok", text)
    if free >= LEAST_BYTES:
        return Check("disk", "note", f"{text}; a sweep over photos may need more than that", remedy)
    return Check("disk", "problem", f"{text}; less than {size_in_words(LEAST_BYTES)} is soon full", remedy)


def _writable() -> Iterator[Check]:
    records, cache = paths.records(), paths.cache()
    temporary = Path(tempfile.gettempdir())
    below = {records: [records / name for name in ("artifacts", "runs", "sweeps")]}
    of_cache = [cache / kind for kind in manage.KINDS]
    if cache.is_relative_to(records):
        below[records] += [cache, *of_cache]
    else:
        below[cache] = of_cache
    problems, told = [], []
    for root, named in below.items():
        folders = _folders(root, named)
        problems += [problem for folder in folders if (problem := _problem_in(folder))]
        told.append(
            f"{root} and {len(folders) - 1} folders in it"
            if root.is_dir()
            else f"{folders[0]}, where {root.name} will be made"
        )
    if problem := _problem_in(temporary):
        problems.append(problem)
    for file in (records / "mlflow.db", records / "optuna.journal"):
        if file.is_file() and (reason := _refusal(lambda file=file: file.open("r+b").close())):  # type: ignore[misc]
            problems.append(Check("writable", "problem", f"{file} cannot be written: {reason.strerror}", _permit(file)))
    yield from problems
    if not problems:
        yield Check("writable", "ok", "; ".join([*told, str(temporary)]))


def _folders(root: Path, below: list[Path]) -> list[Path]:
    """`root` and what Graft writes in below it, as far as it exists; files in the place of folders, too."""
    if not os.path.lexists(root):
        return [_there(root)]
    return [root, *(path for path in below if os.path.lexists(path) and root.is_dir() and path.parent.is_dir())]


def _problem_in(folder: Path) -> Check | None:
    if not folder.is_dir():
        text = f"{folder} is in the place of a folder, and is none"
        return Check("writable", "problem", text, shlex.join(["mv", str(folder), f"{folder}.aside"]))

    def write() -> None:
        with tempfile.NamedTemporaryFile(prefix=".graft-doctor-", dir=folder) as file:
            file.write(b"written to see whether it can be")
            file.flush()

    reason = _refusal(write)
    if reason is None:
        return None
    text = f"{folder} cannot be written to: {reason.strerror}"
    if reason.errno in (errno.EACCES, errno.EPERM):
        return Check("writable", "problem", text, _permit(folder))
    if reason.errno in (errno.ENOSPC, errno.EDQUOT):
        return Check("writable", "problem", text, "graft cache prune --max-size 0")
    variable = "TMPDIR" if folder == Path(tempfile.gettempdir()) else _variable_of(folder)
    return Check("writable", "problem", text, f"export {variable}=/a/folder/that/can/be/written")


def _variable_of(folder: Path) -> str:
    """The one that moves `folder`: a cache that is not there yet is asked for above where it will be."""
    records, cache = paths.records(), paths.cache()
    if cache.is_relative_to(records) or folder.is_relative_to(records) or folder == _there(records):
        return "GRAFT_HOME"
    return "GRAFT_CACHE"


def _refusal(write: Callable[[], None]) -> OSError | None:
    try:
        write()
    except OSError as error:
        return error
    return None


def _permit(path: Path) -> str:
    if path.stat().st_uid == os.geteuid():
        return shlex.join(["chmod", "-R", "u+rwX", str(path)])
    return shlex.join(["sudo", "chown", "-R", getpass.getuser(), str(path)])


def _there(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
