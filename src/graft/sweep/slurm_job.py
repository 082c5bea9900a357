"""What a Slurm job runs: it keeps a place on a node for one slot, and the worker process in it.

Slurm, by way of submitit, says where and when. The worker process is the one of every other launcher; a trial that
takes it down, or a slot that wants a new one, costs no second wait in Slurm's queue. Jobs and what they answer pass
through a mailbox, for controller and node have nothing in common but a folder.
"""

from __future__ import annotations

import base64
import contextlib
import platform
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.sweep.mailbox import FROM_WORKER, LONGEST_WAIT, SHORTEST_WAIT, TO_WORKER, Inbox, NotOurs, post
from graft.sweep.process import POLL_SECONDS, Process

OUTPUT = "output.log"
"""In a trial's folder: what its attempts printed."""

BEATS = 5
"""How often in `lost_after` each side shows that it lives."""

TERM_GRACE_SECONDS = 8.0
"""After SIGTERM, which Slurm sends before it takes the place away, with a grace of its own."""

REQUEUE_MARGIN_SECONDS = 20.0
"""Of the time between submitit's warning and the end of the place, what is left to end the process and to requeue."""

TRY_AGAIN_SECONDS = 0.5
"""After an error of the file server, which may be restarting."""


class SlotJob:
    """The function of a Slurm job; submitit calls it, and its `checkpoint` when the place is about to be taken away.

    Args:
        setup: From `pickled_application`.
        mailbox: Folder of the mailbox.
        controller: The mark of the controller.
        lost_after: Seconds without a word from the controller after which a job is given up.
        warned_before: Seconds between submitit's warning and the end of the place.
    """

    def __init__(
        self, setup: bytes, *, mailbox: Path, controller: str, lost_after: float, warned_before: float
    ) -> None:
        self._arguments: dict[str, Any] = {
            "setup": setup,
            "mailbox": mailbox,
            "controller": controller,
            "lost_after": lost_after,
            "warned_before": warned_before,
        }
        self._tenancy: Tenancy | None = None

    def __call__(self) -> None:
        arguments = self._arguments
        self._tenancy = tenancy = Tenancy(
            arguments["setup"],
            mailbox=arguments["mailbox"],
            controller=arguments["controller"],
            lost_after=arguments["lost_after"],
        )
        # submitit would ignore it. Whether Slurm requeues the job afterwards is Slurm's affair.
        signal.signal(signal.SIGTERM, lambda *_: tenancy.leave(requeued=False, grace=TERM_GRACE_SECONDS))
        # Signals are handled in this thread, and only here, so that they interrupt nothing half done.
        thread = threading.Thread(target=tenancy.run, name="graft-slot")
        thread.start()
        while thread.is_alive():
            thread.join(POLL_SECONDS)

    def checkpoint(self) -> Any:
        """What submitit requeues; None if there is nothing to go on with."""
        from submitit.helpers import DelayedSubmission

        tenancy = self._tenancy
        if tenancy is None or tenancy.over.is_set():
            return None
        grace = max(1.0, self._arguments["warned_before"] - REQUEUE_MARGIN_SECONDS)
        tenancy.leave(requeued=True, grace=grace)
        tenancy.over.wait(grace + REQUEUE_MARGIN_SECONDS / 2)
        return DelayedSubmission(SlotJob(**self._arguments))


