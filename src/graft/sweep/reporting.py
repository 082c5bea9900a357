"""How a running trial reaches its study: from our worker, from another host, from any launcher."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.trial import Session, StopReason, Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial as OptunaTrial

log = logging.getLogger(__name__)

TOLD_ATTRIBUTE = "graft.told"


@dataclass(frozen=True)
class Ticket:
    """All that a process needs to act for a trial, as plain data.

    Attributes:
        sweep, number, attempt, directory, context: See `graft.trial.Trial`.
        storage: Storage as the user may write it, with absolute paths.
        study: Name of the Optuna study that holds the trial; a cell's, where the sweep has several.
        trial_number: Number of the trial in that study.
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
    end because a database was restarted. It is logged once.
    """

    ticket: Ticket
    _study: Study | None = field(default=None, init=False)
    _trial_id: int = field(default=-1, init=False)
    _alone: OptunaTrial | None = field(default=None, init=False)
    _reported: bool = field(default=False, init=False)
    _complained: bool = field(default=False, init=False)

    def report(self, step: int, value: float) -> None:
        try:
            study = self._open()
            study._storage.set_trial_intermediate_value(self._trial_id, step, value)
            if self._alone is not None:
                self._alone.report(value, step)
            self._reported = True
        except Exception as error:
            self._complain("could not store an intermediate value", error)

    def should_prune(self) -> bool:
        """Whether the pruner gives the trial up, judged once for each report."""
        if self.ticket.pruner is None or not self._reported:
            return False
        self._reported = False
        try:
            study = self._open()
            if self._alone is not None:
                return self._alone.should_prune()
            return study.pruner.prune(study, study._storage.get_trial(self._trial_id))
        except Exception as error:
            self._complain("could not ask the pruner", error)
            return False

    def record_told(self, reason: StopReason) -> None:
        """Leaves what the job was told in the study, where no channel to the controller exists."""
        try:
            self._open()._storage.set_trial_user_attr(self._trial_id, TOLD_ATTRIBUTE, reason)
        except Exception as error:
            self._complain("could not record that the trial was told to stop", error)

    def _open(self) -> Study:
        if self._study is not None:
            return self._study
        import optuna

        from graft.sweep.options import make_pruner
        from graft.sweep.started import started_trials
        from graft.sweep.storage import open_storage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = make_pruner(self.ticket.pruner)
        study = optuna.load_study(
            study_name=self.ticket.study,
            storage=started_trials(open_storage(self.ticket.storage)),
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
        if not self._complained:
            log.warning("trial %d %s: %s: %s", self.ticket.number, what, type(error).__name__, error)
            self._complained = True
