"""What the doctor's tests share: the command as it is typed, its answer as plain data, and a record to damage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import run_command
from typer.testing import CliRunner

from graft import cli
from graft.config import TrackingConfig
from graft.tracking.mlflow_store import Store, open_store


@dataclass(frozen=True)
class Finding:
    name: str
    status: str
    text: str
    remedy: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What `graft doctor --json` answered."""

    exit_status: int
    findings: tuple[Finding, ...]

    def only(self, name: str) -> Finding:
        (finding,) = self.all(name)
        return finding

    def all(self, name: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.name == name]

    @property
    def problems(self) -> list[str]:
        return [finding.name for finding in self.findings if finding.status == "problem"]


def diagnosis(output: str, exit_status: int) -> Diagnosis:
    return Diagnosis(exit_status, tuple(Finding(**check) for check in json.loads(output)))


Doctor = Callable[..., Diagnosis]


@pytest.fixture
def doctor(home: Path) -> Doctor:
    """`graft doctor --json …` in this process."""

    def run(*options: str) -> Diagnosis:
        result = CliRunner().invoke(cli.app, ["doctor", "--json", *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return diagnosis(result.stdout, result.exit_code)

    return run


@pytest.fixture
def follow(home: Path) -> Callable[[str | None], None]:
    """Does what a remedy says, as a user would in a shell."""

    def run(remedy: str | None) -> None:
        assert remedy is not None
        done = run_command(["bash", "-c", remedy], home)
        assert done.returncode == 0, done.stderr

    return run


def tracking_in(home: Path) -> TrackingConfig:
    records = home / "mlruns"
    return TrackingConfig(
        uri=f"sqlite:///{records}/mlflow.db", artifacts=str(records / "artifacts"), experiment="graft"
    )


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow makes it, which takes it seconds."""
    home = tmp_path_factory.mktemp("database")
    open_store(tracking_in(home))
    return home / "mlruns" / "mlflow.db"


@pytest.fixture
def database(home: Path, new_database: Path) -> Path:
    (home / "mlruns").mkdir()
    return Path(shutil.copy(new_database, home / "mlruns" / "mlflow.db"))


@pytest.fixture
def store(database: Path, home: Path) -> Store:
    return open_store(tracking_in(home))


def run_python(program: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, **settings
    )
