"""What the faults are injected into: applications that sweep, servers, and disks that are small."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.chaos.training import Curve, curve_of, small
from tests.loop.conftest import shared_home  # noqa: F401
from tests.processes import Training
from tests.sweep.conftest import app, make_app, postgres, steps  # noqa: F401
from tests.tracking.conftest import migrated, server, server_process  # noqa: F401


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path) -> Curve:
    """What a run records that nothing happens to."""
    home = tmp_path_factory.mktemp("whole")
    untouched = Training(small(tiny_backbone, home / "run"), home, home / "output")
    assert untouched.wait() == 0, untouched.errors
    return curve_of(home)


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a size, such as ``8m``, for the time of the test."""
    if os.geteuid() != 0:
        pytest.skip("mounts small disks, which needs root")
    made: list[Path] = []

    def make(size: str) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounts small disks, which this system does not let root do")
        made.append(folder)
        return folder

    try:
        yield make
    finally:
        for folder in made:
            # At once out of sight, and gone with the last process that has something open there.
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
