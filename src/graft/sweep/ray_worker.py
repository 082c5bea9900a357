"""A worker on a Ray cluster seen from the controller. Imports Ray; `graft.sweep.ray_cluster` does not."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from graft.sweep.jobs import Job
from graft.sweep.process import (
    LAST_LINES,
    POLL_SECONDS,
    QUIT_PATIENCE_SECONDS,
    Unfit,
    pickled_job,
    wait_for_greeting,
)
from graft.sweep.ray_actor import DEATH
from graft.sweep.workers import NotYet, Withdrawn

SAY_SECONDS = 10.0
"""How long a worker may wait for its place before the user is told."""

CALL_SECONDS = 10.0
"""How long a node that was told to end a worker may take to answer."""


class RayWorker:
    """An actor that has a place on some node, or waits for one in Ray's queue. See `graft.sweep.workers.Worker`.

    Args:
        actor: Handle of a `WorkerActor`.
        demand: What it takes of a node, in words.
        lost_after: See `WorkerActor`.
    """

    def __init__(self, actor: Any, *, demand: str, lost_after: float) -> None:
        self._actor = actor
        self._demand = demand
        self._lost_after = lost_after
        # Answered once there is a place, so no call is made to an actor that may wait for hours.
        self._placing = actor.node.remote()
        self._node: str | None = None
        self._withdrawn = False
        self._killed = threading.Event()
        self._received = 0
        self._heard = time.monotonic()
        self._at_work = False
        self._death: str | None = None
        self.jobs = 0
        self.last_lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)

    @property
    def alive(self) -> bool:
        return self._death is None

    def wait_until_ready(
        self, say: Callable[[str], None], better: Callable[[], bool], show: Callable[[str], None]
    ) -> None:
        try:
            self._wait_for_place(say, better)
            wait_for_greeting(self.messages, show)
        except EOFError:
            if self._withdrawn:
                raise Withdrawn from None
            raise

    def _wait_for_place(self, say: Callable[[str], None], better: Callable[[], bool]) -> None:
        began, told = time.monotonic(), False
        while not _ready(self._placing, POLL_SECONDS):
            if better():
                raise NotYet
            if not told and time.monotonic() - began > SAY_SECONDS:
                told = True
                say(f"waits in Ray's queue for a place with {self._demand}")
        try:
            self._node = ray.get(self._placing)
        except RayActorError as error:
            if error.actor_init_failed:
                raise Unfit(_no_worker(error)) from error
            raise self._dead(error) from error
        except RayError as error:  # a runtime_env that cannot be set up, a demand that Ray refuses
            raise Unfit(_no_worker(error)) from error
        self._heard = time.monotonic()

    def send_job(self, job: Job) -> None:
        self.jobs += 1
        self.last_lines.clear()
        self._at_work = True
        # Not made again if it is not known to have arrived: a job must not run twice.
        self._ask(self._actor.send_job, pickled_job(job), again=False)

    def messages(self, patience: float) -> list[dict[str, Any] | str]:
        if self._death is not None:
            raise EOFError
        batch = self._ask(self._actor.messages, self._received, patience)
        self._received += len(batch)
        arrived = []
        for message in batch:
            if isinstance(message, str):
                if message.strip():
                    self.last_lines.append(message)
            elif message["kind"] == DEATH:
                self._death = message["cause"]
                break
            elif message["kind"] == "answer":
                self._at_work = False
            arrived.append(message)
        return arrived

    def last_words(self) -> list[str]:
        lines: list[str] = []
        with contextlib.suppress(EOFError, Unfit):
            while True:
                lines += [message for message in self.messages(POLL_SECONDS) if isinstance(message, str)]
        return lines

    def cause_of_death(self) -> str:
        return self._death or "the Ray cluster does not answer"

    def memory_gib(self) -> float:
        with contextlib.suppress(EOFError, Unfit):
            return float(self._ask(self._actor.memory_gib))
        return 0.0

    def stop(self) -> None:
        if self._node is None:
            # It may wait for hours, and has nothing to lose.
            self._withdrawn = True
            self._end_actor()
        else:
            self._tell(self._actor.stop)

    def kill(self) -> None:
        self._killed.set()
        if self._node is None:
            self._end_actor()
        else:
            self._tell(self._actor.kill)

    def quit(self) -> None:
        if self._death is None and self._node is not None:
            with contextlib.suppress(Exception):
                ray.get(self._actor.quit.remote(), timeout=QUIT_PATIENCE_SECONDS + CALL_SECONDS)
        self._end_actor()

    def _end_actor(self) -> None:
        with contextlib.suppress(Exception):  # the cluster may be gone
            ray.kill(self._actor)

    def _tell(self, method: Any) -> None:
        """Calls a method of the actor without waiting for what becomes of it."""
        with contextlib.suppress(Exception):  # whoever follows the actor notices that it is gone
            method.remote()

    def _ask(self, method: Any, *arguments: Any, again: bool = True) -> Any:
        """What a method of the actor returns; called again, if `again`, while the actor cannot be reached.

        Raises:
            EOFError: if the worker is dead.
            Unfit: if there is no cluster any more.
        """
        while True:
            try:
                answer = self._get(method.remote(*arguments))
                self._heard = time.monotonic()
                return answer
            except ActorUnavailableError as error:
                if not again or self._killed.wait(POLL_SECONDS) or self._seconds_left() == 0:
                    raise self._dead(error) from error
            except RayActorError as error:
                raise self._dead(error) from error
            except RayTaskError as error:  # the actor lives, and its process does not, or must not
                self._tell(self._actor.kill)
                raise EOFError from error
            except (RayError, ConnectionError) as error:
                raise _no_cluster(error) from error

    def _get(self, reference: Any) -> Any:
        while not _ready(reference, POLL_SECONDS):
            if self._killed.is_set() and not _ready(reference, CALL_SECONDS):
                self._death = "killed"
                raise EOFError
        return ray.get(reference)

    def _dead(self, error: RayError) -> EOFError:
        """Settles that the worker is dead, and returns what to raise."""
        # An actor that never told its node can only be asked for by what Ray says of it.
        node_lost = "node has died" in str(error) if self._node is None else not _node_lives(self._node)
        if node_lost or isinstance(error, ActorUnavailableError):
            self._death = "node lost"
            if self._at_work:
                # A node that is merely cut off ends the job by itself, and until then nobody else may run it.
                self._killed.wait(self._seconds_left())
            self._end_actor()
        else:
            self._death = "Ray actor died"
        self.last_lines.append(f"Ray: {gist(error)}")
        return EOFError()

    def _seconds_left(self) -> float:
        """How long a node that is cut off may still go on with the job; a little more than it does."""
        return max(0.0, self._heard + 1.1 * self._lost_after + 1 - time.monotonic())


def _ready(reference: Any, timeout: float) -> bool:
    return bool(ray.wait([reference], timeout=timeout)[0])


def _node_lives(node: str) -> bool:
    try:
        return any(known["NodeID"] == node and known["Alive"] for known in ray.nodes())
    except Exception as error:  # of many kinds: it is the head that is gone
        raise _no_cluster(error) from error


def _no_cluster(error: Exception) -> Unfit:
    return Unfit(f"The Ray cluster does not answer any more: {gist(error)}. Once it does, the same command goes on.")


def _no_worker(error: RayError) -> str:
    return (
        f"Ray could not start a worker: {gist(error)}. Each node needs this machine's Python, Graft and other "
        "packages; code of your own travels with hydra.launcher.runtime_env."
    )


def gist(error: BaseException) -> str:
    """What an error of Ray's says, without the table of numbers and the advice around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A remote traceback ends with what was raised.
    if any(line.startswith(("Traceback", "File ")) for line in lines):
        return lines[-1].rstrip(".")
    told = [line for line in lines if line.startswith("The actor ") or "node" in line.lower()] or lines
    return told[-1].partition(" Some common causes")[0].rstrip(".") if told else type(error).__name__
