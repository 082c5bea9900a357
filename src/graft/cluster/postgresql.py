"""A PostgreSQL server of Graft's own, on 127.0.0.1, with a random password that is in one file and nowhere else."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from graft.cluster.processes import Log, has_ended, wait_until
from graft.errors import ConfigError, FatalError

PACKAGED = Path("/usr/lib/postgresql")
"""Where Debian and its like have the programs, a folder a version, none of them on the search path."""

INSTALL = (
    "PostgreSQL is not installed: neither PATH, nor pg_config, nor {packaged} has initdb and postgres. "
    "Install it (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; "
    "macOS: brew install postgresql), or put the folder of its programs on PATH"
)

ROLE = "graft"
"""Owns both databases and nothing else. The superuser has no password, so nobody logs in as it."""

STUDIES, RECORD = "graft", "mlflow"
"""The databases: of Optuna, of MLflow."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # 64 workers with two pooled connections each, 15 of the sweep itself, and 15 of each of MLflow's few processes make
    # 200; the rest is for a second sweep, and for whoever looks. A connection that is not used costs next to nothing.
    "max_connections": "300",
    "password_encryption": "scram-sha-256",
}
"""What differs from PostgreSQL's own. fsync stays on: a power cut must not lose a sweep."""

STOP_PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class PostgreSQL:
    """The server whose files lie in a folder.

    Attributes:
        folder: Of the cluster; the server's own is `postgres` in it.
        port: Where it listens, or will.
    """

    folder: Path
    port: int

    name = "PostgreSQL"
    variable = "PG_PORT"

    @property
    def data(self) -> Path:
        return self.folder / "postgres"

    @property
    def pgpass(self) -> Path:
        """The file that libpq reads the password from, if `PGPASSFILE` names it."""
        return self.folder / "pgpass"

    @property
    def log(self) -> Log:
        return Log(self.folder / "postgres.log")

    @property
    def where(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, database: str) -> str:
        """As SQLAlchemy takes it, without the password, which libpq reads from `pgpass`."""
        return f"postgresql+psycopg://{ROLE}@{self.where}/{database}"

    def process(self) -> psutil.Process | None:
        """The server, if it runs. What its file says of a number that another process has by now is not believed."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int((self.data / "postmaster.pid").read_text(encoding="utf-8").split()[0]))
            return process if self._works_here(process) else None
        return None

    def check(self) -> None:
        """Refuses what would keep it from starting.

        Raises:
            ConfigError: if the server, or Python's driver for it, is not installed.
        """
        if importlib.util.find_spec("psycopg") is None:
            raise ConfigError("Python's driver for PostgreSQL is not installed: pip install 'graft[postgres]'")
        self._programs()

    def clear_away(self) -> None:
        """Ends what is left of a server that was killed, so that another one can have its files.

        Its processes end by themselves once they notice. The file with its number goes, for PostgreSQL believes that
        whoever has that number by now is the server.
        """
        if not has_ended(self._processes, STOP_PATIENCE_SECONDS):
            numbers = ", ".join(str(process.pid) for process in self._processes())
            raise FatalError(f"Processes of an earlier PostgreSQL do not end: {numbers}. End them: kill -INT {numbers}")
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def start(self) -> None:
        """Starts it, and makes its databases if there are none; waits until it answers."""
        if self.data.exists():
            self._check_reach(self.data)
        else:
            self._initialise()
        self._keep_password()
        command = ["-D", str(self.data), *_options(SETTINGS | {"port": str(self.port)})]
        with self.log.open() as log:
            server = self._popen("postgres", command, self.data, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.answers, server, self)

    def answers(self) -> bool:
        import psycopg

        try:
            # libpq reads the password itself, from the same file as everybody else.
            with psycopg.connect(
                host="127.0.0.1",
                port=self.port,
                user=ROLE,
                dbname=STUDIES,
                passfile=str(self.pgpass),
                connect_timeout=5,
            ):
                return True
        except psycopg.OperationalError:
            return False

    def make_tables(self) -> None:
        """Has Optuna make its tables now: commands that make them at the same time get in each other's way."""
        from graft.sweep.storage import open_storage  # late: Optuna takes a second

        storage: Any = open_storage(f"{self.url(STUDIES)}?passfile={quote(str(self.pgpass))}")
        storage.remove_session()
        storage.engine.dispose()

    def stop(self) -> None:
        """Ends its sessions and writes what it has to write; returns when it is gone."""
        process = self.process()
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)  # its fast shutdown; SIGTERM waits for clients
        if not has_ended(self._processes, STOP_PATIENCE_SECONDS, [process]):
            raise FatalError(f"PostgreSQL, process {process.pid}, does not stop; its log is {self.log.path}")

    def _initialise(self) -> None:
        """Makes the databases under another name first, so that a half made folder is never taken for a whole one."""
        partial = self.data.with_name("postgres.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        account = _account(partial)
        if account:
            os.chown(partial, account["user"], account["group"])
        self._check_reach(partial)
        self.pgpass.unlink(missing_ok=True)  # of other databases
        options = ["--username=postgres", "--encoding=UTF8", "--locale=C", "--data-checksums"]
        options += ["--auth-host=scram-sha-256", "--auth-local=reject", f"--pgdata={partial}"]
        self._finish("initdb", options, partial)
        self._execute(
            partial,
            f"CREATE ROLE {ROLE} LOGIN",
            *(f"CREATE DATABASE {database} OWNER {ROLE}" for database in (STUDIES, RECORD)),
        )
        partial.rename(self.data)

    def _keep_password(self) -> None:
        """Writes the password for this port, and makes one if there is none: at first, or because its file was lost."""
        try:
            password = self.pgpass.read_text(encoding="utf-8").rstrip("\n").rpartition(":")[2]
        except FileNotFoundError:
            password = secrets.token_urlsafe(32)
            self._execute(self.data, f"ALTER ROLE {ROLE} PASSWORD '{password}'")
        partial = self.pgpass.with_name("pgpass.partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f"127.0.0.1:{self.port}:*:{ROLE}:{password}\n")
        partial.replace(self.pgpass)

    def _execute(self, data: Path, *statements: str) -> None:
        """Executes SQL as superuser, from a pipe, while no server runs: there is no other way in as superuser."""
        # A statement that fails would be in the log, and with it the password.
        quiet = {"exit_on_error": "true", "log_statement": "none", "log_min_error_statement": "panic"}
        options = ["--single", "-D", str(data), *_options(SETTINGS | quiet), "postgres"]
        self._finish("postgres", options, data, "".join(f"{statement}\n" for statement in statements))

    def _finish(self, program: str, options: Sequence[str], data: Path, stdin: str = "") -> None:
        with self.log.open() as log:
            running = self._popen(program, options, data, stdin=subprocess.PIPE, stdout=log, stderr=log)
            running.communicate(stdin.encode())
        if running.returncode != 0:
            raise FatalError(f"{program} of PostgreSQL failed with status {running.returncode}. {self.log.end()}")

    def _popen(self, program: str, options: Sequence[str], data: Path, **streams: Any) -> subprocess.Popen[bytes]:
        # Nothing of the environment is its business, least of all what begins with PG; and it runs where it can.
        environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        return subprocess.Popen(
            [str(self._programs() / program), *options],
            cwd="/",
            env=environment | {"LC_ALL": "C"},
            start_new_session=True,
            **_account(data),
            **streams,
        )

    def _programs(self) -> Path:
        """The folder of PostgreSQL's programs, of the version that the databases were made with, if there are some."""
        try:
            made_with = (self.data / "PG_VERSION").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            made_with = None
        found = list(program_folders())
        if not found:
            raise ConfigError(INSTALL.format(packaged=PACKAGED))
        for folder in found:
            if made_with in (None, _major_version(folder)):
                return folder
        raise ConfigError(
            f"The databases in {self.data} were made with PostgreSQL {made_with}, and here is only "
            f"{', '.join(_major_version(folder) for folder in found)}. Install {made_with}, or move the folder away"
        )

    def _check_reach(self, data: Path) -> None:
        """Root's own folders may be closed to the user that the server runs as."""
        account = _account(data)
        if not account:
            return
        name = pwd.getpwuid(account["user"]).pw_name
        for path in [*reversed(data.parents), data, self._programs() / "postgres"]:
            if subprocess.run(["test", "-x", str(path)], cwd="/", check=False, **account).returncode != 0:
                raise ConfigError(
                    f"PostgreSQL does not run as root, and the user {name}, as which it would run, cannot get through "
                    f"{path}. Open it (chmod o+x {shlex.quote(str(path))}), or choose another folder for all records: "
                    "GRAFT_HOME=/srv/graft make cluster-up"
                )

    def _processes(self) -> list[psutil.Process]:
        """All its processes, also those that a killed server left behind."""
        return [process for process in psutil.process_iter() if self._works_here(process)]

    def _works_here(self, process: psutil.Process) -> bool:
        """Whether it is a process of this server: all of them, and only they, work in its folder."""
        with contextlib.suppress(psutil.Error):  # it ended, or is another user's
            return process.name() in ("postgres", "postmaster") and process.cwd() == str(self.data)
        return False


def _account(data: Path) -> dict[str, Any]:
    """As whom PostgreSQL's programs run, for `subprocess`: not as root, and in a folder of their own."""
    if os.geteuid() != 0:
        return {}
    owner = data.stat()
    if owner.st_uid != 0:
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise ConfigError("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")


def program_folders() -> Iterator[Path]:
    """Folders with PostgreSQL's programs: of the search path, of pg_config, of packages, the newest of these first."""
    candidates = []
    if found := shutil.which("initdb"):
        candidates.append(Path(found).resolve().parent)
    if config := shutil.which("pg_config"):
        said = subprocess.run(
            [config, "--bindir"], capture_output=True, encoding="utf-8", errors="replace", check=False
        ).stdout
        candidates.append(Path(said.strip()))
    candidates += sorted(PACKAGED.glob("*/bin"), key=lambda folder: _version_number(folder.parent.name), reverse=True)
    for folder in dict.fromkeys(candidates):
        if all(os.access(folder / program, os.X_OK) for program in ("initdb", "postgres")):
            yield folder


def _version_number(name: str) -> float:
    with contextlib.suppress(ValueError):
        return float(name)
    return 0.0


def _major_version(folder: Path) -> str:
    said = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, encoding="utf-8", errors="replace", check=False
    ).stdout
    found = re.search(r"\) (\d+)", said)
    return found[1] if found else "of an unknown version"


def _options(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
