"""How a running trial reaches its study: from our worker, from another host, from any launcher."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.sweep import liveness
from graft.trial import Session, StopReason, Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial as OptunaTrial

log = logging.getLogger(__name__)

TOLD_ATTRIBUTE = "graft.told"
OWNER, ATTEMPT = "graft.owner", "graft.attempt"

REACH_SECONDS = 3
"""How long a database server that cannot be reached may keep a trial from its next step."""

TRY_AGAIN_SECONDS = 15.0
"""After the study could not be reached: how long it is left alone, while the trial goes on."""

MOST_KEPT = 10_000
"""So many values are kept for a study that cannot be reached; older ones are dropped."""


@dataclass(frozen=True)
class Ticket:
    """All that a process needs to act for a trial, as plain data.

    Attributes:
        sweep, number, attempt, directory, context: See `graft.trial.Trial`.
        storage: Storage as the user may write it, with absolute paths.
        study: Name of the Optuna study that holds the trial; a cell's, where the sweep has several.
        trial_number: Number of the trial in that study.
        owner: ID of the controller that claimed the trial for this attempt.
        directions: Optuna's directions of the study.
        pruner: Name and options of the pruner, or None.
        alone: The trial is the only one of its cell, so the pruner must not see the study's others.
    """

    sweep: str
    number: int
    attempt: int
    directory: str
    context: Mapping[str, str]
    storage: str
    study: str
    trial_number: int
    owner: str
    directions: tuple[str, ...]
    pruner: Mapping[str, Any] | None = None
    alone: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Ticket:
        fields = json.loads(text)
        return cls(**{**fields, "directions": tuple(fields["directions"])})

    def trial(self) -> Trial:
        return Trial(
            sweep=self.sweep,
            number=self.number,
            attempt=self.attempt,
            directory=Path(self.directory),
            context=dict(self.context),
        )


def session_from_ticket_file(path: Path) -> Session:
    """The session for the ticket in `path`, without a channel to the controller."""
    ticket = Ticket.from_json(path.read_text(encoding="utf-8"))
    return Session(ticket.trial(), Reporter(ticket))


@dataclass
class Reporter:
    """Writes one trial's intermediate values and asks the pruner. Opens the storage on first use.

    A storage that fails here costs the trial its pruning, never its training: hours of work must not
    end because a database was restarted. Values that it did not take are kept, and stored with a
    later report, or with the end of the trial. It is logged once, and once when the storage is back.
    """

    ticket: Ticket
    _study: Study | None = field(default=None, init=False)
    _trial_id: int = field(default=-1, init=False)
    _alone: OptunaTrial | None = field(default=None, init=False)
    _kept: dict[int, float] = field(default_factory=dict, init=False)
    _dropped: int = field(default=0, init=False)
    _to_judge: bool = field(default=False, init=False)
    _complained: bool = field(default=False, init=False)
    _not_before: float = field(default=0.0, init=False)
    _looked: float = field(default_factory=time.monotonic, init=False)

    def report(self, step: int, value: float) -> None:
        self._kept.pop(step, None)
        self._kept[step] = value
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
            self._dropped += 1
        if self._may_try():
            self._store()

    def unstored(self) -> list[tuple[int, float]]:
        """What could not be stored to the end, for whoever can wait."""
        if self._kept and self._may_try():
            self._store()
        return list(self._kept.items())

    def should_prune(self) -> bool:
        """Whether the pruner gives the trial up, judged once for each report."""
        if self.ticket.pruner is None or not self._to_judge or not self._may_try():
            return False
        self._to_judge = False
        try:
            study = self._open()
            if self._alone is not None:
                return self._alone.should_prune()
            return study.pruner.prune(study, study._storage.get_trial(self._trial_id))
        except Exception as error:
            self._complain("could not ask the pruner", error)
            return False

    def superseded(self) -> bool:
        """Whether the trial was given to another controller, which took this one's for dead. Looks now and then."""
        if time.monotonic() - self._looked < liveness.BEAT_SECONDS or not self._may_try():
            return False
        self._looked = time.monotonic()
        from optuna.trial import TrialState

        try:
            trial = self._open()._storage.get_trial(self._trial_id)
        except Exception as error:
            self._complain("could not look whether the trial is still its controller's", error)
            return False
        attributes = trial.user_attrs
        if (
            trial.state == TrialState.RUNNING
            and attributes.get(OWNER) == self.ticket.owner
            and int(attributes.get(ATTEMPT, 0)) == self.ticket.attempt
        ):
            return False
        log.warning("trial %d was taken over by another controller; this attempt ends", self.ticket.number)
        return True

    def record_told(self, reason: StopReason) -> None:
        """Leaves what the job was told in the study, where no channel to the controller exists."""
        try:
            self._open()._storage.set_trial_user_attr(self._trial_id, TOLD_ATTRIBUTE, reason)
        except Exception as error:
            self._complain("could not record that the trial was told to stop", error)

    def _may_try(self) -> bool:
        return time.monotonic() >= self._not_before

    def _store(self) -> None:
        """Stores what is kept, in the order in which it was reported."""
        from optuna.exceptions import UpdateFinishedTrialError

        late = len(self._kept) - 1
        try:
            study = self._open()
            for step, value in list(self._kept.items()):
                study._storage.set_trial_intermediate_value(self._trial_id, step, value)
                del self._kept[step]
                if self._alone is not None:
                    self._alone.report(value, step)
        except UpdateFinishedTrialError as error:
            self._kept.clear()  # nobody will ever take them
            self._complain("could not store an intermediate value", error)
        except Exception as error:
            self._complain("could not store an intermediate value", error)
        else:
            self._to_judge = True
            if self._complained:
                self._complained = False
                lost = f"; {self._dropped} older ones are lost" if self._dropped else ""
                log.warning("trial %d can store values again, and has stored %d late%s", self.ticket.number, late, lost)

    def _open(self) -> Study:
        if self._study is not None:
            return self._study
        import optuna

        from graft.sweep.options import make_pruner
        from graft.sweep.started import started_trials
        from graft.sweep.storage import file_of, open_storage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = make_pruner(self.ticket.pruner)
        storage = self.ticket.storage
        opened = open_storage(storage) if file_of(storage) is not None else open_storage(storage, REACH_SECONDS)
        study = optuna.load_study(
            study_name=self.ticket.study,
            storage=started_trials(opened),
            pruner=pruner,
            # The controller samples. This one is never asked, and costs nothing to make.
            sampler=optuna.samplers.RandomSampler(),
        )
        self._trial_id = study._storage.get_trial_id_from_study_id_trial_number(
            study._study_id, self.ticket.trial_number
        )
        if self.ticket.alone and len(self.ticket.directions) == 1:
            # Pruners compare within a cell, and this trial is all of its cell.
            self._alone = optuna.create_study(direction=study.direction, pruner=pruner).ask()
        self._study = study
        return study

    def _complain(self, what: str, error: Exception) -> None:
        self._not_before = time.monotonic() + TRY_AGAIN_SECONDS
        if not self._complained:
            log.warning("trial %d %s: %s: %s", self.ticket.number, what, type(error).__name__, error)
            self._complained = True
