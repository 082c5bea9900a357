"""What a trial leaves behind: rows and bytes in MLflow's and Optuna's stores, in its folder, and in the cache.

    python benchmarks/record_size.py [--trials 10] [--epochs 10] [OVERRIDE ...]

A sweep of one trial, and one of `--trials` more with other seeds, on the digits with the frozen backbone: what the
second adds, divided by its trials. Overrides go to both, such as +size=smoke.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from graft.paths import CHECKOUT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        # One after the other in one slot, for a study of each kind of storage.
        for storage in (f"{home}/mlruns/optuna.journal", f"sqlite:///{home}/mlruns/optuna.db"):
            before: Mapping[str, float] = {}
            for seeds in ("0,", f"range(1,{options.trials + 1})"):
                command = [sys.executable, "train.py", "-m", f"seed={seeds.rstrip(',')}", f"epochs={options.epochs}"]
                command += ["trainable=false", f"hydra.sweeper.storage='{storage}'", "hydra.launcher.slots=1"]
                environment = {**os.environ, "GRAFT_HOME": str(home)}
                subprocess.run(
                    [*command, *options.overrides], cwd=CHECKOUT, env=environment, stdout=subprocess.DEVNULL, check=True
                )
                after = sizes(home)
                if before:
                    tell(before, after, options.trials, storage.partition("mlruns/")[2])
                before = after
        for file in sorted((home / "mlruns/cache").glob("[if]*/*/*.npy")):
            stored = np.load(file, mmap_mode="r")
            print(f"{file.parents[1].name}: {stored.shape} {stored.dtype}, {stored[0].nbytes:,} bytes an image")
        for kind in sorted((home / "mlruns/cache").iterdir()):
            print(f"{kind.name}: {bytes_in(kind):,} bytes in all")


def sizes(home: Path) -> dict[str, float]:
    """Rows of every table, and bytes of everything."""
    records, found = home / "mlruns", {}
    for database in ("mlflow", "optuna"):
        file = records / f"{database}.db"
        if file.exists():
            with sqlite3.connect(file) as opened:
                tables = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                for (table,) in tables:
                    count = opened.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
                    found[f"{database} rows: {table}"] = count
            opened.close()
            found[f"bytes of {file.name}"] = file.stat().st_size
    journal = records / "optuna.journal"
    found["bytes of optuna.journal"] = journal.stat().st_size
    found["lines of optuna.journal"] = journal.read_bytes().count(b"\n")
    for name in ("artifacts", "sweeps"):
        found[f"bytes in {name}"] = bytes_in(records / name)
        found[f"files in {name}"] = sum(1 for path in (records / name).rglob("*") if path.is_file())
    for name in ("record.jsonl", "*.tfevents*", "*.weights.h5", "*.npz", "*.keras"):
        found[f"bytes in sweeps of {name}"] = sum(path.stat().st_size for path in (records / "sweeps").rglob(name))
    return found


def tell(before: Mapping[str, float], after: Mapping[str, float], trials: int, storage: str) -> None:
    print(f"\n| a trial leaves, with the study in {storage} | |\n|---|---|")
    for name, value in after.items():
        if more := value - before.get(name, 0):
            print(f"| {name} | {more / trials:,.1f} |", flush=True)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
