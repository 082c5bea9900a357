"""A sweep of a night: 2,000 trainings under one controller whose workers are recycled, and what grows meanwhile.

    python benchmarks/long_run.py [--trials 2000] [--recycle 50] [OVERRIDE ...]

Promised: from trial 100 to the last ones the controller grows by less than 50 MB, and opens no more files. Frozen
trainings of two epochs on a few tiny digits, with TPE, a pruner and everything recorded, so that what a trial costs is
Graft's own. The controller and its workers are looked at twice a second, the folders at every row. What the controller
takes once all trials are over, to write its report, is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import machine
import optuna
import psutil

from graft.paths import CHECKOUT
from graft.sweep.storage import open_storage

GROWTH_ALLOWED_MB = 50
FIRST = 100  # trials from which growth counts: until then everything has happened once
LAST = (
    10  # trials before the end at which it is looked at last: there is a look between them, and the report is not begun
)
EVERY_SECONDS = 0.5
SWEPT = (
    "+size=smoke",
    "trainable=false",
    "epochs=2",
    "learning_rate=tag(log,interval(1e-4,1e-1))",
    "dropout_rate=interval(0,0.7)",
    "hydra.sweeper.pruner=MedianPruner",
    "head_width=16",
    "hydra.launcher.slots=2",
)


@dataclass(frozen=True)
class Row:
    """What there was when so many trials had ended; memory and sizes in MB.

    Attributes:
        controller_mb: Resident memory of the controller.
        files: What the controller has open.
        workers_mb: Resident memory of all its processes together.
        started: Processes that were seen below the controller so far.
    """

    trials: int
    minutes: float
    controller_mb: float
    files: int
    threads: int
    workers_mb: float
    started: int
    journal_mb: float
    mlflow_mb: float
    mlruns_mb: float
    mlruns_files: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--recycle", type=int, default=50, help="trials after which a worker is replaced")
    parser.add_argument("--rows", type=int, default=10, help="of the table")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("overrides", nargs="*", help="for the sweep, such as hydra/launcher=graft_ray")
    options = parser.parse_args()
    machine.show()
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder:
        home = Path(folder)
        swept = [*SWEPT, f"hydra.sweeper.n_trials={options.trials}"]
        swept += [f"hydra.launcher.recycle_after_trials={options.recycle}", *options.overrides]
        rows, states, report_mb = watch(home, swept, options.trials, options.rows)
    if options.json:
        told = {"rows": [asdict(row) for row in rows], "report_mb": report_mb, "states": states}
        options.json.write_text(json.dumps({"machine": machine.describe(), **told}, indent=2) + "\n")
    print(f"\n{', '.join(f'{count} {state}' for state, count in sorted(states.items()))}")
    if not rows:
        sys.exit("it was over before it could be looked at; take more --trials")
    counted = [row for row in rows if row.trials >= FIRST] or rows
    grown = max(row.controller_mb for row in counted) - counted[0].controller_mb
    files = max(row.files for row in counted) - counted[0].files
    print(
        f"From trial {counted[0].trials} to {counted[-1].trials} the controller grew by {grown:.1f} MB "
        f"({GROWTH_ALLOWED_MB} allowed) and had at most {files} more files open; "
        f"while it wrote its report it took {report_mb:.0f} MB"
    )
    return int(grown >= GROWTH_ALLOWED_MB or files > 0)


def watch(home: Path, swept: list[str], trials: int, count: int) -> tuple[list[Row], dict[str, int], float]:
    """The rows of the table, how many trials ended in which state, and MB of the controller once all had ended."""
    environment = {**os.environ, "GRAFT_HOME": str(home), "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    output = home / "output"
    marks = sorted(
        {min(FIRST, trials), max(1, trials - LAST), *(trials * number // count for number in range(1, count))}
    )
    rows: list[Row] = []
    print(
        "| trials | minutes | controller MB | open files | threads | workers MB | processes so far "
        "| journal MB | MLflow MB | mlruns MB | files in mlruns |\n|" + "---:|" * 11,
        flush=True,
    )
    with output.open("w") as written:
        command = [sys.executable, "train.py", "-m", *swept]
        sweep = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=written, stderr=written)
    started, below = time.monotonic(), set[tuple[int, float]]()
    controller = psutil.Process(sweep.pid)
    report_mb = 0.0
    while sweep.poll() is None:
        time.sleep(EVERY_SECONDS)
        ended = sum(states_of(home).values())
        try:
            workers = controller.children(recursive=True)
            below |= {(worker.pid, worker.create_time()) for worker in workers}
            if ended == trials:
                report_mb = max(report_mb, controller.memory_info().rss / 1e6)
            elif len(rows) < len(marks) and ended >= marks[len(rows)]:
                minutes = (time.monotonic() - started) / 60
                rows.append(look(home, controller, workers, ended, minutes, len(below)))
                print(f"| {' | '.join(in_words(value) for value in asdict(rows[-1]).values())} |", flush=True)
        except psutil.NoSuchProcess:
            continue
    if sweep.wait() != 0:
        sys.exit(f"the sweep exited {sweep.returncode}:\n{output.read_text()[-3000:]}")
    return rows, states_of(home), report_mb


def look(
    home: Path, controller: psutil.Process, workers: list[psutil.Process], ended: int, minutes: float, started: int
) -> Row:
    records = home / "mlruns"
    files = [path.stat().st_size for path in records.rglob("*") if path.is_file()]
    return Row(
        trials=ended,
        minutes=minutes,
        controller_mb=controller.memory_info().rss / 1e6,
        files=controller.num_fds(),
        threads=controller.num_threads(),
        workers_mb=sum(worker.memory_info().rss for worker in workers) / 1e6,
        started=started,
        journal_mb=(records / "optuna.journal").stat().st_size / 1e6,
        mlflow_mb=sum(file.stat().st_size for file in records.glob("mlflow.db*")) / 1e6,
        mlruns_mb=sum(files) / 1e6,
        mlruns_files=len(files),
    )


def states_of(home: Path) -> dict[str, int]:
    """How many trials have ended, by their state."""
    journal = home / "mlruns/optuna.journal"
    if not journal.exists():
        return {}
    storage = open_storage(str(journal))
    for study in storage.get_all_studies():
        trials = storage.get_all_trials(study._study_id, deepcopy=False)
        over = [trial.state.name.lower() for trial in trials if trial.state.is_finished()]
        return {state: over.count(state) for state in set(over)}
    return {}


def in_words(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sys.exit(main())
