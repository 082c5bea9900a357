"""Sends what a local record says to MLflow: soon where that is a file, in the background where it is a server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import filelock

from graft.config import TrackingConfig
from graft.errors import FatalError
from graft.tracking.local_record import FIRST, LOCK_SECONDS, LocalRecord, Mark, Statement
from graft.tracking.mlflow_store import is_outage, is_refused, reason_of

log = logging.getLogger(__name__)

PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0)  # between tries; the last one again and again

PACE_SECONDS = 0.5
"""Metrics of epochs that follow each other so quickly are sent to a file together: a transaction costs more than many
an epoch of a head."""

METRICS_TOGETHER = 500
"""So many metrics are sent at once, up to those of one statement more; MLflow takes 1,000."""


class FromTheStart(Exception):
    """MLflow does not have what was sent: all of the record has to be sent again."""


class Receiver(Protocol):
    """Takes statements down in MLflow, in their order. Those that it has already may be repeated, and change nothing.

    It is called by one thread at a time, not always the same.

    Attributes:
        run_id: Of the MLflow run that the statements become; None before there is one. Set from a record's mark, too.
    """

    run_id: str | None

    def receive(self, statements: Sequence[Statement]) -> None:
        """Takes one down, or several of metrics.

        Raises:
            FromTheStart: if it needs all statements before these once more.
        """

    def doubt(self) -> None:
        """What is known of the run may be wrong: the last statements failed, or another process sent some."""

    def has_lost(self, error: Exception) -> bool:
        """Whether a statement failed because the run is not there any more."""


class Delivery:
    """Sends a record. One thread calls `begin`, `more` and `end`, the first and the last once; `send` needs neither.

    Args:
        record: What is to be sent.
        receiver: Where to.
        tracking: Where that is; told when it does not answer.
    """

    def __init__(self, record: LocalRecord, receiver: Receiver, tracking: TrackingConfig) -> None:
        self._record = record
        self._receiver = receiver
        self._uri = tracking.uri
        self._background = not tracking.uri.startswith("sqlite:")
        self._sent = record.mark
        self._failures = 0
        self._next_try = 0.0
        self._last_sent = float("-inf")
        self._more = threading.Event()
        self._over = False
        self._idle = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, *, wait: bool = True) -> None:
        """Begins to send.

        Args:
            wait: Send what there is in this thread first, so that what is wrong is known before anything else is done;
                without it an outage is none of the caller's business.

        Raises:
            Exception: whatever MLflow raises, but not because a server does not answer.
        """
        if not self._background:
            if wait:
                self.send()
            else:
                self._try()
            return
        if wait:
            self._try()
        else:
            self._more.set()
        self._thread = threading.Thread(target=self._keep_sending, name="record", daemon=True)
        self._thread.start()

    def more(self, *, can_wait: bool = False) -> None:
        """Something was said.

        Args:
            can_wait: If something was sent less than `PACE_SECONDS` ago, this may be sent with what is said next.

        Raises:
            Exception: as `begin`; in the background it is told instead.
        """
        if self._background:
            self._more.set()
            return
        not_before = max(self._next_try, self._last_sent + PACE_SECONDS) if can_wait else self._next_try
        if time.monotonic() >= not_before:
            self._try()

    def end(self, patience_seconds: float) -> int:
        """Waits until everything was sent, or Ctrl-C; gives the number of statements that were not.

        Args:
            patience_seconds: How long to wait for a statement to be sent.
        """
        try:
            left = self._wait(patience_seconds)
        except KeyboardInterrupt:  # what is to be recorded was said: it is the waiting that is unwanted
            left = self._record.waiting
        self._over = True
        self._more.set()
        return left

    def _wait(self, patience_seconds: float) -> int:
        deadline = time.monotonic() + patience_seconds
        left = self._record.waiting
        while left and time.monotonic() < deadline:
            if self._background:
                with self._idle:
                    self._idle.wait(0.2)
            elif not self._try():
                time.sleep(0.2)
            before, left = left, self._record.waiting
            if left < before:
                deadline = time.monotonic() + patience_seconds
        return left

    def _keep_sending(self) -> None:
        while not self._over:
            self._more.wait()
            self._more.clear()
            while not self._try(forgiving=True) and not self._over:
                time.sleep(max(0.0, self._next_try - time.monotonic()))

    def _try(self, *, forgiving: bool = False) -> bool:
        """Sends; whether that went well. Another error than an outage is raised, unless it is to be forgiven."""
        started = time.monotonic()
        try:
            self.send()
        except Exception as error:
            self._receiver.doubt()
            if not forgiving and not is_outage(error, self._uri):
                raise
            if not self._failures:
                log.warning(
                    "MLflow at %s cannot be written to (%s). What is said waits in %s",
                    self._uri,
                    reason_of(error),
                    self._record.folder,
                )
            # At least as long as it took to fail: an SQLite file that is locked stops a run half of the time at most.
            pause = max(time.monotonic() - started, PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS) - 1)])
            self._failures += 1
            self._next_try = time.monotonic() + pause
            return False
        if self._failures:
            log.warning("MLflow at %s has the whole record again", self._uri)
            self._failures, self._next_try = 0, 0.0
        return True

    def send(self) -> None:
        """Sends all that was said and not sent yet, in this thread.

        Raises:
            Exception: whatever MLflow raises.
        """
        try:
            with self._record.lock.acquire(timeout=LOCK_SECONDS):
                if (mark := self._record.mark) != self._sent:
                    self._receiver.doubt()
                if mark.uri not in (None, self._uri):  # all of it went elsewhere
                    mark = Mark()
                if mark.run_id is not None and self._receiver.run_id is None:
                    self._receiver.run_id = mark.run_id
                try:
                    self._send_from(mark)
                except FromTheStart:
                    self._begin_anew()
                    self._send_from(Mark())
        except filelock.Timeout:
            raise TimeoutError(f"another process holds {self._record.lock.lock_file}") from None
        self._last_sent = time.monotonic()
        with self._idle:
            self._idle.notify_all()

    def _send_from(self, mark: Mark) -> None:
        for together in _together(self._record.statements(mark.end)):
            self._hand_over(together)
            self._mark(together[-1])

    def _mark(self, sent: Statement) -> None:
        self._sent = Mark(sent.end, self._receiver.run_id, self._uri)
        self._record.mark = self._sent

    def _hand_over(self, together: Sequence[Statement]) -> None:
        try:
            self._receiver.receive(together)
        except FromTheStart:
            raise
        except Exception as error:
            first, *others = together
            if self._receiver.has_lost(error):
                raise FromTheStart from error
            if others and not is_outage(error, self._uri):  # one of them may be to blame
                self._receiver.doubt()
                for statement in together:
                    self._hand_over([statement])
                    self._mark(statement)
                return
            if first.kind in FIRST or not is_refused(error):
                raise
            # It would be refused for ever, and keep everything after it waiting.
            text = "MLflow refuses what is said at byte %d of %s, so it is left out: %s"
            log.warning(text, first.start, self._record.folder, reason_of(error))

    def _begin_anew(self) -> None:
        """Makes the run, by the first whole word of how it began: that may be damaged where it was said first."""
        begun = self._record.beginnings()
        if not begun:
            raise FatalError(f"{self._record.folder}: its record is damaged, and does not say how the run began")
        self._receiver.run_id = None
        self._receiver.receive([replace(begun[0], start=0)])


def _together(statements: Iterable[Statement]) -> Iterator[Sequence[Statement]]:
    """Metrics that are said one after the other, and every other statement on its own."""
    together: list[Statement] = []
    metrics = 0
    for statement in statements:
        of_metrics = statement.kind == "metrics" and isinstance(statement.content["metrics"], dict)
        if together and not (of_metrics and metrics < METRICS_TOGETHER):
            yield together
            together, metrics = [], 0
        if of_metrics:
            together.append(statement)
            metrics += len(statement.content["metrics"])
        else:
            yield [statement]
    if together:
        yield together
