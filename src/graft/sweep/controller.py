"""The loop of a sweep: claim a trial, hand it to a free slot, record how it ended, until none is left."""

from __future__ import annotations

import logging
import queue
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graft import disk
from graft.errors import FatalError, Interrupted, SweepFailed, Unwritable
from graft.printable import printable
from graft.sweep.compose import Composer, job_directory
from graft.sweep.display import Display, make_display, summary
from graft.sweep.jobs import Answer, Event, Job, JobLauncher, Killed, Printed, Raised, Reported
from graft.sweep.observer import BestTrial, SweepEnded, SweepObserver, SweepStarted, TrialEnded
from graft.sweep.options import SweepOptions, make_sampler
from graft.sweep.outcome import Outcome, State, decide
from graft.sweep.reporting import Ticket
from graft.sweep.signals import StopRequests
from graft.sweep.space import Space
from graft.sweep.storage import DatabaseFailed, file_of
from graft.sweep.study import Claimed, Record, SweepStudy
from graft.sweep.worker import describe_error

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2
"""How long a report, a line of output or Ctrl-C waits at most to be noticed."""

IDLE_SECONDS = 5.0
"""With nothing to do for so long, the sweep says what it waits for."""

LOOK_AGAIN_SECONDS = 1.0
"""With free slots and nothing to claim: how often to look for trials that others left behind."""


