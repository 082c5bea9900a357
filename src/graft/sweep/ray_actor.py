"""What runs on a node of a Ray cluster: an actor that owns a worker process of that node.

Ray places the actor, gives it its GPUs, and notices when it is gone. The worker process beside it is
the one of every other launcher, so a trial that takes its process down takes no actor with it.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Mapping
from typing import Any

from graft.sweep.process import Process

DEATH = "death"
"""Kind of the last message: the process is dead."""


class WorkerActor:
    """A worker process on the node that Ray chose. Its methods run in several threads.

    Args:
        setup: From `pickled_application`.
        controller: The mark of the controller.
        environment: Variables that the worker needs beside those of the node.
        directory: Working directory of the controller.
        sends_code: Ray unpacked code for this job, and its folders come before the controller's.
        sends_directory: Ray unpacked a working directory for this job, and it stands for the controller's.
        gpus: Whether Ray assigned any.
        lost_after: Seconds without a word from the controller after which a job is given up.
    """

    def __init__(
        self,
        setup: bytes,
        *,
        controller: str,
        environment: Mapping[str, str],
        directory: str,
        sends_code: bool,
        sends_directory: bool,
        gpus: bool,
        lost_after: float,
    ) -> None:
        self._lost_after = lost_after
        self._turn = threading.Lock()
        self._unconfirmed: list[dict[str, Any] | str] = []
        self._confirmed = 0
        self._at_work = False
        self._heard = time.monotonic()
        os.environ.update(environment)
        self._process = Process(
            # What Ray chose. A worker without a GPU must not find one that Ray gave to somebody else.
            os.environ.get("CUDA_VISIBLE_DEVICES") if gpus else "",
            _with_own_code(setup) if sends_code else setup,
            controller=controller,
            directory=directory if not sends_directory and os.path.isdir(directory) else None,
        )
        threading.Thread(target=self._watch, name="graft-watch", daemon=True).start()

    def node(self) -> str:
        """Ray's id of the node where this is."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def send_job(self, pickled: bytes) -> None:
        self._heard = time.monotonic()
        self._at_work = True
        self._process.send_pickled_job(pickled)

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        """Its end arrives as a message."""
        self._process.kill()

    def quit(self) -> None:
        self._at_work = False
        self._process.quit()

    def memory_gib(self) -> float:
        return self._process.memory_gib()

    def messages(self, confirmed: int, patience: float) -> list[dict[str, Any] | str]:
        """What arrived since the first `confirmed` messages; they are kept until they are confirmed.

        So a call whose answer was lost on its way can be made again.

        Args:
            confirmed: How many messages the controller has had in all.
            patience: Seconds to wait for one, where there is none.
        """
        self._heard = time.monotonic()
        with self._turn:
            del self._unconfirmed[: confirmed - self._confirmed]
            self._confirmed = confirmed
            if not self._unconfirmed:
                self._unconfirmed += self._arrived(patience)
            return list(self._unconfirmed)

    def _arrived(self, patience: float) -> list[dict[str, Any] | str]:
        try:
            arrived = self._process.messages(patience)
        except (EOFError, OSError):
            self._at_work = False
            return [*self._process.last_words(), {"kind": DEATH, "cause": self._process.cause_of_death()}]
        if any(not isinstance(message, str) and message["kind"] == "answer" for message in arrived):
            self._at_work = False
        return arrived

    def _watch(self) -> None:
        """Ends a job whose controller is gone or cut off.

        Somebody else may take the trial up by then, and two attempts must never write to one folder. Ray ends
        the actors of a dead controller by itself, but knows nothing of one that cannot be reached.
        """
        while not (self._at_work and time.monotonic() - self._heard > self._lost_after):
            time.sleep(min(1.0, self._lost_after / 10))
        self._process.kill()
        os._exit(1)


def _with_own_code(setup: bytes) -> bytes:
    """`setup` with the folders in front that Ray unpacked for this job; it names them in PYTHONPATH."""
    fields = pickle.loads(setup)  # noqa: S301 - from the controller
    own = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return pickle.dumps({**fields, "path": [*own, *fields["path"]]})
