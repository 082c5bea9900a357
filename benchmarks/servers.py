"""Servers that a benchmark needs for a while: PostgreSQL as it is installed, and `mlflow server` in front of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

from graft.cluster.postgresql import program_folders

START_SECONDS = 120


@contextlib.contextmanager
def postgres() -> Iterator[tuple[str, psutil.Process]]:
    """The URL of a database, and its server.

    With the settings that `initdb` leaves, so every commit is on the disk; but for `max_connections`, there 100.
    """
    # A folder of its own in /tmp: the path of its socket must be short, and whoever runs it must get there.
    with tempfile.TemporaryDirectory(prefix="graft-postgres-") as name:
        yield from _postgres(Path(name))


def _postgres(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    programs = next(program_folders())  # who calls this has looked
    # A server refuses to run as root.
    as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    folder.chmod(0o777)
    data = folder / "data"
    making = [*as_user, str(programs / "initdb"), "-D", str(data), "-U", "graft", "-A", "trust"]
    subprocess.run(making, check=True, stdout=subprocess.DEVNULL)
    command = [*as_user, str(programs / "postgres"), "-D", str(data)]
    for setting in ("listen_addresses=", f"unix_socket_directories={folder}", "max_connections=400"):
        command += ["-c", setting]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        while not _takes_connections(folder):
            if server.poll() is not None:
                sys.exit(f"PostgreSQL did not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.1)
        yield f"postgresql+psycopg://graft@/postgres?host={folder}", psutil.Process(server.pid)
    finally:
        server.send_signal(signal.SIGINT)  # its fast shutdown; SIGTERM waits for clients
        server.wait(START_SECONDS)


@contextlib.contextmanager
def mlflow_server(folder: Path, database: str) -> Iterator[tuple[str, psutil.Process]]:
    """The address of `mlflow server` over `database`, which hands out artifacts too, and its process."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", database, "--serve-artifacts", "--artifacts-destination", str(folder / "kept")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
        while not _answers(uri):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"mlflow server did not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.2)
        process = psutil.Process(server.pid)
        while _is_busy(process):  # it answers as soon as the first of its workers has started
            pass
        yield uri, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # its workers too
        server.wait(START_SECONDS)


def connections(server: psutil.Process | None) -> int:
    """Connections of clients that a PostgreSQL server has at the moment."""
    found = 0
    for process in [] if server is None else server.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += "postgres: graft " in " ".join(process.cmdline())
    return found


def cpu_seconds(server: psutil.Process | None) -> float:
    """What a server and all that it started have used so far; of those that ended what their parent was told."""
    used = 0.0
    for process in [] if server is None else [server, *server.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            used += sum(process.cpu_times()[:4])
    return used


def _takes_connections(folder: Path) -> bool:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(f"host={folder} user=graft dbname=postgres"):
        return True
    return False


def _is_busy(server: psutil.Process) -> bool:
    before = cpu_seconds(server)
    time.sleep(1)
    return cpu_seconds(server) - before > 0.1


def _answers(uri: str) -> bool:
    try:
        urllib.request.urlopen(f"{uri}/health", timeout=5).close()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True