class Controller:
    """Drives one sweep through one launcher. Made and used by `graft.sweep.run.run_sweep`."""

    def __init__(
        self,
        *,
        study: SweepStudy,
        space: Space,
        options: SweepOptions,
        storage: str,
        observer: SweepObserver,
        launcher: JobLauncher,
        composer: Composer,
        events: queue.SimpleQueue[Event],
    ) -> None:
        self._study = study
        self._space = space
        self._options = options
        self._storage = storage
        self._observer = observer
        self._launcher = launcher
        self._compose = composer
        self._events = events
        self._running: dict[Future[Answer], tuple[Claimed, Path]] = {}
        self._messages: dict[int, tuple[str, str]] = {}
        self._failures = 0
        self._stopping: str | None = None
        self._fatal: Outcome | None = None
        self._stops_seen = 0
        self._look_again_at = 0.0
        self._observer_failed = False
        self._idle_since: float | None = None
        self._started = time.monotonic()

    def run(self, config: DictConfig) -> SweepEnded:
        """Runs the sweep to its end and raises what its exit status asks for."""
        states = Counter(record.state for record in self._study.records())
        self._display = self._introduce(done=states["complete"] + states["pruned"] + states["failed"])
        self._launcher.warm_up(states["waiting"])  # while the observer opens its server
        self._study.context = self._context = dict(self._observer.sweep_started(self._start_event(config)) or {})
        if not self._study.resumed:
            _save_multirun(config, self._study.directory)
        with StopRequests() as requests:
            self._display.open()
            self._be_patient(requests)
            try:
                with disk.told(file_of(self._storage) or self._study.directory):
                    self._loop(requests)
                    finished, records = self._study.is_done(), self._study.records()
            except (DatabaseFailed, Interrupted, Unwritable):
                # What runs and what could not be recorded is taken up from its checkpoints.
                self._display.say(f"To go on:\n  {_command()}")
                raise
            finally:
                self._study.wait_with(None)
                self._display.close()
        return self._conclude(finished, records)

    # -- Beginning and end ----------------------------------------------------------------------

    def _introduce(self, *, done: int) -> Display:
        """Says what is about to happen, the total first; `done` trials of it are over."""
        study, space, options = self._study, self._space, self._options
        cells = f"{len(space.cells)} cell{'s' * (len(space.cells) > 1)}"
        budget = cells if space.pure_grid else f"{cells}, {options.n_trials} trials in each sampled one"
        slots = f"{self._launcher.slots} slot{'s' * (self._launcher.slots > 1)}"
        total = f"{study.total} trial{'s' * (study.total != 1)}"
        lines = [f"Sweep {study.name}: {total} ({budget}) in {slots}{self._launcher.place}", f"  {study.directory}"]
        if study.resumed:
            lines.append(f"  It goes on: {done} of {study.total} trials are finished.")
        lines += [f"  Note: {note}" for note in (*space.notes, *_advice(space, options))]
        # A study's name and folder are whatever somebody wrote into a storage that others share.
        print(printable("\n".join(lines)))
        sys.stdout.flush()
        return make_display(
            total=study.total,
            done=done,
            slots=self._launcher.slots,
            objectives=options.objectives,
            varied=_varied_keys(space),
        )

    def _start_event(self, config: DictConfig) -> SweepStarted:
        return SweepStarted(
            sweep=self._study.name,
            total=self._study.total,
            config=config,
            space=self._space.varied(),
            resumed=self._study.resumed,
            directory=self._study.directory,
            directions=self._options.directions,
            objectives=self._options.objectives,
            context=self._study.context,
        )

    def _be_patient(self, requests: StopRequests) -> None:
        """Lets the study wait for its database, while trials go on and the user is heard."""
        if file_of(self._storage) is not None:
            return
        from graft.sweep.database import Patience

        def meanwhile() -> None:
            self._react(requests)
            self._show_events()
            self._display.refresh()
            if requests.count > 1:
                raise Interrupted(
                    f"The sweep {self._study.name} was interrupted while its database did not answer: how its last "
                    "trials ended is not recorded."
                )

        self._study.wait_with(Patience(self._display.say, meanwhile))

    def _conclude(self, finished: bool, records: Sequence[Record]) -> SweepEnded:
        causes = Counter(record.cause or "unknown" for record in records if record.state == "failed")
        ended = SweepEnded(
            sweep=self._study.name,
            total=self._study.total,
            counts=Counter(record.state for record in records),
            best=self._best(records),
            seconds=time.monotonic() - self._started,
            failures=causes,
            interrupted=not finished,
        )
        try:
            self._observer.sweep_ended(ended)
            if finished:
                # Only now: killed before, the same command comes here again, and does not begin another sweep.
                self._study.mark_finished()
        finally:
            # Whatever becomes of records kept elsewhere, the user sees what came out.
            print(printable(summary(ended, self._messages)))
            if not finished:
                print(f"To go on:\n  {_command()}")
            sys.stdout.flush()
        if self._fatal is not None:
            error = FatalError(self._fatal.message)
            error.status = self._fatal.fatal or error.status
            raise error
        if self._stopping == "interrupted":
            raise Interrupted(f"The sweep {ended.sweep} was interrupted.")
        if causes:
            raise SweepFailed(f"{causes.total()} of {ended.total} trials failed.")
        return ended

    def _best(self, records: Sequence[Record]) -> tuple[BestTrial, ...]:
        signs = [1.0 if direction == "minimize" else -1.0 for direction in self._options.directions]
        complete = [record for record in records if record.state == "complete"]
        scores = {r.number: tuple(s * v for s, v in zip(signs, r.values, strict=True)) for r in complete}
        front = pareto_front(scores)
        # With one objective, equals would all be on the front; the first of them is enough.
        numbers = front[:1] if len(signs) == 1 else front
        best = []
        for record in complete:
            if record.number in numbers:
                values = dict(zip(self._options.objectives, record.values, strict=True))
                directory = job_directory(self._compose(record.overrides, record.number))
                best.append(BestTrial(record.number, values, record.overrides, directory))
        return tuple(best)

    # -- The loop -------------------------------------------------------------------------------

    def _loop(self, requests: StopRequests) -> None:
        # First what a dead controller left half done, in the order of the sweep.
        self._study.free_orphans()
        while True:
            self._react(requests)
            self._fill()
            if not self._running and (self._stopping or self._study.is_done()):
                return
            if self._running:
                self._idle_since = None
                self._launcher.flush()
                done, _ = wait(self._running, TICK_SECONDS, FIRST_COMPLETED)
            else:
                # What is left runs under another controller; wait for it, or for its death.
                done = set()
                self._say_what_it_waits_for()
                time.sleep(TICK_SECONDS)
            self._show_events()
            ended = [final for future in done if (final := self._decide(future)) is not None]
            if self._space.pure_grid and not any(outcome.state == State.INTERRUPTED for *_, outcome in ended):
                # Nothing is learnt from a trial, so the free slot need not wait until it is recorded. One that was
                # interrupted is put back by that, and goes first.
                self._react(requests)
                self._fill()
            for each in ended:
                self._record(*each)
            if self._study.presence.beat():
                self._end_lost()
            self._display.refresh()

    def _react(self, requests: StopRequests) -> None:
        """Acts on Ctrl-C and on the sweep's own limits."""
        if requests.count > self._stops_seen:
            self._stops_seen = requests.count
            if requests.count == 1:
                self._stop("interrupted")
                self._display.say(
                    f"Stopping: {len(self._running)} running trials end at their next step. "
                    "Press Ctrl-C again to stop at once."
                )
            else:
                self._launcher.kill()
        timeout = self._options.timeout
        if timeout is not None and not self._stopping and time.monotonic() - self._started > timeout:
            # As in Optuna: what runs may finish, and nothing new is started.
            self._stopping = "timeout"
            self._display.say(f"hydra.sweeper.timeout={timeout:g} s has passed: no further trial is started.")
        limit = self._options.max_failures
        if limit is not None and not self._stopping and self._failures > limit:
            self._stop("failures")
            self._display.say(f"More than hydra.sweeper.max_failures={limit} trials failed: the sweep stops.")

    def _stop(self, why: str) -> None:
        self._stopping = why
        self._launcher.stop()

    def _fill(self) -> None:
        """Hands trials to free slots: no trial waits for any other to end."""
        if self._stopping or (time.monotonic() < self._look_again_at and self._running):
            return
        while len(self._running) < self._launcher.slots:
            claimed = self._study.claim()
            if claimed is not None:
                self._submit(claimed)
            elif not self._study.free_orphans():
                self._look_again_at = time.monotonic() + LOOK_AGAIN_SECONDS
                return

    def _submit(self, claimed: Claimed) -> None:
        try:
            config = self._compose(claimed.overrides, claimed.number)
            directory = job_directory(config)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            # Without an observer each value was tried beforehand, and not each combination of them.
            ended: Future[Answer] = Future()
            ended.set_result(Answer(Raised(**describe_error(error))))
            self._display.started(claimed.number, claimed.attempt, claimed.overrides)
            self._running[ended] = (claimed, self._study.directory / str(claimed.number))
            return
        pruner = self._options.pruner
        ticket = Ticket(
            sweep=self._study.name,
            number=claimed.number,
            attempt=claimed.attempt,
            directory=str(directory),
            context=self._context,
            storage=self._storage,
            study=claimed.study,
            trial_number=claimed.trial_number,
            owner=self._study.controller,
            directions=self._options.directions,
            pruner=None if pruner is None else pruner.plain(),
            alone=not claimed.cell.sampled,
        )
        job = Job(claimed.number, claimed.overrides, config, ticket, self._options.trial_timeout)
        self._display.started(claimed.number, claimed.attempt, claimed.overrides)
        self._running[self._launcher.submit(job)] = (claimed, directory)

    def _decide(self, future: Future[Answer]) -> tuple[Claimed, Path, Answer, Outcome] | None:
        """The outcome of a job that ended, or None if it was started again, or is nobody's concern here any more.

        What it means for the sweep as a whole counts from now on.
        """
        claimed, directory = self._running.pop(future)
        answer = future.result()
        if not self._study.owns(claimed):
            self._drop(claimed)
            return None
        if answer.told is None:
            # A job of another launcher has no channel to this process, and leaves it in the study.
            answer = replace(answer, told=self._study.told(claimed))
        outcome = decide(
            answer,
            objectives=self._options.objectives,
            deaths=claimed.deaths,
            max_retries=self._options.max_retries,
            stopping=self._stopping is not None,
        )
        if not outcome.state.final:
            self._display.ended(claimed.number, outcome, answer.seconds)
        if isinstance(answer.ending, Killed) and self._stopping is None:
            # Ctrl-C reached another launcher before it reached this process.
            self._stop("interrupted")
        if outcome.state == State.RETRY:
            again = self._study.again(claimed)
            if again is not None:
                self._submit(again)
            else:
                self._study.drop(claimed)
            return None
        if outcome.state == State.FAILED:
            self._failures += 1
            self._messages[claimed.number] = (outcome.cause or "unknown", outcome.message)
        if outcome.fatal is not None and self._fatal is None:
            self._fatal = outcome
            self._stop("fatal")
        return claimed, directory, answer, outcome

    def _record(self, claimed: Claimed, directory: Path, answer: Answer, outcome: Outcome) -> None:
        """Records the end of a trial, or that it was interrupted."""
        # The observer first: a trial that the study calls final must have been told everywhere.
        self._tell_observer(claimed, directory, outcome, answer)
        recorded = self._study.finish(claimed, outcome, answer.unstored)
        if outcome.state.final:
            # Shown last: what is shown as finished is not run again, whatever is killed now.
            if recorded:
                self._display.ended(claimed.number, outcome, answer.seconds)
            else:
                self._display.dropped(claimed.number)

    def _drop(self, claimed: Claimed) -> None:
        """Forgets a trial that others took over while this controller was suspended, or cut off."""
        self._study.drop(claimed)
        self._display.dropped(claimed.number)

    def _end_lost(self) -> None:
        """Ends jobs whose trials are not this controller's any more; they are dropped when they have ended."""
        for claimed, _ in self._running.values():
            if not self._study.owns(claimed):
                self._launcher.cancel(claimed.number)

    def _say_what_it_waits_for(self) -> None:
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > IDLE_SECONDS:
            self._idle_since = float("inf")
            self._display.say("All that is left runs under other controllers: waiting for them, or for their silence.")

    def _tell_observer(self, claimed: Claimed, directory: Path, outcome: Outcome, answer: Answer) -> None:
        event = TrialEnded(
            number=claimed.number,
            attempt=claimed.attempt,
            state=str(outcome.state),
            values=dict(zip(self._options.objectives, outcome.values, strict=False)),
            cause=outcome.cause,
            message=outcome.message,
            overrides=claimed.overrides,
            cell={key: value.text for key, value in claimed.cell.grid.items()},
            params=claimed.params,
            directory=directory,
            seconds=answer.seconds,
        )
        try:
            self._observer.trial_ended(event)
        except Exception as error:
            # Records kept elsewhere must not cost a night of training; once is enough to know.
            if not self._observer_failed:
                self._observer_failed = True
                unwritable = disk.unwritable_of(error)
                text = "The observer failed at trial %d; the sweep goes on: %s"
                log.error(text, claimed.number, unwritable or error, exc_info=unwritable is None)

    def _show_events(self) -> None:
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            if isinstance(event, Reported):
                self._display.reported(event)
            elif isinstance(event, Printed):
                self._display.printed(event)


