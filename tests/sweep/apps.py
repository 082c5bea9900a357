"""A real Hydra application in a real process, and what its study holds afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import optuna

from graft.sweep.storage import open_storage

LONG = os.environ.get("GRAFT_LONG") == "1"
"""Run the long versions of tests, with as many repetitions as the promises name."""

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

    def command(self, *overrides: str, sweeping: bool = True) -> list[str]:
        mode = ["-m", *GRAFT, f"hydra.sweeper.storage={self.journal}"] if sweeping else []
        # A later override of one key wins, so a test may choose another storage or launcher.
        return [sys.executable, "app.py", *mode, *overrides]

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*overrides),
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
