"""A run as far as its tags tell, however the record was read. Needs no MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.errors import FatalError
from graft.suggestions import did_you_mean

PROCESS_TAG = "graft.process"
DIRECTORY_TAG = "graft.directory"
REPORT_TAG = "graft.report"
"""Of a sweep: the page that was written about it last."""
OBJECTIVES_TAG = "graft.objectives"
"""Of a sweep: what it optimises, as JSON: ``minimize`` or ``maximize`` by the metric's name."""

LONGEST_NUMBER = 9  # digits


def quoted(value: str) -> str:
    """`value` as MLflow's searches take it.

    Raises:
        ValueError: if they can take it in neither quotation mark; the text is the reason.
    """
    if value.endswith("\\"):
        raise ValueError("MLflow cannot search for what ends with a backslash")
    marks = [mark for mark in ("'", '"') if mark not in value]
    if not marks:
        raise ValueError("MLflow cannot search for what has both kinds of quotation marks")
    return f"{marks[0]}{value}{marks[0]}"


def trial_number(tag: str | None) -> int | None:
    """What a tag such as ``graft.trial`` says; None if that is no number of a trial, because the record was edited."""
    return int(tag) if tag is not None and tag.isdecimal() and len(tag) <= LONGEST_NUMBER else None


@dataclass(frozen=True)
class TaggedRun:
    """One run as far as its tags tell.

    Attributes:
        run_id: MLflow's.
        name: What MLflow's pages call it.
        status: MLflow's, such as RUNNING.
        artifacts: Where its artifacts are, a path or a URI.
        tags: Those that Graft set, with their names.
    """

    run_id: str
    name: str
    status: str
    artifacts: str
    tags: Mapping[str, str]

    @property
    def kind(self) -> str:
        """`sweep`, `trial`, `single` or `rerun`; "" for a run that Graft did not make."""
        return self.tags.get("graft.kind", "")

    @property
    def sweep(self) -> str:
        """The sweep that it is, or is a trial of; "" for others."""
        return self.tags.get("graft.sweep", "")

    @property
    def overrides(self) -> str:
        """As they are typed in a shell."""
        return self.tags.get("graft.overrides", "")

    @property
    def directory(self) -> str:
        """Its folder, with its checkpoints; "" if it was not recorded."""
        return self.tags.get(DIRECTORY_TAG, "")

    @property
    def process(self) -> Mapping[str, Any] | None:
        """`host`, `pid` and `started` of the process that it runs in, or None if that was not recorded."""
        try:
            process = json.loads(self.tags.get(PROCESS_TAG, ""))
        except (ValueError, RecursionError):
            return None
        return process if isinstance(process, dict) and {"host", "pid", "started"} <= process.keys() else None


class NoSuchExperiment(FatalError):
    """The store has no experiment of this name.

    Args:
        name: The one that is not there.
        where: The tracking URI.
        there: The experiments that there are.

    Attributes:
        others: Those of them that somebody made; MLflow makes the first one.
    """

    def __init__(self, name: str, where: str, there: Sequence[str]) -> None:
        listed = (", ".join(there) or "none") + did_you_mean(name, there)
        super().__init__(f"There is no MLflow experiment {name} at {where}; there are: {listed}")
        self.others = tuple(other for other in there if other != "Default")
