"""Applications and commands that the sweep benchmarks share."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
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


def baseline_python(folder: Path) -> Path:
    """The interpreter of an environment that holds the official Optuna sweeper, made on first use.

    It needs one of its own: it brings Optuna 2. `GRAFT_BASELINE_PYTHON` names one that exists already.
    """
    if given := os.environ.get("GRAFT_BASELINE_PYTHON"):
        return Path(given)
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *BASELINE], check=True)
    return python


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
