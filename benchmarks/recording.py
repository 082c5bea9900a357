"""What recording costs: a fine-tuned run on the digits, and six writers on one SQLite file.

    python benchmarks/recording.py [--rounds 3] [--epochs 10]

First a run that is recorded in MLflow (parameters, metrics, plots, artifacts) and the same with the recorder that keeps
everything in memory, in turns in one process. Epochs are timed without what is recorded between them, so what a run
takes beyond its epochs holds all that recording costs; the difference of the two is compared with the whole run. Then
six processes that each record an epoch's metrics, again and again, in one SQLite file, without a pause and with one,
and one process that does it alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from hydra import compose, initialize_config_dir

from graft.config import Config, TrackingConfig, from_hydra
from graft.paths import CHECKOUT

WRITERS = 6
EPOCHS_EACH = 100
PAUSE_SECONDS = 0.5  # no training has shorter epochs and so many writers
METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "epoch_seconds", "images_per_second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--epochs", type=int, default=10, help="of each run")
    parser.add_argument("--only-writers", action="store_true", help="no runs")
    parser.add_argument("--write", nargs=4, metavar=("HOME", "FOLDER", "WRITERS", "PAUSE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        home, folder, count, pause = options.write
        write(Path(home), Path(folder), int(count), float(pause))
        return
    if not options.only_writers:
        runs(options.rounds, options.epochs)
    writers()


def runs(rounds: int, epochs: int) -> None:
    with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
        overrides = ["trainable=true", f"epochs={epochs}", "tracking.log_model=false"]
        config = from_hydra(compose("config", overrides=overrides))
    turn(config.model_copy(update={"epochs": 1}), recorded=True)  # traces, and makes the database
    turns: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for number in range(rounds):
        for recorded in (True, False) if number % 2 else (False, True):
            turns[recorded].append(turn(config, recorded=recorded))
    print("| fine-tuned digits | seconds: median, all | beyond the epochs: median, all |\n|---|---|---|")
    for recorded, name in ((True, "recorded in MLflow"), (False, "in memory")):
        whole, beyond = zip(*turns[recorded], strict=True)
        print(f"| {name} | {_told(whole)} | {_told(beyond)} |", flush=True)
    cost = statistics.median(beyond for _, beyond in turns[True]) - statistics.median(b for _, b in turns[False])
    whole = statistics.median(seconds for seconds, _ in turns[False])
    print(f"Recording cost {cost:.2f} s of {whole:.1f}, {100 * cost / whole:.1f} %", flush=True)


def turn(config: Config, *, recorded: bool) -> tuple[float, float]:
    """Seconds of a run, preparation aside, and those of them that were not spent in epochs."""
    from graft.loop import gradient_tape
    from graft.preparation import prepare
    from graft.recording import Occasion, leave_behind
    from graft.recording import recorded as opened
    from graft.tracking.recorder import MemoryRecorder

    prepared = prepare(config)
    with tempfile.TemporaryDirectory() as folder:
        directory, started = Path(folder), time.perf_counter()
        if recorded:
            occasion = Occasion(directory, MemoryRecorder(), {"graft.kind": "single"})
            with opened(config, prepared, occasion, lambda: None) as (recorder, mlflow_recorder):
                fitted = gradient_tape.fit(prepared.trainer, prepared.data, config, directory, recorder, lambda: None)
                leave_behind(config, prepared.data.class_names, fitted, mlflow_recorder, directory)
                recorder.log_metrics({**fitted.summary(), "total_seconds": time.perf_counter() - started})
                recorder.close("complete")
        else:
            memory = MemoryRecorder()
            fitted = gradient_tape.fit(prepared.trainer, prepared.data, config, directory, memory, lambda: None)
        seconds = time.perf_counter() - started
    return seconds, seconds - sum(epoch["epoch_seconds"] for epoch in fitted.history)


def writers() -> None:
    home = Path(os.environ["GRAFT_HOME"])
    print("| writers on one SQLite file | ms an epoch: median | mean | 99th percentile | most |\n|---|---|---|---|---|")
    for count, pause in ((1, 0.0), (WRITERS, 0.0), (WRITERS, PAUSE_SECONDS)):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--write", str(home)]
            started = [
                subprocess.Popen(
                    [*command, f"{folder}/{number}", str(count), str(pause)], stdout=subprocess.PIPE, text=True
                )
                for number in range(count)
            ]
            told = [process.communicate()[0] for process in started]
        taken = sorted(float(line) * 1000 for text in told for line in text.split())
        columns = statistics.median(taken), statistics.mean(taken), taken[int(len(taken) * 0.99)], taken[-1]
        name = f"{count}{f', {pause:g} s between epochs' if pause else ''}"
        print(f"| {name} | {' | '.join(f'{column:.1f}' for column in columns)} |", flush=True)


def write(home: Path, folder: Path, writers: int, pause: float) -> None:
    """Records epochs as a run does, once all writers are there, and prints the seconds that each took."""
    from graft.tracking.mlflow_recorder import MlflowRecorder

    tracking = TrackingConfig(uri=f"sqlite:///{home}/mlruns/mlflow.db", artifacts=None, experiment="graft")
    recorder = MlflowRecorder(tracking, folder, name="writer", tags={"graft.kind": "single"})
    while len(list(folder.parent.glob("*/record.sent"))) < writers:
        time.sleep(0.01)
    for epoch in range(EPOCHS_EACH):
        started = time.perf_counter()
        recorder.log_metrics(dict.fromkeys(METRICS, epoch / 7), step=epoch)
        print(time.perf_counter() - started, flush=True)
        time.sleep(pause)
    recorder.close("complete")


def _told(seconds: tuple[float, ...]) -> str:
    return f"{statistics.median(seconds):.2f}, {' '.join(f'{each:.2f}' for each in seconds)}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("GRAFT_HOME", home)
        main()
