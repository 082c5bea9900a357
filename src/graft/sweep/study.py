"""The studies of one sweep: created once, claimed from, finished, resumed and joined.

A sweep is a study of its name. If trials are sampled in several cells, each cell has a study of its
own, `NAME/CELL`, and the first holds only the sweep's attributes; otherwise it holds the trials.
Every trial exists from the start, as WAITING, so its number never changes and none can be lost or
made twice: what two controllers do is to take trials from WAITING to RUNNING, one at a time.

What changes the state of a trial is a step under the controllers' lock, which looks first: whether
the trial is there to be taken, or still this controller's own. On a database server such a step may
be taken a second time after it was carried out, because the connection was lost before that was
known; so it also recognises its own work.

The attributes of the sweep's study: `graft.identity` (what it may be resumed with),
`graft.directory`, `graft.context` (from the observer), `graft.finished`, and for each controller
`graft.controller.ID`. That of a cell's: `graft.cell`. Those of a trial: `graft.number`, `graft.owner`
(a controller's ID, or None), `graft.attempt`, `graft.deaths`, `graft.told` (why its job was told to
stop, where it could not say so itself), `graft.failure` and `graft.message`.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from graft.sweep.distributions import grid_distribution, grid_param, suggest
from graft.sweep.identity import Identity
from graft.sweep.liveness import end_leftover_workers
from graft.sweep.options import SEQUENCE_SAMPLERS, SweepOptions, make_pruner, make_sampler
from graft.sweep.outcome import Outcome, State
from graft.sweep.presence import Presence
from graft.sweep.reporting import ATTEMPT, OWNER, TOLD_ATTRIBUTE
from graft.sweep.space import Cell, Plain, Space
from graft.sweep.started import started_trials
from graft.sweep.storage import ControllerLock, file_of, open_storage

if TYPE_CHECKING:
    from graft.sweep.database import Patience

T = TypeVar("T")

IDENTITY, DIRECTORY, CONTEXT, FINISHED = (
    "graft.identity",
    "graft.directory",
    "graft.context",
    "graft.finished",
)
CELL = "graft.cell"
NUMBER, DEATHS = "graft.number", "graft.deaths"
FAILURE, MESSAGE = "graft.failure", "graft.message"

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
}


@dataclass
class Claimed:
    """A trial that this controller runs.

    Attributes:
        number: In the whole sweep.
        cell: Where it lies.
        study: Name of the study that holds it, and `trial_number` its number there.
        trial_id: The storage's name for it.
        params: Sampled values by key.
        attempt: From 0.
        deaths: How often its worker died.
        overrides: Of the task.
    """

    number: int
    cell: Cell
    study: str
    trial_number: int
    trial_id: int
    params: Mapping[str, Plain]
    attempt: int = 0
    deaths: int = 0
    overrides: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.overrides = tuple(self.cell.overrides(self.params))


@dataclass(frozen=True)
class Record:
    """A trial as the study has it.

    Attributes:
        number: In the whole sweep.
        state: One of `STATES`.
        values: One for each objective; of a pruned trial its last report, if there was one; else none.
        overrides: Of the task; empty as long as values are still to be sampled.
        cause: Of a failure; see `graft.sweep.outcome.Outcome`.
    """

    number: int
    state: str
    values: tuple[float, ...]
    overrides: tuple[str, ...]
    cause: str | None


class SweepStudy:
    """The studies of one sweep, for one controller. Used from one thread only, as Optuna's storages are.

    Make one with `graft.sweep.opening.open_sweep`. Where a database server does not answer and nobody waits for it,
    every method but `presence.leave` raises `DatabaseFailed`.

    Args:
        name: Of the sweep.
        storage: As `resolve_storage` returned it.
        space, options: Of the command.
        existing: The sweep was created before.

    Attributes:
        controller: ID of this controller.
        presence: How it shows the others that it lives.
        resumed: As `existing`.
    """

    def __init__(
        self,
        *,
        name: str,
        storage: str,
        space: Space,
        options: SweepOptions,
        existing: bool,
    ) -> None:
        self.name = name
        self.storage = storage
        self.resumed = existing
        self._opened = open_storage(storage)
        self._lock = ControllerLock(storage, self._opened, name)
        self._space = space
        self._options = options
        self.controller = uuid.uuid4().hex[:12]
        self.presence = Presence(
            lambda: self._root, self.controller, silent=lambda: getattr(self._opened, "silent", False)
        )
        self._mine: dict[int, Claimed] = {}
        # A study a cell only where a sampler has to learn within it.
        self._one_study = space.pure_grid or len(space.cells) == 1
        self._positions = list(_positions(space, options.n_trials, one_study=self._one_study))
        self._studies: dict[str, optuna.Study] = {}
        self._sampling_studies: dict[str, optuna.Study] = {}
        self._waiting: list[int] = []
        self._ids: dict[int, int] = {}
        self._grid_distributions: dict[str, BaseDistribution | None] = {}

    # -- The sweep ------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        return len(self._positions)

    @property
    def directory(self) -> Path:
        return Path(self._root.user_attrs[DIRECTORY])

    @property
    def context(self) -> dict[str, str]:
        return dict(self._root.user_attrs.get(CONTEXT, {}))

    @context.setter
    def context(self, context: Mapping[str, str]) -> None:
        if dict(context) != self.context:
            self._root.set_user_attr(CONTEXT, dict(context))

    @property
    def _root(self) -> optuna.Study:
        return self._study(self.name)

    def wait_with(self, patience: Patience | None) -> None:
        """From now on waits for a database server that does not answer, or, with None, no longer."""
        if file_of(self.storage) is None:
            self._opened.patience = patience  # type: ignore[attr-defined]

    def create(self, identity: Identity, directory: Path) -> None:
        """Makes what there is not yet of the sweep: its study, and the trials of its budget. The caller holds the lock.

        Args:
            identity: What a new sweep may be gone on with.
            directory: Where a new one's trials have their folders.
        """
        root = self._study(self.name, create=True)
        if not self.resumed:
            root.set_user_attr(DIRECTORY, str(directory))
            root.set_user_attr(IDENTITY, {"digest": identity.digest, "parts": dict(identity.parts)})
        # Also of an old one: its creator may have died halfway, and its budget may have grown.
        self._create_trials()

    def _create_trials(self) -> None:
        wanted: Counter[str] = Counter()
        for number, (cell, position) in enumerate(self._positions):
            name = self._study_name(cell)
            if name not in wanted:
                study = self._study(name, create=True)
                if name != self.name and CELL not in study.user_attrs:
                    study.set_user_attr(CELL, {key: value.plain for key, value in cell.grid.items()})
                wanted[name] = len(study.get_trials(deepcopy=False))
            if position >= wanted[name]:
                study = self._study(name)
                study._storage.create_new_trial(study._study_id, self._template(number, cell))
                wanted[name] += 1

    def _template(self, number: int, cell: Cell) -> FrozenTrial:
        """A trial that waits. On a grid it has its values already, for Optuna's plots and tables."""
        if cell.sampled:
            return create_trial(state=TrialState.WAITING, user_attrs={NUMBER: number})
        distributions = {key: d for key in cell.grid if (d := self._grid_distribution(key)) is not None}
        return create_trial(
            state=TrialState.WAITING,
            user_attrs={NUMBER: number},
            params={key: grid_param(cell.grid[key], d) for key, d in distributions.items()},
            distributions=distributions,
        )

    def _grid_distribution(self, key: str) -> BaseDistribution | None:
        if key not in self._grid_distributions:
            values = dict.fromkeys(cell.grid[key] for cell in self._space.cells if key in cell.grid)
            self._grid_distributions[key] = grid_distribution([value.plain for value in values])
        return self._grid_distributions[key]

    def records(self) -> list[Record]:
        """Every trial of the budget, by number."""
        records = []
        for number, cell, trial in self._trials():
            params = {key: trial.params.get(key) for key in cell.sampled}
            complete = all(key in trial.params for key in cell.sampled)
            records.append(
                Record(
                    number,
                    STATES[trial.state],
                    tuple(trial.values or ()),
                    tuple(cell.overrides(params)) if complete else (),
                    trial.user_attrs.get(FAILURE),
                )
            )
        return records

    def is_done(self) -> bool:
        """Whether all of its trials are finished."""
        return all(trial.state.is_finished() for _, _, trial in self._trials())

    def mark_finished(self) -> None:
        """Says that nothing is left of the sweep, so that its command begins another one. May be called twice."""
        if not self._root.user_attrs.get(FINISHED):
            self._root.set_user_attr(FINISHED, True)

    # -- Trials ---------------------------------------------------------------------------------

    def claim(self) -> Claimed | None:
        """Takes the next trial that waits, or None if there is none.

        Its sampled values are chosen now, so that they rest on all that is known now.
        """
        while self._waiting or self._refill():
            number = heapq.heappop(self._waiting)
            taken = self._under_lock(partial(self._take, number))
            if taken is not None:
                claimed = self._mine[number] = self._claimed(number, *taken)
                return claimed
        return None

    def free_orphans(self) -> int:
        """Puts trials whose controllers are dead back to WAITING, and says how many.

        Whoever claims them next goes on from their checkpoints.
        """
        suspects = [
            number
            for number, _, trial in self._trials((TrialState.RUNNING,))
            if trial.user_attrs.get(OWNER) != self.controller
        ]
        if not suspects:
            return 0
        freed = self._under_lock(partial(self._free, suspects))
        for number in freed:
            if number not in self._mine:
                heapq.heappush(self._waiting, number)
        return len(freed)

    def owns(self, claimed: Claimed) -> bool:
        """Whether a trial that was claimed is still this controller's.

        It is not once another one took this for dead: because it was suspended, or cut off from the database.
        """
        return self._is_ours(self._opened_for(claimed.number).get_trial(claimed.trial_id), claimed)

    def drop(self, claimed: Claimed) -> None:
        """Leaves a trial that is not this controller's any more to whoever has it now."""
        self._mine.pop(claimed.number, None)

    def again(self, claimed: Claimed) -> Claimed | None:
        """The next attempt of a trial whose worker died; None if it is not this controller's any more."""
        if not self._under_lock(partial(self._count_death, claimed)):
            return None
        claimed.deaths += 1
        claimed.attempt += 1
        return claimed

    def finish(self, claimed: Claimed, outcome: Outcome, unstored: Sequence[tuple[int, float]] = ()) -> bool:
        """Records a final outcome, or puts an interrupted trial back.

        Args:
            claimed: The trial.
            outcome: What becomes of it.
            unstored: Intermediate values that the job could not store itself, by step.

        Returns:
            Whether the trial was still this controller's; otherwise nothing was recorded.
        """
        recorded = self._under_lock(partial(self._finish, claimed, outcome, unstored))
        self.drop(claimed)
        if recorded and outcome.state == State.INTERRUPTED:
            # Before those that have not begun, or a sweep whose places are taken away has many half done.
            heapq.heappush(self._waiting, claimed.number)
        return recorded

    def told(self, claimed: Claimed) -> str | None:
        """What the job was told, if it left that in the study because it had no other way."""
        told = self._opened_for(claimed.number).get_trial(claimed.trial_id).user_attrs.get(TOLD_ATTRIBUTE)
        return None if told is None else str(told)

    # -- Steps under the lock -------------------------------------------------------------------

    def _under_lock(self, step: Callable[[], T]) -> T:
        tries = 0

        def look_anew() -> T:
            nonlocal tries
            tries += 1
            if tries > 1:
                # What the caches hold may have been taken back with the transaction.
                self._studies.clear()
                self._sampling_studies.clear()
            return step()

        return self._lock(look_anew)

    def _take(self, number: int) -> tuple[int, int] | None:
        """Takes a trial from WAITING to RUNNING; its attempt and deaths, or None if it does not wait."""
        storage, trial_id = self._opened_for(number), self._ids[number]
        trial = storage.get_trial(trial_id)
        before = trial.user_attrs
        attempt, deaths = int(before.get(ATTEMPT, 0)), int(before.get(DEATHS, 0))
        if trial.state == TrialState.RUNNING and before.get(OWNER) == self.controller:
            return attempt, deaths  # taken by the step whose connection was lost
        try:
            if trial.state != TrialState.WAITING or not storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                return None
        except UpdateFinishedTrialError:
            return None
        storage.set_trial_user_attr(trial_id, OWNER, self.controller)
        if OWNER in before:
            # Whoever owned it before, and however that ended: this is one attempt more. A first attempt
            # is not written down, for most trials have no other.
            attempt += 1
            storage.set_trial_user_attr(trial_id, ATTEMPT, attempt)
        if TOLD_ATTRIBUTE in before:
            # What an earlier attempt was told says nothing about this one.
            storage.set_trial_user_attr(trial_id, TOLD_ATTRIBUTE, None)
        return attempt, deaths

    def _free(self, suspects: Sequence[int]) -> list[int]:
        # Under the lock nobody is between claiming a trial and owning it.
        others = self.presence.others_alive()
        freed = []
        for number in suspects:
            storage, trial_id = self._opened_for(number), self._ids[number]
            trial = storage.get_trial(trial_id)
            owner = trial.user_attrs.get(OWNER)
            if trial.state == TrialState.RUNNING and owner not in others and owner != self.controller:
                if owner is not None:
                    end_leftover_workers(self.presence.shown_by(owner))
                self._put_back(storage, trial_id)
                freed.append(number)
        return freed

    def _count_death(self, claimed: Claimed) -> bool:
        storage, trial_id = self._opened_for(claimed.number), claimed.trial_id
        trial = storage.get_trial(trial_id)
        # Its attempt may have been counted already by the step whose connection was lost.
        if trial.state != TrialState.RUNNING or trial.user_attrs.get(OWNER) != self.controller:
            return False
        storage.set_trial_user_attr(trial_id, DEATHS, claimed.deaths + 1)
        storage.set_trial_user_attr(trial_id, ATTEMPT, claimed.attempt + 1)
        return True

    def _finish(self, claimed: Claimed, outcome: Outcome, unstored: Sequence[tuple[int, float]]) -> bool:
        storage, trial_id = self._opened_for(claimed.number), claimed.trial_id
        trial = storage.get_trial(trial_id)
        if not self._is_ours(trial, claimed):
            # An interrupted trial that waits is as it should be, whoever put it back.
            return outcome.state == State.INTERRUPTED and trial.state == TrialState.WAITING
        if trial.state.is_finished():
            return True  # by the step whose connection was lost
        for step, value in unstored:
            storage.set_trial_intermediate_value(trial_id, step, value)
        if outcome.state == State.INTERRUPTED:
            self._put_back(storage, trial_id)
            return True
        if outcome.state == State.FAILED:
            storage.set_trial_user_attr(trial_id, FAILURE, outcome.cause)
            storage.set_trial_user_attr(trial_id, MESSAGE, outcome.message)
        study = self._study(claimed.study)
        study.sampler = self._sampler(claimed.cell, claimed.trial_number)
        match outcome.state:
            case State.COMPLETE:
                study.tell(claimed.trial_number, list(outcome.values))
            case State.PRUNED:
                study.tell(claimed.trial_number, state=TrialState.PRUNED)
            case _:
                study.tell(claimed.trial_number, state=TrialState.FAIL)
        return True

    @staticmethod
    def _put_back(storage: BaseStorage, trial_id: int) -> None:
        """Makes a RUNNING trial wait again; without an owner it counts as an orphan."""
        storage.set_trial_user_attr(trial_id, OWNER, None)
        storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def _is_ours(self, trial: FrozenTrial, claimed: Claimed) -> bool:
        # Only its owner finishes a trial, so one that is finished may be this controller's as well.
        attributes = trial.user_attrs
        return (
            trial.state != TrialState.WAITING
            and attributes.get(OWNER) == self.controller
            and int(attributes.get(ATTEMPT, 0)) == claimed.attempt
        )

    # -- What a claimed trial is ----------------------------------------------------------------

    def _claimed(self, number: int, attempt: int, deaths: int) -> Claimed:
        cell, position = self._positions[number]
        trial_id = self._ids[number]
        name = self._study_name(cell)
        params = self._sample(name, cell, position, trial_id)
        return Claimed(
            number=number,
            cell=cell,
            study=name,
            trial_number=position,
            trial_id=trial_id,
            params=params,
            attempt=attempt,
            deaths=deaths,
        )

    def _sample(self, name: str, cell: Cell, position: int, trial_id: int) -> dict[str, Plain]:
        """Values for the sampled keys; a trial that has some already keeps them."""
        if not cell.sampled:
            return {}
        study = self._sampling_study(name)
        study.sampler = self._sampler(cell, position)
        study._thread_local.cached_all_trials = None
        trial = optuna.Trial(study, trial_id)
        return {key: suggest(trial, key, part) for key, part in cell.sampled.items()}

    def _sampler(self, cell: Cell, position: int) -> optuna.samplers.BaseSampler:
        """A sampler for one trial.

        Each trial has a seed of its own, made from the sweep's: a sampler made anew by a resumed or a
        second controller would otherwise draw again what was drawn before.
        """
        part, seed = self._options.sampler, self._options.seed
        if seed is not None and part.name not in SEQUENCE_SAMPLERS:
            digest = hashlib.sha256(f"{seed}/{cell.label}/{position}".encode()).digest()
            seed = int.from_bytes(digest[:4], "big")
        return make_sampler(part, seed=seed)

    # -- Optuna ---------------------------------------------------------------------------------

    def _study_name(self, cell: Cell) -> str:
        return self.name if self._one_study else f"{self.name}/{cell.label}"

    def _study(self, name: str, *, create: bool = False) -> optuna.Study:
        if name not in self._studies:
            pruner = make_pruner(self._options.pruner.plain() if self._options.pruner else None)
            sampler = make_sampler(self._options.sampler, seed=self._options.seed)
            if create:
                self._studies[name] = optuna.create_study(
                    storage=self._opened,
                    study_name=name,
                    directions=[StudyDirection[name.upper()] for name in self._options.directions],
                    sampler=sampler,
                    pruner=pruner,
                    load_if_exists=True,
                )
            else:
                self._studies[name] = optuna.load_study(
                    storage=self._opened, study_name=name, sampler=sampler, pruner=pruner
                )
        return self._studies[name]

    def _sampling_study(self, name: str) -> optuna.Study:
        """A study without the trials that wait: no sampler learns from them, and a database reads all each time."""
        if name not in self._sampling_studies:
            usual = self._study(name)
            self._sampling_studies[name] = optuna.load_study(
                storage=started_trials(self._opened), study_name=name, sampler=usual.sampler, pruner=usual.pruner
            )
        return self._sampling_studies[name]

    def _opened_for(self, number: int) -> BaseStorage:
        """The storage as Optuna's studies see it, with their cache in front of a database."""
        return self._study(self._study_name(self._positions[number][0]))._storage

    def _refill(self) -> bool:
        """Looks for trials that wait, and whether there are any."""
        # One that was taken from this controller and waits again must wait until its job here has ended.
        waiting = (number for number, _, _ in self._trials((TrialState.WAITING,)))
        self._waiting = [number for number in waiting if number not in self._mine]
        heapq.heapify(self._waiting)
        return bool(self._waiting)

    def _trials(self, states: Sequence[TrialState] | None = None) -> Iterator[tuple[int, Cell, FrozenTrial]]:
        """Trials of the budget with their numbers in the sweep and their cells."""
        by_study: dict[str, list[FrozenTrial]] = {}
        for number, (cell, position) in enumerate(self._positions):
            name = self._study_name(cell)
            if name not in by_study:
                by_study[name] = self._study(name).get_trials(deepcopy=False)
            if position < len(by_study[name]):
                trial = by_study[name][position]
                self._ids[number] = trial._trial_id
                if states is None or trial.state in states:
                    yield number, cell, trial


def _positions(space: Space, n_trials: int | None, *, one_study: bool) -> Iterator[tuple[Cell, int]]:
    """Cell and position in its study for each number of the sweep.

    Round by round over the cells, so that all of them make progress, and so that numbers stay what
    they are when the budget grows.
    """
    budgets = [(cell, space.trials_in(cell, n_trials)) for cell in space.cells]
    numbers = itertools.count()
    for position in range(max((budget for _, budget in budgets), default=0)):
        for cell, budget in budgets:
            if position < budget:
                yield cell, next(numbers) if one_study else position
