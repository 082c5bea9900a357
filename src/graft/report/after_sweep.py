"""The report that a sweep leaves when it ends."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from graft.again import graft_command
from graft.config import TrackingConfig

if TYPE_CHECKING:
    from graft.tracking.mlflow_store import Store

log = logging.getLogger(__name__)


def get_ready() -> None:
    """Imports what `write_after_sweep` needs: best done while workers of this machine import what they need."""
    with contextlib.suppress(Exception):  # whoever writes is told, and tells
        from graft.report import written  # noqa: F401


def write_after_sweep(store: Store, sweep: str, parent_run_id: str) -> None:
    """Writes the report of a sweep that has just ended; says so if it cannot, and how to have it later."""
    try:
        from graft.report.written import write_for  # in here: nothing of it may take the sweep with it

        print(f"Report: {write_for(store, parent_run_id).page}")
    except Exception as error:
        log.debug("Why the report could not be made", exc_info=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("The report could not be made: %s. To make it later: %s", reason, _later(store, sweep))


def _later(store: Store, sweep: str) -> str:
    try:
        options = TrackingConfig(uri=store.uri, artifacts=None, experiment=store.experiment_name).options()
    except Exception:  # the store may be what failed
        options = []
    return graft_command("report", sweep, *options)
