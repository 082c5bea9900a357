"""The trials of a study in a database that have started: what a pruner compares with, and no more.

Every trial of a sweep exists from its beginning, and most of them wait. Optuna's cache reads each that is not finished
anew whenever a pruner looks at the others: with 10,000 of them more than a second of computing for every report.
"""

from __future__ import annotations

from functools import lru_cache

from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.trial import TrialState

STARTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@lru_cache(maxsize=8)
def started_trials(opened: BaseStorage) -> BaseStorage:
    """`opened`, for somebody to whom trials that wait do not matter.

    The same for all who ask, so that a warm worker reads a finished trial once, and not in each of its own.
    """
    return _StartedTrials(opened) if isinstance(opened, RDBStorage) else opened


class _StartedTrials(_CachedStorage):
    """Optuna's cache, without the trials that wait."""

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._known: dict[int, int] = {}

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        with self._lock:
            study = self._studies.setdefault(study_id, _StudyInfo())
            trials = self._backend._get_trials(
                study_id,
                states=STARTED,
                included_trial_ids=study.unfinished_trial_ids,
                trial_id_greater_than=study.last_finished_trial_id,
            )
            self._add_trials_to_cache(study_id, trials)
            for trial in trials:
                if trial.state.is_finished():
                    study.unfinished_trial_ids.discard(trial._trial_id)
                else:
                    study.unfinished_trial_ids.add(trial._trial_id)
            # Trials start in the order of their numbers, but one that was interrupted may wait among those that
            # have started. So only up to the first that is not known does nothing new come.
            known = self._known.get(study_id, 0)
            while known in study.trials:
                study.last_finished_trial_id = study.trials[known]._trial_id
                known += 1
            self._known[study_id] = known
