"""How many trials at once a storage and a record carry, on this machine.

    python benchmarks/storage_load.py [reports record claims] [--workers 4 16 64] [--seconds 60] [--interval 0.1]
        [--storage journal sqlite postgres] [--record sqlite server] [--trials 200] [--epoch 1] [--pruner MedianPruner]

`reports`: so many trials of one sweep, each a process of its own and without TensorFlow, report a value every
`--interval` seconds through `graft.trial` and ask the pruner each time, as training does after an epoch. The next
report is due an interval after the last one, or when the last one is done.

`record`: so many runs say seven metrics of an epoch every `--epoch` seconds, as Graft records them: into a file beside
the run, and from there into MLflow on SQLite at once, or in the background to `mlflow server` on PostgreSQL.

`claims`: one controller, and four at once, claim and finish the trials of a sweep through `SweepStudy` and do nothing
else.

PostgreSQL and `mlflow server` are started for the purpose, with the settings that they come with. All share the cores
of this machine with the workers, so a worker's and a server's CPU time are told, too.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import optuna
import psutil
import servers

from graft import trial
from graft.cluster.postgresql import program_folders
from graft.config import TrackingConfig
from graft.sweep.identity import Identity
from graft.sweep.opening import open_sweep
from graft.sweep.options import Part, SweepOptions
from graft.sweep.outcome import Outcome, State
from graft.sweep.overrides import read_space
from graft.sweep.reporting import Reporter, Ticket
from graft.sweep.storage import open_storage
from graft.sweep.study import SweepStudy

FINISHED = 20  # trials that the pruner compares with
EPOCHS = 10  # of each of those
PATIENCE = 300  # seconds for whatever has to come to an end
METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "epoch_seconds", "images_per_second", "lr")
PRELOADED = [
    "graft.sweep.study",
    "graft.tracking.mlflow_recorder",
    "mlflow.store.tracking.sqlalchemy_store",
    "psycopg",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
]

barrier: Any = None
complaints: list[str] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="reports, record, claims; all of them if none is named")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 16, 64], help="trials at once")
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement")
    parser.add_argument("--interval", type=float, default=0.1, help="seconds between a trial's reports")
    parser.add_argument("--epoch", type=float, default=1, help="seconds between a run's epochs")
    parser.add_argument("--trials", type=int, default=200, help="of the whole sweep; most of them wait")
    parser.add_argument("--beside", type=int, default=0, help="further trials that run meanwhile, and say nothing")
    parser.add_argument("--pruner", default="MedianPruner", help="Optuna's, or none")
    parser.add_argument("--claimed", type=int, help="claim only so many of them")
    parser.add_argument("--controllers", type=int, nargs="+", default=[1, 4], help="that claim at once")
    parser.add_argument("--storage", nargs="+", default=["journal", "sqlite", "postgres"])
    parser.add_argument("--record", nargs="+", default=["sqlite", "server"])
    options = parser.parse_args()
    if wrong := set(options.what) - {"reports", "record", "claims"}:
        parser.error(f"{' '.join(sorted(wrong))}: allowed are reports, record, claims")
    if not any(program_folders()):
        options.storage = [kind for kind in options.storage if kind != "postgres"]
        options.record = [kind for kind in options.record if kind != "server"]
        print("PostgreSQL is not installed, so what needs it is left out.")
    machine.show()
    with tempfile.TemporaryDirectory(prefix="graft-load-") as name:
        if not options.what or "reports" in options.what:
            reports(Path(name), options)
        if not options.what or "record" in options.what:
            record(Path(name), options)
        if not options.what or "claims" in options.what:
            claims(Path(name), options)


# -- Reports -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What became of one worker's reports, or of one run's epochs.

    Attributes:
        seconds: That saying each took.
        then: That what comes after it took: the pruner's answer, or until MLflow had it.
        cpu: Seconds that the process computed.
        left: What was said and had not arrived when the time was over.
        lost: What was said and never arrived.
        complaints: What was logged.
    """

    seconds: list[float]
    then: list[float]
    cpu: float
    left: int = 0
    lost: int = 0
    complaints: int = 0


