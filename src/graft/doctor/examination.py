"""All that is looked at, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from graft.config import TrackingConfig
from graft.doctor.cache import check_cache
from graft.doctor.installation import check_installation, install_command
from graft.doctor.locks import check_locks
from graft.doctor.machine import check_machine
from graft.doctor.records import check_database, check_journal, check_unsent, journal_file
from graft.doctor.report import Check
from graft.doctor.runs import check_runs
from graft.errors import ConfigError


def examine(tracking: TrackingConfig, *, close_dead: bool) -> Iterator[Check]:
    """Looks at everything, and goes on where one thing cannot be looked at.

    Args:
        tracking: The MLflow store and experiment that is looked at.
        close_dead: Mark dead runs as interrupted; nothing is changed without it.
    """
    yield from _as_far_as_it_goes("installed", check_installation)
    yield from _as_far_as_it_goes("machine", check_machine)
    yield from _as_far_as_it_goes("locks", lambda: [check_locks()])
    yield from _as_far_as_it_goes("mlflow", lambda: _check_record(tracking, close_dead))
    yield from _as_far_as_it_goes("unsent", lambda: [check_unsent()])
    yield from _as_far_as_it_goes("optuna", lambda: [check_journal(journal_file())])
    yield from _as_far_as_it_goes("cache", check_cache)


def _check_record(tracking: TrackingConfig, close_dead: bool) -> Iterator[Check]:
    if tracking.uri.startswith("sqlite:///"):
        check, readable = check_database(Path(tracking.uri.removeprefix("sqlite:///")))
        yield check
        if not readable:
            return
    yield from check_runs(tracking, close_dead=close_dead)


def _as_far_as_it_goes(name: str, look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except ModuleNotFoundError as error:
        text = f"cannot be looked at: {error.name} is not installed"
        yield Check(name, "problem", text, install_command())
    except (ConfigError, OSError) as error:
        yield Check(name, "problem", f"cannot be looked at: {error}")
