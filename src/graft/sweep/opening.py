"""Which sweep a command means: the one of a name, the one that it left unfinished, or a new one."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from graft.disk import refusal_of, unwritable_of
from graft.errors import ConfigError
from graft.sweep.identity import Identity
from graft.sweep.options import SweepOptions
from graft.sweep.space import Space
from graft.sweep.storage import ControllerLock, open_storage
from graft.sweep.study import DIRECTORY, FINISHED, IDENTITY, SweepStudy


def open_sweep(
    *, storage: str, job_name: str, space: Space, options: SweepOptions, identity: Identity, directory: Path
) -> SweepStudy:
    """Opens the sweep that is meant, or creates it.

    With a study name it is the one of that name. Without, it is the latest unfinished sweep of the
    same identity, or a new one.

    Args:
        storage: As `resolve_storage` returned it.
        job_name: What the name of a new sweep begins with.
        space: What the command varies.
        options: The command's settings.
        identity: What the command's sweep is.
        directory: Where a new sweep's trials have their folders; an old one keeps its own.

    Raises:
        ConfigError: if the storage cannot be opened, or the named sweep exists and is another one; the differences
            are shown; or if the folder of a new one cannot be made.
        DatabaseFailed: if the database server does not answer.
        Unwritable: if the storage's file cannot be written, or the disk of a new sweep's folder takes nothing.
    """
    opened = open_storage(storage)

    def open_or_create() -> SweepStudy:
        oldest_first = sorted(opened.get_all_studies(), key=lambda study: study._study_id)
        summaries = {study.study_name: study for study in oldest_first}
        name = options.study_name
        if name is None:
            unfinished = [
                study.study_name
                for study in summaries.values()
                if _digest(study) == identity.digest and not study.user_attrs.get(FINISHED)
            ]
            name = unfinished[-1] if unfinished else _new_name(job_name, summaries)
        existing = name in summaries and not _is_stillborn(opened, summaries[name])
        if existing:
            _refuse_if_another(name, summaries[name], identity, options)
        sweep = SweepStudy(name=name, storage=storage, space=space, options=options, existing=existing)
        if existing:
            _refuse_if_moved(name, sweep.directory, directory)
        else:
            _make(directory)  # before there is a study: one without any trial would be left
        sweep.create(identity, directory)
        sweep.presence.join()
        return sweep

    return ControllerLock(storage, opened)(open_or_create)


def _digest(study: Any) -> str | None:
    """Of what a study is a sweep of; None for one that Graft did not make, whatever its attributes hold."""
    recorded = study.user_attrs.get(IDENTITY)
    return recorded.get("digest") if isinstance(recorded, dict) else None


def _is_stillborn(opened: BaseStorage, study: Any) -> bool:
    """Whether `study` was created by a controller that died before it could say what the sweep is."""
    return not study.user_attrs.keys() - {DIRECTORY} and opened.get_n_trials(study._study_id) == 0


def _refuse_if_another(name: str, study: Any, identity: Identity, options: SweepOptions) -> None:
    recorded = study.user_attrs.get(IDENTITY)
    if _digest(study) is None:
        raise ConfigError(
            f"hydra.sweeper.study_name={name} exists in {options.storage or 'the storage'} and is not a sweep of "
            "Graft's. Allowed: a new name, or the name of a sweep to go on with."
        )
    if recorded["digest"] != identity.digest:
        raise ConfigError(
            f"hydra.sweeper.study_name={name} is a sweep over something else, so it cannot be gone on with:\n"
            + "\n".join(identity.differences(recorded["parts"]))
            + "\nAllowed: the command that started it, or a new name."
        )


def _refuse_if_moved(sweep: str, recorded: Path, fresh: Path) -> None:
    """Trials would else begin anew where the folder was, and their checkpoints lie where it is.

    Args:
        sweep: Its name.
        recorded: The sweep's folder as it was when it began.
        fresh: The folder that a sweep which begins now would have.

    Raises:
        ConfigError: if `recorded` is not there, and what ends alike lies beside `fresh`.
    """
    if recorded.exists():
        return
    for above, old in itertools.product(fresh.parents, recorded.parents):
        moved = above / recorded.relative_to(old)
        if above.name == old.name and above.name and moved.is_dir():
            while above.name == old.name and above.name:
                above, old = above.parent, old.parent
            raise ConfigError(
                f"The folder of the sweep {sweep}, {recorded}, was moved to {moved}, and its record names the old "
                f"place. Move it back, or make it known there, too: ln -s {shlex.quote(str(above))} "
                f"{shlex.quote(str(old))}"
            )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable_of(error, directory) or refusal_of(error) or error from None


def _new_name(job_name: str, taken: Mapping[str, Any]) -> str:
    base = f"{job_name}-{datetime.now():%Y%m%d-%H%M%S}"
    name, repetition = base, 2
    while name in taken:
        name, repetition = f"{base}-{repetition}", repetition + 1
    return name
