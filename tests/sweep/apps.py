"""A real Hydra application in a real process, and what its study holds afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil

from graft.sweep.storage import open_storage

LONG = os.environ.get("GRAFT_LONG") == "1"
"""Run the long versions of tests, with as many repetitions as the promises name."""

ANOTHER_HOST = (
    "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"',
)  # fmt: skip
"""Before a host's name and a command: it has process numbers and a name of its own, as on another machine."""

GRAFT = ("hydra/sweeper=graft", "hydra/launcher=graft")


@dataclass
class Finished:
    """An application that ran to its end."""

    status: int
    out: str
    err: str


class App:
    """A Hydra application in a folder of its own, with a journal of its own."""

    def __init__(self, folder: Path, source: str) -> None:
        self.folder = folder
        self.journal = folder / "study.journal"
        (folder / "app.py").write_text(textwrap.dedent(source))
        self.environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        # A test may choose another.
        self.launcher: tuple[str, ...] = ()
        self.storage = str(self.journal)

    def command(self, *overrides: str, sweeping: bool = True) -> list[str]:
        mode = ["-m", *GRAFT, *self.launcher, f"hydra.sweeper.storage='{self.storage}'"] if sweeping else []
        # A later override of one key wins, so a test may choose another storage or launcher.
        return [sys.executable, "app.py", *mode, *overrides]

    def start(self, *overrides: str, host: str | None = None) -> subprocess.Popen[str]:
        """Starts a sweep; with a name for `host` as if on another one."""
        return subprocess.Popen(
            [*(() if host is None else (*ANOTHER_HOST, host)), *self.command(*overrides)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *overrides: str, sweeping: bool = True) -> Finished:
        done = subprocess.run(
            self.command(*overrides, sweeping=sweeping),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def study(self, name: str | None = None) -> optuna.Study:
        """The study `name`, or the only one there is."""
        open_storage.cache_clear()
        storage = open_storage(str(self.journal))
        if name is None:
            (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage)

    def studies(self) -> list[str]:
        open_storage.cache_clear()
        return optuna.get_all_study_names(open_storage(str(self.journal)))

    def lines(self, name: str = "log") -> list[str]:
        """Lines that the application's jobs appended to a file; each is written in one piece."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


PLAIN_APP = """
    from dataclasses import dataclass, field
    import os
    import hydra
    from hydra.core.config_store import ConfigStore

    @dataclass
    class Optimizer:
        name: str = "adam"
        lr: float = 0.1

    @dataclass
    class Config:
        x: int = 1
        y: float = 0.0
        head_width: int = 16
        trainable: bool = False
        optimizer: Optimizer = field(default_factory=Optimizer)

    ConfigStore.instance().store(name="config", node=Config)

    @hydra.main(version_base=None, config_name="config")
    def main(config: Config) -> float:
        with open("log", "a") as log:
            log.write(f"{config.x} {config.y} {config.head_width} {config.trainable}\\n")
        return (config.x - 2) ** 2 + config.y

    if __name__ == "__main__":
        main()
"""

# A file "hold" keeps trials from taking their next step until a test has seen what it waits for, however slow the
# machine is; with "hurry" the rest takes no time.
STEPS_APP = """
    import json, os, time
    import hydra
    from graft import trial

    # Counts to `steps` with a checkpoint after each, in the trial's own folder.
    @hydra.main(version_base=None, config_path=".", config_name="config")
    def main(config):
        now = trial.current()
        checkpoint = now.directory / "checkpoint"
        begin = int(checkpoint.read_text()) if checkpoint.exists() else 0
        note(["start", now.number, now.attempt, begin])
        for step in range(begin, config.steps):
            while os.path.exists("hold"):
                time.sleep(0.02)
            time.sleep(0.005 if os.path.exists("hurry") else config.seconds)
            part = checkpoint.with_suffix(".part")
            part.write_text(str(step + 1))
            part.rename(checkpoint)
            note(["step", now.number, now.attempt, step])
            trial.report(step, step / config.steps)
            if config.die_at == step and now.attempt == 0:
                os.kill(os.getpid(), 9)
            if trial.should_stop():
                return 0.0
        note(["end", now.number, now.attempt, config.x])
        return config.x

    def note(fields):
        with open("log", "a") as log:
            log.write(json.dumps([*fields, os.getpid()]) + "\\n")

    if __name__ == "__main__":
        main()
"""

STEPS_CONFIG = "x: 0\ny: 0.0\nsteps: 3\nseconds: 0.02\ndie_at: -1\npassword: one\n"


def steps_app(folder: Path, source: str = STEPS_APP) -> App:
    """The application that counts, in `folder`; `source` is a variant of it."""
    (folder / "config.yaml").write_text(STEPS_CONFIG)
    return App(folder, source)


def with_observer(app: App) -> App:
    """The application, whose `app.Observer` is told of its sweeps."""
    (app.folder / "config.yaml").write_text(
        "x: 0\nhydra:\n  sweep:\n    dir: swept\n  sweeper:\n    observer:\n      _target_: app.Observer\n"
        "defaults: [_self_, {override hydra/sweeper: graft}]\n"
    )
    app.environment["PYTHONPATH"] = f".:{app.environment.get('PYTHONPATH', '')}"
    return app


def notes(app: App, kind: str) -> list[list[int]]:
    return [note[1:] for note in map(json.loads, app.lines()) if note[0] == kind]


def wait_for(condition: Callable[[], bool], *, seconds: float = 240, every: float = 0.01) -> None:
    """Waits until `condition` holds. The limit is only there to end a test that would hang."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(every)


def read_until(running: subprocess.Popen[str], said: str) -> str:
    """What a sweep prints up to the line with `said`; what it prints at once after that `communicate` may miss."""
    assert running.stdout is not None
    printed = ""
    for line in iter(running.stdout.readline, ""):
        printed += line
        if said in line:
            return printed
    raise AssertionError(f"{said!r} was never said: {printed}")


def assert_nothing_lost_or_doubled(app: App, trials: int) -> None:
    """Each trial came to its end, and no step that a checkpoint had kept was done again."""
    assert {number for number, *_ in notes(app, "end")} == set(range(trials))
    assert max(Counter((number, step) for number, _, step, _ in notes(app, "step")).values()) == 1


def other_hosts_are_possible() -> bool:
    tried = subprocess.run([*ANOTHER_HOST, "elsewhere", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