def reports(folder: Path, options: argparse.Namespace) -> None:
    print(
        f"\nA report every {options.interval:g} s for {options.seconds:g} s, {options.trials} trials in the sweep\n"
        "| storage | workers | reports/s asked | reached | report ms: p50, p99, most | pruner ms: p50, p99, most "
        "| CPU ms a report: worker, server | warnings | lost |\n|---|---|---|---|---|---|---|---|---|"
    )
    for storage in options.storage:
        for workers in options.workers:
            with _storage(storage, folder) as (url, server):
                others = FINISHED + options.beside
                sweep = _sweep(url, "x=interval(0,1)", max(options.trials, others + workers), "RandomSampler")
                pruner = None if options.pruner == "none" else Part(options.pruner).plain()
                tickets = [_ticket(sweep, url, pruner) for _ in range(others + workers)]
                for number, (ticket, claimed) in enumerate(tickets[:others]):
                    session = trial.Session(ticket.trial(), Reporter(ticket))
                    for step in range(EPOCHS):
                        session.reporter.report(step, step / EPOCHS)
                    if number < FINISHED:
                        sweep.finish(claimed, Outcome(State.COMPLETE, (1.0,)))
                jobs = [
                    (ticket, options.seconds, options.interval, options.interval * number / workers)
                    for number, (ticket, _) in enumerate(tickets[others:])
                ]
                said, used = _at_once(report, jobs, server, options.seconds)
                open_storage.cache_clear()
                opened = open_storage(url)
                stored = [len(opened.get_trial(c.trial_id).intermediate_values) for _, c in tickets[others:]]
                _close(opened)
            lost = sum(len(each.seconds) + 1 for each in said) - sum(stored)
            _row(storage, workers, options.interval, options.seconds, said, used, lost)


def report(job: tuple[Ticket, float, float, float]) -> Said:
    """Reports as a training loop does. Called in a process of its own."""
    ticket, seconds, interval, offset = job
    session = trial.Session(ticket.trial(), Reporter(ticket), on_report=lambda *_: None)
    trial.activate(session)
    trial.report(0, 2.0)  # opens the storage
    trial.should_stop()
    barrier.wait(PATIENCE)
    computed, taken, asked = time.process_time(), [], []
    due = time.monotonic() + offset
    end = due + seconds
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        started = time.monotonic()
        trial.report(len(taken) + 1, 2.0)  # better than any that is finished
        reported = time.monotonic()
        assert not trial.should_stop()
        done = time.monotonic()
        taken.append(reported - started)
        asked.append(done - reported)
        due = max(due + interval, done)
    return Said(taken, asked, time.process_time() - computed, complaints=len(complaints))


# -- Record ------------------------------------------------------------------------------------------


