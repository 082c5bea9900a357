from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.sweep.apps import PLAIN_APP, App, steps_app
from tests.sweep.fake_slurm import FakeSlurm
from tests.sweep.postgres_server import PostgresServer, folder_open_to_postgres
from tests.sweep.ray_nodes import RayNodes, ray_nodes

from graft.cluster.postgresql import program_folders


@pytest.fixture
def make_app(tmp_path: Path) -> Callable[[str], App]:
    """Makes an application from its source."""
    return lambda source: App(tmp_path, source)


@pytest.fixture
def app(make_app: Callable[[str], App]) -> App:
    """An application that knows nothing of Graft, with structured configs in `__main__`."""
    return make_app(PLAIN_APP)


@pytest.fixture
def steps(tmp_path: Path) -> App:
    """An application whose trials count, with checkpoints."""
    return steps_app(tmp_path)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[FakeSlurm]:
    """A pretended Slurm cluster of two nodes."""
    slurm = FakeSlurm(tmp_path / "slurm")
    yield slurm
    slurm.close()


@pytest.fixture(scope="module")
def one_ray_node() -> Iterator[tuple[RayNodes, str]]:
    """A Ray cluster of one node with two CPUs and two pretended GPUs, and its address."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with ray_nodes() as nodes:
        yield nodes, nodes.add(num_cpus=2, num_gpus=2)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; a test that stops it starts it again."""
    pytest.importorskip("psycopg")
    with folder_open_to_postgres("graft-postgres-") as folder:
        server = PostgresServer(folder, next(program_folders()))
        try:
            yield server
        finally:
            server.stop()
