"""A PostgreSQL server of a test's own, which can be stopped and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from graft.cluster.postgresql import program_folders


class PostgresServer:
    """A server in `folder`, on a socket in it. It runs once made.

    A server refuses to run as root, and its socket's path must be short. See `folder_open_to_postgres`.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder = folder
        self._programs = programs
        root = os.geteuid() == 0
        self._as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if root else []
        folder.chmod(0o777)
        subprocess.run(
            [*self._as_user, programs / "initdb", "-D", self._data, "-U", "graft", "-A", "trust"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://graft@/postgres?host={self._folder}"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def start(self) -> None:
        """Returns when the server takes connections."""
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self._folder}", "-c", "fsync=off"]
        with self._log.open("ab") as file:
            self._server = subprocess.Popen(
                [*self._as_user, self._programs / "postgres", "-D", self._data, *options],
                stdout=file,
                stderr=file,
            )
        import psycopg  # not at the top, for the conftest of every sweep's test reads this file

        while self._server.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                self.query("SELECT 1")
                return
            time.sleep(0.05)
        raise AssertionError(f"PostgreSQL did not start:\n{self._log.read_text()[-4000:]}")

    def stop(self, *, immediate: bool = False) -> None:
        """Ends all connections and the server; immediate is as after a crash, with recovery at the next start."""
        if self._server.poll() is not None:
            return
        children = psutil.Process(self._server.pid).children(recursive=True)
        # Its fast shutdown and its immediate one. SIGTERM waits for clients, and this process may be one.
        self._server.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        self._server.wait(60)
        psutil.wait_procs(children, 60)  # while one is left, another server on the same data refuses to start

    def crash(self) -> None:
        """Ends all of the server's processes at once, as a lack of memory or a fault of the machine does."""
        children = psutil.Process(self._server.pid).children(recursive=True)
        for process in (self._server, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._server.wait(60)
        psutil.wait_procs(children, 60)

    def query(self, statement: str) -> None:
        """Carries `statement` out."""
        import psycopg

        with psycopg.connect(host=str(self._folder), user="graft", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)

    def trials(self, study: str) -> list[FrozenTrial]:
        """The trials of a study, read over a connection that is closed again."""
        storage = RDBStorage(self.url)
        try:
            return optuna.load_study(study_name=study, storage=storage).trials
        finally:
            # Left to the garbage collector, open connections are warnings, and so errors in some later test.
            storage.remove_session()
            storage.engine.dispose()


@contextlib.contextmanager
def folder_open_to_postgres(prefix: str) -> Iterator[Path]:
    """A folder that PostgreSQL gets to as another user than root, too.

    Not one of pytest's: whatever pytest starts on the machine meanwhile closes their parent to all but this user.
    """
    if not any(program_folders()):
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)