def pareto_front(scores: Mapping[int, tuple[float, ...]]) -> list[int]:
    """Numbers of the trials that no other beats in one value without losing in another; less is better."""
    front: list[int] = []
    for number, score in sorted(scores.items(), key=lambda item: (item[1], item[0])):
        # In this order only an earlier trial can be better everywhere, and the front has the best ones.
        if not any(all(a <= b for a, b in zip(scores[f], score, strict=True)) and scores[f] != score for f in front):
            front.append(number)
    return front


def _advice(space: Space, options: SweepOptions) -> list[str]:
    """What the user may not expect, though nothing is wrong."""
    advice = []
    startup = getattr(make_sampler(options.sampler, seed=None), "_n_startup_trials", 0)
    if not space.pure_grid and options.n_trials is not None and options.n_trials <= startup:
        advice.append(
            f"each cell gets {options.n_trials} trials, and {options.sampler.name} draws its first {startup} at "
            "random: it will not learn anything."
        )
    if space.pure_grid and options.pruner is not None:
        advice.append(
            f"{options.pruner.name} compares trials within a cell, and each cell of a grid has one. To let trials "
            "be compared, sample a key: key='tag(sampled, choice(a,b,c))'."
        )
    return advice


def _varied_keys(space: Space) -> list[str]:
    keys = dict.fromkeys(key for cell in space.cells for key in (*cell.grid, *cell.sampled))
    return [key.lstrip("+") for key in keys]


def _save_multirun(config: DictConfig, directory: Path) -> None:
    """Leaves `multirun.yaml`, as Hydra's own sweepers do."""
    directory.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, directory / "multirun.yaml")


def _command() -> str:
    """The command line that this process was started with."""
    python, *rest = sys.orig_argv
    return shlex.join([Path(python).name, *rest])
