"""What must hold of the repository itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from graft.paths import CHECKOUT


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    return [CHECKOUT / name for name in names.split("\0") if name]


def test_locks_hold_versions_and_hashes_and_no_address() -> None:
    for lock in CHECKOUT.glob("requirements*.lock"):
        text = lock.read_text()
        assert "://" not in text, lock.name
        assert "--index" not in text
        assert "--find-links" not in text
        requirements = re.split(r"\n(?=\S)", text.strip())
        assert len(requirements) > 100
        for requirement in requirements:
            assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", requirement), requirement
            assert "--hash=sha256:" in requirement


def test_the_lock_satisfies_what_the_project_asks_for() -> None:
    import tomllib

    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    locked = {
        re.match(r"[\w.-]+", line).group().lower()
        for line in (CHECKOUT / "requirements.lock").read_text().splitlines()
        if "==" in line
    }  # type: ignore[union-attr]
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        assert name.group().lower().replace("_", "-") in {entry.replace("_", "-") for entry in locked}


def test_neither_photos_nor_records_are_tracked() -> None:
    names = [str(path.relative_to(CHECKOUT)) for path in tracked()]
    assert [name for name in names if name.startswith("mlruns/")] == ["mlruns/README.md"]
    assert not [name for name in names if name.lower().endswith((".jpg", ".jpeg"))]
    assert "uv.lock" not in names


@pytest.mark.parametrize("group", ["backbone", "dataset", "features", "head", "loop", "optimizer", "tracking", "size"])
def test_every_option_says_what_it_is(group: str) -> None:
    for file in (CHECKOUT / "conf" / group).glob("*.yaml"):
        comments = [line for line in file.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
        assert comments, file.name
        assert "TODO" not in file.read_text(), file.name


def test_experiments_are_a_config_group_and_trainable_is_none() -> None:
    assert (CHECKOUT / "conf" / "experiments").resolve() == CHECKOUT / "experiments"
    assert not (CHECKOUT / "conf" / "trainable").exists()


def test_the_sweep_engine_can_be_imported_without_anything_heavy() -> None:
    import sys

    program = (
        "import sys, graft.trial, graft.sweep, hydra_plugins.graft.sweeper, hydra_plugins.graft.launcher\n"
        "import graft.sweep.ray_cluster\n"
        "print([m for m in ('tensorflow', 'mlflow', 'optuna', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