def record(folder: Path, options: argparse.Namespace) -> None:
    print(
        f"\n{len(METRICS)} metrics every {options.epoch:g} s for {options.seconds:g} s\n"
        "| record | runs | epochs/s asked | reached | epoch ms: p50, p99, most | ms to MLflow: p50, p99, most "
        "| CPU ms an epoch: run, server | behind | warnings | lost |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for kind in options.record:
        for workers in options.workers:
            with _record(kind, folder) as (tracking, server), tempfile.TemporaryDirectory(dir=folder) as runs:
                jobs = [
                    (tracking, Path(runs) / str(n), n, options.seconds, options.epoch, options.epoch * n / workers)
                    for n in range(workers)
                ]
                said, used = _at_once(log_epochs, jobs, server, options.seconds)
            _row(kind, workers, options.epoch, options.seconds, said, used, sum(s.lost for s in said), behind=True)


def log_epochs(job: tuple[TrackingConfig, Path, int, float, float, float]) -> Said:
    """Records epochs as a trial does. Called in a process of its own."""
    from graft.tracking.local_record import LocalRecord, Statement
    from graft.tracking.mlflow_recorder import MlflowRecorder
    from graft.tracking.mlflow_run import MlflowRun

    tracking, folder, number, seconds, interval, offset = job
    lags: list[float] = []
    receive = MlflowRun.receive

    def timed(self: MlflowRun, statement: Statement) -> None:
        receive(self, statement)
        if statement.kind == "metrics":
            lags.append(time.time() - statement.at / 1000)

    MlflowRun.receive = timed  # type: ignore[method-assign]
    tags = {"graft.kind": "trial", "graft.sweep": "load", "graft.trial": str(number)}
    recorder = MlflowRecorder(tracking, folder, name=f"run {number}", tags=tags)
    local = LocalRecord(folder)

    def arrived() -> bool:
        recorder._delivery.more()  # into a file nothing is sent by itself
        return not local.waiting

    recorder.log_metrics(dict.fromkeys(METRICS, 0.0), step=0)
    _until(arrived)
    lags.clear()
    barrier.wait(PATIENCE)
    computed, taken = time.process_time(), []
    due = time.monotonic() + offset
    end = due + seconds
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        started = time.monotonic()
        recorder.log_metrics(dict.fromkeys(METRICS, len(taken) / 7), step=len(taken) + 1)
        done = time.monotonic()
        taken.append(done - started)
        due = max(due + interval, done)
    time.sleep(max(0.0, end - time.monotonic()))
    left, used = local.waiting, time.process_time() - computed
    _until(arrived)
    recorder.close("complete")
    _until(arrived)
    assert recorder.run_id is not None
    history = recorder._run.store.client.get_metric_history(recorder.run_id, METRICS[0])
    return Said(taken, lags, used, left, len(taken) + 1 - len(history), len(complaints))


# -- Claims ------------------------------------------------------------------------------------------


def claims(folder: Path, options: argparse.Namespace) -> None:
    each = min(options.claimed or options.trials, options.trials)
    print(
        f"\nClaiming and finishing {each} of {options.trials} trials\n"
        "| storage | space | ms to make a trial | controllers | trials/s | claim ms: p50, p99, most "
        "| finish ms: p50, p99, most |\n|---|---|---|---|---|---|---|"
    )
    for storage in options.storage:
        for space, sampler in ((f"x=range({options.trials})", None), ("x=interval(0,1)", "TPESampler")):
            for controllers in options.controllers:
                with _storage(storage, folder) as (url, _):
                    started = time.monotonic()
                    _sweep(url, space, options.trials, sampler)
                    made = 1000 * (time.monotonic() - started) / options.trials
                    _close(open_storage(url))
                    open_storage.cache_clear()
                    jobs = [(url, space, options.trials, sampler, each // controllers)] * controllers
                    done, _ = _at_once(claim, jobs)
                rate = sum(len(by.seconds) for by in done) / max(by.cpu for by in done)
                columns = (storage, "grid" if sampler is None else "TPE", f"{made:.1f}", controllers, f"{rate:.0f}")
                spread = _spread(s for by in done for s in by.seconds), _spread(s for by in done for s in by.then)
                print(f"| {' | '.join(map(str, (*columns, *spread)))} |", flush=True)


def claim(job: tuple[str, str, int, str | None, int]) -> Said:
    """Claims and finishes so many; of `cpu` the seconds that it took. In a process of its own."""
    *sweep_of, count = job
    sweep = _sweep(*sweep_of)
    barrier.wait(PATIENCE)
    begun, claiming, finishing = time.monotonic(), [], []
    for _ in range(count):
        started = time.monotonic()
        claimed = sweep.claim()
        assert claimed is not None
        had = time.monotonic()
        sweep.finish(claimed, Outcome(State.COMPLETE, (float(claimed.number),)))
        claiming.append(had - started)
        finishing.append(time.monotonic() - had)
    return Said(claiming, finishing, time.monotonic() - begun)


# -- What all of them need ---------------------------------------------------------------------------


def _sweep(url: str, space: str, trials: int, sampler: str | None) -> SweepStudy:
    options = SweepOptions(
        n_trials=None if sampler is None else trials, timeout=None, trial_timeout=None,
        sampler=Part(sampler or "TPESampler"), pruner=None, directions=("maximize",), objectives=("value",),
        storage=url, study_name="load", max_retries=0, max_failures=None, seed=0, n_jobs=1, observer=None, params={},
    )  # fmt: skip
    return open_sweep(
        storage=url, job_name="load", space=read_space([space], {}, n_trials=options.n_trials), options=options,
        identity=Identity({"benchmark": space}), directory=Path(tempfile.gettempdir()),
    )  # fmt: skip


def _ticket(sweep: SweepStudy, url: str, pruner: dict[str, Any] | None) -> tuple[Ticket, Any]:
    claimed = sweep.claim()
    assert claimed is not None
    ticket = Ticket(
        sweep=sweep.name, number=claimed.number, attempt=0, directory=tempfile.gettempdir(), context={}, storage=url,
        study=claimed.study, trial_number=claimed.trial_number, owner=sweep.controller, directions=("maximize",),
        pruner=pruner,
    )  # fmt: skip
    return ticket, claimed


@contextlib.contextmanager
def _storage(kind: str, folder: Path) -> Iterator[tuple[str, psutil.Process | None]]:
    """A new storage, as the user would name it, and its server if it has one."""
    with tempfile.TemporaryDirectory(dir=folder) as name, contextlib.ExitStack() as stack:
        if kind == "postgres":
            url, server = stack.enter_context(servers.postgres())
        else:
            url, server = {"journal": f"{name}/study.journal", "sqlite": f"sqlite:///{name}/study.db"}[kind], None
        yield url, server
        open_storage.cache_clear()


@contextlib.contextmanager
def _record(kind: str, folder: Path) -> Iterator[tuple[TrackingConfig, psutil.Process | None]]:
    """A new MLflow store, and what of it is a server."""
    from graft.tracking.mlflow_store import open_store

    with tempfile.TemporaryDirectory(dir=folder) as name, contextlib.ExitStack() as stack:
        uri, server = f"sqlite:///{name}/mlflow.db", None
        if kind == "server":
            database, _ = stack.enter_context(servers.postgres())
            uri, server = stack.enter_context(servers.mlflow_server(Path(name) / "mlflow", database))
        tracking = TrackingConfig(uri=uri, artifacts=None, experiment="load")
        open_store(tracking)
        yield tracking, server


def _at_once(
    work: Callable[[Any], Said], jobs: Sequence[Any], server: psutil.Process | None = None, seconds: float = 0
) -> tuple[list[Said], float]:
    """Each job in a process of its own, which share nothing; and what the server computes in the first `seconds`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *PRELOADED])
    together = context.Barrier(len(jobs) + 1)

    def watch() -> float:
        together.wait(PATIENCE)
        before = servers.cpu_seconds(server)
        time.sleep(seconds)
        if held := servers.connections(server):
            print(f"({held} connections)", flush=True)
        return servers.cpu_seconds(server) - before

    with (
        ThreadPoolExecutor(1) as watcher,
        ProcessPoolExecutor(len(jobs), context, initializer=_begin, initargs=(together,)) as executor,
    ):
        used = watcher.submit(watch)
        said = list(executor.map(work, jobs))
        return said, used.result()


def _begin(waiting: Any) -> None:
    global barrier
    barrier = waiting

    class Counting(logging.Handler):
        def emit(self, told: logging.LogRecord) -> None:
            complaints.append(told.getMessage())
            print(told.getMessage(), flush=True)

    logging.getLogger("graft").addHandler(Counting(logging.WARNING))


def _row(
    name: str, workers: int, interval: float, seconds: float, said: list[Said], used: float, lost: int,
    *, behind: bool = False,
) -> None:  # fmt: skip
    count = sum(len(each.seconds) for each in said)
    worker = 1000 * sum(each.cpu for each in said) / count
    columns = [name, workers, f"{workers / interval:.0f}", f"{count / seconds:.1f}"]
    columns += [_spread(s for each in said for s in each.seconds), _spread(s for each in said for s in each.then)]
    columns += [f"{worker:.1f}, {1000 * used / count:.1f}"]
    columns += [sum(each.left for each in said)] if behind else []
    columns += [sum(each.complaints for each in said), lost]
    print(f"| {' | '.join(map(str, columns))} |", flush=True)


def _spread(seconds: Iterator[float]) -> str:
    ordered = sorted(1000 * each for each in seconds)
    return ", ".join(f"{ordered[int(share * (len(ordered) - 1))]:,.1f}" for share in (0.5, 0.99, 1))


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < deadline:
        time.sleep(0.2)


def _close(opened: Any) -> None:
    if (backend := getattr(opened, "_backend", opened)) and isinstance(backend, optuna.storages.RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


if __name__ == "__main__":
    main()
