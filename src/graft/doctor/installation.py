"""What is installed: Python, the packages, whether they are those of the lock, and the checkout itself.

Package metadata says it all; nothing is imported for it.
"""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from graft import provenance
from graft.doctor.report import Check, listed
from graft.paths import CHECKOUT
from graft.provenance import ESTIMATOR_LOCK, GPU_LOCK, LOCK

SHOWN = ("tensorflow", "tf_keras", "tensorflow-hub", "mlflow", "optuna", "hydra-core", "numpy")
NEEDED = ("train.py", "conf/config.yaml", "conf/experiments", "pyproject.toml", LOCK)


@dataclass(frozen=True)
class Locked:
    """A line of a lock that holds on this machine."""

    name: str
    version: str


def check_installation() -> Iterator[Check]:
    """Python, packages, lock and checkout."""
    installed = installed_versions()
    yield _python()
    yield _packages(installed)
    yield _lock(installed)
    yield _files()
    yield _commit()


def installed_versions() -> dict[str, str]:
    """The version of every installed package, by its normalised name."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        # Not its `metadata`, which reads the description, too: seven milliseconds a package.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        headers = dict(re.findall(r"^(Name|Version):\s*(\S+)", text.partition("\n\n")[0], re.MULTILINE))
        if len(headers) == 2:  # a half-removed one has none
            # The first on the path is the one that is imported.
            versions.setdefault(canonicalize_name(headers["Name"]), headers["Version"])
    return versions


def cuda_packages() -> tuple[str, ...]:
    """What `tensorflow[and-cuda]` asks for beside TensorFlow itself; nothing if there is no TensorFlow."""
    try:
        asked = metadata.requires("tensorflow") or []
    except metadata.PackageNotFoundError:
        return ()
    extra = re.compile(r"extra\s*==\s*['\"]and-cuda['\"]")
    return tuple(canonicalize_name(Requirement(line).name) for line in asked if extra.search(line))


def install_command(lock: str = LOCK) -> str:
    """Installs what the lock says into the environment that runs this."""
    if Path(sys.prefix).resolve() == (CHECKOUT / ".venv").resolve():
        return "make -B setup" + (" GPU=1" if lock == GPU_LOCK else "")
    return shlex.join([sys.executable, "-m", "pip", "install", "--require-hashes", "-r", str(CHECKOUT / lock)])


def locked_here(text: str) -> list[Locked]:
    """The packages of a lock that belong on this machine.

    Raises:
        ValueError: for a line that cannot be understood.
    """
    lines = [line.strip().removesuffix("\\").strip() for line in text.splitlines()]
    found = []
    for line in lines:
        if not line or line.startswith(("#", "--hash=")):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            requirement = None
        versions = (
            [] if requirement is None else [part.version for part in requirement.specifier if part.operator == "=="]
        )
        if requirement is None or len(versions) != 1:
            raise ValueError(f"{line!r} is no line of a lock")
        if requirement.marker is None or requirement.marker.evaluate():
            found.append(Locked(canonicalize_name(requirement.name), versions[0]))
    return found


def _python() -> Check:
    here = f"{platform.python_version()} in {sys.prefix}"
    try:
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = str(project["requires-python"])
        within = platform.python_version() in SpecifierSet(wanted)
    except (OSError, ValueError, KeyError) as error:  # an invalid specifier is a ValueError
        return Check("python", "note", f"{here}; what Graft needs cannot be read from pyproject.toml: {error}")
    if within:
        return Check("python", "ok", f"{here}, within {wanted}")
    return Check("python", "problem", f"{here}; Graft needs {wanted}", "make -B setup PYTHON=python3.12")


def _packages(installed: dict[str, str]) -> Check:
    told = [f"{name} {installed.get(canonicalize_name(name), 'missing')}" for name in SHOWN]
    missing = [name for name in SHOWN if canonicalize_name(name) not in installed]
    if missing:
        return Check("packages", "problem", ", ".join(told), install_command())
    return Check("packages", "ok", ", ".join(told))


def _lock(installed: dict[str, str]) -> Check:
    lock = GPU_LOCK if any(name in installed for name in cuda_packages()) else LOCK
    if provenance.has_estimator():
        lock = ESTIMATOR_LOCK
    try:
        locked = locked_here((CHECKOUT / lock).read_text(encoding="utf-8"))
    except OSError as error:
        return Check("lock", "problem", f"{lock} cannot be read: {error.strerror}", _restore(lock))
    except ValueError as error:
        return Check("lock", "problem", f"{lock} is damaged: {error}", _restore(lock))
    missing = [package.name for package in locked if package.name not in installed]
    others = [
        f"{package.name} {installed[package.name]} in place of {package.version}"
        for package in locked
        if installed.get(package.name, package.version) != package.version
    ]
    if not missing and not others:
        return Check("lock", "ok", f"all {len(locked)} packages are those of {lock}")
    told = [*others, *(f"{name} missing" for name in missing)]
    text = f"{len(told)} of {len(locked)} packages are not those of {lock}: {listed(told, most=8)}"
    return Check("lock", "problem", text, install_command(lock))


def _files() -> Check:
    missing = [name for name in NEEDED if not (CHECKOUT / name).exists()]
    if not missing:
        return Check("checkout", "ok", str(CHECKOUT))
    return Check("checkout", "problem", f"{CHECKOUT} lacks {', '.join(missing)}", _restore(*missing))


def _restore(*names: str) -> str:
    if (CHECKOUT / ".git").exists():
        return shlex.join(["git", "-C", str(CHECKOUT), "checkout", "HEAD", "--", *names])
    return f"copy {' and '.join(names)} from another checkout of Graft into {CHECKOUT}"


def _commit() -> Check:
    found = provenance.commit()
    if found.endswith("-dirty"):
        return Check("commit", "ok", f"{found.removesuffix('-dirty')}, with changes that are not committed")
    if found != "unknown":
        return Check("commit", "ok", found)
    unknown = "runs record their commit as unknown"
    if not (CHECKOUT / ".git").exists():
        return Check("commit", "note", f"{CHECKOUT} is no git checkout; {unknown}")
    command = ["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run([*command], capture_output=True, encoding="utf-8", errors="replace", check=False)
    except OSError as error:
        return Check("commit", "note", f"git cannot be run: {error.strerror}; {unknown}")
    reason = (done.stderr.strip().splitlines() or ["git status fails"])[0]
    return Check("commit", "note", f"git cannot read this checkout: {reason}; {unknown}", shlex.join(command))
