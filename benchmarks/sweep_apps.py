"""Applications and commands that the sweep benchmarks share."""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BASELINE = ("hydra-optuna-sweeper==1.3.0", "hydra-core==1.3.8")

EMPTY_APP = """
    from dataclasses import dataclass
    import hydra
    from hydra.core.config_store import ConfigStore

    @dataclass
    class Config:
        x: int = 0
        y: float = 0.0

    ConfigStore.instance().store(name="config", node=Config)

    @hydra.main(version_base="1.3", config_name="config")
    def main(config):
        return config.y

    if __name__ == "__main__":
        main()
"""

SLEEPING_APP = """
    from dataclasses import dataclass
    import os
    import time
    import hydra
    from hydra.core.config_store import ConfigStore

    @dataclass
    class Config:
        x: int = 0

    ConfigStore.instance().store(name="config", node=Config)

    @hydra.main(version_base="1.3", config_name="config")
    def main(config):
        begin = time.time()
        time.sleep(LENGTHS[config.x % len(LENGTHS)])
        with open("log", "a") as log:
            log.write(f"{config.x} {os.getpid()} {begin} {time.time()}\\n")
        return 0.0

    if __name__ == "__main__":
        main()
"""


@dataclass(frozen=True)
class Job:
    """One trial of `sleeping_app` as it saw itself, with the process that it ran in."""

    number: int
    process: int
    begin: float
    end: float


def baseline_python() -> Path:
    """The interpreter of an environment that holds the official Optuna sweeper, made on first use.

    It needs one of its own: it brings Optuna 2. `GRAFT_BASELINE_PYTHON` names one that exists already.
    """
    if given := os.environ.get("GRAFT_BASELINE_PYTHON"):
        return Path(given)
    folder = Path(tempfile.gettempdir()) / "graft-baseline-venv"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *BASELINE], check=True)
    return python


def list_scheduling(lengths: Sequence[float], free_at: Sequence[float]) -> float:
    """When the last job ends if each, in order, goes to the slot that is free first."""
    slots = list(free_at)
    heapq.heapify(slots)
    for length in lengths:
        heapq.heapreplace(slots, slots[0] + length)
    return max(slots)


class App:
    """An application in a temporary folder, run by Graft or by the official plugin."""

    def __init__(self, source: str = EMPTY_APP) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="graft-bench-")
        self.folder = Path(self._temporary.name)
        (self.folder / "app.py").write_text(textwrap.dedent(source))

    def graft(self, *overrides: str) -> tuple[float, str]:
        """Seconds of the whole command, and what it printed."""
        plugins = ["hydra/sweeper=graft", "hydra/launcher=graft"]
        return self._run(Path(sys.executable), [*plugins, *overrides])

    def official(self, python: Path, *overrides: str) -> tuple[float, str]:
        return self._run(python, ["hydra/sweeper=optuna", *overrides])

    def _run(self, python: Path, overrides: list[str]) -> tuple[float, str]:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
        started = time.monotonic()
        done = subprocess.run(
            [python, "app.py", "-m", *overrides], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        seconds = time.monotonic() - started
        if done.returncode != 0:
            sys.exit(f"{' '.join(overrides)} exited {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return seconds, done.stdout


def sleeping_app(lengths: Sequence[float]) -> App:
    """An application whose trial `x` sleeps as many seconds as its place in `lengths`, again and again, says."""
    return App(SLEEPING_APP.replace("LENGTHS", repr(tuple(lengths))))


def jobs_of(app: App) -> list[Job]:
    """The jobs that a `sleeping_app` ran since it was asked last, in the order in which they began."""
    log = app.folder / "log"
    lines = [line.split() for line in log.read_text().splitlines()]
    log.unlink()
    jobs = [Job(int(number), int(process), float(begin), float(end)) for number, process, begin, end in lines]
    return sorted(jobs, key=lambda job: job.begin)
