"""What the tests of the record share: MLflow's tables, made once, and a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tracking.mlflow_server import MlflowServer

from graft.config import TrackingConfig
from graft.tracking.mlflow_store import open_store


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing in them: to make them takes seconds."""
    folder = tmp_path_factory.mktemp("migrated")
    open_store(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder), experiment="other"))
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def server_process(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"), migrated)
    yield server
    server.kill()


@pytest.fixture
def server(server_process: MlflowServer) -> MlflowServer:
    """A server that runs, whatever a test before did to it."""
    if not server_process.running:
        server_process.start()
    return server_process