class Tenancy:
    """One stay of a Slurm job on a node; a job that is requeued has several.

    Every message of its own carries its mark, so that what an earlier stay said or was told means nothing now.

    Args:
        setup, mailbox, controller, lost_after: See `SlotJob`.

    Attributes:
        over: Set once the place is left and nothing runs in it any more.
    """

    def __init__(self, setup: bytes, *, mailbox: Path, controller: str, lost_after: float) -> None:
        self.over = threading.Event()
        self._setup = setup
        self._mailbox = mailbox
        self._controller = controller
        self._lost_after = lost_after
        self._mark = uuid.uuid4().hex
        self._leaving = threading.Event()
        self._requeued = False
        self._grace = 0.0
        self._process: Process | None = None
        self._number = -1
        self._output: Path | None = None
        self._at_work = False
        self._wait = SHORTEST_WAIT
        self._said = 0.0

    def leave(self, *, requeued: bool, grace: float) -> None:
        """Ends the running trial in `grace` seconds, and then this stay. Called by signal handlers."""
        self._requeued, self._grace = requeued, grace
        self._leaving.set()

    def run(self) -> None:
        """Serves the slot until it is told to end, the place is taken away, or the controller is gone."""
        try:
            self._serve()
        except FileNotFoundError:
            print("The sweep has ended.", flush=True)
        except NotOurs as error:
            print(f"This job ends: {error}", flush=True)
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.quit()
            with contextlib.suppress(OSError):
                self._say("over")
            self.over.set()

    def _serve(self) -> None:
        inbox = Inbox(self._mailbox / TO_WORKER, from_now=True)
        self._say("hello")
        heard = time.monotonic()
        while True:
            for message in self._look(inbox):
                heard = time.monotonic()
                if message["kind"] == "end":
                    return
                if message.get("to") == self._mark:
                    self._obey(message)
            if self._leaving.is_set():
                self._wind_down()
                return
            if time.monotonic() - heard > self._lost_after:
                # Somebody else may take the trial up by then, and two attempts must never write to one folder.
                print(f"Nothing heard of the sweep for {self._lost_after:g} s: this job ends.", flush=True)
                self._remove_process()
                # The command may have been killed, and what trials are told can hold secrets.
                shutil.rmtree(self._mailbox, ignore_errors=True)
                return
            self._pass_on()

    def _look(self, inbox: Inbox) -> list[dict[str, Any]]:
        try:
            return inbox.look()
        except (FileNotFoundError, NotOurs):
            raise
        except OSError:
            time.sleep(TRY_AGAIN_SECONDS)
            return []

    def _obey(self, message: Mapping[str, Any]) -> None:
        self._wait = SHORTEST_WAIT
        kind, number = message["kind"], message["process"]
        if kind == "start":
            self._remove_process()
            self._number = number
            self._process = Process(None, self._setup, controller=self._controller)
            return
        if number != self._number or self._process is None:
            return
        with contextlib.suppress(OSError):  # it died, which is noticed by whoever follows it
            if kind == "job":
                self._begin_output(message)
                self._at_work = True
                self._process.send_pickled_job(base64.b64decode(message["job"]))
            elif kind == "stop":
                self._process.stop()
            elif kind == "kill":
                self._process.kill()
            elif kind == "quit":
                self._remove_process()
                self._say("gone")

    def _pass_on(self) -> None:
        """Says what the process says, for a while, and that this job lives."""
        if time.monotonic() - self._said > self._lost_after / BEATS:
            self._say("beat")
        if self._process is None:
            time.sleep(self._wait)
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            return
        try:
            arrived = self._process.messages(self._wait)
        except (EOFError, OSError):
            for line in self._process.last_words():
                self._print(line)
            self._say("death", cause=self._process.cause_of_death())
            self._remove_process()
            return
        self._wait = SHORTEST_WAIT if arrived else min(2 * self._wait, LONGEST_WAIT)
        for message in arrived:
            if isinstance(message, str):
                self._print(message)
                continue
            if message["kind"] == "answer":
                self._at_work = False
            self._say("message", message=message, memory=self._process.memory_gib())

    def _wind_down(self) -> None:
        """Lets the running trial end at its next step, if it does so in time."""
        self._say("leaving", requeued=self._requeued)
        deadline = time.monotonic() + self._grace
        if self._process is not None and self._at_work:
            with contextlib.suppress(OSError):
                self._process.stop()
            while self._process is not None and self._at_work and time.monotonic() < deadline:
                self._pass_on()
        self._remove_process()
        self._say("left")

    def _remove_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if self._at_work:
                process.kill()
            process.quit()
        self._at_work = False

    def _begin_output(self, message: Mapping[str, Any]) -> None:
        self._output = None
        if message["directory"] is None:
            return
        # A job that prints is worth more than a file that cannot be written.
        with contextlib.suppress(OSError):
            path = Path(message["directory"]) / OUTPUT
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"-- attempt {message['attempt']} on {platform.node()}\n")
            self._output = path

    def _print(self, line: str) -> None:
        print(line, flush=True)
        if self._output is not None:
            with contextlib.suppress(OSError), self._output.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        self._say("line", line=line)

    def _say(self, kind: str, **fields: Any) -> None:
        message = {"of": self._mark, "kind": kind, "process": self._number, **fields}
        deadline = time.monotonic() + self._lost_after
        while True:
            try:
                post(self._mailbox / FROM_WORKER, message)
                self._said = time.monotonic()
                return
            except (FileNotFoundError, NotOurs):
                raise
            except OSError:
                # An answer that is lost would be a trial that never ends.
                if time.monotonic() > deadline:
                    raise
                time.sleep(TRY_AGAIN_SECONDS)
